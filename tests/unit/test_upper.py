"""What a commit cannot keep of a writable layer is found where the layer can be seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from docker_rollback._model import NotCovered
from docker_rollback._upper import altered, lost_by_commit


def seen(upper: Path) -> tuple[NotCovered, ...]:
    """Return what is found in a folder that an inspection names as the writable layer."""
    return lost_by_commit({"GraphDriver": {"Data": {"UpperDir": str(upper)}}})


def test_a_plain_layer_loses_nothing(tmp_path: Path) -> None:
    """Ordinary files and links come back as they were."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "conf").write_text("x", encoding="utf-8")
    (tmp_path / "link").symlink_to("/nowhere")
    assert seen(tmp_path) == ()


def test_attributes_and_marks_of_deletion_are_found(tmp_path: Path) -> None:
    """A user attribute is lost, and a file whose name looks like the mark of a deletion."""
    (tmp_path / "tagged").write_text("x", encoding="utf-8")
    try:
        os.setxattr(tmp_path / "tagged", "user.colour", b"blue")
    except OSError:
        pytest.skip("this file system keeps no user attributes")
    (tmp_path / ".wh.hidden").write_text("x", encoding="utf-8")
    assert {gap.what for gap in seen(tmp_path)} == {"the file of /.wh.hidden", "the user attributes of /tagged"}


def test_a_long_list_ends(tmp_path: Path) -> None:
    """Twenty are named; the rest is said to exist."""
    for number in range(30):
        (tmp_path / f".wh.{number}").touch()
    found = seen(tmp_path)
    assert len(found) == 21
    assert found[-1].what.startswith("more")


@pytest.mark.parametrize("inspection", [{}, {"GraphDriver": None}, {"GraphDriver": {"Data": {"UpperDir": "/no/such"}}}])
def test_a_layer_that_cannot_be_seen_tells_nothing(inspection: dict[str, object]) -> None:
    """On another machine, or with another way of keeping layers, there is nothing to look at."""
    assert lost_by_commit(inspection) == ()
