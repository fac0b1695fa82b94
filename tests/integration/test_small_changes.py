"""On a real engine that is reached by TCP: a small change is stored by the API, and nothing is exported for it."""

from __future__ import annotations

import gzip
import io
import os
import secrets
import stat
import tarfile
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path

import docker
import pytest
from docker.errors import NotFound

from docker_rollback import Backup, BackupStore, DockerEngine, RollbackRequested, backup, restore, rollback
from tests.contract.relay import relay
from tests.engines.results import cannot
from tests.engines.unprivileged import as_root
from tests.programs import run_in

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("test_labels")]

LONG = "d" * 90
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # CAP_NET_RAW, as `setcap` writes it

BASE = f"""
mkdir -p /etc /t/dir/sub /t/other /t/{LONG} /var/log; echo root:x:0:0:root:/:/bin/sh > /etc/passwd
echo base > /t/dir/file; echo inner > /t/dir/sub/inner; echo top > /t/top; echo gone > /t/gone; echo also > /t/also
echo linked > /t/one; ln /t/one /t/two; ln -s dir /t/soft; echo x > /t/becomes; mkdir /t/other/deep; mkdir /t/empty
"""
CHANGES = f"""
echo new:x:1:1::/: >> /etc/passwd; echo log > /var/log/x; chmod 4755 /t/top; chmod 700 /t/empty; chmod 711 /t/dir
mkdir -p /new/sub/empty /new/{LONG}/{LONG}/{LONG} /new/name\\ with\\ blanks; echo f > /new/sub/f; ln /new/sub/f /new/g
ln -s /etc/passwd /new/l; ln -s /{LONG}/{LONG} /new/far; mkfifo /new/fifo; mknod /new/null c 1 3; chmod 1777 /new/sub
echo x > /new/{LONG}/{LONG}/{LONG}/file; echo x > /t/{LONG}/deep; echo x > "/new/name with blanks/a
b"; echo x > /new/ü; echo x > "/new/$(printf 'a\\377b')"
touch -d '2001-02-03 04:05' /t/dir/file
dd if=/dev/zero of=/new/sparse bs=1 count=1 seek=1000000 2> /dev/null; rm /t/becomes; mkdir /t/dir/was
ln -sfn top /t/soft
"""
LOOK = """
for f in /bin /etc/passwd /t /var /new; do test -e $f && find $f -print0; done | sort -z > /dev/shm/names
xargs -0 stat -c '%n %N %F %a %u %g %t:%T %Y' < /dev/shm/names | tr '\\377' '?'
find /bin /etc/passwd /t /var $(test -e /new && echo /new) -type f -print0 | sort -z | xargs -0 cat | md5sum
"""
"""Shows all files, but those that an engine makes, and the folders that it makes them in."""


class Distant:
    """A container on an engine that is reached by TCP."""

    def __init__(self, client: docker.DockerClient, engine: DockerEngine, store: BackupStore, name: str) -> None:
        self.client, self.engine, self.store, self.name = client, engine, store, name

    def run(self, script: str, *, of: str = "") -> str:
        """Run a script in the container that has to succeed."""
        code, output = run_in(self.client, of or self.name, ["sh", "-c", script])
        assert code == 0, output
        return output

    def backup(self) -> Backup:
        """Back the container up."""
        return backup(self.name, client=self.engine, store=self.store, way="helper")

    def inside(self, path: str) -> Path:
        """Return the path of a file of the container on this machine."""
        return Path(f"/proc/{self.engine.inspect_container(self.name)['State']['Pid']}/root{path}")

    def layer(self, taken: Backup) -> dict[str, tarfile.TarInfo]:
        """Return the members of the last layer as it is stored, by name."""
        manifest = taken.containers[0].image.manifest
        assert manifest is not None
        archive = io.BytesIO(b"".join(self.store.image_archive(manifest, ["x:1"])))
        with tarfile.open(fileobj=archive) as tar:
            names = [
                name for name in tar.getnames() if name.endswith((".tar", ".tar.gz", "layer.tar")) or "blobs" in name
            ]
            for name in reversed(names):
                file = tar.extractfile(name)
                data = file.read() if file is not None else b""
                data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
                if data[257:262] == b"ustar" and b"var/log/x" in data:
                    with tarfile.open(fileobj=io.BytesIO(data)) as layer:
                        return {one.name: one for one in layer}
        raise AssertionError("no layer has the change")


@pytest.fixture
def distant(
    docker_client: docker.DockerClient,
    engine_url: str,
    busybox_image: str,
    test_labels: dict[str, str],
    tmp_path: Path,
    exports: list[str],
) -> Generator[Distant, None, None]:
    """Give a container with a volume and a folder of the host, whose image the store has."""
    name = f"small-{secrets.token_hex(4)}"
    made = docker_client.containers.run(
        busybox_image, ["sleep", "1000"], labels=test_labels, stop_signal="SIGKILL", detach=True
    )
    assert run_in(docker_client, str(made.id), ["sh", "-c", BASE])[0] == 0
    made.commit(name, "base", changes='VOLUME ["/declared"]')
    made.remove(force=True)
    (tmp_path / "bound").mkdir()
    docker_client.containers.run(
        f"{name}:base",
        ["sleep", "1000"],
        name=name,
        labels=test_labels,
        stop_signal="SIGKILL",
        volumes={f"{name}-data": {"bind": "/data"}, str(tmp_path / "bound"): {"bind": "/bound"}},
        detach=True,
    )
    with relay(engine_url) as address, closing(docker.DockerClient(address, version="auto")) as client:
        made_distant = Distant(docker_client, DockerEngine(client), BackupStore(tmp_path / "store"), name)
        try:
            made_distant.backup()
            exports.clear()
            if made_distant.engine.info().flavour == "podman":
                cannot(docker_client, "it does not list all that it commits")
            yield made_distant
        finally:
            with suppress(NotFound):
                docker_client.api.remove_container(name, force=True, v=True)
            docker_client.api.remove_volume(f"{name}-data")


def test_a_small_change_is_stored_without_an_export(distant: Distant, exports: list[str]) -> None:
    """Whatever it is, all that a commit keeps is stored, and nothing of the volumes is."""
    distant.run("echo secret > /data/inner; echo secret > /bound/inner; echo secret > /declared/inner")
    distant.run(CHANGES)
    with as_root():
        if (reachable := distant.inside("/new/sub/f").exists()) is True:
            os.setxattr(distant.inside("/new/sub/f"), "security.capability", CAPABILITY)
            os.setxattr(distant.inside("/t/top"), "security.capability", CAPABILITY)
            os.mknod(distant.inside("/new/socket"), stat.S_IFSOCK | 0o644)
    before = distant.run(LOOK)
    taken = distant.backup()
    assert exports == []
    image = taken.containers[0].image
    assert image.layers == image.committed_layers
    layer = distant.layer(taken)
    assert (layer["new/g"].isreg(), layer["new/sub/f"].linkname) == (True, "new/g")
    assert not [name for name in layer if name.endswith("inner") or name.startswith(("proc", "sys"))]
    if reachable:
        assert "SCHILY.xattr.security.capability" in layer["t/top"].pax_headers
    again = distant.backup()
    assert exports == []
    assert again.containers[0].image.layers[:-1] == image.layers[:-1]
    assert image.manifest is not None
    distant.client.images.load(b"".join(distant.store.image_archive(image.manifest, [f"{distant.name}:copy"])))
    loaded = distant.engine.inspect_image(f"{distant.name}:copy")
    assert tuple(loaded["RootFS"]["Layers"]) == image.layers
    copy = distant.client.containers.run(f"{distant.name}:copy", ["sleep", "1000"], stop_signal="SIGKILL", detach=True)
    # A socket belongs to the program that made it, and no commit has it.
    expected = [line for line in before.splitlines() if "/new/socket" not in line]
    try:
        assert distant.run(LOOK, of=str(copy.id)).splitlines() == expected
    finally:
        copy.remove(force=True, v=True)
        distant.client.images.remove(f"{distant.name}:copy")


def test_a_removed_container_comes_back_as_it_was(distant: Distant, exports: list[str]) -> None:
    """A rollback recreates it with what changed."""
    distant.run(CHANGES)
    before = distant.run(LOOK)
    with rollback(distant.name, client=distant.engine, store=distant.store, way="helper", verify=None):
        assert exports == []
        distant.client.api.remove_container(distant.name, force=True)
        raise RollbackRequested
    assert distant.run(LOOK) == before


def test_a_backup_is_restored_where_its_images_are_gone(distant: Distant, exports: list[str]) -> None:
    """The config is not the engine's byte for byte, so the image has another id; all that it says is the same."""
    distant.run(CHANGES)
    before = distant.run(LOOK)
    taken = distant.backup()
    assert exports == []
    distant.client.api.remove_container(distant.name, force=True)
    distant.client.images.remove(f"{distant.name}:base", force=True)
    restore(taken, client=distant.engine, store=distant.store, way="helper")
    assert distant.run(LOOK) == before
    found, wanted = distant.engine.inspect_container(distant.name), taken.containers[0].inspection
    # The name of its host is the beginning of its id.
    new = {"Image": "", "Hostname": ""}
    assert found["Config"] | new == wanted["Config"] | new


def test_what_was_deleted_later_is_stored_as_well(distant: Distant, exports: list[str]) -> None:
    """The engine's list does not say when; what an earlier layer has need not be found out again."""
    for script in ("rm /t/gone", "rm /t/also /t/two", "mv /t/dir/file /t/dir/file2", "echo log > /var/log/x"):
        distant.run(script)
        taken = distant.backup()
        assert taken.containers[0].image.layers == taken.containers[0].image.committed_layers
    assert exports == []


def test_owners_are_stored_as_the_engine_writes_them(distant: Distant, exports: list[str]) -> None:
    """Docker 20.10 writes their names on its host into a layer, which the first layer shows."""
    distant.run("mkdir /new; echo > /new/one; chown 12:34 /t/empty /new/one; echo > /new/two; chown 3000000:12 /new/t*")
    distant.backup()
    assert exports == [] or distant.engine.info().version.startswith("20.10")
    exports.clear()
    distant.run("echo x > /new/one; echo x > /new/three; chown 12:34 /new/three")
    taken = distant.backup()
    assert taken.containers[0].image.layers == taken.containers[0].image.committed_layers
    assert exports == []


def test_a_replaced_folder_is_exported_at_most_once(distant: Distant, exports: list[str]) -> None:
    """The engine's list does not tell it from one whose files were deleted; the stored layer does."""
    distant.run("rm -rf /t/dir; mkdir /t/dir; echo new > /t/dir/new; echo log > /var/log/x")
    distant.backup()
    assert len(exports) <= 1
    exports.clear()
    distant.run("echo more > /t/dir/more")
    before = distant.run(LOOK)
    with rollback(distant.name, client=distant.engine, store=distant.store, way="helper", verify=None):
        distant.client.api.remove_container(distant.name, force=True)
        raise RollbackRequested
    assert exports == []
    assert distant.run(LOOK) == before


def test_a_service_that_goes_on_writing_does_not_matter(distant: Distant, exports: list[str]) -> None:
    """What is read is the committed image, while the container writes the same files."""
    made = distant.client.api.inspect_container(distant.name)
    distant.client.api.remove_container(distant.name, force=True)
    loop = "while :; do echo line >> /var/log/x; echo line > /t/top; done"
    distant.client.containers.run(
        made["Image"],
        ["sh", "-c", loop],
        name=distant.name,
        stop_signal="SIGKILL",
        detach=True,
        labels=made["Config"]["Labels"],
    )
    for _ in range(2):
        taken = distant.backup()
        assert taken.containers[0].image.layers == taken.containers[0].image.committed_layers
    assert exports == []
