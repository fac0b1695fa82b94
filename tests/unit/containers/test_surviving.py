"""What a running container needs to start again and has lost meanwhile: refused before it is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docker_rollback import BackupStore, RollbackRequested, Status, UnsupportedContainerError, healthy, rollback
from docker_rollback._containers.surviving import doubtful_paths, lost_partners
from docker_rollback._inspection.recreate import observe
from docker_rollback._model.backup import Observed
from tests.unit.shop import Shop

MOUNTINFO = (
    "30 20 254:0 /srv/app.conf//deleted /app.conf ro - ext4 /dev/vda rw\n"
    "31 20 254:0 /srv/data /data rw - ext4 /dev/vda rw\n"
)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Give the service that is updated."""
    return Shop(BackupStore(tmp_path / "store"))


def container(name: str, *, status: str = "running", mounts: tuple[dict[str, Any], ...] = (), **host: Any) -> Observed:
    """Return a container as an inspection shows it."""
    return observe(
        {
            "Id": name.encode().hex().ljust(64, "0"),
            "Name": f"/{name}",
            "Config": {},
            "HostConfig": host,
            "State": {"Status": status},
            "Mounts": list(mounts),
        }
    )


def bound(source: str, destination: str, *, writable: bool = False) -> dict[str, Any]:
    """Return a bind as an inspection shows it."""
    return {"Type": "bind", "Source": source, "Destination": destination, "RW": writable}


NEEDS: dict[str, dict[str, Any]] = {
    "the network": {"NetworkMode": "container:vpn"},
    "the process namespace": {"PidMode": "container:vpn"},
    "the shared memory": {"IpcMode": "container:vpn"},
    "a link": {"Links": ["/vpn:/web/db"]},
}


@pytest.mark.parametrize(("what", "host"), NEEDS.items())
def test_a_partner_that_is_gone_or_stopped_is_named(what: str, host: dict[str, Any]) -> None:
    """A container that runs needs the other one running; one that is stopped needs it there."""
    running, stopped = container("web", **host), container("web", status="exited", **host)
    (gone,) = lost_partners(running, [running])
    assert gone.startswith(f"it uses {what} of container 'vpn', which is gone")
    assert lost_partners(stopped, [stopped]) == [gone]
    (down,) = lost_partners(running, [running, container("vpn", status="exited")])
    assert down.startswith(f"it uses {what} of container 'vpn', which does not run")
    assert lost_partners(stopped, [container("vpn", status="exited")]) == []
    assert lost_partners(running, [container("vpn", status="paused")]) == []


def test_a_donor_of_volumes_has_to_be_there_and_need_not_run() -> None:
    """Without it no container can be created with its volumes."""
    web = container("web", VolumesFrom=["data:ro"])
    (gone,) = lost_partners(web, [web])
    assert gone.startswith("it uses the volumes of container 'data', which is gone")
    assert lost_partners(web, [container("data", status="exited")]) == []


@pytest.mark.parametrize("mode", ["bridge", "host", "private", "shareable", ""])
def test_who_shares_nothing_needs_nobody(mode: str) -> None:
    """Modes that name no container are no partners."""
    web = container("web", NetworkMode=mode, PidMode=mode, IpcMode=mode, Links=None, VolumesFrom=None)
    assert lost_partners(web, [web]) == []


def test_a_bind_without_a_name_is_doubted(tmp_path: Path) -> None:
    """The kernel marks it in the mounts of the container; so is a device that is not here."""
    device = tmp_path / "device"
    web = container(
        "web",
        mounts=(bound("/srv/app.conf", "/app.conf"), bound("/srv/data", "/data")),
        Devices=[{"PathOnHost": str(device)}, {"PathOnHost": "/dev/null"}],
    )
    assert doubtful_paths(web, [web], mountinfo=MOUNTINFO) == ["/srv/app.conf", str(device)]
    assert doubtful_paths(web, [web], mountinfo="") == [str(device)]


def test_what_another_container_of_the_group_can_make_is_not_missed() -> None:
    """It may make the file at its own start, as one that binds a folder further up and writes there."""
    web = container("web", mounts=(bound("/srv/app.conf", "/app.conf"),))
    maker = container("maker", mounts=(bound("/srv", "/made", writable=True),))
    reader = container("reader", mounts=(bound("/srv", "/made"),))
    assert doubtful_paths(web, [web, maker], mountinfo=MOUNTINFO) == []
    assert doubtful_paths(web, [web, reader], mountinfo=MOUNTINFO) == ["/srv/app.conf"]


def test_a_stopped_container_is_not_asked_for_what_it_binds() -> None:
    """Nothing has to start it again."""
    web = container("web", status="exited", mounts=(bound("/srv/app.conf", "/app.conf"),))
    assert doubtful_paths(web, [web], mountinfo=MOUNTINFO) == []


def test_a_container_whose_partner_is_gone_is_not_stopped(shop: Shop) -> None:
    """It is refused by name while it runs, and nothing is stored."""
    engine = shop.engine
    engine.run("vpn", image="shop:1")
    sidecar = engine.run("sidecar", image="shop:1", NetworkMode="container:vpn")
    engine.remove_container("vpn", force=True)
    before = engine.inspect_container(sidecar)
    with pytest.raises(UnsupportedContainerError, match=r"the network of container .*, which is gone"):
        rollback("sidecar", client=engine, store=shop.store).__enter__()
    assert engine.inspect_container(sidecar) == before
    assert not shop.store.list()


def test_a_partner_of_the_group_is_no_loss(shop: Shop) -> None:
    """Both are stopped and started, and the one that shares the other's network comes back."""
    engine = shop.engine
    engine.run("vpn", image="shop:1")
    engine.run("sidecar", image="shop:1", NetworkMode="container:vpn")
    with rollback("vpn", client=engine, store=shop.store, verify=healthy(stable_for=0.0)) as tx:
        engine.remove_container("vpn", force=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert engine.container("sidecar").status == "running"


def test_a_stopped_container_on_a_network_that_is_gone_is_refused(shop: Shop) -> None:
    """Its engine let the network go, and can neither start nor create the container without."""
    shop.engine.stop_container("shop")
    shop.engine.remove_network("front")
    refused = shop.rollback().check().refused["shop"]
    assert "it is on network 'front', which is gone" in str(refused)
