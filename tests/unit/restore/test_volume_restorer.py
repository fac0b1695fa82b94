"""Volumes that a restore has to create, or to replace, before a container is created on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest
from attrs import evolve

from docker_rollback import BackupStore, RollbackFailedError, RollbackRequested, Status, backup, rollback
from docker_rollback._model.backup import Backup
from docker_rollback._restore.surroundings import Surroundings
from docker_rollback._restore.volume_restorer import VolumeRestorer
from docker_rollback._threads import each_at_once
from docker_rollback._volumes.archiver import VolumeArchiver
from docker_rollback.errors import ResumeError, VolumeAccessError, VolumeNotFoundError
from docker_rollback.testing import FakeEngine, Run
from docker_rollback.testing._fake.programs import PROGRAMS
from tests.unit.gauge import Gauge
from tests.unit.shop import Shop


class Unusable(VolumeArchiver):
    """An archiver to which each volume lacks its folder, and has something mounted in it."""

    def check_device(self, volume: str) -> None:
        """Say that the folder is gone."""
        raise VolumeAccessError(volume, "it is bound to '/nowhere'")

    def refuse_mounts(self, volume: str) -> None:
        """Say that something is mounted in it."""
        raise VolumeAccessError(volume, "something is mounted in it")


def taken(shop: Shop) -> Backup:
    """Return a backup of the service."""
    return backup("shop", client=shop.engine, store=shop.store)


def restorer(shop: Shop, store: BackupStore, made: Backup) -> VolumeRestorer:
    """Return a restorer whose volumes cannot be used."""
    archiver = Unusable(shop.engine, store)
    return VolumeRestorer(shop.engine, archiver, made, [], Surroundings(shop.engine, made))


def test_a_volume_that_was_created_without_its_folder_goes_again(shop: Shop, store: BackupStore) -> None:
    """Its folder on the host is gone: nothing is left behind by the attempt."""
    made = taken(shop)
    shop.engine.remove_container("shop", force=True)
    shop.engine.remove_volume("orders")
    with pytest.raises(VolumeAccessError, match=r"'orders'.*'/nowhere'"):
        restorer(shop, store, made).restore(made.volume("orders"))
    with pytest.raises(VolumeNotFoundError):
        shop.engine.inspect_volume("orders")


def test_a_volume_in_which_something_is_mounted_is_not_removed(shop: Shop, store: BackupStore) -> None:
    """Another volume of the name would have to go, and its engine would remove what is mounted in it as well."""
    made = taken(shop)
    archive = made.volume("orders")
    other = evolve(archive, inspection={**archive.inspection, "Labels": {"other": "1"}})
    with pytest.raises(VolumeAccessError, match=r"'orders'.*mounted"):
        restorer(shop, store, made).restore(other)
    assert shop.engine.inspect_volume("orders")["Labels"] == archive.inspection["Labels"]
    assert shop.engine.inspect_container("shop")["State"]["Running"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_bound_and_gone_is_named(store: BackupStore, kind: str) -> None:
    """The engine would make a folder there: the error names container and path, and nothing is made."""
    fake = FakeEngine()
    fake.add_image("app")
    fake.host.write("/srv/app.conf" if kind == "file" else "/srv/app.conf/file", "setting=1")
    fake.run("app", image="app", volumes={"/srv/app.conf": "/etc/app.conf:ro"})
    with (
        pytest.raises(RollbackFailedError, match=r"container 'app'.*binds '/srv/app.conf'.*which is gone"),
        rollback("app", client=fake, store=store, verify=None),
    ):
        fake.remove_container("app", force=True)
        fake.host.delete("/srv/app.conf")
        raise RollbackRequested
    assert not fake.host.exists("/srv/app.conf")


def test_what_is_bound_by_a_container_at_rest_may_be_gone(store: BackupStore) -> None:
    """Nobody starts it, so that nothing is made: it is put back as it was, without what it bound."""
    fake = FakeEngine()
    fake.add_image("app")
    fake.host.write("/srv/app.conf", "setting=1")
    fake.run("app", image="app", volumes={"/srv/app.conf": "/etc/app.conf:ro"})
    fake.stop_container("app")
    with rollback("app", client=fake, store=store, verify=None):
        fake.host.delete("/srv/app.conf")
        raise RollbackRequested
    assert fake.container("app").status == "exited"


class OfAnotherKind(FakeEngine):
    """An engine whose host is of another architecture, so that our own programs do not run there."""

    def __init__(self) -> None:
        super().__init__(architecture="alpha")
        self.on_root: list[str] = []
        self.rights: set[str] = set()

    def create_container(self, name: str, request: Mapping[str, Any], *, platform: str | None = None) -> str:
        """Create a container, and note the image of one that mounts the root of the host."""
        host = request["HostConfig"]
        if any(mount["Source"] == "/" for mount in host.get("Mounts") or ()):
            self.on_root.append(str(request["Image"]))
            self.rights.update(host["CapAdd"])
        return super().create_container(name, request, platform=platform)


def with_a_setting(fake: FakeEngine) -> None:
    """Have a service that binds a file of the host, and another one that has nothing to do with it."""
    fake.add_image("app")
    fake.add_image("other")
    fake.host.write("/srv/app.conf", "setting=1")
    fake.run("other", image="other")
    fake.run("app", image="app", volumes={"/srv/app.conf": "/etc/app.conf:ro"})


def test_no_image_of_a_container_gets_the_root_of_the_host(
    store: BackupStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Where our own image cannot look for what is bound, nobody does; the rollback goes on, and a warning says so."""
    fake = OfAnotherKind()
    with_a_setting(fake)
    with rollback("app", client=fake, store=store, verify=None) as tx:
        fake.add_image("bad")
        fake.remove_container("app", force=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert fake.on_root == []
    assert "cannot check whether the paths that containers bind exist" in caplog.text


def test_an_image_that_was_asked_for_looks_for_what_is_bound(store: BackupStore) -> None:
    """Its helper may search folders of the host, and nothing else."""
    fake = OfAnotherKind()
    with_a_setting(fake)
    fake.add_image("tools")
    tools = str(fake.inspect_image("tools")["Id"])
    with (
        pytest.raises(RollbackFailedError, match=r"container 'app'.*binds '/srv/app.conf'.*which is gone"),
        rollback("app", client=fake, store=store, verify=None, helper_image="tools"),
    ):
        fake.host.delete("/srv/app.conf")
        raise RollbackRequested
    assert set(fake.on_root) == {tools}
    assert fake.rights == {"DAC_READ_SEARCH"}


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("replaced", [False, True], ids=["in-place", "recreated"])
def test_what_is_bound_within_a_folder_of_the_backup_is_back_in_time(
    store: BackupStore, kind: str, *, replaced: bool
) -> None:
    """The update removed what another container binds of the folder: it is filled first, and nothing is missed."""
    fake = FakeEngine()
    fake.add_image("app")
    inner = "/srv/data/conf"
    fake.host.write(inner if kind == "file" else f"{inner}/file", "setting=1")
    fake.run("db", image="app", volumes={"/srv/data": "/data:ro"})
    fake.run("web", image="app", volumes={inner: "/conf:ro"})
    before = fake.host.facts("/srv/data")
    with rollback("db", "web", client=fake, store=store, verify=None, include_binds=["/srv/data"]) as tx:
        if replaced:
            fake.remove_container("web", force=True)
        fake.host.delete(inner)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert fake.host.facts("/srv/data") == before
    assert fake.container("web").status == "running"


@pytest.mark.parametrize("names", [("db", "web"), ("web", "db")], ids=" ".join)
@pytest.mark.parametrize("replaced", [False, True], ids=["in-place", "recreated"])
def test_what_another_container_makes_at_its_start_is_waited_for(
    store: BackupStore, names: tuple[str, str], *, replaced: bool
) -> None:
    """A folder that goes with the stop of the group, and comes back when its maker starts, is not missed."""
    fake = FakeEngine()
    fake.add_image("app")
    fake.host.mkdir("/srv/run")

    fake.add_image("maker")
    fake.on_start("maker", lambda _: fake.host.write("/srv/run/db/socket", ""))
    fake.on_stop("maker", lambda _: fake.host.delete("/srv/run/db"))
    fake.run("db", image="maker", volumes={"/srv/run": "/run"})
    fake.run("web", image="app", volumes={"/srv/run/db": "/db:ro"})
    with rollback(*names, client=fake, store=store, verify=None) as tx:
        if replaced:
            fake.remove_container("web", force=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert fake.host.exists("/srv/run/db/socket")
    assert fake.container("web").status == "running"


def test_a_folder_that_nobody_of_the_group_makes_is_not_made_at_a_creation(store: BackupStore) -> None:
    """Another container binds the same file, or may only read the folder above: it cannot make it."""
    fake = FakeEngine()
    with_a_setting(fake)
    fake.run("reader", image="app", volumes={"/srv": "/srv:ro", "/srv/app.conf": "/etc/app.conf"})
    with (
        pytest.raises(RollbackFailedError, match=r"container 'app'.*binds '/srv/app.conf'.*which is gone"),
        rollback("app", "reader", client=fake, store=store, verify=None),
    ):
        fake.remove_container("app", force=True)
        fake.host.delete("/srv/app.conf")
        raise RollbackRequested
    assert not fake.host.exists("/srv/app.conf")


@pytest.mark.parametrize("code", [1, 127, 137])
@pytest.mark.parametrize("times", [1, 100])
def test_a_look_that_was_cut_off_says_nothing_of_what_is_bound(
    store: BackupStore, caplog: pytest.LogCaptureFixture, code: int, times: int
) -> None:
    """It is taken again; where it never ends well, nobody says that something is gone, and the rollback goes on."""
    fake = FakeEngine()
    with_a_setting(fake)
    cut_off: list[int] = []

    def stat(run: Run) -> int | None:
        if run.arguments[1:3] != ["-c", "%F"] or len(cut_off) == times:
            return PROGRAMS["stat"](run)
        cut_off.append(code)
        return code

    fake.program("stat", stat)
    with rollback("app", client=fake, store=store, verify=None) as tx:
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert cut_off
    assert ("cannot check whether the paths that containers bind exist" in caplog.text) is (times > 1)


def with_a_socket(fake: FakeEngine) -> None:
    """Have a service that makes a socket when it starts and removes it when it stops, and one that binds it."""
    for image in ("app", "maker"):
        fake.add_image(image)
    fake.host.mkdir("/srv/run")
    fake.on_start("maker", lambda _: fake.host.write("/srv/run/socket", ""))
    fake.on_stop("maker", lambda _: fake.host.exists("/srv/run/socket") and fake.host.delete("/srv/run/socket"))
    fake.run("db", image="maker", volumes={"/srv/run": "/run"})
    fake.run("web", image="app", volumes={"/srv/run/socket": "/socket"})


@pytest.mark.parametrize("names", [["db", "web"], ["web", "db"], ["db"]], ids=" ".join)
def test_a_capture_starts_nothing_before_what_it_binds_is_there(store: BackupStore, names: list[str]) -> None:
    """Another container of the group, or one that stops along with it, makes it at its own start, which comes first."""
    fake = FakeEngine()
    with_a_socket(fake)
    alone: dict[str, Any] = {"include_binds": ["/srv/run"], "shared": "stop"} if len(names) == 1 else {}
    backup(*names, client=fake, store=store, **alone)
    assert fake.host.read("/srv/run/socket") == b""
    assert [fake.container(name).status for name in ("db", "web")] == ["running", "running"]


def test_a_capture_names_what_is_bound_and_not_made_again(store: BackupStore) -> None:
    """It is waited for so long and no longer; the other container runs, and no folder is made."""
    fake = FakeEngine()
    with_a_socket(fake)
    fake.on_start("maker", lambda _: None)
    with pytest.raises(ResumeError, match=r"'web'.*binds '/srv/run/socket'.*which is gone") as caught:
        backup("db", "web", client=fake, store=store)
    assert caught.value.containers == ("web",)
    assert not fake.host.exists("/srv/run/socket")
    assert [fake.container(name).status for name in ("db", "web")] == ["running", "exited"]


def test_a_capture_waits_for_nothing_that_was_gone_before(store: BackupStore) -> None:
    """A container that ran without the path that it binds is started without it, as it would be by hand."""
    fake = FakeEngine()
    with_a_socket(fake)
    fake.on_start("maker", lambda _: None)
    fake.host.delete("/srv/run/socket")
    backup("db", "web", client=fake, store=store)
    assert fake.container("web").status == "running"


class MakesFoldersEarly(FakeEngine):
    """An engine that makes folders for missing paths when it creates a container, as Podman does.

    Attributes:
        puts: a name of something that somebody puts into each such folder; empty for nothing.
    """

    puts = ""

    def create_container(self, name: str, request: Mapping[str, Any], *, platform: str | None = None) -> str:
        """Make the folders, then create the container."""
        for bind in request["HostConfig"].get("Binds") or ():
            path = bind.split(":")[0]
            if not self.host.exists(path):
                self.host.mkdir(path)
                if self.puts:
                    self.host.write(f"{path}/{self.puts}", "theirs")
        return super().create_container(name, request, platform=platform)


def making_early(path: str) -> MakesFoldersEarly:
    """Return such an engine, with a service that makes a socket when it starts, and one that binds the socket."""
    fake = MakesFoldersEarly()
    for image in ("app", "maker"):
        fake.add_image(image)
    first = path.removeprefix("/srv/run/").split("/", maxsplit=1)[0]
    fake.host.mkdir("/srv/run")
    fake.on_start("maker", lambda _: fake.host.exists(path) or fake.host.write(path, ""))
    fake.on_stop("maker", lambda _: fake.host.exists(path) and fake.host.delete(f"/srv/run/{first}"))
    fake.run("db", image="maker", volumes={"/srv/run": "/run"})
    fake.run("web", image="app", volumes={path: "/socket"})
    return fake


@pytest.mark.parametrize("path", ["/srv/run/socket", "/srv/run/db/1/socket"])
@pytest.mark.parametrize("names", [["db", "web"], ["web", "db"]], ids=" ".join)
def test_a_folder_that_is_made_at_a_creation_is_removed(store: BackupStore, names: list[str], path: str) -> None:
    """The other container of the group makes the socket at its start, and then the first one starts."""
    fake = making_early(path)
    with rollback(*names, client=fake, store=store, verify=None) as tx:
        fake.remove_container("web", force=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert fake.host.read(path) == b""
    assert [fake.container(name).status for name in ("db", "web")] == ["running", "running"]


def test_a_folder_that_is_made_for_a_stopped_container_is_removed(store: BackupStore) -> None:
    """The container is created again; what it binds stays missing."""
    fake = MakesFoldersEarly()
    with_a_setting(fake)
    fake.stop_container("app")
    with rollback("app", client=fake, store=store, verify=None) as tx:
        fake.remove_container("app")
        fake.host.delete("/srv")
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert fake.container("app").status != "running"
    assert not fake.host.exists("/srv")


def test_a_folder_that_is_made_at_a_creation_is_left_once_something_is_in_it(store: BackupStore) -> None:
    """The rollback fails, and names the folder and what to do."""
    fake = making_early("/srv/run/socket")
    told = "'/srv/run/socket'.*a folder with something in it is in its place; move that away"
    with (
        pytest.raises(RollbackFailedError, match=told),
        rollback("db", "web", client=fake, store=store, verify=None),
    ):
        fake.remove_container("web", force=True)
        fake.puts = "file"
        raise RollbackRequested
    assert fake.host.read("/srv/run/socket/file") == b"theirs"


def test_two_containers_that_bind_the_same_missing_path_leave_no_folder(shop: Shop, store: BackupStore) -> None:
    """Podman makes it at the creation of either; of two at once, one would take the other's folder for the user's."""
    made = taken(shop)
    gauge, lock = Gauge(), threading.Lock()

    def create(_: int) -> None:
        with restorer(shop, store, made).creating(made.containers[0], lock), gauge:
            time.sleep(0.002)

    assert each_at_once(range(8), create) == [None] * 8
    assert gauge.highest == 1
