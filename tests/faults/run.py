"""One case: a world, a victim, its fault, its recovery, and what the oracle says of it."""

from __future__ import annotations

import json
import os
import queue
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import docker
from attrs import define, frozen

from docker_rollback import BackupStore
from tests.engines import EngineStartError, PrivateEngine
from tests.engines.images import busybox_tar
from tests.faults import oracle
from tests.faults.cases import PHASES, SCENES, Case, Effect, Phase, Scene
from tests.faults.referee import Referee
from tests.faults.relay import Relay
from tests.faults.world import IMAGES
from tests.faults.worlds import world_of

PATIENCE: Final = 240.0
"""Seconds that a victim gets. On a busy machine, Podman alone takes two minutes to roll back a group."""

_CREATE: Final = "POST /containers/create"


@frozen
class Outcome:
    """What came of a case.

    Attributes:
        case: which.
        struck: the effect at which the fault happened; empty where the run had no such effect.
        victim: how the victim ended, in words.
        recovery: what the recoveries did, in words; empty where none was needed.
        state: "before" or "after", whichever the world is now equal to; empty where to neither.
        faults: what is not as promised, a line for each.
        excuse: a fault of the engine that this library does not answer for, in words; the case is judged without it, or
            not at all where the engine could not be started again.
        seconds: how long it took.
    """

    case: Case
    struck: str
    victim: str
    recovery: str
    state: str
    faults: tuple[str, ...]
    seconds: float
    excuse: str = ""


@define
class Ended:
    """How one process ended: its exit code, and its own words where it came to say any."""

    code: int = 0
    result: dict[str, Any] | None = None


class Stage:
    """The engine, the relay, the process that forks victims, and the line to them; a context manager.

    Everything that starts or ends the engine runs in the thread that made it: an engine ends with its parent.

    Args:
        engine: the engine, which this owns: everything in it is removed, again and again.
        scratch: a folder for stores, sockets and logs.

    Attributes:
        had_record: False if the engine was killed when the journal had no record of an operation, or when the removal
            of the record was the next thing to do.
        orphans: the anonymous volumes that an engine left which was killed while it created their container.
    """

    def __init__(self, engine: PrivateEngine, scratch: Path) -> None:
        self._engine = engine
        self.scratch = scratch
        self._work: queue.Queue[tuple[str, Any, threading.Event]] = queue.Queue()
        self.referee = Referee(self._kill_victim, lambda: self._have_done("stop engine"))
        self.relay = Relay(scratch / "relay.sock", engine.places.socket, self.referee)
        self.witness = engine.places.run / "witness"
        self.client = docker.DockerClient(engine.address, timeout=120)
        self._zygote: subprocess.Popen[str] | None = None
        self._victim = 0
        self._result: dict[str, Any] | None = None
        self.trace: dict[str, list[Effect]] = {}
        self.seen: dict[str, Any] = {}
        self.broken = ""
        self.had_record = True
        self.orphans: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        self._furnish()
        self.relay.open()
        self._control = socket.socket(socket.AF_UNIX)
        self._control.bind(str(self.scratch / "control.sock"))
        self._control.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.victim"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.relay.close()
        self._control.close()
        if self._zygote is not None and self._zygote.stdin is not None:
            if kind is not None and self._victim:
                # It waits for an answer that nobody gives any more.
                self._kill_victim()
            self._zygote.stdin.close()
            self._zygote.wait()
        self.client.close()

    def _furnish(self) -> None:
        """Make what every world needs, in an engine that has nothing."""
        self.witness.mkdir(exist_ok=True)
        tar = busybox_tar()
        for version, name in IMAGES.items():
            repository, _, tag = name.partition(":")
            changes = [f"LABEL version={version}", "ENV FROM=image"]
            self.client.api.import_image_from_data(tar, repository=repository, tag=tag, changes=changes)

    def play(self, plan: tuple[str, str, int] | None, **job: Any) -> Ended:
        """Run one process to its end, with the planned fault."""
        zygote = self._zygote
        if zygote is None or zygote.stdin is None:
            raise RuntimeError("the stage is not entered")
        self._result, self._victim, self.broken, self.had_record = None, 0, "", True
        self.trace, self.seen, self.orphans = {}, {}, frozenset()
        self.referee.begin(plan)
        whole = {
            "relay": self.relay.address,
            "control": str(self.scratch / "control.sock"),
            "witness": str(self.witness),
            "store": str(self.scratch / "store"),
            "log": str(self.scratch / f"{job['play']}.log"),
            **job,
        }
        zygote.stdin.write(json.dumps(whole) + "\n")
        end = time.monotonic() + PATIENCE
        late = False
        while True:
            try:
                what, about, done = self._work.get(timeout=0.5)
            except queue.Empty:
                if time.monotonic() > end and not late and self._victim:
                    late = True
                    os.kill(self._victim, signal.SIGABRT)
                continue
            if what == "ended":
                self.referee.end()
                self.relay.cut()
                return Ended(about, self._result)
            if what == "stop engine":
                self._restart_engine(done)
                continue
            if what == "enter":
                self._enter(about)
            done.set()

    def is_broken(self) -> bool:
        """Return True if the engine of the last play could not be started again; there is a new one."""
        return bool(self.broken)

    def _enter(self, phase: str) -> None:
        past = self.referee.enter("")
        for name in [name for name in self.trace if not self.trace[name]]:
            self.trace[name] = past
        self.trace[phase] = []
        if phase in ("rollback", "commit"):
            self.seen["after"] = oracle.look(self.client, parked=False)
            self.forget_starts()
        self.referee.enter(phase)

    def forget_starts(self) -> None:
        """Let the witness begin anew."""
        for found in self.witness.iterdir():
            found.unlink()

    def _restart_engine(self, dead: threading.Event) -> None:
        """Kill the engine, let whoever waits for that go on, and start it again; an empty one if that fails."""
        struck = "" if self.referee.struck is None else self.referee.struck.name
        begun = [(struck, self.referee.struck_at), *self.relay.at_work()]
        creating = [moment for words, moment in begun if words.startswith(_CREATE)]
        self.relay.close()
        # The victim waits for an answer: what its journal has now, it had when the engine died. The record goes right
        # after the last look.
        self.had_record = bool(oracle.records(self.scratch / "store")) and not struck.startswith("remove journal/")
        self._engine.kill()
        dead.set()
        try:
            self._engine.start()
        except EngineStartError as error:
            said = [line for line in str(error).splitlines() if line.startswith("panic:")]
            self.broken = f"the engine does not start again: {' '.join(said) or error}"
            self._kill_victim()
            self._engine.start()
            self._furnish()
        if creating:
            # Nobody can do anything in the engine yet: no container that has such a volume can have been removed.
            self.orphans = oracle.volumes_without_container(self.client, min(creating))
        self.relay.open()

    def _kill_victim(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._victim, signal.SIGKILL)
        while _lives(self._victim):
            time.sleep(0.001)

    def _have_done(self, what: str, about: Any = None) -> None:
        done = threading.Event()
        self._work.put((what, about, done))
        done.wait()

    def _listen(self) -> None:
        """Take the numbers that the forking process says: a victim's process id, then its exit code."""
        zygote = self._zygote
        if zygote is None or zygote.stdout is None:
            return
        starts = True
        for line in zygote.stdout:
            if starts:
                self._victim = int(line)
            else:
                self._work.put(("ended", int(line), threading.Event()))
            starts = not starts

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._control.accept()
                threading.Thread(target=self._converse, args=(near,), daemon=True).start()

    def _converse(self, near: socket.socket) -> None:
        """Answer one victim, who has no more than one thing to say at a time."""
        with near, suppress(OSError), near.makefile("r", encoding="utf-8") as lines:
            after: dict[int, Any] = {}
            for line in lines:
                words = json.loads(line)
                answer: Any = None
                match words["say"]:
                    case "effect":
                        turn = self.referee.ask(words["kind"], words["name"])
                        answer = turn.verdict
                        if turn.after.__name__ == "_kill_after":
                            answer, after[0] = "after", turn.after
                    case "after":
                        after.pop(0)()
                    case "enter":
                        self._have_done("enter", words["phase"])
                    case "result":
                        self._result = words["result"]
                near.sendall(json.dumps(answer).encode() + b"\n")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def is_over(told: str, phase: Phase, *, had_record: bool) -> bool:
    """Return True if the library does not answer for a run that the engine loses by its own death.

    After a commit, nobody looks at the update any more. In a rollback, the library looks until it removes its journal
    record. In a backup there is no record yet, and everything is still to come.

    Args:
        told: the status that the library told.
        phase: the phase of the fault.
        had_record: False if the engine was killed when the journal had no record, or was about to have none.
    """
    return told == "committed" or (told == "rolled back" and phase == "rollback" and not had_record)


class Sweep:
    """Plays cases on a stage.

    Args:
        stage: where.
        dice: decides what a case leaves open: whether and where its recovery is killed too.
        daemon: whether the engine itself may be killed meanwhile.
    """

    def __init__(self, stage: Stage, dice: random.Random, *, daemon: bool = True) -> None:
        self._stage = stage
        self._dice = dice
        self._recovery_faults = (
            "kill-before",
            "kill-after",
            "kill-before",
            "daemon-before" if daemon else "kill-after",
        )

    def count(self, scene: Scene) -> dict[tuple[str, Phase], Sequence[Effect]]:
        """Run a scene twice without a fault, and return the effects of each phase."""
        found: dict[tuple[str, Phase], Sequence[Effect]] = {}
        for fail in (True, False):
            self._prepare(scene)
            ended = self._stage.play(None, play="rollback", scene=scene.name, fail=fail)
            story = (ended.result or {}).get("story")
            wanted = "rolled back" if fail else "committed"
            if ended.result is None or ended.result["status"] != wanted:
                raise RuntimeError(f"{scene.name}: without a fault it ends with {ended.code}:\n{story}")
            for phase in PHASES:
                if phase in self._stage.trace and (phase == "commit") != fail:
                    found[scene.name, phase] = tuple(self._stage.trace[phase])
        return found

    def play(self, case: Case) -> Outcome:
        """Play one case."""
        began = time.monotonic()
        scene = next(scene for scene in SCENES if scene.name == case.scene)
        stage = self._stage
        self._prepare(scene)
        before = oracle.look(stage.client)
        fail = case.phase != "commit"
        plan = (case.phase, case.fault, case.number)
        ended = stage.play(plan, play="rollback", scene=scene.name, fail=fail)
        struck = stage.referee.struck
        if stage.is_broken():
            return self._unjudged(case, began)
        after, orphans = stage.seen.get("after"), stage.orphans
        faults: list[str] = []
        victim = self._words_of(ended)
        if ended.code not in (0, -signal.SIGKILL):
            faults.append(f"the victim ended with {ended.code}")
        recovery = ""
        told = ended.result["status"] if ended.result is not None else "failed"
        if told == "failed":
            recovery = self._recover(scene, faults)
            if stage.is_broken():
                return self._unjudged(case, began)
        excuses = oracle.remove_volumes_without_container(stage.client, orphans) if orphans else []
        now = self._settled(stage, before, after)
        over = is_over(told, case.phase, had_record=stage.had_record)
        lost = oracle.mend_lost_runs(stage.client, told) if over else []
        if lost:
            excuses += lost
            now = self._settled(stage, before, after)
        states = {"before": before, "after": after} if not fail else {"before": before}
        unlike = {name: oracle.differences(was, now) for name, was in states.items() if was is not None}
        state = next((name for name, lines in unlike.items() if not lines), "")
        if not state:
            faults += min((len(lines), lines) for lines in unlike.values())[1]
        if state and told != "failed" and state != ("after" if told == "committed" else "before"):
            faults.append(f"it says {told!r}, and the world is as {state}")
        faults += self._leftovers()
        return Outcome(
            case,
            "" if struck is None else struck.name,
            victim,
            recovery,
            state,
            tuple(faults),
            time.monotonic() - began,
            "; ".join(excuses),
        )

    def _unjudged(self, case: Case, began: float) -> Outcome:
        struck = self._stage.referee.struck
        name, seconds = "" if struck is None else struck.name, time.monotonic() - began
        return Outcome(case, name, "killed", "", "", (), seconds, self._stage.broken)

    def _prepare(self, scene: Scene) -> None:
        shutil.rmtree(self._stage.scratch / "store", ignore_errors=True)
        self._stage.forget_starts()
        world_of(scene, self._stage.client, self._stage.witness).build()

    def _recover(self, scene: Scene, faults: list[str]) -> str:
        """Recover, now and then with a death on the way; add what goes wrong to `faults`, return the story in short."""
        stage = self._stage
        watched = self._parts_agree()
        stage.forget_starts()
        words = []
        if self._dice.random() < 0.35:
            fault = self._dice.choice(self._recovery_faults)
            plan = ("recover", fault, self._dice.randint(1, 60))
            ended = stage.play(plan, play="recover", scene=scene.name)
            struck = stage.referee.struck
            if struck is not None:
                words.append(f"{fault} at {struck.number} ({struck.name})")
        ended = stage.play(None, play="recover", scene=scene.name)
        if ended.result is None or ended.result["error"] is not None:
            story = f"ended with {ended.code}" if ended.result is None else ended.result["story"]
            faults.append(f"recover() failed: {story}")
        else:
            words.append(", ".join(outcome for outcome, _ in ended.result["outcomes"]) or "nothing to do")
        if watched and (stage.witness / "mixed").exists():
            faults.append("the service was started on data of two generations")
        return "; ".join(words)

    def _parts_agree(self) -> bool:
        volumes = self._stage.client.api.volumes()["Volumes"] or ()
        folders = [Path(volume["Mountpoint"]) / "parts" for volume in volumes]
        return len({part.read_text() for folder in folders if folder.is_dir() for part in folder.iterdir()}) <= 1

    def _settled(self, stage: Stage, before: oracle.Picture, after: oracle.Picture | None) -> oracle.Picture:
        """Look until the world is as before or after, for the moment that an engine takes to start a container."""
        end = time.monotonic() + 3.0
        while True:
            now = oracle.look(stage.client)
            if not oracle.differences(before, now) or (after is not None and not oracle.differences(after, now)):
                return now
            if time.monotonic() > end:
                return now
            time.sleep(0.3)

    def _leftovers(self) -> list[str]:
        stage = self._stage
        path = stage.scratch / "store"
        lines = oracle.leftovers(stage.client, set())
        if path.exists():
            lines += oracle.store_faults(path)
            store = BackupStore(path)
            for backup in store.list():
                store.verify(backup.id)
        return lines

    def _words_of(self, ended: Ended) -> str:
        if ended.result is None:
            return "killed" if ended.code == -signal.SIGKILL else f"exit {ended.code}"
        error = ended.result["error"]
        return str(ended.result["status"]) + (f", {error}" if error not in (None, "UpdateFailedError") else "")
