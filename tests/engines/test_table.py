"""The table of engines tells each limit once, and takes its place in the README."""

from __future__ import annotations

from typing import Any

import pytest

from tests import table

STORAGE = "tests/integration/test_matrix.py::test_an_equal_container_is_made[storage-storage_size]"
MEMORY = "tests/integration/test_matrix.py::test_an_equal_container_is_made[resources-memory]"


def shown(*limits: str) -> dict[str, Any]:
    """Return what a run showed: one test passed, and one was left out for each of these limits."""
    return {
        "engine": {"version": "5.8", "api": "1.44", "storage": "overlay"},
        "passed": [MEMORY],
        "limits": {STORAGE + str(number): limit for number, limit in enumerate(limits)},
    }


def test_a_limit_is_told_once_whatever_id_an_engine_gave() -> None:
    """Podman names what it could not make by an id, another one each time."""
    said = 'creating layer with ID "{}": --storage-opt is supported only for overlay'
    kept = table.fold({"podman-5.8": shown(said.format("0f" * 32), said.format("72" * 32))})
    assert kept["podman-5.8"]["limits"] == ["creating layer: --storage-opt is supported only for overlay"]
    assert "all but 2 <sup>1</sup>" in table.render(kept)
    assert "\n2. " not in table.render(kept)


def test_the_table_takes_its_place() -> None:
    """What stands before and after it stays; a README without its marks is an error."""
    kept = table.fold({"podman-5.8": shown()})
    readme = f"before\n{table.BEGIN}\nan older one\n{table.END}\nafter"
    written = table.put_in(readme, kept)
    assert (written.startswith("before\n"), written.endswith("\nafter")) == (True, True)
    assert "| Tests | 1 of 1 |" in written
    assert "an older one" not in written
    with pytest.raises(ValueError, match="lacks"):
        table.put_in("no marks", kept)
