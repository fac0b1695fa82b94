"""Images taken in from every layout that engines export, and given out again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from attrs import evolve

from docker_rollback._model.backup import Descriptor
from docker_rollback._store import image_import
from docker_rollback._store.image_manifests import digest_in
from docker_rollback._store.store import BackupStore
from docker_rollback._store.streams import compression, decompressed
from docker_rollback.errors import CorruptBackupError, EngineError
from tests.unit.store import making
from tests.unit.store.making import LAYOUTS, Image, Layout, digest, image, pieces, read_tar, small_image


def take(store: BackupStore, archive: bytes, img: Image, *, size: int = 1000) -> Descriptor:
    """Take an image into a store, on a draft of its own that is committed."""
    name = f"b{len(store.ids())}"
    with store.draft(name) as draft:
        manifest = draft.add_image(pieces(archive, size), layers=img.diff_ids)
        draft.commit(making.backup_of(name, [making.snapshot("web", img, manifest)]))
    return manifest


def given_out(store: BackupStore, manifest: Descriptor) -> dict[str, bytes]:
    """Return the files of the archive that a store makes of an image."""
    return read_tar(b"".join(store.image_archive(manifest, ["app:1", "registry.example/team/app:2"])))


def plain_layers(files: dict[str, bytes]) -> list[bytes]:
    """Return the layers of an archive, decompressed, in the order that its manifest.json has them."""
    (entry,) = json.loads(files["manifest.json"])
    layers = []
    for name in entry["Layers"]:
        kind = compression(files[name][:4])
        layers.append(files[name] if kind is None else b"".join(decompressed([files[name]], kind)))
    return layers


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("size", [1, 997, 1 << 20])
def test_every_layout_comes_out_with_the_same_config_and_layers(store: BackupStore, layout: Layout, size: int) -> None:
    """An image in any layout, in pieces of any size, comes out with its config to the letter and its layers."""
    img = small_image() if size > 1 else image(b"x")
    manifest = take(store, layout(img), img, size=size)
    files = given_out(store, manifest)
    (entry,) = json.loads(files["manifest.json"])
    assert files[entry["Config"]] == img.config
    assert plain_layers(files) == list(img.layers)
    assert entry["RepoTags"] == ["app:1", "registry.example/team/app:2"]
    store.verify("b0")


@pytest.mark.parametrize("layout", [making.legacy, making.podman, making.oci_plain])
def test_plain_layers_are_stored_gzipped(store: BackupStore, layout: Layout) -> None:
    """Layers that come plain lie in the store as gzip, and the manifest says so."""
    img = small_image()
    manifest = take(store, layout(img), img)
    parts = json.loads(b"".join(store.open_blob(manifest)))
    assert [layer["mediaType"] for layer in parts["layers"]] == ["application/vnd.oci.image.layer.v1.tar+gzip"] * 3
    assert parts["layers"][0]["size"] < len(img.layers[0]) / 10


def test_a_compressed_image_is_kept_to_the_letter(store: BackupStore) -> None:
    """A manifest whose layers come compressed keeps its bytes, so that the image keeps its id."""
    img = small_image()
    letter = making.manifest_of(img, making.gzipped(img), "+gzip")
    manifest = take(store, making.oci_gzip(img), img)
    assert manifest.digest == digest(letter)
    assert b"".join(store.open_blob(manifest)) == letter


def test_a_compressed_image_is_kept_to_the_letter_beside_plain_ones(store: BackupStore) -> None:
    """Layers that the store holds from another engine do not take the place of those that a manifest names."""
    img = small_image()
    take(store, making.oci_plain(img), img)
    manifest = take(store, making.oci_gzip(img), img)
    assert manifest.digest == digest(making.manifest_of(img, making.gzipped(img), "+gzip"))
    store.verify("b0")
    store.verify("b1")


@pytest.mark.parametrize("layout", [making.oci_plain, making.oci_mixed])
def test_an_image_with_plain_layers_goes_back_to_the_letter(store: BackupStore, layout: Layout) -> None:
    """A manifest that names plain layers comes out with its bytes and theirs, though the store has them gzipped."""
    img = small_image()
    manifest = take(store, layout(img), img)
    given = read_tar(layout(img))
    files = given_out(store, manifest)
    root = json.loads(given["index.json"])["manifests"][0]["digest"]
    assert json.loads(files["index.json"])["manifests"][0]["digest"] == root != manifest.digest
    for name in given:
        if name.startswith("blobs/"):
            assert files[name] == given[name]
    assert json.loads(files["manifest.json"])[0]["Layers"] == json.loads(given["manifest.json"])[0]["Layers"]


@pytest.mark.parametrize("name", ["[", "{x}"])
def test_a_layer_that_begins_like_json_is_a_layer(store: BackupStore, name: str) -> None:
    """A plain tar begins with the name of its first file, which may be that of a program such as `[`."""
    layer = making.tar({name: b"x" * 5000})
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(layer)]}}
    img = Image((layer,), json.dumps(config).encode())
    for layout in (making.legacy, making.podman):
        assert plain_layers(given_out(store, take(store, layout(img), img))) == [layer]


def test_an_image_with_types_of_docker_is_kept_to_the_letter(store: BackupStore) -> None:
    """A manifest with Docker's own media types keeps its bytes and its type, and verifies."""
    img = small_image()
    archive = making.docker_types(making.oci_gzip(img), img)
    manifest = take(store, archive, img)
    assert manifest.media_type == "application/vnd.docker.distribution.manifest.v2+json"
    assert b"".join(store.open_blob(manifest)) == read_tar(archive)["blobs/sha256/" + manifest.digest[7:]]
    assert plain_layers(given_out(store, manifest)) == list(img.layers)
    take(store, making.legacy(img), img)
    for backup_id in store.ids():
        store.verify(backup_id)


def test_a_layer_that_does_not_hold_what_its_letter_says_is_damage(store: BackupStore) -> None:
    """A plain layer that is had from a gzipped one is held to its digest on the way out."""
    img = image(b"x" * 5000)
    manifest = take(store, making.oci_plain(img), img)
    letter = json.loads(making.manifest_of(img, img.layers, ""))
    letter["layers"][0]["digest"] = digest(b"another")
    data = json.dumps(letter).encode()
    (store.path / "blobs" / "sha256" / digest(data)[7:]).write_bytes(data)
    forged = evolve(manifest, annotations={"io.docker-rollback.known-as": digest(data)})
    with pytest.raises(CorruptBackupError, match="does not contain the layer"):
        given_out(store, forged)
    missing = evolve(manifest, annotations={"io.docker-rollback.known-as": digest(b"nothing")})
    with pytest.raises(CorruptBackupError, match="missing"):
        given_out(store, missing)


@pytest.mark.parametrize("change", ["a layer less", "a layer more", "another config"])
def test_a_letter_of_another_image_is_damage(store: BackupStore, change: str) -> None:
    """The manifest by which an engine knew an image has the config and as many layers as the one in the store."""
    img, other = small_image(), image(b"other")
    manifest = take(store, making.oci_plain(img), img)
    letter = json.loads(making.manifest_of(img, img.layers, ""))
    if change == "another config":
        letter["config"] = json.loads(making.manifest_of(other, [], ""))["config"]
    else:
        letter["layers"] = letter["layers"][:-1] if change == "a layer less" else letter["layers"] * 2
    data = json.dumps(letter).encode()
    (store.path / "blobs" / "sha256" / digest(data)[7:]).write_bytes(data)
    forged = evolve(manifest, annotations={"io.docker-rollback.known-as": digest(data)})
    with pytest.raises(CorruptBackupError, match=f"it is not of the image {manifest.digest}") as caught:
        given_out(store, forged)
    assert caught.value.blob == digest(data)


@pytest.mark.parametrize(
    ("name", "promises"),
    [
        (f"blobs/sha256/{'ab' * 32}", True),
        (f"{'ab' * 32}.tar", True),
        (f"{'ab' * 32}.json", True),
        (f"{'ab' * 32}.txt", False),
        ("ab" * 32, False),
        (f"folder/{'ab' * 32}.tar", False),
        (f"blobs/sha256/{'ab' * 32}.tar", False),
        (f"blobs/sha512/{'ab' * 32}", False),
        (f"blobs/sha256/{'AB' * 32}", False),
        (f"{'ab' * 31}.tar", False),
        ("layer.tar", False),
    ],
)
def test_a_name_in_an_archive_may_promise_a_digest(name: str, *, promises: bool) -> None:
    """As engines name blobs, layers and configs; any other name is no more than a name."""
    assert digest_in(name) == (f"sha256:{'ab' * 32}" if promises else None)


def test_an_image_of_several_platforms_keeps_its_index(store: BackupStore) -> None:
    """The index by which an engine knew an image comes out to the letter, though a platform was never fetched."""
    img = small_image()
    archive, index = making.platforms(img)
    manifest = take(store, archive, img)
    assert manifest.digest == digest(making.manifest_of(img, making.gzipped(img), "+gzip"))
    files = given_out(store, manifest)
    (first, second) = json.loads(files["index.json"])["manifests"]
    assert first["digest"] == second["digest"] == digest(index)
    assert files["blobs/sha256/" + digest(index)[7:]] == index
    assert first["annotations"]["io.containerd.image.name"] == "docker.io/library/app:1"
    assert second["annotations"]["io.containerd.image.name"] == "registry.example/team/app:2"
    store.verify("b0")


@pytest.mark.parametrize("layout", [making.legacy, making.podman, making.oci_plain])
def test_layers_that_the_store_holds_are_not_stored_again(store: BackupStore, layout: Layout) -> None:
    """A second image on the same base adds its own layer alone."""
    base = b"".join(digest(str(number).encode()).encode() for number in range(5000))
    first, second = image(base, b"one"), image(base, b"two")
    take(store, layout(first), first)
    before = {path.name for path in making.blob_files(store)}
    take(store, making.oci_plain(second), second)
    added = [path for path in making.blob_files(store) if path.name not in before]
    assert sum(path.stat().st_size for path in added) < 5000


def test_a_compressed_layer_that_the_store_has_is_not_decompressed(
    store: BackupStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a commit in containerd's store, which exports the whole image, the new layer alone is; the manifest stays."""
    take(store, making.oci_gzip(image(b"base" * 1000)), image(b"base" * 1000))
    img, kinds = image(b"base" * 1000, b"more"), []

    def counted(source: Iterator[bytes], kind: str) -> Iterator[bytes]:
        kinds.append(kind)
        return decompressed(source, kind)

    monkeypatch.setattr(image_import, "decompressed", counted)
    manifest = take(store, making.oci_gzip(img), img)
    assert kinds == ["gzip"]
    assert manifest.digest == digest(making.manifest_of(img, making.gzipped(img), "+gzip"))
    store.verify("b1", deep=True)


def test_a_rotten_layer_is_stored_again_and_mends_its_backup(store: BackupStore) -> None:
    """A layer whose stored copy has rotted is not relied upon; storing it anew mends the older backup."""
    img = image(b"".join(digest(str(number).encode()).encode() for number in range(5000)))
    take(store, making.oci_plain(img), img)
    rotten = making.blob_files(store)[0]
    data = bytearray(rotten.read_bytes())
    data[len(data) // 2] ^= 1
    rotten.write_bytes(data)
    with pytest.raises(CorruptBackupError):
        store.verify("b0")
    take(store, making.oci_plain(img), img)
    store.verify("b0")
    store.verify("b1")


def test_an_archive_without_a_layer_that_the_store_holds_is_enough(store: BackupStore) -> None:
    """Engines have left out layers that images share: what the store holds already is not missed."""
    base, both = image(b"base"), image(b"base", b"top")
    take(store, making.oci_plain(base), base)
    files = read_tar(making.oci_plain(both))
    del files["blobs/sha256/" + both.diff_ids[0][7:]]
    take(store, making.tar(files), both)
    store.verify("b1")


def without(img: Image, name: str) -> bytes:
    """Return an archive that lacks one file."""
    files = read_tar(making.oci_plain(img))
    del files[name]
    return making.tar(files)


def altered(img: Image, name: str, data: bytes) -> bytes:
    """Return an archive with other content in one file."""
    return making.tar({**read_tar(making.oci_plain(img)), name: data})


def layer_name(img: Image) -> str:
    """Return where an archive has an image's first layer."""
    return "blobs/sha256/" + img.diff_ids[0][7:]


def config_name(img: Image) -> str:
    """Return where an archive has an image's config."""
    return "blobs/sha256/" + digest(img.config)[7:]


BROKEN: dict[str, Callable[[Image], bytes]] = {
    "empty": lambda _: b"",
    "no tar": lambda _: b"x" * 5000,
    "cut short": lambda img: making.oci_plain(img)[:12000],
    "cut in a header": lambda img: making.oci_plain(img)[:100],
    "no layer": lambda img: without(img, layer_name(img)),
    "no config": lambda img: without(img, config_name(img)),
    "other layer": lambda img: altered(img, layer_name(img), img.layers[0].replace(b"base", b"bass")),
    "other config": lambda img: altered(img, config_name(img), img.config.replace(b"amd64", b"arm64")),
    "config of another image": lambda _: making.oci_plain(image(b"other")),
    "table is no JSON": lambda img: altered(img, "manifest.json", b"{"),
    "table is no list": lambda img: altered(img, "manifest.json", b'{"Config": 1}'),
    "table of no objects": lambda img: altered(img, "manifest.json", b"[1]"),
    "table with no config": lambda img: altered(img, "manifest.json", b"[{}]"),
    "index of no shape": lambda img: altered(img, "index.json", b'{"schemaVersion": 2, "manifests": 7}'),
    "endless links": lambda _: making.tar({"manifest.json": b'[{"Config": "a", "Layers": []}]'}, {"a": "b", "b": "a"}),
    "gzip cut short": lambda img: altered(img, layer_name(img), making.gzipped(img)[0][:100]),
    "gzip of junk": lambda _: making.tar({"x/layer.tar": b"\x1f\x8bjunk", "manifest.json": b"[]"}),
    "zstd of junk": lambda _: making.tar({"x/layer.tar": b"\x28\xb5\x2f\xfdjunk", "manifest.json": b"[]"}),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_archive_is_an_error_of_the_engine(store: BackupStore, broken: str) -> None:
    """An export that is broken, incomplete or of another image is refused, and leaves nothing behind."""
    img = small_image()
    with store.draft("b1") as draft, pytest.raises(EngineError):
        draft.add_image(pieces(BROKEN[broken](img)), layers=img.diff_ids)
    assert store.ids() == []
    assert making.blob_files(store) == []
    assert list((store.path / "drafts").iterdir()) == []


def test_what_the_engine_raises_comes_out_untouched(store: BackupStore) -> None:
    """An error of the stream itself, in the middle of a layer, is not dressed up as anything else."""
    img = small_image()

    class LostError(OSError):
        pass

    def stream() -> Iterator[bytes]:
        yield making.oci_plain(img)[:9000]
        raise LostError(28, "not the store's disk")

    with store.draft("b1") as draft, pytest.raises(LostError):
        draft.add_image(stream(), layers=img.diff_ids)
    assert making.blob_files(store) == []


def test_an_archive_is_read_to_the_end_of_its_stream(store: BackupStore) -> None:
    """What an engine sends after the tar's end is read as well, so that it is not left hanging."""
    img = small_image()
    stream = pieces(making.oci_plain(img) + bytes(3 << 20))
    with store.draft("b1") as draft:
        draft.add_image(stream, layers=img.diff_ids)
    assert next(stream, None) is None


def test_several_images_share_a_draft(store: BackupStore) -> None:
    """The images of a group are taken into one draft, and a layer that they share is stored once."""
    one, two = image(b"base", b"1"), image(b"base", b"2")
    with store.draft("b1") as draft:
        manifests = [draft.add_image(pieces(making.legacy(img)), layers=img.diff_ids) for img in (one, two)]
        draft.commit(
            making.backup_of(
                "b1",
                [making.snapshot("a", one, manifests[0]), making.snapshot("b", two, manifests[1])],
            )
        )
    layers = [json.loads(b"".join(store.open_blob(manifest)))["layers"] for manifest in manifests]
    assert layers[0][0]["digest"] == layers[1][0]["digest"]
    store.verify("b1")


def test_a_layer_that_came_compressed_is_the_one_of_later_images(store: BackupStore) -> None:
    """What an engine has compressed is not compressed once more for an image that comes with plain layers."""
    img, other = image(b"base", b"1"), image(b"of another")
    with store.draft("b1") as draft:
        first, _, second = (
            json.loads(b"".join(store.open_blob(draft.add_image(pieces(layout(of)), layers=of.diff_ids))))["layers"]
            for of, layout in ((img, making.oci_gzip), (other, making.oci_plain), (img, making.oci_plain))
        )
    digests = [digest(layer) for layer in making.gzipped(img)]
    assert [layer["digest"] for layer in first] == [layer["digest"] for layer in second] == digests
