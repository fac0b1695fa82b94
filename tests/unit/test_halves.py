"""The tests run in two halves: no failure of one is lost, and a half without tests is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.halves import outcome

PROJECT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("codes", "whole"), [((0, 0), 0), ((0, 1), 1), ((2, 0), 2), ((5, 0), 0), ((0, 5), 0), ((5, 1), 1), ((5, 5), 5)]
)
def test_a_failure_of_a_half_is_one_of_the_whole(codes: tuple[int, int], whole: int) -> None:
    """Pytest ends with 5 if it has collected no test."""
    assert outcome(*codes) == whole


def test_both_halves_are_shown(tmp_path: Path) -> None:
    """One test of each half runs, and the words reach pytest."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = engine\n")
    (tmp_path / "test_two.py").write_text(
        "import pytest\n@pytest.mark.engine\ndef test_one(): pass\ndef test_other(): assert False\n"
    )
    words = (
        sys.executable,
        "-m",
        "tests.halves",
        "-p",
        "no:cacheprovider",
        f"--rootdir={tmp_path}",
        "-v",
        str(tmp_path),
    )
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "test_one PASSED" in done.stdout
    assert "test_other FAILED" in done.stdout
