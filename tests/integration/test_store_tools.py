"""A store, read by tools that know nothing of this library: skopeo, umoci, oras, and Debian's registry.

What is not installed skips its test: `apt-get install skopeo umoci docker-registry`; `oras` is in newer Debians.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from docker_rollback._store.store import BackupStore
from tests.integration.registry import Registry
from tests.unit.store import making
from tests.unit.store.making import EPOCH, Image, Layout, days, image, read_tar
from tests.unit.volumes.live import capture

Tool = Callable[..., str]

PATIENCE = 60.0


@pytest.fixture
def tool() -> Tool:
    """Give a function that runs a program and returns what it prints; a program that is not here skips the test."""

    def run(*command: str | Path, cwd: Path | None = None) -> str:
        words = [str(word) for word in command]
        if shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} is not installed")
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, cwd=cwd, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    return run


def layer(name: str, content: bytes) -> bytes:
    """Return a layer with one file."""
    return making.tar({name: content})


def real_image() -> Image:
    """Return an image that tools can unpack."""
    layers = (layer("etc/base", b"base\n" * 3000), layer("etc/top", b"top\n"))
    config = {
        "created": "2026-01-02T03:04:05Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/program"]},
        "rootfs": {"type": "layers", "diff_ids": [making.digest(data) for data in layers]},
        "history": [{"created": "2026-01-02T03:04:05Z", "created_by": "test"}] * 2,
    }
    return Image(layers, json.dumps(config).encode())


IMAGE = real_image()
VOLUME = making.tar({"rows": b"row\n" * 3000})


@pytest.fixture(params=list(making.LAYOUTS.values()), ids=list(making.LAYOUTS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BackupStore:
    """Give a store of two backups, with an image that came in each of the layouts."""
    store = BackupStore(tmp_path / "store")
    layout: Layout = request.param
    making.save(store, "b1", img=IMAGE, layout=layout, volume=VOLUME)
    making.save(store, "b2", img=image(b"other"), layout=layout, volume=b"other", created=EPOCH + days(1))
    return store


@pytest.fixture
def plain_store(tmp_path: Path) -> BackupStore:
    """Give a store of two backups, with an image that came plain."""
    store = BackupStore(tmp_path / "store")
    making.save(store, "b1", img=IMAGE, volume=VOLUME)
    making.save(store, "b2", img=image(b"other"), volume=b"other", created=EPOCH + days(1))
    return store


def test_skopeo_reads_every_part(store: BackupStore, tool: Tool, tmp_path: Path) -> None:
    """Skopeo copies each part of a backup out of the store, byte for byte, and the whole with all its parts."""
    for number, digest in enumerate(making.children_of(store.path, "b1")[1:], start=1):
        target = tmp_path / f"part{number}"
        tool("skopeo", "--insecure-policy", "copy", f"oci:{store.path}:b1.{number}", f"dir:{target}")
        assert making.digest((target / "manifest.json").read_bytes()) == digest
    tool("skopeo", "--insecure-policy", "copy", "--all", f"oci:{store.path}:b1", f"dir:{tmp_path / 'whole'}")


def test_skopeo_makes_of_an_image_what_engines_load(
    request: pytest.FixtureRequest, store: BackupStore, tool: Tool, tmp_path: Path
) -> None:
    """Skopeo turns a container's image into a docker archive with the same layers and config."""
    if "zstd" in request.node.name:
        pytest.skip("skopeo refuses layers in zstd for Docker")
    tool(
        "skopeo", "--insecure-policy", "copy", f"oci:{store.path}:b1.2", f"docker-archive:{tmp_path / 'out.tar'}:app:1"
    )  # fmt: skip
    files = read_tar((tmp_path / "out.tar").read_bytes())
    (entry,) = json.loads(files["manifest.json"])
    assert files[entry["Config"]] == IMAGE.config
    assert [files[name] for name in entry["Layers"]] == list(IMAGE.layers)


def test_umoci_unpacks_an_image(plain_store: BackupStore, tool: Tool, tmp_path: Path) -> None:
    """Umoci lists the names of a store, and unpacks a container's image into a file system."""
    listed = tool("umoci", "ls", "--layout", plain_store.path).split()
    assert sorted(listed) == [
        *(f"b1{part}" for part in ("", ".1", ".2", ".3")),
        *(f"b2{p}" for p in ("", ".1", ".2", ".3")),
    ]
    tool("umoci", "unpack", "--rootless", "--image", f"{plain_store.path}:b1.2", tmp_path / "bundle")
    assert (tmp_path / "bundle" / "rootfs" / "etc" / "top").read_bytes() == b"top\n"
    assert (tmp_path / "bundle" / "rootfs" / "etc" / "base").read_bytes() == b"base\n" * 3000


def test_what_umoci_rewrites_is_a_store_still(plain_store: BackupStore, tool: Tool) -> None:
    """After umoci has tagged an image in a store and collected garbage, every backup is there and verifies."""
    tool("umoci", "tag", "--image", f"{plain_store.path}:b1.2", "theirs")
    tool("umoci", "gc", "--layout", plain_store.path)
    assert plain_store.ids() == ["b1", "b2"]
    for backup_id in plain_store.ids():
        plain_store.verify(backup_id)
    plain_store.delete("b1")
    assert "theirs" in tool("umoci", "ls", "--layout", plain_store.path).split()
    plain_store.verify("b2")


def test_oras_pulls_record_and_archives(plain_store: BackupStore, tool: Tool, tmp_path: Path) -> None:
    """Oras fetches a backup's record and a volume's archives under their names, and GNU tar reads them."""
    tool("oras", "pull", "--oci-layout", f"{plain_store.path}:b1.1", cwd=tmp_path)
    assert json.loads((tmp_path / "backup.json").read_bytes())["backup"]["id"] == "b1"
    tool("oras", "pull", "--oci-layout", f"{plain_store.path}:b1.3", cwd=tmp_path)
    found = sorted(path.name for path in tmp_path.glob("*.zst"))
    assert found == ["data.base.tar.zst", "data.increment.tar.zst"]
    tool("tar", "--use-compress-program=zstd", "-xf", "data.base.tar.zst", cwd=tmp_path)
    assert (tmp_path / "rows").read_bytes() == b"row\n" * 3000


@pytest.fixture
def volume() -> Iterator[Path]:
    """Give an empty folder."""
    # Not below /tmp, which may be a tmpfs: of that there are no increments.
    with tempfile.TemporaryDirectory(prefix="docker-rollback-test-", dir="/var/tmp") as folder:
        yield Path(folder)


def test_an_archive_in_pieces_is_read_by_hand(tool: Tool, volume: Path, tmp_path: Path) -> None:
    """The how-to and its tools restore a base and an increment, also from a copy that skopeo made."""
    store, folder = BackupStore(tmp_path / "store"), volume
    for name, size in (("large", 9_000_000), ("other", 5_000_000), ("small", 100)):
        (folder / name).write_bytes(random.Random(size).randbytes(size))

    def change() -> None:
        with (folder / "large").open("r+b") as file:
            for at in range(0, 9_000_000, 500_000):
                file.seek(at)
                file.write(b"changed")
        (folder / "small").write_bytes(b"small")

    taken = capture(folder, change, store=store, number=1)
    assert any(piece.needs for tar in taken.archive.tars for piece in store.pieces(tar))
    page = (Path(__file__).parents[2] / "docs/how-to/restore-by-hand.md").read_text()
    blocks = [block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "() {" in block]
    script = "set -eu\nBACKUP=live-1\n" + "".join(blocks).replace("part 3", "part 2")
    copy = f"oci:{tmp_path / 'copy'}:live-1.2"
    tool("skopeo", "--insecure-policy", "copy", f"oci:{store.path}:live-1.2", copy)
    for where in (store.path, tmp_path / "copy"):
        restored = tmp_path / f"restored-from-{where.name}"
        restored.mkdir()
        for part in ("base", "increment"):
            extract = f"tar --extract --file=- --listed-incremental=/dev/null --directory={restored}"
            tool("sh", "-c", f"{script}\nread_tar {part} | {extract}", cwd=where)
        found = {path.name: path.read_bytes() for path in restored.iterdir()}
        assert found == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_unpacked_export_is_a_store(plain_store: BackupStore, tool: Tool, tmp_path: Path) -> None:
    """An export that plain tar has unpacked is a store once its own index has the place of index.json."""
    plain_store.export("b1", tmp_path / "b1.tar")
    (tmp_path / "unpacked").mkdir()
    tool("tar", "-xf", tmp_path / "b1.tar", cwd=tmp_path / "unpacked")
    (tmp_path / "unpacked" / "docker-rollback.json").replace(tmp_path / "unpacked" / "index.json")
    unpacked = BackupStore(tmp_path / "unpacked")
    assert unpacked.list() == [plain_store.get("b1")]
    unpacked.verify("b1")


def test_an_export_that_tar_packed_again_is_taken(plain_store: BackupStore, tool: Tool, tmp_path: Path) -> None:
    """An export may be unpacked and packed again by plain tar, in any order, and is imported all the same."""
    plain_store.export("b1", tmp_path / "b1.tar")
    (tmp_path / "unpacked").mkdir()
    tool("tar", "-xf", tmp_path / "b1.tar", cwd=tmp_path / "unpacked")
    with tarfile.open(tmp_path / "again.tar", "w") as archive:
        for path in sorted((tmp_path / "unpacked").rglob("*"), reverse=True):
            archive.add(path, f"./{path.relative_to(tmp_path / 'unpacked')}", recursive=False)
    other = BackupStore(tmp_path / "other")
    assert other.import_(tmp_path / "again.tar") == plain_store.get("b1")
    other.verify("b1")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Give a registry that does not run yet."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    return Registry(tmp_path)


def copy_by_oras(tool: Tool, store: BackupStore, registry: Registry, target: Path) -> None:
    """Copy a backup with its parts to a registry, let that collect garbage, and copy it into a new layout."""
    names = ["b1", "b1.1", "b1.2", "b1.3"]
    with registry.running() as address:
        for name in names:
            source = ["--recursive", "--from-oci-layout", f"{store.path}:{name}"]
            tool("oras", "cp", *source, "--to-plain-http", f"{address}/backups:{name}")
    assert "0 blobs and 0 manifests eligible" in registry.collect_garbage()
    with registry.running() as address:
        source = ["--recursive", "--from-plain-http", f"{address}/backups:b1"]
        tool("oras", "cp", *source, "--to-oci-layout", f"{target}:b1")


def copy_by_skopeo(tool: Tool, store: BackupStore, registry: Registry, target: Path) -> None:
    """Do the same with skopeo, name by name."""
    names = ["b1", "b1.1", "b1.2", "b1.3"]
    copy = ["skopeo", "--insecure-policy", "copy", "--all"]
    with registry.running() as address:
        for name in names:
            there = f"docker://{address}/backups:{name}"
            tool(*copy, "--dest-tls-verify=false", f"oci:{store.path}:{name}", there)
    assert "0 blobs and 0 manifests eligible" in registry.collect_garbage()
    with registry.running() as address:
        for name in names:
            there = f"docker://{address}/backups:{name}"
            tool(*copy, "--src-tls-verify=false", there, f"oci:{target}:{name}")


@pytest.mark.parametrize("copy", [copy_by_oras, copy_by_skopeo])
def test_a_backup_goes_to_a_registry_and_back(
    plain_store: BackupStore,
    tool: Tool,
    registry: Registry,
    tmp_path: Path,
    copy: Callable[[Tool, BackupStore, Registry, Path], None],
) -> None:
    """A backup in a registry survives its garbage collection, comes back equal into a new store, and lives there."""
    copy(tool, plain_store, registry, tmp_path / "back")
    back = BackupStore(tmp_path / "back")
    assert back.list() == [plain_store.get("b1")]
    back.verify("b1")
    back.export("b1", tmp_path / "again.tar")
    plain_store.delete("b1")
    assert plain_store.import_(tmp_path / "again.tar") == back.get("b1")
    plain_store.verify("b1")
    making.save(back, "b3", img=IMAGE, volume=b"more", created=EPOCH + days(2))
    back.delete("b1")
    back.verify("b3")
    needed = making.blobs_of(back.path, "b3")
    assert {"sha256:" + path.name for path in making.blob_files(back)} == needed


def test_tar_carries_a_whole_store(plain_store: BackupStore, tool: Tool, tmp_path: Path) -> None:
    """A store that plain tar packed and unpacked in another place is the same store."""
    tool("tar", "-C", plain_store.path, "-cf", tmp_path / "store.tar", ".")
    (tmp_path / "there").mkdir()
    tool("tar", "-C", tmp_path / "there", "-xf", tmp_path / "store.tar")
    there = BackupStore(tmp_path / "there")
    assert there.list() == plain_store.list()
    for backup_id in there.ids():
        there.verify(backup_id)
