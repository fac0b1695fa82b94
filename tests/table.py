"""The table of engines in README.md: what holds on each, as the tests showed it. Pure, but for `write`.

Rows are questions that people ask; each names the tests that answer it. What an engine showed is kept in
docs/engines.json, and the table is nothing but that file in another shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

WITHOUT_ROOT: Final = "without-root"
"""What the run is called that is carried out by a user without root."""

BEGIN: Final = "<!-- engines: written by `nox -s engines` -->"
END: Final = "<!-- engines: end -->"
RESULTS: Final = "docs/engines.json"

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
    "The image, by whatever name": _rows_of_the_matrix("images-by_.*"),
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
"""What is asked, and which tests answer it, as a pattern."""


def fold(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is worth keeping of the results of every run, in the order of the titles."""
    return {name: _folded(results[name]) for name in TITLES if name in results}


def _folded(shown: Mapping[str, Any]) -> dict[str, Any]:
    told = {test: _without_ids(reason) for test, reason in shown["limits"].items()}
    rows = {}
    for row, pattern in ROWS.items():
        answers = re.compile(pattern)
        passed = sum(1 for test in shown["passed"] if answers.search(test))
        limits = sorted({reason for test, reason in told.items() if answers.search(test)})
        left_out = sum(1 for test in told if answers.search(test))
        rows[row] = {"passed": passed, "left out": left_out, "limits": limits}
    return {
        **shown["engine"],
        "passed": len(shown["passed"]),
        "left out": len(told),
        "rows": rows,
        "limits": sorted(set(told.values())),
    }


def _without_ids(reason: str) -> str:
    """Return an engine's words without the id of what it could not make: by that, one limit would look like many."""
    return re.sub(r'( with ID)? "?[0-9a-f]{64}"?', "", reason)


def render(kept: Mapping[str, Any]) -> str:
    """Return the table, and below it what the engines themselves cannot, as Markdown."""
    notes: dict[str, int] = {}
    head = ["", *(TITLES[name] for name in kept)]
    lines = [_line(head), _line("---" for _ in head)]
    lines += [_line([row, *(_cell(engine["rows"][row], notes) for engine in kept.values())]) for row in ROWS]
    tests = (f"{engine['passed']} of {engine['passed'] + engine['left out']}" for engine in kept.values())
    lines.append(_line(["Tests", *tests]))
    seen = ", ".join(f"{TITLES[name]}: {engine['version']} ({engine['storage']})" for name, engine in kept.items())
    return "\n".join([*lines, "", f"Seen with {seen}.", "", *_explained(notes)])


def _cell(row: Mapping[str, Any], notes: dict[str, int]) -> str:
    marks = "".join(f"<sup>{notes.setdefault(reason, len(notes) + 1)}</sup>" for reason in row["limits"])
    if not row["passed"]:
        return f"no {marks}" if marks else "-"
    return f"all but {row['left out']} {marks}" if marks else "yes"


def _explained(notes: Mapping[str, int]) -> Iterator[str]:
    if notes:
        yield "What an engine itself cannot:"
        yield ""
    for reason, number in notes.items():
        yield f"{number}. {reason}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def put_in(readme: str, kept: Mapping[str, Any]) -> str:
    """Return a README with the table between its two marks; raises `ValueError` where they are not there."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{render(kept)}\n{END}{after}"


def write(project: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the results file and the README's table."""
    kept = fold(results)
    (project / RESULTS).write_text(json.dumps(kept, indent=1) + "\n")
    readme = project / "README.md"
    readme.write_text(put_in(readme.read_text(), kept))
