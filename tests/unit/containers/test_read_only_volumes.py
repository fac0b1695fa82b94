"""Read-only volumes without anything in them, which a container cannot be created again with."""

from __future__ import annotations

from typing import Any

import pytest

from docker_rollback import BackupStore, UnsupportedContainerError, backup
from docker_rollback.testing import CHANGING, FailingEngine, FakeEngine

FOLDER = {"type": "none", "device": "/srv/data", "o": "bind,ro"}
MEMORY = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,ro"}


def engine(options: dict[str, str], mounted: dict[str, Any]) -> FakeEngine:
    """Return an engine with a container that mounts a volume of some options."""
    fake = FakeEngine()
    fake.add_image("app")
    fake.host.mkdir("/srv/data")
    fake.create_volume({"Name": "data", "Driver": "local", "DriverOpts": options})
    fake.run("app", image="app", **mounted)
    return fake


def mount(**options: bool) -> dict[str, Any]:
    """Return a mount of the volume by the newer words."""
    return {"Mounts": [{"Type": "volume", "Source": "data", "Target": "/data", "VolumeOptions": options}]}


BIND: dict[str, Any] = {"volumes": {"data": "/data"}}
NOT_COPIED: dict[str, Any] = {"volumes": {"data": "/data:nocopy"}}


@pytest.mark.parametrize(
    ("options", "mounted", "words"),
    [
        (FOLDER, BIND, "'data' is empty and read-only .* at /data.* mount the volume with `nocopy`, or put a file"),
        (FOLDER, mount(), "'data' is empty and read-only"),
        (MEMORY, BIND, "'data' lives in memory and is read-only .* give the volume other options"),
        (MEMORY, mount(NoCopy=True), "'data' lives in memory and is read-only"),
    ],
)
def test_it_is_refused_before_anything_is_touched(
    store: BackupStore, options: dict[str, str], mounted: dict[str, Any], words: str
) -> None:
    """The error names the container and the volume, and says what to do."""
    fake = engine(options, mounted)
    watching, before = FailingEngine(fake), fake.inspect_container("app")
    with pytest.raises(UnsupportedContainerError, match=f"container 'app' .*{words}"):
        backup("app", client=watching, store=store, quiesce="pause")
    assert [call for call in watching.calls if call.verb in CHANGING and before["Id"] in str(call.arguments)] == []
    assert fake.inspect_container("app") == before
    assert store.list() == []


@pytest.mark.parametrize(
    ("options", "mounted"),
    [
        ({**FOLDER, "o": "bind"}, BIND),
        ({**FOLDER, "o": "bind,errors=ro-mount"}, BIND),
        (FOLDER, NOT_COPIED),
        (FOLDER, mount(NoCopy=True)),
    ],
)
def test_nothing_else_is_refused(store: BackupStore, options: dict[str, str], mounted: dict[str, Any]) -> None:
    """A volume that can be written to, and one that nothing is copied into, are backed up."""
    taken = backup("app", client=engine(options, mounted), store=store)
    assert [one.name for one in taken.volumes] == ["data"]


def test_one_that_has_something_in_it_is_not_refused(store: BackupStore) -> None:
    """Nothing is copied into it."""
    fake = engine(FOLDER, BIND)
    fake.host.write("/srv/data/file", "x")
    assert [one.name for one in backup("app", client=fake, store=store).volumes] == ["data"]
