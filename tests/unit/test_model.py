"""Any order of updates, faults, deaths and recoveries: what stands is what an independent witness says it must be."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from docker_rollback import (
    BackupStore,
    DockerRollbackError,
    Rollback,
    RollbackFailedError,
    Status,
    UnfinishedRollbackError,
    healthy,
    recover,
    rollback,
)
from docker_rollback._recovery.operation_record import Record
from docker_rollback._volumes.capture import volume_capture
from docker_rollback.errors import EngineError, ImageNotFoundError, StoreNotFoundError
from docker_rollback.testing import FakeClock, FakeEngine, Killed
from tests.unit.mortal import Fault, Life, MortalDisk, MortalEngine

Photo: TypeAlias = dict[str, Any]

FAULTS: Final = st.sampled_from([None, None, "fail", "lose", "die before", "die after"])
PLACES: Final = st.integers(1, 90)
UPDATES: Final = (
    *("write", "own", "stop", "start", "limit", "remove", "rename", "recreate", "wipe", "prune", "network"),
    *("leave network", "move tag", "second", "remove db", "remove volume", "restart db"),
)
OWN: Final = ("/app", "/etc/settings", "/etc/other")
QUICK: Final = "/dev/shm"


class UpdateFailedError(Exception):
    """What an update raises."""


def photograph(engine: FakeEngine) -> Photo:
    """Return everything that has to be as it was, seen without the library's eyes."""
    found: Photo = {"containers": {}, "volumes": {}, "networks": {}}
    anonymous = set()
    for one in map(engine.inspect_container, engine.list_containers()):
        name = one["Name"].lstrip("/")
        if name.startswith("docker-rollback-guard-"):
            # Left by a dead process; `check` says whether it may be there.
            found["containers"][name] = {}
            continue
        facts = _facts(one)
        handle = engine.container(one["Id"])
        facts["own"] = {path: handle.read(path) for path in OWN if handle.exists(path)}
        for mount in one["Mounts"]:
            if mount["Type"] == "volume" and _is_generated(mount["Name"]):
                anonymous.add(mount["Name"])
                facts[f"files at {mount['Destination']}"] = engine.volume(mount["Name"]).facts()
        found["containers"][name] = facts
    for name in engine.list_volumes():
        if name not in anonymous and "docker-rollback" not in name:
            found["volumes"][name] = engine.volume(name).facts()
    for ref in engine.list_networks():
        network = dict(engine.inspect_network(ref))
        found["networks"][network["Name"]] = {
            key: network[key] for key in ("Driver", "IPAM", "Labels", "Internal", "Options")
        }
    return found


def _facts(one: Mapping[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(dict(one["Config"]))
    if config["Hostname"] == one["Id"][:12]:
        del config["Hostname"]
    # Created by the name that it had, or by the id of its image if the name does not lead there.
    made_from = config.pop("Image")
    assert made_from == one["Image"] or not made_from.startswith(("sha256:", "docker-rollback"))
    return {
        "config": config,
        "host": copy.deepcopy(dict(one["HostConfig"])),
        # One that is made anew and did not run is "created", as the documentation has it.
        "status": {"exited": "created"}.get(one["State"]["Status"], one["State"]["Status"]),
        "mounts": sorted(
            (mount["Type"], mount["Destination"], mount["RW"], _is_generated(mount["Name"]) or mount["Name"])
            for mount in one["Mounts"]
        ),
        "networks": {
            name: (
                sorted(alias for alias in endpoint["Aliases"] or () if alias != one["Id"][:12]),
                endpoint["IPAMConfig"],
            )
            for name, endpoint in one["NetworkSettings"]["Networks"].items()
        },
    }


def _is_generated(name: str) -> bool:
    return len(name) == 64 and set(name) <= set("0123456789abcdef")


def unlike(wanted: Photo, now: Photo, *, strays: bool) -> list[str]:
    """Return what differs, a line for each; with `strays`, what is there besides is no difference."""
    lines = []
    for kind, things in wanted.items():
        for name in sorted(things.keys() | (set() if strays else now[kind].keys())):
            was, is_ = things.get(name), now[kind].get(name)
            if was != is_ and isinstance(was, dict) and isinstance(is_, dict):
                keys = sorted(key for key in was.keys() | is_.keys() if was.get(key) != is_.get(key))
                lines += [_line(f"{kind} {name} {key}", was.get(key), is_.get(key)) for key in keys]
            elif was != is_:
                lines.append(_line(f"{kind} {name}", was, is_))
    return lines


def _line(where: str, was: Any, now: Any) -> str:
    if isinstance(was, dict) and isinstance(now, dict):
        keys = [key for key in was.keys() | now.keys() if was.get(key) != now.get(key)]
        was, now = ({key: value.get(key) for key in keys} for value in (was, now))
    return f"{where}: was {was!r}, is {now!r}"[:600]


class Shop(RuleBasedStateMachine):
    """A group of two containers, one outside it, and everything that can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        # One after the other: which effect is the k-th must not be left to the scheduler.
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(volume_capture, "ThreadPoolExecutor", lambda _, **options: ThreadPoolExecutor(1, **options))
        self.patch.setattr("docker_rollback._threads._started", lambda *_: False)
        self.folder = Path(tempfile.mkdtemp(dir=QUICK if os.access(QUICK, os.W_OK) else None))
        self.clock = FakeClock()
        self.engine = FakeEngine(clock=self.clock)
        self.life = Life()
        self.tx: Rollback | None = None
        self.before: Photo = {}
        self.names: dict[str, str] = {}
        self.group = {"shop", "db"}
        self.seen: Photo | None = None
        self.broken = False
        self.touched = False
        self.interfered = False

    def teardown(self) -> None:
        """Bring whatever is unfinished to an end, and remove the store."""
        try:
            if self.tx is not None:
                self.die_in_the_update()
            self.recover(None, 1)
        finally:
            self.patch.undo()
            shutil.rmtree(self.folder)

    @initialize(restart=st.sampled_from(["always", "no", "on-failure:2"]), state=st.sampled_from(["runs", "stopped"]))
    def build(self, restart: str, state: str) -> None:
        """Make the containers."""
        for version in "12":
            self.engine.add_image(f"shop:{version}", files={"/app": f"version {version}"}, volumes=["/cache"])
        self.engine.add_image("db:1", files={"/app": "db"})
        self.names = {name: self.engine.inspect_image(name)["Id"] for name in ("shop:1", "shop:2", "db:1")}
        self.engine.run(
            "db", image="db:1", volumes={"rows": "/data"}, networks={"back": {"Aliases": ["sql"]}}, restart=restart
        )
        self.engine.run(
            "shop",
            image="shop:1",
            volumes={"orders": "/data", "rows": "/rows"},
            networks={"front": {"Aliases": ["till"]}, "back": {}},
            restart=restart,
            env=["A=1"],
            start=state == "runs",
        )
        self.engine.run("other", image="db:1", volumes={"others": "/data"}, restart="always")
        self.engine.volume("orders").write("/table", "orders")
        self.engine.volume("rows").write("/table", "rows")
        self.engine.volume(self.engine.anonymous_volume("shop", "/cache")).write("/warm", "yes")

    # What people do

    @precondition(lambda self: self.tx is None and not self.broken)
    @rule(what=st.sampled_from(["write", "own", "stop", "start", "limit"]))
    def live(self, what: str) -> None:
        """Let time pass, and things change that are nobody's concern."""
        self.change(what)

    @precondition(lambda self: self.tx is not None)
    @rule(what=st.sampled_from(UPDATES))
    def update(self, what: str) -> None:
        """Let the update do something."""
        self.change(what)

    def change(self, what: str) -> None:
        """Do one thing as its user would, where the engine lets them."""
        self.clock.advance(3)
        engine = self.engine
        moment = str(self.clock.now)
        recipe: dict[str, Callable[[], object]] = {
            "write": lambda: engine.volume("orders").write(f"/{moment[-8:]}", moment),
            "own": lambda: engine.container("shop").write("/etc/settings", moment),
            "stop": lambda: engine.stop_container("shop"),
            "start": lambda: engine.start_container("shop"),
            "limit": lambda: engine.update_container("shop", {"Memory": 1 << 26, "MemorySwap": 1 << 27}),
            "remove": lambda: engine.remove_container("shop", force=True, volumes=True),
            "rename": lambda: engine.rename_container("shop", "shop-old"),
            "recreate": self._recreate,
            "wipe": lambda: engine.volume("orders").delete("/table"),
            "prune": engine.prune_images,
            "network": self._renew_network,
            "leave network": lambda: engine.disconnect_network("back", "shop", force=True),
            "move tag": lambda: engine.tag_image("shop:2", "shop:1"),
            "second": lambda: engine.run("second", image="shop:2", volumes={"orders": "/data"}, restart="always"),
            "remove db": lambda: engine.remove_container("db", force=True),
            "remove volume": lambda: engine.remove_volume("orders"),
            "restart db": self._restart_db,
        }
        with suppress(EngineError, FileNotFoundError):
            recipe[what]()

    def _renew_network(self) -> None:
        self.engine.remove_network("front")
        self.engine.create_network({"Name": "front"})

    def _restart_db(self) -> None:
        self.engine.stop_container("db")
        self.engine.start_container("db")

    def _recreate(self) -> None:
        self.engine.remove_container("shop", force=True)
        self.engine.run("shop", image="shop:2", volumes={"orders": "/data"}, networks=["back"], restart="always")

    # What the library does

    def parts(self, fault: Fault | None, at: int) -> tuple[MortalEngine, BackupStore]:
        """Return what a new process has: nothing but the engine and the path of the store."""
        self.life = Life(fault, at)
        return MortalEngine(self.engine, self.life), BackupStore(self.folder / "store", disk=MortalDisk(self.life))

    @precondition(lambda self: self.tx is None and not self.broken)
    @rule(fault=FAULTS, at=PLACES, alone=st.booleans())
    def enter(self, fault: Fault | None, at: int, *, alone: bool) -> None:
        """Take the backup; whatever happens on the way, the service is as it was."""
        engine, store = self.parts(fault, at)
        self.before, self.seen, self.touched, self.interfered = photograph(self.engine), None, False, False
        names = ["shop"] if alone else ["db", "shop"]
        self.group = set(names)
        tx = rollback(*names, client=engine, store=store, verify=healthy(stable_for=0.0), shared="ignore", keep=2)
        try:
            tx.__enter__()
        except Killed:
            self.broken = True
        except DockerRollbackError:
            self.broken = bool(store.journal.names())
            if not self.broken:
                self.check(self.before)
        else:
            assert tx.status is Status.UPDATING
            self.check(self.before, clean=False)
            self.tx, self.touched = tx, True

    @precondition(lambda self: self.tx is not None)
    @rule()
    def die_in_the_update(self) -> None:
        """Let the process die while the update is at work."""
        assert self.tx is not None
        dead = self.life.die()
        with pytest.raises(Killed):
            self.tx.__exit__(Killed, dead, None)
        self.tx, self.broken = None, True

    @precondition(lambda self: self.tx is not None)
    @rule(fault=FAULTS, at=PLACES, good=st.booleans())
    def leave(self, fault: Fault | None, at: int, *, good: bool) -> None:
        """End the block, with an error or without."""
        tx, self.tx = self.tx, None
        assert tx is not None
        self.life.fault, self.life.at, self.life.struck = fault, self.life.count + at, False
        self.seen = photograph(self.engine) if good else None
        error = UpdateFailedError()
        try:
            tx.__exit__(*((None, None, None) if good else (UpdateFailedError, error, None)))
        except Killed:
            self.broken = True
        except RollbackFailedError:
            if not self.life.struck:
                raise
            self.broken = True
        except DockerRollbackError:
            assert good
            assert tx.status is Status.ROLLED_BACK
            self.end(self.before)
        else:
            assert tx.status is (Status.COMMITTED if good else Status.ROLLED_BACK)
            self.end(self.seen if self.seen is not None else self.before)

    def end(self, wanted: Photo) -> None:
        """Hold what stands to what was promised, where a note remains as well."""
        left = bool(BackupStore(self.folder / "store").journal.names())
        self.check(wanted, clean=not left)
        self.broken = left
        if left:
            # The outcome stands, and only tidying up is left.
            self.before = wanted
            self.seen = wanted

    @precondition(lambda self: self.broken and self.touched and self.seen is None and not self.interfered)
    @rule(what=st.sampled_from(["write", "start", "recreate"]))
    def interfere(self, what: str) -> None:
        """Let somebody work on what a dead process left."""
        journal = BackupStore(self.folder / "store").journal
        notes = [journal.get(name, Record) for name in journal.names()]
        if any(note is not None and note.phase == "restored" for note in notes):
            # All is back: what is done from here on is nobody's concern, and stays.
            return
        self.change(what)
        self.interfered = True

    @precondition(lambda self: self.broken)
    @rule()
    def enter_again(self) -> None:
        """Enter a rollback of what is unfinished: it is finished first, or refused and left alone."""
        engine, store = self.parts(None, 0)
        found = photograph(self.engine)
        noted = store.journal.names()
        tx = rollback("shop", client=engine, store=store, verify=None, shared="ignore", keep=None)
        try:
            with tx:
                now = photograph(self.engine)
                self.check_one_of(now)
        except UnfinishedRollbackError:
            assert noted
            # Helpers of the dead are ours, and go.
            others = {
                name: facts for name, facts in found["containers"].items() if "docker-rollback-helper" not in name
            }
            assert unlike({**found, "containers": others}, photograph(self.engine), strays=False) == []
        except DockerRollbackError:
            # What stands there may be nothing that can be backed up.
            assert store.journal.names() == []
            self.check_one_of(photograph(self.engine))
            self.broken = False
        else:
            self.broken = False
            self.check(photograph(self.engine))

    @rule(fault=FAULTS, at=PLACES)
    @precondition(lambda self: self.tx is None)
    def recover(self, fault: Fault | None, at: int) -> None:
        """Finish what is unfinished; killed or failed on the way, it can be done again."""
        engine, store = self.parts(fault, at)
        found = photograph(self.engine)
        try:
            done = recover(client=engine, store=store)
        except Killed:
            return
        except StoreNotFoundError:
            assert not (self.folder / "store").exists()
            return
        except DockerRollbackError:
            assert self.life.struck
            return
        if not self.broken:
            assert done == ()
            assert unlike(found, photograph(self.engine), strays=False) == []
            return
        self.broken = False
        now = photograph(self.engine)
        outcomes = {one.outcome for one in done}
        if self.interfered and outcomes == {"rolled back"} and self.life.fault is None:
            assert any(one.kept for one in done) or not found["containers"].keys() & {"shop", "db"}
        self.check_one_of(now)
        self.check(now)

    @invariant()
    def names_are_the_users(self) -> None:
        """No name of the user's ever leads to an image of ours."""
        for name in self.names:
            with suppress(ImageNotFoundError):
                assert self.engine.inspect_image(name)["Id"] in self.names.values()

    def unlike(self, wanted: Photo, now: Photo) -> list[str]:
        """Return what differs; what a rollback promises is about its own containers, and all volumes and networks."""
        if wanted is not self.before:
            return unlike(wanted, now, strays=False)
        own = {name: facts for name, facts in wanted["containers"].items() if name in self.group}
        return unlike({**wanted, "containers": own}, now, strays=True)

    def check_one_of(self, now: Photo) -> None:
        """Assert that what stands is one of the states that there may be."""
        states = [self.before]
        if self.seen is not None:
            states.append(self.seen)
        differences = [self.unlike(state, now) for state in states]
        assert [] in differences, "\n\nor\n\n".join("\n".join(lines) for lines in differences)

    def check(self, wanted: Photo, *, clean: bool = True) -> None:
        """Assert that what stands is what was wanted and, where `clean`, that nothing of the library is left."""
        now = photograph(self.engine)
        lines = self.unlike(wanted, now)
        assert lines == [], "\n".join(lines)
        if not clean:
            return
        store = BackupStore(self.folder / "store")
        assert store.journal.names() == []
        assert [name for name in self.engine.list_volumes() if "docker-rollback" in name] == []
        assert [name for name in now["containers"] if "docker-rollback" in name] == []
        standing = {self.engine.inspect_container(one)["Image"] for one in self.engine.list_containers()}
        for image, names in self.engine.image_names().items():
            ours = [name for name in names if name.startswith("docker-rollback")]
            assert image in standing or ours == [], f"left over: {ours}"
        for backup in store.list():
            store.verify(backup.id)

    @invariant()
    def outsiders_are_left_alone(self) -> None:
        """A container that is no part of it all runs on."""
        if "other" in photograph(self.engine)["containers"]:
            assert self.engine.container("other").status == "running"


TestModel = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")(Shop.TestCase)
EXAMPLES: Final = os.environ.get("DOCKER_ROLLBACK_MODEL_EXAMPLES")
TestModel.settings = settings(
    max_examples=int(EXAMPLES or "20"),
    # The same ones each time, unless more are asked for.
    derandomize=EXAMPLES is None,
    stateful_step_count=25,
    deadline=None,
    # Made smaller, an example would be easier to read, minutes later; what is printed plays it again.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
