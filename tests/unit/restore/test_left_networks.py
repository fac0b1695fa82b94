"""Containers that have left the network of their mode, restored on an engine that has never seen them."""

from __future__ import annotations

import pytest

from docker_rollback import BackupStore, backup, compare, restore
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
