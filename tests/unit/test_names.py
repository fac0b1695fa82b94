"""A user's name of an image leads where it led, and is never given to an image of ours, not for a moment."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from docker_rollback import (
    BackupStore,
    Outcome,
    RollbackFailedError,
    RollbackRequested,
    Status,
    UnfinishedElsewhereError,
    backup,
    compare,
    recover,
    restore,
    rollback,
)
from docker_rollback._containers.images import create_on, name_of
from docker_rollback._model.backup import backup_id
from docker_rollback._names import image_tag, named, names_of
from docker_rollback.parts import EngineInfo
from docker_rollback.reports import LedBack
from docker_rollback.testing import FailingEngine, FakeEngine, Killed
from tests.unit.mortal import Life, MortalEngine
from tests.unit.shop import Shop

T = TypeVar("T")


def image_of(engine: FakeEngine, container: str = "web") -> tuple[str, str]:
    """Return what a container says it was created from, and the id of its image."""
    found = engine.inspect_container(container)
    return found["Config"]["Image"], found["Image"]


@pytest.fixture
def engine() -> FakeEngine:
    """Give an engine with two images, and a container of the first."""
    engine = FakeEngine()
    engine.add_image("app:1", files={"/app": "old"})
    engine.add_image("app:2", files={"/app": "new"})
    engine.run("web", image="app:1")
    return engine


def move_and_replace(engine: FakeEngine) -> str:
    """Do what a bad update does that pulls or builds: its image takes the name. Return the image's id."""
    new = engine.add_image("built:1", files={"/app": "bad"})
    engine.tag_image(new, "app:1")
    engine.remove_image("built:1")
    engine.remove_container("web", force=True)
    engine.run("web", image="app:1")
    return new


def fail(engine: FakeEngine, store: BackupStore, **options: Any) -> tuple[Outcome, str]:
    """Roll back an update that moved the name; return the outcome and the id of the update's image."""
    with rollback("web", client=engine, store=store, verify=None, **options) as tx:
        new = move_and_replace(engine)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    return tx.outcome, new


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("app", "app:latest"),
        ("app:1", "app:1"),
        ("host:5000/app", "host:5000/app:latest"),
        ("docker.io/library/app:1", "docker.io/library/app:1"),
        ("abc", "abc:latest"),
        ("0123456789ab", None),
        ("sha256:0123456789ab", None),
        ("f" * 64, None),
        ("sha256:" + "f" * 64, None),
        ("app@sha256:" + "f" * 64, None),
        ("app:1@sha256:" + "f" * 64, None),
        ("docker-rollback:b.0.web", None),
        ("localhost/docker-rollback:b.0.web", None),
        ("docker.io/library/docker-rollback-kept:b.0.web", None),
        ("docker-rollback-mirror:1", "docker-rollback-mirror:1"),
    ],
)
def test_a_name_is_told_from_an_id_and_from_a_name_of_ours(reference: str, name: str | None) -> None:
    """Only what can lead elsewhere, and is the user's, is led back; it has its tag."""
    assert name_of(reference, "sha256:0123456789abcdef") == name


def test_a_clean_container_is_created_by_its_name_again(engine: FakeEngine, store: BackupStore) -> None:
    """The name leads back first, so that everything is exact; the failed image stays, and the outcome names it."""
    before = engine.inspect_container("web")
    outcome, new = fail(engine, store)
    assert compare(before, engine.inspect_container("web")) == []
    assert image_of(engine) == ("app:1", before["Image"])
    assert outcome.names == (LedBack("app:1", before["Image"], new),)
    assert outcome.not_exact == ()
    assert outcome.backup is not None
    assert outcome.backup.not_covered == ()
    assert engine.inspect_image(new)["RepoTags"] == []


def test_a_changed_container_is_created_by_the_id_of_its_image(
    engine: FakeEngine, store: BackupStore, caplog: pytest.LogCaptureFixture
) -> None:
    """No name may lead to the committed image; that is listed in the backup, and told in the log and the outcome."""
    first = engine.inspect_image("app:1")["Id"]
    engine.container("web").write("/dirty", "web")
    outcome, new = fail(engine, store)
    reference, image = image_of(engine)
    assert reference == image
    assert engine.container("web").read("/dirty") == b"web"
    assert outcome.names == (LedBack("app:1", first, new),)
    assert engine.inspect_image("app:1")["Id"] == first != image
    (told,) = outcome.not_exact
    assert told == f"container 'web' could not be created by its own reference: Config.Image: 'app:1' became {image!r}"
    assert told in caplog.text
    assert outcome.backup is not None
    (listed,) = outcome.backup.not_covered
    assert listed.what == "Config.Image of web"
    assert "'app:1'" in listed.reason


def test_names_are_left_alone_on_request(engine: FakeEngine, store: BackupStore) -> None:
    """The update's image keeps the name; the container stands on its own image all the same."""
    first = image_of(engine)[1]
    outcome, new = fail(engine, store, restore_tags=False)
    assert engine.inspect_image("app:1")["Id"] == new
    assert image_of(engine) == (first, first)
    assert engine.container("web").read("/app") == b"old"
    assert outcome.names == ()
    assert len(outcome.not_exact) == 1


def test_a_name_leads_back_to_what_was_pulled_before(engine: FakeEngine, store: BackupStore) -> None:
    """At the capture it led to a newer image already; the container says by id what it stands on."""
    first, pulled = image_of(engine)[1], engine.inspect_image("app:2")["Id"]
    engine.tag_image(pulled, "app:1")
    outcome, new = fail(engine, store)
    assert engine.inspect_image("app:1")["Id"] == pulled
    assert outcome.names == (LedBack("app:1", pulled, new),)
    assert image_of(engine) == (first, first)
    assert outcome.backup is not None
    assert [listed.what for listed in outcome.backup.not_covered] == ["Config.Image of web"]


def test_a_name_whose_image_is_gone_is_left(
    engine: FakeEngine, store: BackupStore, caplog: pytest.LogCaptureFixture
) -> None:
    """What it led to was another image, which no backup holds; nothing is put in its place."""
    pulled = engine.inspect_image("app:2")["Id"]
    engine.tag_image(pulled, "app:1")
    with rollback("web", client=engine, store=store, verify=None) as tx:
        new = move_and_replace(engine)
        for held in engine.inspect_image(pulled)["RepoTags"]:
            engine.remove_image(held)
        raise RollbackRequested
    assert engine.inspect_image("app:1")["Id"] == new
    assert tx.outcome.names == ()
    assert f"image {pulled} is gone; leaving its name app:1" in caplog.text


@pytest.mark.parametrize("good", [True, False])
def test_the_image_of_the_name_is_held_while_the_update_is_at_work(
    engine: FakeEngine, store: BackupStore, *, good: bool
) -> None:
    """No image without a name goes with our name of it, whether the update stands or not."""
    engine.container("web").write("/dirty", "web")
    first = image_of(engine)[1]
    with rollback("web", client=engine, store=store, verify=None) as tx:
        new = move_and_replace(engine)
        (held,) = engine.inspect_image(first)["RepoTags"]
        assert held == f"{tx.backup.containers[0].image.tag}-named"
        if not good:
            raise RollbackRequested
    assert engine.inspect_image(first)["RepoTags"] == ([] if good else ["app:1"])
    assert engine.inspect_image("app:1")["Id"] == (new if good else first)


def test_a_name_that_led_nowhere_is_left(engine: FakeEngine, store: BackupStore) -> None:
    """An update made it: it is not taken away, for an engine would remove the image with its last name."""
    first = image_of(engine)[1]
    engine.tag_image(first, "held:1")
    engine.remove_image("app:1")
    outcome, new = fail(engine, store)
    assert engine.inspect_image("app:1")["Id"] == new
    assert outcome.names == ()
    assert image_of(engine) == (first, first)


def test_a_name_that_the_update_removed_comes_back(engine: FakeEngine, store: BackupStore) -> None:
    """It led nowhere in between; no image has lost it."""
    before = engine.inspect_container("web")
    with rollback("web", client=engine, store=store, verify=None) as tx:
        engine.remove_container("web", force=True)
        engine.remove_image("app:1")
        raise RollbackRequested
    assert compare(before, engine.inspect_container("web")) == []
    assert tx.outcome.names == (LedBack("app:1", before["Image"]),)


@pytest.mark.parametrize("dirty", [True, False])
def test_the_very_container_has_its_name_led_back_as_well(
    engine: FakeEngine, store: BackupStore, *, dirty: bool
) -> None:
    """It need not be recreated; whoever acts by the name next must not get the failed image."""
    before = engine.inspect_container("web")
    if dirty:
        engine.container("web").write("/dirty", "web")
    with rollback("web", client=engine, store=store, verify=None) as tx:
        engine.tag_image("app:2", "app:1")
        raise RollbackRequested
    assert engine.inspect_container("web")["Id"] == before["Id"]
    assert engine.inspect_image("app:1")["Id"] == before["Image"]
    assert tx.outcome.not_exact == ()
    assert [moved.name for moved in tx.outcome.names] == ["app:1"]


@pytest.mark.parametrize("length", [12, 64, 71])
def test_an_id_is_no_name(engine: FakeEngine, store: BackupStore, length: int) -> None:
    """A container of an id is created by that id again, and there is nothing to lead back."""
    found = str(engine.inspect_image("app:1")["Id"])
    reference = found if length == 71 else found.removeprefix("sha256:")[:length]
    engine.remove_container("web", force=True)
    engine.run("web", image=reference)
    outcome, _ = fail(engine, store)
    assert image_of(engine) == (reference, found)
    assert (outcome.names, outcome.not_exact) == ((), ())


def test_the_name_is_known_after_a_rollback_that_had_to_use_the_id(engine: FakeEngine, store: BackupStore) -> None:
    """The next rollback leads it back as well, and the one after that; the store's last backup knows it."""
    first = image_of(engine)[1]
    engine.container("web").write("/dirty", "web")
    for _ in range(3):
        outcome, new = fail(engine, store, keep=1)
        assert engine.inspect_image("app:1")["Id"] == first
        assert outcome.names == (LedBack("app:1", first, new),)
        assert engine.container("web").read("/dirty") == b"web"


def test_an_update_without_an_image_takes_the_name_from_the_backup(engine: FakeEngine, store: BackupStore) -> None:
    """After a rollback the container says an id; an update to what its name leads to is possible all the same."""
    engine.container("web").write("/dirty", "web")
    fail(engine, store)
    engine.tag_image("app:2", "app:1")
    with rollback("web", client=engine, store=store, verify=None) as tx:
        tx.replace("web")
    assert image_of(engine) == ("app:1", engine.inspect_image("app:2")["Id"])
    assert engine.container("web").read("/app") == b"new"


def test_an_update_whose_name_nobody_knows_asks_for_the_image(
    engine: FakeEngine, store: BackupStore, tmp_path: Path
) -> None:
    """The store that knows it is another one: the error says what to give, and the service goes on."""
    engine.container("web").write("/dirty", "web")
    fail(engine, store)
    before = engine.inspect_container("web")
    with (
        pytest.raises(ValueError, match=r"could not create container 'web' by the name of its image.* image="),
        rollback("web", client=engine, store=tmp_path / "other", verify=None) as tx,
    ):
        tx.replace("web")
    assert engine.inspect_container("web")["Id"] == before["Id"]


class Meddling(FakeEngine):
    """An engine in which somebody acts right before a container is created by a name."""

    meddle: Callable[[], object] | None = None

    def create_container(self, name: str, request: Mapping[str, Any], *, platform: str | None = None) -> str:
        """Create one, too late."""
        if self.meddle is not None and request["Image"] == "app:1":
            self.meddle()
        return super().create_container(name, request, platform=platform)


@pytest.mark.parametrize("what", ["moved", "removed"])
def test_a_name_that_moves_right_before_the_creation_does_no_harm(store: BackupStore, what: str) -> None:
    """The container is created by the id then, and what was created on another image is gone with its volumes."""
    engine = Meddling()
    engine.add_image("app:1", files={"/app": "old"}, volumes=["/kept"])
    engine.add_image("app:2", files={"/app": "new"}, volumes=["/kept"])
    engine.run("web", image="app:1")
    first = image_of(engine)[1]
    with rollback("web", client=engine, store=store, verify=None) as tx:
        engine.remove_container("web", force=True, volumes=True)
        engine.meddle = (
            (lambda: engine.tag_image("app:2", "app:1")) if what == "moved" else lambda: engine.remove_image("app:1")
        )
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert image_of(engine) == (first, first)
    assert engine.container("web").read("/app") == b"old"
    assert len(engine.list_volumes()) == 1
    assert len(engine.list_containers()) == 1
    assert len(tx.outcome.not_exact) == 1


def test_a_container_is_created_on_the_very_image(engine: FakeEngine) -> None:
    """By the name if that leads there, else by the id; the name is not touched."""
    first, second = (str(engine.inspect_image(name)["Id"]) for name in ("app:1", "app:2"))
    create_on(engine, "one", {"Image": "app:1"}, first, tag="docker-rollback:b.0.web")
    create_on(engine, "two", {"Image": "app:1"}, second, tag="docker-rollback:b.0.web")
    create_on(engine, "three", {"Image": "nobody:1"}, second, tag="docker-rollback:b.0.web")
    assert [image_of(engine, name) for name in ("one", "two", "three")] == [
        ("app:1", first),
        (second, second),
        (second, second),
    ]
    assert engine.inspect_image("app:1")["Id"] == first


class Podman(FakeEngine):
    """An engine that shows the newest name of the image if a container is created by an id."""

    newest: tuple[str, ...] = ()

    def info(self) -> EngineInfo:
        """Say that it is Podman."""
        return evolve(super().info(), flavour="podman")

    def tag_image(self, ref: str, tag: str) -> None:
        """Remember which name is the newest."""
        super().tag_image(ref, tag)
        self.newest = (tag, *(name for name in self.newest if name != tag))

    def create_container(self, name: str, request: Mapping[str, Any], *, platform: str | None = None) -> str:
        """Create one by a name of its image, with Podman's registry."""
        if str(request["Image"]).startswith("sha256:"):
            names = self.inspect_image(request["Image"])["RepoTags"]
            shown = next((one for one in (*self.newest, *names) if one in names), request["Image"])
            request = {**request, "Image": f"docker.io/library/{shown}" if shown in names else shown}
        return super().create_container(name, request, platform=platform)


def test_podman_shows_a_name_that_leads_to_the_image(store: BackupStore) -> None:
    """It is held as long as the container shows it, and goes with the container."""
    engine = Podman()
    first = engine.add_image("app:1", files={"/app": "old"})
    new = engine.add_image("app:2", files={"/app": "new"})
    engine.tag_image(first, "held:1")
    names = ["web", "db"]
    for name in names:
        engine.run(name, image="app:1")
    for name in [*names, *names]:
        # With a stop, Podman's addresses would count as asked for: this engine gives the same ones again.
        with rollback(name, client=engine, store=store, verify=None, quiesce="pause", restore_tags=False, keep=1) as tx:
            engine.tag_image(new, "app:1")
            engine.remove_container(name, force=True)
            raise RollbackRequested
        assert tx.status is Status.ROLLED_BACK
        recover(client=engine, store=store)
        for one in names:
            reference, image = image_of(engine, one)
            assert image == first
            assert engine.inspect_image(reference)["Id"] == (new if reference == "app:1" else first)
    for name in names:
        assert name_of(image_of(engine, name)[0], first) is None
        with rollback(name, client=engine, store=store, verify=None, quiesce="pause") as tx:
            tx.replace(name)
        assert image_of(engine, name) == ("app:1", new)
    assert engine.inspect_image(first)["RepoTags"] == ["held:1"]


def test_what_another_rollback_names_is_not_what_podman_shows() -> None:
    """The name of another operation is newer, and is removed with that."""
    engine = Podman()
    first = engine.add_image("app:1", files={"/app": "old"})
    engine.tag_image(first, "docker-rollback:mine")
    engine.tag_image(first, "docker-rollback:other")
    engine.tag_image(engine.add_image("app:2"), "app:1")
    create_on(engine, "one", {"Image": "app:1", "Cmd": ["true"]}, first, tag="docker-rollback:mine")
    assert image_of(engine, "one") == ("docker-rollback:mine", first)


def test_an_image_is_found_by_its_id_if_its_name_of_ours_is_gone(store: BackupStore) -> None:
    """Podman shows a name of ours for a container that anybody creates by an id during a rollback."""
    engine = FakeEngine()
    first = engine.add_image("app:1", files={"/app": "old"})
    engine.tag_image(first, "docker-rollback:other")
    engine.run("web", image="docker-rollback:other")
    engine.remove_image("docker-rollback:other")
    with rollback("web", client=engine, store=store, verify=None) as tx:
        tx.replace("web")
    assert tx.status is Status.COMMITTED
    assert image_of(engine) == (first, first)


def test_a_restore_leads_names_back_unless_told_otherwise(engine: FakeEngine, store: BackupStore) -> None:
    """It puts back what the backup knows, as a rollback does; a second restore has nothing left to move."""
    first, second = image_of(engine)[1], engine.inspect_image("app:2")["Id"]
    taken = backup("web", client=engine, store=store)
    engine.tag_image(second, "app:1")
    restore(taken, client=engine, store=store, restore_tags=False)
    assert engine.inspect_image("app:1")["Id"] == second
    for _ in range(2):
        restore(taken, client=engine, store=store)
        assert engine.inspect_image("app:1")["Id"] == first


def test_a_restore_on_another_engine_gives_the_image_its_name(engine: FakeEngine, store: BackupStore) -> None:
    """There the name led nowhere: the container is created by it."""
    before = engine.inspect_container("web")
    taken = backup("web", client=engine, store=store)
    other = FakeEngine()
    restore(taken, client=other, store=store)
    assert image_of(other) == ("app:1", before["Image"])


@pytest.mark.parametrize("restore_tags", [True, False])
def test_recovery_does_what_the_dead_process_was_told(
    engine: FakeEngine, store: BackupStore, *, restore_tags: bool
) -> None:
    """Whether names lead back is in the journal; the failed image stays also where what was found is kept."""
    first = image_of(engine)[1]
    life = Life()
    with (
        pytest.raises(Killed),
        rollback("web", client=MortalEngine(engine, life), store=store, verify=None, restore_tags=restore_tags),
    ):
        new = move_and_replace(engine)
        raise life.die()
    (done,) = recover(client=engine, store=store)
    assert done.outcome == "rolled back"
    assert done.kept is not None
    assert engine.inspect_image("app:1")["Id"] == (first if restore_tags else new)
    assert engine.inspect_image(new)["RepoTags"] == ([] if restore_tags else ["app:1"])
    assert image_of(engine)[1] == first


@pytest.mark.parametrize("dirty", [True, False])
def test_a_failed_image_stays_where_its_state_is_kept(engine: FakeEngine, store: BackupStore, *, dirty: bool) -> None:
    """The names of ours that it has meanwhile go, without the image."""
    with rollback("web", client=engine, store=store, verify=None, keep_failed=True) as tx:
        new = move_and_replace(engine)
        if dirty:
            engine.container("web").write("/dirty", "failed")
        raise RollbackRequested
    assert tx.outcome.kept is not None
    assert engine.inspect_image(new)["RepoTags"] == []
    restore(tx.outcome.kept, client=engine, store=store)
    assert engine.inspect_image("app:1")["Id"] == new


def test_a_name_that_cannot_be_moved_keeps_no_container_down(shop: Shop) -> None:
    """The rollback has failed, and says so; the service stands and runs all the same."""
    counting = FailingEngine(shop.engine, verbs={"tag_image"})
    with pytest.raises(RollbackFailedError) as failed, shop.rollback(engine=counting, verify=None) as tx:
        shop.break_it()
        shop.engine.tag_image("shop:2", "shop:1")
        counting._at = frozenset({counting.count + 2})
        raise LookupError
    assert tx.status is Status.FAILED
    assert "restore image name 'shop:1'" in "".join(failed.value.failures.exceptions[0].__notes__)
    assert shop.engine.inspect_container("shop")["State"]["Running"]
    assert shop.engine.container("shop").read("/app") == b"version 1"


class Turns:
    """Lets several processes have their turns in a chosen order, one call to the engine each."""

    def __init__(self, order: list[int]) -> None:
        self._order = deque(order)
        self._ended: set[int] = set()
        self._changed = threading.Condition(threading.RLock())

    def take(self, who: int, work: Callable[[], T]) -> T:
        """Do one call when it is the turn of `who`; once the order is used up, whoever comes first."""
        with self._changed:
            while self._next() not in (who, None):
                self._changed.wait()
            try:
                return work()
            finally:
                if self._order:
                    self._order.popleft()
                self._changed.notify_all()

    def end(self, who: int) -> None:
        """Leave out the turns of one that has ended."""
        with self._changed:
            self._ended.add(who)
            self._changed.notify_all()

    def _next(self) -> int | None:
        while self._order and self._order[0] in self._ended:
            self._order.popleft()
        return self._order[0] if self._order else None


class Turning(FailingEngine):
    """An engine as one of several processes sees it; it can die at one of its changing calls."""

    def __init__(self, engine: FakeEngine, turns: Turns, who: int, dies: int | None, moved: list[tuple[str, str]]):
        super().__init__(engine, at=dies, kill=True)
        self._turns = turns
        self._who = who
        self._moved = moved

    def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
        """Do one call when it is this process's turn."""
        return self._turns.take(self._who, lambda: super(Turning, self).pass_on(verb, work, *arguments))

    def tag_image(self, ref: str, tag: str) -> None:
        """Note what a name is moved to."""
        self._moved.append((str(self.inspect_image(ref)["Id"]), tag))
        super().tag_image(ref, tag)


class Street:
    """Several containers of one name of an image, each rolled back by a process with a store of its own."""

    def __init__(self, dirty: list[bool], moves: list[bool], turns: Turns, folder: Path) -> None:
        self.engine = FakeEngine()
        self.dirty, self.moves, self.turns, self.folder = dirty, moves, turns, folder
        self.first = self.engine.add_image("app:1", files={"/app": "good"})
        self.built = [self.engine.add_image(f"built:{n}", files={"/app": f"bad {n}"}) for n in range(len(dirty))]
        self.moved: list[tuple[str, str]] = []
        self.failures: list[BaseException] = []
        self.strangers: list[str] = []
        for number, own in enumerate(dirty):
            self.engine.run(f"web{number}", image="app:1")
            if own:
                self.engine.container(f"web{number}").write("/dirty", str(number))

    def process(self, number: int, dies: int | None) -> None:
        """Roll one back; where it dies, recover it as the next process would."""
        name, store = f"web{number}", BackupStore(self.folder / str(number))
        view = Turning(self.engine, self.turns, number, dies, self.moved)
        try:
            try:
                with rollback(name, client=view, store=store, verify=None) as tx:
                    if self.moves[number]:
                        view.tag_image(self.built[number], "app:1")
                    view.remove_container(name, force=True, volumes=True)
                    raise RollbackRequested
                assert tx.status is Status.ROLLED_BACK
            except Killed:
                # What others left undone at this moment is theirs.
                with suppress(UnfinishedElsewhereError):
                    recover(client=Turning(self.engine, self.turns, number, None, self.moved), store=store)
        except BaseException as error:  # whatever it is, the test has to end and to tell
            self.failures.append(error)
        finally:
            self.turns.end(number)

    def passer_by(self, number: int) -> None:
        """Create containers by the name all the while, and look at what they are."""
        view = Turning(self.engine, self.turns, number, None, [])
        try:
            for _ in range(12):
                created = view.create_container("passer-by", {"Image": "app:1"})
                handle = self.engine.container(created)
                if handle.exists("/dirty"):
                    self.strangers.append(handle.read("/dirty").decode())
                view.remove_container(created, force=True)
        except BaseException as error:
            self.failures.append(error)
        finally:
            self.turns.end(number)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_rollbacks_at_once_share_a_name(data: st.DataObject) -> None:
    """In any interleaving, with deaths, the name is moved only to what it led to at a capture, and each is back."""
    count = data.draw(st.integers(2, 3), "how many")
    flags = st.lists(st.booleans(), min_size=count, max_size=count)
    dirty, moves = data.draw(flags, "dirty"), data.draw(flags, "moves the name")
    deaths = data.draw(st.lists(st.none() | st.integers(1, 40), min_size=count, max_size=count), "dies at")
    turns = Turns(data.draw(st.lists(st.integers(0, count), max_size=300), "turns"))
    folder = Path(tempfile.mkdtemp())
    try:
        street = Street(dirty, moves, turns, folder)
        threads = [threading.Thread(target=street.process, args=one) for one in enumerate(deaths)]
        threads.append(threading.Thread(target=street.passer_by, args=(count,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
    finally:
        shutil.rmtree(folder)
    assert street.failures == []
    assert street.strangers == []
    images = {street.first, *street.built}
    users = [(image, name) for image, name in street.moved if not name.startswith("docker-rollback")]
    assert {name for _, name in users} <= {"app:1"}
    assert {image for image, _ in users} <= images
    assert street.engine.inspect_image("app:1")["Id"] in images
    if not any(moves):
        assert street.engine.inspect_image("app:1")["Id"] == street.first
    for number, own in enumerate(dirty):
        handle, (reference, image) = street.engine.container(f"web{number}"), image_of(street.engine, f"web{number}")
        assert handle.read("/app") == b"good"
        assert (handle.read("/dirty") if handle.exists("/dirty") else None) == (str(number).encode() if own else None)
        assert reference in ("app:1", image)
    assert [one for one in street.engine.list_volumes() if "docker-rollback" in one] == []
    assert len(street.engine.list_containers()) == count


def test_a_backup_without_a_name_leads_nothing_back(engine: FakeEngine, store: BackupStore) -> None:
    """An earlier version did not keep it; its backups are read, and names are left alone."""
    taken = backup("web", client=engine, store=store)
    (container,) = taken.containers
    older = evolve(taken, containers=(evolve(container, image=evolve(container.image, name=None, name_id=None)),))
    engine.tag_image("app:2", "app:1")
    restore(older, client=engine, store=store)
    assert engine.inspect_image("app:1")["Id"] == engine.inspect_image("app:2")["Id"]


def test_our_name_of_an_image_has_fifty_characters_of_its_containers() -> None:
    """So each of our names of it fits an engine, which takes 128 characters, also for the longest id of a backup."""
    name = "w" * 200
    tag = image_tag(backup_id(name, datetime(2026, 1, 2, tzinfo=UTC), "a1b2c3"), 999, name)
    assert tag.endswith(f".999.{name[:50]}")
    for each in (*names_of(tag), named(tag)):
        assert len(each.partition(":")[2]) <= 128
