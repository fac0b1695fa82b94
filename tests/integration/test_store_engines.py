"""Images and backups between real engines and a store: what goes in comes out, on the engine it is from and on others.

The engine of the session is one end. `DOCKER_ROLLBACK_TEST_PEERS` names others, by address or by name, with commas
between them; from each it goes to each. ``python -m tests.engines run docker-20.10 --peer podman-5.8 -- ...`` sets it.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import ImageNotFound, NotFound

from docker_rollback import DockerEngine, backup, restore
from docker_rollback._containers import image_files
from docker_rollback._containers.image_files import image_parts
from docker_rollback._model.backup import (
    Backup,
    ContainerSnapshot,
    ContainerState,
    Descriptor,
    EngineRecord,
    ImageSnapshot,
)
from docker_rollback._store import ImageParts, oci
from docker_rollback._store.layout import Layout
from docker_rollback._store.store import BackupStore
from docker_rollback.errors import ImageNotFoundError
from tests.conftest import TEST_LABEL
from tests.engines import NAMES, PrivateEngine
from tests.engines.images import busybox_tar
from tests.engines.results import cannot
from tests.engines.unprivileged import as_root
from tests.programs import run_in
from tests.unit.store import making

REPOSITORY = "docker-rollback-test-store"

pytestmark = pytest.mark.engine

LONG = "n" * 200
FIRST = f"""
mkdir -p /t/dir/sub /t/other; echo 1 > /t/dir/file; ln /t/dir/file /t/hard; ln -s /etc/passwd /t/soft; mkfifo /t/fifo
echo 2 > /t/{LONG}; mkdir -p /t/{LONG}2/{LONG}; echo 3 > /t/{LONG}2/{LONG}/{LONG}; chown 12:34 /t/other
echo 4 > "/t/$(printf 'na\\377me')"; head -c 300000 /dev/urandom > /t/noise; : > /t/empty; chmod 4755 /t/hard
"""
SECOND = "rm /t/noise; rm -r /t/dir; mkdir /t/dir; echo 5 > /t/dir/again; echo 6 >> /t/hard; mv /t/soft /t/softer"
"""What makes whiteouts, an opaque folder, and copies of changed files."""


class Bench:
    """An engine, seen by the docker SDK alone, with images of this test run in it."""

    def __init__(self, client: docker.DockerClient, base: str, labels: dict[str, str]) -> None:
        self.client = client
        self.engine = DockerEngine(client)
        self._base = base
        self._labels = labels

    def commit(self, tag: str, *commands: str) -> dict[str, Any]:
        """Make an image, a layer for each command, and return its inspection."""
        image = self._base
        for command in commands:
            container = self.client.containers.create(
                image, ["sh", "-c", command], labels=self._labels, network_mode="none"
            )
            container.start()
            container.wait()
            made = container.commit(REPOSITORY, tag)
            container.remove()
            assert made.id is not None
            image = made.id
        return self.inspect(f"{REPOSITORY}:{tag}")

    def inspect(self, ref: str) -> dict[str, Any]:
        """Return an image's inspection."""
        return dict(self.engine.inspect_image(ref))

    def forget(self, ref: str) -> None:
        """Remove an image, with all that only it has."""
        with suppress(ImageNotFound):
            self.client.api.remove_image(ref, force=True)

    def run(self, ref: str, command: str) -> str:
        """Run a command on an image and return what it printed."""
        container = self.client.containers.create(ref, ["sh", "-c", command], labels=self._labels, network_mode="none")
        try:
            container.start()
            container.wait()
            output: bytes = container.logs()
        finally:
            container.remove(force=True)
        return output.decode()

    @property
    def containerd(self) -> bool:
        """Whether images live in containerd's store."""
        return self.engine.info().containerd_store

    def take(self, store: BackupStore, backup_id: str, ref: str, *, parts: ImageParts | None = None) -> Descriptor:
        """Save an image into a store, as the only thing of a backup; by an export unless there are parts of it."""
        found = self.inspect(ref)
        layers = tuple(found["RootFS"]["Layers"])
        with store.draft(backup_id) as draft:
            if parts is None:
                manifest = draft.add_image(self.engine.save_image(ref), layers=layers)
            else:
                manifest = draft.add_image_parts(parts, layers=layers)
            image = ImageSnapshot(ref, found["Id"], found["Id"], layers, (), True, ref, manifest)
            snapshot = ContainerSnapshot("web", "c" * 64, {}, ContainerState("running"), image)
            engine = EngineRecord("docker", "1", "1", "x86_64", self.containerd, "runc")
            draft.commit(Backup(backup_id, datetime.now(UTC), engine, "stop", (snapshot,)))
        return manifest


@pytest.fixture
def bench(docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> Iterator[Bench]:
    """Give the engine of the session; the images that the test made go afterwards."""
    with ExitStack() as stack:
        stack.callback(_clean, docker_client)
        yield Bench(docker_client, busybox_image, test_labels)


@pytest.fixture
def store(tmp_path: Path) -> BackupStore:
    """Give a store that is not there yet."""
    return BackupStore(tmp_path / "store")


def _clean(client: docker.DockerClient) -> None:
    for image in client.api.images():
        for tag in image["RepoTags"] or ():
            if REPOSITORY in tag or "docker-rollback:store-test" in tag:
                with suppress(NotFound):
                    client.api.remove_image(tag, force=True)


def same_config(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether two inspections show the same image: its layers and its configuration."""
    return all(before[key] == after[key] for key in ("RootFS", "Config", "Architecture", "Created"))


def test_an_image_comes_back_with_its_id(bench: Bench, store: BackupStore) -> None:
    """An image that was taken in, removed from its engine and loaded again has the id it had, and its files."""
    before = bench.commit("one", "echo one > /one; echo secret > /two; chmod 600 /two", "rm /one; echo new > /three")
    manifest = bench.take(store, "store-test", f"{REPOSITORY}:one")
    bench.forget(before["Id"])
    with pytest.raises(ImageNotFoundError):
        bench.inspect(before["Id"])
    bench.engine.load_image(store.image_archive(manifest, [f"{REPOSITORY}:one"]))
    after = bench.inspect(f"{REPOSITORY}:one")
    assert after["Id"] == before["Id"]
    assert same_config(before, after)
    assert (
        bench.run(f"{REPOSITORY}:one", "cat /two /three; ls /one 2>/dev/null; stat -c %a /two") == "secret\nnew\n600\n"
    )
    store.verify("store-test")


def test_an_image_can_be_loaded_without_a_name(bench: Bench, store: BackupStore) -> None:
    """Loaded without a tag, an image is there by its id."""
    before = bench.commit("one", "echo one > /one")
    manifest = bench.take(store, "store-test", f"{REPOSITORY}:one")
    bench.engine.load_image(store.image_archive(manifest, [f"{REPOSITORY}:a", f"{REPOSITORY}:b"]))
    assert bench.inspect(f"{REPOSITORY}:a")["Id"] == bench.inspect(f"{REPOSITORY}:b")["Id"] == before["Id"]


def test_a_second_image_on_the_same_base_adds_its_own_layer_alone(bench: Bench, store: BackupStore) -> None:
    """Taking in an image whose base the store holds costs what is new in it."""
    bench.commit("one", "echo one > /one")
    bench.commit("two", "echo two > /two")
    bench.take(store, "one", f"{REPOSITORY}:one")
    before = sum(path.stat().st_size for path in making.blob_files(store))
    assert before > 500_000
    bench.take(store, "two", f"{REPOSITORY}:two")
    assert sum(path.stat().st_size for path in making.blob_files(store)) < before + 30_000


def test_the_engine_loads_an_export(bench: Bench, store: BackupStore, tmp_path: Path) -> None:
    """`docker load` takes an exported backup as it is: its image is there under a name of ours, and no artifact."""
    before = bench.commit("one", "echo one > /one")
    bench.take(store, "store-test", f"{REPOSITORY}:one")
    bench.forget(before["Id"])
    names = {tag for image in bench.client.api.images() for tag in image["RepoTags"] or ()}
    store.export("store-test", tmp_path / "backup.tar")
    with (tmp_path / "backup.tar").open("rb") as file:
        bench.engine.load_image(iter(lambda: file.read(1 << 16), b""))
    added = {tag for image in bench.client.api.images() for tag in image["RepoTags"] or ()} - names
    (tag,) = added  # Podman puts a registry before it
    assert tag.rpartition("/")[2] == "docker-rollback:store-test.2"
    assert bench.inspect(tag)["Id"] == before["Id"]
    other = BackupStore(tmp_path / "other")
    assert other.import_(tmp_path / "backup.tar") == store.get("store-test")
    other.verify("store-test")


def test_an_image_of_several_platforms_keeps_its_id(bench: Bench, store: BackupStore) -> None:
    """With containerd's store an image whose id is that of an index comes back under it, though a platform lacks."""
    if not bench.containerd:
        cannot(bench.client, "it knows no image by an index, which only containerd's store does")
    img = making.image(os.urandom(2000), b"top")
    archive, index = making.platforms(img)
    files = making.read_tar(archive)
    top = json.loads(files["index.json"])
    name = f"docker.io/library/{REPOSITORY}:many"
    top["manifests"][0]["annotations"] = {"io.containerd.image.name": name}
    bench.engine.load_image([making.tar({**files, "index.json": json.dumps(top).encode()})])
    before = bench.inspect(f"{REPOSITORY}:many")
    assert before["Id"] == making.digest(index)
    manifest = bench.take(store, "store-test", f"{REPOSITORY}:many")
    assert manifest.digest != before["Id"]
    bench.forget(before["Id"])
    bench.engine.load_image(store.image_archive(manifest, [f"{REPOSITORY}:many"]))
    assert bench.inspect(f"{REPOSITORY}:many")["Id"] == before["Id"]


@pytest.fixture
def root(bench: Bench) -> Iterator[None]:
    """Be root, on an engine whose files are known."""
    if bench.containerd:
        cannot(bench.client, "it keeps images in containerd's store, and they are exported")
    with as_root():
        yield


def contents(store: BackupStore, manifest: Descriptor) -> tuple[bytes, list[str]]:
    """Return an image's config and the digests of its layers, as a store has them."""
    layout = Layout(store.path)
    found = layout.manifest(manifest)
    return layout.blobs.read(found.config, oci.MAX_MANIFEST), [layer.digest for layer in found.layers]


@pytest.mark.usefixtures("root")
def test_an_image_from_files_is_the_exported_one(bench: Bench, tmp_path: Path) -> None:
    """Its config and every layer, to the byte; and it is loaded and read by other tools as before."""
    before = bench.commit("parts", FIRST, SECOND)
    name = f"{REPOSITORY}:parts"
    exported, taken = BackupStore(tmp_path / "exported"), BackupStore(tmp_path / "taken")
    parts = image_parts(bench.engine.info(), before)
    assert parts is not None
    manifest = bench.take(taken, "one", name, parts=parts)
    assert contents(taken, manifest) == contents(exported, bench.take(exported, "one", name))
    taken.verify("one")
    bench.forget(before["Id"])
    bench.engine.load_image(taken.image_archive(manifest, [name]))
    assert bench.inspect(name)["Id"] == before["Id"]
    assert bench.run(name, "cat /t/hard /t/dir/again; ls /t/dir; ls /t | grep noise") == "1\n6\n5\nagain\n"
    if shutil.which("skopeo"):
        target = f"dir:{tmp_path / 'copied'}"
        words = ["skopeo", "--insecure-policy", "copy", f"oci:{taken.path}:one.2", target]
        subprocess.run(words, check=True, capture_output=True)


@pytest.mark.usefixtures("root")
def test_a_backup_exports_nothing(
    bench: Bench,
    store: BackupStore,
    test_labels: dict[str, str],
    exports: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only one whose engine's files cannot be read does; what changed is restored."""
    bench.commit("own", "echo base > /base")
    name = f"parts-{secrets.token_hex(4)}"
    client = bench.client
    client.containers.run(
        f"{REPOSITORY}:own", ["sleep", "9999"], name=name, stop_signal="SIGKILL", labels=test_labels, detach=True
    )
    try:
        for number in range(3):
            run_in(client, name, ["sh", "-c", f"echo {number} > /changed"])
            backup(name, client=client, store=store)
        assert exports == []
        made = store.list()[-1]
        store.verify(made.id)
        monkeypatch.setattr(image_files, "may_do_anything", lambda: False)
        run_in(client, name, ["sh", "-c", "echo last > /changed"])
        backup(name, client=client, store=store)
        assert len(exports) == 1
        client.api.remove_container(name, force=True)
        restore(made, client=client, store=store)
        assert run_in(client, name, ["sh", "-c", "cat /base /changed"]) == (0, "base\n2\n")
    finally:
        client.api.remove_container(name, force=True)


@pytest.fixture
def benches(bench: Bench, test_labels: dict[str, str], busybox_image: str) -> Iterator[list[Bench]]:
    """Give the engine of the session and its peers."""
    wanted = os.environ.get("DOCKER_ROLLBACK_TEST_PEERS")
    if not wanted:
        pytest.skip("DOCKER_ROLLBACK_TEST_PEERS names no other engine")
    base = bench.client.api.get_image(busybox_image)
    archive = b"".join(base)
    with ExitStack() as stack:
        found = [bench]
        for peer in wanted.split(","):
            address = peer
            if peer in NAMES:
                engine = PrivateEngine(peer, instance=f"{os.getpid()}-peer")
                engine.start()
                address = stack.enter_context(engine).address
            client = docker.DockerClient(base_url=address, timeout=120)
            stack.callback(client.close)
            stack.callback(_clean, client)
            peer_bench = Bench(client, busybox_image, test_labels)
            peer_bench.engine.load_image([archive])
            stack.callback(_forget, client, busybox_image)
            found.append(peer_bench)
        yield found


def _forget(client: docker.DockerClient, ref: str) -> None:
    labels = {"label": f"{TEST_LABEL}={ref.rpartition(':')[2]}"}
    for container in client.api.containers(all=True, filters=labels):
        client.api.remove_container(container["Id"], force=True)
    for image in client.api.images(all=True, filters=labels):
        with suppress(NotFound):
            client.api.remove_image(image["Id"], force=True)


def test_images_go_from_each_engine_to_each_other(benches: list[Bench], tmp_path: Path) -> None:
    """An image of one engine runs on every other that has never seen it, by way of an export and another store."""
    for number, source in enumerate(benches):
        before = source.commit(f"from{number}", f"echo {number} > /where; chmod 640 /where")
        store = BackupStore(tmp_path / f"source{number}")
        source.take(store, f"store-test-{number}", f"{REPOSITORY}:from{number}")
        store.export(f"store-test-{number}", tmp_path / "moved.tar")
        source.forget(before["Id"])
        for place, target in enumerate(benches):
            there = BackupStore(tmp_path / f"target{number}-{place}")
            manifest = there.import_(tmp_path / "moved.tar").containers[0].image.manifest
            assert manifest is not None
            target.engine.load_image(there.image_archive(manifest, [f"{REPOSITORY}:from{number}"]))
            after = target.inspect(f"{REPOSITORY}:from{number}")
            assert after["RootFS"] == before["RootFS"]
            if source.containerd == target.containerd:
                assert after["Id"] == before["Id"], (number, place)
            assert target.run(after["Id"], "cat /where; stat -c %a /where") == f"{number}\n640\n"
            target.forget(after["Id"])


class Traveller:
    """A service on an image that no other engine has, with data in its own layer, a named and an anonymous volume."""

    FOLDERS = "/data /cache /root /etc/own"

    def __init__(self, bench: Bench, labels: dict[str, str]) -> None:
        token = secrets.token_hex(4)
        # Images of other tests have the same labels, and may have children.
        self.labels = labels = {**labels, "docker-rollback.test.traveller": token}
        self.name = f"traveller-{token}"
        self.volume = f"traveller-data-{token}"
        self.network = f"traveller-net-{token}"
        self.image = f"{REPOSITORY}:{token}"
        client = bench.client
        client.api.import_image_from_data(
            _own_system(token), repository=REPOSITORY, tag=token, changes=[f"LABEL {k}={v}" for k, v in labels.items()]
        )
        client.api.create_volume(self.volume, labels=labels)
        # Not the engine's choice: another engine may have given the same addresses to a network of its own.
        first = f"10.{200 + int(token[:2], 16) % 50}.{int(token[2:4], 16)}"
        self.address = f"{first}.77"
        pools = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=f"{first}.0/24")])
        client.api.create_network(self.network, driver="bridge", labels=labels, ipam=pools)
        policy: Any = {"Name": "unless-stopped"}
        client.containers.run(
            self.image,
            ["sleep", "9999"],
            name=self.name,
            restart_policy=policy,
            labels=labels,
            environment={"OWNER": "alice"},
            hostname="till",
            mem_limit="64m",
            network=self.network,
            networking_config={self.network: client.api.create_endpoint_config(ipv4_address=self.address)},
            stop_signal="SIGKILL",
            volumes=[f"{self.volume}:/data", "/cache"],
            detach=True,
        )
        self.run(
            bench,
            "echo rows > /data/rows && ln -s rows /data/latest"
            " && mkdir /data/d && head -c 200000 /dev/urandom > /data/d/x"
            " && chown -R 1234:2345 /data/d && chmod 2750 /data/d && touch -d '2001-02-03 04:05:06' /data/rows"
            " && echo warm > /cache/warm && echo mine > /root/note && chmod 640 /root/note",
        )

    def run(self, bench: Bench, script: str) -> str:
        """Run a shell script in it, wherever it is now, and return what that prints."""
        code, output = run_in(bench.client, self.name, ["sh", "-c", script])
        assert code == 0, output
        return output

    def picture(self, bench: Bench) -> tuple[str, str, int, str]:
        """Return all that is to be the same on every engine, by what its programs see and the engine says."""
        seen = self.run(
            bench,
            f"find {self.FOLDERS} | sort | xargs stat -c '%n %A %u:%g %Y %s %N' && "
            f"find {self.FOLDERS} -type f | sort | xargs md5sum && echo $OWNER && hostname && cat /proc/1/cmdline",
        )
        shown = bench.engine.inspect_container(self.name)
        host = shown["HostConfig"]
        networks = " ".join(
            f"{name} {endpoint['IPAddress']}" for name, endpoint in shown["NetworkSettings"]["Networks"].items()
        )
        return seen, host["RestartPolicy"]["Name"], host["Memory"], f"{shown['State']['Status']} {networks}"

    def remove(self, bench: Bench) -> None:
        """Remove all of it from an engine, its image too."""
        api, where = bench.client.api, {"label": [f"{key}={value}" for key, value in self.labels.items()]}
        for container in api.containers(all=True, filters={**where, "name": self.name}):
            api.remove_container(container["Id"], force=True, v=True)
        for volume in api.volumes(filters={**where, "name": self.volume})["Volumes"] or ():
            api.remove_volume(volume["Name"])
        for network in api.networks(filters=dict(where)):
            api.remove_network(network["Id"])
        for image in api.images(all=True, filters=where):
            if not any("busybox" in tag for tag in image["RepoTags"] or ()):
                with suppress(NotFound):  # gone along with another
                    api.remove_image(image["Id"], force=True)


def _own_system(token: str) -> bytes:
    """Return the tar of a file system whose one layer is like no other."""
    whole = io.BytesIO(busybox_tar())
    with tarfile.open(fileobj=whole, mode="a") as archive:
        entry = tarfile.TarInfo("etc/own")
        entry.size = len(token)
        archive.addfile(entry, io.BytesIO(token.encode()))
    return whole.getvalue()


def test_backups_go_from_each_engine_to_each_other(
    benches: list[Bench], tmp_path: Path, test_labels: dict[str, str]
) -> None:
    """A container backed up on one engine stands again on every other, which has never seen its image, data and all."""
    for number, source in enumerate(benches):
        store = BackupStore(tmp_path / f"from{number}")
        traveller = Traveller(source, test_labels)
        try:
            before = traveller.picture(source)
            taken = backup(traveller.name, client=source.client, store=store)
        finally:
            traveller.remove(source)
        store.export(taken.id, tmp_path / "moved.tar")
        for place, target in enumerate(benches):
            if target is source:
                continue
            there = BackupStore(tmp_path / f"from{number}to{place}")
            there.import_(tmp_path / "moved.tar")
            with pytest.raises(ImageNotFoundError):
                target.inspect(traveller.image)
            try:
                assert restore(taken.id, client=target.client, store=there) == [traveller.name]
                assert traveller.picture(target) == before, (number, place)
            finally:
                traveller.remove(target)


@pytest.mark.parametrize("joined", [["dmz", "back"], ["dmz"], []], ids=["two", "one", "none"])
def test_a_container_that_has_left_its_network_is_off_it_on_each_other_engine(
    benches: list[Bench], tmp_path: Path, test_labels: dict[str, str], busybox_image: str, joined: list[str]
) -> None:
    """It is on the networks that it was on before, with its aliases, and never on the network of its mode."""
    token = secrets.token_hex(3)
    name, networks = f"left-{token}", {word: f"left-{word}-{token}" for word in ("front", "dmz", "back")}
    wanted = sorted(networks[word] for word in joined)
    for number, source in enumerate(benches):
        store = BackupStore(tmp_path / f"left{number}")
        try:
            for octet, network in enumerate(networks.values(), start=170):
                # Not the engine's choice: another engine may have given the same addresses to a network of its own.
                pool = docker.types.IPAMPool(subnet=f"10.{octet}.{int(token[:2], 16)}.0/24")
                pools = docker.types.IPAMConfig(pool_configs=[pool])
                source.client.api.create_network(network, labels=test_labels, ipam=pools)
            made = source.client.containers.create(
                busybox_image, ["sleep", "9999"], name=name, labels=test_labels, network=networks["front"]
            )
            source.engine.disconnect_network(networks["front"], name, force=True)
            for word in joined:
                source.engine.connect_network(networks[word], name, {"Aliases": [f"by-{word}"]})
            made.start()
            assert sorted(source.engine.inspect_container(name)["NetworkSettings"]["Networks"]) == wanted
            taken = backup(name, client=source.client, store=store)
        finally:
            _forget_left(source, name, networks.values())
        for place, target in enumerate(benches):
            if target is source:
                continue
            try:
                assert restore(taken, client=target.client, store=store) == [name]
                standing = target.engine.inspect_container(name)
                endpoints = standing["NetworkSettings"]["Networks"]
                assert sorted(endpoints) == wanted, (number, place)
                assert all(f"by-{word}" in endpoints[networks[word]]["Aliases"] for word in joined)
                assert standing["State"]["Running"]
                interfaces = run_in(target.client, name, ["ls", "/sys/class/net"])[1].split()
                assert len([one for one in interfaces if one.startswith("eth")]) == len(joined)
            finally:
                _forget_left(target, name, networks.values())


def _forget_left(bench: Bench, name: str, networks: Iterable[str]) -> None:
    bench.engine.remove_container(name, force=True)
    for network in networks:
        bench.engine.remove_network(network)
