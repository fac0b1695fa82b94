"""Volumes archived and filled on a real engine, by both ways, seen by the tests' own eyes."""

from __future__ import annotations

import io
import os
import secrets
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, NotFound

from docker_rollback._engine.docker.engine import DockerEngine
from docker_rollback._model.backup import Way
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.access import host_programs, same_folder, sandbox
from docker_rollback._volumes.access.helper_image import pack_kit
from docker_rollback._volumes.archiver import VolumeArchiver
from docker_rollback.errors import ArchiveError, VolumeAccessError, VolumeNotFoundError
from docker_rollback.testing import CHANGING, FailingEngine
from tests.engines.images import busybox_tar
from tests.engines.results import cannot
from tests.engines.unprivileged import ByUser, as_root, as_user, can_be_root, is_unprivileged
from tests.racing import Swapping, exchange
from tests.unit.volumes import awkward
from tests.unit.volumes.comparing import differences, picture

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("eyes")]

WAYS = (pytest.param("direct", marks=pytest.mark.direct), "helper")
SEED = "from the image"
PATIENCE = 30.0


class Bench:
    """An engine, a store, and what the tests do with them past what is under test."""

    def __init__(self, client: docker.DockerClient, image: str, labels: dict[str, str], folder: Path) -> None:
        self.client = client
        self.image = image
        self.labels = labels
        self.engine = DockerEngine(client)
        self.store = BackupStore(folder / "store")
        self.volumes: list[str] = []

    def archiver(self, way: Way | None = None, **options: Any) -> Any:
        """Make an archiver, which works without root where the tests do."""
        return ByUser(VolumeArchiver(self.engine, self.store, way=way, **options))

    def volume(self, **options: str) -> str:
        """Make a volume and return its name."""
        name = f"vol-{secrets.token_hex(4)}"
        self.client.api.create_volume(name, labels=self.labels, driver_opts=options or None)
        self.volumes.append(name)
        return name

    def folder(self, volume: str) -> Path:
        """Return where a volume lies on this host."""
        folder = Path(self.client.api.inspect_volume(volume)["Mountpoint"])
        assert folder.is_dir(), f"the engine's volumes cannot be seen here ({folder})"
        return folder

    def container(self, *binds: str, command: str = "sleep 600", start: bool = False, **config: Any) -> str:
        """Create a container and return its id."""
        request = {
            "Image": self.image,
            "Cmd": ["sh", "-c", command],
            "StopSignal": "SIGKILL",
            "HostConfig": {"Binds": list(binds), "NetworkMode": "none"},
            **config,
        }
        create: Any = self.client.api.create_container_from_config  # the SDK's types leave it out
        made: str = create(request, f"box-{secrets.token_hex(4)}")["Id"]
        if start:
            self.client.api.start(made)
        return made

    def output(self, container: str) -> str:
        """Start a container, wait until it has ended, and return what it printed."""
        self.client.api.start(container)
        self.client.api.wait(container)
        return self.client.api.logs(container).decode()

    def helpers(self) -> list[str]:
        """Return the helpers that there are for the volumes of this test; others may be at work on the same engine."""
        found = self.client.api.containers(all=True, filters={"label": "docker-rollback.role=helper"})
        return [helper["Id"] for helper in found if any(name in str(helper["Mounts"]) for name in self.volumes)]


@pytest.fixture
def eyes(tmp_path: Path) -> Iterator[None]:
    """Let a test look into volumes as root: whoever is to be tested without it has given it up but for this."""
    assert tmp_path.is_dir()  # made before, by the user
    if not can_be_root():
        pytest.skip("looking into volumes takes root")
    with as_root():
        yield


@pytest.fixture(scope="module")
def seeded_image(docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> str:
    """Give an image with a file at /seeded, which has an owner and a mode of its own, and GNU tar."""
    tree = io.BytesIO(busybox_tar())
    with tarfile.open(fileobj=tree, mode="a") as archive:
        folder = tarfile.TarInfo("seeded")
        folder.type, folder.mode, folder.uid, folder.mtime = tarfile.DIRTYPE, 0o751, 1234, 86400
        archive.addfile(folder)
        entry = tarfile.TarInfo("seeded/seed")
        entry.size, entry.uid = len(SEED), 1234
        archive.addfile(entry, io.BytesIO(SEED.encode()))
        tar = host_programs.find_tar()
        assert tar is not None
        needs = host_programs.needs(tar)
        files = {"usr/bin/tar": needs.path, str(needs.loader)[1:]: needs.loader}
        files |= {str(path)[1:]: path for path in needs.libraries.values()}
        for name, path in files.items():
            assert path is not None
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, 0o755
            with path.open("rb") as program:
                archive.addfile(entry, program)
    (label, value), *_ = test_labels.items()
    changes = [
        f"LABEL {label}={value}",
        "LABEL proxy.enable=true",
        "VOLUME /var/lib/declared",
        "USER 1234",
        "ENV PATH=/usr/bin:/bin",
    ]
    repository = "docker-rollback-test-seeded"
    docker_client.api.import_image_from_data(tree.getvalue(), repository=repository, tag=value, changes=changes)
    assert busybox_image  # its fixture removes every image of the label
    return f"{repository}:{value}"


@pytest.fixture
def bench(
    docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str], tmp_path: Path
) -> Iterator[Bench]:
    """Give a bench, and see that no helper and no image of one is left when the test ends."""
    made = Bench(docker_client, busybox_image, test_labels, tmp_path)
    yield made
    assert made.helpers() == []


def needs_mounts(bench: Bench, volume: str) -> None:
    """Skip the test where the engine cannot mount a volume with options at all."""
    try:
        bench.container(f"{volume}:/data", command="true", start=True)
    except APIError as error:
        if "locating 'mount' binary" not in str(error):
            raise
        cannot(bench.client, "its host has no mount program, so it has no volumes with options")


def ways() -> tuple[Way, ...]:
    """Return the ways to volumes that there are for who runs the tests."""
    return ("helper",) if is_unprivileged() else ("direct", "helper")


def settled(condition: Callable[[], bool]) -> bool:
    """Wait until something holds, and say whether it did in time."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# Every kind of file


@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_file_is_put_back_in_place(bench: Bench, way: Way) -> None:
    """Over a damaged volume, all is as before, byte for byte and attribute for attribute; outside, nothing changed."""
    volume = bench.volume()
    root = bench.folder(volume)
    awkward.make(root)
    before = picture(root, sockets=False)
    archiver = bench.archiver(way)
    archive = archiver.archive(volume)
    assert (archive.way, [gap.what for gap in archive.not_covered]) == (
        way,
        [rf"socket ./special/socket\n1 in volume {volume}"],
    )
    outside = root.parent / "outside"
    outside.mkdir()
    awkward.damage(root, outside)
    if way == "helper" and "setfattr" not in pack_kit().prefixes:
        # Nothing in a helper takes them off the root then; a warning of the log says so.
        for name in ("user.stray", "trusted.stray"):
            os.removexattr(root, name)
    untouched = picture(outside)
    archiver.extract(archive)
    assert differences(before, picture(root)) == []
    assert [line for line in differences(untouched, picture(outside)) if "links was" not in line] == []
    archiver.extract(archive)
    assert differences(before, picture(root)) == []


@pytest.mark.parametrize("back", WAYS)
@pytest.mark.parametrize("out", WAYS)
def test_an_archive_of_one_way_fills_a_new_volume_by_the_other(bench: Bench, out: Way, back: Way) -> None:
    """What was archived one way fills an empty volume the other way."""
    volume, empty = bench.volume(), bench.volume()
    awkward.make(bench.folder(volume))
    archive = bench.archiver(out).archive(volume)
    bench.archiver(back).extract(archive, empty)
    assert differences(picture(bench.folder(volume), sockets=False), picture(bench.folder(empty))) == []


def test_a_foreign_image_does_as_well(bench: Bench, seeded_image: str) -> None:
    """An image with GNU tar that is named serves, without its volumes, its user and its labels."""
    volume = bench.volume()
    root = bench.folder(volume)
    awkward.make(root)
    before = picture(root, sockets=False)
    volumes = {one["Name"] for one in bench.client.api.volumes()["Volumes"]}
    archiver = bench.archiver("helper", helper_image=seeded_image)
    archive = archiver.archive(volume)
    (root / "stray").mkdir()
    archiver.extract(archive)
    assert differences(before, picture(root)) == []
    made = {one["Name"] for one in bench.client.api.volumes()["Volumes"]} - volumes
    assert not [name for name in made if len(name) == 64]


def test_an_image_without_gnu_tar_is_refused(bench: Bench) -> None:
    """Busybox's tar would lose attributes without a word, so its image is refused."""
    with pytest.raises(VolumeAccessError, match="has no GNU tar"):
        bench.archiver("helper", helper_image=bench.image).archive(bench.volume())


# What engines do to volumes


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("content", ["empty", "filled"])
def test_a_new_volume_is_filled_between_creation_and_start(
    bench: Bench, seeded_image: str, way: Way, content: str
) -> None:
    """Into a volume that the engine would fill from the image comes what was archived, root and all, and it stays."""
    bench.image = seeded_image
    volume, again = bench.volume(), bench.volume()
    root = bench.folder(volume)
    if content == "filled":
        (root / "ours").write_text("ours")
    os.chown(root, 77, 78)
    root.chmod(0o2710)
    os.utime(root, ns=(0, 1_234_567_890_123_456_789))
    before = picture(root)
    archiver = bench.archiver(way)
    archive = archiver.archive(volume)
    container = bench.container(f"{again}:/seeded", command="ls -A /seeded", User="0")
    archiver.extract(archive, again)
    assert bench.output(container).split() == [name for name in ("ours",) if content == "filled"]
    assert differences(before, picture(bench.folder(again))) == []


@pytest.mark.parametrize("way", WAYS)
def test_a_look_does_not_use_a_volume_up(bench: Bench, seeded_image: str, way: Way) -> None:
    """A volume that no container has used yet is filled by its first one even after it was probed and archived."""
    bench.image = seeded_image
    volume = bench.volume()
    archiver = bench.archiver(way)
    archiver.probe([volume])
    archiver.archive(volume)
    assert list(bench.folder(volume).iterdir()) == []
    container = bench.container(f"{volume}:/seeded", command="cat /seeded/seed; stat -c ' %u %a' /seeded", User="0")
    assert bench.output(container).split(" ", 3)[:3] == SEED.split(" ")
    seen = bench.folder(volume).stat()
    assert (seen.st_uid, seen.st_mode & 0o7777) == (1234, 0o751)


@pytest.mark.parametrize("way", WAYS)
def test_an_anonymous_volume_outlives_its_helper(bench: Bench, way: Way) -> None:
    """A helper that mounts an application's anonymous volume does not take it along, even where nobody else has it."""
    container = bench.container(Volumes={"/data": {}})
    (mount,) = bench.client.api.inspect_container(container)["Mounts"]
    volume = mount["Name"]
    try:
        (bench.folder(volume) / "precious").write_text("precious")
        bench.client.api.remove_container(container)
        archiver = bench.archiver(way)
        archive = archiver.archive(volume)
        assert (bench.folder(volume) / "precious").exists()
        archiver.extract(archive)
        assert (bench.folder(volume) / "precious").read_text() == "precious"
    finally:
        bench.client.api.remove_volume(volume, force=True)


def test_a_bound_volume_is_reached_by_helper_while_nothing_mounts_it(bench: Bench) -> None:
    """A volume with options shows an empty folder at rest; its files are archived and put back all the same."""
    # A folder that the engine sees, whose root may be another than ours.
    source = bench.folder(bench.volume())
    (source / "file").write_text("before")
    volume = bench.volume(type="none", o="bind", device=str(source))
    needs_mounts(bench, volume)
    archiver = bench.archiver()
    assert archiver.probe([volume]) == {volume: "helper"}
    with pytest.raises(VolumeAccessError, match="options of its own"):
        bench.archiver("direct").probe([volume])
    archive = archiver.archive(volume)
    (source / "file").write_text("after")
    (source / "stray").touch()
    archiver.extract(archive)
    assert [(path.name, path.read_text()) for path in source.iterdir()] == [("file", "before")]


def test_a_volume_in_memory_outlives_the_stop_of_its_container(bench: Bench) -> None:
    """The helper that was up before the stop holds the mount, and so does one from the filling to the start."""
    volume, kept = bench.volume(type="tmpfs", device="tmpfs", o="size=1m"), bench.volume()
    needs_mounts(bench, volume)
    writes = "echo in memory > /data/file; echo done; sleep 600"
    container = bench.container(f"{volume}:/data", command=writes, start=True)
    assert settled(lambda: b"done" in bench.client.api.logs(container))
    archiver = bench.archiver()
    with as_user(), bench.store.draft("in-memory") as draft:
        with archiver.begin([volume], draft, operation=f"test-{volume}") as capture:
            bench.client.api.kill(container)
            bench.client.api.wait(container)
            capture.capture()
            (archive,) = capture.seal()
        archiver.extract(archive, kept)
        reader = bench.container(f"{volume}:/data", command="cat /data/file")
        with archiver.holding([volume, kept]):
            archiver.extract(archive)
            assert bench.output(reader) == "in memory\n"
    assert (bench.folder(kept) / "file").read_text() == "in memory\n"


def test_a_volume_mounted_within_another_is_not_taken_for_part_of_it(bench: Bench) -> None:
    """Of two volumes where one is mounted below the other, each archive holds its own files."""
    outer, inner = bench.volume(), bench.volume()
    container = bench.container(f"{outer}:/data", f"{inner}:/data/inner", command="true", start=True)
    assert settled(lambda: bench.client.api.wait(container)["StatusCode"] == 0)
    (bench.folder(inner) / "only-inner").write_bytes(secrets.token_bytes(200_000))
    for way in ways():
        archiver = bench.archiver(way)
        archive = archiver.archive(outer)
        assert archive.size < 100_000
        archiver.extract(archive)
        assert (bench.folder(inner) / "only-inner").stat().st_size == 200_000


# The way to a volume


def changes(counting: FailingEngine) -> int:
    """Return how many calls there were that make, run or remove something."""
    return sum(1 for call in counting.calls if call.verb in CHANGING)


def _proof_of(folder: Path) -> same_folder.Root:
    found = same_folder.look(str(folder))
    assert found is not None
    return found


@pytest.mark.direct
def test_the_way_is_direct_where_that_is_proven(bench: Bench) -> None:
    """A plain volume of an engine on this host is reached directly; for one in use, that takes no helper to prove."""
    resting, used = bench.volume(), bench.volume()
    bench.folder(resting)
    container = bench.container(f"{used}:/data", start=True)
    # On a machine with too much to do, an engine notes the start of a program seconds late: no proof then.
    for _ in range(10):
        if same_folder.shown_by([bench.engine.inspect_container(container)], used, _proof_of(bench.folder(used))):
            break
        bench.client.api.restart(container)
    counting = FailingEngine(bench.engine)
    archiver = VolumeArchiver(counting, bench.store)
    assert archiver.probe([used]) == {used: "direct"}
    assert changes(counting) == 0
    assert archiver.probe([used, resting]) == {used: "direct", resting: "direct"}
    made = changes(counting)
    assert made > 0
    assert archiver.probe([resting]) == {resting: "direct"}
    assert changes(counting) == made, "what was proven once is not proven again"


@pytest.mark.direct
@pytest.mark.parametrize("call", ["unshare", "pivot_root"])
def test_without_a_namespace_a_helper_is_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Where the kernel refuses programs a root of their own, a helper does the work; direct alone says why not."""
    real = sandbox._call

    def refuse(name: str, *arguments: object) -> None:
        if name == call:
            raise PermissionError(1, f"{name}: Operation not permitted")
        real(name, *arguments)

    monkeypatch.setattr(sandbox, "_call", refuse)
    volume = bench.volume()
    root = bench.folder(volume)
    (root / "file").write_text("kept")
    archiver = VolumeArchiver(bench.engine, bench.store)
    archive = archiver.archive(volume)
    assert archive.way == "helper"
    (root / "file").write_text("changed")
    archiver.extract(archive)
    assert (root / "file").read_text() == "kept"
    forced = VolumeArchiver(bench.engine, bench.store, way="direct")
    for work in (lambda: forced.archive(volume), lambda: forced.extract(archive)):
        with pytest.raises(VolumeAccessError, match=f"mount namespace of their own: .*{call}"):
            work()


@pytest.mark.direct
@pytest.mark.parametrize("target", ["{outside}", "../../../../../../../../../..{outside}", "/proc/self/root{outside}"])
def test_a_container_that_swaps_folders_gets_nothing_of_the_host(bench: Bench, tmp_path: Path, target: str) -> None:
    """While root's tar reads, a folder becomes a link to a secret: no archive has it, nor the volume afterwards."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "file").write_bytes(b"only root may read this")
    volume = bench.volume()
    root = bench.folder(volume)
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "sub" / "deep" / "file").write_bytes(b"its own")
    (root / "sub" / "bulk").write_bytes(os.urandom(8 << 20))
    (root / "link").symlink_to(target.format(outside=outside))
    swaps: list[int] = []

    def swap(_: str, done: int) -> None:
        # tar waits for its reader, in the middle of the first file.
        if done and not swaps:
            swaps.append(done)
            exchange(root / "sub", root / "link")

    archiver = VolumeArchiver(bench.engine, bench.store, progress=swap)
    archive = archiver.archive(volume, in_use=True)
    assert (archive.way, len(swaps)) == ("direct", 1)
    data = b"".join(bench.store.open_tar(archive.base))
    assert b"bulk" in data
    assert b"only root" not in data
    exchange(root / "sub", root / "link")
    with Swapping(root / "sub", root / "link"), suppress(ArchiveError):
        archiver.extract(archive)
    assert (outside / "deep" / "file").read_bytes() == b"only root may read this"
    assert {path.name for path in outside.rglob("*")} == {"deep", "file"}


@pytest.mark.direct
def test_a_folder_of_the_same_name_is_no_proof(bench: Bench, tmp_path: Path) -> None:
    """Where another folder lies where the engine says that the volume is, the way there is by helper."""
    volume = bench.volume()
    (bench.folder(volume) / "file").write_text("the volume's")
    elsewhere = tmp_path / "same-name"
    elsewhere.mkdir()
    engine: Any = _Mistaken(bench.engine, str(elsewhere))
    archiver = VolumeArchiver(engine, bench.store)
    assert archiver.probe([volume]) == {volume: "helper"}
    with pytest.raises(VolumeAccessError, match="nothing proves"):
        VolumeArchiver(engine, bench.store, way="direct").probe([volume])


class _Mistaken:
    """An engine whose volumes seem to lie in a folder of this host, which they do not."""

    def __init__(self, engine: DockerEngine, folder: str) -> None:
        self._engine = engine
        self._folder = folder

    def inspect_volume(self, name: str) -> dict[str, Any]:
        """Say that it lies in that folder."""
        return {**self._engine.inspect_volume(name), "Mountpoint": self._folder}

    def info(self) -> Any:
        """Say that it is Docker: Podman's helpers mount what the inspection names."""
        found = self._engine.info()
        return type(found)("docker", *[getattr(found, field.name) for field in type(found).__attrs_attrs__[1:]])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def test_a_missing_volume_is_not_made(bench: Bench) -> None:
    """No way of asking makes a volume that is not there."""
    archive = bench.archiver().archive(bench.volume())
    name = f"nowhere-{secrets.token_hex(4)}"
    for way in ways():
        with pytest.raises(VolumeNotFoundError):
            bench.archiver(way).probe([name])
        with pytest.raises(VolumeNotFoundError):
            bench.archiver(way).extract(archive, name)
    with pytest.raises(NotFound):
        bench.client.api.inspect_volume(name)


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_volume_in_use_is_not_filled(bench: Bench, state: str) -> None:
    """While a running or paused container mounts the volume, filling it is refused by that container's name."""
    volume = bench.volume()
    archive = bench.archiver().archive(volume)
    container = bench.container(f"{volume}:/data", start=True)
    name = bench.client.api.inspect_container(container)["Name"].lstrip("/")
    if state == "paused":
        bench.client.api.pause(container)
    (bench.folder(volume) / "new").touch()
    for way in ways():
        with pytest.raises(VolumeAccessError, match=name):
            bench.archiver(way).extract(archive)
    assert (bench.folder(volume) / "new").exists()
    if state == "paused":
        bench.client.api.unpause(container)
    bench.client.api.kill(container)
    bench.client.api.wait(container)
    bench.archiver().extract(archive)
    assert list(bench.folder(volume).iterdir()) == []


# What goes wrong


DYING = """
import sys, time
import docker
from docker_rollback import BackupStore, DockerEngine, VolumeArchiver
url, volume, store, operation = sys.argv[1:]
store = BackupStore(store)
archiver = VolumeArchiver(DockerEngine(docker.DockerClient(base_url=url)), store, way="helper")
with store.draft("dying") as draft, archiver.begin([volume], draft, operation=operation):
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_helper_does_not_outlive_the_process_that_made_it(bench: Bench, engine_url: str, tmp_path: Path) -> None:
    """Where the process is killed, its helper ends by itself and is removed."""
    volume = bench.volume()
    operation = f"dying-{secrets.token_hex(4)}"
    command = [sys.executable, "-c", DYING, engine_url, volume, str(tmp_path / "other-store"), operation]
    with as_user():
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            where = {"label": f"docker-rollback.operation={operation}"}
            assert len(bench.client.api.containers(filters=where)) == 1
        finally:
            process.send_signal(signal.SIGKILL)
    assert settled(lambda: bench.client.api.containers(all=True, filters=where) == [])
    assert bench.archiver().remove_left_over() == []
    bench.client.api.remove_image(pack_kit().tag)


class AtWork:
    """Does something once, from a thread of its own, when so much of a volume has come or gone.

    tar's output is read on meanwhile: Podman does not remove a container that waits for its reader.
    """

    def __init__(self, deed: Callable[[], None], *, after: int = 5 << 20) -> None:
        self._thread = threading.Thread(target=deed)
        self._after = after

    def __call__(self, _volume: str, done: int) -> None:
        """Listen, as `progress=`."""
        if done > self._after:
            if self._thread.ident is None:
                self._thread.start()
            self._thread.join(0.05)

    @property
    def done(self) -> bool:
        """Whether it was done; waits for it."""
        if self._thread.ident is not None:
            self._thread.join()
        return self._thread.ident is not None


def strike(bench: Bench, blow: str) -> None:
    """Remove the helpers that are at work for a test, or kill them, or the tar that we run ourselves."""
    for helper in bench.helpers():
        with suppress(NotFound):
            if blow == "helper removed":
                bench.client.api.remove_container(helper, force=True)
            elif blow == "helper killed":
                bench.client.api.kill(helper)
    if blow == "tar killed":
        for pid in children(os.getpid()):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(word in (b"--create", b"--extract") for word in words):
                os.kill(pid, signal.SIGKILL)


def children(parent: int) -> set[int]:
    """Return the children of a process, and theirs."""
    found: set[int] = set()
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found |= {child}
            with suppress(OSError):
                found |= children(child)
    return found


def large(bench: Bench) -> str:
    """Make a volume with 60 MB that no compression makes smaller, and return its name."""
    volume = bench.volume()
    for number in range(60):
        (bench.folder(volume) / f"file-{number}").write_bytes(os.urandom(1 << 20))
    return volume


BLOWS = (
    pytest.param("tar killed", "direct", marks=pytest.mark.direct),
    ("helper removed", "helper"),
    ("helper killed", "helper"),
)


@pytest.mark.parametrize(("blow", "way"), BLOWS)
@pytest.mark.parametrize("live_from", [0, 1 << 40], ids=["in use", "stopped"])
def test_a_capture_that_is_struck_at_work_is_taken_again(bench: Bench, blow: str, way: Way, live_from: int) -> None:
    """A tar that is killed, and a helper that is removed or killed, in the live pass and after it: all is archived."""
    volume = large(bench)
    before = picture(bench.folder(volume))
    at_work = AtWork(lambda: strike(bench, blow))
    with as_user():
        archive = bench.archiver(way, progress=at_work, live_from=live_from).archive(volume)
    assert at_work.done
    (bench.folder(volume) / "file-7").unlink()
    (bench.folder(volume) / "file-8").write_text("the update's")
    bench.archiver().extract(archive)
    assert differences(before, picture(bench.folder(volume))) == []


@pytest.mark.parametrize(("blow", "way"), BLOWS)
def test_a_restore_that_is_struck_at_work_is_done_again(bench: Bench, blow: str, way: Way) -> None:
    """A tar that is killed, and a helper that is removed or killed half way: the volume is what it was."""
    volume = large(bench)
    before = picture(bench.folder(volume))
    archive = bench.archiver(way).archive(volume)
    for number in range(60):
        (bench.folder(volume) / f"file-{number}").write_text("the update's")
    (bench.folder(volume) / "stray").write_text("the update's")
    at_work = AtWork(lambda: strike(bench, blow))
    with as_user():
        bench.archiver(way, progress=at_work).extract(archive)
    assert at_work.done
    assert differences(before, picture(bench.folder(volume))) == []


def test_several_archivers_share_the_helper_image(bench: Bench) -> None:
    """Helpers of several operations at once bring their image in and take it away without breaking each other."""
    volumes = [bench.volume() for _ in range(3)]
    failures: list[BaseException] = []

    def work(volume: str) -> None:
        try:
            for _ in range(3):
                archive = bench.archiver("helper").archive(volume)
                bench.archiver("helper").extract(archive)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(volume,)) for volume in volumes]
    with as_user():  # for all threads: who a process is, each of them shares
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
