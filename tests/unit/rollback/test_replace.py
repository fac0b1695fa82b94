"""`tx.replace`: the update done right, over an engine in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from docker_rollback import (
    BackupStore,
    EngineError,
    ImageNotFoundError,
    Progress,
    RollbackRequested,
    Status,
    UnsupportedContainerError,
    UpdateRejectedError,
    compare,
    healthy,
    recover,
    restore,
    rollback,
)
from docker_rollback.errors import ImagePlatformError
from docker_rollback.testing import FailingEngine, FakeEngine, Killed
from tests.unit.shop import Shop, UpdateFailedError

T = TypeVar("T")


def aside(engine: FakeEngine) -> list[str]:
    """Return the names of what stands aside."""
    names = [engine.container(one).name for one in engine.list_containers()]
    return sorted(name for name in names if "aside" in name)


def test_a_good_update_stays(shop: Shop) -> None:
    """The new container has the name, the configuration, the networks and the data; the old one is gone."""
    cache = shop.engine.anonymous_volume("shop", "/cache")
    with shop.rollback() as tx:
        new = tx.replace("shop", "shop:2")
        assert shop.engine.container("shop").id == new != shop.id
        assert [shop.engine.container(name).id for name in aside(shop.engine)] == [shop.id]
        assert shop.engine.container(shop.id).status == "exited"
        assert shop.engine.inspect_container(shop.id)["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert tx.status is Status.COMMITTED
    assert shop.engine.list_containers() == [new]
    paths = {found.path for found in compare(shop.before, shop.engine.inspect_container("shop"))}
    assert all(path.startswith(("Image", "Config.Image", "HostConfig.Binds", "Mounts")) for path in paths), paths
    assert shop.engine.container("shop").read("/app") == b"version 2"
    assert shop.engine.anonymous_volume("shop", "/cache") == cache
    assert shop.cache().read("/warm") == b"yes"
    assert shop.engine.volume("orders").read("/table") == b"rows"


@pytest.mark.parametrize("raised", [UpdateFailedError, KeyboardInterrupt])
def test_a_failed_update_brings_the_very_same_container_back(shop: Shop, raised: type[BaseException]) -> None:
    """Its id, its name, its policy, its anonymous volume, its data; the new one is gone."""
    with pytest.raises(raised), shop.rollback() as tx:
        tx.replace("shop", "shop:2")
        shop.engine.volume("orders").write("/migrated", "half")
        shop.engine.container("shop").write("/cache/warm", "spoilt")
        raise raised
    assert tx.status is Status.ROLLED_BACK
    assert shop.engine.container("shop").id == shop.id
    shop.check_restored()
    assert shop.engine.list_containers() == [shop.id]


def test_an_update_that_its_checks_reject_is_rolled_back(shop: Shop) -> None:
    """A new version that falls over is put back, and its last words are in the error."""

    def fall_over(container: Any) -> None:
        container.print("cannot read /data")
        container.exit(3)

    shop.engine.on_start("shop:2", fall_over)
    tx = shop.timed(shop.engine, verify=[healthy(stable_for=5.0)])
    with pytest.raises(UpdateRejectedError) as rejected, tx:
        tx.replace("shop", "shop:2")
    assert (rejected.value.log, rejected.value.container) == (("cannot read /data",), "shop")
    assert shop.engine.container("shop").id == shop.id
    shop.check_restored()


def test_the_new_image_brings_its_own_defaults(shop: Shop) -> None:
    """What came from the old image goes with it; what the user asked for stays, changed where asked."""
    shop.engine.add_image("app:1", env=["PATH=/1", "V=1"], labels={"version": "1"}, command=["old"], user="one")
    shop.engine.add_image("app:2", env=["PATH=/2", "V=2"], labels={"version": "2"}, command=["new"], user="two")
    shop.engine.run("app", image="app:1", env=["MODE=fast", "KEY=old"], labels={"team": "x"})
    with rollback("app", client=shop.engine, store=shop.store, verify=None) as tx:
        tx.replace("app", "app:2", environment={"KEY": "new"}, labels={"ticket": "7"}, host_config={"Memory": 1 << 30})
    found = shop.engine.inspect_container("app")
    assert sorted(found["Config"]["Env"]) == ["KEY=new", "MODE=fast", "PATH=/2", "V=2"]
    assert found["Config"]["Labels"] == {"version": "2", "team": "x", "ticket": "7"}
    assert (found["Config"]["Cmd"], found["Config"]["User"]) == (["new"], "two")
    assert found["HostConfig"]["Memory"] == 1 << 30


def test_the_image_is_fetched_before_anything_stops(shop: Shop) -> None:
    """Where the engine has it not; the news says so."""
    news: list[Progress] = []
    shop.engine.publish("shop:2")
    shop.engine.remove_image("shop:2")
    watching = FailingEngine(shop.engine)
    with shop.rollback(watching, progress=news.append) as tx:
        before = len(watching.calls)
        tx.replace("shop", "shop:2")
    verbs = [call.verb for call in watching.calls[before:]]
    assert verbs.index("pull_image") < verbs.index("create_container") < verbs.index("stop_container")
    assert [(one.step, one.subject) for one in news if one.step in ("pull", "replace")] == [
        ("pull", "shop:2"),
        ("replace", "shop"),
    ]


def test_an_image_is_fetched_again_where_asked(shop: Shop) -> None:
    """Without an image, the one that the container was made from is meant, as the registry has it now."""
    shop.engine.add_image("web:1", files={"/app": "new"})
    shop.engine.publish("web:1")
    shop.engine.add_image("web:1", files={"/app": "old"})
    shop.engine.run("web", image="web:1")
    with rollback("web", client=shop.engine, store=shop.store, verify=None) as tx:
        tx.replace("web", pull="always")
    assert shop.engine.container("web").read("/app") == b"new"
    with rollback("web", client=shop.engine, store=shop.store, verify=None) as tx:
        with pytest.raises(ImageNotFoundError):
            tx.replace("web", "web:3", pull="never")
        with pytest.raises(ImageNotFoundError):
            tx.replace("web", "web:3")


def test_an_image_for_another_machine_is_found_out_beforehand(shop: Shop) -> None:
    """The service goes on, and the error names both platforms."""
    other = FakeEngine(architecture="s390x")
    other.add_image("shop:3", files={"/app": "version 3"})
    shop.engine.load_image(other.save_image("shop:3"))
    with shop.rollback() as tx:
        with pytest.raises(ImagePlatformError, match="linux/s390x") as error:
            tx.replace("shop", "shop:3")
        assert (error.value.image, error.value.platform) == ("shop:3", "linux/s390x")
        assert shop.engine.container("shop").id == shop.id
    assert tx.status is Status.COMMITTED
    shop.check_restored()


def test_whatever_fails_before_the_stop_leaves_the_service_running(shop: Shop) -> None:
    """For every call until the first stop: where it fails, or its answer is lost, the service is as it was."""
    for after in (False, True):
        number, stopped = 0, False
        while not stopped:
            number += 1
            with shop.rollback(verify=None) as tx:
                failing = FailingEngine(shop.engine, at=number, after=after)
                tx._engine = failing
                try:
                    tx.replace("shop", "shop:2")
                except EngineError:
                    stopped = any(call.verb in ("stop_container", "update_container") for call in failing.calls)
                    assert stopped or shop.engine.container("shop").id == shop.id, failing.story()
                    assert stopped or shop.engine.container("shop").status == "running", failing.story()
                    assert stopped or aside(shop.engine) == [], failing.story()
                raise RollbackRequested
            shop.check_restored()
        assert number > 1


def test_what_lives_in_it_comes_along(shop: Shop) -> None:
    """A sidecar in its network is made anew in the network of the new one; one on its volumes stops and starts."""
    engine = shop.engine
    sidecar = engine.run("sidecar", image="shop:1", NetworkMode=f"container:{shop.id}", anonymous=["/scratch"])
    reader = engine.run("reader", image="shop:1", VolumesFrom=["shop"])
    engine.container("sidecar").write("/scratch/note", "mine")
    watching = FailingEngine(engine)
    with shop.rollback(watching, verify=None) as tx:
        before = len(watching.calls)
        new = tx.replace("shop", "shop:2")
        calls = [(one.verb, one.arguments[0]) for one in watching.calls[before:]]
        stops = [ref for verb, ref in calls if verb == "stop_container"]
        assert set(stops) == {shop.id, sidecar, reader}
        assert stops[-1] == shop.id
        assert engine.inspect_container("sidecar")["HostConfig"]["NetworkMode"] == f"container:{new}"
        assert engine.container("sidecar").read("/scratch/note") == b"mine"
        assert engine.container("reader").id == reader
        assert [engine.container(name).status for name in ("shop", "sidecar", "reader")] == ["running"] * 3
    assert tx.status is Status.COMMITTED
    assert aside(engine) == []
    with shop.rollback(verify=None) as tx:
        sidecar = engine.container("sidecar").id
        tx.replace("shop", "shop:1")
        raise RollbackRequested
    assert engine.container("shop").id == new
    assert engine.container("sidecar").id == sidecar
    assert engine.container("sidecar").read("/scratch/note") == b"mine"
    assert aside(engine) == []


def test_those_that_depend_on_it_stop_and_start_at_once(shop: Shop) -> None:
    """None waits for another; each of these stops and starts takes place while all others do."""
    names = [f"reader-{number}" for number in range(4)]
    for name in names:
        shop.engine.run(name, image="shop:1", VolumesFrom=["shop"])
    ids = {shop.engine.container(name).id for name in names}
    meeting = threading.Barrier(len(names), timeout=30)

    class Meeting(FailingEngine):
        def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
            if armed and verb in ("stop_container", "start_container") and arguments[0] in ids:
                meeting.wait()
            return super().pass_on(verb, work, *arguments)

    armed: list[bool] = []
    with shop.rollback(Meeting(shop.engine), verify=None) as tx:
        armed.append(True)
        tx.replace("shop", "shop:2")
        armed.clear()
    assert tx.status is Status.COMMITTED
    assert {shop.engine.container(name).status for name in ("shop", *names)} == {"running"}


@pytest.mark.parametrize("policy", ["no", "always"])
def test_a_new_one_that_ends_at_once_is_told_of(shop: Shop, policy: str) -> None:
    """Not the sidecar that finds nobody to live in: the error is about the one that ended, with its last words."""
    shop.engine.run("sidecar", image="shop:1", NetworkMode=f"container:{shop.id}")

    def fall_over(container: Any) -> None:
        container.print("cannot read /data")
        container.exit(3)

    shop.engine.on_start("shop:2", fall_over)
    with pytest.raises(UpdateRejectedError, match="'sidecar' could start") as rejected, shop.rollback() as tx:
        tx.replace("shop", "shop:2", host_config={"RestartPolicy": {"Name": policy}})
    assert (rejected.value.container, rejected.value.log) == ("shop", ("cannot read /data",))
    assert isinstance(rejected.value.__cause__, EngineError)
    shop.check_equal()


def test_what_is_linked_to_it_follows(shop: Shop) -> None:
    """An engine remembers the other end of a link by its id, so that one is made anew as well."""
    tail = shop.engine.run("tail", image="shop:1", Links=["/shop:/tail/till"])
    with shop.rollback(verify=None) as tx:
        tx.replace("shop", "shop:2")
        assert shop.engine.container("tail").id != tail
        assert shop.engine.inspect_container("tail")["HostConfig"]["Links"] == ["/shop:/tail/till"]
        raise RollbackRequested
    assert shop.engine.container("tail").id == tail
    shop.check_equal()


def test_no_running_container_is_renamed(shop: Shop) -> None:
    """Docker refuses that on an overlay network; on any other the name would lead nowhere until the update runs."""
    shop.engine.create_network({"Name": "mesh", "Driver": "overlay", "Attachable": True})
    old = shop.engine.run("desk", image="shop:1", networks=["mesh"])
    with pytest.raises(EngineError, match="could not add service state"):
        shop.engine.rename_container("desk", "other")
    with rollback("desk", client=shop.engine, store=shop.store, verify=None) as tx:
        new = tx.replace("desk", "shop:2")
        assert shop.engine.container("desk").id == new
    assert tx.status is Status.COMMITTED
    assert shop.engine.container("desk").id == new != old
    assert aside(shop.engine) == []


@pytest.mark.parametrize("left", [["dmz", "back"], ["dmz"], []])
def test_a_successor_joins_no_network_that_the_old_one_has_left(shop: Shop, left: list[str]) -> None:
    """An engine puts a new container on the network of its mode; the successor is where the old one was."""
    for name in ("dmz", "back"):
        shop.engine.create_network({"Name": name})
    shop.engine.disconnect_network("front", "shop")
    for name in left:
        shop.engine.connect_network(name, "shop", {})
    with shop.rollback(verify=None) as tx:
        tx.replace("shop", "shop:2")
    assert tx.status is Status.COMMITTED
    assert sorted(shop.engine.inspect_container("shop")["NetworkSettings"]["Networks"]) == sorted(left)
    shop.engine.remove_container("shop", force=True)
    shop.engine.remove_network("front")
    restore(tx.backup, client=shop.engine, store=shop.store)
    assert compare(tx.backup.containers[0].inspection, shop.engine.inspect_container("shop")) == []


def test_what_came_later_and_depends_on_it_is_refused(shop: Shop) -> None:
    """No backup has it, so no rollback could put it back."""
    with shop.rollback(verify=None) as tx:
        shop.engine.run("late", image="shop:1", NetworkMode=f"container:{shop.id}")
        with pytest.raises(UnsupportedContainerError, match="late"):
            tx.replace("shop", "shop:2")
        assert shop.engine.container("shop").id == shop.id
        shop.engine.remove_container("late", force=True)


def test_a_group_is_replaced_one_by_one(shop: Shop) -> None:
    """Of two that were replaced and one that failed, both are themselves again."""
    shop.engine.run("db", image="shop:1", volumes={"tables": "/tables"})
    db = shop.engine.container("db").id
    with pytest.raises(ImageNotFoundError), rollback("db", "shop", client=shop.engine, store=shop.store) as tx:
        tx.replace("db", "shop:2")
        tx.replace("shop", "shop:2")
        tx.replace("db", "shop:3")
    assert (shop.engine.container("db").id, shop.engine.container("shop").id) == (db, shop.id)
    assert len(shop.engine.list_containers()) == 2
    shop.check_equal()


def test_a_container_can_be_replaced_twice(shop: Shop) -> None:
    """What stood between the first and the last is gone at once."""
    with shop.rollback(verify=None) as tx:
        first = tx.replace("shop", "shop:2")
        second = tx.replace("shop", "shop:1", environment={"TRY": "2"})
        assert sorted(shop.engine.list_containers()) == sorted([shop.id, second])
        assert first != second
        raise RollbackRequested
    shop.check_restored()
    assert shop.engine.container("shop").id == shop.id


@pytest.mark.parametrize("state", ["paused", "created", "exited"])
def test_the_new_one_does_what_the_old_one_did(shop: Shop, state: str) -> None:
    """A paused container is paused again, one that did not run does not."""
    engine = shop.engine
    engine.run("other", image="shop:1", start=state != "created")
    if state == "paused":
        engine.pause_container("other")
    elif state == "exited":
        engine.stop_container("other")
    with rollback("other", client=engine, store=shop.store, verify=None) as tx:
        tx.replace("other", "shop:2")
    assert engine.container("other").status == ("paused" if state == "paused" else "created")


def test_a_container_at_rest_is_started(shop: Shop) -> None:
    """With `resume=False` it does not run while it is replaced; the new one does what the old one did before."""
    with shop.rollback(resume=False) as tx:
        assert shop.engine.container("shop").status == "exited"
        tx.replace("shop", "shop:2")
    assert shop.engine.container("shop").status == "running"


def test_a_container_that_goes_when_it_stops(shop: Shop) -> None:
    """Nothing of it can stand aside; its volumes are the new one's, and a rollback makes its equal."""
    shop.engine.run("job", image="shop:1", volumes={"work": "/data"}, auto_remove=True)
    shop.engine.container("job").write("/cache/kept", "yes")
    with rollback("job", client=shop.engine, store=shop.store, verify=None) as tx:
        tx.replace("job", "shop:2")
        assert shop.engine.container("job").read("/cache/kept") == b"yes"
        raise RollbackRequested
    assert shop.engine.container("job").read("/app") == b"version 1"
    assert shop.engine.container("job").read("/cache/kept") == b"yes"
    assert aside(shop.engine) == []


def test_a_container_on_an_image_of_ours_keeps_to_its_own(shop: Shop) -> None:
    """After a rollback to a changed file system it stands on a committed image; the image below gives the defaults."""
    shop.engine.add_image("app:1", env=["V=1"], command=["one"])
    shop.engine.add_image("app:2", env=["V=2"], command=["two"])
    shop.engine.run("app", image="app:1", env=["MODE=fast"])
    shop.engine.container("app").write("/own", "x")
    with rollback("app", client=shop.engine, store=shop.store, verify=None):
        shop.engine.remove_container("app", force=True)
        raise RollbackRequested
    assert shop.engine.container("app").read("/own") == b"x"
    with rollback("app", client=shop.engine, store=shop.store, verify=None) as tx:
        tx.replace("app", "app:2")
    config = shop.engine.inspect_container("app")["Config"]
    assert (sorted(config["Env"]), config["Cmd"]) == (["MODE=fast", "V=2"], ["two"])


def test_only_what_is_backed_up_is_replaced(shop: Shop) -> None:
    """Inside the block, and of this rollback."""
    shop.engine.run("other", image="shop:1")
    tx = shop.rollback()
    with pytest.raises(RuntimeError, match="not started"):
        tx.replace("shop", "shop:2")
    with tx:
        with pytest.raises(ValueError, match="'other' is not part"):
            tx.replace("other", "shop:2")
        with pytest.raises(TypeError, match="colour"):
            tx.replace("shop", "shop:2", colour="red")  # type: ignore[call-arg]  # what somebody may do
    with pytest.raises(RuntimeError, match="committed"):
        tx.replace("shop", "shop:2")


def test_whoever_goes_on_after_half_an_update_is_rolled_back(shop: Shop) -> None:
    """The error was caught in the block, and nothing is checked: the old one is not given up for half a new one."""
    shop.engine.run("taken", image="shop:1", ports={"80/tcp": "8080"})
    with (
        pytest.raises(UpdateRejectedError, match="half way") as rejected,
        shop.rollback(verify=None) as tx,
        suppress(EngineError),
    ):
        tx.replace("shop", "shop:2", host_config={"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}})
    assert isinstance(rejected.value.__cause__, EngineError)
    assert shop.engine.container("shop").id == shop.id
    shop.check_restored()


def test_a_death_on_the_way_is_recovered_from(tmp_path: Path) -> None:
    """For every call that changes something: `recover` puts the very same containers back, and nothing is left over."""

    def begin(number: int, at: int | None) -> tuple[Shop, str, FailingEngine]:
        shop = Shop(BackupStore(tmp_path / str(number)))
        sidecar = shop.engine.run("sidecar", image="shop:1", NetworkMode=f"container:{shop.id}")
        return shop, sidecar, FailingEngine(shop.engine, at=at, kill=True)

    shop, _, counting = begin(0, None)
    with shop.rollback(counting, verify=None) as tx:
        first = counting.count + 1
        tx.replace("shop", "shop:2")
        last = counting.count
        raise RollbackRequested
    assert last - first > 6
    for at in range(first, last + 1):
        shop, sidecar, mortal = begin(at, at)
        with pytest.raises(Killed), shop.rollback(mortal, verify=None) as tx:
            tx.replace("shop", "shop:2")
        recover(client=shop.engine, store=shop.store.path)
        assert shop.engine.container("shop").id == shop.id, mortal.story()
        assert shop.engine.container("sidecar").id == sidecar, mortal.story()
        assert shop.engine.container("sidecar").status == "running"
        assert len(shop.engine.list_containers()) == 2, mortal.story()
        shop.check_restored()


def test_a_death_after_the_commit_leaves_nothing(shop: Shop) -> None:
    """The update is there to stay; what stood aside for it goes with `recover`."""
    counting = FailingEngine(shop.engine)
    with shop.rollback(counting, verify=None) as tx:
        tx.replace("shop", "shop:2")
        last = counting.count
        raise RollbackRequested
    mortal = FailingEngine(shop.engine, at=last + 1, kill=True)
    with pytest.raises(Killed), shop.rollback(mortal, verify=None) as tx:
        new = tx.replace("shop", "shop:2")
    assert aside(shop.engine) != []
    assert [one.outcome for one in recover(client=shop.engine, store=shop.store.path)] == ["tidied up"]
    assert shop.engine.list_containers() == [new]
    assert shop.cache().read("/warm") == b"yes"
