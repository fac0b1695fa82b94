"""The tables of engines name each limit once, and are those of docs/engines.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import table

PROJECT = Path(__file__).parent.parent.parent

STORAGE = "tests/integration/test_matrix.py::test_an_equal_container_is_made[storage-storage_size]"
MEMORY = "tests/integration/test_matrix.py::test_an_equal_container_is_made[resources-memory]"


def shown(*limits: str) -> dict[str, Any]:
    """Return what a run showed: one test passed, and one was left out for each of these limits."""
    return {
        "engine": {"version": "5.8", "api": "1.44", "storage": "overlay"},
        "passed": [MEMORY],
        "limits": {STORAGE + str(number): limit for number, limit in enumerate(limits)},
    }


def test_ids_do_not_make_one_limit_many() -> None:
    """Podman's message has the id of a layer, another one each time."""
    said = 'creating layer with ID "{}": --storage-opt is supported only for overlay'
    kept = table.fold({"podman-5.8": shown(said.format("0f" * 32), said.format("72" * 32))})
    assert kept["podman-5.8"]["limits"] == ["creating layer: --storage-opt is supported only for overlay"]
    assert "all but 2 <sup>1</sup>" in table.page(kept)
    assert "\n2. " not in table.page(kept)


def test_a_table_is_written_between_its_markers() -> None:
    """The text before and after it stays; a text without the markers is an error."""
    readme = f"before\n{table.BEGIN}\nan older one\n{table.END}\nafter"
    assert table.put_in(readme, "new") == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter"
    with pytest.raises(ValueError, match="lacks"):
        table.put_in("no markers", "new")


def test_the_readme_has_a_row_for_each_engine() -> None:
    """A row has the version, whether the promises hold, and how many limits the engine has; no row is without root."""
    kept = table.fold({"podman-5.8": shown("one", "another"), table.WITHOUT_ROOT: shown()})
    for row in table.PROMISES:
        kept["podman-5.8"]["rows"][row] = {"passed": 1, "left out": 0, "limits": []}
    assert f"| Podman 5.8 | 5.8 | restored | [2]({table.PAGE}) |" in table.summary(kept)
    assert "without root" not in table.summary(kept)
    kept["podman-5.8"]["rows"][table.PROMISES[0]]["left out"] = 1
    assert "restored" not in table.summary(kept)


def test_the_tables_are_those_of_the_results(tmp_path: Path) -> None:
    """Nobody edited a table by hand, or forgot to write it: `python -m tests.table` changes nothing."""
    (tmp_path / table.PAGE).parent.mkdir(parents=True)
    for name in (table.RESULTS, table.README, table.PAGE):
        (tmp_path / name).write_text((PROJECT / name).read_text())
    table.write_tables(tmp_path)
    assert [
        name for name in (table.README, table.PAGE) if (tmp_path / name).read_text() != (PROJECT / name).read_text()
    ] == []
