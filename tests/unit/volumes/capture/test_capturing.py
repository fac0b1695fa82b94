"""A capture begins as soon as nobody writes any more: as the kernel tells it, or the engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from attrs import evolve

from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.capture.archive_options import ArchiveOptions
from docker_rollback._volumes.capture.volume_capture import VolumeCapture
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback.errors import ArchiveError
from tests.unit.volumes.live import reach_of


class HaltedError(Exception):
    """The test's own."""


@pytest.fixture
def root(field: Path) -> Path:
    """Give a folder with a file."""
    made = field / "root"
    made.mkdir()
    (made / "file").write_text("content")
    return made


@contextmanager
def captures(*folders: Path) -> Iterator[VolumeCapture]:
    """Give the capture of folders, which are small and have no base; the folders' names are those of the volumes."""
    parent = folders[0].parent
    store = BackupStore(parent / "store")
    reaches = [evolve(reach_of(one), volume=one.name, snapshot=str(parent / f"snapshot-{one.name}")) for one in folders]
    with store.draft("x") as draft, ExitStack() as writers:
        yield VolumeCapture(store, draft, reaches, writers, frozenset(), options=ArchiveOptions())


@pytest.fixture
def capture(root: Path) -> Iterator[VolumeCapture]:
    """Give the capture of a folder."""
    with captures(root) as capture:
        yield capture


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Give an event that is set when tar begins."""
    event, create = threading.Event(), gnu_tar.create

    def told(*words: object, **more: object) -> tuple[str, ...]:
        event.set()
        return create(*words, **more)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(gnu_tar, "create", told)
    return event


def never(_: str, __: threading.Event) -> bool:
    """Know nothing of who writes."""
    return False


def test_it_begins_when_all_have_ended(capture: VolumeCapture, begun: threading.Event) -> None:
    """It does not wait for the block."""
    with capture.capturing(lambda *_: True) as captured:
        assert begun.wait(60)
        captured()


def test_it_begins_at_rest_where_nothing_is_known_before(capture: VolumeCapture, begun: threading.Event) -> None:
    """The engine's word is enough."""
    with capture.capturing(never) as captured:
        assert not begun.wait(0.1)
        captured()
        assert begun.is_set()


def test_who_waits_for_an_end_is_told_that_it_is_sure(capture: VolumeCapture, begun: threading.Event) -> None:
    """The kernel's word may never come."""

    def waiting(_: str, sure: threading.Event) -> bool:
        assert sure.wait(60)
        return False

    with capture.capturing(waiting) as captured:
        captured()
        assert begun.is_set()


def test_a_block_that_fails_has_nothing_captured(capture: VolumeCapture, begun: threading.Event) -> None:
    """Its error comes out, and nobody waits."""
    with pytest.raises(HaltedError), capture.capturing(never):
        raise HaltedError
    assert not begun.is_set()


def test_a_capture_that_fails_fails_the_block(capture: VolumeCapture, root: Path) -> None:
    """Where it is waited for."""
    (root / "file").unlink()
    root.rmdir()
    with pytest.raises(ArchiveError), capture.capturing(lambda *_: True) as captured:
        captured()


def test_each_volume_waits_for_those_who_write_to_it_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that takes long to stop holds up only its own volumes."""
    slow = root.parent / "slow"
    slow.mkdir()
    begun, create = {"root": threading.Event(), "slow": threading.Event()}, gnu_tar.create

    def told(folder: str, *words: object, **more: object) -> tuple[str, ...]:
        begun[Path(folder).name].set()
        return create(folder, *words, **more)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(gnu_tar, "create", told)
    ended = threading.Event()
    with (
        captures(slow, root) as capture,
        capture.capturing(lambda volume, _: volume == "root" or ended.wait(60)) as captured,
    ):
        assert begun["root"].wait(60)
        assert not begun["slow"].wait(0.1)
        ended.set()
        assert begun["slow"].wait(60)
        captured()
