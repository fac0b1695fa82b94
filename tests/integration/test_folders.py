"""What somebody did to folders behind an engine's back: removed them, or had nothing change them any more."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import docker
import pytest

from docker_rollback import BackupStore, RollbackFailedError, RollbackRequested, Status, restore, rollback
from docker_rollback._host import processes
from docker_rollback._host.tree import Tree
from docker_rollback._volumes.fill.file_flags import clear_flags
from tests.engines.results import cannot
from tests.integration.matrix import Lab
from tests.unit.volumes.fill.test_file_flags import flag

pytestmark = pytest.mark.engine

takes_root = pytest.mark.skipif(
    not processes.may_do_anything(), reason="looking into volumes and layers takes root, with every capability"
)


@pytest.fixture
def lab(docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> Any:
    """An engine with names that belong to one test alone."""
    lab = Lab(docker_client, busybox_image, test_labels)
    yield lab
    lab.clear()


@pytest.mark.direct
@takes_root
@pytest.mark.parametrize("container", ["kept", "made anew"])
def test_a_volume_whose_folder_is_gone_is_healed(lab: Lab, tmp_path: Path, container: str) -> None:
    """The folders of a named and of an anonymous volume are made again and filled; the service runs on its data."""
    named = lab.volume("named", stays=True)
    lab.make(lab.name, lab.body(host={"Binds": [f"{named}:/named"]}, Volumes={"/anonymous": {}}), {}, "running")
    lab.run("echo rows > /named/table; chmod 2750 /named; echo warm > /anonymous/cache")
    folders = [Path(mount["Source"]) for mount in lab.inspect()["Mounts"]]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip("the engine's volumes cannot be seen here")
    with rollback(lab.name, client=lab.client, store=tmp_path / "store", verify=None) as tx:
        lab.engine.stop_container(lab.name, timeout=0)
        if container == "made anew":
            lab.engine.remove_container(lab.name)
        for folder in folders:
            shutil.rmtree(folder)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert lab.run("cat /named/table /anonymous/cache; stat -c %a /named").split() == ["rows", "warm", "2750"]


@pytest.mark.direct
@takes_root
def test_a_bind_that_is_gone_is_named(lab: Lab, tmp_path: Path) -> None:
    """What the container binds, and cannot be without, is named; with it there again the backup is restored."""
    folder = Path(lab.engine.inspect_volume(lab.volume("folder", stays=True))["Mountpoint"]) / "bound"
    if not folder.parent.is_dir():
        pytest.skip("the engine's volumes cannot be seen here")
    folder.mkdir()
    mounts = [{"Type": "bind", "Source": str(folder), "Target": "/bound"}]
    lab.make(lab.name, lab.body(host={"Mounts": mounts}), {}, "running")
    store = BackupStore(tmp_path / "store")
    try:
        with rollback(lab.name, client=lab.client, store=store, verify=None):
            lab.engine.remove_container(lab.name, force=True)
            folder.rmdir()
            raise RollbackRequested
    except RollbackFailedError as failed:
        assert f"it binds '{folder}' of the engine's host, which is gone" in str(failed)  # noqa: PT017  (or no error)
        folder.mkdir()
        restore(failed.backup_id, client=lab.client, store=store)
    else:
        assert lab.podman, "Docker refuses what is mounted so; Podman makes a folder, and starts the container"
    assert lab.run("ls -d /bound") == "/bound"


@pytest.mark.direct
@takes_root
def test_files_that_nothing_may_change_are_filled_over(lab: Lab, tmp_path: Path) -> None:
    """What the service, or the update, made immutable or append-only does not stand against a rollback next to it."""
    named = lab.volume("named", stays=True)
    lab.make(lab.name, lab.body(host={"Binds": [f"{named}:/named"]}), {}, "running")
    lab.run("mkdir -p /named/deep; echo rows > /named/deep/table; echo one > /named/log")
    root = Path(lab.engine.inspect_volume(named)["Mountpoint"])
    if not root.is_dir():
        pytest.skip("the engine's volumes cannot be seen here")
    flag("+a", root / "log")
    try:
        with rollback(lab.name, client=lab.client, store=tmp_path / "store", verify=None, way="direct") as tx:
            (root / "deep" / "table").write_text("half")
            flag("+i", root / "deep" / "table", root / "deep", root)
            raise RollbackRequested
        assert tx.status is Status.ROLLED_BACK
        assert lab.run("cat /named/deep/table /named/log").split() == ["rows", "one"]
    finally:
        clear_flags(Tree.at(root))


@pytest.mark.parametrize(
    "place", ["of the image", pytest.param("of the engine", marks=[pytest.mark.direct, takes_root])]
)
def test_the_mode_of_a_folder_above_a_mount_comes_back(lab: Lab, tmp_path: Path, place: str) -> None:
    """Where nothing but the mode of a folder on the way to a volume was changed, the container made anew has it."""
    lab.image_with({"/srv/app/data/seed" if place == "of the image" else "/srv/app/other": "x"})
    lab.make(lab.name, lab.body(Volumes={"/srv/app/data": {}}), {}, "running")
    if place == "of the engine" and not (lab.inspect().get("GraphDriver") or {}).get("Data"):
        cannot(lab.client, "it does not say where its layers are")
    lab.run("chmod 2750 /srv/app; chown 12:34 /srv/app")
    with rollback(lab.name, client=lab.client, store=tmp_path / "store", verify=None) as tx:
        lab.engine.remove_container(lab.name, force=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert lab.run("stat -c '%a %u %g' /srv/app") == "2750 12 34"


def test_places_for_mounts_alone_leave_the_image_alone(lab: Lab, tmp_path: Path) -> None:
    """A container whose writable layer has nothing but what the engine made for its mounts keeps its image's id."""
    mounts = [{"Type": "tmpfs", "Target": "/deep/er/tmp"}]
    host = {"Mounts": mounts, "Tmpfs": {"/srv/run": ""}, "Init": not lab.podman}
    lab.make(lab.name, lab.body(host=host, Volumes={"/srv/app/data": {}}), {}, "running")
    before = lab.inspect()["Image"]
    with rollback(lab.name, client=lab.client, store=tmp_path / "store", verify=None) as tx:
        lab.engine.remove_container(lab.name, force=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert lab.inspect()["Image"] == before
