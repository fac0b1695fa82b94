"""Draws the rooms of the package and their imports, from the code as it is: ``{house}`` in a page."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from attrs import frozen
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PACKAGE = "docker_rollback"
ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "src" / PACKAGE
LAYERS = ROOT / "tests" / "test_architecture.py"

_WORDS, _BOX, _GAP, _ROW, _HEIGHT = 420, 108, 10, 48, 28
_SCREEN = 1200
"""The width of the picture, which is also that of a small screen."""


@frozen
class Room:
    """A module right below the package, or a folder of them.

    Attributes:
        name: the name of the module or folder.
        says: the first sentence of its docstring.
        uses: the names of the rooms that it imports.
    """

    name: str
    says: str
    uses: frozenset[str]


@frozen
class Layer:
    """Rooms that do not import each other.

    Attributes:
        says: what they are for.
        rooms: their names.
    """

    says: str
    rooms: tuple[str, ...]


def layers(test: Path = LAYERS) -> list[Layer]:
    """Return the layers, from the top, as the test that holds them lists them; the package's `__init__` aside."""
    for node in ast.parse(test.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "LAYERS":
            listed = ast.literal_eval(node.value)
            return [Layer(says, tuple(room for room in rooms if room != "__init__")) for says, rooms in listed]
    raise LookupError(f"{test} does not assign LAYERS")


def rooms(source: Path = SOURCE) -> dict[str, Room]:
    """Return the rooms of the package by name."""
    files: dict[str, list[Path]] = {}
    for path in sorted(source.rglob("*.py")):
        head = path.relative_to(source).parts[0].removesuffix(".py")
        if head != "__init__":  # it only passes names on
            files.setdefault(head, []).append(path)
    found = {}
    for name, paths in files.items():
        trees = {path: ast.parse(path.read_text()) for path in paths}
        face = source / name / "__init__.py"
        used = {imported for tree in trees.values() for imported in _imported(tree)}
        docstring = ast.get_docstring(trees[face if face in trees else paths[0]])
        found[name] = Room(name, _first_sentence(docstring), frozenset(used & files.keys() - {name}))
    return found


def picture(house: Mapping[str, Room], floors: Sequence[Layer]) -> str:
    """Return the house as SVG: a row for each layer, and a line for each import that no other path implies."""
    place = {}
    for row, layer in enumerate(floors):
        left = _WORDS + (_SCREEN - _WORDS - len(layer.rooms) * (_BOX + _GAP)) / 2
        for number, name in enumerate(layer.rooms):
            place[name] = (left + number * (_BOX + _GAP), row * _ROW + _GAP)
    lines = [_line(place[name], place[used]) for name in house for used in sorted(_direct(name, house))]
    boxes = [_box(house[name], *place[name]) for name in house]
    words = [_sentence(layer.says, row * _ROW + _GAP) for row, layer in enumerate(floors)]
    height = (len(floors) - 1) * _ROW + _HEIGHT + 2 * _GAP
    return (
        f'<svg role="img" aria-label="The rooms of {PACKAGE}; imports run from top to bottom"'
        f' viewBox="0 0 {_SCREEN} {height}" style="width:100%;max-width:{_SCREEN}px"'
        ' font-family="monospace" font-size="12">' + "".join(lines + boxes + words) + "</svg>"
    )


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            below = node.module.split(".")[1:]
            yield from [below[0]] if below else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith(PACKAGE + "."))


def _first_sentence(docstring: str | None) -> str:
    paragraph = (docstring or "").split("\n\n")[0].replace("\n", " ")
    return paragraph.split(". ")[0].rstrip(".")


def _direct(name: str, house: Mapping[str, Room]) -> set[str]:
    """Return the rooms that one imports, without those that another import reaches as well."""
    return set(house[name].uses).difference(*(_reached(used, house) for used in house[name].uses))


def _reached(name: str, house: Mapping[str, Room]) -> set[str]:
    uses = house[name].uses
    return set(uses).union(*(_reached(used, house) for used in uses))


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1 = start[0] + _BOX / 2, start[1] + _HEIGHT
    x2, y2 = end[0] + _BOX / 2, end[1]
    bend = (y2 - y1) / 2
    return (
        f'<path d="M{x1:.0f},{y1:.0f} C{x1:.0f},{y1 + bend:.0f} {x2:.0f},{y2 - bend:.0f} {x2:.0f},{y2:.0f}"'
        ' fill="none" stroke="var(--color-foreground-border, #aaa)"/>'
    )


def _box(room: Room, x: float, y: float) -> str:
    return (
        f'<g><title>{escape(room.says)}</title><rect x="{x:.0f}" y="{y:.0f}" width="{_BOX}" height="{_HEIGHT}" rx="5"'
        ' fill="var(--color-background-secondary, #f8f8f8)" stroke="var(--color-foreground-muted, #666)"/>'
        f'<text x="{x + _BOX / 2:.0f}" y="{y + _HEIGHT / 2 + 4:.0f}" text-anchor="middle"'
        f' fill="var(--color-foreground-primary, #000)">{escape(room.name)}</text></g>'
    )


def _sentence(says: str, y: float) -> str:
    return (
        f'<text x="0" y="{y + _HEIGHT / 2 + 4:.0f}" font-family="sans-serif"'
        f' fill="var(--color-foreground-secondary, #555)">{escape(says)}</text>'
    )


class House(SphinxDirective):
    """Draws the house, and lists its rooms below it."""

    has_content = False
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return the picture and the list."""
        house, floors = rooms(), layers()
        for path in (*SOURCE.rglob("*.py"), LAYERS):
            self.env.note_dependency(str(path))
        listed = nodes.definition_list()
        for name in (name for layer in floors for name in layer.rooms):
            term = nodes.term("", "", nodes.literal(text=name))
            words = nodes.definition("", nodes.paragraph(text=house[name].says + "."))
            listed += nodes.definition_list_item("", term, words)
        return [nodes.raw("", picture(house, floors), format="html"), listed]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("house", House)
    return {"parallel_read_safe": True}
