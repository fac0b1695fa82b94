"""Containers that shall run: started in rounds, looked at again, and started again after a death of their engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from attrs import evolve

from docker_rollback import BackupStore, RollbackRequested, Status, healthy, rollback
from docker_rollback._containers.find import find_container
from docker_rollback._containers.quiesce import check_again, quiesced_container
from docker_rollback._containers.running import all_run, ensure_state, in_rounds, loops, settled, supervisor_of
from docker_rollback._inspection.recreate import observe
from docker_rollback._model.backup import ContainerState
from docker_rollback._threads import each_at_once
from docker_rollback.errors import CaptureError, ContainerNotFoundError, EngineError, ResumeError
from docker_rollback.testing import FailingEngine, FakeClock, FakeEngine

T = TypeVar("T")

RUNS = ContainerState("running")


class Says(FailingEngine):
    """An engine that changes what some inspections of a container say, one after the other."""

    def __init__(self, engine: FakeEngine, *states: dict[str, Any]) -> None:
        super().__init__(engine)
        self._states = iter(states)

    def inspect_container(self, ref: str) -> Any:
        """Inspect, and lie if there is still a lie to tell."""
        found = dict(super().inspect_container(ref))
        found["State"] = {**found["State"], **next(self._states, {})}
        return found


@pytest.fixture(name="fake")
def _fake() -> FakeEngine:
    fake = FakeEngine(clock=FakeClock())
    fake.add_image("app:1", files={"/app": "1"})
    return fake


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock()


def ensure(engine: FailingEngine | FakeEngine, clock: FakeClock, wanted: ContainerState = RUNS) -> str | None:
    """Have the container `web` in the wanted state, on a clock that stands still until somebody sleeps."""
    return ensure_state(engine, "web", wanted, timer=clock)


def test_what_runs_is_looked_at_once(fake: FakeEngine, clock: FakeClock) -> None:
    """A container that runs costs one inspection."""
    fake.run("web", image="app:1")
    watching = FailingEngine(fake)
    assert ensure(watching, clock) is None
    assert [call.verb for call in watching.calls] == ["inspect_container"]


@pytest.mark.parametrize(
    ("wanted", "shown", "asked"),
    [
        (RUNS, {}, False),
        (RUNS, {"Status": "exited", "Running": False}, True),
        (RUNS, {"Status": "paused", "Paused": True}, True),
        (ContainerState("paused"), {"Status": "paused", "Paused": True}, False),
        (ContainerState("running", looping=True), {"Status": "restarting"}, False),
        (ContainerState("running", looping=True), {"Status": "restarting", "ExitCode": 137}, True),
    ],
)
def test_what_was_seen_to_run_is_not_looked_at_again(
    fake: FakeEngine, clock: FakeClock, wanted: ContainerState, shown: dict[str, Any], *, asked: bool
) -> None:
    """Unless it was in another state, or its engine may have lost its run."""
    found = fake.inspect_container(fake.run("web", image="app:1"))
    seen = {**found, "State": {**found["State"], **shown}}
    watching = FailingEngine(fake)
    ensure_state(watching, "web", wanted, seen=seen, timer=clock)
    assert bool(watching.called("inspect_container")) == asked


def test_what_its_engine_has_restarted_is_looked_at_again(fake: FakeEngine, clock: FakeClock) -> None:
    """It may be about to lose that run."""
    found = fake.inspect_container(fake.run("web", image="app:1"))
    watching = FailingEngine(fake)
    assert ensure_state(watching, "web", RUNS, seen={**found, "RestartCount": 1}, timer=clock) is None
    assert watching.called("inspect_container")


@pytest.mark.parametrize("code", [137, 0])
def test_what_ended_with_its_engine_is_started_again(fake: FakeEngine, clock: FakeClock, code: int) -> None:
    """With the exit code of a kill, and with that of a program that ends when it is asked to."""
    fake.run("web", image="app:1")
    fake.container("web").exit(code)
    assert ensure(fake, clock) is None
    assert fake.container("web").status == "running"


def test_what_was_paused_is_paused_again(fake: FakeEngine, clock: FakeClock) -> None:
    """A container that ended while it was paused is started, then paused."""
    fake.run("web", image="app:1")
    fake.stop_container("web")
    assert ensure(fake, clock, ContainerState("paused")) is None
    assert fake.container("web").status == "paused"


def test_what_is_paused_and_shall_run_goes_on(fake: FakeEngine, clock: FakeClock) -> None:
    """An unpause whose answer was an error is made up for."""
    fake.run("web", image="app:1")
    fake.pause_container("web")
    assert ensure(fake, clock) is None
    assert fake.container("web").status == "running"


def test_a_state_that_is_no_longer_true_is_no_error(fake: FakeEngine, clock: FakeClock) -> None:
    """An engine that was started again says 'exited' of a container that runs, then the truth."""
    fake.run("web", image="app:1")
    run = fake.inspect_container("web")["State"]["StartedAt"]
    stale = {"Status": "exited", "ExitCode": 137}
    assert ensure(Says(fake, stale, stale, stale, stale, stale), clock) is None
    assert fake.inspect_container("web")["State"]["StartedAt"] == run, "it was left alone"
    assert clock.monotonic() < 5


def test_what_is_about_to_be_started_by_its_engine_is_waited_for(fake: FakeEngine, clock: FakeClock) -> None:
    """A container that its policy starts again a moment later is no error; one that keeps looping is."""
    fake.run("web", image="app:1")
    back = {"Status": "restarting"}
    assert ensure(Says(fake, back, back), clock) is None
    assert "it is restarting" in str(ensure(Says(fake, *[back] * 1000), clock))


def test_a_crash_loop_is_back_when_it_loops(fake: FakeEngine, clock: FakeClock) -> None:
    """Whether it runs or waits to be started: both are what it did before."""
    fake.run("web", image="app:1")
    for status in ("running", "restarting"):
        watching = Says(fake, {"Status": status})
        assert ensure(watching, clock, ContainerState("running", looping=True)) is None
        assert len(watching.calls) == 1


@pytest.mark.parametrize("restarted", [0, 2])
def test_a_resumed_crash_loop_is_known_by_its_count_or_by_what_was_seen(
    fake: FakeEngine, clock: FakeClock, restarted: int
) -> None:
    """An engine may show a loop before it has counted a restart; any other one that restarts does not run."""
    identity = fake.run("web", image="app:1", restart="always")
    found = observe(fake.inspect_container("web"))
    rest = evolve(quiesced_container(found, "stop"), restarted=restarted)
    looping = Says(fake, *[{"Status": "restarting"}] * 1_000)
    assert check_again(looping, [rest], looping={identity}, timer=clock) == []
    looping = Says(fake, *[{"Status": "restarting"}] * 1_000)
    failures = check_again(looping, [rest], timer=clock)
    assert [one.name for one, _ in failures] == ([] if restarted else ["web"])


def test_a_container_that_does_not_stay_up_is_an_error(fake: FakeEngine, clock: FakeClock) -> None:
    """It is started a few times, and the reason names state and exit code."""
    fake.on_start("web", lambda container: container.exit(3))
    fake.run("web", image="app:1", start=False)
    watching = FailingEngine(fake)
    assert "it is exited, its last exit code is 3" in str(ensure(watching, clock))
    assert [call.verb for call in watching.calls].count("start_container") == 3


def test_a_job_that_ends_well_is_not_run_over_and_over(fake: FakeEngine, clock: FakeClock) -> None:
    """A program that ends with 0 after it was started has done its work."""
    fake.on_start("web", lambda container: container.exit(0))
    fake.run("web", image="app:1", start=False)
    watching = FailingEngine(fake)
    assert ensure(watching, clock) is None
    assert [call.verb for call in watching.calls].count("start_container") == 1


def test_a_service_that_ends_well_has_not_done_its_work(fake: FakeEngine, clock: FakeClock) -> None:
    """One whose policy starts it again is to run."""
    fake.run("web", image="app:1", restart="always")
    lying = Says(fake, *[{"Status": "exited", "ExitCode": 0}] * 1_000)
    assert ensure(lying, clock) == "it does not run: it is exited, its last exit code is 0"


def test_what_is_gone_is_said_to_be_gone(fake: FakeEngine, clock: FakeClock) -> None:
    """Nobody waits for a container that was removed."""
    assert ensure(fake, clock) == "it is gone; somebody removed it"
    assert clock.monotonic() == 0


def test_why_it_does_not_start_is_the_reason(fake: FakeEngine, clock: FakeClock) -> None:
    """The engine's own words come out."""
    fake.run("web", image="app:1", start=False)
    broken = FailingEngine(fake, at=range(1, 100), error=lambda: EngineError("start container 'web'", "no logging"))
    assert "no logging" in str(ensure(broken, clock))


def test_those_that_fail_are_tried_again_after_the_others() -> None:
    """What the first one needs may be the last one."""
    done: list[str] = []
    slept: list[float] = []

    def attempt(name: str) -> None:
        if name == "web" and "logs" not in done:
            raise EngineError("start container 'web'", "no logging driver")
        done.append(name)

    assert in_rounds(["web", "db", "logs"], attempt, sleep=slept.append, each=one_after_the_other) == []
    assert done == ["db", "logs", "web"]
    assert len(slept) == 1


def one_after_the_other(
    items: Sequence[str], attempt: Callable[[str], None], after: Callable[[str, str], bool]
) -> list[Exception | None]:
    """Attempt each item in the given order."""
    return each_at_once(items, attempt, after, most=1)


def test_all_are_tried_at_once_and_those_that_failed_once_more() -> None:
    """A round is over before the next one begins."""
    meeting = threading.Barrier(4, timeout=30)
    tried: list[str] = []

    def attempt(name: str) -> None:
        tried.append(name)
        if tried.count(name) == 1:
            meeting.wait()
            if name in ("two", "three"):
                raise EngineError(f"start container {name!r}", "no")

    assert in_rounds(["one", "two", "three", "four"], attempt, sleep=lambda _: tried.append("-")) == []
    assert sorted(tried[:4]) == ["four", "one", "three", "two"]
    assert tried[4] == "-"
    assert sorted(tried[5:]) == ["three", "two"]


def test_those_that_fail_to_the_end_are_returned_with_their_errors() -> None:
    """Each with its own; one that is gone is not tried again."""
    tries: list[str] = []

    def attempt(name: str) -> None:
        tries.append(name)
        if name == "gone":
            raise ContainerNotFoundError(name)
        raise EngineError(f"start container {name!r}", "no")

    failures = in_rounds(["gone", "web"], attempt, sleep=lambda _: None)
    assert [(name, type(error)) for name, error in failures] == [("gone", ContainerNotFoundError), ("web", EngineError)]
    assert tries.count("gone") == 1 < tries.count("web")


def looping(fake: FakeEngine, clock: FakeClock, *, restarts: int = 1) -> dict[str, Any]:
    """Return the inspection of a container that its engine has started again so often."""
    fake.run("web", image="app:1", restart="always")
    for _ in range(restarts):
        fake.container("web").exit(3)
        clock.advance(7)
    return dict(fake.inspect_container("web"))


def test_a_crash_loop_is_known_at_every_moment_of_the_loop(clock: FakeClock) -> None:
    """While it waits, and while it runs, until it has run for ten seconds."""
    fake = FakeEngine(clock=clock)
    fake.add_image("app:1", files={"/app": "1"})
    running = looping(fake, clock)
    started = datetime.fromisoformat(running["State"]["StartedAt"])
    assert running["State"]["Status"] == "running"
    assert loops(running, started + timedelta(seconds=9.9))
    assert not loops(running, started + timedelta(seconds=10.1))
    fake.container("web").exit(3)
    assert loops(fake.inspect_container("web"), clock.now + timedelta(days=1))


def test_what_somebody_started_is_no_crash_loop(fake: FakeEngine, clock: FakeClock) -> None:
    """Neither a first run, nor one of a container that no policy starts again."""
    fake.run("web", image="app:1", restart="always")
    assert not loops(fake.inspect_container("web"), clock.now)
    fake.run("db", image="app:1")
    assert not loops({**fake.inspect_container("db"), "RestartCount": 3}, clock.now)


def test_one_that_is_about_to_come_back_is_looked_at_again(fake: FakeEngine, clock: FakeClock) -> None:
    """Podman shows it as exited for a moment; what it does is run, in a loop."""
    fake.run("web", image="app:1", restart="always")
    found = find_container(fake, "web")
    assert found is not None
    ended = (clock.now - timedelta(seconds=0.1)).isoformat()
    gap = observe({**found.inspection, "State": {**found.inspection["State"], "Status": "exited", "FinishedAt": ended}})
    assert settled(fake, gap, clock=clock, sleep=clock.sleep).state == ContainerState("running")
    long_ago = (clock.now - timedelta(seconds=9)).isoformat()
    stopped = observe(
        {**found.inspection, "State": {**found.inspection["State"], "Status": "exited", "FinishedAt": long_ago}}
    )
    assert settled(fake, stopped, clock=clock, sleep=clock.sleep) is stopped


def test_all_run_if_each_of_them_has_processes(fake: FakeEngine) -> None:
    """A paused one has; one that has ended and one that is gone have none."""
    for name in ("web", "db"):
        fake.run(name, image="app:1")
    fake.pause_container("db")
    assert all_run(fake, ["web", "db"])
    assert all_run(fake, [])
    fake.run("job", image="app:1", start=False)
    assert not all_run(fake, ["web", "job"])
    assert not all_run(fake, ["gone", "web"])


@pytest.mark.parametrize(
    ("policy", "restarted", "code", "waits"),
    [
        ({"Name": "on-failure", "MaximumRetryCount": 3}, 2, 1, True),
        ({"Name": "on-failure", "MaximumRetryCount": 3}, 3, 1, False),
        ({"Name": "on-failure", "MaximumRetryCount": 0}, 99, 1, True),
        ({"Name": "on-failure"}, 99, 1, True),
        ({"Name": "on-failure", "MaximumRetryCount": 3}, 1, 0, False),
        ({"Name": "always"}, 99, 0, True),
        ({"Name": "no"}, 0, 1, False),
        ({"Name": ""}, 0, 1, False),
        (None, 0, 1, False),
    ],
)
def test_one_is_waited_for_where_its_policy_starts_it_again(
    fake: FakeEngine, clock: FakeClock, policy: dict[str, Any] | None, restarted: int, code: int, *, waits: bool
) -> None:
    """An end without an error, and one that was the last that the policy allows, are final."""
    fake.run("web", image="app:1", restart="always")
    found = dict(fake.inspect_container("web"))
    ended = (clock.now - timedelta(seconds=0.1)).isoformat()
    began = (clock.now - timedelta(hours=1)).isoformat()
    state = {"Status": "exited", "ExitCode": code, "StartedAt": began, "FinishedAt": ended}
    found["State"] = {**found["State"], **state}
    gap = observe({**found, "RestartCount": restarted, "HostConfig": {**found["HostConfig"], "RestartPolicy": policy}})
    assert (settled(fake, gap, clock=clock, sleep=clock.sleep) is not gap) is waits


@pytest.mark.parametrize("ended", ["", "0001-01-01T00:00:00Z", "no time"])
def test_one_that_never_ended_by_its_engines_word_is_not_waited_for(
    fake: FakeEngine, clock: FakeClock, ended: str
) -> None:
    """An engine that names no moment, or the first of all, leaves nothing to wait for."""
    fake.run("web", image="app:1", restart="always")
    found = dict(fake.inspect_container("web"))
    gap = observe({**found, "State": {**found["State"], "Status": "exited", "FinishedAt": ended}})
    assert settled(fake, gap, clock=clock, sleep=clock.sleep) is gap


def test_a_systemd_unit_is_named(fake: FakeEngine) -> None:
    """Podman labels what a unit or a quadlet made."""
    fake.run("web", image="app:1", labels={"PODMAN_SYSTEMD_UNIT": "web.service"})
    assert "systemctl stop web.service" in supervisor_of(fake.inspect_container("web"))


class NeedsLogs(FailingEngine):
    """An engine on which `web` starts while `logs` runs, and not else, as with a log driver that sends to it."""

    def start_container(self, ref: str) -> None:
        """Start, or say what the log driver says."""
        name = self.inspect_container(ref)["Name"]
        if name == "/web" and self.inspect_container("logs")["State"]["Status"] != "running":
            raise EngineError(f"start container {ref!r}", "failed to initialize logging driver", status=500)
        super().start_container(ref)


@pytest.fixture(name="pair")
def _pair(fake: FakeEngine) -> FailingEngine:
    fake.run("logs", image="app:1")
    fake.run("web", image="app:1")
    return NeedsLogs(fake)


def test_a_container_that_needs_a_later_one_is_resumed_after_it(tmp_path: Path, pair: FailingEngine) -> None:
    """Both when a capture ends and when a rollback does."""
    with rollback("web", "logs", client=pair, store=BackupStore(tmp_path), verify=healthy(stable_for=0)) as tx:
        assert pair.inspect_container("web")["State"]["Status"] == "running"
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert pair.inspect_container("web")["State"]["Status"] == "running"


class Dies(FailingEngine):
    """An engine that dies after a chosen call, with all that runs on it, and is there again at once."""

    def __init__(self, engine: FakeEngine, at: int) -> None:
        super().__init__(engine)
        self._fake, self._death = engine, at
        self.verbs: list[str] = []
        self.died = False

    def die_at(self, call: int) -> None:
        """Choose the call, counted from here on."""
        self.verbs.clear()
        self._death = call

    @property
    def is_over(self) -> bool:
        """Return True if nothing was asked after the death, or there was none."""
        return len(self.verbs) <= self._death

    def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
        """Do one call, and die after the chosen one."""
        answer = super().pass_on(verb, work, *arguments)
        self.verbs.append(verb)
        if len(self.verbs) == self._death:
            self.died = True
            for one in self._fake.list_containers():
                name = str(self._fake.inspect_container(one)["Name"])
                if "docker-rollback" not in name and self._fake.container(one).status == "running":
                    self._fake.kill_container(one)
        return answer


def test_a_backup_leaves_nothing_down_wherever_its_engine_dies(tmp_path: Path) -> None:
    """Entered means running: after a death at any call the block begins with a container that runs, or not at all."""
    number, entered = 0, 0
    while True:
        number += 1
        fake = FakeEngine(clock=FakeClock())
        fake.add_image("app:1", files={"/app": "1"})
        fake.run("web", image="app:1", volumes={"data": "/data"})
        dies = Dies(fake, number)
        with ExitStack() as stack:
            try:
                stack.enter_context(
                    rollback("web", client=dies, store=BackupStore(tmp_path / str(number)), verify=None)
                )
            except (CaptureError, ResumeError):
                has_ended = False
            else:
                entered += dies.died
                has_ended = dies.is_over
            # Of a death after the last call nobody can know.
            if not has_ended and any(call.verb == "stop_container" for call in dies.calls):
                assert fake.container("web").status == "running", (number, dies.story())
            # It lives for the end of the block.
            dies.die_at(0)
        if has_ended:
            break
    assert entered


def rolled_back_on_one_that_dies(folder: Path, number: int) -> tuple[FakeEngine, Dies]:
    """Roll an update back on an engine that dies after a call of the way back; 0 for none."""
    fake = FakeEngine(clock=FakeClock())
    fake.add_image("app:1", files={"/app": "1"})
    fake.run("web", image="app:1", volumes={"data": "/data"})
    fake.volume("data").write("/rows", "1")
    dies = Dies(fake, 0)
    with rollback("web", client=dies, store=BackupStore(folder), verify=None) as tx:
        fake.volume("data").write("/rows", "half")
        dies.die_at(number)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK, dies.story()
    return fake, dies


def test_rolled_back_means_running_wherever_its_engine_dies(tmp_path: Path) -> None:
    """After a death at any call from the start on, the container runs again, as long as anybody looks at it."""
    _, alive = rolled_back_on_one_that_dies(tmp_path / "0", 0)
    start = max(k for k, verb in enumerate(alive.verbs, 1) if verb == "start_container")
    last = max(k for k, verb in enumerate(alive.verbs, 1) if verb == "inspect_container")
    assert last > start + 3, alive.story()
    for number in range(start, last):
        fake, dies = rolled_back_on_one_that_dies(tmp_path / str(number), number)
        assert dies.died
        assert fake.container("web").status == "running", (number, dies.story())
        assert fake.volume("data").read("/rows") == b"1", (number, dies.story())
