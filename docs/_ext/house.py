"""The picture of the house, drawn from the modules as they are: ``{house}`` in a page."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from attrs import frozen
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PACKAGE = "docker_rollback"
SOURCE = Path(__file__).parent.parent.parent / "src" / PACKAGE

_BOX, _GAP, _ROW, _HEIGHT = 118, 14, 74, 34


@frozen
class Part:
    """One room of the house: a module right below the package, or a folder of them.

    Attributes:
        name: of the module or folder.
        says: the first sentence of its docstring.
        uses: the parts that it imports.
    """

    name: str
    says: str
    uses: frozenset[str]


def parts(source: Path = SOURCE) -> dict[str, Part]:
    """Return the parts of the package, by name, as its files say it."""
    files: dict[str, list[Path]] = {}
    for path in sorted(source.rglob("*.py")):
        head = path.relative_to(source).parts[0].removesuffix(".py")
        if head != "__init__":  # it only passes names on
            files.setdefault(head, []).append(path)
    found = {}
    for name, paths in files.items():
        trees = [ast.parse(path.read_text()) for path in paths]
        head = next(
            (tree for path, tree in zip(paths, trees, strict=True) if path.stem in (name, "__init__")), trees[0]
        )
        used = {imported for tree in trees for imported in _imported(tree)}
        found[name] = Part(name, _first_sentence(ast.get_docstring(head)), frozenset(used & files.keys() - {name}))
    return found


def floors(house: Mapping[str, Part]) -> list[list[str]]:
    """Return the parts by floor, the roof first: each part right above the highest that it uses."""
    height: dict[str, int] = {}

    def of(name: str, above: tuple[str, ...] = ()) -> int:
        if name in above:
            raise ValueError("imports run in a circle: " + " -> ".join((*above, name)))
        if name not in height:
            height[name] = 1 + max((of(used, (*above, name)) for used in house[name].uses), default=-1)
        return height[name]

    for name in house:
        of(name)
    return [sorted(name for name in house if height[name] == floor) for floor in range(max(height.values()), -1, -1)]


def picture(house: Mapping[str, Part]) -> str:
    """Return the house as SVG: a box for each part, a line for each import that no other path of imports implies."""
    rows = _ordered(floors(house), house)
    width = max(len(row) for row in rows) * (_BOX + _GAP) + _GAP
    place = {}
    for floor, row in enumerate(rows):
        left = (width - len(row) * (_BOX + _GAP) + _GAP) / 2
        for number, name in enumerate(row):
            place[name] = (left + number * (_BOX + _GAP), _GAP + floor * _ROW)
    lines = [_line(place[name], place[used]) for name in house for used in sorted(_direct(name, house))]
    boxes = [_box(house[name], *place[name]) for name in house]
    height = (len(rows) - 1) * _ROW + _HEIGHT + 2 * _GAP
    return (
        f'<svg role="img" aria-label="The parts of {PACKAGE}; imports run from top to bottom"'
        f' viewBox="0 0 {width} {height}" style="width:100%;max-width:{width}px"'
        ' font-family="monospace" font-size="13">' + "".join(lines + boxes) + "</svg>"
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


def _direct(name: str, house: Mapping[str, Part]) -> set[str]:
    """Return what a part uses, without what it reaches by way of another that it uses."""
    below: set[str] = set()
    for used in house[name].uses:
        below |= _reached(used, house)
    return set(house[name].uses) - below


def _reached(name: str, house: Mapping[str, Part]) -> set[str]:
    uses = house[name].uses
    return set(uses).union(*(_reached(used, house) for used in uses)) if uses else set()


def _ordered(rows: list[list[str]], house: Mapping[str, Part]) -> list[list[str]]:
    """Put each part of a floor near those above it that use it, so that few lines cross."""
    ordered: list[list[str]] = []
    place: dict[str, float] = {}
    for row in rows:
        pulled = []
        for name in row:
            users = [place[user] for user in place if name in house[user].uses]
            pulled.append((sum(users) / len(users) if users else 0.0, name))
        ordered.append([name for _, name in sorted(pulled)])
        place |= {name: (number + 0.5) / len(row) for number, name in enumerate(ordered[-1])}
    return ordered


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1 = start[0] + _BOX / 2, start[1] + _HEIGHT
    x2, y2 = end[0] + _BOX / 2, end[1]
    bend = (y2 - y1) / 2
    return (
        f'<path d="M{x1:.0f},{y1:.0f} C{x1:.0f},{y1 + bend:.0f} {x2:.0f},{y2 - bend:.0f} {x2:.0f},{y2:.0f}"'
        ' fill="none" stroke="var(--color-foreground-border, #aaa)"/>'
    )


def _box(part: Part, x: float, y: float) -> str:
    return (
        f'<g><title>{escape(part.says)}</title><rect x="{x:.0f}" y="{y:.0f}" width="{_BOX}" height="{_HEIGHT}" rx="5"'
        ' fill="var(--color-background-secondary, #f8f8f8)" stroke="var(--color-foreground-muted, #666)"/>'
        f'<text x="{x + _BOX / 2:.0f}" y="{y + _HEIGHT / 2 + 4:.0f}" text-anchor="middle"'
        f' fill="var(--color-foreground-primary, #000)">{escape(part.name)}</text></g>'
    )


class House(SphinxDirective):
    """Draws the house, and lists its parts below it."""

    has_content = False
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return the picture and the list."""
        house = parts()
        for path in SOURCE.rglob("*.py"):
            self.env.note_dependency(str(path))
        listed = nodes.definition_list()
        for row in floors(house):
            for name in row:
                term = nodes.term("", "", nodes.literal(text=name))
                listed += nodes.definition_list_item(
                    "", term, nodes.definition("", nodes.paragraph(text=house[name].says + "."))
                )
        return [nodes.raw("", picture(house), format="html"), listed]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("house", House)
    return {"parallel_read_safe": True}
