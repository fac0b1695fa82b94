"""The benchmarks themselves: what is made of samples, and that a client measures what it says."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from unittest.mock import Mock

import pytest

from bench import catalog, chart, report, samples
from bench.clients import Watcher
from bench.goals import Goal, goals
from bench.groups import Group, Shape, downtime
from bench.measure import Notebook
from bench.ours import RequestCounter
from bench.samples import Key, medians
from bench.stage import LABEL, Stage, room

PROJECT = Path(__file__).parent.parent.parent
MACHINE = {"processors": "2", "memory": "4 GiB"}


@pytest.fixture
def notebook() -> Notebook:
    """Give some samples of one data set: three rounds, of which one was disturbed."""
    notebook = Notebook()
    for down in (2.0, 9.0, 2.2):
        notebook.note(catalog.POSTGRESQL, samples.BARE, samples.RESTART, samples.DOWN, down)
        notebook.note(catalog.POSTGRESQL, samples.DIRECT, samples.FIRST, samples.DOWN, down + 0.1)
        notebook.note(catalog.POSTGRESQL, samples.DIRECT, samples.SECOND, samples.DOWN, down + 1)
    return notebook


def test_the_median_counts(notebook: Notebook) -> None:
    """One round that something disturbed changes nothing."""
    key = Key(catalog.POSTGRESQL, samples.BARE, samples.RESTART, samples.DOWN)
    assert medians(notebook.samples)[key] == 2.2


def test_what_is_written_is_what_was_taken(notebook: Notebook) -> None:
    """The results file holds every value and the machine, and gives the same medians."""
    text = report.dump(MACHINE, notebook.samples)
    machine, known = report.parse(text)
    assert machine == MACHINE
    assert known == pytest.approx(medians(notebook.samples))
    assert sum(map(len, json.loads(text)["samples"].values())) == len(notebook.samples)


def test_the_worse_backup_counts_for_the_downtime(notebook: Notebook) -> None:
    """Of two backups, the one with the longer downtime is compared; what was not measured is no success."""
    first, *others = goals(medians(notebook.samples))
    assert first.measured == pytest.approx(3.2 / 2.2)
    assert first.reached is False
    assert {other.reached for other in others} == {None}


@pytest.mark.parametrize(("measured", "written"), [(0.1, "yes"), (0.2, "**no**")])
def test_a_figure_is_reached_or_not(measured: float, written: str) -> None:
    """The table says so beside what was measured and what it may be."""
    notebook = Notebook()
    notebook.note(catalog.SMALL_SERVER, samples.BARE, samples.RESTART, samples.DOWN, 0.3)
    notebook.note(catalog.SMALL_SERVER, samples.HELPER, samples.FIRST, samples.DOWN, 0.3 + measured)
    page = report.render(MACHINE, medians(notebook.samples))
    assert f"| small server; {samples.HELPER} | +{measured:.2f} s | +0.15 s | {written} |" in page


def test_the_page_keeps_what_stands_around_the_tables() -> None:
    """Tables go between the marks, again and again; a page without marks is refused."""
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.put_in(page, "new")
    assert once == report.put_in(once, "new")
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    with pytest.raises(ValueError, match="lacks"):
        report.put_in("no marks", "new")


def test_the_docs_show_what_was_measured() -> None:
    """The tables and the chart of the documentation are those of the results that are kept."""
    machine, known = report.parse((PROJECT / report.RESULTS).read_text())
    page = (PROJECT / report.PAGE).read_text()
    assert page == report.put_in(page, report.render(machine, known))
    assert (PROJECT / report.CHART).read_text() == chart.draw(known)


def test_the_chart_has_a_bar_for_each_value(notebook: Notebook) -> None:
    """It is well-formed, and each value that was measured of its figures stands beside a bar."""
    drawn = ET.fromstring(chart.draw(medians(notebook.samples)))
    words = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"2.20", "2.30"} <= set(words)


@pytest.mark.parametrize("size", ["small", "full"])
def test_every_figure_to_reach_is_measured(size: catalog.Size) -> None:
    """What a run measures is enough for every figure in the table."""
    notebook = Notebook()
    tasks = (
        *(samples.FIRST, samples.SECOND, samples.ROLLBACK, samples.RESTORE, samples.RESTART, samples.ENTRY),
        *(samples.ENTERING, samples.REMOVED, samples.FURTHER),
    )
    figures = (samples.SECONDS, samples.DOWN, samples.STORED, samples.MEMORY, samples.CHANGED, samples.REQUESTS)
    for case in (case for several in catalog.cases(size).values() for case in several):
        for way in case.rounds(3):
            for task in tasks:
                for figure in figures:
                    notebook.note(case.name, way, task, figure, 1.0)
    assert all(goal.reached is not None for goal in goals(medians(notebook.samples)))


class Service(http.server.BaseHTTPRequestHandler):
    """Answers, but for a while not."""

    asked = 0

    def do_GET(self) -> None:
        """Hang up on the twentieth question after a moment, and on the next four at once."""
        Service.asked += 1
        if Service.asked == 20:
            time.sleep(0.3)
        if not 20 <= Service.asked < 25:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_watcher_sees_how_long_nobody_answers() -> None:
    """From the last answer to the next, however many questions had none."""
    with http.server.HTTPServer(("127.0.0.1", 0), Service) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            with Watcher("http", server.server_port) as watcher:
                while not (down := watcher.take()):
                    pass
        finally:
            server.shutdown()
            serving.join()
    assert Service.asked >= 25
    assert down >= 0.3


def test_room_counts_a_file_once(tmp_path: Path) -> None:
    """A file of two names takes its room once."""
    (tmp_path / "a").write_bytes(bytes(1000))
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert room(tmp_path) == 1000


def test_peak_is_that_of_this_process() -> None:
    """What was taken counts, also when it was given back; a new process begins anew."""
    program = (
        "from bench.stage import peak; before = peak(); taken = bytearray(b'x') * 50_000_000; del taken; "
        "print(before, peak() - before)"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    before, more = map(float, ran.stdout.split())
    assert 1e6 < before < 200e6
    assert 40e6 < more < 60e6


def goal(notebook: Notebook, figure: str, of: str) -> Goal:
    """Return the one figure to reach that begins and belongs so."""
    (found,) = (
        goal for goal in goals(medians(notebook.samples)) if goal.figure.startswith(figure) and goal.of.startswith(of)
    )
    return found


def test_a_group_is_compared_with_the_quicker_of_two_commands() -> None:
    """The quicker way to stop and start all at once counts, and the table names it."""
    notebook = Notebook()
    notebook.note(catalog.EIGHT, samples.EACH, samples.RESTART, samples.DOWN, 3.0)
    notebook.note(catalog.EIGHT, samples.ALL, samples.RESTART, samples.DOWN, 2.0)
    notebook.note(catalog.EIGHT, samples.DIRECT, samples.ENTERING, samples.DOWN, 2.4)
    found = goal(notebook, "downtime of all", catalog.EIGHT)
    assert found.measured == pytest.approx(1.2)
    assert found.reached is True
    assert found.of == f"{catalog.EIGHT}; {samples.ALL}"


def test_levels_are_compared_with_compose() -> None:
    """A plain stop of all ignores dependencies, so it does not count for a chain."""
    notebook = Notebook()
    notebook.note(catalog.CHAIN, samples.ALL, samples.RESTART, samples.DOWN, 1.0)
    notebook.note(catalog.CHAIN, samples.COMPOSE, samples.RESTART, samples.DOWN, 4.0)
    notebook.note(catalog.CHAIN, samples.DIRECT, samples.ENTERING, samples.DOWN, 6.0)
    found = goal(notebook, "the same in levels", catalog.CHAIN)
    assert found.measured == pytest.approx(1.5)
    assert found.reached is False


def test_requests_count_for_each_container_beyond_the_first() -> None:
    """What a single container needs is subtracted; the rest is divided among the others."""
    notebook = Notebook()
    for number, requests in ((1, 30), (10, 30 + 9 * 12), (50, 30 + 49 * 12.5)):
        notebook.note(catalog.IDLE[number], samples.DIRECT, samples.ENTERING, samples.REQUESTS, requests)
    found = [goal(notebook, "requests to the engine", f"entering, {catalog.IDLE[number]}") for number in (10, 50)]
    assert [one.measured for one in found] == pytest.approx([12, 12.5])
    assert [one.reached for one in found] == [True, False]
    page = report.render(MACHINE, medians(notebook.samples))
    assert f"| {catalog.IDLE[10]} | {samples.DIRECT} | - | - | - | 138 |" in page


@pytest.mark.parametrize("way", [samples.DIRECT, samples.HELPER])
def test_a_further_backup_is_compared_with_the_bare_restart(way: str) -> None:
    """For the smaller image the limit is lower."""
    notebook = Notebook()
    for name in catalog.IMAGES:
        notebook.note(name, samples.BARE, samples.RESTART, samples.SECONDS, 0.2)
        notebook.note(name, way, samples.FURTHER, samples.SECONDS, 0.65)
    found = [goal(notebook, "further backup in total", f"{name}; {way}") for name in catalog.IMAGES]
    assert [one.reached for one in found] == [False, True]


def test_a_group_in_levels_depends_on_the_level_before() -> None:
    """Eight containers make three levels; each of them depends on all of the level before, and on no other."""
    services = Shape(8, 1.0, levels=3).project("group")["services"]
    needs = [service["depends_on"] for service in services.values()]
    first, second = ["s1", "s2", "s3"], ["s4", "s5", "s6"]
    assert needs == [[], [], [], first, first, first, second, second]


def test_a_group_without_levels_has_no_dependencies() -> None:
    """Each has its own name; without a time to stop, it is killed."""
    project = Shape(3).project("group")
    services = project["services"].values()
    assert [service["container_name"] for service in services] == ["group-1", "group-2", "group-3"]
    assert all(not service["depends_on"] and not service["volumes"] for service in services)
    assert {service["stop_signal"] for service in services} == {"SIGKILL"}
    assert project["volumes"] == {}


def test_a_container_of_a_group_takes_its_time_to_stop() -> None:
    """The command of a container ends by itself after its stop signal, and not earlier than it should."""
    shell = subprocess.Popen(["sh", "-c", Shape(1, 0.3).script], start_new_session=True)
    try:
        time.sleep(0.5)
        began = time.monotonic()
        shell.terminate()
        assert shell.wait(timeout=20) == 0
        assert time.monotonic() - began >= 0.3
    finally:
        os.killpg(shell.pid, signal.SIGKILL)


def test_downtime_of_a_group_is_from_the_first_stop_to_the_last_start() -> None:
    """Other events do not count, in whichever order they come; a group that never stopped has no downtime."""
    events = [("commit", 0.5), ("kill", 1.0), ("die", 2.0), ("start", 3.0), ("kill", 1.5), ("start", 4.5), ("top", 9.0)]
    assert downtime(iter(events)) == 3.5
    assert downtime(iter([("start", 1.0)])) is None


@pytest.mark.parametrize(("more", "expected"), [(0, 3.0), (1, 3.0), (254, None)])
def test_downtime_is_unknown_when_the_engine_forgets_events(more: int, expected: float | None, tmp_path: Path) -> None:
    """A full memory of events may lack the first stop; the events of other containers take room in it as well."""
    ours = {"Type": "container", "Actor": {"Attributes": {LABEL: ""}}}
    other = {"Type": "container", "Action": "kill", "timeNano": 0, "Actor": {"Attributes": {}}}
    client = Mock()
    client.api.events.return_value = [
        *[other] * more,
        {**ours, "Action": "kill", "timeNano": 1_000_000_000},
        {**ours, "Action": "start", "timeNano": 4_000_000_000},
    ]
    group = Group(Stage("unix:///nowhere", client, tmp_path, ""), "a group", "group", Shape(1))
    assert group.downtime(0.0) == expected


def test_every_request_is_counted() -> None:
    """Requests of a block count, those before and after it do not."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        counter = RequestCounter()

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
            connection.request("HEAD", "/")
            connection.getresponse().close()
            connection.close()

        try:
            ask()
            with counter.counting():
                ask()
                ask()
            ask()
        finally:
            server.shutdown()
            serving.join()
    assert counter.requests == 2
