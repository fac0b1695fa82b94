"""Write the tables of engines from docs/engines.json: ``python -m tests.table``.

docs/engines.json has the results of the tests on each engine. The page docs/reference/engines.md has all of them: a row
for each question that people ask, a column for each engine, and a footnote for each limit. README.md has a row for each
engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

WITHOUT_ROOT: Final = "without-root"
"""The name of the run by a user without root."""

BEGIN: Final = "<!-- engines: written by `nox -s engines` -->"
END: Final = "<!-- engines: end -->"
RESULTS: Final = "docs/engines.json"
README: Final = "README.md"
PAGE: Final = "docs/reference/engines.md"

TITLES: Final = {
    "docker-20.10": "Docker 20.10",
    "docker-26.1": "Docker 26.1",
    "docker-28.5": "Docker 28.5",
    "docker-28.5-containerd": "Docker 28.5, containerd's store",
    "podman-5.8": "Podman 5.8",
    WITHOUT_ROOT: "Docker 28.5, without root",
}

_MATRIX: Final = r"test_matrix\.py::test_\w+\[{}\]"


def _rows_of_the_matrix(*names: str) -> str:
    return _MATRIX.format("(" + "|".join(names) + ")")


ROWS: Final[Mapping[str, str]] = {
    "A removed container comes back, with volumes and networks": r"test_rollback\.py::test_a_(removed|backup_restores)",
    "One that still exists is put back itself, id and all": r"test_rollback\.py::test_an_untouched_container",
    "Running, paused, stopped, never started": (
        r"test_rollback\.py::test_the_prior_state"
        "|" + _rows_of_the_matrix("lifecycle-(running|paused|stopped|never_started|command_that_fails|removes_itself)")
    ),
    "The image, by any of its names": _rows_of_the_matrix("images-by_.*"),
    "The image, identical after a round trip": r"test_store_engines\.py",
    "Command, environment, user, labels": _rows_of_the_matrix("identity-.*", "images-(?!by_).*"),
    "Files changed outside volumes": r"test_rollback\.py::test_a_changed_file_system",
    "Volumes, read and filled directly": r"test_volumes\.py::\w+\[(\w+-)?direct",
    "Volumes, read and filled by a helper": r"test_volumes\.py::\w+\[(\w+-)?helper",
    "Volumes with options (a folder, memory)": (
        r"test_volumes\.py::test_a_(bound_volume|volume_in_memory)|" + _rows_of_the_matrix("storage-volume_of_a_folder")
    ),
    "Mounts of every kind": _rows_of_the_matrix("storage-(?!volume_of_a_folder|storage_size|read_only_root).*"),
    "Networks, aliases, name servers": _rows_of_the_matrix(
        "network-(two_networks|primary.*|mode_by_id|default.*|alias.*|endpoint_options|host_network|no_network|resolver.*)",
        "network-network_disabled",
    ),
    "Static addresses": _rows_of_the_matrix("network-(two_networks_chosen_addresses|link_local_addresses)"),
    "MAC addresses": _rows_of_the_matrix("network-.*mac_address.*"),
    "Published ports": _rows_of_the_matrix("network-.*port.*", "network-publish_all"),
    "`container:` modes, links, volumes of another": _rows_of_the_matrix(
        "network-network_of_another_container",
        "network-.*link(_on_a_network)?",
        "lifecycle-(processes_of_another|memory_that.*|hosts_processes|no_shared_memory)",
    ),
    "Health checks": _rows_of_the_matrix("lifecycle-health.*"),
    "Restart policy, stop signal, init, log": _rows_of_the_matrix("lifecycle-(restart.*|stop_signal|.*init|log.*)"),
    "Limits of memory, processors, processes": _rows_of_the_matrix(
        "resources-(?!device.*|kernel_settings).*", "storage-storage_size"
    ),
    "Devices and kernel settings": _rows_of_the_matrix("resources-(device.*|kernel_settings)", "lifecycle-graphics"),
    "Rights: capabilities, system calls, read-only root": _rows_of_the_matrix("security-.*", "storage-read_only_root"),
    "A container of a compose project": r"test_compose_project\.py",
}
"""The questions, each with a pattern of the tests that answer it."""

PROMISES: Final = (
    "A removed container comes back, with volumes and networks",
    "One that still exists is put back itself, id and all",
    "Running, paused, stopped, never started",
    "Files changed outside volumes",
    "Volumes, read and filled by a helper",
    "A container of a compose project",
)
"""The questions that README.md answers together; the others are about single settings."""


def fold(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the part of the results that is kept, run by run, in the order of the titles."""
    return {name: _folded(results[name]) for name in TITLES if name in results}


def _folded(shown: Mapping[str, Any]) -> dict[str, Any]:
    limits_of = {test: _without_ids(reason) for test, reason in shown["limits"].items()}
    rows = {}
    for row, pattern in ROWS.items():
        answers = re.compile(pattern)
        passed = sum(1 for test in shown["passed"] if answers.search(test))
        limits = sorted({reason for test, reason in limits_of.items() if answers.search(test)})
        left_out = sum(1 for test in limits_of if answers.search(test))
        rows[row] = {"passed": passed, "left out": left_out, "limits": limits}
    return {
        **shown["engine"],
        "passed": len(shown["passed"]),
        "left out": len(limits_of),
        "rows": rows,
        "limits": sorted(set(limits_of.values())),
    }


def _without_ids(reason: str) -> str:
    """Return an engine's message without ids, which would make one limit look like many."""
    return re.sub(r'( with ID)? "?[0-9a-f]{64}"?', "", reason)


def page(kept: Mapping[str, Any]) -> str:
    """Return the table of all questions and engines, and the limits of the engines below it, as Markdown."""
    notes: dict[str, int] = {}
    head = ["", *(TITLES[name] for name in kept)]
    lines = [_line(head), _line("---" for _ in head)]
    lines += [_line([row, *(_cell(engine["rows"][row], notes) for engine in kept.values())]) for row in ROWS]
    tests = (f"{engine['passed']} of {engine['passed'] + engine['left out']}" for engine in kept.values())
    lines.append(_line(["Tests that the engine can run", *tests]))
    seen = ", ".join(f"{TITLES[name]}: {engine['version']} ({engine['storage']})" for name, engine in kept.items())
    return "\n".join([*lines, "", f"Tested with {seen}.", "", *_explained(notes)])


def summary(kept: Mapping[str, Any]) -> str:
    """Return the table of README.md: a row for each engine, as Markdown."""
    head = ["engine", "tested", "containers, files, volumes, networks", "limits of the engine itself"]
    lines = [_line(head), _line("---" for _ in head)]
    for name, engine in kept.items():
        if name != WITHOUT_ROOT:
            restored = all(engine["rows"][row]["passed"] and not engine["rows"][row]["left out"] for row in PROMISES)
            limits = {limit for answer in engine["rows"].values() for limit in answer["limits"]}
            lines.append(
                _line(
                    [
                        TITLES[name],
                        engine["version"],
                        "restored" if restored else "see the page",
                        f"[{len(limits)}]({PAGE})",
                    ]
                )
            )
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], notes: dict[str, int]) -> str:
    footnotes = "".join(f"<sup>{notes.setdefault(reason, len(notes) + 1)}</sup>" for reason in row["limits"])
    if not row["passed"]:
        return f"no {footnotes}" if footnotes else "-"
    return f"all but {row['left out']} {footnotes}" if footnotes else "yes"


def _explained(notes: Mapping[str, int]) -> Iterator[str]:
    if notes:
        yield "The limits of the engines, some in their own words:"
        yield ""
    for reason, number in notes.items():
        yield f"{number}. {reason}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def put_in(text: str, table: str) -> str:
    """Return a text with the table between its two markers; raises `ValueError` if it lacks them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the text lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def write(project: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the results file, and the tables from it."""
    (project / RESULTS).write_text(json.dumps(fold(results), indent=1) + "\n")
    write_tables(project)


def write_tables(project: Path) -> None:
    """Write the tables of README.md and of the reference from the results file."""
    kept = json.loads((project / RESULTS).read_text())
    for name, table in ((README, summary(kept)), (PAGE, page(kept))):
        file = project / name
        file.write_text(put_in(file.read_text(), table))


if __name__ == "__main__":
    write_tables(Path(__file__).parent.parent)
