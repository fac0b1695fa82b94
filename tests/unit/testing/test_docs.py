"""The page that tells people how to test their code is true: its tests pass."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "test-your-code.md"


def examples() -> dict[str, Callable[..., None]]:
    """Return the tests that the page's code defines."""
    namespace: dict[str, Any] = {"__name__": "example"}
    for source in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(source, str(PAGE), "exec"), namespace)
    return {name: value for name, value in namespace.items() if name.startswith("test_")}


def test_the_page_has_tests() -> None:
    """The page shows a good update, bad ones, time and failures."""
    assert len(examples()) == 5


@pytest.mark.parametrize("name", sorted(examples()))
def test_the_pages_tests_pass(name: str, tmp_path: Path) -> None:
    """What people copy from the page works."""
    test = examples()[name]
    test(**({"tmp_path": tmp_path} if "tmp_path" in inspect.signature(test).parameters else {}))
