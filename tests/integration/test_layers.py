"""On a real engine: rollbacks of a container that writes, one after the other, exact and no deeper each time."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from docker.errors import NotFound

from docker_rollback import RollbackRequested, UnsupportedContainerError, recover, rollback
from tests.programs import run_in

pytestmark = pytest.mark.engine

BASE = """
mkdir -p /t/dir/sub /t/other; echo base > /t/dir/file; echo inner > /t/dir/sub/inner; echo top > /t/top
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
        recover(client=docker_client, store=writer.store)


def test_rollbacks_make_the_next_one_no_deeper(writer: Writer) -> None:
    """Whatever was written between them: deleted, replaced, of several names, a folder in place of a file."""
    for _ in range(8):
        writer.round()
        assert len(writer.left()) == 1


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
