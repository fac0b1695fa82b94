"""What a program next to a volume sees: that volume and the programs, no matter what the volume holds."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from docker_rollback._host import processes
from docker_rollback._volumes.access import helper_image, host_programs, same_folder, sandbox
from docker_rollback._volumes.access.direct import LocalProcess
from docker_rollback._volumes.access.sandbox import VOLUME, Sandboxes
from docker_rollback._volumes.tar import gnu_tar
from tests.racing import exchange
from tests.unit.volumes.confined import confined, said, sandbox_of

pytestmark = [
    pytest.mark.direct,
    pytest.mark.skipif(not processes.may_do_anything(), reason="reaching files directly takes root"),
]


@pytest.fixture
def root(field: Path) -> Path:
    """Give a folder with a file in it, next to a secret."""
    (field / "outside").mkdir()
    (field / "outside" / "file").write_text("secret")
    made = field / "root"
    (made / "sub").mkdir(parents=True)
    (made / "sub" / "file").write_text("inside\n")
    return made


def test_a_program_sees_the_programs_and_the_volume_alone(root: Path) -> None:
    """Nothing else of this machine is there, not even the kernel's own files."""
    with sandbox_of(root) as sandbox:
        code, found = said(sandbox, "find", "/", "-path", VOLUME, "-prune", "-o", "-print")
    files = set(helper_image.programs().files)
    folders = {"/", "/dev", "/dev/null", *(helper_image.HOME + one for one in ("", "/bin", "/lib", "/scratch"))}
    assert code == 0
    assert set(found) == files | folders


LINKS = {
    "absolute": "{outside}",
    "climbing": "../outside",
    "climbing-far": "../../../../../../../..{outside}",
    "through-proc": "/proc/self/root{outside}",
    "through-fd": "/proc/self/fd/3",
    "of-the-host": "{root}/../outside",
}


@pytest.mark.parametrize("target", LINKS.values(), ids=LINKS)
def test_a_link_leads_nowhere(root: Path, target: str) -> None:
    """A program that follows a link out of the volume finds nothing there."""
    (root / "link").symlink_to(target.format(outside=root.parent / "outside", root=root))
    with sandbox_of(root) as sandbox:
        assert said(sandbox, "cat", f"{VOLUME}/link/file") == (1, [])
        assert said(sandbox, "cat", f"{VOLUME}/sub/file") == (0, ["inside"])


def test_the_root_of_the_host_is_no_parent(root: Path) -> None:
    """However far a program climbs, it stays with the programs and the volume."""
    with sandbox_of(root) as sandbox:
        code, found = said(sandbox, "find", f"{VOLUME}/../../../../..", "-maxdepth", "1")
    assert code == 0
    assert {Path(one).name for one in found} == {"..", "dev", ".docker-rollback"}


def test_programs_cannot_be_changed(root: Path) -> None:
    """What a link leads to within the sandbox is read-only: it is this machine's own file."""
    tar = host_programs.find_tar()
    assert tar is not None
    before = tar.stat()
    with sandbox_of(root) as sandbox:
        for path in (f"{helper_image.HOME}/bin/tar", f"{helper_image.HOME}/lib", "/dev", "/"):
            assert said(sandbox, "rm", "-rf", "--no-preserve-root", f"{path}/x")[0] in (0, 1)
        assert said(sandbox, "rm", "-f", f"{helper_image.HOME}/bin/tar")[0] == 1
        with LocalProcess(("tee", f"{helper_image.HOME}/bin/tar"), stdin=True, start=sandbox.start) as tee:
            tee.write(b"overwritten")
            assert tee.finish().exit_code == 1
        with LocalProcess(("tee", "/stray"), stdin=True, start=sandbox.start) as tee:
            assert tee.finish().exit_code == 1
    assert (tar.stat().st_mtime_ns, tar.stat().st_size) == (before.st_mtime_ns, before.st_size)


def test_what_is_read_only_cannot_be_written(root: Path) -> None:
    """A volume that is captured cannot be changed by what reads it; one that is filled can."""
    with sandbox_of(root, read_only=True) as sandbox:
        assert said(sandbox, "rm", f"{VOLUME}/sub/file")[0] == 1
        assert said(sandbox, "sync", "-f", VOLUME)[0] == 0
    assert (root / "sub" / "file").exists()
    with sandbox_of(root) as sandbox:
        assert said(sandbox, "rm", f"{VOLUME}/sub/file")[0] == 0
    assert not (root / "sub" / "file").exists()


def test_devices_are_put_back(root: Path) -> None:
    """A device is made as any other file; opening one is refused."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as made:
        entry = tarfile.TarInfo("./null")
        entry.type, entry.devmajor, entry.devminor, entry.mode = tarfile.CHRTYPE, 1, 3, 0o640
        made.addfile(entry)
    with confined(root) as reach:
        with reach.run(gnu_tar.extract(reach.root), stdin=True) as tar:
            tar.write(archive.getvalue())
            gnu_tar.check_extracted("vol", tar.finish())
        with reach.run(("cat", f"{reach.root}/null")) as cat:
            assert cat.finish().exit_code == 1
    found = (root / "null").lstat()
    assert (stat.S_ISCHR(found.st_mode), found.st_rdev, stat.S_IMODE(found.st_mode)) == (True, os.makedev(1, 3), 0o640)


def test_this_process_keeps_its_own_root(root: Path) -> None:
    """Other threads, those that begin later and the machine's list of mounts are not concerned."""
    before = (sorted(os.listdir("/")), Path("/proc/self/mountinfo").read_text())  # noqa: PTH208
    seen: list[list[str]] = []
    with sandbox_of(root):
        later = threading.Thread(target=lambda: seen.append(sorted(os.listdir("/"))))  # noqa: PTH208
        later.start()
        later.join()
        during = Path("/proc/self/mountinfo").read_text()
    assert seen == [before[0]]
    assert during == before[1]


@pytest.fixture
def nested(root: Path) -> Iterator[Path]:
    """Mount another file system in the folder."""
    place = root / "sub" / "nested"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "nested", place], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    try:
        (place / "kept").write_text("kept")
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_mount_in_the_volume_stays_where_it_is(root: Path, nested: Path) -> None:
    """It is seen, and its place cannot be removed: that would take it off the host's tree without a word."""
    with sandbox_of(root) as sandbox:
        assert said(sandbox, "cat", f"{VOLUME}/sub/nested/kept") == (0, ["kept"])
        assert said(sandbox, "rm", "-rf", "--one-file-system", f"{VOLUME}/sub")[0] == 1
    assert os.path.ismount(nested)
    assert (nested / "kept").read_text() == "kept"


def test_a_folder_that_was_swapped_is_not_entered(root: Path) -> None:
    """What is at the path by now is another folder than the one that was proven: it gets no sandbox."""
    found = same_folder.look(str(root))
    assert found is not None
    (root.parent / "link").symlink_to(root.parent / "outside")
    exchange(root, root.parent / "link")
    with Sandboxes(read_only=True) as sandboxes:
        sandboxes.enter("vol", found)
        assert "is another folder by now" in sandboxes.reasons["vol"]
        assert sandboxes.standing == {}


def test_a_folder_that_is_swapped_at_the_last_moment_is_not_entered(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is compared where it is bound, too: between the two looks, its path may lead elsewhere."""
    found = same_folder.look(str(root))
    assert found is not None
    (root.parent / "link").symlink_to(root.parent / "outside")
    call = sandbox._call

    def swap_first(name: str, *arguments: object) -> None:
        if name == "unshare":
            exchange(root, root.parent / "link")
        call(name, *arguments)

    monkeypatch.setattr(sandbox, "_call", swap_first)
    with Sandboxes(read_only=True) as sandboxes:
        sandboxes.enter("vol", found)
        assert "is another folder by now" in sandboxes.reasons["vol"]


@pytest.mark.parametrize("call", ["unshare", "mount", "pivot_root", "umount2"])
def test_without_a_namespace_there_is_no_sandbox(root: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Whichever step the kernel refuses, the reason is told, and this process goes on as before."""
    real = sandbox._call

    def refuse(name: str, *arguments: object) -> None:
        if name == call:
            raise PermissionError(errno.EPERM, f"{name}: Operation not permitted")
        real(name, *arguments)

    found = same_folder.look(str(root))
    assert found is not None
    monkeypatch.setattr(sandbox, "_call", refuse)
    with Sandboxes(read_only=True) as sandboxes:
        sandboxes.enter("vol", found)
        assert f"{call}: Operation not permitted" in sandboxes.reasons["vol"]
    assert (root / "sub" / "file").exists()


def test_the_kernel_itself_may_refuse(root: Path) -> None:
    """A process without the capability for it gets an error, not programs outside of a sandbox."""
    script = (
        "import ctypes, sys; from docker_rollback._volumes.access import same_folder, sandbox\n"
        "libc = ctypes.CDLL(None); assert libc.prctl(24, 21, 0, 0, 0) == 0\n"
        "head = (ctypes.c_uint32 * 2)(0x20080522, 0); data = (ctypes.c_uint32 * 6)()\n"
        "assert libc.capget(head, data) == 0\n"
        "data[0] &= ~(1 << 21); data[1] &= ~(1 << 21); assert libc.capset(head, data) == 0\n"
        "with sandbox.Sandboxes(read_only=True) as all: "
        "all.enter('vol', same_folder.look(sys.argv[1])); print(all.reasons)"
    )
    done = subprocess.run([sys.executable, "-c", script, root], capture_output=True, text=True, check=True)
    assert "unshare: Operation not permitted" in done.stdout


def test_a_program_that_is_missing_is_named(root: Path) -> None:
    """Only what was brought along can be started, by its name."""
    with sandbox_of(root) as sandbox, pytest.raises(host_programs.ToolError, match="no python3"):
        LocalProcess(("python3",), start=sandbox.start)


def test_a_program_ends_as_any_child_does(root: Path) -> None:
    """Its exit code, its last words and a kill are seen as outside."""
    with sandbox_of(root) as sandbox:
        with LocalProcess(("cat", f"{VOLUME}/missing"), start=sandbox.start) as process:
            finished = process.finish()
        assert finished.exit_code == 1
        assert "No such file" in finished.stderr
        with LocalProcess(("cat",), stdin=True, start=sandbox.start) as process:
            process.kill()
            assert process.finish().exit_code == -9


def test_one_that_nobody_waits_for_any_more_is_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal while a program is being started leaves no program behind."""
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(Future[subprocess.Popen[bytes]]):
        """A signal comes when it is waited for."""

        def result(self, timeout: float | None = None) -> subprocess.Popen[bytes]:
            process = super().result(timeout)
            if not started:
                started.append(process)
                raise KeyboardInterrupt
            return process

    with sandbox_of(root) as sandbox:
        monkeypatch.setattr("concurrent.futures.thread._base.Future", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            LocalProcess(("cat",), stdin=True, start=sandbox.start)
        monkeypatch.undo()
    assert [process.returncode for process in started] == [-9]


def test_a_program_outlives_us_with_its_lock(root: Path) -> None:
    """It is seen, by the lock that it keeps, until it has ended, though whoever started it was killed."""
    os.mkfifo(root / "fifo")
    lock = root.parent / "lock"
    script = (
        "import fcntl, os, sys, signal, pathlib\n"
        "from tests.unit.volumes.confined import sandbox_of\n"
        "from docker_rollback._volumes.access.direct import LocalProcess\n"
        "file = os.open(sys.argv[2], os.O_CREAT | os.O_RDWR); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "with sandbox_of(pathlib.Path(sys.argv[1])) as sandbox:\n"
        "    LocalProcess(('cat', sys.argv[3]), keep=(file,), start=sandbox.start)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script, str(root), str(lock), f"{VOLUME}/fifo"]
    done = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    holder = lock.open()
    with pytest.raises(BlockingIOError):
        _lock(holder.fileno())
    # What it waits for comes: it goes on, finds nobody to read it, and ends.
    (root / "fifo").write_text("x")
    _lock(holder.fileno(), wait=True)
    holder.close()


def _lock(file: int, *, wait: bool = False) -> None:
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
