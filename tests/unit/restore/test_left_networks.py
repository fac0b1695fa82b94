"""Containers that have left the network of their mode, or that have no network of their own."""

from __future__ import annotations

from typing import Any

import pytest

from docker_rollback import BackupStore, RollbackRequested, backup, compare, restore, rollback
from docker_rollback.errors import NetworkNotFoundError
from docker_rollback.testing import FakeEngine


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
@pytest.mark.parametrize("joined", [["dmz", "back"], ["dmz"], []], ids="-".join)
@pytest.mark.parametrize("there", [True, False], ids=["networks there", "no networks there"])
def test_a_restore_on_another_engine_leaves_it_where_it_was(
    store: BackupStore, joined: list[str], *, there: bool, running: bool
) -> None:
    """It is on the networks that it was on, has been on no other, and the network of its mode is there."""
    first, other = FakeEngine(seed="first"), FakeEngine(seed="other")
    first.add_image("app")
    for name in ("front", "dmz", "back"):
        first.create_network({"Name": name})
        if there:
            other.create_network({"Name": name})
    first.run("web", image="app", networks=["front"])
    first.disconnect_network("front", "web")
    for name in joined:
        first.connect_network(name, "web", {"Aliases": [f"web-{name}"]})
    if not running:
        first.stop_container("web")
    taken = backup("web", client=first, store=store)
    assert restore(taken, client=other, store=store) == ["web"]
    standing = other.inspect_container("web")
    endpoints = standing["NetworkSettings"]["Networks"]
    assert sorted(endpoints) == sorted(joined)
    assert all(f"web-{name}" in endpoints[name]["Aliases"] for name in joined)
    assert standing["HostConfig"]["NetworkMode"] == "front"
    assert other.inspect_network("front")["Name"] == "front"
    assert standing["State"]["Running"] is running
    if running:
        assert compare(first.inspect_container("web"), standing) == []


class WithoutItsMode(FakeEngine):
    """An engine that shows a container's mode as its network, and has no such network, as Podman does."""

    def inspect_container(self, ref: str) -> dict[str, Any]:
        """Return the inspection, with the network "none"."""
        found = dict(super().inspect_container(ref))
        return {**found, "NetworkSettings": {**found["NetworkSettings"], "Networks": {"none": {"NetworkID": "none"}}}}

    def inspect_network(self, ref: str) -> Any:
        """Return a network; there is none of that name."""
        if ref == "none":
            raise NetworkNotFoundError(ref)
        return super().inspect_network(ref)


def test_a_container_without_a_network_is_put_back(store: BackupStore) -> None:
    """The original container is renamed back, and not recreated."""
    fake = WithoutItsMode()
    fake.add_image("app")
    fake.run("web", image="app", NetworkMode="none")
    fake.stop_container("web")
    before = fake.container("web").id
    with rollback("web", client=fake, store=store, verify=None):
        raise RollbackRequested
    assert fake.container("web").id == before
