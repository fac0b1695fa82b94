"""What the fault sweep is made of: it chooses fairly, counts rightly, and sees what is not as it was."""

from __future__ import annotations

import random
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest

from docker_rollback import BackupStore
from docker_rollback._model.backup import Resting
from tests.faults import oracle
from tests.faults.cases import FAULTS, PHASES, SCENES, Case, Effect, Kind, Phase, all_cases, shuffled
from tests.faults.referee import Referee
from tests.faults.relay import effect_of
from tests.faults.run import Ended, Stage, Sweep


def effects(*kinds: Kind) -> tuple[Effect, ...]:
    """Return effects of these kinds, numbered."""
    return tuple(Effect(number, kind, f"{kind} {number}") for number, kind in enumerate(kinds, start=1))


SEEN: dict[tuple[str, Phase], tuple[Effect, ...]] = {
    ("one", phase): effects("engine", "write", "disk", "stream", "program") for phase in PHASES
}


def test_every_fault_meets_every_effect_that_it_can() -> None:
    """A write can find the disk full and a request can be refused, not the other way round; every effect can kill."""
    cases = list(all_cases(SEEN))
    assert len(cases) == len({str(case) for case in cases})
    met = Counter((case.fault, case.effect.split()[0]) for case in cases)
    assert met["disk-full", "write"] == len(PHASES)
    assert met["disk-full", "engine"] == met["error-500", "write"] == 0
    assert {fault for fault in FAULTS if met[fault, "engine"]} == FAULTS.keys() - {"disk-full"}
    assert all(met["kill-before", kind] == len(PHASES) for kind in ("engine", "write", "disk", "stream", "program"))


def test_our_own_update_may_be_refused() -> None:
    """What fails somebody else's update is no fault to be tried; `tx.replace` has to bear every fault there is."""
    library = next(scene.name for scene in SCENES if scene.library)
    body: Phase = "body"
    found = {case.fault for case in all_cases({(library, body): effects("engine")})}
    assert {"error-500", "timeout"} <= found
    assert not {"error-500", "timeout"} & {case.fault for case in all_cases({("one", body): effects("engine")})}


def test_a_sample_is_fair_and_the_same_for_a_seed() -> None:
    """Any beginning of the order has each phase and fault about as often; another seed gives another order."""
    cases = list(all_cases(SEEN))
    order = shuffled(cases, 4)
    assert order == shuffled(cases, 4) != shuffled(cases, 5)
    assert sorted(map(str, order)) == sorted(map(str, cases))
    groups = {(case.phase, case.fault) for case in cases}
    assert {(case.phase, case.fault) for case in order[: len(groups)]} == groups


def ask(referee: Referee, count: int) -> list[str]:
    """Have so many effects, and return what the referee says of each."""
    verdicts: list[str] = []
    for number in range(count):
        turn = referee.ask("engine", f"call {number}")
        verdicts.append(turn.verdict)
        turn.after()
    return verdicts


def test_the_referee_strikes_once_where_it_was_told() -> None:
    """The fault happens at the k-th effect of its phase alone; after a death there is nothing more."""
    killed: list[str] = []
    referee = Referee(lambda: killed.append("victim"), lambda: killed.append("engine"))
    referee.begin(("body", "error-500", 2))
    referee.enter("backup")
    assert ask(referee, 3) == ["go", "go", "go"]
    referee.enter("body")
    assert ask(referee, 3) == ["go", "refuse", "go"]
    assert referee.struck == Effect(2, "engine", "call 1")
    for fault, second in (("kill-before", "dead"), ("kill-after", "go")):
        referee.begin(("body", fault, 2))
        referee.enter("body")
        assert ask(referee, 3) == ["go", second, "dead"]
    assert killed == ["victim", "victim"]


def test_the_referee_waits_for_an_effect_that_the_fault_fits() -> None:
    """Where threads are at work, the k-th effect may be another one than was counted: no fault is lost for that."""
    referee = Referee(lambda: None, lambda: None)
    referee.begin(("backup", "disk-full", 2))
    referee.enter("backup")
    kinds: tuple[Kind, ...] = ("write", "engine", "disk", "write", "write")
    verdicts = [referee.ask(kind, f"effect {number}").verdict for number, kind in enumerate(kinds, start=1)]
    assert verdicts == ["go", "go", "go", "full", "go"]
    assert referee.struck == Effect(4, "write", "effect 4")


@pytest.mark.parametrize(
    ("request_line", "effect"),
    [
        ("POST /v1.41/containers/" + "ab" * 32 + "/start HTTP/1.1", "POST /containers/<id>/start"),
        ("POST /v1.41/containers/create?name=web HTTP/1.1", "POST /containers/create web"),
        ("DELETE /v1.41/volumes/data?force=1 HTTP/1.1", "DELETE /volumes/data"),
        ("GET /v1.41/containers/web/json HTTP/1.1", None),
        ("POST /v1.41/containers/web/wait HTTP/1.1", None),
        ("HEAD /_ping HTTP/1.1", None),
    ],
)
def test_what_changes_something_is_an_effect(request_line: str, effect: str | None) -> None:
    """A request that only looks, or waits, is none; the others are named without what chance made of them."""
    assert effect_of(f"{request_line}\r\nHost: x\r\n\r\n".encode()) == effect


def test_a_case_reads_as_the_command_takes_it() -> None:
    """What is printed of a case plays it again."""
    assert str(Case("one", "backup", "kill-after", 17)) == "backup:kill-after:17"


class Service:
    """What the oracle sees of one service, whose run an engine loses when it is killed."""

    def __init__(self) -> None:
        self.version = 1
        self.is_lost = False

    def look(self, _: object, **__: bool) -> oracle.Picture:
        """Take the picture of it."""
        seen = {"shop": {"version": self.version, "lost": self.is_lost}}
        return oracle.Picture(seen, {}, {}, 0, {}, {}, {}, {})

    def mend(self, _: object, outcome: str) -> list[str]:
        """Replace the run that is lost."""
        was_lost, self.is_lost = self.is_lost, False
        return [f"lost, {outcome}"] if was_lost else []


class Rehearsal(Stage):
    """A stage whose victim ends with one status, and whose engine is killed on the way.

    Args:
        folder: for the store.
        service: the service whose run the engine loses.
        told: the status.
        had_record: whether the journal has a record when the engine is killed.
        struck: the effect at which it is killed.
    """

    def __init__(self, folder: Path, service: Service, told: str, *, had_record: bool, struck: str = "") -> None:
        places = SimpleNamespace(socket=folder / "engine.sock", run=folder)
        engine: Any = SimpleNamespace(places=places, address="unix:///nowhere", kill=self._lose, start=lambda: None)
        super().__init__(engine, folder)
        self.witness.mkdir()
        self._service, self._told, self._had_record = service, told, had_record
        self.referee.struck = Effect(1, "engine", struck)

    def play(self, plan: tuple[str, str, int] | None, **_: Any) -> Ended:
        """Kill the engine, with a record or without, and leave none."""
        assert plan is not None
        journal = BackupStore(self.scratch / "store").journal
        journal.put("one", Resting(id="1", name="shop", how="none", started=""))
        if self._told == "committed":
            self._service.version = 2
        self.seen["after"] = self._service.look(None)
        if not self._had_record:
            journal.remove("one")
        self._restart_engine(threading.Event())
        self.relay.close()
        journal.remove("one")
        return Ended(0, {"status": self._told, "error": None})

    def _lose(self) -> None:
        self._service.is_lost = True


class Rehearsed(Sweep):
    """A sweep without a world, whose recovery leaves a lost run as it is."""

    def _prepare(self, _: object) -> None:
        """Make nothing."""

    def _settled(self, stage: Stage, *_: object) -> oracle.Picture:
        return oracle.look(stage.client)

    def _recover(self, *_: object) -> str:
        return "recovered"


@pytest.mark.parametrize(
    ("told", "phase", "had_record", "struck", "excuse"),
    [
        ("committed", "commit", True, "", "lost, committed"),
        ("rolled back", "rollback", False, "sync folder <id>/journal", "lost, rolled back"),
        ("rolled back", "rollback", True, "remove journal/<id>", "lost, rolled back"),
        ("rolled back", "rollback", True, "DELETE /volumes/<id>", ""),
        ("rolled back", "backup", False, "", ""),
        ("rolled back", "backup", True, "remove journal/<id>", ""),
        ("failed", "rollback", False, "", ""),
    ],
)
def test_a_lost_run_is_excused_once_the_library_has_nothing_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: str,
    phase: Phase,
    struck: str,
    excuse: str,
    *,
    had_record: bool,
) -> None:
    """After a commit, and in a rollback from the removal of its record on; before that it is a fault."""
    service = Service()
    monkeypatch.setattr(docker, "DockerClient", lambda *_, **__: None)
    monkeypatch.setattr(oracle, "look", service.look)
    monkeypatch.setattr(oracle, "mend_lost_runs", service.mend)
    monkeypatch.setattr(oracle, "leftovers", lambda *_: [])
    stage = Rehearsal(tmp_path, service, told, had_record=had_record, struck=struck)
    outcome = Rehearsed(stage, random.Random(1)).play(Case(SCENES[0].name, phase, "daemon-before", 61))
    assert outcome.excuse == excuse
    assert outcome.faults == (() if excuse else ("containers.shop.lost: was False, is True",))


class Started:
    """An engine that has one container, and has been started again.

    Args:
        policy: its restart policy.
        error: why it could not be started.
    """

    def __init__(self, policy: str, error: str) -> None:
        self.api = self
        self._policy, self._error = policy, error
        self.started: list[str] = []

    def containers(self, **_: bool) -> list[dict[str, str]]:
        """List it."""
        return [{"Id": "1"}]

    def inspect_container(self, _: str) -> dict[str, Any]:
        """Inspect it."""
        state = {"Status": "exited", "Running": False, "Restarting": False, "ExitCode": 137, "Error": self._error}
        policy = {"RestartPolicy": {"Name": self._policy}}
        return {"Name": "/sidecar", "State": state, "HostConfig": policy, "NetworkSettings": {"Networks": {}}}

    def start(self, identity: str) -> None:
        """Start it."""
        self.started.append(identity)


@pytest.mark.parametrize(
    ("policy", "error", "is_excused"),
    [
        ("always", "cannot join network of a non running container: 0123", True),
        ("no", "cannot join network of a non running container: 0123", False),
        ("always", "", False),
    ],
)
def test_one_in_the_network_of_another_is_excused_that_docker_started_too_early(
    policy: str, error: str, *, is_excused: bool
) -> None:
    """Docker's own start does not wait for the other; one that is held, or was not started at all, is a fault."""
    engine: Any = Started(policy, error)
    assert bool(oracle.mend_lost_runs(engine, "committed")) == is_excused
    assert engine.started == (["1"] if is_excused else [])


class Volumes:
    """An engine that has nothing but anonymous volumes, each with the second in which it was made."""

    def __init__(self) -> None:
        self.unused: dict[str, int] = {}
        self.api = self

    def volumes(self, filters: dict[str, bool]) -> dict[str, Any]:
        """List the volumes that no container has."""
        assert filters == {"dangling": True}
        made = {name: datetime.fromtimestamp(moment, UTC).isoformat() for name, moment in self.unused.items()}
        return {"Volumes": [{"Name": name, "CreatedAt": moment} for name, moment in made.items()]}

    def remove_volume(self, name: str) -> None:
        """Remove one."""
        del self.unused[name]

    def look(self, _: object, **__: bool) -> oracle.Picture:
        """Take a picture of them."""
        return oracle.Picture({}, {}, {}, len(self.unused), {}, {}, {}, {})


class Interrupted(Stage):
    """A stage whose engine is killed at an effect, and then has some volumes that no container has.

    Args:
        folder: for the store.
        volumes: the engine's.
        struck: the effect.
        at_work: another request that the engine has not answered.
        left: the volumes that it has from its next start on.
        later: the volumes that it has after that.
    """

    def __init__(
        self,
        folder: Path,
        volumes: Volumes,
        struck: str,
        *,
        at_work: str,
        left: dict[str, int],
        later: dict[str, int],
    ) -> None:
        places = SimpleNamespace(socket=folder / "engine.sock", run=folder)
        engine: Any = SimpleNamespace(
            places=places, address="unix:///nowhere", kill=lambda: None, start=lambda: volumes.unused.update(left)
        )
        super().__init__(engine, folder)
        self.witness.mkdir()
        self._volumes, self._struck, self._later = volumes, struck, later
        self.relay.at_work = lambda: [(at_work, 1000.2)]  # type: ignore[method-assign] # there is no connection

    def play(self, plan: tuple[str, str, int] | None, **_: Any) -> Ended:
        """Kill the engine in the effect."""
        assert plan is not None
        self.referee.struck, self.referee.struck_at = Effect(1, "engine", self._struck), 1000.7
        self._restart_engine(threading.Event())
        self.relay.close()
        self._volumes.unused.update(self._later)
        return Ended(0, {"status": "rolled back", "error": None})


EARLIER, ORPHAN = "a" * 64, "0" * 64


@pytest.mark.parametrize(
    ("struck", "at_work", "left", "later", "fault"),
    [
        ("POST /containers/create shop", "", {ORPHAN: 1000}, {}, ""),
        ("POST /containers/create shop", "", {EARLIER: 999}, {}, "now 1"),
        ("POST /containers/create shop", "", {ORPHAN: 1000, EARLIER: 999}, {}, "now 1"),
        ("POST /containers/create shop", "", {}, {ORPHAN: 1001}, "now 1"),
        ("DELETE /containers/shop", "", {ORPHAN: 1000}, {}, "now 1"),
        ("DELETE /containers/shop", "POST /containers/create web", {ORPHAN: 1000}, {}, ""),
        ("DELETE /containers/shop", "POST /containers/create web", {EARLIER: 999}, {}, "now 1"),
    ],
)
def test_a_volume_is_excused_that_only_the_death_of_the_engine_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    struck: str,
    at_work: str,
    left: dict[str, int],
    later: dict[str, int],
    fault: str,
) -> None:
    """It was made by a create in which the engine died; an older one, or one of later, is a fault."""
    engine = Volumes()
    monkeypatch.setattr(docker, "DockerClient", lambda *_, **__: engine)
    monkeypatch.setattr(oracle, "look", engine.look)
    monkeypatch.setattr(oracle, "leftovers", lambda *_: [])
    stage = Interrupted(tmp_path, engine, struck, at_work=at_work, left=left, later=later)
    outcome = Rehearsed(stage, random.Random(1)).play(Case(SCENES[0].name, "body", "daemon-during", 8))
    assert outcome.faults == ((f"anonymous volumes: 0, {fault}",) if fault else ())
    is_excused = ORPHAN in left and "POST" in struck + at_work
    assert outcome.excuse == (
        f"the engine died while it created a container, and left its anonymous volume {ORPHAN[:12]}"
        if is_excused
        else ""
    )
