"""What stands around a container: those bound to it, those that share its volumes, its networks and volumes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import evolve

from docker_rollback import (
    EngineError,
    EngineUnavailableError,
    RollbackRequested,
    Status,
    UnsupportedContainerError,
    backup,
    compare,
    recover,
    restore,
    rollback,
)
from docker_rollback._capture.rules import refusal
from docker_rollback._containers.own_container import Traces
from docker_rollback._engine.port import Inspection
from docker_rollback._inspection.compare import compare_networks
from docker_rollback.errors import ArchiveError, RestoreError
from docker_rollback.parts import EngineInfo
from docker_rollback.testing import FailingEngine, Killed
from tests.unit.shop import Shop, changed_as_tar_reads


def test_what_lives_in_its_network_stops_and_starts_with_it(shop: Shop) -> None:
    """A container in the network of another joins without being named: stopped before it, started after it."""
    shop.engine.run("sidecar", image="shop:1", NetworkMode=f"container:{shop.id}")
    watching = FailingEngine(shop.engine)
    with shop.rollback(watching, verify=None) as tx:
        assert tx.check().joined == ("sidecar",)
    sidecar = shop.engine.container("sidecar").id
    verbs = ("stop_container", "start_container")
    calls = [(call.verb, call.arguments[0]) for call in watching.calls if call.verb in verbs]
    ours = [call for call in calls if call[1] in (shop.id, sidecar)]
    assert ours == [
        ("stop_container", sidecar),
        ("stop_container", shop.id),
        ("start_container", shop.id),
        ("start_container", sidecar),
    ]


@pytest.mark.parametrize("digits", [64, 12])
@pytest.mark.parametrize("container", ["kept", "made anew"])
def test_a_network_that_is_meant_by_its_id_may_be_made_anew(shop: Shop, container: str, digits: int) -> None:
    """The container is on the new network of that name, by the new id; nothing else differs."""
    network = shop.engine.create_network({"Name": "inner"})
    endpoint = {network[:digits]: {"Aliases": ["desk"]}}
    shop.engine.run("desk", image="shop:1", networks=endpoint)
    before = shop.engine.inspect_container("desk")
    assert before["HostConfig"]["NetworkMode"] == network[:digits]
    with rollback("desk", client=shop.engine, store=shop.store, verify=None) as tx:
        if container == "kept":
            shop.engine.disconnect_network("inner", "desk", force=True)
        else:
            shop.engine.remove_container("desk", force=True)
        shop.engine.remove_network("inner")
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    after = shop.engine.inspect_container("desk")
    assert compare(before, after) == []
    made = shop.engine.inspect_network("inner")["Id"]
    assert made != network
    assert after["HostConfig"]["NetworkMode"] == made[:digits]


@pytest.mark.parametrize(("api", "kept"), [("1.41", True), ("1.44", False), ("1.51", False)])
def test_a_mac_address_that_a_connect_forgets_takes_another_container(shop: Shop, api: str, *, kept: bool) -> None:
    """Docker 25 and later keep it from a creation alone: the original, taken off its network, cannot be put back."""

    class Docker(FailingEngine):
        def info(self) -> EngineInfo:
            return evolve(super().info(), flavour="docker", api_version=api)

    desk = shop.engine.run("desk", image="shop:1", networks={"front": {"MacAddress": "02:11:22:33:44:55"}})
    before = shop.engine.inspect_container("desk")
    with rollback("desk", client=Docker(shop.engine), store=shop.store, verify=None) as tx:
        shop.engine.disconnect_network("front", "desk", force=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert (shop.engine.container("desk").id == desk) == kept
    assert compare(before, shop.engine.inspect_container("desk")) == []


def test_a_mac_address_on_a_second_network_comes_back(shop: Shop) -> None:
    """It is in the create of the recreated container: an engine forgets one that a connect asks for."""
    shop.engine.create_network({"Name": "back"})
    networks: dict[str, dict[str, str]] = {"front": {}, "back": {"MacAddress": "02:11:22:33:44:66"}}
    shop.engine.run("desk", image="shop:1", networks=networks)
    with rollback("desk", client=shop.engine, store=shop.store, verify=None) as tx:
        shop.engine.remove_container("desk", force=True)
        raise RollbackRequested
    assert tx.backup.not_covered == ()
    endpoints = shop.engine.inspect_container("desk")["NetworkSettings"]["Networks"]
    assert endpoints["back"]["MacAddress"] == "02:11:22:33:44:66"


def test_what_lives_in_its_network_follows_it(shop: Shop) -> None:
    """Where the container has to be made anew, what was bound to the old one is bound to the new one."""
    shop.engine.run("sidecar", image="shop:1", NetworkMode=f"container:{shop.id}")
    before = shop.engine.inspect_container("sidecar")
    with shop.rollback(verify=None) as tx:
        shop.engine.remove_container("sidecar", force=True)
        shop.break_it()
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    shop.check_restored()
    after = shop.engine.inspect_container("sidecar")
    assert after["HostConfig"]["NetworkMode"] == f"container:{shop.engine.container('shop').id}"
    assert [found.path for found in compare(before, after)] == ["HostConfig.NetworkMode"]
    assert after["State"]["Running"]


def test_a_bound_container_is_made_anew_where_its_partner_was(shop: Shop) -> None:
    """Itself untouched, it could not start again: what it refers to by id is gone."""
    sidecar = shop.engine.run("sidecar", image="shop:1", NetworkMode=f"container:{shop.id}")
    with shop.rollback(verify=None):
        shop.break_it()
        raise RollbackRequested
    assert shop.engine.container("sidecar").id != sidecar
    assert shop.engine.container("sidecar").status == "running"
    shop.check_restored()


@pytest.mark.parametrize("shared", ["stop", "ignore"])
def test_a_guest_survives_the_rollback(shop: Shop, shared: str) -> None:
    """A container that shares a volume rests for the capture where asked, rests while it is filled, and runs after."""
    guest = shop.engine.run("guest", image="shop:1", volumes={"orders": "/data"})
    watching = FailingEngine(shop.engine)
    with shop.rollback(watching, verify=None, shared=shared):
        stopped = [call.arguments[0] for call in watching.called("stop_container")]
        assert (guest in stopped) == (shared == "stop")
        assert shop.engine.container("guest").status == "running"
        shop.break_it()
        raise RollbackRequested
    assert guest in [call.arguments[0] for call in watching.called("stop_container")]
    assert shop.engine.container("guest").id == guest
    assert shop.engine.container("guest").status == "running"
    shop.check_restored()


def test_a_guest_is_a_reason_to_refuse_unless_told_otherwise(shop: Shop) -> None:
    """The error says what can be said."""
    shop.engine.run("guest", image="shop:1", volumes={"orders": "/data"})
    with pytest.raises(UnsupportedContainerError, match=r"'guest' writes to its volume 'orders'.*shared='stop'"):
        backup("shop", client=shop.engine, store=shop.store)
    taken = backup("shop", client=shop.engine, store=shop.store, shared="stop")
    assert taken.bystanders == (shop.engine.container("guest").id,)


def test_a_guest_that_cannot_be_stopped_and_started_is_a_reason_to_refuse(
    shop: Shop, inside: Callable[[str], None]
) -> None:
    """A paused one, one that a stop would remove, and one in which this program runs; one that only reads is none."""
    shop.engine.run("reader", image="shop:1", volumes={"orders": "/data:ro"})
    shop.engine.run("ended", image="shop:1", volumes={"orders": "/data"}, start=False)
    backup("shop", client=shop.engine, store=shop.store, shared="stop")
    shop.engine.run("guest", image="shop:1", volumes={"orders": "/data"})
    shop.engine.pause_container("guest")
    with pytest.raises(UnsupportedContainerError, match="'guest', which mounts its volume 'orders' too, is paused"):
        backup("shop", client=shop.engine, store=shop.store, shared="stop")
    shop.engine.remove_container("guest", force=True)
    shop.engine.run("guest", image="shop:1", volumes={"orders": "/data"}, auto_remove=True)
    with pytest.raises(UnsupportedContainerError, match=r"a stop would remove container 'guest' \(--rm\)"):
        backup("shop", client=shop.engine, store=shop.store, shared="stop")
    shop.engine.remove_container("guest", force=True)
    inside("reader")
    with pytest.raises(
        UnsupportedContainerError, match="this program runs in 'reader', which mounts its volume 'orders'"
    ):
        backup("shop", client=shop.engine, store=shop.store, shared="stop")


@pytest.mark.parametrize("status", ["dead", "removing"])
def test_what_is_half_removed_is_refused(shop: Shop, status: str) -> None:
    """No engine does anything more with it."""
    found = shop.engine.inspect_container("shop")
    assert refusal(found) is None
    assert refusal({**found, "State": {**found["State"], "Status": status}}) == f"it is {status}; remove it by hand"


def test_a_volume_in_memory_is_refused_for_a_stop(shop: Shop) -> None:
    """The stop of its only container would lose what it holds."""
    shop.engine.create_volume({"Name": "ram", "Driver": "local", "DriverOpts": {"type": "tmpfs", "device": "tmpfs"}})
    shop.engine.run("fast", image="shop:1", volumes={"ram": "/ram"})
    with pytest.raises(UnsupportedContainerError, match=r"'ram' lives in memory.*quiesce='pause'"):
        backup("fast", client=shop.engine, store=shop.store)


@pytest.fixture
def inside(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Give what has this program run in a container."""

    def run_in(container: str) -> None:
        traces = Traces(cgroup=f"0::/system.slice/docker-{shop.engine.container(container).id}.scope\n")
        monkeypatch.setattr(Traces, "of_this_process", lambda: traces)

    return run_in


def test_a_program_does_not_stop_the_container_it_runs_in(shop: Shop, inside: Callable[[str], None]) -> None:
    """A rollback from within would end with its own stop; so would a restore."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    inside("shop")
    with pytest.raises(UnsupportedContainerError, match=r"'shop'.*this program runs in it"):
        backup("shop", client=shop.engine, store=shop.store)
    with pytest.raises(UnsupportedContainerError, match=r"'shop'.*this program runs in it"):
        restore(taken, client=shop.engine, store=shop.store)
    shop.check_restored()


def test_a_program_does_not_stop_the_container_whose_network_it_uses(shop: Shop, inside: Callable[[str], None]) -> None:
    """It would be cut off; the refusal says so of the container that was named."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    shop.engine.run("updater", image="shop:1", NetworkMode=f"container:{shop.id}")
    inside("updater")
    with pytest.raises(UnsupportedContainerError, match=r"'shop'.*runs in 'updater', which uses the network of this"):
        backup("shop", client=shop.engine, store=shop.store)
    with pytest.raises(UnsupportedContainerError, match=r"'shop'.*runs in 'updater', which uses the network of this"):
        restore(taken, client=shop.engine, store=shop.store)


def test_a_network_that_was_changed_is_made_again(shop: Shop) -> None:
    """One of the same name with other options is another network."""
    before = shop.engine.inspect_network("front")
    with shop.rollback(verify=None):
        shop.engine.remove_container("shop", force=True, volumes=True)
        shop.engine.remove_network("front")
        shop.engine.create_network({"Name": "front", "Driver": "bridge", "Internal": True, "Labels": {"new": "1"}})
        raise RollbackRequested
    after = shop.engine.inspect_network("front")
    assert (after["Internal"], after["Labels"]) == (before["Internal"], before["Labels"])
    shop.check_restored()


def change_network(shop: Shop, bystander: str = "") -> None:
    """Do what a bad update may do: another network of that name, with others in it."""
    shop.engine.remove_container("shop", force=True, volumes=True)
    if bystander:
        shop.engine.disconnect_network("front", bystander, force=True)
    shop.engine.remove_network("front")
    shop.engine.create_network({"Name": "front", "Driver": "bridge", "Internal": True})
    if bystander:
        shop.engine.connect_network("front", bystander, {"Aliases": ["eyes"]})
    shop.engine.run("stranger", image="shop:2", networks=["front"])
    shop.engine.run("stopped", image="shop:2", networks=["front"], start=False)


class Stale(FailingEngine):
    """An engine whose endpoints are those of containers that ended badly: only force takes one off a network."""

    def disconnect_network(self, network: str, container: str, *, force: bool = False) -> None:
        """Detach a container by force, or refuse to."""
        if not force:
            raise EngineError(f"disconnect container {container!r}", "endpoint not found", status=404)
        super().disconnect_network(network, container, force=force)


def test_an_endpoint_that_is_left_over_is_no_obstacle(shop: Shop) -> None:
    """The network of a container that ended badly can be made again."""
    with shop.rollback(Stale(shop.engine), verify=None) as tx:
        change_network(shop)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert "front" not in shop.engine.inspect_container("stopped")["NetworkSettings"]["Networks"]
    shop.check_equal()


def test_a_changed_network_is_made_again_under_others(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """In a rollback, who was there before joins it again; who came later is taken off it, and it is said."""
    shop.engine.run("watcher", image="shop:1", networks={"front": {"Aliases": ["eyes"]}})
    before = shop.engine.inspect_container("watcher")
    with shop.rollback(verify=None) as tx:
        change_network(shop, "watcher")
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    shop.check_equal()
    assert not shop.engine.inspect_network("front")["Internal"]
    assert compare(before, shop.engine.inspect_container("watcher")) == []
    for stranger in ("stranger", "stopped"):
        assert "front" not in shop.engine.inspect_container(stranger)["NetworkSettings"]["Networks"]
        assert f"{stranger}: detaching it from network front, which was changed" in caplog.text
    assert shop.engine.container("stranger").status == shop.engine.container("watcher").status == "running"


def test_who_was_off_a_network_at_a_death_is_in_it_again(shop: Shop) -> None:
    """The record says who was taken off while the network was made again, and recovery attaches it as it was."""
    shop.engine.run("watcher", image="shop:1", networks={"front": {"Aliases": ["eyes"]}})
    before = shop.engine.inspect_container("watcher")
    killed = FailingEngine(shop.engine, at=1, kill=True, verbs={"create_network"})
    with pytest.raises(Killed), shop.rollback(killed, verify=None):
        change_network(shop, "watcher")
        raise RollbackRequested
    assert "front" not in shop.engine.inspect_container("watcher")["NetworkSettings"]["Networks"]
    (done,) = recover(client=shop.engine, store=shop.store)
    assert done.outcome == "rolled back"
    assert compare(before, shop.engine.inspect_container("watcher")) == []
    shop.check_equal()


def test_an_address_that_no_longer_fits_is_given_up(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """Who was there before, and has an address of the changed network by now, comes back without it, as is said."""
    shop.engine.run("watcher", image="shop:1", networks=["front"])
    with shop.rollback(verify=None) as tx:
        shop.engine.remove_container("shop", force=True, volumes=True)
        shop.engine.disconnect_network("front", "watcher", force=True)
        shop.engine.remove_network("front")
        pool = {"Config": [{"Subnet": "10.99.0.0/24"}]}
        shop.engine.create_network({"Name": "front", "Driver": "bridge", "IPAM": pool})
        shop.engine.connect_network("front", "watcher", {"IPAMConfig": {"IPv4Address": "10.99.0.9"}})
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert "front" in shop.engine.inspect_container("watcher")["NetworkSettings"]["Networks"]
    assert "watcher: could not attach it to network front again" in caplog.text


def test_a_changed_network_that_others_use_stands_against_a_restore(shop: Shop) -> None:
    """Long after the backup they may be anybody's: pulling it from under them is left to people."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    change_network(shop)
    with pytest.raises(RestoreError, match=r"'front' was changed, and stranger uses it; detach it first. Nothing"):
        restore(taken, client=shop.engine, store=shop.store)


def test_a_volume_that_was_replaced_is_made_again(shop: Shop) -> None:
    """One of the same name with other labels is another volume; labels, options and data come back."""
    with rollback("shop", client=shop.engine, store=shop.store, verify=None):
        shop.engine.remove_container("shop", force=True, volumes=True)
        shop.engine.remove_volume("orders")
        shop.engine.create_volume({"Name": "orders", "Driver": "local", "DriverOpts": {}, "Labels": {"v": "2"}})
        shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"})
        raise RollbackRequested
    assert not shop.engine.inspect_volume("orders")["Labels"]
    shop.check_restored()


def test_a_new_container_on_the_same_port_is_stopped(shop: Shop) -> None:
    """An update that starts a second container on the port and fails does not keep the first one from coming back."""
    shop.engine.run("front", image="shop:1", ports={"80/tcp": "8080"})
    with rollback("front", client=shop.engine, store=shop.store, verify=None):
        shop.engine.stop_container("front")
        shop.engine.run("front-new", image="shop:2", ports={"80/tcp": "8080"}, restart="always")
        raise RollbackRequested
    assert shop.engine.container("front").status == "running"
    assert shop.engine.container("front-new").status == "exited"


def test_what_its_engine_cannot_start_again_is_refused(shop: Shop) -> None:
    """Docker cannot start a container again that was put on a network by part of its id: a stop is final."""
    before = shop.engine.inspect_container("shop")
    networks = before["NetworkSettings"]["Networks"]
    twice = {**networks, networks["front"]["NetworkID"][:12]: networks["front"]}
    reason = refusal({**before, "NetworkSettings": {"Networks": twice}})
    assert reason is not None
    assert reason.startswith(f"it was connected to a network by a prefix of that network's id, '{list(twice)[1]}'")
    assert refusal(before) is None


def test_a_network_that_was_left_and_is_gone_is_refused_where_it_is_needed(shop: Shop) -> None:
    """Docker 25 and later cannot start a container whose mode names a network that is gone, whatever it is on."""
    shop.engine.create_network({"Name": "dmz"})
    shop.engine.connect_network("dmz", "shop", {})
    shop.engine.disconnect_network("front", "shop")
    shop.engine.remove_network("front")
    with pytest.raises(UnsupportedContainerError, match="names network 'front', which it has left and which is gone"):
        shop.rollback().__enter__()
    assert shop.engine.container("shop").status == "running"
    shop.engine.create_network({"Name": "front"})
    with shop.rollback(verify=None) as tx:
        shop.engine.remove_container("shop", force=True)
        shop.engine.remove_network("front")
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert list(shop.engine.inspect_container("shop")["NetworkSettings"]["Networks"]) == ["dmz"]


@pytest.mark.parametrize("gone", [["inner"], ["inner", "settings"]])
@pytest.mark.parametrize("again", [False, True])
def test_a_network_that_holds_settings_is_restored_first(shop: Shop, gone: list[str], *, again: bool) -> None:
    """It has the same subnet as the one that is made from it, and no addresses: it is in nobody's way."""
    pools = {"IPAM": {"Config": [{"Subnet": "10.77.9.0/24"}]}}
    shop.engine.create_network({"Name": "settings", "ConfigOnly": True, "Labels": {"a": "b"}, **pools})
    shop.engine.create_network({"Name": "inner", "ConfigFrom": {"Network": "settings"}})
    shop.engine.run("desk", image="shop:1", networks={"inner": {"IPAMConfig": {"IPv4Address": "10.77.9.9"}}})
    before = {name: shop.engine.inspect_network(name) for name in ("settings", "inner")}
    with rollback("desk", client=shop.engine, store=shop.store, verify=None) as tx:
        shop.engine.remove_container("desk", force=True)
        for name in gone:
            shop.engine.remove_network(name)
        if again and "settings" in gone:
            other = {"IPAM": {"Config": [{"Subnet": "10.78.9.0/24"}]}}
            shop.engine.create_network({"Name": "settings", "ConfigOnly": True, **other})
            shop.engine.create_network({"Name": "inner", "ConfigFrom": {"Network": "settings"}})
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    for name, inspection in before.items():
        assert compare_networks(inspection, shop.engine.inspect_network(name)) == []
    if gone == ["inner"]:
        assert shop.engine.inspect_network("settings")["Id"] == before["settings"]["Id"]
    endpoint = shop.engine.inspect_container("desk")["NetworkSettings"]["Networks"]["inner"]
    assert endpoint["IPAddress"] == "10.77.9.9"


def test_a_network_that_is_shown_otherwise_and_kept_its_id_is_left_alone(shop: Shop) -> None:
    """A newer version of its engine says more of it; it is not removed under those who use it."""

    class Newer(FailingEngine):
        def inspect_network(self, ref: str) -> Inspection:
            return {**super().inspect_network(ref), "NewWord": True}

    network = shop.engine.inspect_network("front")["Id"]
    with shop.rollback(verify=None) as tx:
        tx._recovery._restorer._engine = Newer(shop.engine)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert shop.engine.inspect_network("front")["Id"] == network


def test_the_mode_of_a_folder_above_a_mount_is_not_lost(shop: Shop) -> None:
    """A change to a folder on the way to a volume is somebody's, where the engine had nothing to make there."""
    shop.engine.add_image("deep:1", files={"/srv/app/data/seed": "x"})
    shop.engine.run("deep", image="deep:1", volumes={"deep-data": "/srv/app/data"})
    shop.engine.container("deep").set("/srv/app", mode=0o700)
    with rollback("deep", client=shop.engine, store=shop.store, verify=None) as tx:
        shop.engine.remove_container("deep", force=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert shop.engine.container("deep").node("/srv/app").mode == 0o700


FIXED = {"IPAM": {"Config": [{"Subnet": "10.98.0.0/24"}]}}


@pytest.fixture
def desk(shop: Shop) -> str:
    """A container on a network; return its id."""
    shop.engine.create_network({"Name": "inner", **FIXED})
    return shop.engine.run("desk", image="shop:1", networks=["inner"])


def test_a_network_that_came_since_and_has_the_addresses_makes_room(shop: Shop, desk: str) -> None:
    """An update gave the network another name, and the engine the subnet again: to the new one."""
    guest = shop.engine.run("guest", image="shop:1", networks=["front"])
    before = shop.engine.inspect_container("desk")
    with rollback("desk", client=shop.engine, store=shop.store, verify=None) as tx:
        shop.engine.disconnect_network("inner", desk, force=True)
        shop.engine.remove_network("inner")
        shop.engine.create_network({"Name": "inner-2", **FIXED})
        shop.engine.connect_network("inner-2", desk, {})
        shop.engine.connect_network("inner-2", guest, {})
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert compare(before, shop.engine.inspect_container("desk")) == []
    assert not shop.engine.has_network("inner-2")
    assert shop.engine.container("guest").status == "running"
    assert list(shop.engine.inspect_container("guest")["NetworkSettings"]["Networks"]) == ["front"]


def test_a_restore_leaves_a_network_that_has_the_addresses_alone(shop: Shop, desk: str) -> None:
    """Nobody knows whose it is: it is named, and nothing is touched."""
    taken = backup("desk", client=shop.engine, store=shop.store)
    shop.engine.disconnect_network("inner", desk, force=True)
    shop.engine.remove_network("inner")
    shop.engine.create_network({"Name": "other", "IPAM": {"Config": [{"Subnet": "10.98.0.128/25"}]}})
    with pytest.raises(RestoreError, match=r"'other'.* has addresses of network 'inner', 10\.98\.0\.0/24.*remove it"):
        restore(taken, client=shop.engine, store=shop.store)
    assert shop.engine.container("desk").status == "running"
    shop.engine.remove_network("other")
    assert restore(taken, client=shop.engine, store=shop.store) == ["desk"]


def test_a_network_that_stands_is_in_no_networks_way(shop: Shop) -> None:
    """An engine that lets two networks share addresses knows why."""

    class Shared(FailingEngine):
        def inspect_network(self, ref: str) -> Inspection:
            found = super().inspect_network(ref)
            return {**found, "IPAM": {**found["IPAM"], "Config": FIXED["IPAM"]["Config"]}}

    taken = backup("shop", client=Shared(shop.engine), store=shop.store)
    shop.engine.create_network({"Name": "twin"})
    assert restore(taken, client=Shared(shop.engine), store=shop.store) == ["shop"]
    assert shop.engine.has_network("twin")


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_change_during_the_capture_is_an_error_unless_somebody_shares(shop: Shop, *, is_shared: bool) -> None:
    """Whoever ignores those that share a volume has files change meanwhile; where nobody shares it, nothing may."""
    if is_shared:
        shop.engine.run("guest", image="shop:1", volumes={"orders": "/data", "shared": "/more"})

    shop.engine.program("tar", changed_as_tar_reads)
    if is_shared:
        with shop.rollback(verify=None, shared="ignore") as tx:
            pass
        assert tx.status is Status.COMMITTED
    else:
        with pytest.raises(ArchiveError, match="changed while they were read"), shop.rollback(shared="ignore"):
            pytest.fail("the block was entered")
    assert shop.engine.container("shop").status == "running"


def test_an_engine_that_was_away_for_a_moment_costs_nobody_an_address(shop: Shop) -> None:
    """Who was there before has the address again that it asked for, although the first try got no answer."""
    shop.engine.create_network({"Name": "inner", **FIXED})
    address = {"IPAMConfig": {"IPv4Address": "10.98.0.9"}}
    watcher = shop.engine.run("watcher", image="shop:1", networks={"inner": address})
    shop.engine.run("desk", image="shop:1", networks=["inner"])
    before = shop.engine.inspect_container("watcher")

    class Away(FailingEngine):
        was_away = False

        def connect_network(self, network: str, container: str, endpoint: Inspection) -> None:
            if container == watcher and not self.was_away:
                self.was_away = True
                raise EngineUnavailableError("connect it", "the connection was dropped")
            super().connect_network(network, container, endpoint)

    engine = Away(shop.engine)
    with rollback("desk", client=engine, store=shop.store, verify=None) as tx:
        for name in ("watcher", "desk"):
            shop.engine.disconnect_network("inner", name, force=True)
        shop.engine.remove_network("inner")
        shop.engine.create_network({"Name": "inner", "Internal": True, **FIXED})
        shop.engine.connect_network("inner", "watcher", address)
        raise RollbackRequested
    assert engine.was_away
    assert tx.status is Status.ROLLED_BACK
    assert compare(before, shop.engine.inspect_container("watcher")) == []


def test_the_updated_container_in_a_changed_network_is_in_nobodys_way(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """It stands in the place that is restored: it neither refuses a restore, nor is said to be taken off."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    shop.engine.remove_container("shop", force=True, volumes=True)
    shop.engine.remove_network("front")
    shop.engine.create_network({"Name": "front", "Driver": "bridge", "Internal": True})
    shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"}, networks=["front"])
    assert restore(taken, client=shop.engine, store=shop.store) == ["shop"]
    assert "detaching it from network" not in caplog.text
    shop.check_restored()
