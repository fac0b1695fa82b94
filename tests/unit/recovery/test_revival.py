"""What is recreated of a container that somebody removed while it was stopped, and what the error says of it."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest
from attrs import evolve

from docker_rollback import BackupStore
from docker_rollback._containers import ContainerSnapshotter, quiesced_container
from docker_rollback._engine.port import Engine
from docker_rollback._model.backup import Mount
from docker_rollback._names import live
from docker_rollback._recovery.operation_record import Record
from docker_rollback._recovery.revival import Removal, Revival, _sentence, as_error, removed_part, with_volumes_named
from docker_rollback._reporting import Reporter
from docker_rollback._restore import Restorer
from docker_rollback.errors import EngineError, RestoreError, ResumeError
from docker_rollback.testing import FailingEngine, FakeClock, FakeEngine
from tests.unit.values import backup, snapshot, volume

NAME = "0f" * 32
CACHE = Mount("volume", "/cache", NAME, read_only=False, anonymous=True)
SHOWN = {"Type": "volume", "Name": NAME, "Destination": "/cache", "Driver": "local", "Mode": "", "RW": True}
DATA = Mount("volume", "/data", "orders", read_only=False)
SHOWN_DATA = {"Type": "volume", "Name": "orders", "Destination": "/data", "Driver": "local", "Mode": "z", "RW": True}


def named(mount: Mount, host: dict[str, Any], shown: list[dict[str, Any]]) -> tuple[Any, Any, Any]:
    """Return what a container with an anonymous volume asks for once that is named: binds, mounts, and its mounts."""
    inspection = {"Id": "1", "HostConfig": host, "Mounts": shown}
    before = copy.deepcopy(inspection)
    container = evolve(snapshot("web", mount, DATA), inspection=inspection)
    found = with_volumes_named(container)
    assert container.inspection == before, "what was captured is not changed"
    assert found["Id"] == "1"
    return found["HostConfig"].get("Binds"), found["HostConfig"].get("Mounts"), found["Mounts"]


@pytest.mark.parametrize(
    ("asked", "binds"),
    [
        (None, [f"{NAME}:/cache"]),
        ([], [f"{NAME}:/cache"]),
        (["orders:/data"], ["orders:/data", f"{NAME}:/cache"]),
        (["/cache", "orders:/data"], ["orders:/data", f"{NAME}:/cache"]),
        (["/cache/"], [f"{NAME}:/cache"]),
        (["/cache/sub"], ["/cache/sub", f"{NAME}:/cache"]),
    ],
)
def test_an_anonymous_volume_is_asked_for_by_its_name(asked: list[str] | None, binds: list[str]) -> None:
    """In the place of a bind without a source if there is one; all other binds stay."""
    found, mounts, shown = named(CACHE, {"Binds": asked, "Mounts": None}, [SHOWN, SHOWN_DATA])
    assert (found, mounts) == (binds, None)
    assert shown == [{**SHOWN, "Mode": "z"}, SHOWN_DATA]


def test_a_read_only_anonymous_volume_stays_read_only() -> None:
    """It is asked for, and shown, as one that is only read."""
    binds, _, shown = named(evolve(CACHE, read_only=True), {"Binds": None}, [{**SHOWN, "RW": False}])
    assert binds == [f"{NAME}:/cache:ro"]
    assert shown == [{**SHOWN, "RW": False, "Mode": "ro"}]


@pytest.mark.parametrize("target", ["/cache", "/cache/"])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_mount_without_a_source_gets_the_name(target: str, *, read_only: bool) -> None:
    """No bind is added to it, and other mounts keep their own source."""
    asked = {"Type": "volume", "Target": target, "ReadOnly": read_only}
    other = {"Type": "volume", "Source": "orders", "Target": "/data"}
    mount = evolve(CACHE, read_only=read_only)
    binds, mounts, shown = named(mount, {"Binds": None, "Mounts": [asked, other]}, [SHOWN])
    assert (binds, mounts) == (None, [{**asked, "Source": NAME}, other])
    assert shown == [{**SHOWN, "Mode": "z"}]


@pytest.mark.parametrize("shown", [{**SHOWN, "Mode": "Z"}, {**SHOWN, "Driver": "nfs"}, {**SHOWN, "Destination": "/d"}])
def test_what_an_engine_shows_of_other_mounts_stays(shown: dict[str, Any]) -> None:
    """One with a mode of its own, of another driver or at another path is not touched."""
    assert named(CACHE, {"Binds": None}, [shown])[2] == [shown]


def test_named_volumes_stay_as_they_were_asked_for() -> None:
    """Without an anonymous volume nothing changes."""
    container = evolve(snapshot("web", DATA), inspection={"HostConfig": {"Binds": ["orders:/data"]}, "Mounts": None})
    assert with_volumes_named(container) == {"HostConfig": {"Binds": ["orders:/data"]}, "Mounts": []}


# What the error says


def test_the_sentence_says_what_is_lost_and_what_has_a_name_now() -> None:
    """A container that was committed lost nothing; without a commit, its writable layer is lost."""
    container = snapshot("web")
    whole = _sentence(container, [], [])
    assert whole.endswith("recreated from its committed file system and its volumes, and runs again")
    bare = evolve(container, image=evolve(container.image, committed_layers=()))
    assert "from its image and its volumes, and runs again, but the content of its writable layer is lost" in _sentence(
        bare, [], []
    )
    full = _sentence(container, ["a1", "b2"], ["Memory: 1 is 2", "Env: x is y"])
    assert "its anonymous volumes are named volumes now: a1, b2" in full
    assert full.endswith("; it differs: Memory: 1 is 2; Env: x is y")


def test_one_error_names_all_that_were_removed() -> None:
    """A single container with its reason alone, several with a reason each."""
    one, other = Removal("web", "it went"), Removal("db", "its network went")
    assert (as_error([one]).container, as_error([one]).reason) == ("web", "it went")
    assert as_error([one, other]).container == "web, db"
    assert as_error([one, other]).reason == "'web': it went; 'db': its network went"


# What counts as removed, and as recreated


class Restoring(Restorer):
    """A restorer that restores nothing, and fails."""

    def __init__(self, engine: Engine, store: BackupStore, failure: RestoreError) -> None:
        super().__init__(engine, store)
        self._failure = failure

    def put_back(self, *_: object, **__: object) -> NoReturn:
        """Fail."""
        raise self._failure


def revival(engine: Engine, store: BackupStore, failure: RestoreError) -> Revival:
    """Return a revival whose restorer fails."""
    restorer = Restoring(engine, store, failure)
    return Revival(engine, ContainerSnapshotter(engine, store), restorer, reporter=Reporter(), timer=FakeClock())


DIFFERS = RestoreError("web", "it differs", ["Memory: 1 is 2"])


@pytest.mark.parametrize(
    ("failure", "differs"),
    [
        (DIFFERS, {"web": ("Memory: 1 is 2",)}),
        (
            RestoreError("web, db", "several", failures=[DIFFERS, RestoreError("db", "it differs", ["x"])]),
            {"web": ("Memory: 1 is 2",), "db": ("x",)},
        ),
        (RestoreError("web", "somebody removed it"), None),
        (RestoreError("web, db", "several", failures=[DIFFERS, RestoreError("db", "it is gone")]), None),
        (RestoreError("web, db", "several", failures=[DIFFERS, EngineError("start it", "no")]), None),
    ],
)
def test_a_container_counts_as_recreated_if_it_differs_at_most(
    store: BackupStore, failure: RestoreError, differs: dict[str, Any] | None
) -> None:
    """It runs then. Any other failure is raised, also if it is one of several."""
    reviving = revival(FakeEngine(), store, failure)
    if differs is None:
        with pytest.raises(RestoreError) as raised:
            reviving._put_back(backup(snapshot("web")))
        assert raised.value is failure
    else:
        assert reviving._put_back(backup(snapshot("web"))) == differs


def test_another_container_of_the_name_takes_its_place_only_if_it_ran(store: BackupStore) -> None:
    """One that was created and never started may be half of a container that is being recreated."""
    engine = FakeEngine()
    engine.add_image("app")
    reviving = revival(engine, store, DIFFERS)
    assert reviving._is_removed(snapshot("web"))
    there = engine.run("web", image="app", start=False)
    assert reviving._is_removed(snapshot("web"))
    assert not reviving._is_removed(evolve(snapshot("web"), id=there))
    engine.start_container("web")
    assert not reviving._is_removed(snapshot("web"))
    engine.stop_container("web")
    assert not reviving._is_removed(snapshot("web"))


def test_half_of_a_container_is_given_up_where_another_one_of_its_name_ran(store: BackupStore) -> None:
    """Somebody has put a service in its place; one that never ran is none."""
    engine = FakeEngine()
    engine.add_image("app")
    half = engine.run("web-docker-rollback-aside-1", image="app", start=False)
    stopped = (evolve(snapshot("web"), id=half), evolve(snapshot("db"), id="1" * 64))
    record = Record("op", "capturing", datetime(2026, 1, 2, tzinfo=UTC), "host", 1, "engine", (), stopped=stopped)
    reviving = revival(engine, store, DIFFERS)
    assert reviving._replaced(record, {half}) == set()
    engine.run("web", image="app", start=False)
    engine.run("db", image="app")
    assert reviving._replaced(record, {half}) == set()
    engine.start_container("web")
    assert reviving._replaced(record, {half}) == {half}
    assert reviving._replaced(record, set()) == set()


def test_what_does_not_start_is_not_recreated_where_nothing_was_removed(store: BackupStore) -> None:
    """Its own failure is the error: a new container would not start either."""

    class Refusing(FailingEngine):
        def start_container(self, ref: str) -> None:
            """Refuse."""
            raise EngineError(f"start container {ref!r}", "made to refuse")

    fake = FakeEngine()
    fake.add_image("app")
    fake.run("web", image="app")
    engine = Refusing(fake)
    web = ContainerSnapshotter(engine, store).observe("web")
    fake.stop_container("web")
    stopped = evolve(snapshot("web"), id=web.id, inspection=web.inspection)
    resting = quiesced_container(web, "stop")
    record = Record("op", "capturing", datetime(2026, 1, 2, tzinfo=UTC), "host", 1, "", (resting,), stopped=(stopped,))
    with pytest.raises(ResumeError, match="'web' could not be resumed"):
        revival(engine, store, DIFFERS).bring_back(record)
    assert fake.list_containers() == [web.id]


def test_the_newest_image_that_the_engine_has_is_taken(store: BackupStore) -> None:
    """The second commit, else the first, of the running container, else what is known of the container alone."""
    engine = FakeEngine()
    container = snapshot("web")
    reviving = revival(engine, store, DIFFERS)
    assert reviving._latest(container) == container
    for tag in (live(container.image.tag), container.image.tag):
        added = engine.add_image(tag, files={"/app": tag})
        layers = tuple(engine.inspect_image(tag)["RootFS"]["Layers"])
        latest = reviving._latest(container).image
        assert (latest.id, latest.clean, latest.layers, latest.committed_layers) == (added, False, layers, layers)
        equal = evolve(container, image=evolve(container.image, layers=layers, original_id=added))
        assert reviving._latest(equal).image.clean


# What is put back once more


def test_of_what_was_removed_before_it_was_started_only_what_is_missing_is_put_back() -> None:
    """The containers that are gone, their anonymous volumes, and the named ones that went with them."""
    engine = FakeEngine()
    engine.add_image("app")
    engine.run("web", image="app", start=False)
    engine.volume("stays")
    anonymous = Mount("volume", "/cache", NAME, read_only=False, anonymous=True)
    mounts = [Mount("volume", f"/{name}", name, read_only=False) for name in ("stays", "gone", "webs")]
    bind = Mount("bind", "/b", "/srv/data", read_only=False)
    db = snapshot("db", anonymous, mounts[0], mounts[1], bind)
    whole = backup(
        snapshot("web", mounts[2]),
        db,
        volumes=(volume(NAME, anonymous=True), *map(volume, ("stays", "gone", "webs")), volume("/srv/data")),
    )
    part = removed_part(engine, whole)
    assert part is not None
    assert part.containers == (db,)
    assert [one.name for one in part.volumes] == [NAME, "gone"]
    assert (part.id, part.project) == (whole.id, None)
    engine.run("db", image="app", start=False)
    assert removed_part(engine, whole) is None
