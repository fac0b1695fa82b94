"""Runs the tests in two halves at once, those that use the engine and the others: ``python -m tests.halves WORDS``.

The words go to pytest. Each half takes one processor for about as long as the other. The tests of the engine stay
together, because they share the engine. The output of the others comes when both have ended.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Final

import pytest

_ALONE: Final = ("-m", "--pdb", "--trace")
"""Words with which one process runs: the first chooses tests by itself, the others need the terminal."""


def main(words: Sequence[str]) -> int:
    """Run the tests; return pytest's exit code, of two the one that tells of a failure."""
    command = (sys.executable, "-m", "pytest", *words)
    if any(word.startswith(_ALONE) for word in words):
        return subprocess.run(command, check=False).returncode
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen((*command, "-m", "not engine"), stdout=said, stderr=subprocess.STDOUT) as others,
    ):
        try:
            of_engine = subprocess.run((*command, "-m", "engine"), check=False).returncode
            others.wait()
        finally:
            others.terminate()
        said.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(said.read())
    return outcome(of_engine, others.returncode)


def outcome(*codes: int) -> int:
    """Return the exit code of several runs of which some may have had no test."""
    ran = [code for code in codes if code != pytest.ExitCode.NO_TESTS_COLLECTED]
    return next((code for code in ran if code != 0), 0 if ran else int(pytest.ExitCode.NO_TESTS_COLLECTED))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
