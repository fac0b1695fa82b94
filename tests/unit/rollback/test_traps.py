"""The page of traps keeps its word: each is numbered, and each names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

from tests.integration.matrix import rows

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "explanation" / "traps.md"


def traps() -> list[list[str]]:
    """Return the cells of every row in the tables of the page."""
    lines = [line.strip() for line in PAGE.read_text().splitlines() if re.match(r"\| \d", line)]
    return [line.strip("|").split(" | ") for line in lines]


def held() -> dict[str, list[str]]:
    """Return what each trap names, by its number."""
    return {number.strip(): re.findall(r"`(\w+)`", last) for number, *_, last in traps()}


def known() -> set[str]:
    """Return the names of all tests, the contract's among them."""
    files = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "tests" / "contract" / "suite").glob("*.py")]
    return {name for file in files for name in re.findall(r"def (test_\w+)\(", file.read_text())}


def matrix(*, applications: bool) -> set[str]:
    """Return the names of the rows of the matrix; applications are there for what nobody thought of."""
    return {row.values[0].__name__ for row in rows() if applications or not str(row.id).startswith("applications-")}


def test_every_trap_is_held_by_tests_that_there_are() -> None:
    """A test that is renamed or goes takes its line with it, and no line is without one."""
    there = known() | matrix(applications=True)
    for number, names in held().items():
        assert names, f"trap {number} names no test"
        assert set(names) <= there, f"trap {number}: {sorted(set(names) - there)} is no test"


def test_the_traps_are_numbered() -> None:
    """From one on, without a gap."""
    assert [int(number) for number in held()] == list(range(1, len(traps()) + 1))


def test_every_row_of_the_matrix_holds_a_trap() -> None:
    """A row that stands for no line of the page would be one whose reason nobody knows."""
    named = {name for names in held().values() for name in names}
    assert matrix(applications=False) - named == set()
