"""Backups whose hashes are all right and whose parts do not belong together: what `verify` alone can find."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from docker_rollback._store.store import BackupStore
from docker_rollback.errors import CorruptBackupError, UnsupportedFormatError
from tests.unit.store import making
from tests.unit.store.making import digest, image


@define
class Forgery:
    """A backup taken apart, to be changed and put together again with right hashes."""

    store: BackupStore
    index: dict[str, Any]
    manifests: list[dict[str, Any]]
    record: dict[str, Any]

    @classmethod
    def of(cls, store: BackupStore) -> Forgery:
        """Take the one backup of a store apart."""
        blobs = store.path / "blobs" / "sha256"

        def read(blob: str) -> dict[str, Any]:
            found = json.loads((blobs / blob[7:]).read_bytes())
            assert isinstance(found, dict)
            return found

        root, *children = making.children_of(store.path, "b1")
        manifests = [read(child) for child in children]
        return cls(store, read(root), manifests, read(manifests[0]["layers"][0]["digest"]))

    @property
    def image(self) -> dict[str, Any]:
        """The image's manifest."""
        return self.manifests[1]

    @property
    def volume(self) -> dict[str, Any]:
        """The volume's manifest."""
        return self.manifests[2]

    def put(self, data: bytes | dict[str, Any]) -> dict[str, Any]:
        """Write a blob, and return how it is referred to."""
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        (self.store.path / "blobs" / "sha256" / digest(data)[7:]).write_bytes(data)
        return {"digest": digest(data), "size": len(data)}

    def relayer(self, number: int, data: bytes) -> None:
        """Put other content in the place of one of the image's layers."""
        self.image["layers"][number].update(self.put(data))

    def reconfigure(self, config: bytes) -> None:
        """Put another config in the place of the image's."""
        self.image["config"].update(self.put(config))

    def together(self) -> None:
        """Put the backup together again, every hash right."""
        for number, manifest in enumerate(self.manifests):
            if number and number < len(self.index["manifests"]):
                old = self.index["manifests"][number]["digest"]
                self.index["manifests"][number].update(self.put(manifest))
                text = json.dumps(self.record)
                new = self.index["manifests"][number]
                self.record = json.loads(text.replace(old, new["digest"]))
                for container in self.record["backup"]["containers"]:
                    if container["image"]["manifest"]["digest"] == new["digest"]:
                        container["image"]["manifest"]["size"] = new["size"]
        if self.manifests[0]["layers"]:
            self.manifests[0]["layers"][0].update(self.put(self.record))
        self.index["manifests"][0].update(self.put(self.manifests[0]))
        path = self.store.path / "index.json"
        top = json.loads(path.read_bytes())
        top["manifests"][0].update(self.put(self.index))
        top["manifests"][1:] = [
            {**child, "annotations": {"org.opencontainers.image.ref.name": f"b1.{number}"}}
            for number, child in enumerate(self.index["manifests"], start=1)
        ]
        path.write_text(json.dumps(top))


@pytest.fixture
def forgery(store: BackupStore) -> Forgery:
    """Give a backup taken apart."""
    making.save(store, "b1", img=image(b"base" * 100, b"top"), layout=making.legacy)
    return Forgery.of(store)


def test_put_together_unchanged_it_verifies(forgery: Forgery) -> None:
    """Taken apart and put together again, a backup verifies: what the other tests find is what they changed."""
    forgery.together()
    forgery.store.verify("b1")


def test_an_index_whose_entries_have_no_artifact_types_verifies(forgery: Forgery) -> None:
    """A copy by skopeo has lost them; the manifests have theirs."""
    for entry in forgery.index["manifests"]:
        entry.pop("artifactType", None)
    forgery.together()
    forgery.store.verify("b1")
    assert forgery.store.get("b1").id == "b1"


def no_record(forgery: Forgery) -> None:
    """Leave the record out of the index."""
    forgery.manifests[0]["artifactType"] = "application/x"


def two_records(forgery: Forgery) -> None:
    """Name the record twice."""
    forgery.index["manifests"].append(dict(forgery.index["manifests"][0]))


def empty_record(forgery: Forgery) -> None:
    """Leave the record's manifest without a layer."""
    forgery.manifests[0]["layers"] = []


def strange_part(forgery: Forgery) -> None:
    """Let the index refer to what is neither manifest nor image."""
    forgery.index["manifests"][2]["mediaType"] = "text/plain"


def part_too_many(forgery: Forgery) -> None:
    """Let the index refer to a manifest that the record does not know."""
    extra = {**forgery.image, "annotations": {"x": "y"}}
    forgery.index["manifests"].append({**forgery.index["manifests"][1], **forgery.put(extra)})


def lost_image(forgery: Forgery) -> None:
    """Leave the image out of the index."""
    del forgery.index["manifests"][1]


def lost_volume(forgery: Forgery) -> None:
    """Leave the volume out of the index."""
    del forgery.index["manifests"][2]


def lost_increment(forgery: Forgery) -> None:
    """Leave a volume's increment out of its manifest."""
    forgery.volume["layers"].pop()


def turned_archives(forgery: Forgery) -> None:
    """Put a volume's increment before its base."""
    forgery.volume["layers"].reverse()


def renamed_volume(forgery: Forgery) -> None:
    """Give a volume's archives out as those of another."""
    forgery.volume["annotations"]["io.docker-rollback.volume"] = "other"


def turned_layers(forgery: Forgery) -> None:
    """Put the image's layers in another order."""
    forgery.image["layers"].reverse()


def lost_layer(forgery: Forgery) -> None:
    """Leave one of the image's layers out of its manifest."""
    forgery.image["layers"].pop()


def other_layer(forgery: Forgery) -> None:
    """Put another layer in the place of the image's."""
    forgery.relayer(0, gzip.compress(b"other"))


def same_layer(forgery: Forgery) -> None:
    """Put one of the image's layers in the place of the other."""
    forgery.image["layers"][1] = dict(forgery.image["layers"][0])


def broken_gzip(forgery: Forgery) -> None:
    """Put what only begins like gzip in the place of a layer."""
    forgery.relayer(0, b"\x1f\x8b\x08\x00junk that is no gzip at all")


def cut_gzip(forgery: Forgery) -> None:
    """Put half a gzip stream in the place of a layer."""
    forgery.relayer(0, gzip.compress(bytes(range(256)) * 99)[:90])


def broken_zstd(forgery: Forgery) -> None:
    """Put what only begins like zstd in the place of a layer."""
    forgery.relayer(0, b"\x28\xb5\x2f\xfdjunk that is no zstd at all")


def empty_layer(forgery: Forgery) -> None:
    """Put nothing in the place of a layer."""
    forgery.relayer(0, b"")


def other_config(forgery: Forgery) -> None:
    """Put the config of another image in the place of the image's."""
    forgery.reconfigure(image(b"x", b"y").config)


def no_layers_in_config(forgery: Forgery) -> None:
    """Put a config without layers in the place of the image's."""
    forgery.reconfigure(b'{"rootfs": {"diff_ids": 7}}')


def list_for_a_config(forgery: Forgery) -> None:
    """Put a config that is no object in the place of the image's."""
    forgery.reconfigure(b"[]")


def small_volume(forgery: Forgery) -> None:
    """Let the record say that a volume has more bytes than its archives hold."""
    forgery.record["backup"]["volumes"][0]["size"] += 1


def large_volume(forgery: Forgery) -> None:
    """Let the record say that a volume has fewer bytes than its archives hold."""
    forgery.record["backup"]["volumes"][0]["size"] -= 1


def lost_file(forgery: Forgery) -> None:
    """Let the record name a file that the backup does not refer to."""
    data = {"mediaType": "application/octet-stream", **forgery.put(b"services: {}")}
    forgery.record["backup"]["files"] = [{"path": "/compose.yml", "mode": 420, "uid": 0, "gid": 0, "data": data}]


def other_name(forgery: Forgery) -> None:
    """Let the record say that it is of another backup."""
    forgery.record["backup"]["id"] = "b2"


FORGERIES: list[Callable[[Forgery], None]] = [
    no_record,
    two_records,
    empty_record,
    strange_part,
    part_too_many,
    lost_image,
    lost_volume,
    lost_increment,
    turned_archives,
    renamed_volume,
    turned_layers,
    lost_layer,
    other_layer,
    same_layer,
    broken_gzip,
    cut_gzip,
    broken_zstd,
    empty_layer,
    other_config,
    no_layers_in_config,
    list_for_a_config,
    small_volume,
    large_volume,
    lost_file,
    other_name,
]


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_what_does_not_belong_together_is_found(
    forgery: Forgery, tmp_path: Path, forge: Callable[[Forgery], None]
) -> None:
    """A backup with right hashes and wrong parts does not verify, and is not taken in by an import."""
    forge(forgery)
    forgery.together()
    with pytest.raises(CorruptBackupError):
        forgery.store.verify("b1")
    if forge in (lost_image, lost_volume):
        # What no record leads to does not travel: the import lacks it.
        return
    files = {
        f"blobs/sha256/{path.name}": path.read_bytes() for path in (forgery.store.path / "blobs" / "sha256").iterdir()
    }
    files["docker-rollback.json"] = (forgery.store.path / "index.json").read_bytes()
    other = BackupStore(tmp_path / "other")
    (tmp_path / "forged.tar").write_bytes(making.tar(files))
    with pytest.raises(CorruptBackupError):
        other.import_(tmp_path / "forged.tar")
    assert other.ids() == []
    assert making.blob_files(other) == []


@pytest.mark.parametrize("where", ["artifactType", "annotations"])
def test_a_newer_root_is_told(forgery: Forgery, where: str) -> None:
    """A root of a newer format is told by its type, and where a tool dropped that, by its annotation."""
    if where == "artifactType":
        forgery.index["artifactType"] = "application/vnd.docker-rollback.backup.v4"
    else:
        del forgery.index["artifactType"]
        forgery.index["annotations"]["io.docker-rollback.format"] = "4"
    forgery.together()
    with pytest.raises(UnsupportedFormatError):
        forgery.store.get("b1")


def test_a_name_given_twice_is_damage(forgery: Forgery) -> None:
    """An index.json that names two different backups alike is refused."""
    path = forgery.store.path / "index.json"
    top = json.loads(path.read_bytes())
    top["manifests"].append({**top["manifests"][0], "digest": digest(b"other")})
    path.write_text(json.dumps(top))
    with pytest.raises(CorruptBackupError, match="two backups"):
        forgery.store.ids()


def test_an_index_of_others_that_cannot_be_read_is_no_backup(
    forgery: Forgery, caplog: pytest.LogCaptureFixture
) -> None:
    """A named index that nothing marks as a backup, and that is gone, is passed over with a warning."""
    path = forgery.store.path / "index.json"
    top = json.loads(path.read_bytes())
    entry = {"mediaType": top["manifests"][0]["mediaType"], "digest": digest(b"gone"), "size": 4}
    top["manifests"].append({**entry, "annotations": {"org.opencontainers.image.ref.name": "theirs"}})
    path.write_text(json.dumps(top))
    assert forgery.store.ids() == ["b1"]
    assert "theirs" in caplog.text
    assert forgery.store.prune().not_swept is None


def test_a_damaged_image_does_not_stop_the_next_backup(store: BackupStore, caplog: pytest.LogCaptureFixture) -> None:
    """Where an older image's manifest is damaged, its layers are stored anew, with a warning."""
    img = image(b"base" * 300)
    making.save(store, "b1", img=img)
    (store.path / "blobs" / "sha256" / making.children_of(store.path, "b1")[2][7:]).write_bytes(b"x")
    making.save(store, "b2", img=img, volume=b"other")
    store.verify("b2")
    store.verify("b1")
    assert "damaged image" in caplog.text
