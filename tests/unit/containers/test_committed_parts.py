"""A changed layer is read by the API where little changed, and its digest proves it; else its image is exported."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from collections.abc import Generator

import pytest
from attrs import evolve

from docker_rollback import BackupStore, RollbackRequested, backup, recover, restore, rollback
from docker_rollback._containers import committed_parts
from docker_rollback._engine import EngineInfo
from docker_rollback._model import Backup
from docker_rollback.errors import EngineError, EngineForbiddenError
from docker_rollback.testing import FailingEngine, FakeEngine
from tests.unit.store.making import read_tar


class Lab:
    """A container that writes, and the calls of its engine."""

    def __init__(self, store: BackupStore, engine: FakeEngine | None = None) -> None:
        self.store = store
        self.real = engine or FakeEngine()
        self.real.add_image("app:1", files={"/app/a": "a", "/app/b": "b", "/etc/c": "c"})
        self.real.run("web", image="app:1")
        self.engine = FailingEngine(self.real)
        self.before = self.backup()

    def backup(self) -> Backup:
        """Back the container up; the calls of this backup alone are counted."""
        self.engine.calls.clear()
        return backup("web", client=self.engine, store=self.store)

    def calls(self, verb: str) -> int:
        """Return how often the last backup called a method."""
        return [call.verb for call in self.engine.calls].count(verb)

    @property
    def way(self) -> tuple[int, int]:
        """How many archives were read, and how many images exported."""
        return self.calls("get_archive"), self.calls("save_image")

    def write(self, path: str = "/app/new/file", text: str = "new") -> None:
        """Have the container write a file."""
        self.real.container("web").write(path, text)


@pytest.fixture
def lab(store: BackupStore) -> Lab:
    """A container whose image the store has."""
    return Lab(store)


def engine_layers(lab: Lab, taken: Backup) -> None:
    """Check that the stored image has the layers that the engine committed, and no others."""
    image = taken.containers[0].image
    assert image.manifest is not None
    assert image.layers == image.committed_layers
    archive = b"".join(lab.store.image_archive(image.manifest, ["copy:1"]))
    other = FakeEngine()
    other.load_image([archive])
    assert tuple(other.inspect_image("copy:1")["RootFS"]["Layers"]) == image.layers
    files = [gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data for data in read_tar(archive).values()]
    digests = {"sha256:" + hashlib.sha256(data).hexdigest() for data in files}
    assert set(image.layers) <= digests


def test_a_small_change_is_read_and_not_exported(lab: Lab) -> None:
    """What was added and changed is read, a folder of several files at once, and a deletion is found out."""
    lab.write("/app/new/file")
    lab.write("/app/new/folder/other")
    lab.write("/app/a", "longer")
    lab.real.container("web").delete("/app/b")
    taken = lab.backup()
    assert lab.way == (3, 0)  # /app, /app/a, and /app/new with all that is in it
    engine_layers(lab, taken)
    lab.real.remove_container("web", force=True)
    for name in lab.real.list_images("docker-rollback"):
        lab.real.remove_image(name)
    restore(taken, client=lab.real, store=lab.store)
    web = lab.real.container("web")
    assert (web.read("/app/a"), web.read("/app/new/folder/other"), web.exists("/app/b")) == (b"longer", b"new", False)


def test_the_config_is_that_of_the_engine(lab: Lab) -> None:
    """It has what the engine's inspection has, and the history of the image below."""
    lab.write()
    with_api = lab.backup().containers[0].image
    lab.write("/app/large", "x" * 100)
    lab.engine = FailingEngine(lab.real, at=1, error=EngineForbiddenError("ask", "no"), verbs={"get_archive"})
    exported = lab.backup().containers[0].image
    shown = []
    for image in (with_api, exported):
        assert image.manifest is not None
        other = FakeEngine()
        other.load_image(lab.store.image_archive(image.manifest, ["copy:1"]))
        found = other.inspect_image("copy:1")
        assert found["Author"].startswith("docker-rollback")
        shown.append({key: found[key] for key in ("Config", "Architecture", "Os")})
    assert shown[0] == shown[1]


def test_what_changed_no_further_is_not_even_read(lab: Lab) -> None:
    """The layer is stored once; the second backup reads no file."""
    lab.write()
    one = lab.backup()
    two = lab.backup()
    assert lab.way == (0, 0)
    assert lab.calls("create_container") == 1  # the guard
    assert one.containers[0].image.layers == two.containers[0].image.layers
    lab.store.delete(one.id)
    lab.store.verify(two.id)


def test_the_image_below_is_exported_once(store: BackupStore) -> None:
    """The store does not have its layers; what changed above them is read in the same backup."""
    lab = Lab(store)
    assert lab.way == (0, 1)
    lab.real.add_image("app:2", files={"/app/a": "other"})
    lab.real.remove_container("web", force=True)
    lab.real.run("web", image="app:2")
    lab.write()
    lab.backup()
    assert lab.way == (2, 1)


def test_many_changes_are_exported(lab: Lab) -> None:
    """Each costs a request; files in one new folder cost one together."""
    for number in range(100):
        lab.write(f"/app/new/{number}")
    lab.backup()
    assert lab.way == (2, 0)
    for number in range(100):
        lab.write(f"/app/{number}")
    lab.backup()
    assert lab.way == (0, 1)
    assert lab.calls("create_container") == 1  # the guard


def test_large_changes_are_exported(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be held in memory."""
    monkeypatch.setattr(committed_parts, "_MOST_BYTES", 8 << 10)
    lab.write("/app/one", "x" * (5 << 10))
    lab.backup()
    assert lab.way == (2, 0)
    lab.write("/app/two", "x" * (5 << 10))
    lab.backup()
    assert lab.way == (3, 1)


@pytest.mark.parametrize("verb", ["get_archive", "create_container"])
def test_what_an_engine_refuses_is_exported(lab: Lab, verb: str) -> None:
    """A proxy before the engine may forbid these requests; the backup is as good."""
    lab.write()
    # The first container that is created is the guard.
    at = 2 if verb == "create_container" else 1
    lab.engine = FailingEngine(lab.real, at=at, error=EngineForbiddenError("ask", "no"), verbs={verb})
    taken = lab.backup()
    assert lab.calls("save_image") == 1
    lab.store.verify(taken.id)
    assert lab.real.list_containers() == [lab.real.inspect_container("web")["Id"]]


class Wrong(FakeEngine):
    """An engine whose archives are not what its commits have."""

    def __init__(self, broken: bytes | None) -> None:
        super().__init__()
        self._broken = broken

    def get_archive(self, ref: str, path: str) -> Generator[bytes, None, None]:
        """Return a file of another mode, or no tar at all."""
        if self._broken is not None:
            yield self._broken
            return
        archive = bytearray(b"".join(super().get_archive(ref, path)))
        archive[104:107] = b"711"
        yield bytes(archive)


BROKEN = [
    None,
    b"",
    b"x" * 100,
    b"x" * 2048,
    tarfile.TarInfo("elsewhere").tobuf() + bytes(1024),
    tarfile.TarInfo("app").tobuf()[:300],
]
"""What is no answer to a question for the folder app."""


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_not_the_layer_is_exported(store: BackupStore, broken: bytes | None) -> None:
    """The digest that the engine gave decides, and not what its archives say."""
    lab = Lab(store, Wrong(broken))
    lab.write()
    taken = lab.backup()
    assert lab.calls("save_image") == 1
    engine_layers(lab, taken)


class Podman(FakeEngine):
    """An engine that says that it is Podman."""

    def info(self) -> EngineInfo:
        """Say so."""
        return evolve(super().info(), flavour="podman")


def test_podman_exports(store: BackupStore) -> None:
    """Its layers have files that its list of changes lacks."""
    lab = Lab(store, Podman())
    lab.write()
    lab.backup()
    assert lab.way == (0, 1)


class Declaring(FakeEngine):
    """An engine that notes the requests of containers."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[dict[str, object]] = []

    def create_container(self, name: str, request: object, *, platform: str | None = None) -> str:
        """Note it."""
        assert isinstance(request, dict)
        self.requests.append(request)
        return super().create_container(name, request, platform=platform)


def test_no_volume_is_made_for_the_copy(store: BackupStore) -> None:
    """An image may declare volumes, which an engine creates for each of its containers."""
    engine = Declaring()
    engine.add_image("app:1", config={"Volumes": {"/data": {}}}, files={"/app/a": "a"})
    engine.run("web", image="app:1")
    backup("web", client=engine, store=store)
    engine.container("web").write("/app/new", "x")
    there = engine.list_volumes()
    engine.requests.clear()
    backup("web", client=engine, store=store)
    assert engine.list_volumes() == there
    copies = [one for one in engine.requests if one["Entrypoint"] == ["/none"]]
    assert [one["HostConfig"]["Mounts"] for one in copies] == [[{"Type": "tmpfs", "Target": "/data"}]]  # type: ignore[index]  # JSON


def test_a_copy_that_stays_is_removed_by_recovery(lab: Lab) -> None:
    """As where the process dies before it removes it."""
    lab.write()

    class Stuck(FailingEngine):
        def remove_container(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
            if volumes:
                raise EngineError("remove", "it is stuck")
            super().remove_container(ref, force=force, volumes=volumes)

    lab.engine = Stuck(lab.real)
    lab.backup()
    assert lab.way == (2, 0)
    assert len(lab.real.list_containers()) == 2
    recover(client=lab.real, store=lab.store)
    assert lab.real.list_containers() == [lab.real.inspect_container("web")["Id"]]


@pytest.mark.parametrize(("files", "way"), [(4, (2, 0)), (16, (2, 1))])
def test_many_small_files_are_exported(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, files: int, way: tuple[int, int]
) -> None:
    """What is held in memory of all archives together counts, and empty files have headers."""
    monkeypatch.setattr(committed_parts, "_MOST_BYTES", 12 << 10)
    for folder in ("one", "two"):
        for number in range(files):
            lab.write(f"/{folder}/{number}", "")
    lab.backup()
    assert lab.way == way


def test_many_deletions_are_exported(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a member of the layer, which is held in memory."""
    monkeypatch.setattr(committed_parts, "_MOST_BYTES", 4 << 10)
    lab.real.add_image("app:2", files={f"/app/{number}": "a" for number in range(9)})
    lab.real.remove_container("web", force=True)
    lab.real.run("web", image="app:2")
    lab.backup()
    for number in range(9):
        lab.real.container("web").delete(f"/app/{number}")
    lab.backup()
    assert lab.way == (0, 1)


def test_the_image_of_a_failed_update_is_exported_once(lab: Lab) -> None:
    """The service is down meanwhile, so nothing is gained by a copy of the image below ahead of that."""
    with rollback("web", client=lab.engine, store=lab.store, verify=None, keep_failed=True):
        lab.real.add_image("app:2", files={"/app/a": "other"})
        lab.real.remove_container("web", force=True)
        lab.real.run("web", image="app:2")
        for number in range(100):
            lab.write(f"/app/{number}")
        lab.engine.calls.clear()
        raise RollbackRequested
    assert lab.way == (0, 1)
