"""Whatever breaks, and wherever a process dies: a compose project is put back whole, and nobody's work is lost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docker_rollback import (
    BackupStore,
    EngineError,
    Rollback,
    RollbackFailedError,
    RollbackRequested,
    Status,
    UnfinishedRollbackError,
    backup,
    compare,
    healthy,
    recover,
    restore,
    rollback,
)
from docker_rollback._engine.port import Engine
from docker_rollback._recovery.operation_record import Record
from docker_rollback.parts import ContainerFilter
from docker_rollback.testing import FailingEngine, FakeClock, FakeEngine, Killed
from tests.unit.shop import UpdateFailedError
from tests.unit.town import NAME, ORDER, PROJECT, Town, labels, names

T = TypeVar("T")


def die_in_the_body(town: Town, update: Callable[[], None]) -> str:
    """Enter a rollback of the project, and die in its block; return the id of its backup."""
    killed = FailingEngine(town.engine, at=1, kill=True, verbs={"kill_container"})
    tx = town.rollback(engine=killed)
    with pytest.raises(Killed), tx:
        update()
        killed.kill_container("alone")
    return tx.backup.id


def test_a_death_in_the_update_is_recovered_from(town: Town) -> None:
    """By the same plan; the state that was found is kept, with the volumes that came."""
    die_in_the_body(town, town.update)
    with pytest.raises(UnfinishedRollbackError, match="created"), town.rollback():
        pass
    (done,) = recover(client=town.engine, store=town.store)
    town.check_restored()
    assert done.kept is not None
    kept = town.store.get(done.kept)
    assert {"shop-database-1", "shop-search-1"} <= set(names(kept.containers))
    assert "shop_index" in {volume.name for volume in kept.volumes}
    restore(done.kept, client=town.engine, store=town.store)
    assert town.engine.volume("shop_index").read("/words") == b"many"
    assert "shop-worker-3" in town.stock()["containers"]
    assert "shop-db-1" not in town.stock()["containers"]


def test_a_death_after_the_commit_keeps_the_whole_update(town: Town) -> None:
    """Recovery tidies up, and the services, networks and volumes that the update made stand, with their data."""
    killed = FailingEngine(town.engine, at=1, kill=True, verbs={"remove_volume"})
    with pytest.raises(Killed), town.rollback(engine=killed):
        town.update()
        updated = town.stock()
    (done,) = recover(client=town.engine, store=town.store)
    assert done.outcome == "tidied up"
    ours = [volume for volume in updated["volumes"] if volume.startswith("docker-rollback-")]
    assert ours, "the project was marked"
    assert town.stock() == {**updated, "volumes": [volume for volume in updated["volumes"] if volume not in ours]}
    assert town.engine.volume("shop_index").read("/words") == b"many"
    assert town.engine.volume("shop_rows").read("/count") == b"99"
    assert town.store.journal.names() == []


def test_a_death_after_down_is_finished_by_the_next_rollback(town: Town) -> None:
    """There is no container by which to find it: the project's name is in the note."""

    def down() -> None:
        for name in ORDER:
            town.engine.remove_container(name, force=True)
        town.engine.remove_network("shop_default")

    die_in_the_body(town, down)
    with town.rollback() as tx:
        pass
    assert [done.outcome for done in tx.recovered] == ["rolled back"]
    town.check_restored()


def test_a_restore_removes_what_came_but_for_data(town: Town) -> None:
    """Long after, nobody can say whose data is in a volume that came since: it stays, also after a death."""
    taken = backup(project=NAME, client=town.engine, store=town.store)
    town.update()
    dying = FailingEngine(town.engine, verbs={"start_container"}, at=1, kill=True)
    with pytest.raises(Killed):
        restore(taken, client=dying, store=town.store)
    (done,) = recover(client=town.engine, store=town.store)
    assert done.outcome == "rolled back"
    assert town.engine.volume("shop_index").read("/words") == b"many"
    town.engine.remove_volume("shop_index")
    town.check_restored()


class Dying(FailingEngine):
    """An engine as a process sees it that dies at a call, once it is on its way back."""

    def __init__(self, engine: Engine, verb: str) -> None:
        super().__init__(engine, verbs={"kill_container"}, at=1, kill=True)
        self._verb = verb
        self.is_on_its_way_back = False

    def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
        """Do one call, or die."""
        if verb == self._verb and self.is_on_its_way_back:
            self.is_on_its_way_back = False
            self.kill_container("alone")
        return super().pass_on(verb, work, *arguments)


def die_on_the_way_back(town: Town, verb: str) -> None:
    """Have an update fail, and die at a call of the way back."""
    dying = Dying(town.engine, verb)
    with pytest.raises(Killed), town.rollback(engine=dying):
        town.update()
        dying.is_on_its_way_back = True
        raise UpdateFailedError


@pytest.mark.parametrize("verb", ["create_container", "start_container", "remove_container"])
def test_what_is_made_after_a_death_is_not_the_updates(town: Town, verb: str) -> None:
    """A volume that came once the way back had begun is in no backup: who finishes it leaves it alone."""
    die_on_the_way_back(town, verb)
    town.make_volume("shop_later")
    town.engine.volume("shop_later").write("/words", "dear")
    (done,) = recover(client=town.engine, store=town.store)
    assert done.outcome == "rolled back"
    assert town.engine.volume("shop_later").read("/words") == b"dear"
    town.engine.remove_volume("shop_later")
    town.check_restored()


@pytest.mark.parametrize("is_at_work", [False, True])
def test_what_the_update_added_goes_unless_somebody_works_with_it(town: Town, *, is_at_work: bool) -> None:
    """All was restored before the death: whoever has started an added container since keeps it, and the volumes."""

    class DyingOnceAllIsRestored(Dying):
        def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
            """Do one call, or die before the first start."""
            records = [town.store.journal.get(key, Record) for key in town.store.journal.names()]
            self.is_on_its_way_back = any(record is not None and record.phase == "restored" for record in records)
            return super().pass_on(verb, work, *arguments)

    with pytest.raises(Killed), town.rollback(engine=DyingOnceAllIsRestored(town.engine, "start_container")):
        town.update()
        raise UpdateFailedError
    if is_at_work:
        town.engine.start_container("shop-search-1")
    (done,) = recover(client=town.engine, store=town.store)
    assert done.outcome == "rolled back"
    if is_at_work:
        assert town.engine.container("shop-search-1").status == "running"
        assert town.engine.volume("shop_index").read("/words") == b"many"
        assert "shop-worker-3" not in town.stock()["containers"]
    else:
        town.check_restored()


class Refusing(FailingEngine):
    """An engine that does not start one container.

    Attributes:
        refused: the id of that container; empty for none.
    """

    refused = ""

    def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
        """Do one call, or refuse it."""
        if verb == "start_container" and arguments == (self.refused,):
            raise EngineError("start container", "made to fail")
        return super().pass_on(verb, work, *arguments)


def test_a_way_back_that_begins_again_looks_at_the_project_again(town: Town) -> None:
    """A volume that came between two ways back is kept by the second; who finishes that after a death removes it."""
    refusing = Refusing(town.engine)
    with pytest.raises(RollbackFailedError), town.rollback(engine=refusing):
        town.update()
        refusing.refused = str(town.engine.inspect_container("shop-worker-1")["Id"])
        raise UpdateFailedError
    town.make_volume("shop_later")
    town.engine.volume("shop_later").write("/words", "dear")
    with pytest.raises(Killed):
        recover(client=FailingEngine(town.engine, verbs={"rename_container"}, at=1, kill=True), store=town.store)
    (done,) = recover(client=town.engine, store=town.store)
    town.check_restored()
    assert done.kept is not None
    assert "shop_later" in {volume.name for volume in town.store.get(done.kept).volumes}


def test_who_works_on_after_a_death_keeps_the_work(town: Town) -> None:
    """All was back already, and the update was done again by hand: on a volume that the first one had left."""

    def end() -> None:
        raise SystemExit

    with pytest.raises(SystemExit), town.rollback(after_rollback=end):
        town.update()
        raise UpdateFailedError
    town.run("later", volumes={"shop_index": "/i"}, anonymous=["/l"])
    town.engine.volume("shop_index").write("/words", "dear")
    town.engine.remove_container("shop-search-1", force=True)
    town.engine.start_container("shop-worker-3")
    with town.rollback() as tx:
        pass
    assert [done.outcome for done in tx.recovered] == ["rolled back"]
    for name in ("shop-later-1", "shop-worker-3"):
        assert town.engine.inspect_container(name)["State"]["Status"] == "running"
    town.engine.remove_container("shop-later-1", force=True, volumes=True)
    assert town.engine.volume("shop_index").read("/words") == b"dear"


class Hut:
    """A project of one service, for what is tried at every call."""

    def __init__(self, store: BackupStore) -> None:
        self.store = store
        self.engine = FakeEngine(clock=FakeClock())
        for version in ("1", "2"):
            self.engine.add_image(f"app:{version}", files={"/app": version})
        self.engine.create_volume({"Name": "shop_rows", "Labels": PROJECT})
        self.engine.volume("shop_rows").write("/count", "1")
        self.engine.run("shop-db-1", image="app:1", labels=labels("db"), volumes={"shop_rows": "/rows"})
        self.before = self.engine.inspect_container("shop-db-1")

    def rollback(self, engine: Engine) -> Rollback:
        """Return a rollback of the project that waits for nothing."""
        return rollback(project=NAME, client=engine, store=self.store, verify=healthy(stable_for=0.0))

    def update(self) -> None:
        """Rename the service, and add one with a volume and a network of its own."""
        self.engine.remove_container("shop-db-1", force=True)
        self.engine.volume("shop_rows").write("/count", "99")
        self.engine.run("shop-database-1", image="app:2", labels=labels("database"), volumes={"shop_rows": "/rows"})
        self.engine.create_volume({"Name": "shop_index", "Labels": PROJECT})
        self.engine.create_network({"Name": "shop_back", "Labels": PROJECT})
        index = {"shop_index": "/index"}
        self.engine.run("shop-search-1", image="app:1", labels=labels("search"), volumes=index, networks=["shop_back"])
        self.engine.volume("shop_index").write("/words", "many")

    def check_restored(self) -> None:
        """Assert that the service is what it was, and that nothing else of the project runs."""
        assert compare(self.before, self.engine.inspect_container("shop-db-1")) == []
        assert self.engine.volume("shop_rows").read("/count") == b"1"
        running = self.engine.list_containers(ContainerFilter(running=True))
        assert [self.engine.container(one).name for one in running] == ["shop-db-1"]

    def is_alone(self) -> bool:
        """Say whether nothing of the update, and nothing of ours, is left."""
        there = [self.engine.container(one).name for one in self.engine.list_containers()]
        return (there, self.engine.list_volumes()) == (["shop-db-1"], ["shop_rows"])


@pytest.mark.parametrize("fault", ["fail", "lose", "die"])
def test_a_fault_anywhere_on_the_way_back_loses_nothing(tmp_path: Path, fault: str) -> None:
    """For calls that change something, all of them for a death: a rollback ends well, or a recovery brings it there.

    What cannot be removed once all stands again is named in the log. A volume that came is there until then.
    """
    number = _calls_of_the_way_in(Hut(BackupStore(tmp_path / "counted")))
    while True:
        number += 1 if fault == "die" else 3
        hut = Hut(BackupStore(tmp_path / f"store-{number}"))
        failing = FailingEngine(hut.engine, at=number, after=fault == "lose", kill=fault == "die")
        tx = hut.rollback(failing)
        with suppress(UpdateFailedError, RollbackFailedError, Killed), tx:
            hut.update()
            raise UpdateFailedError
        if failing.struck is None:
            break
        if tx.status is not Status.ROLLED_BACK:
            assert hut.engine.volume("shop_index").read("/words") == b"many", failing.story()
        stood = tx.status is Status.ROLLED_BACK
        done = recover(client=hut.engine, store=hut.store, keep_found=False)
        hut.check_restored()
        assert stood or [one.outcome for one in done] == ["rolled back"], failing.story()
        assert stood or hut.is_alone(), failing.story()
        assert recover(client=hut.engine, store=hut.store) == ()
    assert hut.is_alone()
    assert number > 20, "the rollback was seen to make calls"


def _calls_of_the_way_in(hut: Hut) -> int:
    counting = FailingEngine(hut.engine)
    with hut.rollback(counting):
        entered = counting.count
        hut.update()
        raise RollbackRequested
    return entered


MOVES = st.lists(
    st.tuples(
        st.sampled_from(
            ["remove", "recreate", "cut off", "stop", "add", "add volume", "drop volume", "write", "unplug"]
        ),
        st.sampled_from(["db", "web", "new"]),
        st.sampled_from(["shop_rows", "shop_spare", "shop_new"]),
    ),
    max_size=7,
)
"""What an update may do to a project: a move, the service that it is for, the volume that it is for."""


class Moves:
    """An update made of moves, each of which may be impossible where it comes."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def do(self, move: str, service: str, volume: str) -> None:
        """Do one move."""
        name = f"shop-{service}-1"
        match move:
            case "remove":
                self.engine.remove_container(name, force=True, volumes=True)
            case "recreate":
                self.engine.remove_container(name, force=True)
                self.add(name, service, volume)
            case "cut off":
                self.engine.rename_container(name, f"0123456789ab_{name}")
                self.add(name, service, volume)
            case "stop":
                self.engine.stop_container(name)
            case "add":
                self.add(name, service, volume)
            case "add volume":
                self.engine.create_volume({"Name": volume, "Labels": PROJECT})
            case "drop volume":
                self.engine.remove_volume(volume)
            case "write":
                self.engine.inspect_volume(volume)
                self.engine.volume(volume).write("/data", "spoilt")
            case _:
                self.engine.disconnect_network("shop_default", name)

    def add(self, name: str, service: str, volume: str) -> None:
        """Make a container, and start it."""
        self.engine.inspect_volume(volume)
        where = {volume: "/data"}
        self.engine.run(name, image="app:2", labels=labels(service), volumes=where, networks=["shop_default"])


@given(moves=MOVES, dies=st.booleans())
@settings(max_examples=20, deadline=None)
def test_whatever_an_update_did_is_undone(moves: list[tuple[str, str, str]], *, dies: bool) -> None:
    """Services come, go, are made anew and renamed; volumes come and go: afterwards all is as it was, and no more."""
    with tempfile.TemporaryDirectory() as folder:
        hut = Hut(BackupStore(Path(folder)))
        engine = hut.engine
        engine.create_volume({"Name": "shop_spare", "Labels": PROJECT})
        engine.create_network({"Name": "shop_default", "Labels": PROJECT})
        rows = {"shop_rows": "/data"}
        engine.run("shop-web-1", image="app:1", labels=labels("web"), volumes=rows, networks=["shop_default"])
        before = {name: engine.inspect_container(name) for name in ("shop-db-1", "shop-web-1")}
        killed = FailingEngine(engine, at=1 if dies else None, kill=True, verbs={"kill_container"})
        with suppress(Killed), hut.rollback(killed):
            for move in moves:
                with suppress(EngineError):
                    Moves(engine).do(*move)
            if dies:
                killed.kill_container("shop-db-1")
            raise RollbackRequested
        recover(client=engine, store=hut.store)
        for name, inspection in before.items():
            assert compare(inspection, engine.inspect_container(name)) == []
        assert len(engine.list_containers()) == len(before)
        assert sorted(engine.list_volumes()) == ["shop_rows", "shop_spare"]
        assert not engine.volume("shop_rows").exists("/data")
        assert engine.volume("shop_rows").read("/count") == b"1"
