"""A folder as a volume that is reached directly, in a sandbox as a rollback has it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from docker_rollback._engine.port import Process
from docker_rollback._model.exclude import MountPoint
from docker_rollback._volumes.access import same_folder
from docker_rollback._volumes.access.direct import LocalProcess
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.access.sandbox import SCRATCH, VOLUME, Sandbox, Sandboxes


@contextmanager
def sandbox_of(root: Path, *, read_only: bool = False) -> Iterator[Sandbox]:
    """Have a sandbox of a folder for the time of a block."""
    found = same_folder.look(str(root))
    assert found is not None
    with Sandboxes(read_only=read_only) as sandboxes:
        sandboxes.enter("vol", found)
        assert sandboxes.reasons == {}
        yield sandboxes.standing["vol"]


@contextmanager
def confined(root: Path, *, read_only: bool = False, volume: str = "vol") -> Iterator[Reach]:
    """Have a folder within reach for the time of a block."""
    with sandbox_of(root, read_only=read_only) as sandbox:

        def run(words: Sequence[str], /, *, stdin: bool = False) -> Process:
            return LocalProcess(words, stdin=stdin, start=sandbox.start)

        points = tuple(map(MountPoint, sandbox.sight.mounted_anywhere()))
        yield Reach(
            volume, {"Name": volume}, "direct", VOLUME, f"{SCRATCH}/0", run, mount_points=points, tree=sandbox.tree
        )


def said(sandbox: Sandbox, *words: str, keep: Collection[int] = ()) -> tuple[int, list[str]]:
    """Run a program in a sandbox; return how it ended and the lines that it printed."""
    with LocalProcess(words, keep=keep, start=sandbox.start) as process:
        printed = b"".join(iter(lambda: process.read(1 << 20), b""))
        return process.finish().exit_code, printed.decode().splitlines()
