"""The code keeps to our words: one word for one thing, the field's own where it has one.

docs/explanation/words.md has the words we use, the table in CONTRIBUTING.md those we gave up. `LEFT` says how often a
given-up word is still found in a name or a docstring of the package. A number in it may only go down: rename, then
lower it.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "docker_rollback"
MODULES = {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}

GIVEN_UP = {
    "anew": r"anew",
    "aside": r"aside",
    "at rest": r"(at|to) rest|rest(s|ed|ing)",
    "bear": r"bears?|borne",
    "beside": r"beside",
    "bystander": r"bystanders?",
    "flux": r"flux",
    "former": r"formers?",
    "guest": r"guests?",
    "left out of account": r"left out of account",
    "look at": r"looks? at",
    "newcomer": r"newcomers?",
    "of which": r"of which",
    "set going": r"sets? going|setting going",
    "stranger": r"strangers?",
    "told": r"told",
    "whatever": r"whatever",
}
"""The words we gave up, each as a pattern of whole words in lower case."""

LEFT = {
    "aside": 22,
    "at rest": 18,
    "bear": 3,
    "beside": 11,
    "bystander": 4,
    "flux": 3,
    "former": 19,
    "guest": 7,
    "look at": 7,
    "of which": 1,
    "told": 13,
    "whatever": 2,
}
"""How often each may still be found. It only goes down; a word that is not here is gone."""

SAME_NAME = {"Run": 2}
"""The names that several classes have, and how many; the same rule."""


def _names(module: ast.Module) -> Iterator[str]:
    """Name everything that a module defines: classes, functions, parameters, variables and attributes."""
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def _docstrings(module: ast.Module) -> Iterator[str]:
    """Return the docstrings of a module and of all in it, those below variables included."""
    for node in ast.walk(module):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def _as_words(name: str) -> str:
    """Return a name as words: ``look_at_all`` and ``LookAtAll`` as "look at all"."""
    return re.sub(r"_+|(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()


def _count(module: ast.Module, path: str) -> Counter[str]:
    """Return how often each given-up word is in a module's names and docstrings."""
    texts = [_as_words(path.removesuffix(".py").replace("/", " "))]
    texts += [_as_words(name) for name in set(_names(module))]
    texts += [" ".join(text.split()).lower() for text in _docstrings(module)]
    return Counter(
        {word: sum(len(re.findall(rf"\b(?:{form})\b", text)) for text in texts) for word, form in GIVEN_UP.items()}
    )


COUNTS = {path: _count(module, path) for path, module in MODULES.items()}


@pytest.mark.parametrize("word", GIVEN_UP)
def test_a_word_that_we_gave_up_does_not_come_back(word: str) -> None:
    """A name or a docstring has the word that CONTRIBUTING.md gives in place of this one."""
    found = {path: counted[word] for path, counted in COUNTS.items() if counted[word]}
    assert sum(found.values()) <= LEFT.get(word, 0), f"{word!r} is used in {found}"


def test_the_words_that_we_gave_up_are_documented() -> None:
    """Whoever is refused a word finds in CONTRIBUTING.md what to say instead."""
    table = (ROOT / "CONTRIBUTING.md").read_text().split("## Words\n")[1].split("\n## ")[0]
    assert [word for word in GIVEN_UP if not re.search(rf"^\|.*\b{word}\b.*\|.*\|$", table, re.MULTILINE)] == []


def test_no_two_classes_have_one_name() -> None:
    """A class's name is enough to know which one is meant."""
    where = defaultdict(list)
    for path, module in MODULES.items():
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef):
                where[node.name].append(path)
    again = {name: paths for name, paths in where.items() if len(paths) > SAME_NAME.get(name, 1)}
    assert again == {}


def test_no_two_modules_have_names_that_look_alike() -> None:
    """The names of two modules differ by more than a letter or an underscore; equal ones are told apart by folder."""
    paths = [path for path in MODULES if not path.endswith(("__init__.py", "__main__.py"))]
    assert [pair for pair in combinations(paths, 2) if _are_alike(*pair)] == []


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("_a/helper.py", "_a/helpers.py", True),
        ("_a/live_pass.py", "_b/livepass.py", True),
        ("clock.py", "_clock.py", True),
        ("_a/port.py", "_a/part.py", True),
        ("_a/errors.py", "_b/errors.py", False),
        ("_a/capture.py", "_a/captures_of.py", False),
    ],
)
def test_names_that_look_alike_are_seen(one: str, other: str, *, alike: bool) -> None:
    """The test itself knows a letter more, less or other."""
    assert _are_alike(one, other) is alike


def _are_alike(one: str, other: str) -> bool:
    """Say whether the names of two modules differ, but by no more than a letter or underscores."""
    names = sorted((Path(one).stem, Path(other).stem), key=len)
    if names[0] == names[1]:
        return False
    short, long = (name.replace("_", "") for name in names)
    if len(short) == len(long):
        return sum(a != b for a, b in zip(short, long, strict=True)) <= 1
    return any(long[:place] + long[place + 1 :] == short for place in range(len(long)))
