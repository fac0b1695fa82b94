"""A folder captured as a volume in use is: a base, changes, an increment; no engine takes part."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from attrs import evolve, frozen

from docker_rollback._engine.port import Process
from docker_rollback._host.tree import Tree
from docker_rollback._model.backup import Backup, EngineRecord, VolumeArchive, Way
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.access.direct import LocalProcess
from docker_rollback._volumes.access.reach import Reach, Run
from docker_rollback._volumes.capture.archive_options import ArchiveOptions
from docker_rollback._volumes.capture.volume_capture import VolumeCapture
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback._volumes.tar.cutting import CUT_RULE, CutRule
from tests.unit.volumes.comparing import differences, picture

ENGINE = EngineRecord("docker", "28.5.2", "1.51", "x86_64", containerd_store=False, default_runtime="runc")


@frozen
class Taken:
    """What a capture made: its archive, and the tar in each of its blobs."""

    archive: VolumeArchive
    tars: tuple[bytes, ...]

    @property
    def incremental(self) -> bool:
        """Whether it is a base and an increment."""
        return len(self.tars) == 2

    def fill(self, root: Path) -> None:
        """Fill a folder as a restore does."""
        for number, data in enumerate(self.tars):
            with LocalProcess(gnu_tar.extract(str(root)), stdin=True) as tar:
                tar.write(gnu_tar.emptying() if number == 0 else b"")
                tar.write(data)
                gnu_tar.check_extracted("vol", tar.finish())


def run(words: Sequence[str], /, *, stdin: bool = False) -> Process:
    """Start a program of this machine."""
    return LocalProcess(words, stdin=stdin)


def reach_of(root: Path) -> Reach:
    """Return a folder as a volume that is reached directly."""
    return Reach("vol", {"Name": "vol"}, "direct", str(root), "", run, tree=Tree.at(root))


def capture(
    root: Path,
    change: Callable[[], object] = lambda: None,
    *,
    during: Callable[[], object] = lambda: None,
    captured: Callable[[Path], object] = lambda _: None,
    live_from: int = 0,
    run: Run = run,
    store: BackupStore | None = None,
    number: int = 0,
    excluded: tuple[str, ...] = (),
    way: Way = "direct",
    reach: Reach | None = None,
    at_rest: bool = True,
    rule: CutRule = CUT_RULE,
) -> Taken:
    """Archive a folder while it is in use, change it, and archive what changed.

    Args:
        root: the folder.
        change: called between the two.
        during: called when the first of the base has come, while tar waits for its reader.
        captured: called with the store's folder when all is captured, and the service may run again.
        live_from: how much has to be in it.
        run: starts programs.
        store: where the archive stays, as a backup, for others to be built on its base.
        number: of that backup.
        excluded: paths that are left out.
        way: as which it counts.
        reach: how it is reached, if not by programs of this machine.
        at_rest: whether what changes meanwhile is an error.
        rule: where large files are cut into pieces.
    """
    called: list[int] = []

    def progress(_: str, done: int) -> None:
        if done and not called:
            called.append(done)
            during()

    with tempfile.TemporaryDirectory(dir=root.parent) as folder, ExitStack() as writers:
        kept, store = store, store or BackupStore(Path(folder, "store"))
        formers = {} if kept is None else {"vol": [one for backup in kept.list() for one in backup.volumes]}
        if reach is None:
            tree = Tree.at(root) if way == "direct" else None
            reach = evolve(
                reach_of(root), snapshot=f"{folder}/snapshot", run=run, excluded=excluded, way=way, tree=tree
            )
        with store.draft(f"live-{number}") as draft:
            taking = VolumeCapture(
                store,
                draft,
                [reach],
                writers,
                frozenset(),
                options=ArchiveOptions(progress=progress, live_from=live_from, rule=rule),
                formers=lambda: formers,
            )
            taking.live_pass()
            change()
            taking.capture(at_rest=at_rest)
            captured(store.path)
            (archive,) = taking.seal()
            if kept is not None:
                taken_at = datetime.fromtimestamp(number, UTC)
                draft.commit(Backup(f"live-{number}", taken_at, ENGINE, "stop", (), volumes=(archive,)))
            return Taken(archive, tuple(b"".join(store.open_tar(tar)) for tar in archive.tars))


def check(root: Path, taken: Taken) -> None:
    """Fill an empty folder, and the changed one itself, and compare both with what was there."""
    before = picture(root, sockets=False)
    with tempfile.TemporaryDirectory(dir=root.parent) as empty:
        Path(empty).chmod(0o700)
        taken.fill(Path(empty))
        assert differences(before, picture(Path(empty))) == []
    taken.fill(root)
    assert differences(before, picture(root)) == []


def let_age(folder: Path, seconds: float = 0.1) -> None:
    """Wait until the clock for files is that far beyond all that was done below a folder so far."""
    done = folder / "probe"
    done.touch()
    began = done.stat().st_ctime_ns
    while done.stat().st_ctime_ns < began + seconds * 1e9:
        os.utime(done)
    done.unlink()


def plain_increment(root: Path, snapshot: Path) -> bytes:
    """Return the increment that tar makes by itself, by its own snapshot file as it stands."""
    command = gnu_tar.create(str(root), str(snapshot), whole=False)
    return subprocess.run(command, capture_output=True, check=True, env={"LC_ALL": "C", "PATH": os.defpath}).stdout
