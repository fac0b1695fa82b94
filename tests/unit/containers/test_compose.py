"""A compose project as one: all that bears its label is backed up, and put back as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docker_rollback import (
    BackupStore,
    ContainerBusyError,
    RollbackFailedError,
    RollbackRequested,
    Status,
    UnsupportedContainerError,
    UpdateRejectedError,
    backup,
    recover,
    restore,
    rollback,
)
from docker_rollback._names import ROLE_LABEL
from docker_rollback.errors import CaptureError, ProjectNotFoundError, RestoreError
from docker_rollback.testing import FailingEngine
from tests.unit.shop import UpdateFailedError
from tests.unit.town import NAME, ORDER, PROJECT, Town, names


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
    """Those that depend on nothing come first, in the order of their making, or in that in which they are named."""
    assert names(town.rollback().check().containers) == ORDER
    others = [name for name in ORDER if name != "shop-migrate-1"]
    assert names(town.rollback("shop-migrate-1").check().containers) == ["shop-migrate-1", *others]


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
    with pytest.raises(ValueError, match="project is empty"):
        call(project="", client=town.engine, store=town.store)


def test_containers_beside_a_project_are_of_its_moment(town: Town) -> None:
    """Named ones come along, and are no part of the project: what is added to theirs is nobody's."""
    with town.rollback("alone") as tx:
        town.update()
        town.engine.volume("other").write("/data", "2")
        raise RollbackRequested
    assert tx.backup.outside_project == ("alone",)
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


def test_a_restore_leaves_volumes_without_a_name_as_well(town: Town) -> None:
    """Nobody knows more of what is in them; their containers go."""
    taken = backup(project=NAME, client=town.engine, store=town.store)
    town.run("search", anonymous=["/words"])
    (mount,) = town.engine.inspect_container("shop-search-1")["Mounts"]
    town.engine.volume(mount["Name"]).write("/words", "many")
    restore(taken, client=town.engine, store=town.store)
    assert town.engine.volume(mount["Name"]).read("/words") == b"many"
    town.check_restored()


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
    with pytest.raises(RestoreError, match=r"'reader'.* uses volume 'shop_spare'.*Nothing was touched"):
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
