"""Which files the labels of a container name, whatever is in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._capture.project_files import started_from, unusable_files
from tests.unit.town import labels

PREFIX = "com.docker.compose.project"
NAMING = ("working_dir", "config_files", "environment_file")


@given(named=st.dictionaries(st.sampled_from(NAMING), st.text() | st.text(alphabet="/.,\0a")))
def test_whatever_is_in_the_labels_of_a_container_ends_in_sentences(named: dict[str, str]) -> None:
    """No path of theirs makes the system's errors come through, and each is absolute, and named once."""
    files = started_from(labels("web") | {f"{PREFIX}.{key}": value for key, value in named.items()}, of_image=())
    assert len(set(files)) == len(files)
    assert all(path.startswith("/") and ".." not in path.split("/") for path in files)
    below = [path for path in files if not path.startswith(("/dev", "/proc", "/sys"))]
    assert len(list(unusable_files(below))) <= len(below) + 1


@pytest.mark.parametrize("label", NAMING)
def test_one_label_of_an_image_spoils_all(tmp_path: Path, label: str) -> None:
    """The folder of one and the path of another could meet in any file."""
    named = {f"{PREFIX}.working_dir": str(tmp_path), f"{PREFIX}.config_files": "a,b"}
    assert started_from(labels("web") | named, of_image=()) == (f"{tmp_path}/a", f"{tmp_path}/b")
    assert started_from(labels("web") | named, of_image=[f"{PREFIX}.{label}"]) == ()
