"""What was measured, as a chart in SVG: for each data set and figure a group of bars. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from bench import catalog, samples
from bench.samples import Key, Medians

COLOURS: Final = {
    samples.BARE: "#9aa0a6",
    samples.PLAIN: "#c2722c",
    samples.RESTIC: "#7a5fa8",
    samples.DIRECT: "#1f6feb",
    samples.HELPER: "#6ea8fe",
}
PANELS: Final = (
    ("downtime of the first backup", samples.FIRST, samples.DOWN),
    ("first backup, in total", samples.FIRST, samples.SECONDS),
    ("second backup, 1% changed", samples.SECOND, samples.SECONDS),
    ("rollback, 1% changed", samples.ROLLBACK, samples.SECONDS),
)
SETS: Final = (catalog.POSTGRESQL, catalog.SMALL_FILES, catalog.LARGE_FILES)

_TITLE: Final = "Seconds that each method takes; less is better"
_LEFT: Final = 8
_HEAD: Final = 74
_WIDTH: Final = 236
_BAR: Final = 15
_LABEL: Final = 58
_ROW: Final = len(COLOURS) * _BAR + 44


def draw(known: Medians) -> str:
    """Return the chart: a row for each data set, a panel for each figure, in each a bar for each way.

    Panels have a scale of their own, from zero; each bar has its value in seconds beside it.
    """
    width, height = _LEFT + len(PANELS) * _WIDTH, _HEAD + len(SETS) * _ROW
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" role="img" aria-label="{_TITLE}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_legend(),
    ]
    for row, name in enumerate(SETS):
        top = _HEAD + row * _ROW
        lines.append(_text(_LEFT, top, name, weight="bold"))
        for column, (title, task, figure) in enumerate(PANELS):
            left = _LEFT + column * _WIDTH
            lines.append(_text(left, top + 17, f"{title}, seconds", fill="#555555"))
            lines += _bars(left, top + 24, _values(known, name, task, figure))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _values(known: Medians, name: str, task: str, figure: str) -> Sequence[tuple[str, float]]:
    found = {}
    for way in COLOURS:
        bare = way == samples.BARE and figure == samples.DOWN
        value = known.get(Key(name, way, samples.RESTART if bare else task, figure))
        if value is not None:
            found[way] = value
    return list(found.items())


def _legend() -> Iterator[str]:
    yield _text(_LEFT, 18, _TITLE, weight="bold", size=14)
    left = _LEFT
    for way, colour in COLOURS.items():
        yield f'<rect x="{left}" y="30" width="12" height="12" fill="{colour}"/>'
        yield _text(left + 17, 41, way)
        left += 32 + 7 * len(way)


def _bars(left: int, top: int, values: Sequence[tuple[str, float]]) -> Iterator[str]:
    longest = max((value for _, value in values), default=0.0)
    for number, (way, value) in enumerate(values):
        length = max(1.0, value / longest * (_WIDTH - _LABEL)) if longest else 1.0
        y = top + number * _BAR
        yield f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{_BAR - 3}" fill="{COLOURS[way]}"/>'
        yield _text(left + round(length) + 4, y + _BAR - 5, f"{value:.2f}" if value < 10 else f"{value:.1f}", size=11)


def _text(x: int, y: int, words: str, *, weight: str = "normal", size: int = 12, fill: str = "#202124") -> str:
    return f'<text x="{x}" y="{y}" font-weight="{weight}" font-size="{size}" fill="{fill}">{escape(words)}</text>'
