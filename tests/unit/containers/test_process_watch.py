"""The end of a container's main process is seen where it is certain whose process that is, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from docker_rollback._containers import process_watch
from docker_rollback._containers.process_watch import main_processes
from docker_rollback._host.processes import is_first_of_its_namespace
from docker_rollback._inspection.recreate import observe
from docker_rollback._model.backup import Observed, Quiesce
from tests.unit.inspections import inspection

Process = subprocess.Popen[bytes]
GROUP = Path("/proc/self/cgroup").read_text(encoding="ascii").strip()[-12:]
"""A part of the name of our own control group; it stands for a container's id here."""


@pytest.fixture
def process() -> Iterator[Process]:
    """Have a process that ends with its input."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as cat:
        yield cat
        cat.kill()


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every process count as the first of a PID namespace."""
    monkeypatch.setattr(process_watch, "is_first_of_its_namespace", lambda _: True)


def running(pid: int, **changes: Any) -> Observed:
    """Return a container that has begun to run a moment ago, with a main process."""
    found = inspection(changes)
    state = {**found["State"], "Pid": pid, "StartedAt": datetime.now(UTC).isoformat()}
    return observe({**found, "Id": changes.get("Id", GROUP), "State": state})


def is_seen(containers: list[Observed], process: Process, quiesce: Quiesce = "stop", *, patience: float = 0.3) -> bool:
    """Whether the end of a process is seen as the containers' end, by somebody who has waited for it since before."""
    seen: list[bool] = []
    given_up = threading.Event()
    with main_processes(containers, quiesce) as processes:
        waiting = threading.Thread(
            target=lambda: seen.append(processes.ended([one.id for one in containers], given_up))
        )
        waiting.start()
        assert not any(seen)
        process.communicate()
        waiting.join(patience)
        given_up.set()
        waiting.join()
    return seen == [True]


def pidfds() -> int:
    """Return how many processes this one holds."""
    return sum("pidfd" in str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.is_symlink())


@pytest.mark.usefixtures("first")
def test_the_end_of_the_main_process_is_seen(process: Process) -> None:
    """At once, and no descriptor is left over."""
    before = pidfds()
    assert is_seen([running(process.pid)], process, patience=60.0)
    assert pidfds() == before


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize(
    "changes",
    [{"Id": "f" * 64}, {"HostConfig": {"PidMode": "host"}}, {"HostConfig": {"AutoRemove": True}}],
    ids=["of another container", "beside the host's", "paused instead"],
)
def test_a_process_that_does_not_stand_for_its_container_is_not_watched(
    process: Process, changes: dict[str, Any]
) -> None:
    """The engine may be on another machine; where processes share a namespace, others live on."""
    assert not is_seen([running(process.pid, **changes)], process)


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("quiesce", ["pause", "none"])
def test_who_is_not_stopped_does_not_end(process: Process, quiesce: Quiesce) -> None:
    """A process that ends all the same says nothing of the others."""
    assert not is_seen([running(process.pid)], process, quiesce)


@pytest.mark.usefixtures("first")
def test_all_have_to_end(process: Process) -> None:
    """Of two containers, one that lives may write to the volumes of both; a third one is not waited for."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as other:
        # Both ids are parts of the name of this process's control group.
        ended, lives = running(process.pid), running(other.pid, Id=GROUP[:-1])
        assert not is_seen([ended, lives], process)
        with main_processes([ended, lives], "stop") as processes:
            assert set(processes.watched) == {lives.id}
        other.communicate()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as again:
        ended = running(again.pid)
        with main_processes([ended, running(os.getpid(), Id=GROUP[:-1])], "stop") as processes:
            again.communicate()
            assert processes.ended([ended.id], threading.Event())
            assert not processes.ended([ended.id, "f" * 64], threading.Event())


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("pid", [0, 1 << 22])
def test_there_may_be_no_such_process(process: Process, pid: int) -> None:
    """A container that does not run has none; another machine may have one that this one has not."""
    assert not is_seen([running(pid)], process)


@pytest.mark.usefixtures("first")
def test_what_nobody_writes_to_is_not_waited_for() -> None:
    """Its volume can be read before any container has stopped."""
    with main_processes([], "stop") as processes:
        assert processes.ended([], threading.Event())


def test_a_process_that_is_not_the_first_of_its_namespace_is_not_watched(process: Process) -> None:
    """What a sandbox or a virtual machine has started may leave others behind that write."""
    assert not is_seen([running(process.pid)], process)


@pytest.mark.skipif(os.geteuid() != 0, reason="a namespace takes root")
def test_the_first_of_a_namespace_is_told_by_the_kernel() -> None:
    """Its number there is 1, and it has another one here."""
    with subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "cat"], stdin=subprocess.PIPE) as unshare:
        children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.01)
        assert is_first_of_its_namespace(Path("/proc", found[0]))
        assert not is_first_of_its_namespace(Path("/proc", str(unshare.pid)))
        unshare.communicate()
