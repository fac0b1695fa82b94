"""A compose project as one: all that bears its label is backed up, and put back as if nothing had happened."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docker_rollback import (
    BackupStore,
    CaptureError,
    ContainerBusyError,
    ContainerFilter,
    EngineError,
    ProjectNotFoundError,
    Rollback,
    RollbackFailedError,
    RollbackRequested,
    Status,
    UnfinishedRollbackError,
    UnsupportedContainerError,
    UpdateRejectedError,
    backup,
    compare,
    healthy,
    recover,
    restore,
    rollback,
)
from docker_rollback._engine.port import Engine
from docker_rollback._labels import ROLE_LABEL
from docker_rollback.testing import FailingEngine, FakeClock, FakeEngine, Killed

T = TypeVar("T")
NAME = "shop"
PROJECT = {"com.docker.compose.project": NAME}
ORDER = ["shop-db-1", "shop-worker-2", "shop-worker-1", "shop-web-1", "shop-migrate-1"]
"""In which its containers were made, and start: `web` says that it depends on `db`."""


class UpdateFailedError(Exception):
    """What the update under test raises."""


def labels(service: str, number: int = 1, depends: str = "", *, one_off: bool = False) -> dict[str, str]:
    """Return the labels that compose gives a container."""
    return PROJECT | {
        "com.docker.compose.service": service,
        "com.docker.compose.container-number": str(number),
        "com.docker.compose.depends_on": depends,
        "com.docker.compose.oneoff": str(one_off),
    }


class Town:
    """An engine with a project, with another one, and with a container of none."""

    def __init__(self, store: BackupStore, *, seed: str = "") -> None:
        self.store = store
        self.clock = FakeClock()
        self.engine = FakeEngine(clock=self.clock, seed=seed)
        for version in ("1", "2"):
            self.engine.add_image(f"app:{version}", files={"/app": version})
        for volume in ("shop_rows", "shop_spare"):
            self.make_volume(volume)
        self.make_network("shop_default")
        self.make_network("shop_unused")
        self.engine.volume("shop_rows").write("/count", "1")
        self.engine.volume("shop_spare").write("/kept", "yes")
        self.engine.volume("external").write("/common", "1")
        self.run("db", volumes={"shop_rows": "/rows"}, anonymous=["/log"])
        self.run("worker", number=2)
        self.run("worker")
        self.run("web", depends="db:service_started:false", volumes={"external": "/common:ro"}, restart="always")
        self.run("migrate", start=False)
        self.engine.run("library-web-1", image="app:1", labels={"com.docker.compose.project": "library"})
        self.engine.run("alone", image="app:1", volumes={"other": "/data"})
        self.before = self.stock()
        self.inspections = {name: self.engine.inspect_container(name) for name in ORDER}

    def make_volume(self, name: str, **more: str) -> None:
        """Make a volume as compose does."""
        request = {"Name": name, "Labels": PROJECT | {"com.docker.compose.volume": name} | more}
        self.engine.create_volume(request)

    def make_network(self, name: str) -> None:
        """Make a network as compose does."""
        self.engine.create_network({"Name": name, "Labels": PROJECT | {"com.docker.compose.network": name}})

    def run(self, service: str, *, number: int = 1, depends: str = "", one_off: bool = False, **more: Any) -> str:
        """Make a container of the project as compose does."""
        self.clock.sleep(1)
        options: dict[str, Any] = {"image": "app:1", "networks": ["shop_default"], **more}
        marks = labels(service, number, depends, one_off=one_off)
        name = options.pop("name", f"shop-{service}-{number}")
        return self.engine.run(name, labels=marks, **options)

    def stock(self) -> dict[str, list[str]]:
        """Return the names of all that there is."""
        containers = (self.engine.inspect_container(one) for one in self.engine.list_containers())
        networks = (self.engine.inspect_network(one)["Name"] for one in self.engine.list_networks())
        volumes = [self.engine.inspect_volume(one) for one in self.engine.list_volumes()]
        return {
            "containers": sorted(found["Name"].removeprefix("/") for found in containers),
            "networks": sorted(networks),
            "volumes": sorted(found["Name"] for found in volumes if len(found["Name"]) < len("f" * 64)),
        }

    def rollback(self, *names: str, engine: Engine | None = None, **options: Any) -> Rollback:
        """Return a rollback of the project that waits for nothing."""
        chosen: dict[str, Any] = {"project": NAME, "verify": healthy(stable_for=0.0), **options}
        return rollback(*names, client=engine or self.engine, store=self.store, **chosen)

    def update(self) -> None:
        """Do what `up` with another file does: services come, go and are made anew, on other data."""
        for name in ("shop-web-1", "shop-db-1", "shop-worker-2"):
            self.engine.remove_container(name, force=True)
        self.make_volume("shop_index")
        self.make_network("shop_back")
        self.engine.volume("shop_rows").write("/count", "99")
        self.engine.volume("shop_spare").delete("/kept")
        self.engine.volume("external").write("/common", "2")
        self.run("database", volumes={"shop_rows": "/rows"}, restart="always")
        self.run("web", image="app:2", depends="database:service_started:false", restart="always")
        self.run("search", networks=["shop_back", "shop_default"], volumes={"shop_index": "/i", "shop_spare": "/s"})
        self.run("worker", number=3, anonymous=["/scratch"])
        self.engine.volume("shop_index").write("/words", "many")

    def check_restored(self) -> None:
        """Assert that the project is what it was, and everything else too."""
        assert self.stock() == self.before
        for name, before in self.inspections.items():
            after = self.engine.inspect_container(name)
            assert compare(before, after) == [], name
            assert after["State"]["Status"] == before["State"]["Status"], name
        assert self.engine.volume("shop_rows").read("/count") == b"1"
        assert self.engine.volume("shop_spare").read("/kept") == b"yes"
        assert self.engine.volume("external").read("/common") == b"1"


@pytest.fixture
def town(tmp_path: Path) -> Town:
    """The project and its neighbours, with an empty store."""
    return Town(BackupStore(tmp_path / "store"))


def names(containers: Iterable[Any]) -> list[str]:
    """Return the names of some containers."""
    return [container.name for container in containers]


def test_all_of_a_project_is_backed_up(town: Town) -> None:
    """Containers that do not run, volumes and networks that nobody uses, and what is not its own but in its use."""
    taken = backup(project=NAME, client=town.engine, store=town.store)
    assert sorted(names(taken.containers)) == sorted(ORDER)
    assert {volume.name for volume in taken.volumes} >= {"shop_rows", "shop_spare", "external"}
    assert [network.name for network in taken.networks] == ["shop_default", "shop_unused"]
    assert taken.project is not None
    assert taken.project.volumes == ("shop_rows", "shop_spare")
    assert taken.id.split("-")[1] == NAME
    assert town.store.get(taken.id) == taken


def test_the_order_is_that_of_the_labels_and_else_of_their_making(town: Town) -> None:
    """Compose makes what others depend on first, which is all that is known where it writes no `depends_on`."""
    assert names(town.rollback().check().containers) == ORDER
    assert names(town.rollback("shop-migrate-1").check().containers) == ["shop-migrate-1", *ORDER[:-1]]


def test_what_came_goes_and_what_went_comes_back(town: Town) -> None:
    """A service with its volume and network, a renamed one, a replica more and one less, another image: all undone."""
    with town.rollback() as tx:
        town.update()
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    town.check_restored()


def test_an_untouched_container_stays_the_same(town: Town) -> None:
    """What the update did not touch has its id still: compose, which looks at ids, sees nothing."""
    worker = town.engine.inspect_container("shop-worker-1")["Id"]
    with town.rollback():
        town.update()
        raise RollbackRequested
    assert town.engine.inspect_container("shop-worker-1")["Id"] == worker


def test_a_project_without_containers_is_no_project(town: Town) -> None:
    """The error says which projects there are."""
    with pytest.raises(ProjectNotFoundError, match="'library', 'shop'") as raised, town.rollback(project="shp"):
        pass
    assert raised.value.projects == ("library", "shop")
    with pytest.raises(ProjectNotFoundError):
        town.rollback("alone", project="shp").check()


@pytest.mark.parametrize("call", [rollback, backup])
def test_a_name_that_is_empty_is_refused(town: Town, call: Callable[..., object]) -> None:
    """It would be an update of nothing."""
    with pytest.raises(ValueError, match="empty name"):
        call(project="", client=town.engine, store=town.store)


def test_containers_beside_a_project_are_of_its_moment(town: Town) -> None:
    """Named ones come along, and are no part of the project: what is added to theirs is nobody's."""
    with town.rollback("alone") as tx:
        town.update()
        town.engine.volume("other").write("/data", "2")
        raise RollbackRequested
    assert tx.backup.beside == ("alone",)
    assert not town.engine.volume("other").exists("/data")
    town.check_restored()


def test_a_one_off_at_work_is_refused(town: Town) -> None:
    """A rollback would run its command a second time; named by hand, it is a container like any other."""
    town.run("web", one_off=True, name="shop-web-run-1")
    with pytest.raises(UnsupportedContainerError, match="compose run"), town.rollback():
        pass
    with town.rollback("shop-web-run-1"):
        town.engine.remove_container("shop-web-run-1", force=True)
        raise RollbackRequested
    assert town.engine.inspect_container("shop-web-run-1")["State"]["Status"] == "running"


def test_a_one_off_that_has_ended_is_backed_up(town: Town) -> None:
    """It is a part of the project, and `down` has to find it; one that the update left goes."""
    town.run("web", one_off=True, name="shop-web-run-1", start=False)
    with town.rollback():
        town.engine.remove_container("shop-web-run-1")
        town.run("web", one_off=True, name="shop-web-run-2")
        raise RollbackRequested
    assert "shop-web-run-1" in town.stock()["containers"]
    assert "shop-web-run-2" not in town.stock()["containers"]


@pytest.mark.parametrize("removed", [False, True])
def test_a_recreation_that_was_cut_off_is_undone(town: Town, *, removed: bool) -> None:
    """Compose 1 renames the old container, compose 2 gives the new one a name for a while; both have digits before."""
    old = town.engine.inspect_container("shop-web-1")["Id"]
    with town.rollback():
        if removed:
            town.engine.stop_container(old)
            town.engine.rename_container(old, f"{old[:12]}_shop-web-1")
            town.run("web", image="app:2", start=False)
        else:
            town.run("web", image="app:2", name=f"{old[:12]}_shop-web-1", start=False)
            town.engine.stop_container(old)
        raise RollbackRequested
    assert town.engine.inspect_container("shop-web-1")["Id"] == old
    town.check_restored()


def test_a_renamed_container_that_was_there_comes_back_so(town: Town) -> None:
    """What a cut-off recreation had left before the backup is a part of the project as well."""
    town.run("web", name="0123456789ab_shop-web-1", start=False)
    with town.rollback():
        town.engine.remove_container("0123456789ab_shop-web-1")
        raise RollbackRequested
    assert "0123456789ab_shop-web-1" in town.stock()["containers"]


def test_a_volume_of_the_update_outlives_a_rollback_that_failed(town: Town) -> None:
    """What came is removed once everything stands again, not before; a recovery keeps it as a backup first."""
    failing = FailingEngine(town.engine, verbs={"rename_container"}, at=1, lasting=True)
    with pytest.raises(RollbackFailedError), town.rollback(engine=failing):
        town.update()
        raise UpdateFailedError
    assert town.engine.volume("shop_index").read("/words") == b"many"
    (done,) = recover(client=town.engine, store=town.store)
    assert done.outcome == "rolled back"
    town.check_restored()


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
    with pytest.raises(UnfinishedRollbackError, match="made"), town.rollback():
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


def test_the_state_of_a_failed_update_is_kept_whole(town: Town) -> None:
    """With `keep_failed`, what the rollback removes is in a backup of its own before."""
    with town.rollback(keep_failed=True):
        town.update()
        raise RollbackRequested
    town.check_restored()
    (kept,) = [found for found in town.store.list() if found.kept_for]
    assert kept.id.split("-")[1:3] == [NAME, "failed"]
    assert "shop_index" in {volume.name for volume in kept.volumes}
    assert "shop-search-1" in names(kept.containers)


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


def test_a_restore_leaves_volumes_without_a_name_as_well(town: Town) -> None:
    """Nobody knows more of what is in them; their containers go."""
    taken = backup(project=NAME, client=town.engine, store=town.store)
    town.run("search", anonymous=["/words"])
    (mount,) = town.engine.inspect_container("shop-search-1")["Mounts"]
    town.engine.volume(mount["Name"]).write("/words", "many")
    restore(taken, client=town.engine, store=town.store)
    assert town.engine.volume(mount["Name"]).read("/words") == b"many"
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


def test_a_project_is_one_series_whatever_it_consists_of(town: Town) -> None:
    """Updates change its containers; of the backups of the project, so many stay."""
    alone = backup("shop-db-1", client=town.engine, store=town.store)
    for number in range(3, 6):
        with town.rollback(keep=2):
            town.run("worker", number=number)
        town.clock.sleep(1)
    left = [found for found in town.store.list() if found.project is not None]
    assert len(left) == 2
    assert alone.id in [found.id for found in town.store.list()]


def test_the_containers_of_the_update_are_checked(town: Town) -> None:
    """A service that it took away need not be well, one that it added has to be."""
    with town.rollback() as tx:
        town.engine.remove_container("shop-worker-2", force=True)
    assert tx.status is Status.COMMITTED
    with pytest.raises(UpdateRejectedError) as rejected, town.rollback():
        town.run("search")
        town.engine.container("shop-search-1").exit(3)
    assert rejected.value.container == "shop-search-1"
    assert "shop-search-1" not in town.stock()["containers"]


def test_an_update_that_leaves_nothing_is_rejected(town: Town) -> None:
    """`down` is no update."""
    with pytest.raises(UpdateRejectedError, match="no container"), town.rollback():
        for name in ORDER:
            town.engine.remove_container(name, force=True)
    town.check_restored()


class Meddled(FailingEngine):
    """An engine on which somebody adds to the project while a backup is taken."""

    def __init__(self, town: Town) -> None:
        super().__init__(town.engine)
        self._town = town

    def save_image(self, ref: str) -> Any:
        """Add a volume, then export the image."""
        self._town.make_volume("shop_theirs")
        return super().save_image(ref)


def test_what_comes_while_the_backup_is_taken_stops_it(town: Town) -> None:
    """It is not in the backup, and would be taken for the update's."""
    with pytest.raises(CaptureError, match="shop_theirs"), town.rollback(engine=Meddled(town)):
        pass
    assert town.engine.has_volume("shop_theirs")
    town.engine.remove_volume("shop_theirs")
    town.check_restored()


def test_an_image_name_that_the_update_took_leads_back(town: Town) -> None:
    """`up` would make the containers anew from what the name means: a build by the same name is undone as well."""
    before = town.engine.inspect_image("app:1")["Id"]
    with town.rollback():
        town.engine.add_image("app:1", files={"/app": "built anew"})
        town.update()
        raise RollbackRequested
    assert town.engine.inspect_image("app:1")["Id"] == before
    town.check_restored()


def test_a_project_is_busy_as_a_whole(town: Town, tmp_path: Path) -> None:
    """Also for another store, and when the update has left it other containers."""
    with town.rollback() as tx:
        town.update()
        for name in ("shop-worker-1", "shop-migrate-1", "shop-web-1"):
            town.engine.remove_container(name, force=True)
        for store in (town.store, BackupStore(tmp_path / "other")):
            with pytest.raises(ContainerBusyError, match="project"):
                backup(project=NAME, client=town.engine, store=store)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    town.check_restored()


def test_who_uses_a_volume_that_the_project_does_not_rests_for_the_rollback(town: Town) -> None:
    """One that was there goes on afterwards; what came stays stopped; for a restore it is a reason to refuse."""
    town.engine.run("reader", image="app:1", volumes={"shop_spare": "/spare:ro"})
    with town.rollback() as tx:
        town.engine.volume("shop_spare").delete("/kept")
        town.engine.run("stranger", image="app:1", volumes={"shop_spare": "/spare"})
        raise RollbackRequested
    assert town.engine.inspect_container("reader")["State"]["Status"] == "running"
    assert town.engine.inspect_container("stranger")["State"]["Status"] == "exited"
    assert town.engine.volume("shop_spare").read("/kept") == b"yes"
    with pytest.raises(Exception, match=r"'reader'.* uses volume 'shop_spare'.*Nothing was touched"):
        restore(tx.backup, client=town.engine, store=town.store)


def test_who_writes_to_a_volume_that_the_project_does_not_use_is_a_reason_to_refuse(town: Town) -> None:
    """As with any other volume of the backup."""
    town.engine.run("writer", image="app:1", volumes={"shop_spare": "/spare"})
    with pytest.raises(UnsupportedContainerError, match="'writer' writes to"), town.rollback():
        pass
    with town.rollback(shared="stop"):
        town.engine.volume("shop_spare").delete("/kept")
        raise RollbackRequested
    assert town.engine.volume("shop_spare").read("/kept") == b"yes"


def test_a_volume_made_anew_under_a_newcomer_is_replaced(town: Town) -> None:
    """`down -v` with another version of compose leaves a volume of the same name and other labels."""
    with town.rollback():
        town.engine.remove_container("shop-db-1", force=True)
        town.engine.remove_volume("shop_rows")
        town.make_volume("shop_rows", **{"com.docker.compose.version": "3"})
        town.run("database", volumes={"shop_rows": "/rows"})
        raise RollbackRequested
    town.check_restored()


def test_a_network_whose_addresses_a_newcomer_has_comes_back(town: Town) -> None:
    """`down`, then `up` with the network under another name and in the same place."""
    pool = {"IPAM": {"Config": [{"Subnet": "10.99.0.0/24"}]}, "Labels": PROJECT}
    town.engine.create_network({"Name": "shop_fixed", **pool})
    with town.rollback():
        town.engine.remove_network("shop_fixed")
        town.engine.create_network({"Name": "shop_firm", **pool})
        town.run("search", networks=["shop_firm"])
        raise RollbackRequested
    assert town.engine.has_network("shop_fixed")
    assert not town.engine.has_network("shop_firm")


def test_a_helper_made_from_a_member_is_no_member(town: Town) -> None:
    """A committed image has the labels of its container, and gives them to whatever is made from it."""
    town.engine.run("helper", image="app:1", labels=PROJECT | {ROLE_LABEL: "helper"})
    assert sorted(names(town.rollback().check().containers)) == sorted(ORDER)


def test_a_check_tells_what_a_backup_would_be(town: Town) -> None:
    """Before anything is touched."""
    report = town.rollback().check()
    assert report.project is not None
    assert set(report.volumes) >= {"shop_rows", "shop_spare", "external"}
    assert report.refused == {}


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
