"""Folders that somebody removed behind an engine's back: of a volume, and of a bind that no backup holds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import docker
import pytest

from docker_rollback import BackupStore, RollbackFailedError, RollbackRequested, Status, restore, rollback
from docker_rollback._volumes import _proof
from tests.integration.matrix import Lab

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not _proof.may_do_anything(), reason="looking into volumes takes root, with every capability"),
]


@pytest.fixture
def lab(docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> Any:
    """An engine with names that belong to one test alone."""
    lab = Lab(docker_client, busybox_image, test_labels)
    yield lab
    lab.clear()


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
