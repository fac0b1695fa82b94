"""What was measured, as tables in Markdown. Pure, but for `write`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from bench import catalog, chart, samples
from bench.goals import Goal, goals
from bench.samples import Key, Medians

BEGIN: Final = "<!-- figures: written by `nox -s bench` -->"
END: Final = "<!-- figures: end -->"
PAGE: Final = "docs/reference/benchmarks.md"
CHART: Final = "docs/reference/benchmarks.svg"
RESULTS: Final = "docs/benchmarks.json"

WHOLE: Final = {
    **dict.fromkeys((catalog.POSTGRESQL, catalog.SMALL_FILES, catalog.LARGE_FILES), catalog.EVERY_WAY),
    **dict.fromkeys((catalog.PGBENCH, catalog.SCATTERED), catalog.TOOLS),
    **dict.fromkeys((catalog.ONE_FILE, catalog.XFS), catalog.OURS),
}
GROWING: Final = (*catalog.SIZES, *catalog.NUMBERS, catalog.MILLION)


def render(machine: Mapping[str, str], known: Medians) -> str:
    """Return all tables, as Markdown."""
    shape = ", ".join(f"{name} {value}" for name, value in machine.items())
    parts = [
        f"Measured with: {shape}.",
        "![Seconds that each method takes, for three data sets](benchmarks.svg)",
        "## The figures to reach",
        *_goals(known),
        *(line for name, ways in WHOLE.items() for line in _whole(name, ways, known)),
        "## Small server",
        *_growing((catalog.SMALL_SERVER,), known),
        "## Growth",
        *_growing(GROWING, known),
        "## Without volumes",
        *_entry(known),
        "## Middleware",
        *_groups(known),
        *_layers(known),
    ]
    return "\n\n".join(parts)


def _goals(known: Medians) -> Iterator[str]:
    rows = [
        [goal.figure, goal.of, goal.written(goal.measured), goal.written(goal.limit), _verdict(goal)]
        for goal in goals(known)
    ]
    yield _table(["figure", "of", "measured", "at most", "reached"], rows)


def _whole(name: str, ways: Iterable[str], known: Medians) -> Iterator[str]:
    """Give the table of a data set: a line for each way."""
    columns: list[tuple[str, str, str]] = [
        ("first: downtime", samples.FIRST, samples.DOWN),
        ("total", samples.FIRST, samples.SECONDS),
        ("stored", samples.FIRST, samples.STORED),
        ("second, 1% changed: downtime", samples.SECOND, samples.DOWN),
        ("total", samples.SECOND, samples.SECONDS),
        ("stored", samples.SECOND, samples.STORED),
        ("rollback, 1% changed", samples.ROLLBACK, samples.SECONDS),
        ("full restore", samples.RESTORE, samples.SECONDS),
        ("memory", samples.FIRST, samples.MEMORY),
    ]
    rows = []
    for way in ways:
        cells = [_written(known, Key(name, way, task, figure)) for _, task, figure in columns]
        if way == samples.BARE:
            cells[:2] = [_written(known, Key(name, way, samples.RESTART, f)) for f in (samples.DOWN, samples.SECONDS)]
        if way == samples.PLAIN:
            cells[7] = cells[6]
        rows.append([way, *cells])
    yield f"## {name}"
    yield _table(["method", *(title for title, _, _ in columns)], rows)


def _growing(names: Iterable[str], known: Medians) -> Iterator[str]:
    """Give the table of first backups by our two ways: a line for each volume."""
    ways = (samples.DIRECT, samples.HELPER)
    rows = []
    for name in names:
        cells = [_written(known, Key(name, samples.BARE, samples.RESTART, samples.DOWN))]
        for figure in (samples.DOWN, samples.SECONDS, samples.MEMORY):
            cells += [_written(known, Key(name, way, samples.FIRST, figure)) for way in ways]
        rows.append([name, *cells])
    heads = [f"{figure}, {way}" for figure in ("downtime", "total", "memory") for way in ("direct", "helper")]
    yield _table(["volume", "bare restart", *heads], rows)


def _entry(known: Medians) -> Iterator[str]:
    rows = [
        ["the bare calls", _written(known, Key(catalog.NO_VOLUMES, samples.BARE, samples.ENTRY, samples.SECONDS))],
        ["rollback()", _written(known, Key(catalog.NO_VOLUMES, samples.DIRECT, samples.ENTRY, samples.SECONDS))],
    ]
    yield _table(["entering and leaving", "total"], rows)


def _groups(known: Medians) -> Iterator[str]:
    """Give the table of groups of containers: a line for each group and method."""
    rows = []
    for name, ways in {
        catalog.EIGHT: catalog.GROUP_WAYS,
        catalog.CHAIN: catalog.GROUP_WAYS,
        catalog.TEN: (*catalog.GROUP_WAYS, samples.HELPER),
        **dict.fromkeys(catalog.IDLE.values(), catalog.IDLE_WAYS),
    }.items():
        for way in ways:
            task = samples.ENTERING if way in (samples.DIRECT, samples.HELPER) else samples.RESTART
            cells = [_written(known, Key(name, way, task, figure)) for figure in (samples.DOWN, samples.SECONDS)]
            cells.append(_written(known, Key(name, way, samples.REMOVED, samples.SECONDS)))
            cells.append(_written(known, Key(name, way, task, samples.REQUESTS)))
            rows.append([name, way, *cells])
    yield _table(["containers", "method", "downtime", "total", "rollback of all, removed", "requests"], rows)


def _layers(known: Medians) -> Iterator[str]:
    """Give the table of containers with a changed layer: a line for each image and method of ours."""
    rows = []
    for name in catalog.IMAGES:
        bare = _written(known, Key(name, samples.BARE, samples.RESTART, samples.SECONDS))
        for way in (samples.DIRECT, samples.HELPER):
            cells = [
                _written(known, Key(name, way, task, figure))
                for task in (samples.FIRST, samples.FURTHER)
                for figure in (samples.DOWN, samples.SECONDS, samples.STORED)
            ]
            rows.append([name, way, bare, *cells])
    heads = [f"{backup}{figure}" for backup in ("first: ", "further: ") for figure in ("downtime", "total", "stored")]
    yield _table(["small change in the layer", "method", "bare restart", *heads], rows)


def _written(known: Medians, key: Key) -> str:
    value = known.get(key)
    if value is None:
        return "-"
    if key.figure in (samples.STORED, samples.MEMORY):
        return f"{value / 1e6:,.1f} MB" if value < 1e7 else f"{value / 1e6:,.0f} MB"
    if key.figure == samples.REQUESTS:
        return f"{value:.0f}"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def _verdict(goal: Goal) -> str:
    return {None: "-", True: "yes", False: "**no**"}[goal.reached]


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join([_line(head), _line(["---"] * len(head)), *map(_line, rows)])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def put_in(page: str, tables: str) -> str:
    """Return a page with the tables between its two marks; raises `ValueError` where they are not there."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def dump(machine: Mapping[str, str], taken: Iterable[samples.Sample]) -> str:
    """Return what was measured as JSON: every value, in the order in which it was taken."""
    values: dict[str, list[float]] = {}
    for sample in taken:
        key = sample.key
        name = " | ".join((key.subject, key.way, key.task, key.figure))
        values.setdefault(name, []).append(round(sample.value, 4))
    return json.dumps({"machine": dict(machine), "samples": values}, indent=1) + "\n"


def parse(text: str) -> tuple[dict[str, str], Medians]:
    """Return the machine and the medians from what `dump` returned."""
    read: dict[str, Any] = json.loads(text)
    taken = [
        samples.Sample(Key(*name.split(" | ")), value) for name, values in read["samples"].items() for value in values
    ]
    return read["machine"], samples.medians(taken)


def write(project: Path, results: str) -> None:
    """Write the results, the page and the chart."""
    machine, known = parse(results)
    (project / RESULTS).write_text(results)
    page = project / PAGE
    page.write_text(put_in(page.read_text(), render(machine, known)))
    (project / CHART).write_text(chart.draw(known))
