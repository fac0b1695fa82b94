"""The display for terminals, rendered to a string."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from docker_rollback import BackupStore, Progress, RollbackRequested, rollback
from docker_rollback.progress_rich import RichProgress
from tests.unit.shop import Shop


@pytest.fixture
def console() -> Console:
    """A terminal that writes into memory."""
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def shown(console: Console) -> str:
    """Return what was written."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_rollback_is_shown(tmp_path: Path, console: Console) -> None:
    """Each step by its words, each volume with its bytes, the update's own image as well."""
    shop = Shop(BackupStore(tmp_path / "store"))
    with (
        RichProgress(console) as display,
        rollback("shop", client=shop.engine, store=shop.store, verify=None, progress=display) as tx,
    ):
        tx.replace("shop", "shop:2")
        raise RollbackRequested
    text = shown(console)
    for words in (
        "quiescing shop",
        "capturing shop",
        "resuming shop",
        "storing the image of shop",
        "replacing shop",
        "fill volume 'orders'",
        "volume orders",
    ):
        assert words in text, words


def test_bytes_are_shown_with_what_is_expected(console: Console) -> None:
    """The bar ends where the archive does; names are shown to the letter."""
    with RichProgress(console) as display:
        display(Progress("data", "[red]orders", 512_000, expected=1_024_000))
        display(Progress("data", "[red]orders", 1_024_000, expected=1_024_000))
        display(Progress("data", "unknown", 7))
    text = shown(console)
    assert "volume [red]orders" in text
    assert "1.0/1.0 MB" in text
    assert "100%" in text
    assert "7 bytes" in text or "7/? bytes" in text
