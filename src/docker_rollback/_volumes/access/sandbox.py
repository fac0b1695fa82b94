"""A sandbox: a root file system that holds our programs and one volume, and nothing else.

tar opens folders by their paths. Anybody who can write to a volume can replace a folder by a link while tar runs as
root, and so lead tar to any file of the host. In the sandbox, a link to ``/`` or to ``..`` leads to our programs, which
are mounted read-only, or back into the volume.

A thread makes it: it leaves our mount namespace (`unshare`), assembles the new root, and enters it (`pivot_root`).
Programs that it starts from then on have the same root; our other threads keep theirs. docs/explanation/sandbox.md
explains why.
"""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Self

from docker_rollback._host import Tree, libc
from docker_rollback._volumes.access import helper_image, host_programs, mount_points, same_folder
from docker_rollback._volumes.access.mount_points import Sight
from docker_rollback._volumes.access.scratch import scratch_folder

logger = logging.getLogger("docker_rollback")

VOLUME: Final = f"{helper_image.HOME}/volume"  # the path of the volume in the sandbox
SCRATCH: Final = helper_image.SCRATCH  # the path of the folder for tar's snapshot files in the sandbox

_CLONE_NEWNS: Final = 0x20000
_MNT_DETACH: Final = 2
_READ_ONLY: Final = 0x1
_NO_SETUID: Final = 0x2
_NO_DEVICES: Final = 0x4
_NO_PROGRAMS: Final = 0x8
_REMOUNT: Final = 0x20
_BIND: Final = 0x1000
_RECURSIVE: Final = 0x4000
_PRIVATE: Final = 0x40000


class SandboxError(Exception):
    """No sandbox can be made here; the text says why."""


class Sandbox:
    """A sandbox; made by `standing`.

    Args:
        thread: its only thread.
        programs: its programs.
        tree: the volume's files, to open them from outside.
        sight: its programs' view of the volume.
    """

    def __init__(self, thread: ThreadPoolExecutor, programs: helper_image.Programs, tree: Tree, sight: Sight) -> None:
        self.tree = tree
        self.sight = sight
        self._thread = thread
        self._programs = programs

    def start(self, words: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program in it, by its bare name.

        Raises:
            ToolError: it has no such program.
            OSError: it could not be started.
        """
        command = self._programs.command(words)
        starting = self._thread.submit(lambda: subprocess.Popen(command, **options))
        try:
            return starting.result()
        except BaseException:
            # A signal may have interrupted us: kill the program, which nobody waits for.
            starting.add_done_callback(_end)
            raise


@contextmanager
def standing(root: same_folder.Root, scratch: Path, *, read_only: bool) -> Iterator[Sandbox]:
    """Yield a sandbox for a block. Programs that still run after it keep the sandbox until they exit.

    Args:
        root: the volume's folder, as proven.
        scratch: an empty folder for tar's snapshot files.
        read_only: whether to mount the volume read-only.

    Raises:
        SandboxError: no sandbox can be made.
    """
    with ExitStack() as held:
        try:
            programs = helper_image.programs()
            tree = held.enter_context(Tree.at(root.path))
            _check_same(root, tree.descriptor)
            thread = held.enter_context(ThreadPoolExecutor(1, thread_name_prefix="sandbox"))
            sight = thread.submit(_enter, programs.files, root, scratch, read_only=read_only).result()
        except (OSError, host_programs.ToolError) as error:
            raise SandboxError(f"programs cannot be kept to it by a mount namespace of their own: {error}") from error
        yield Sandbox(thread, programs, tree, sight)


class Sandboxes:
    """The sandboxes of several volumes; a context manager.

    Args:
        read_only: whether to mount the volumes read-only.

    Attributes:
        standing: the sandboxes, by volume.
        reasons: the reasons for which other volumes have none, by volume.
    """

    def __init__(self, *, read_only: bool) -> None:
        self.standing: dict[str, Sandbox] = {}
        self.reasons: dict[str, str] = {}
        self._read_only = read_only
        self._held = ExitStack()
        self._scratch = ""

    def __enter__(self) -> Self:
        self._scratch = str(self._held.enter_context(scratch_folder()))
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def enter(self, volume: str, root: same_folder.Root) -> None:
        """Make a sandbox for a volume, if possible."""
        scratch = Path(tempfile.mkdtemp(dir=self._scratch))
        try:
            self.standing[volume] = self._held.enter_context(standing(root, scratch, read_only=self._read_only))
        except SandboxError as error:
            logger.debug("volume %s is not accessed directly: %s", volume, error)
            self.reasons[volume] = str(error)


def _enter(files: Mapping[str, Path], root: same_folder.Root, scratch: Path, *, read_only: bool) -> Sight:
    """Move the calling thread into the new root for good; return its view of the volume.

    The volume's folder is opened within the new namespace, because the kernel allows no bind across two, and compared
    with the proven one; the open folder is bound. Nested mounts come along, so that a program which removes folders
    cannot remove their mount points. Mounts are private, so that none shows outside.
    """
    _call("unshare", ctypes.c_int(_CLONE_NEWNS))
    _mount("none", "/", _RECURSIVE | _PRIVATE)
    with _opened(root.path) as volume, _opened(scratch) as own:
        _check_same(root, volume)
        _mount("docker-rollback", scratch, _NO_SETUID | _NO_DEVICES, kind="tmpfs", data="mode=755,size=1m")
        for folder in ("dev", *(f".{helper_image.HOME}{name}" for name in ("", "/bin", "/lib"))):
            Path(scratch, folder).mkdir()
        for name, file in files.items():
            _bind_file(file, f"{scratch}{name}")
            _remount(f"{scratch}{name}", _READ_ONLY | _NO_SETUID | _NO_DEVICES)
        # xargs and tar want to open it.
        _bind_file(Path("/dev/null"), f"{scratch}/dev/null")
        _bind_folder(own, f"{scratch}{SCRATCH}", 0)
        _bind_folder(volume, f"{scratch}{VOLUME}", _RECURSIVE)
        stays = os.fstatvfs(volume).f_flag & os.ST_RDONLY
        _remount(f"{scratch}{VOLUME}", _NO_SETUID | _NO_DEVICES | _NO_PROGRAMS | (_READ_ONLY if read_only else stays))
    _remount(str(scratch), _READ_ONLY | _NO_SETUID | _NO_DEVICES)
    # The new root has no /proc.
    sight = Sight(mount_points.here("thread-self"), f"{scratch}{VOLUME}")
    os.chdir(scratch)
    # The old root is mounted on the new one, and detached: it needs no folder of its own.
    _call("pivot_root", b".", b".")
    _call("umount2", b".", ctypes.c_int(_MNT_DETACH))
    os.chdir("/")
    return sight


def _bind_file(file: Path, target: str) -> None:
    Path(target).touch(exist_ok=False)
    _mount(str(file), target, _BIND)


def _bind_folder(folder: int, target: str, flags: int) -> None:
    """Bind the open folder, even if its path leads elsewhere by now."""
    Path(target).mkdir()
    os.fchdir(folder)
    _mount(".", target, _BIND | flags)


def _remount(target: str, flags: int) -> None:
    _mount(None, target, _BIND | _REMOUNT | flags)


def _check_same(root: same_folder.Root, folder: int) -> None:
    found = os.fstat(folder)
    if (found.st_dev, found.st_ino) != (root.device, root.inode):
        raise FileNotFoundError(f"{root.path} is another folder by now")


@contextmanager
def _opened(folder: str | Path) -> Iterator[int]:
    file = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def _mount(source: str | None, target: str | Path, flags: int, *, kind: str | None = None, data: str = "") -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    _call("mount", *words, ctypes.c_ulong(flags), data.encode())


def _call(name: str, *arguments: object) -> None:
    """Make a system call; raises `OSError`."""
    if getattr(libc(), name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _end(starting: Future[subprocess.Popen[bytes]]) -> None:
    if starting.cancelled() or starting.exception() is not None:
        return
    with starting.result() as process:
        process.kill()
