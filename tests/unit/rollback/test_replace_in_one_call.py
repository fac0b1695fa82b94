"""`replace`: the whole update in one call; what can fail without the service fails before anything is touched."""

from __future__ import annotations

import inspect
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from attrs import evolve
from docker import APIClient, DockerClient

from docker_rollback import (
    BackupStore,
    ContainerBusyError,
    ContainerNotFoundError,
    EngineUnavailableError,
    HookError,
    ImageNotFoundError,
    Outcome,
    Progress,
    RollbackRequested,
    Status,
    UpdateRejectedError,
    healthy,
    recover,
    replace,
    rollback,
)
from docker_rollback._api import RollbackArguments
from docker_rollback._engine.port import Engine
from docker_rollback.errors import ImagePlatformError
from docker_rollback.parts import EngineInfo
from docker_rollback.testing import FailingEngine, FakeEngine, Killed
from docker_rollback.testing._failing.calls import CHANGING
from tests.unit.shop import Shop


def update(shop: Shop, image: str | None = "shop:2", *, engine: Engine | None = None, **options: Any) -> Outcome:
    """Replace the shop without waiting."""
    chosen: dict[str, Any] = {"verify": healthy(stable_for=0.0), **options}
    return replace("shop", image, client=engine or shop.engine, store=shop.store, **chosen)


def changing(engine: FailingEngine) -> list[str]:
    """Return the verbs of the calls that change something in an engine."""
    return [call.verb for call in engine.calls if call.verb in CHANGING]


def publish(shop: Shop, name: str, version: str) -> str:
    """Have the registry lead a name to a new image that the engine does not have, and return the image's id."""
    registry = FakeEngine(clock=shop.clock)
    image = registry.add_image(name, files={"/app": version}, volumes=["/cache"])
    before = shop.engine.inspect_image(name)["Id"] if name in shop.engine.list_images(name.partition(":")[0]) else None
    shop.engine.load_image(registry.save_image(name))
    shop.engine.publish(name)
    shop.engine.remove_image(name)
    if before is not None:
        shop.engine.tag_image(before, name)
    return image


def test_an_update_is_one_call(shop: Shop) -> None:
    """The outcome is returned; the new container has the data, the backup is in the store, nothing is left over."""
    told: list[Outcome] = []
    outcome = update(shop, environment={"A": "2"}, labels={"ticket": "7"}, on_outcome=told.append)
    assert told == [outcome]
    assert (outcome.status, outcome.entered, outcome.containers) == (Status.COMMITTED, True, ("shop",))
    assert shop.engine.container("shop").read("/app") == b"version 2"
    config = shop.engine.inspect_container("shop")["Config"]
    assert ("A=2" in config["Env"], config["Labels"]["ticket"]) == (True, "7")
    assert shop.cache().read("/warm") == b"yes"
    assert outcome.backup is not None
    assert shop.store.ids() == [outcome.backup.id]
    shop.check_nothing_left()


@pytest.mark.parametrize(
    "error",
    [EngineUnavailableError("pull image 'shop:3'", "the registry does not answer"), ImageNotFoundError("shop:3")],
    ids=["down", "no such image"],
)
def test_a_registry_that_fails_costs_nothing(shop: Shop, error: Exception) -> None:
    """Nothing in the engine is stopped or changed, nothing is written to the store, and the outcome says so."""
    told: list[Outcome] = []
    engine = FailingEngine(shop.engine, at=1, error=error, verbs={"pull_image"}, lasting=True)
    with pytest.raises(type(error)) as raised:
        update(shop, "shop:3", engine=engine, on_outcome=told.append)
    assert raised.value is error
    assert set(changing(engine)) == {"pull_image"}
    assert not shop.store.path.exists()
    assert (told[0].status, told[0].entered, told[0].containers) == (Status.FAILED, False, ("shop",))
    assert told[0].reason is not None
    assert (told[0].reason.type, told[0].reason.step) == (type(error).__name__, "preflight")
    assert shop.engine.container("shop").id == shop.id
    shop.check_restored()


def test_an_image_that_must_not_be_fetched_costs_nothing(shop: Shop) -> None:
    """The registry is not asked."""
    engine = FailingEngine(shop.engine)
    publish(shop, "shop:3", "version 3")
    with pytest.raises(ImageNotFoundError):
        update(shop, "shop:3", engine=engine, pull="never")
    assert changing(engine) == []
    assert not shop.store.path.exists()


def test_an_image_that_the_engine_has_is_not_fetched(shop: Shop) -> None:
    """Also one that is in no registry: the default is to fetch what is missing."""
    engine = FailingEngine(shop.engine)
    assert update(shop, engine=engine).status is Status.COMMITTED
    assert engine.called("pull_image") == []


def test_an_image_for_another_machine_costs_nothing(shop: Shop) -> None:
    """The error names both platforms; a name that the fetch moved leads where it led before."""
    other = FakeEngine(architecture="s390x")
    other.add_image("shop:1", files={"/app": "version 3"})
    before = shop.engine.inspect_image("shop:1")["Id"]
    shop.engine.load_image(other.save_image("shop:1"))
    shop.engine.publish("shop:1")
    shop.engine.tag_image(before, "shop:1")
    engine = FailingEngine(shop.engine)
    with pytest.raises(ImagePlatformError, match="linux/s390x"):
        update(shop, None, engine=engine, pull="always")
    assert set(changing(engine)) == {"pull_image", "tag_image"}
    assert shop.engine.inspect_image("shop:1")["Id"] == before
    assert not shop.store.path.exists()
    shop.check_restored()


@pytest.mark.parametrize(
    "options",
    [
        {"image": "shop:1"},
        {"image": None},
        {"image": "shop:1", "pull": "always"},
        {"image": "shop:1", "platform": "linux/amd64"},
        {"image": "shop:1", "environment": {"A": "1"}, "labels": {"none": None}, "host_config": {"Memory": 0}},
    ],
    ids=lambda options: ", ".join(f"{key}={value}" for key, value in options.items()),
)
def test_nothing_is_done_where_nothing_would_change(shop: Shop, options: dict[str, Any]) -> None:
    """The container runs that image, with all that is asked for: nothing stops, no backup is taken, that is told."""
    shop.engine.publish("shop:1")
    told: list[Outcome] = []
    engine = FailingEngine(shop.engine)
    outcome = update(shop, options.pop("image"), engine=engine, on_outcome=told.append, **options)
    assert told == [outcome]
    assert (outcome.status, outcome.entered, outcome.containers) == (Status.UNCHANGED, False, ("shop",))
    assert (outcome.backup, outcome.reason, outcome.to_do) == (None, None, ())
    assert '"unchanged"' in outcome.to_json()
    assert set(changing(engine)) <= {"pull_image"}
    assert not shop.store.path.exists()
    assert shop.engine.container("shop").id == shop.id
    shop.check_restored()


def test_the_order_of_variables_is_no_change(shop: Shop) -> None:
    """A change of one of several that it has already comes last, and means the same."""
    shop.engine.run("desk", image="shop:1", env=["A=1", "B=2"])
    outcome = replace("desk", "shop:1", client=shop.engine, store=shop.store, environment={"A": "1"})
    assert outcome.status is Status.UNCHANGED


def test_an_id_of_the_image_that_runs_is_no_change(shop: Shop) -> None:
    """An id is no name that the container could be made from instead."""
    image = shop.engine.inspect_image("shop:1")["Id"]
    for reference in (image, image.removeprefix("sha256:")[:12]):
        assert update(shop, reference).status is Status.UNCHANGED


def test_the_same_name_in_another_spelling_is_no_change(shop: Shop) -> None:
    """A name without a tag is that of the latest."""
    shop.engine.tag_image("shop:1", "shop:latest")
    shop.engine.run("desk", image="shop")
    assert replace("desk", "shop:latest", client=shop.engine, store=shop.store).status is Status.UNCHANGED


@pytest.mark.parametrize(
    ("image", "options"),
    [
        ("shop:1", {"environment": {"A": "2"}}),
        ("shop:1", {"environment": {"A": None}}),
        ("shop:1", {"command": ["other"]}),
        ("shop:1", {"host_config": {"Memory": 1 << 30}}),
        ("shop:stable", {}),
    ],
)
def test_the_same_image_with_something_else_is_a_change(shop: Shop, image: str, options: dict[str, Any]) -> None:
    """Another value, or another name of that image, which the next update would go by."""
    shop.engine.tag_image("shop:1", "shop:stable")
    assert update(shop, image, **options).status is Status.COMMITTED
    assert shop.engine.container("shop").id != shop.id
    assert shop.engine.inspect_container("shop")["Config"]["Image"] == image


def test_a_name_that_a_fetch_moves_leads_back_where_the_update_fails(shop: Shop) -> None:
    """The capture sees where it led before; after an update that stands, it leads to the new image."""
    old, new = str(shop.engine.inspect_image("shop:1")["Id"]), publish(shop, "shop:1", "version 1.1")
    seen: list[str] = []
    outcome = update(
        shop, None, pull="always", before_quiesce=lambda: seen.append(shop.engine.inspect_image("shop:1")["Id"])
    )
    assert (outcome.status, seen) == (Status.COMMITTED, [old])
    assert shop.engine.inspect_image("shop:1")["Id"] == shop.engine.inspect_container("shop")["Image"] == new
    newer = publish(shop, "shop:1", "version 1.2")

    def rejects(_: object) -> None:
        assert shop.engine.inspect_container("shop")["Image"] != newer

    with pytest.raises(UpdateRejectedError):
        update(shop, None, pull="always", verify=rejects)
    assert shop.engine.inspect_image("shop:1")["Id"] == shop.engine.inspect_container("shop")["Image"] == new
    assert shop.engine.inspect_image(newer)["RepoTags"] == []


def test_a_name_without_a_tag_is_moved_like_any_other(shop: Shop) -> None:
    """The engine is given the tag that is meant: it takes no name without one for an image."""
    shop.engine.add_image("till", files={"/app": "version 1"}, volumes=["/cache"])
    new = publish(shop, "till:latest", "version 2")
    engine = FailingEngine(shop.engine)
    assert update(shop, "till", engine=engine, pull="always").status is Status.COMMITTED
    assert shop.engine.inspect_image("till")["Id"] == shop.engine.inspect_container("shop")["Image"] == new
    moved = [str(call.arguments[1]) for call in engine.called("tag_image")]
    assert [name for name in moved if "docker-rollback" not in name] == ["till:latest"] * 2


def test_another_platform_of_the_same_image_is_a_change(shop: Shop) -> None:
    """In containerd's store an image of several platforms has one id; the container runs one of them."""

    class Several(FailingEngine):
        def pull_image(self, ref: str, *, platform: str | None = None) -> str:
            asked.append(platform)
            return str(self.inspect_image(ref)["Id"])

        def create_container(self, name: str, request: Any, *, platform: str | None = None) -> str:
            asked.append(platform)
            return super().create_container(name, request)

    asked: list[str | None] = []
    engine = Several(shop.engine)
    assert update(shop, "shop:1", engine=engine, platform="linux/arm64").status is Status.COMMITTED
    assert "linux/arm64" in asked
    assert update(shop, "shop:1", engine=engine, platform="linux/amd64").status is Status.UNCHANGED


def test_podman_does_not_tell_by_which_name(shop: Shop) -> None:
    """Of several names of one image it shows any, so that another name is no change there."""

    class Podman(FailingEngine):
        def info(self) -> EngineInfo:
            return evolve(super().info(), flavour="podman")

    shop.engine.tag_image("shop:1", "shop:stable")
    assert update(shop, "shop:stable", engine=Podman(shop.engine)).status is Status.UNCHANGED


def test_a_name_that_a_fetch_moved_leads_back_where_entering_fails(shop: Shop) -> None:
    """Nothing was updated, so the next start by that name gets what it got before."""
    old, new = str(shop.engine.inspect_image("shop:1")["Id"]), publish(shop, "shop:1", "version 1.1")
    engine = FailingEngine(shop.engine)
    with shop.rollback(), pytest.raises(ContainerBusyError):
        update(shop, None, engine=engine, pull="always")
    assert engine.called("pull_image") == []
    with pytest.raises(HookError):
        update(shop, None, pull="always", before_quiesce=lambda: 1 / 0)
    assert shop.engine.inspect_image("shop:1")["Id"] == old
    assert shop.engine.inspect_image(new)["Id"] == new
    shop.check_restored()


def test_the_image_that_was_found_is_the_one_that_is_taken(shop: Shop) -> None:
    """Whoever moves its name while the backup is taken does not choose what the update is made from."""
    wanted = shop.engine.inspect_image("shop:2")["Id"]
    outcome = update(shop, before_quiesce=lambda: shop.engine.tag_image("shop:1", "shop:2"))
    assert outcome.status is Status.COMMITTED
    assert shop.engine.inspect_container("shop")["Image"] == shop.engine.inspect_image("shop:2")["Id"] == wanted


def test_an_image_that_is_pruned_meanwhile_is_fetched_again(shop: Shop) -> None:
    """A cron job may remove it while the backup is taken; without a registry the update fails and is rolled back."""
    publish(shop, "shop:3", "version 3")
    news: list[Progress] = []
    outcome = update(shop, "shop:3", before_quiesce=lambda: shop.engine.remove_image("shop:3"), progress=news.append)
    assert outcome.status is Status.COMMITTED
    assert [one.subject for one in news if one.step == "pull"] == ["shop:3", "shop:3"]
    shop.engine.add_image("shop:4", files={"/app": "version 4"})
    before = shop.engine.container("shop").id
    with pytest.raises(ImageNotFoundError):
        update(shop, "shop:4", before_quiesce=lambda: shop.engine.remove_image("shop:4"))
    assert (shop.engine.container("shop").id, shop.engine.container("shop").status) == (before, "running")


@pytest.mark.default_check
def test_an_update_that_dies_after_four_seconds_is_rolled_back_by_default(shop: Shop) -> None:
    """It has no health check; the check that nobody asked for waits for five seconds from its start."""
    check = inspect.signature(rollback).parameters["verify"].default
    shop.engine.on_start("shop:2", lambda container: container.after(4.0, lambda: container.exit(3)))
    tx = shop.timed(shop.engine, verify=[check])
    with pytest.raises(UpdateRejectedError):
        tx.update("shop", "shop:2")
    assert tx.status is Status.ROLLED_BACK
    shop.check_restored()


def test_an_update_that_its_checks_reject_is_rolled_back(shop: Shop) -> None:
    """The error comes out, as it does of a block."""
    told: list[Outcome] = []
    shop.engine.on_start("shop:2", lambda container: container.exit(3))
    with pytest.raises(UpdateRejectedError):
        update(shop, on_outcome=told.append)
    assert told[0].status is Status.ROLLED_BACK
    assert shop.engine.container("shop").id == shop.id
    shop.check_restored()


def test_the_name_is_known_after_a_rollback_by_an_id(shop: Shop) -> None:
    """A container that was recreated by the id of a committed image is updated by the name that it was made from."""
    shop.engine.container("shop").write("/own", "x")
    with suppress(RollbackRequested), shop.rollback():
        shop.engine.remove_container("shop", force=True)
        raise RollbackRequested
    assert not shop.engine.inspect_container("shop")["Config"]["Image"].startswith("shop:")
    assert update(shop, None).status is Status.COMMITTED
    assert shop.engine.inspect_container("shop")["Config"]["Image"] == "shop:1"


def test_a_container_of_an_unknown_name_needs_an_image(shop: Shop, tmp_path: Path) -> None:
    """Another store does not know what it was made from; that is said before anything is touched."""
    shop.engine.container("shop").write("/own", "x")
    with suppress(RollbackRequested), shop.rollback():
        shop.engine.remove_container("shop", force=True)
        raise RollbackRequested
    engine, store = FailingEngine(shop.engine), BackupStore(tmp_path / "other")
    with pytest.raises(ValueError, match="could not create container 'shop' by the name of its image"):
        replace("shop", client=engine, store=store, verify=None)
    assert (changing(engine), store.path.exists()) == ([], False)


def test_only_a_container_of_the_rollback_is_updated(shop: Shop) -> None:
    """A `Rollback` of one container does not update another, and does nothing before it knows."""
    shop.engine.run("other", image="shop:1")
    engine = FailingEngine(shop.engine)
    with pytest.raises(ValueError, match="'other' is not part of this rollback"):
        shop.rollback(engine).update("other", "shop:2")
    with pytest.raises(ContainerNotFoundError):
        replace("nobody", "shop:2", client=engine, store=shop.store)
    assert (changing(engine), shop.store.path.exists()) == ([], False)


def test_a_rollback_is_good_for_one_update(shop: Shop) -> None:
    """It is a block like any other."""
    tx = shop.rollback()
    tx.update("shop", "shop:2")
    with pytest.raises(RuntimeError, match="can be entered once"):
        tx.update("shop", "shop:1")


def test_a_container_of_a_project_is_updated_with_the_project_in_the_backup(shop: Shop) -> None:
    """What `rollback` takes is passed on."""
    labels = {"com.docker.compose.project": "till", "com.docker.compose.service": "desk"}
    for name in ("desk", "drawer"):
        shop.engine.run(name, image="shop:1", labels=labels)
    outcome = replace("desk", "shop:2", project="till", client=shop.engine, store=shop.store, verify=None)
    assert outcome.backup is not None
    assert (outcome.backup.project, set(outcome.backup.containers)) == ("till", {"desk", "drawer"})
    assert shop.engine.inspect_container("desk")["Config"]["Image"] == "shop:2"


def test_a_death_at_any_call_leaves_one_or_the_other(tmp_path: Path) -> None:
    """After `recover`, the very same container runs or the update stands, and the name leads to its image."""

    def begin(number: int, at: int | None) -> tuple[Shop, FailingEngine, str, str]:
        shop = Shop(BackupStore(tmp_path / str(number)))
        old, new = shop.engine.inspect_image("shop:1")["Id"], publish(shop, "shop:1", "version 1.1")
        return shop, FailingEngine(shop.engine, at=at, kill=True), str(old), new

    shop, counting, _, _ = begin(0, None)
    update(shop, None, engine=counting, pull="always")
    stands = []
    for at in range(1, counting.count + 1):
        shop, mortal, old, new = begin(at, at)
        with pytest.raises(Killed):
            update(shop, None, engine=mortal, pull="always")
        if shop.store.path.exists():
            recover(client=shop.engine, store=shop.store.path)
        image, leads = shop.engine.inspect_container("shop")["Image"], shop.engine.inspect_image("shop:1")["Id"]
        stands.append(image == new)
        if image == old:
            assert shop.engine.container("shop").id == shop.id, mortal.story()
            # Until the name is led back, a death leaves what `docker pull` leaves.
            assert leads == (new if changing(mortal) == ["pull_image", "tag_image"] else old), mortal.story()
            shop.check_equal()
        else:
            assert (image, leads) == (new, new), mortal.story()
        shop.check_nothing_left()
    assert stands == sorted(stands)
    assert {True, False} == set(stands)


def test_the_next_call_finishes_what_a_death_left(tmp_path: Path) -> None:
    """Also where the container had no name of its own by then."""

    def begin(number: int) -> Shop:
        return Shop(BackupStore(tmp_path / str(number)))

    shop = begin(0)
    counting = FailingEngine(shop.engine)
    with shop.rollback(counting, verify=None):
        shop.engine.remove_container("shop", force=True)
        before = counting.count
        raise RollbackRequested
    finished = 0
    for at in range(before + 1, counting.count + 1, 4):
        shop = begin(at)
        mortal = FailingEngine(shop.engine, at=at, kill=True)
        with suppress(Killed), shop.rollback(mortal, verify=None):
            shop.engine.remove_container("shop", force=True)
            raise RollbackRequested
        if any(shop.engine.container(one).name == "shop" for one in shop.engine.list_containers()):
            continue
        outcome = update(shop)
        assert (outcome.status, len(outcome.recovered)) == (Status.COMMITTED, 1), mortal.story()
        finished += 1
        assert shop.engine.container("shop").read("/app") == b"version 2"
    assert finished > 1


def test_replace_takes_what_rollback_takes() -> None:
    """One description of the arguments: the same names, of the same types."""
    # docker-py is imported only when an engine is needed, so its names are not in the module.
    lazy = {"APIClient": APIClient, "DockerClient": DockerClient}
    hints = get_type_hints(rollback, localns=lazy)
    names = [one.name for one in inspect.signature(rollback).parameters.values() if one.kind is one.KEYWORD_ONLY]
    assert get_type_hints(RollbackArguments, localns=lazy) == {name: hints[name] for name in names}
