"""A program that is killed, and a helper that is removed at work: the work is done again, and nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

import pytest
from attrs import evolve

from docker_rollback._engine.port import ContainerFilter, Engine, Finished, Process
from docker_rollback._model.backup import Way
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.access.direct import LocalProcess
from docker_rollback._volumes.access.helper_image import pack_kit
from docker_rollback._volumes.access.retries import tried
from docker_rollback._volumes.archiver import VolumeArchiver
from docker_rollback._volumes.capture.archive_options import ArchiveOptions
from docker_rollback._volumes.capture.volume_capture import VolumeCapture
from docker_rollback._volumes.fill.filling import Filling
from docker_rollback._volumes.tar.gnu_tar import failed
from docker_rollback.errors import ArchiveError, CorruptBackupError, EngineError, EngineTimeoutError
from docker_rollback.testing import FEEDING, FailingEngine, FakeEngine, Files, Run
from tests.unit.volumes.comparing import differences, picture
from tests.unit.volumes.live import capture, check, reach_of

_Answer = TypeVar("_Answer")
AT_WORK = FEEDING | {"exec"}
HELPERS = ContainerFilter(labels={"docker-rollback.role": "helper"})


class RemovingEngine(FailingEngine):
    """An engine on which somebody removes, or ends, every helper just before one of the calls that programs take."""

    def __init__(self, engine: Engine, *, at: int, ends: bool = False) -> None:
        super().__init__(engine, verbs=AT_WORK)
        self._behind = engine
        self._removal_at = at
        self._ends = ends
        self.removed: list[str] = []

    def pass_on(self, verb: str, work: Callable[[], _Answer], *arguments: object) -> _Answer:
        """Do one call, after the removal where it is the one."""

        def do() -> _Answer:
            if verb in AT_WORK and self.count == self._removal_at:
                for helper in self._behind.list_containers(HELPERS):
                    self.removed.append(helper)
                    if self._ends:
                        self._behind.kill_container(helper)
                    else:
                        self._behind.remove_container(helper, force=True)
            return work()

        return super().pass_on(verb, do, *arguments)


@pytest.fixture
def fake() -> FakeEngine:
    """Give an engine with a volume of a few files."""
    engine = FakeEngine()
    fill(engine.volume("data"))
    return engine


def fill(files: Files) -> None:
    """Put a few files into a volume."""
    files.write("/deep/er/file", "content", mode=0o4640, uid=5_000_000, xattrs={"trusted.x": b"\0"})
    files.symlink("/out", "../../etc")
    files.write("/big", b"0123456789" * 300_000)


def spoil(files: Files) -> None:
    """Do to a volume what an update does that failed."""
    files.delete("/deep")
    files.write("/stray/file", "stray")
    files.write("/big", "small")


def nothing_left(fake: FakeEngine) -> bool:
    """Tell whether an engine has neither a helper nor a helper's image."""
    return not fake.list_containers() and not fake.has_image(pack_kit().tag)


def killed(fake: FakeEngine, program: str, *, times: int, when: str = "") -> list[list[str]]:
    """Have a program killed the first few times that it runs with an argument; return the command lines of those."""
    commands: list[list[str]] = []
    real = fake._programs[program]

    def run(run: Run) -> int | None:
        wanted = not when or when in run.arguments
        if wanted and len(commands) < times:
            commands.append(run.arguments)
            return 137
        return real(run)

    fake.program(program, run)
    return commands


# A helper that somebody removes


@pytest.mark.parametrize("ends", [False, True], ids=["removed", "ended"])
def test_wherever_a_helper_is_removed_its_volume_is_filled(fake: FakeEngine, store: BackupStore, *, ends: bool) -> None:
    """At whichever call of a restore, a new helper does the work, and none is left."""
    archive = VolumeArchiver(fake, store).archive("data")
    before = fake.volume("data").facts()
    at = 0
    while True:
        at += 1
        spoil(fake.volume("data"))
        engine = RemovingEngine(fake, at=at, ends=ends)
        VolumeArchiver(engine, store).extract(archive)
        assert fake.volume("data").facts() == before, engine.story()
        assert nothing_left(fake), engine.story()
        if not engine.removed:
            break
    assert at > 8


@pytest.mark.parametrize("live_from", [0, 1 << 40], ids=["increment", "whole"])
@pytest.mark.parametrize("ends", [False, True], ids=["removed", "ended"])
def test_wherever_a_helper_is_removed_its_volume_is_archived(
    fake: FakeEngine, store: BackupStore, live_from: int, *, ends: bool
) -> None:
    """At whichever call of the live pass or of the capture, the archive is whole and of the capture's moment."""
    at = 0
    while True:
        at += 1
        files = fake.volume("data")
        files.write("/early", str(at))
        engine = RemovingEngine(fake, at=at, ends=ends)
        archiver = VolumeArchiver(engine, store, live_from=live_from)
        with store.draft(f"backup-{at}") as draft:
            with archiver.begin(["data"], draft, operation="op") as taking:
                taking.live_pass()
                files.write("/late", f"late {at}")
                files.delete("/early")
                before = files.facts()
                taking.capture()
                (archive,) = taking.seal()
            spoil(files)
            VolumeArchiver(fake, store).extract(archive)
        assert files.facts() == before, engine.story()
        assert nothing_left(fake), engine.story()
        files.delete("/late")
        if not engine.removed:
            break
    assert at > 8


def test_a_helper_that_is_removed_for_ever_is_given_up(fake: FakeEngine, store: BackupStore) -> None:
    """Whoever removes each new one gets an error, and no endless loop; nothing is left."""

    class Relentless(RemovingEngine):
        def exec(self, ref: str, command: Sequence[str], *, stdin: bool = False) -> Process:
            """Run a program in a container that goes at once, unless that is to keep a helper alive."""
            process = super().exec(ref, command, stdin=stdin)
            if "--extract" in command:
                fake.remove_container(ref, force=True)
            return process

    archive = VolumeArchiver(fake, store).archive("data")
    with pytest.raises((ArchiveError, EngineError)):
        VolumeArchiver(Relentless(fake, at=0), store).extract(archive)
    assert nothing_left(fake)


# A program that is killed


@pytest.mark.parametrize(
    ("program", "when"), [("tar", "--extract"), ("tar", "--no-recursion"), ("sync", ""), ("find", "")]
)
def test_a_restore_whose_program_is_killed_is_done_again(
    fake: FakeEngine, store: BackupStore, program: str, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As by the kernel when memory runs out: the volume is filled all the same, and the log says so."""
    fake.volume("data").write("/kept.log", "left alone")
    archive = VolumeArchiver(fake, store).archive("data", exclude=["data:*.log"])
    before = fake.volume("data").facts()
    spoil(fake.volume("data"))
    commands = killed(fake, program, times=2, when=when)
    VolumeArchiver(fake, store).extract(archive)
    assert len(commands) == 2
    assert fake.volume("data").facts() == before
    assert f"{program} was killed by signal 9" in caplog.text


@pytest.mark.parametrize("live_from", [0, 1 << 40], ids=["increment", "whole"])
@pytest.mark.parametrize("program", ["tar", "find", "sync", "stat", "cat", "xargs"])
def test_a_capture_whose_program_is_killed_is_whole(
    fake: FakeEngine, store: BackupStore, program: str, live_from: int
) -> None:
    """Whichever program of the live pass or of the capture is killed, and at whichever of its runs."""
    at = 0
    while True:
        at += 1
        runs: list[int] = []
        real = fake._programs[program]

        def once(
            run: Run, *, runs: list[int] = runs, at: int = at, real: Callable[[Run], int | None] = real
        ) -> int | None:
            runs.append(1)
            return 137 if len(runs) == at else real(run)

        fake.program(program, once)
        archiver, files = VolumeArchiver(fake, store, live_from=live_from), fake.volume("data")
        with store.draft(f"backup-{at}") as draft:
            with archiver.begin(["data"], draft, operation="op") as taking:
                taking.live_pass()
                files.write("/late", f"late {at}")
                before = files.facts()
                taking.capture()
                (archive,) = taking.seal()
            fake.program(program, real)
            spoil(files)
            VolumeArchiver(fake, store).extract(archive)
        assert files.facts() == before
        assert nothing_left(fake)
        if len(runs) < at:
            break


def test_a_program_that_is_always_killed_is_an_error(fake: FakeEngine, store: BackupStore) -> None:
    """Three times is enough; the error says which signal it was, and of which volume."""
    archive = VolumeArchiver(fake, store).archive("data")
    commands = killed(fake, "tar", times=100, when="--extract")
    with pytest.raises(ArchiveError, match=r"volume 'data': filling it failed: tar was killed by signal 9") as caught:
        VolumeArchiver(fake, store).extract(archive)
    assert len(commands) == 3
    assert not caught.value.permanent


@pytest.mark.parametrize(
    ("code", "said", "permanent"),
    [
        (137, "", False),
        (-9, "", False),
        (143, "", False),
        (126, "OCI runtime exec failed: exec failed: cannot exec in a stopped container", False),
        (2, "tar: Unexpected EOF in archive\ntar: Error is not recoverable: exiting now", False),
        (2, "tar: Skipping to next header\ntar: Exiting with failure status due to previous errors", False),
        (2, "tar: ./x: Cannot write: No space left on device\ntar: Unexpected EOF in archive", True),
        (2, "tar: ./x: Cannot open: Disk quota exceeded\ntar: Skipping to next header", True),
        (2, "tar: ./x: Cannot unlink: Operation not permitted", True),
        (127, "executable file not found", True),
        (1, "tar: ./x: file changed as we read it", True),
    ],
)
def test_only_what_may_pass_is_tried_again(code: int, said: str, *, permanent: bool) -> None:
    """A kill and an input that was cut off may pass; a full disk and a refusal do not."""
    tries = []

    def work() -> None:
        tries.append(1)
        raise failed("data", "filling it", "tar", Finished(code, said))

    with pytest.raises(ArchiveError, match="volume 'data': filling it failed: tar ") as caught:
        tried(work, doing="filling it")
    assert caught.value.permanent == permanent
    assert len(tries) == (1 if permanent else 3)


def test_an_engine_that_comes_back_is_asked_again_and_one_that_refuses_is_not() -> None:
    """A connection that was lost may pass, a refusal does not, and nobody works for those who wait no longer."""

    def failing(failures: list[EngineError], *, given_up: bool = False) -> int:
        """Return how often work was tried that fails so."""
        tries = 0

        def work() -> None:
            nonlocal tries
            tries += 1
            if failures:
                raise failures.pop()

        with suppress(EngineError):
            tried(work, doing="it", given_up=lambda: given_up)
        return tries

    lost, refused = EngineTimeoutError("run it", "the connection was lost"), EngineError("run it", "no")
    assert (failing([]), failing([lost]), failing([lost] * 9)) == (1, 2, 3)
    assert (failing([refused]), failing([lost], given_up=True)) == (1, 1)


# Directly


class Killing:
    """Starts programs of this machine, and kills some of them before they have done their work.

    Attributes:
        struck: the command lines of those.
    """

    def __init__(self, wanted: Callable[[Sequence[str]], bool], *, times: int = 1) -> None:
        self._wanted = wanted
        self._times = times
        self._lock = threading.Lock()
        self.struck: list[Sequence[str]] = []

    def __call__(self, words: Sequence[str], /, *, stdin: bool = False) -> Process:
        """Start a program; the shell that stands for one that is killed takes its beginning of the input, and dies."""
        with self._lock:
            if self._wanted(words) and len(self.struck) < self._times:
                self.struck.append(words)
                return LocalProcess(("sh", "-c", "head -c 1000 >/dev/null; kill -9 $$"), stdin=stdin)
        return LocalProcess(words, stdin=stdin)


def tree(root: Path) -> None:
    """Fill a folder."""
    root.mkdir()
    (root / "folder").mkdir()
    for number in range(20):
        (root / "folder" / str(number)).write_bytes(os.urandom(5_000))


@pytest.mark.parametrize("program", ["tar", "find", "sync", "stat", "cat", "xargs"])
@pytest.mark.parametrize("which", range(1, 4))
def test_a_direct_capture_whose_program_is_killed_is_whole(field: Path, program: str, which: int) -> None:
    """Whichever of its programs dies, the archive is what there was at rest."""
    root = field / "root"
    tree(root)
    seen: list[int] = []

    def wanted(words: Sequence[str]) -> bool:
        if words[0] == program:
            seen.append(1)
        return words[0] == program and len(seen) == which

    check(root, capture(root, lambda: (root / "late").write_text("late"), run=Killing(wanted)))


@pytest.mark.parametrize("times", [1, 2])
def test_a_direct_restore_whose_tar_is_killed_is_done_again(field: Path, times: int) -> None:
    """Tar is killed by the kernel half way; what comes out is what was archived."""
    root, store = field / "root", BackupStore(field / "store")
    tree(root)
    archive = capture(root, store=store).archive
    before = picture(root)
    for path in (root / "folder").iterdir():
        path.write_bytes(b"the update's")
    (root / "stray").write_text("stray")
    run = Killing(lambda words: "--extract" in words, times=times)
    filling = Filling(evolve(reach_of(root), run=run), archive, store, None)
    tried(filling.fill, doing="filling it")
    assert len(run.struck) == times
    assert differences(before, picture(root)) == []


def test_a_capture_that_is_ended_does_not_try_again(field: Path) -> None:
    """Once the time at rest is over, a program that was ended for it is not started once more."""
    root, store = field / "root", BackupStore(field / "store")
    tree(root)
    started: list[Sequence[str]] = []

    def run(words: Sequence[str], /, *, stdin: bool = False) -> Process:
        started.append(words)
        if "--create" in words and "--no-recursion" not in words:
            taking.stop()
        return LocalProcess(words, stdin=stdin)

    reach = evolve(reach_of(root), run=run, snapshot=str(field / "snapshot"))
    with ExitStack() as writers, store.draft("backup") as draft:
        taking = VolumeCapture(store, draft, [reach], writers, frozenset(), options=ArchiveOptions())
        with pytest.raises(ArchiveError, match=f"killed by signal {int(signal.SIGKILL)}"):
            taking.capture()
    assert len([words for words in started if "--create" in words]) == 1


@pytest.mark.parametrize("way", [None, "helper"])
def test_a_damaged_archive_is_not_tried_again(
    fake: FakeEngine, store: BackupStore, way: Way | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be damaged the next time as well."""
    archive = VolumeArchiver(fake, store, way=way).archive("data")
    (store.path / "blobs" / "sha256" / archive.base.digest.removeprefix("sha256:")).write_bytes(b"damaged")
    with pytest.raises(CorruptBackupError):
        VolumeArchiver(fake, store, way=way).extract(archive, verify=False)
    assert "again from the start" not in caplog.text
