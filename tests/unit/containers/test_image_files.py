"""An image is taken from its engine's files where they are what the engine says, and exported everywhere else."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from attrs import evolve

from docker_rollback import BackupStore, restore, rollback
from docker_rollback._containers import image_files
from docker_rollback._containers.image_files import ImageFilesError, chain_ids, image_parts
from docker_rollback._engine.port import EngineInfo, Inspection
from docker_rollback._model.backup import Descriptor
from docker_rollback._store import ImageParts
from docker_rollback._store.streams import GzipWriter
from docker_rollback.errors import EngineError
from docker_rollback.testing import FakeEngine
from tests.unit.containers.engine_files import KEEPING, info_of, keep_docker, keep_podman
from tests.unit.store import making
from tests.unit.store.making import Image, digest, image, small_image

EXPORTS = {"docker": making.legacy, "podman": making.podman}


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files as root would; those of these tests are the user's own."""
    monkeypatch.setattr(image_files, "may_do_anything", lambda: True)


def parts_of(kind: str, root: Path, img: Image) -> ImageParts:
    """Keep an image as an engine does, and return its parts."""
    parts = image_parts(info_of(kind, root), KEEPING[kind](root, img))
    assert parts is not None
    return parts


def stored(store: BackupStore, img: Image, source: ImageParts | bytes) -> Descriptor:
    """Store an image in a backup of its own."""
    name = f"b{len(store.ids())}"
    with store.draft(name) as draft:
        if isinstance(source, bytes):
            manifest = draft.add_image(making.pieces(source), layers=img.diff_ids)
        else:
            manifest = draft.add_image_parts(source, layers=img.diff_ids)
        draft.commit(making.backup_of(name, [making.snapshot("web", img, manifest)]))
    store.verify(name)
    return manifest


@pytest.mark.parametrize("kind", KEEPING)
@pytest.mark.parametrize("img", [small_image(), image(b"x")], ids=["three layers", "one layer"])
def test_an_image_from_files_is_the_one_that_is_exported(
    tmp_path: Path, store: BackupStore, kind: str, img: Image
) -> None:
    """To the last byte of its manifest."""
    taken = stored(store, img, parts_of(kind, tmp_path / "engine", img))
    exported = stored(BackupStore(tmp_path / "other"), img, EXPORTS[kind](img))
    assert taken == exported


@pytest.mark.parametrize("kind", KEEPING)
def test_a_layer_that_the_store_has_is_not_read(tmp_path: Path, store: BackupStore, kind: str) -> None:
    """Of a further commit, the new layer alone is."""
    base, more = image(b"base" * 1000), image(b"base" * 1000, b"more")
    stored(store, base, parts_of(kind, tmp_path / "one", base))
    parts = parts_of(kind, tmp_path / "two", more)
    read: list[str] = []

    def watched(diff_id: str) -> Callable[[], Iterator[bytes]]:
        def reading() -> Iterator[bytes]:
            read.append(diff_id)
            return parts.layers[diff_id]()

        return reading

    stored(store, more, evolve(parts, layers={diff_id: watched(diff_id) for diff_id in parts.layers}))
    assert read == [more.diff_ids[1]]


def awkward_layer() -> bytes:
    """Return a layer with everything that a folder of files does not show as it is in the tar."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:

        def add(
            name: bytes,
            content: bytes = b"",
            *,
            kind: bytes = tarfile.REGTYPE,
            to: str = "",
            pax: Mapping[str, str] = MappingProxyType({}),
        ) -> None:
            entry = tarfile.TarInfo(os.fsdecode(name))
            entry.type, entry.size, entry.linkname, entry.pax_headers = kind, len(content), to, dict(pax)
            tar.addfile(entry, io.BytesIO(content))

        add(b"./dot", b"dot")
        add(b"dir/", kind=tarfile.DIRTYPE)
        add(b"dir/.wh..wh..opq")
        add(b"dir/.wh.gone")
        add(b"dir/file", b"content", pax={"SCHILY.xattr.security.capability": "cap", "mtime": "1.5"})
        add(b"dir/hard", kind=tarfile.LNKTYPE, to="dir/file")
        add(b"dir/soft", kind=tarfile.SYMTYPE, to="../../../etc/passwd")
        add(b"na\xffme", b"not UTF-8")
        add("ä".encode() * 90, b"long")
        add(b"x" * 120 + b"/" + b"y" * 200, b"longer")
        add(b"empty")
        add(b"null", kind=tarfile.CHRTYPE)
        add(b"fifo", kind=tarfile.FIFOTYPE)
    return whole.getvalue()


@pytest.mark.parametrize("kind", KEEPING)
def test_an_awkward_layer_is_taken_from_files(tmp_path: Path, store: BackupStore, kind: str) -> None:
    """Whiteouts, hard links, attributes, and names that are long or not UTF-8."""
    layer = awkward_layer()
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [digest(layer)]}}).encode()
    img = Image((layer,), config)
    taken = stored(store, img, parts_of(kind, tmp_path / "engine", img))
    assert taken == stored(BackupStore(tmp_path / "other"), img, EXPORTS[kind](img))


@pytest.mark.parametrize("kind", KEEPING)
def test_no_link_in_a_layer_is_followed(tmp_path: Path, store: BackupStore, kind: str) -> None:
    """A container that wrote the layer chose where it leads."""
    layer = making.tar({"dir/file": b"secret"})
    img = Image((layer,), json.dumps({"rootfs": {"type": "layers", "diff_ids": [digest(layer)]}}).encode())
    parts = parts_of(kind, tmp_path / "engine", img)
    (folder,) = (tmp_path / "engine").rglob("dir")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with store.draft("b") as draft, pytest.raises(ImageFilesError):
        draft.add_image_parts(parts, layers=img.diff_ids)


HOWS = ("other content", "shorter", "gone", "a link", "a FIFO", "split gone", "split cut", "split no gzip", "odd name")


@pytest.mark.parametrize("kind", KEEPING)
@pytest.mark.parametrize("how", HOWS)
def test_files_that_are_not_what_they_should_be_are_refused(
    tmp_path: Path, store: BackupStore, kind: str, how: str
) -> None:
    """Each layer has to have its digest."""
    img = image(b"base" * 1000)
    root = tmp_path / "engine"
    parts = parts_of(kind, root, img)
    (file,) = root.rglob("file0")
    (split,) = root.rglob("*tar-split*")
    match how:
        case "other content":
            file.write_bytes(file.read_bytes()[:-2] + b"??")
        case "shorter":
            file.write_bytes(file.read_bytes()[:-2])
        case "gone":
            file.unlink()
        case "a link":
            file.rename(tmp_path / "elsewhere")
            file.symlink_to("/dev/zero")
        case "a FIFO":
            file.unlink()
            os.mkfifo(file)
        case "split gone":
            split.unlink()
        case "split cut":
            split.write_bytes(split.read_bytes()[:-20])
        case "split no gzip":
            split.write_bytes(b"{}")
        case "odd name":
            split.write_bytes(gzip.compress(b'{"type": 1, "name": "a\\u0000", "size": 4}'))
    with store.draft("b") as draft, pytest.raises((EngineError, ImageFilesError)):
        draft.add_image_parts(parts, layers=img.diff_ids)
    assert making.blob_files(store) == []


@pytest.mark.parametrize(("kind", "export"), [("docker", making.oci_plain), ("podman", making.podman)])
def test_a_layer_that_was_stored_is_not_stored_again_by_the_export(
    tmp_path: Path, store: BackupStore, monkeypatch: pytest.MonkeyPatch, kind: str, export: making.Layout
) -> None:
    """If the files of a later layer are damaged, only that one is compressed for the export."""
    img = image(b"base" * 1000, b"top" * 1000)
    parts = parts_of(kind, tmp_path / "engine", img)
    (_, last) = img.diff_ids
    packed: list[str] = []
    packer = GzipWriter.__exit__

    def damaged() -> Iterator[bytes]:
        yield b"x" * 1000
        raise ImageFilesError("it is damaged")

    def counted(self: GzipWriter, kind: object, error: BaseException | None, trace: object) -> None:
        packed.append(type(error).__name__)
        packer(self, kind, error, trace)

    monkeypatch.setattr(GzipWriter, "__exit__", counted)
    with store.draft("b") as draft:
        with pytest.raises(ImageFilesError):
            draft.add_image_parts(evolve(parts, layers={**parts.layers, last: damaged}), layers=img.diff_ids)
        manifest = draft.add_image(making.pieces(export(img)), layers=img.diff_ids)
        draft.commit(making.backup_of("b", [making.snapshot("web", img, manifest)]))
    assert packed == ["NoneType", "ImageFilesError", "NoneType"]
    store.verify("b")


def test_an_error_of_files_does_not_speak_of_an_archive(store: BackupStore) -> None:
    """There is none."""
    img = image(b"base")
    with store.draft("b") as draft:
        with pytest.raises(EngineError, match=r"could not read the image's files: the layer sha256:\S+ is missing"):
            draft.add_image_parts(ImageParts(img.config, {}), layers=img.diff_ids)
        other = {img.diff_ids[0]: lambda: iter([bytes(1024)])}
        with pytest.raises(EngineError, match=r"could not read the image's files: blobs/sha256/\S+ has the digest"):
            draft.add_image_parts(ImageParts(img.config, other), layers=img.diff_ids)


WHYS = ("user", "remote", "elsewhere", "odd id", "odd layer", "a layer more", "other config", "containerd")


@pytest.mark.parametrize("kind", KEEPING)
@pytest.mark.parametrize("why", WHYS)
def test_what_is_out_of_reach_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, why: str) -> None:
    """An engine elsewhere, a user without rights, an answer that nobody expected."""
    info, inspection = info_of(kind, tmp_path), dict(KEEPING[kind](tmp_path, small_image()))
    match why:
        case "user":
            monkeypatch.setattr(image_files, "may_do_anything", lambda: False)
        case "remote":
            info = evolve(info, address="tcp://there:2375")
        case "elsewhere":
            info = evolve(info, root=str(tmp_path / "nowhere"))
            inspection["GraphDriver"] = {"Data": {"UpperDir": "/nowhere/overlay/x/diff"}}
        case "odd id":
            inspection["Id"] = "sha256:../../x"
        case "odd layer":
            inspection["RootFS"] = {"Layers": ["sha256:../../x"]}
        case "a layer more":
            inspection["RootFS"] = {"Layers": [*inspection["RootFS"]["Layers"], digest(b"more")]}
        case "other config":
            (file,) = [file for file in tmp_path.rglob("*") if file.is_file() and file.read_bytes()[:1] == b"{"]
            file.write_bytes(file.read_bytes() + b" ")
        case "containerd":
            info = evolve(info, containerd_store=True)
    assert image_parts(info, inspection) is None


@pytest.mark.parametrize("driver", ["vfs", "btrfs", "zfs"])
def test_an_unknown_storage_driver_is_left_to_the_engine(tmp_path: Path, driver: str) -> None:
    """Their layers are no plain folders, or hold all that is below them."""
    inspection = keep_docker(tmp_path, small_image())
    assert image_parts(evolve(info_of("docker", tmp_path), storage_driver=driver), inspection) is None


def test_a_podman_image_without_folders_is_left_to_podman(tmp_path: Path) -> None:
    """Other storage drivers of Podman have none."""
    inspection = {**keep_podman(tmp_path, small_image()), "GraphDriver": {"Data": None}}
    assert image_parts(info_of("podman", tmp_path), inspection) is None


def test_an_image_of_another_store_is_left_to_podman(tmp_path: Path) -> None:
    """An additional image store of Podman's is not in the data folder that Podman names."""
    inspection = keep_podman(tmp_path / "additional", small_image())
    (tmp_path / "own").mkdir()
    assert image_parts(info_of("podman", tmp_path / "additional"), inspection) is not None
    assert image_parts(info_of("podman", tmp_path / "own"), inspection) is None


def test_a_cache_id_leads_nowhere_else(tmp_path: Path) -> None:
    """A file that names a folder names one of the engine's layers."""
    inspection = keep_docker(tmp_path, small_image())
    for file in tmp_path.rglob("cache-id"):
        file.write_text("../../../etc")
    assert image_parts(info_of("docker", tmp_path), inspection) is None


def test_chain_ids_are_those_of_docker() -> None:
    """As the specification of images has them."""
    first, second = digest(b"1"), digest(b"2")
    assert chain_ids([]) == []
    assert chain_ids([first]) == [first]
    assert chain_ids([first, second]) == [first, digest(f"{first} {second}".encode())]


class Filed(FakeEngine):
    """An engine in memory that keeps its images in files as Docker does, and counts exports."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root, self.exports, self.hidden = root, 0, False

    def info(self) -> EngineInfo:
        """Say that it is a Docker on this machine."""
        return evolve(super().info(), address="unix:///run/docker.sock", root=str(self.root), storage_driver="overlay2")

    def save_image(self, ref: str) -> Iterator[bytes]:
        """Count the exports."""
        self.exports += 1
        return super().save_image(ref)

    def commit_container(self, ref: str, tag: str, *, author: str = "") -> str:
        """Keep the committed image in files."""
        committed = super().commit_container(ref, tag, author=author)
        self.keep(super().inspect_image(committed))
        return committed

    def keep(self, inspection: Inspection) -> None:
        """Keep an image in files."""
        if self.hidden:
            return
        found = making.read_tar(b"".join(super().save_image(str(inspection["Id"]))))
        layers = [found[f"blobs/sha256/{layer[7:]}"] for layer in inspection["RootFS"]["Layers"]]
        keep_docker(self.root, Image(tuple(layers), found[f"blobs/sha256/{inspection['Id'][7:]}"]))


@pytest.fixture
def engine(tmp_path: Path) -> Filed:
    """Give an engine on which one container runs."""
    made = Filed(tmp_path / "engine")
    made.keep(made.inspect_image(made.add_image("app:1", files={"/app": "the program"})))
    made.run("web", image="app:1")
    return made


def update(engine: Filed, store: BackupStore) -> str:
    """Enter and leave a rollback; return the id of its backup."""
    with rollback("web", client=engine, store=store) as tx:
        pass
    return tx.backup.id


def test_a_changed_container_is_backed_up_without_an_export(engine: Filed, store: BackupStore) -> None:
    """The backup is complete: another engine makes the container from it."""
    update(engine, store)
    engine.container("web").write("/new", "new")
    second = update(engine, store)
    assert engine.exports == 0
    store.verify(second)
    other = FakeEngine()
    restore(second, client=other, store=store)
    assert other.container("web").read("/new") == b"new"
    assert other.container("web").read("/app") == b"the program"


def test_a_container_whose_image_is_not_in_files_is_exported(engine: Filed, store: BackupStore) -> None:
    """As before, if so much changed that the API is not asked for it."""
    update(engine, store)
    engine.hidden = True
    for number in range(100):
        engine.container("web").write(f"/new-{number}", "new")
    update(engine, store)
    assert engine.exports == 1


def test_a_container_whose_files_are_damaged_is_exported(engine: Filed, store: BackupStore) -> None:
    """What the engine exports is checked in turn."""
    engine.container("web").write("/new", "new")
    for file in engine.root.rglob("app"):
        file.write_text("THE PROGRAM")
    store.verify(update(engine, store))
    assert engine.exports == 1


def test_an_unchanged_layer_is_stored_once(engine: Filed, store: BackupStore) -> None:
    """However often a container that was changed once is backed up."""
    engine.container("web").write("/new", "new")
    update(engine, store)
    before = {blob.name for blob in making.blob_files(store)}
    for _ in range(3):
        update(engine, store)
    added = [blob.read_bytes() for blob in making.blob_files(store) if blob.name not in before]
    assert all(data.startswith(b"{") for data in added)
    assert engine.exports == 0


FILES = {
    "docker": ["image/overlay2/imagedb/content/sha256/*", "image/*/layerdb/*/*/cache-id", "image/*/layerdb/*/*/*.gz"],
    "podman": ["overlay-images/*/=*", "overlay-layers/*.gz"],
}


@pytest.mark.parametrize("other", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
@pytest.mark.parametrize(("kind", "file"), [(kind, file) for kind, files in FILES.items() for file in files])
def test_what_is_no_file_of_the_engine_is_not_waited_for(
    tmp_path: Path, kind: str, file: str, other: Callable[[Path], None]
) -> None:
    """The owner of a data folder could put a FIFO there, whose other end is never opened."""
    img = image(b"base")
    inspection = KEEPING[kind](tmp_path, img)
    (path,) = tmp_path.glob(file)
    path.unlink()
    other(path)
    parts = image_parts(info_of(kind, tmp_path), inspection)
    if parts is not None:
        with pytest.raises(ImageFilesError):
            list(parts.layers[img.diff_ids[0]]())


@pytest.mark.parametrize("root", ["", "var/lib/docker"])
def test_an_engine_without_a_data_folder_is_asked_for_an_export(root: str) -> None:
    """An empty path would mean the working directory."""
    assert image_parts(evolve(info_of("docker", Path("/")), root=root), {"Id": "sha256:" + "0" * 64}) is None


def test_the_files_of_a_rootless_engine_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They belong to another user, who may change them at any moment."""
    img = image(b"base")
    inspection = keep_docker(tmp_path, img)
    assert image_parts(info_of("docker", tmp_path), inspection) is not None
    if os.geteuid() == 0:
        os.chown(tmp_path, 64990, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert image_parts(info_of("docker", tmp_path), inspection) is None
