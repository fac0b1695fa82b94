"""Start a program in a network of its own and, where asked, in another root file system. Standard library alone.

Run as a program, it becomes the one that it starts (same process id)::

    python namespaces.py [--end-with-parent] [--share-network | --network-handle FILE | --join FILE]
        [--root FOLDER [--bind FOLDER ...] | --open-up FOLDER ...] -- COMMAND...
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

OUTSIDE = "DOCKER_ROLLBACK_OUTSIDE"
"""The variable that tells this process and its children where the network is that they left."""

# The kernel's numbers, from <asm/unistd.h>, <sched.h>, <sys/mount.h>, <sys/prctl.h>, <bits/ioctls.h> and <net/if.h>.
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MNT_DETACH = 2
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
SIOCSIFFLAGS = 0x8914
IFF_UP_AND_RUNNING = 0x1 | 0x40


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def join_network(handle: Path) -> None:
    """Move this thread, and all that it starts from now on, into the network that `leave_network` left a handle on.

    Where it is there already, nothing happens; that takes no right.
    """
    if handle.stat().st_ino == Path("/proc/thread-self/ns/net").stat().st_ino:
        return
    # Held open without an end: what has to be fetched later is fetched from there (see `outside`).
    left = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    with handle.open("rb") as namespace:
        _checked(_libc().setns(namespace.fileno(), CLONE_NEWNET))
    os.environ.setdefault(OUTSIDE, f"/proc/{os.getpid()}/fd/{left}")


def outside() -> list[str]:
    """Return the words that run a command in the network that was left; none where none was."""
    left = os.environ.get(OUTSIDE)
    return ["nsenter", f"--net={left}", "--"] if left is not None else []


def end_with_parent() -> None:
    """Ask the kernel to send SIGTERM to this process, and to what it becomes, when its parent ends."""
    _checked(_libc().prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0))


def own_oneself() -> None:
    """Let this process see all of its own /proc again, which the kernel takes from one that changes its user."""
    _checked(_libc().prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))


def leave_network(handle: Path | None = None) -> None:
    """Move this process into a new network that has a loopback device and nothing else.

    `handle` becomes a file by which others join it, as long as it stays mounted. The process id would not do: Podman's
    main thread may sit in the network of a container that it made, and that is what /proc shows of a process.
    """
    _checked(_libc().unshare(CLONE_NEWNET))
    if handle is not None:
        handle.touch()
        _mount("/proc/self/ns/net", handle, MS_BIND)
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP_AND_RUNNING))


def in_chroot() -> bool:
    """Say whether the root of this process is a mere folder of some mount, in which no engine can work."""
    return "/" not in (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())


def leave_chroot() -> None:
    """Make the folder that is our root the root of a mount namespace of our own."""
    root = _true_root_of_a_new_namespace()
    _mount(root, root, MS_BIND | MS_REC)
    _become_root(root)


def enter_root(root: Path, binds: Iterable[Path] = ()) -> None:
    """Make `root` the root of a mount namespace of our own, with the machine's /proc, /sys and /dev.

    `binds` are folders that lie at the same place inside as outside; mounts that an engine makes there stay inside.
    """
    top = _true_root_of_a_new_namespace()
    inside = top / root.relative_to("/")
    _mount(inside, inside, MS_BIND)
    for kernel_folder in ("proc", "sys", "dev"):
        _mount(top / kernel_folder, inside / kernel_folder, MS_BIND | MS_REC)
    # Locks of engines lie in /dev/shm and in /run: each has its own there.
    for own in ("dev/shm", "run", "tmp"):
        _mount("tmpfs", inside / own, 0, kind=b"tmpfs")
    for folder in (bind.relative_to("/") for bind in binds):
        (inside / folder).mkdir(parents=True, exist_ok=True)
        _mount(top / folder, inside / folder, MS_BIND)
    _become_root(inside)


def open_up(folders: Iterable[Path]) -> None:
    """Let everybody pass to these folders, as far as this process and what it becomes see them.

    A checkout or an interpreter may lie below a folder that only root may pass through. Such a folder is covered by an
    empty one, and in that the wanted ones lie at their places again.
    """
    here = Path.cwd()
    _checked(_libc().unshare(CLONE_NEWNS))
    _mount("none", Path("/"), MS_REC | MS_SLAVE)
    wanted = sorted({folder.resolve() for folder in folders})
    closed = {folder: [above for above in folder.parents if not above.stat().st_mode & 1] for folder in wanted}
    held = {folder: os.open(folder, os.O_PATH) for folder in wanted if closed[folder]}
    for outermost in sorted({above[-1] for above in closed.values() if above}):
        _mount("tmpfs", outermost, 0, kind=b"tmpfs")
    for folder, number in held.items():
        if not folder.exists():
            folder.mkdir(parents=True)
            _mount(f"/proc/self/fd/{number}", folder, MS_BIND | MS_REC)
        os.close(number)
    os.chdir(here)


def _true_root_of_a_new_namespace() -> Path:
    """Move into a new mount namespace, and to its true root; return what the root that we had is called from there.

    Nothing less will do. In a mere chroot an engine starts, but what it executes in its containers later lands in the
    true root of the mount namespace, which is the machine's. And only there can mounts be kept from leaking out.
    """
    chroot = in_chroot()
    _checked(_libc().unshare(CLONE_NEWNS))
    top = Path("/")
    if chroot:
        here = os.open("/", os.O_PATH)
        # Who joins a mount namespace, be it the one they are in, comes out at its true root.
        with Path("/proc/self/ns/mnt").open("rb") as namespace:
            _checked(_libc().setns(namespace.fileno(), CLONE_NEWNS))
        os.fchdir(here)
        os.close(here)
        top = Path.cwd()
    _mount("none", Path("/"), MS_REC | MS_SLAVE)
    return top


def _become_root(root: Path) -> None:
    """Make a mounted folder the root of our mount namespace, and put the old root away."""
    os.chdir(root)
    # Stacked on itself, the old root needs no folder in the new one.
    _checked(_libc().syscall(PIVOT_ROOT[os.uname().machine], b".", b"."))
    _checked(_libc().umount2(b".", MNT_DETACH))
    os.chdir("/")
    os.environ["PATH"] = PATH


def _mount(source: Path | str, target: Path, flags: int, *, kind: bytes | None = None) -> None:
    """Mount by the system call: on the way to a root, no program can be counted on."""
    _checked(_libc().mount(os.fsencode(source), os.fsencode(target), kind, flags, None))


def main() -> None:
    """Do what the arguments say, then become the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--end-with-parent", action="store_true")
    network = parser.add_mutually_exclusive_group()
    network.add_argument("--share-network", action="store_true", help="stay in the network of the caller")
    network.add_argument("--network-handle", type=Path, metavar="FILE", help="where others can join its own network")
    network.add_argument("--join", type=Path, metavar="FILE", help="go into the network that has this handle")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--bind", type=Path, action="append", default=[])
    parser.add_argument("--open-up", type=Path, action="append", default=[], metavar="FOLDER", help="for everybody")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    if given.end_with_parent:
        end_with_parent()
    if given.join is not None:
        join_network(given.join)
    elif not given.share_network:
        leave_network(given.network_handle)
    if given.open_up:
        open_up(given.open_up)
    elif given.root is not None:
        enter_root(given.root, given.bind)
    elif in_chroot():
        leave_chroot()
    os.execvp(given.command[0], given.command)


if __name__ == "__main__":
    main()
