"""Runs that Docker has lost after its own death: noticed, ended, and replaced by a run that is whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
from attrs import evolve

from docker_rollback import BackupStore, RollbackFailedError, RollbackRequested, Status
from docker_rollback._containers.find import find_container
from docker_rollback._containers.running import end_lost_run, ensure_state, is_lost
from docker_rollback._engine.port import EngineInfo
from docker_rollback._model.backup import ContainerState
from docker_rollback._restore.container_slot import hold
from docker_rollback.errors import DockerRollbackError, EngineError
from docker_rollback.testing import FailingEngine, FakeClock, FakeEngine, Killed
from tests.unit.shop import parts, timed

T = TypeVar("T")

RUNS = ContainerState("running")
ALWAYS = {"Name": "always", "MaximumRetryCount": 0}

Shown = Literal["whole", "doomed", "restarting", "exited", "lost", "left"]


class LosesRuns(FailingEngine):
    """Docker 28 with a container, `web`, whose process was left over when the engine came back from its death.

    A start kills that process, and its end is taken for the end of the new run once somebody looks: with a restart
    policy the container is shown as restarting from then on, without one as exited, then as running without network.
    Only a run of the last kind can be stopped; in all others the process stays.
    """

    def __init__(self, engine: FakeEngine, shown: Shown, *, for_ever: bool = False) -> None:
        super().__init__(engine)
        self._fake, self.shown, self.for_ever = engine, shown, for_ever

    def start_container(self, ref: str) -> None:
        """Start; a process that was left over is replaced."""
        if not self._is_web(ref) or self.shown == "whole":
            super().start_container(ref)
        elif self.shown == "left":
            self._fake.stop_container(ref)
            super().start_container(ref)
            self.shown = "doomed"
        elif self.shown == "exited":
            self.shown = "lost"

    def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
        """Stop; what the engine takes for ended goes on."""
        if not self._is_web(ref) or self.shown in ("whole", "lost"):
            super().stop_container(ref, timeout=timeout)
            self.shown = "left" if self.for_ever and self._is_web(ref) else "whole"
        elif self.shown in ("restarting", "doomed"):
            self.shown = "left"

    def inspect_container(self, ref: str) -> Any:
        """Inspect, and show what the engine believes."""
        found = dict(super().inspect_container(ref))
        if found["Name"] != "/web" and "web-docker-rollback" not in found["Name"]:
            return found
        if self.shown == "doomed":
            self.shown = "restarting" if found["HostConfig"]["RestartPolicy"]["Name"] == "always" else "exited"
        elif self.shown == "exited":
            self.shown = "lost"
        settings = found["NetworkSettings"]
        bare = {name: {**endpoint, "EndpointID": ""} for name, endpoint in settings["Networks"].items()}
        if self.shown != "whole":
            found["NetworkSettings"] = {**settings, "Networks": bare}
        status = {"left": "exited", "exited": "exited", "restarting": "restarting"}.get(self.shown)
        if status is not None:
            found["State"] = {**found["State"], "Status": status, "ExitCode": 137, "OOMKilled": False}
        return found

    def _is_web(self, ref: str) -> bool:
        return str(self._fake.inspect_container(ref)["Name"]).startswith("/web")


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(name="fake")
def _fake(clock: FakeClock) -> FakeEngine:
    fake = FakeEngine(clock=clock)
    fake.add_image("app:1", files={"/app": "1"})
    return fake


@pytest.mark.parametrize("shown", ["doomed", "restarting", "exited", "lost", "left"])
@pytest.mark.parametrize("policy", ["always", "no"])
def test_a_lost_run_is_replaced_by_a_whole_one(
    fake: FakeEngine, clock: FakeClock, shown: Shown, policy: Literal["always", "no"]
) -> None:
    """Wherever the engine is with it, the container runs with its network in the end, and has its policy again."""
    fake.run("web", image="app:1", restart=policy)
    own = fake.inspect_container("web")["HostConfig"]["RestartPolicy"]
    engine = LosesRuns(fake, shown)
    assert ensure_state(engine, "web", RUNS, policy=own, timer=clock) is None
    assert engine.shown == "whole"
    found = engine.inspect_container("web")
    assert found["State"]["Status"] == "running"
    assert found["HostConfig"]["RestartPolicy"] == own
    assert not is_lost(engine, found)


def test_a_crash_loop_that_is_its_engines_doing_is_ended(fake: FakeEngine, clock: FakeClock) -> None:
    """The backup may have been taken while the engine already killed each run."""
    fake.run("web", image="app:1", restart="always")
    engine = LosesRuns(fake, "restarting")
    assert ensure_state(engine, "web", evolve(RUNS, looping=True), policy=ALWAYS, timer=clock) is None
    assert engine.shown == "whole"
    assert fake.container("web").status == "running"


def test_a_program_that_kills_itself_over_and_over_may_do_so_again(fake: FakeEngine, clock: FakeClock) -> None:
    """It looks like a lost run; where new runs end likewise, it is left to its policy, as before."""
    fake.run("web", image="app:1", restart="always")
    fake.on_start("web", lambda container: container.exit(137))
    fake.container("web").exit(137)
    assert fake.container("web").status == "restarting"
    assert ensure_state(fake, "web", evolve(RUNS, looping=True), policy=ALWAYS, timer=clock) is None
    assert fake.container("web").status == "restarting"
    assert fake.inspect_container("web")["HostConfig"]["RestartPolicy"] == ALWAYS


def test_a_run_that_stays_lost_is_an_error_that_says_what_to_do(fake: FakeEngine, clock: FakeClock) -> None:
    """A few new runs are tried; then the reason names the fault and the way out, and the policy is given back."""
    fake.run("web", image="app:1", restart="always")
    engine = LosesRuns(fake, "lost", for_ever=True)
    reason = str(ensure_state(engine, "web", RUNS, policy=ALWAYS, timer=clock))
    assert "its engine has lost its run" in reason
    assert "restart the engine, then call recover()" in reason
    assert [call.verb for call in engine.calls].count("stop_container") == 3
    assert fake.inspect_container("web")["HostConfig"]["RestartPolicy"] == ALWAYS


def test_a_policy_that_is_held_is_given_back_with_any_outcome(fake: FakeEngine, clock: FakeClock) -> None:
    """A process that died while it replaced a lost run left the container held; None leaves it so."""
    fake.run("web", image="app:1")
    assert ensure_state(fake, "web", RUNS, timer=clock) is None
    assert fake.inspect_container("web")["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert ensure_state(fake, "web", RUNS, policy=ALWAYS, timer=clock) is None
    assert fake.inspect_container("web")["HostConfig"]["RestartPolicy"] == ALWAYS


def test_what_its_engine_started_by_itself_is_looked_at_once_more(fake: FakeEngine, clock: FakeClock) -> None:
    """A run that an engine began when it came back may be lost some seconds later, and one that is not stays."""
    fake.run("web", image="app:1", restart="always")
    fake.container("web").exit(1)
    clock.advance(1)
    watching = FailingEngine(fake)
    begun = clock.monotonic()
    assert ensure_state(watching, "web", RUNS, timer=clock) is None
    assert clock.monotonic() - begun == 3
    assert [call.verb for call in watching.calls] == ["inspect_container"] * 2


def test_the_process_of_a_lost_run_is_ended_when_its_container_is_held(fake: FakeEngine) -> None:
    """Data is put back next: a stop that the engine takes for done is not enough."""
    fake.run("web", image="app:1", restart="always")
    engine = LosesRuns(fake, "restarting")
    found = find_container(engine, "web")
    assert found is not None
    hold(engine, found)
    assert engine.shown == "whole"
    assert fake.container("web").status == "exited"
    assert fake.inspect_container("web")["HostConfig"]["RestartPolicy"]["Name"] == "no"


def test_a_program_that_kills_itself_is_started_once_at_most_when_it_is_held(
    fake: FakeEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks like a lost run, but it may be a failed update, which shall do as little more as possible."""
    monkeypatch.setattr("docker_rollback._restore.container_slot.end_lost_run", partial(end_lost_run, timer=clock))
    fake.run("web", image="app:1", restart="always")
    fake.on_start("web", lambda container: container.exit(137))
    fake.container("web").exit(137)
    found = find_container(fake, "web")
    assert found is not None
    watched = FailingEngine(fake)
    hold(watched, found)
    assert len(watched.called("start_container")) == 1
    assert fake.container("web").status == "exited"
    assert fake.inspect_container("web")["HostConfig"]["RestartPolicy"]["Name"] == "no"


@pytest.mark.parametrize(
    ("state", "lost"),
    [
        ({"Status": "restarting", "ExitCode": 137}, True),
        ({"Status": "restarting", "ExitCode": 137, "OOMKilled": True}, False),
        ({"Status": "restarting", "ExitCode": 1}, False),
        ({"Status": "running"}, False),
        ({"Status": "exited", "ExitCode": 137}, False),
    ],
)
def test_a_crash_loop_is_no_lost_run(fake: FakeEngine, state: dict[str, Any], *, lost: bool) -> None:
    """A program that ends by itself, or for want of memory, is left to its policy."""
    fake.run("web", image="app:1", restart="always")
    found = dict(fake.inspect_container("web"))
    assert is_lost(fake, {**found, "State": {**found["State"], **state}}) is lost


class Podman(FailingEngine):
    """An engine that says that it is Podman."""

    def info(self) -> EngineInfo:
        """Say so."""
        return evolve(super().info(), flavour="podman")


def test_what_names_no_endpoints_is_no_lost_run(fake: FakeEngine) -> None:
    """Podman names none, nor has a container any that lives in another's network or in none."""
    fake.run("web", image="app:1")
    bare = LosesRuns(fake, "lost").inspect_container("web")
    assert is_lost(fake, bare)
    assert not is_lost(Podman(fake), bare)
    fake.run("beside", image="app:1", network="container:web")
    fake.run("alone", image="app:1", network="none")
    for name in ("beside", "alone"):
        assert not is_lost(fake, fake.inspect_container(name))


@pytest.mark.parametrize("for_ever", [False, True])
def test_no_rollback_ends_well_with_a_lost_run(
    tmp_path: Path, fake: FakeEngine, clock: FakeClock, *, for_ever: bool
) -> None:
    """The engine loses the run when the container is started after the data is back."""
    fake.run("web", image="app:1", restart="always")
    engine = LosesRuns(fake, "whole")
    tx = timed("web", engine=engine, store=BackupStore(tmp_path), clock=clock, verify=())
    with pytest.raises(RollbackFailedError, match="its engine has lost its run") if for_ever else nullcontext(), tx:
        fake.stop_container("web")
        engine.shown, engine.for_ever = "left", for_ever
        raise RollbackRequested
    if for_ever:
        # The engine was restarted, as the error says.
        engine.shown, engine.for_ever = "whole", False
        assert [one.outcome for one in parts(engine, BackupStore(tmp_path), clock).recovery.recover()] == [
            "rolled back"
        ]
    assert (tx.status is Status.ROLLED_BACK) is not for_ever
    assert engine.shown == "whole"
    assert not is_lost(engine, engine.inspect_container("web"))
    assert fake.container("web").status == "running"


class FailsOnceStopped(LosesRuns):
    """It does not answer some inspections after the first stop of the container.

    Args:
        engine: the engine.
        failures: how many.
    """

    def __init__(self, engine: FakeEngine, failures: int) -> None:
        super().__init__(engine, "lost")
        self._failures = failures

    def inspect_container(self, ref: str) -> Any:
        """Inspect, or fail."""
        if self.called("stop_container") and self._failures and self._is_web(ref):
            self._failures -= 1
            raise EngineError("inspect container", "made to fail")
        return super().inspect_container(ref)


@pytest.mark.parametrize("policy", ["always", "no"])
def test_a_lost_run_is_resumed_if_its_replacement_fails(
    fake: FakeEngine, clock: FakeClock, policy: Literal["always", "no"]
) -> None:
    """The engine fails between the stop and the start: the container runs, and has its own policy."""
    fake.run("web", image="app:1", restart=policy)
    own = fake.inspect_container("web")["HostConfig"]["RestartPolicy"]
    with pytest.raises(EngineError, match="made to fail"):
        ensure_state(FailsOnceStopped(fake, 1), "web", RUNS, policy=own, timer=clock)
    assert fake.container("web").status == "running"
    assert fake.inspect_container("web")["HostConfig"]["RestartPolicy"] == own


class LosesAfterCapture(LosesRuns):
    """It loses the run that begins after the capture, and is away, or this process dies, once that run is stopped."""

    def __init__(self, engine: FakeEngine, store: BackupStore, *, dies: bool) -> None:
        super().__init__(engine, "whole")
        self._store, self._dies, self.away = store, dies, False

    def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
        """Do one call, unless it is away."""
        if self.away:
            raise Killed(verb) if self._dies else EngineError(verb, "it is away")
        return super().pass_on(verb, work, *arguments)

    def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
        """Stop; be away after the stop of a lost run."""
        lost = self.shown == "lost"
        super().stop_container(ref, timeout=timeout)
        self.away = lost

    def inspect_container(self, ref: str) -> Any:
        """Inspect; a run that began after the backup was stored is lost."""
        if self._store.ids() and self.shown == "whole" and not self.away:
            self.shown = "lost"
        return super().inspect_container(ref)


@pytest.mark.parametrize("dies", [False, True], ids=["engine", "process"])
@pytest.mark.parametrize("policy", ["always", "no"])
@pytest.mark.parametrize("then", ["updating", "committed"])
def test_a_capture_whose_lost_run_cannot_be_replaced_is_given_up_by_recovery(
    tmp_path: Path,
    fake: FakeEngine,
    clock: FakeClock,
    policy: Literal["always", "no"],
    then: Literal["updating", "committed"],
    *,
    dies: bool,
) -> None:
    """The record still names what was stopped: the container runs in the end, with its own policy."""
    fake.run("web", image="app:1", restart=policy)
    own = fake.inspect_container("web")["HostConfig"]["RestartPolicy"]
    store = BackupStore(tmp_path)
    engine = LosesAfterCapture(fake, store, dies=dies)
    recovery = parts(engine, store, clock).recovery
    with (
        pytest.raises(Killed if dies else DockerRollbackError),
        recovery.holding(["web"]) as (report, _),
    ):
        recovery.begin(report, then=then)
    assert engine.away
    assert fake.container("web").status == "exited"
    parts(fake, store, clock).recovery.recover()
    assert fake.container("web").status == "running"
    assert fake.inspect_container("web")["HostConfig"]["RestartPolicy"] == own
    assert store.journal.names() == []
