"""Images of the in-memory engine: real layers, real archives, and names that hold them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import Any

import pytest

from docker_rollback.errors import EngineConflictError, EngineError, ImageNotFoundError
from docker_rollback.testing import FakeEngine, Files


def test_an_image_is_pulled_from_where_it_was_published(fake: FakeEngine) -> None:
    """As it was then; a name that was never published is known to nobody, and neither is another platform."""
    first = fake.add_image("web:1", files={"/web": "1"})
    fake.publish("web:1")
    fake.remove_image("web:1")
    assert not fake.has_image(first)
    assert fake.pull_image("web:1") == fake.pull_image("docker.io/library/web:1") == first
    own = fake.inspect_image("web:1")
    assert fake.pull_image("web:1", platform=f"{own['Os']}/{own['Architecture']}") == first
    with pytest.raises(EngineError, match="no matching manifest for plan9/z80"):
        fake.pull_image("web:1", platform="plan9/z80")
    fake.add_image("web:1", files={"/web": "2"})
    assert fake.pull_image("web:1") == first
    assert fake.inspect_image("web:1")["Id"] == first
    with pytest.raises(ImageNotFoundError):
        fake.pull_image("web:2")


def layers(fake: FakeEngine, ref: str) -> list[str]:
    """Return the digests of an image's layers."""
    found: list[str] = fake.inspect_image(ref)["RootFS"]["Layers"]
    return found


def members(archive: bytes) -> dict[str, bytes]:
    """Return the files of a tar."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {one.name: source.read() for one in tar if (source := tar.extractfile(one)) is not None}


def packed(files: dict[str, bytes]) -> bytes:
    """Return a tar of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def test_equal_contents_have_equal_ids(fake: FakeEngine) -> None:
    """An image that is made twice is one image with two names; another file makes another image."""
    first = fake.add_image("tool:1", files={"/a": "x"})
    assert fake.add_image("tool:2", files={"/a": "x"}) == first
    assert fake.add_image("tool:3", files={"/a": "y"}) != first
    assert fake.inspect_image("tool:1")["RepoTags"] == ["tool:1", "tool:2"]


def test_an_image_stands_on_another(fake: FakeEngine) -> None:
    """A base gives its layers and its files."""
    fake.add_image("shop:2", base="shop:1", files={"/app": "version 2"})
    assert layers(fake, "shop:2")[:-1] == layers(fake, "shop:1")
    fake.run("shop", image="shop:2")
    assert fake.container("shop").read("/app") == b"version 2"
    assert fake.container("shop").read("/etc/shop.conf") == b"a=1"


@pytest.mark.parametrize("ref", ["shop", "shop:latest", "docker.io/library/shop", "library/shop:latest"])
def test_a_name_is_found_however_it_is_spelled(fake: FakeEngine, ref: str) -> None:
    """The default registry and the default tag may be left out."""
    identity = fake.add_image("shop", files={"/app": "latest"})
    assert fake.inspect_image(ref)["Id"] == identity


def test_an_id_and_its_beginning_name_an_image(fake: FakeEngine) -> None:
    """An image is found by its id with and without its prefix, and by the first twelve digits."""
    identity = str(fake.inspect_image("shop:1")["Id"])
    for ref in (identity, identity[7:], identity[7:19], identity[:19]):
        assert fake.inspect_image(ref)["Id"] == identity
    for ref in (identity[7:17], "0" * 12, "nosuch:1", "", "sha256:"):
        with pytest.raises(ImageNotFoundError):
            fake.inspect_image(ref)


def test_the_commit_of_an_untouched_container_has_its_images_layers(fake: FakeEngine) -> None:
    """Without a change there is no new layer; the configuration is the container's."""
    fake.run("shop", image="shop:1", env=["SECRET=x"])
    identity = fake.commit_container("shop", "kept:1")
    assert layers(fake, identity) == layers(fake, "shop:1")
    found = fake.inspect_image("kept:1")
    assert found["Parent"] == fake.inspect_image("shop:1")["Id"]
    assert "SECRET=x" in found["Config"]["Env"]


def test_a_commit_keeps_what_changed(fake: FakeEngine) -> None:
    """A container that is made from a commit has the files of the one that was committed, and none that it deleted."""
    fake.run("shop", image="shop:1")
    shop = fake.container("shop")
    shop.write("/etc/new", b"\xff", mode=0o4750, uid=5, gid=6, mtime=1_000_000_001_500_000_000)
    shop.symlink("/etc/link", "new")
    shop.link("/etc/new", "/etc/second")
    shop.special("/etc/pipe", "fifo")
    shop.delete("/app")
    fake.commit_container("shop", "kept:1")
    assert len(layers(fake, "kept:1")) == 2
    fake.run("again", image="kept:1")
    again = fake.container("again")
    assert not again.exists("/app")
    assert again.readlink("/etc/link") == "new"
    assert again.node("/etc/second") is again.node("/etc/new")
    node = again.node("/etc/new")
    assert (node.content, node.mode, node.uid, node.gid) == (b"\xff", 0o4750, 5, 6)
    assert node.mtime == 1_000_000_001_000_000_000
    assert again.node("/etc/pipe").kind == "fifo"
    assert fake.container_changes("again") == []


def test_equal_changes_make_equal_layers(fake: FakeEngine) -> None:
    """Two commits of the same state have the same layers; one touch makes another."""
    fake.run("shop", image="shop:1")
    fake.container("shop").write("/etc/new", "x", mtime=0)
    fake.commit_container("shop", "kept:1")
    fake.commit_container("shop", "kept:2")
    fake.container("shop").set("/etc/new", mtime=5_000_000_000)
    fake.commit_container("shop", "kept:3")
    assert layers(fake, "kept:1") == layers(fake, "kept:2") != layers(fake, "kept:3")


def test_what_no_commit_keeps_is_lost_here_too(fake: FakeEngine) -> None:
    """Sockets, names like whiteouts, user attributes and times before 1970 do not survive a commit; capabilities do."""
    fake.run("shop", image="shop:1")
    shop = fake.container("shop")
    shop.special("/etc/socket", "socket")
    shop.write("/etc/.wh.hidden", "x")
    shop.write("/etc/old", "x", mtime=-5, xattrs={"user.note": b"x", "security.capability": b"\x01\xff"})
    fake.commit_container("shop", "kept:1")
    fake.run("again", image="kept:1")
    again = fake.container("again")
    assert again.list("/etc") == ["old", "shop.conf"]
    assert again.node("/etc/old").xattrs == {"security.capability": b"\x01\xff"}
    assert again.node("/etc/old").mtime == 0


def test_a_file_may_take_a_folders_place_and_back(fake: FakeEngine) -> None:
    """A commit keeps what has become of a path, also where it is something else now."""
    fake.run("shop", image="shop:1")
    shop = fake.container("shop")
    shop.delete("/etc")
    shop.write("/etc", "a file")
    shop.delete("/app")
    shop.write("/app/inner", "a folder")
    fake.commit_container("shop", "kept:1")
    fake.run("again", image="kept:1")
    assert fake.container("again").read("/etc") == b"a file"
    assert fake.container("again").list("/app") == ["inner"]


def test_save_writes_an_oci_layout(fake: FakeEngine) -> None:
    """Every blob lies under its own digest, and index, manifest and configuration lead to the layers."""
    whole = members(b"".join(fake.save_image("shop:1")))
    for name, data in whole.items():
        if name.startswith("blobs/sha256/"):
            assert hashlib.sha256(data).hexdigest() == name.rpartition("/")[2]
    assert json.loads(whole["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (listed,) = json.loads(whole["index.json"])["manifests"]
    assert listed["annotations"]["io.containerd.image.name"] == "docker.io/library/shop:1"
    manifest = json.loads(whole["blobs/" + listed["digest"].replace(":", "/")])
    (docker,) = json.loads(whole["manifest.json"])
    assert docker["RepoTags"] == ["shop:1"]
    assert "sha256:" + docker["Config"].rpartition("/")[2] == fake.inspect_image("shop:1")["Id"]
    assert [one["digest"] for one in manifest["layers"]] == layers(fake, "shop:1")


def test_save_by_id_names_nothing(fake: FakeEngine) -> None:
    """An image that is saved by its id brings no name along."""
    identity = str(fake.inspect_image("shop:1")["Id"])
    whole = members(b"".join(fake.save_image(identity)))
    assert json.loads(whole["manifest.json"])[0]["RepoTags"] is None
    assert "annotations" not in json.loads(whole["index.json"])["manifests"][0]
    with pytest.raises(ImageNotFoundError):
        fake.save_image("nosuch:1")


def test_what_was_saved_is_loaded(fake: FakeEngine) -> None:
    """Another engine has the image under the same id and name, files and all."""
    another = FakeEngine()
    another.load_image(fake.save_image("shop:1"))
    assert another.inspect_image("shop:1")["Id"] == fake.inspect_image("shop:1")["Id"]
    another.run("shop", image="shop:1")
    assert another.container("shop").read("/app") == b"version 1"


@pytest.mark.parametrize("squeeze", [gzip.compress, bytes])
def test_any_layout_with_a_manifest_is_loaded(fake: FakeEngine, squeeze: Any) -> None:
    """A tar whose manifest.json names its parts is enough, layers plain or in gzip, under whatever names."""
    whole = members(b"".join(fake.save_image("shop:1")))
    (entry,) = json.loads(whole["manifest.json"])
    parts = {"config": whole[entry["Config"]], "one/layer.tar": squeeze(whole[entry["Layers"][0]])}
    listed = [{"Config": "config", "RepoTags": ["shop:loaded"], "Layers": ["one/layer.tar"]}]
    another = FakeEngine()
    another.load_image([packed({**parts, "manifest.json": json.dumps(listed).encode()})])
    assert another.inspect_image("shop:loaded")["Id"] == fake.inspect_image("shop:1")["Id"]


def test_links_between_the_parts_of_an_archive_are_followed(fake: FakeEngine) -> None:
    """An archive may keep a layer once and lead to it from elsewhere, as old engines write it."""
    whole = members(b"".join(fake.save_image("shop:1")))
    (entry,) = json.loads(whole["manifest.json"])
    listed = [{"Config": "config", "RepoTags": ["old:1"], "Layers": ["two/layer.tar"]}]
    parts = {"config": whole[entry["Config"]], "one/layer.tar": whole[entry["Layers"][0]]}
    for kind, target in ((tarfile.SYMTYPE, "../one/layer.tar"), (tarfile.LNKTYPE, "one/layer.tar")):
        buffer = io.BytesIO(packed({**parts, "manifest.json": json.dumps(listed).encode()}))
        with tarfile.open(fileobj=buffer, mode="a") as tar:
            link = tarfile.TarInfo("two/layer.tar")
            link.type, link.linkname = kind, target
            tar.addfile(link)
        another = FakeEngine()
        another.load_image([buffer.getvalue()])
        assert another.has_image("old:1")


def test_layers_say_what_to_forget(fake: FakeEngine) -> None:
    """A layer that declares a folder opaque hides what is below it; its root entry sets the root's attributes."""
    base = members(b"".join(fake.save_image("shop:1")))
    (entry,) = json.loads(base["manifest.json"])
    buffer = io.BytesIO(packed({"etc/.wh..wh..opq": b"", "etc/only": b""}))
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        root = tarfile.TarInfo("./")
        root.type, root.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(root)
        device = tarfile.TarInfo("etc/null")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
        tar.addfile(device)
    layer = buffer.getvalue()
    config = json.loads(base[entry["Config"]])
    config["rootfs"]["diff_ids"].append("sha256:" + hashlib.sha256(layer).hexdigest())
    listed = [{"Config": "config", "RepoTags": ["top:1"], "Layers": [entry["Layers"][0], "layer"]}]
    parts = {**base, "config": json.dumps(config).encode(), "layer": layer}
    fake.load_image([packed({**parts, "manifest.json": json.dumps(listed).encode()})])
    fake.run("top", image="top:1")
    assert fake.container("top").list("/etc") == ["null", "only"]
    assert fake.container("top").node("/etc/null").device == (1, 3)
    assert fake.container("top").node("/").mode == 0o700


def damage(whole: dict[str, bytes], kind: str) -> dict[str, bytes]:
    """Return the parts of an archive with one kind of damage."""
    (entry,) = json.loads(whole["manifest.json"])
    if kind == "no manifest":
        return {name: data for name, data in whole.items() if name != "manifest.json"}
    if kind == "no layer":
        return {name: data for name, data in whole.items() if name not in entry["Layers"]}
    if kind == "another layer":
        return {**whole, entry["Layers"][0]: packed({"other": b""})}
    return {**whole, "manifest.json": json.dumps([{**entry, "Layers": []}]).encode()}


@pytest.mark.parametrize("kind", ["no manifest", "no layer", "another layer", "fewer layers"])
def test_a_damaged_archive_is_refused(fake: FakeEngine, kind: str) -> None:
    """An archive whose parts are missing, or are not the ones it names, brings in nothing."""
    whole = members(b"".join(fake.save_image("shop:1")))
    another = FakeEngine()
    with pytest.raises(EngineError):
        another.load_image([packed(damage(whole, kind))])
    assert not another.has_image("shop:1")


@pytest.mark.parametrize("archive", [b"", b"no tar" * 100])
def test_what_is_no_archive_is_refused(fake: FakeEngine, archive: bytes) -> None:
    """Loading anything else raises."""
    with pytest.raises(EngineError):
        fake.load_image([archive])


def test_an_import_is_an_image_of_one_layer(fake: FakeEngine) -> None:
    """The layer is the tar as it came; in gzip it is the same image."""
    tar = packed({"./etc/motd": b"hi"})
    identity = fake.import_image([tar[:100], tar[100:]], "plain:1")
    assert layers(fake, identity) == ["sha256:" + hashlib.sha256(tar).hexdigest()]
    fake.import_image([gzip.compress(tar)], "squeezed:1")
    assert layers(fake, "squeezed:1") == layers(fake, "plain:1")
    fake.import_image([], "empty:1")
    fake.run("shop", image="plain:1", command=["/x"])
    assert fake.container("shop").read("/etc/motd") == b"hi"
    with pytest.raises(EngineError):
        fake.import_image([b"no tar" * 200], "bad:1")
    with pytest.raises(EngineError):
        fake.import_image([packed({"a": b"", "b": b""})[:700]], "cut:1")


@pytest.mark.parametrize("tag", ["untagged", "Upper:1", ":1", "a:b/c"])
def test_a_name_that_is_none_is_refused(fake: FakeEngine, tag: str) -> None:
    """A name is ``repository:tag``, in lower case."""
    with pytest.raises(EngineError):
        fake.tag_image("shop:1", tag)


def test_a_name_moves_to_another_image(fake: FakeEngine) -> None:
    """Tagging takes the name from whichever image has it; the image that lost it stays, nameless."""
    old = str(fake.inspect_image("shop:1")["Id"])
    new = fake.add_image("shop:2", files={"/app": "version 2"})
    fake.tag_image("shop:2", "shop:1")
    assert fake.inspect_image("shop:1")["Id"] == new
    assert fake.inspect_image(old)["RepoTags"] == []
    assert fake.prune_images() == [old]


def test_the_last_name_takes_the_image_along(fake: FakeEngine) -> None:
    """A name is removed alone while there are others; the last one removes the image; none is no error."""
    identity = str(fake.inspect_image("shop:1")["Id"])
    fake.tag_image("shop:1", "other:1")
    fake.remove_image("other:1")
    assert fake.has_image(identity)
    fake.remove_image("shop:1")
    assert not fake.has_image(identity)
    fake.remove_image("shop:1")


def test_a_container_keeps_its_image(fake: FakeEngine) -> None:
    """The last name of an image that a container uses, running or not, is a conflict; so is its id."""
    identity = fake.run("shop", image="shop:1", start=False)
    for ref in ("shop:1", str(fake.inspect_image("shop:1")["Id"])):
        with pytest.raises(EngineConflictError, match=identity[:12]):
            fake.remove_image(ref)
    fake.tag_image("shop:1", "other:1")
    fake.remove_image("shop:1")
    assert fake.has_image("other:1")
    assert fake.prune_images() == []


def test_an_image_with_two_names_is_not_removed_by_id(fake: FakeEngine) -> None:
    """By id, an image goes with its only name, and not while it has two."""
    identity = str(fake.inspect_image("shop:1")["Id"])
    fake.tag_image("shop:1", "other:1")
    with pytest.raises(EngineConflictError):
        fake.remove_image(identity)
    fake.remove_image("other:1")
    fake.remove_image(identity)
    assert not fake.has_image("shop:1")


def test_networks_and_volumes_are_asked_for_by_name(fake: FakeEngine) -> None:
    """A test asks what there is without an error."""
    fake.create_volume({"Name": "data"})
    assert (fake.has_volume("data"), fake.has_volume("nosuch")) == (True, False)
    assert (fake.has_network("bridge"), fake.has_network("nosuch")) == (True, False)


def test_a_committed_image_holds_the_one_below(fake: FakeEngine) -> None:
    """An image stays, nameless, while one that was committed from it is there, and is pruned with it."""
    fake.run("shop", image="shop:1")
    below = str(fake.inspect_image("shop:1")["Id"])
    above = fake.commit_container("shop", "kept:1")
    fake.remove_container("shop", force=True)
    with pytest.raises(EngineConflictError):
        fake.remove_image(below)
    fake.remove_image("shop:1")
    assert fake.has_image(below)
    fake.remove_image("kept:1")
    assert not fake.has_image(above)
    assert fake.prune_images() == [below]


def test_a_filler_says_what_files_cannot(fake: FakeEngine) -> None:
    """Modes, owners and links of an image's files are set by a function that is given a handle."""

    def fill(files: Files) -> None:
        files.set("/app", mode=0o755, uid=3)
        files.symlink("/run", "app")

    fake.add_image("tool:1", files={"/app": "x"}, fill=fill)
    fake.run("tool", image="tool:1")
    node = fake.container("tool").node("/run")
    assert (node.mode, node.uid) == (0o755, 3)
