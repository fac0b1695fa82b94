"""On a real engine: rollbacks of a container that writes, one after the other, exact and no deeper each time."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest
from attrs import evolve
from docker.errors import NotFound

from docker_rollback import (
    BackupStore,
    DockerEngine,
    RollbackRequested,
    UnsupportedContainerError,
    backup,
    recover,
    rollback,
)
from docker_rollback._engine.port import EngineInfo
from docker_rollback.errors import CorruptBackupError, StoreNotFoundError
from tests.engines.results import cannot
from tests.engines.unprivileged import as_root
from tests.programs import run_in

pytestmark = pytest.mark.engine

BASE = """
echo 0 > /counter; mkdir -p /t/dir/sub /t/other
echo base > /t/dir/file; echo inner > /t/dir/sub/inner; echo top > /t/top
echo linked > /t/one; ln /t/one /t/two; ln -s dir /t/soft; chmod 4755 /t/top; chown 12:34 /t/other
"""

CHANGES = (
    "rm -rf /t/dir",
    "rm -rf /t/dir; mkdir -p /t/dir; echo again{n} > /t/dir/again",
    "rm -rf /t/dir; echo {n} > /t/dir",
    "rm -rf /t/dir; mkdir -p /t/dir/sub; echo {n} > /t/dir/sub/inner",
    "rm -f /t/one",
    "rm -f /t/one; echo other{n} > /t/one",
    "rm -rf /t/one /t/two; echo {n} > /t/one; ln /t/one /t/two; ln /t/one /t/drei{n}",
    "rm -f /t/two /t/drei*",
    "ln -f /t/top /t/top{n}; rm -f /t/top; echo new{n} > /t/top",
    "rm -rf /t/other; ln -s nowhere{n} /t/other",
    "rm -rf /t/other; mkfifo /t/other",
    "rm -rf /t/other; mkdir /t/other; chown {n}:7 /t/other; chmod 1770 /t/other",
    "test -d /t/dir && touch /t/dir/n{n}; chmod 600 /t/top",
    "mv /t/soft /t/soft{n}; ln -s /t/soft{n} /t/soft",
    "mkdir -p /t/name\\ with\\ blanks/.hidden; echo {n} > '/t/name with blanks/.hidden/ä'",
    "rm -rf /t/name*",
    "rm -rf /t; mkdir /t; echo {n} > /t/top; echo {n} > /t/one",
    "echo {n} > /counter",
)
"""What a program does to its files, between two rollbacks."""

LOOK = """
find /t /counter | sort | while IFS= read -r f; do
stat -c '%n %F %a %u %g %s %Y' "$f"; test -h "$f" && readlink "$f"; test -f "$f" -a ! -h "$f" && cat "$f"
test -f "$f" && find /t -samefile "$f" | sort | tr '\\n' ' '
done
"""
"""Shows all that can be seen; overlayfs counts names of a file that were deleted."""


class Writer:
    """A container that writes to its own file system."""

    def __init__(self, client: docker.DockerClient, labels: dict[str, str], image: str, store: Path) -> None:
        self.client, self.labels, self.store = client, labels, store
        self.name = f"layers-{secrets.token_hex(4)}"
        self.random = random.Random(7)
        self.count = 0
        self.base = self._built(image)
        client.containers.run(
            self.base, ["sleep", "1000"], name=self.name, labels=labels, stop_signal="SIGKILL", detach=True
        )

    def _built(self, image: str) -> str:
        made = self.client.containers.create(image, ["sleep", "1000"], labels=self.labels, stop_signal="SIGKILL")
        made.start()
        assert run_in(self.client, str(made.id), ["sh", "-c", BASE]) == (0, "")
        made.commit(self.name, "base")
        made.remove(force=True)
        return f"{self.name}:base"

    def run(self, script: str) -> str:
        """Run a script in the container that has to succeed."""
        code, output = run_in(self.client, self.name, ["sh", "-c", script])
        assert code == 0, output
        return output

    def inspect(self) -> Mapping[str, Any]:
        """Return the inspection of the container."""
        return DockerEngine(self.client).inspect_container(self.name)

    def file(self, path: str) -> Path:
        """Return the path by which a file of the container is reached from here, if its engine runs here."""
        return Path(f"/proc/{self.inspect()['State']['Pid']}/root{path}")

    def depth(self, image: str) -> int:
        """Return how many layers an image has."""
        return len(self.client.images.get(image).attrs["RootFS"]["Layers"])

    def round(self) -> None:
        """Write, roll an update back that removed the container, and compare."""
        self.count += 1
        for script in self.random.sample(CHANGES, 3):
            run_in(self.client, self.name, ["sh", "-c", script.replace("{n}", str(self.count))])
        self.run(f"echo {self.count} > /counter")
        before = self.run(LOOK)
        with rollback(self.name, client=self.client, store=self.store, verify=None, keep=2):
            self.client.api.remove_container(self.name, force=True)
            raise RollbackRequested
        assert self.run(LOOK) == before
        image = self.client.api.inspect_container(self.name)["Image"]
        assert self.depth(image) == self.depth(self.base) + 1

    def left(self) -> list[str]:
        """Return the names of the images that were committed of it."""
        found = [tag for image in self.client.api.images() for tag in image["RepoTags"] or ()]
        return [tag for tag in found if self.name in tag and not tag.endswith(":base")]


@pytest.fixture
def writer(
    docker_client: docker.DockerClient, test_labels: dict[str, str], busybox_image: str, tmp_path: Path
) -> Iterator[Writer]:
    """A container at work; its images go with that of busybox."""
    writer = Writer(docker_client, test_labels, busybox_image, tmp_path / "store")
    try:
        yield writer
    finally:
        with suppress(NotFound):
            docker_client.api.remove_container(writer.name, force=True, v=True)
        with suppress(StoreNotFoundError):
            recover(client=docker_client, store=writer.store)


def test_rollbacks_make_the_next_one_no_deeper(writer: Writer) -> None:
    """Whatever was written between them: deleted, replaced, of several names, a folder in place of a file."""
    writer.run("echo x > /capable")
    # CAP_NET_RAW, as `setcap` writes it.
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    with as_root():
        reachable = writer.file("/capable").exists()
        if reachable:
            os.setxattr(writer.file("/capable"), "security.capability", capability)
    for _ in range(8):
        writer.round()
        assert len(writer.left()) == 1
        with as_root():
            assert not reachable or os.getxattr(writer.file("/capable"), "security.capability") == capability


def test_a_layer_that_rots_is_found_by_the_next_backup(writer: Writer) -> None:
    """It is stored again before the update begins, so that the rollback does not need the engine's image."""
    writer.round()
    (largest, *_) = sorted((writer.store / "blobs/sha256").iterdir(), key=lambda blob: -blob.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with pytest.raises(CorruptBackupError):
        BackupStore(writer.store).verify(BackupStore(writer.store).ids()[-1])
    writer.round()
    for backup_id in BackupStore(writer.store).ids():
        BackupStore(writer.store).verify(backup_id, deep=True)


def test_a_container_without_its_image_is_refused(writer: Writer) -> None:
    """Docker lets an image be removed by force below a stopped container; Podman removes the container with it."""
    client, name = writer.client, writer.name
    client.api.stop(name)
    image = client.api.inspect_container(name)["Image"]
    client.api.remove_image(image, force=True)
    try:
        client.api.inspect_container(name)
    except NotFound:
        return
    tx = rollback(name, client=client, store=writer.store)
    (reason,) = tx.check().refused[name]
    assert image in reason
    with pytest.raises(UnsupportedContainerError, match=name), tx:
        pytest.fail("the block was entered")
    assert client.api.inspect_container(name)["State"]["Status"] == "exited"


ODD = {
    "folder": "mkdir /t/.wh.dir",
    "file": "echo x > /t/.wh.top",
    "link": "ln -s nowhere /t/.wh.soft",
    "opaque": "mkdir /t/dir/.wh..wh..opq",
    "links": "mkdir /t/.wh..wh.plnk",
}


class Elsewhere(DockerEngine):
    """An engine whose files are not this machine's."""

    def info(self) -> EngineInfo:
        """Return where it is."""
        return evolve(super().info(), address="tcp://elsewhere:2375")


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("odd", ODD)
def test_names_that_look_like_marks_are_refused(writer: Writer, odd: str, *, local: bool) -> None:
    """Before anything stops, where the layer can be seen and where the engine is asked."""
    writer.run(ODD[odd])
    before, started = writer.run(LOOK), writer.inspect()["State"]["StartedAt"]
    engine = (DockerEngine if local else Elsewhere)(writer.client)
    tx = rollback(writer.name, client=engine, store=writer.store, way=None if local else "helper")
    (reason,) = tx.check().refused[writer.name]
    assert ODD[odd].rpartition("/")[2] in reason
    with pytest.raises(UnsupportedContainerError, match=r"\.wh\."), tx:
        pytest.fail("the block was entered")
    assert writer.run(LOOK) == before
    assert writer.inspect()["State"]["StartedAt"] == started


def test_a_path_that_is_too_long_is_refused(writer: Writer) -> None:
    """Docker and Podman commit a part of it without a word, and containerd's store fails; the error is short."""
    with as_root():
        try:
            above = os.open(writer.file("/t"), os.O_RDONLY)
        except OSError:
            pytest.skip("the container's files cannot be reached from here")
        for _ in range(30):
            os.mkdir("d" * 200, dir_fd=above)
            below = os.open("d" * 200, os.O_RDONLY, dir_fd=above)
            os.close(above)
            above = below
        os.close(above)
    started = writer.inspect()["State"]["StartedAt"]
    tx = rollback(writer.name, client=writer.client, store=writer.store)
    (reason,) = tx.check().refused[writer.name]
    assert len(reason) < 400
    with pytest.raises(UnsupportedContainerError, match="too long") as error, tx:
        pytest.fail("the block was entered")
    assert len(str(error.value)) < 600
    assert writer.inspect()["State"]["StartedAt"] == started


@pytest.mark.direct
def test_a_time_before_1970_is_listed(writer: Writer) -> None:
    """Engines make it the first moment of 1970; containerd's store does not tell where the layer is."""
    writer.run("touch -d '1969-06-01 00:00:00' /t/top")
    taken = backup(writer.name, client=writer.client, store=writer.store)
    upper = (writer.inspect().get("GraphDriver") or {}).get("Data")
    if upper and Path(upper["UpperDir"]).is_dir():
        assert "the time before 1970 of /t/top" in [gap.what for gap in taken.not_covered]
    else:
        cannot(writer.client, "it does not say where a container's layer is")
