"""Files that are awkward to archive, and damage that is awkward to undo. Both take root."""

# Names of files are bytes here, which pathlib does not take.
# ruff: noqa: PTH101, PTH102, PTH103, PTH104, PTH107, PTH109, PTH113, PTH119, PTH120, PTH123, PTH208, PTH211

from __future__ import annotations

import os
import random
import shutil
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SECOND = 1_000_000_000
TIMES = {
    "one-nanosecond": 1,
    "before-1970": -1_000_000_000 * SECOND - 1,
    "just-before-1970": -SECOND // 2,
    "after-2200": 7_500_000_000 * SECOND + 999_999_999,
    "whole": 1_600_000_000 * SECOND,
    "nanoseconds": 1_600_000_000 * SECOND + 123_456_789,
}
NAMES = (
    b"new\nline",
    b"tab\tand\rreturn",
    b"\x01\x02\x1b[31mcontrol",
    b"'single' \"double\" `back` $(true) \\slash",
    b"not utf-8 \xff\xfe\x80",
    b"n" * 255,
    b"-rf",
    b"--help",
    b"~",
    b"*",
    b" leading and trailing ",
    "composed \u00e9".encode(),
    "decomposed e\u0301".encode(),
    b"Case",
    b"case",
    b".wh.hidden",
    b".wh..wh..opq",
    b"@LongLink",
    b"100%",
    b"a=b",
)
TARGETS = {
    b"absolute": b"/etc/passwd",
    b"dangling": b"nowhere/at/all",
    b"climbing": b"../../../../../../etc",
    b"itself": b"itself",
    b"here": b".",
    b"long": b"x" * 4000,
    b"odd": b"new\nline \xff",
    b"into": b"plain/file",
}
# Of the kernel's own format: version 2, cap_net_bind_service effective and permitted.
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
# Version 3: the same, in a user namespace whose root is 1000.
CAPABILITY_ELSEWHERE = struct.pack("<IIIIII", 0x03000001, 1 << 10, 0, 0, 0, 1000)
NESTED = (b"\xff\xfe", b"\x80" * 255, b" ", b"\n", b"...", b"\xc3(", b"\\", b"a\\nb", b"%s%n", b"SCHILY.xattr.user.a=b")


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return an ACL as the kernel takes it, from tags, permissions and ids."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
ACCESS = acl((1, 6, NOBODY), (2, 7, 3_000_001), (4, 4, NOBODY), (8, 5, 70), (16, 7, NOBODY), (32, 0, NOBODY))
DEFAULT = acl((1, 7, NOBODY), (2, 5, 1234), (4, 5, NOBODY), (16, 5, NOBODY), (32, 1, NOBODY))


def make(root: Path) -> None:
    """Fill an empty folder with the awkward set."""
    base = os.fsencode(root)
    dice = random.Random(5)
    _write(base + b"/plain/file", dice.randbytes(3_000_000))
    _write(base + b"/plain/empty", b"")
    for number in range(300):
        _write(base + b"/many/%d" % number, b"%d\n" % number)
    _folders(base)
    _odd_names(base)
    _times(base)
    _owners_and_modes(base)
    _attributes(base)
    _links(base)
    _sparse(base, dice)
    _special(base)
    _twins(base)
    _nested(base)
    _heirs(base)
    _many_attributes(base)
    _root(base)


def damage(root: Path, outside: Path) -> None:
    """Do to the awkward set what a bad update may do; `outside` gets files that nothing may touch.

    Folders become links that lead out, files become folders and the other way round, names are swapped, strays are
    added, attributes are left on folders that stay.
    """
    base, out = os.fsencode(root), os.fsencode(outside)
    for folder in (b"/many", b"/deep/a/b", b"/keep"):
        _write(out + folder + b"/1", b"outside\n")
        _write(out + folder + b"/precious", b"outside\n")
    os.chmod(out, 0o751)

    shutil.rmtree(base + b"/many")
    os.symlink(out + b"/many", base + b"/many")
    shutil.rmtree(base + b"/deep/a/b")
    os.symlink(b"../../../" + os.path.basename(out) + b"/deep/a/b", base + b"/deep/a/b")
    # What is written to this file is written outside.
    os.remove(base + b"/plain/file")
    os.link(out + b"/keep/precious", base + b"/plain/file")
    os.remove(base + b"/links/absolute")
    _write(base + b"/links/absolute/not/a/link", b"stray\n")
    os.remove(base + b"/plain/empty")
    _write(base + b"/plain/empty/was/a/file", b"stray\n")
    shutil.rmtree(base + b"/times")
    _write(base + b"/times", b"was a folder\n")
    os.remove(base + b"/special/fifo")
    os.symlink(out + b"/keep/precious", base + b"/special/fifo")
    _rotate(base + b"/turn")
    os.rename(base + b"/folders/outer/inner", base + b"/inner")
    os.rename(base + b"/folders/outer", base + b"/inner/outer")
    os.rename(base + b"/inner", base + b"/folders/outer")
    for name in os.listdir(base + b"/names"):
        os.rename(base + b"/names/" + name, base + b"/names/x" + name[:200])
    _write(base + b"/stray/deep/er/file", b"stray\n")
    os.symlink(out, base + b"/stray/out")
    os.mkfifo(base + b"/stray/fifo")
    os.chmod(base + b"/stray/deep", 0)
    for folder in (base, base + b"/attributes/folder", base + b"/folders"):
        os.setxattr(folder, b"user.stray", b"left by the update")
        os.setxattr(folder, b"trusted.stray", b"left by the update")
        os.setxattr(folder, b"system.posix_acl_default", acl((1, 7, NOBODY), (4, 7, NOBODY), (32, 7, NOBODY)))
        os.chown(folder, 4242, 4242)
        os.chmod(folder, 0o777)
    os.setxattr(base + b"/attributes/file", b"user.stray", b"left by the update")
    os.setxattr(base + b"/attributes/file", b"user.binary", b"changed")
    with open(base + b"/sparse/middle", "r+b") as file:
        file.write(b"no hole any more" * 1000)


def grow(root: Path, seed: int) -> None:
    """Fill an empty folder with a random tree."""
    dice = random.Random(seed)
    folders = [os.fsencode(root)]
    for number in range(dice.randrange(40)):
        here = dice.choice(folders) + b"/%d" % number
        kind = dice.choice(("folder", "folder", "file", "file", "link", "hard"))
        if kind == "folder":
            os.mkdir(here, dice.choice((0o755, 0o700, 0o1777)))
            folders.append(here)
        elif kind == "link":
            os.symlink(dice.choice((b"..", b"/tmp", b"%d" % dice.randrange(40))), here)
        elif kind == "hard" and (files := [name for name in folders if os.path.isfile(name)]):
            os.link(dice.choice(files), here)
        else:
            _write(here, dice.randbytes(dice.randrange(5000)))
        if kind != "link":
            os.utime(here, ns=(0, dice.randrange(2_000_000_000 * SECOND)))


def _folders(base: bytes) -> None:
    for path in (
        b"folders/outer/inner/empty",
        b"folders/GNUSparseFile.0",
        b"folders/PaxHeaders",
        b"turn/0",
        b"turn/1/x",
    ):
        os.makedirs(base + b"/" + path)
    _write(base + b"/folders/GNUSparseFile.0/file", b"not sparse\n")
    for number in range(3):
        _write(base + b"/turn/%d/which" % number, b"%d\n" % number)
    deep = base + b"/deep/a/b"
    for _ in range(12):
        deep += b"/" + b"d" * 100
    _write(deep + b"/end", b"far down\n")


def _odd_names(base: bytes) -> None:
    for name in NAMES:
        _write(base + b"/names/" + name, name)
        os.makedirs(base + b"/folders/" + name)
        _write(base + b"/folders/" + name + b"/inside", name)


def _times(base: bytes) -> None:
    os.makedirs(base + b"/times")
    for name, moment in TIMES.items():
        path = base + b"/times/" + name.encode()
        _write(path, b"")
        os.utime(path, ns=(moment, moment))
        os.mkdir(path + b".folder")
        os.symlink(b"nowhere", path + b".link")
        for other in (path + b".folder", path + b".link"):
            os.utime(other, ns=(moment, moment), follow_symlinks=False)


def _owners_and_modes(base: bytes) -> None:
    for owner in (1, 65_534, (1 << 21) + 5, (1 << 31) + 1, (1 << 32) - 2):
        path = base + b"/owners/%d" % owner
        _write(path, b"")
        os.chown(path, owner, owner - 1)
        os.symlink(b"nowhere", path + b".link")
        os.lchown(path + b".link", owner, owner - 1)
    for mode in (0o0, 0o111, 0o4755, 0o2755, 0o6711, 0o1777, 0o7777):
        path = base + b"/modes/%o" % mode
        _write(path, b"%o" % mode)
        os.chmod(path, mode)
        os.mkdir(path + b".folder")
        _write(path + b".folder/inside", b"")
        os.chmod(path + b".folder", mode)


def _attributes(base: bytes) -> None:
    file, folder, link = (base + b"/attributes/" + name for name in (b"file", b"folder", b"link"))
    _write(file, b"with attributes\n")
    os.mkdir(folder)
    os.symlink(b"file", link)
    for path in (file, folder):
        os.setxattr(path, b"user.binary", bytes(range(256)))
        os.setxattr(path, b"user.empty", b"")
        os.setxattr(path, b"user.lines", b"7 a=b\n7 a=b\n")
        os.setxattr(path, b"user.long", b"v" * 1500)
        os.setxattr(path, "user.name with = and % and \u00e9".encode(), b"1")
        os.setxattr(path, b"system.posix_acl_access", ACCESS)
    for path in (file, folder, link):
        os.setxattr(path, b"trusted.hidden", b"\0secret\0", follow_symlinks=False)
        os.setxattr(path, b"security.other", b"x", follow_symlinks=False)
    os.setxattr(folder, b"system.posix_acl_default", DEFAULT)
    _write(folder + b"/heir", b"inherits\n")
    os.mkdir(folder + b"/heirs")
    _write(base + b"/attributes/capable", b"#!/bin/true\n")
    os.setxattr(base + b"/attributes/capable", b"security.capability", CAPABILITY)
    # A file whose parent would give it an ACL that it does not have.
    _write(folder + b"/disowned", b"")
    os.removexattr(folder + b"/disowned", b"system.posix_acl_access")


def _links(base: bytes) -> None:
    os.makedirs(base + b"/links/elsewhere")
    for name, target in TARGETS.items():
        os.symlink(target, base + b"/links/" + name)
    _write(base + b"/links/first", b"one file, three names\n")
    os.link(base + b"/links/first", base + b"/links/second")
    os.link(base + b"/links/first", base + b"/links/elsewhere/third")
    for name in (b"absolute", b"climbing", b"dangling"):
        os.link(base + b"/links/" + name, base + b"/links/elsewhere/" + name, follow_symlinks=False)


def _sparse(base: bytes, dice: random.Random) -> None:
    os.makedirs(base + b"/sparse")
    pieces: dict[bytes, tuple[int, tuple[int, ...]]] = {
        b"middle": (64 << 20, (20 << 20,)),
        b"tail": (8 << 20, ((8 << 20) - 4096,)),
        b"head": (8 << 20, (0,)),
        b"nothing": (5_000_001, ()),
        b"comb": (4 << 20, tuple(range(0, 4 << 20, 64 << 10))),
        b"huge": (1 << 40, (1 << 39,)),
    }
    for name, (size, places) in pieces.items():
        with open(base + b"/sparse/" + name, "wb") as file:
            for place in places:
                file.seek(place)
                file.write(dice.randbytes(4096))
            file.truncate(size)


def _special(base: bytes) -> None:
    os.makedirs(base + b"/special")
    os.mkfifo(base + b"/special/fifo", 0o640)
    os.mknod(base + b"/special/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(base + b"/special/whiteout", stat.S_IFCHR, os.makedev(0, 0))
    os.mknod(base + b"/special/disk", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    add_socket(Path(os.fsdecode(base)) / "special" / "socket\n1")


def _twins(base: bytes) -> None:
    """Make files and links with several names, of which each must have what the one inode has."""
    folder = base + b"/twins"
    for name, mode, capability in (
        (b"capable", 0o755, CAPABILITY),
        (b"elsewhere", 0o750, CAPABILITY_ELSEWHERE),
        (b"suid", 0o6755, CAPABILITY),
    ):
        path = folder + b"/m-" + name
        _write(path, name)
        os.chown(path, 3, 4)
        os.chmod(path, mode)
        os.setxattr(path, b"security.capability", capability)
        for other in (folder + b"/a-" + name, folder + b"/z-" + name):
            os.link(path, other)
    for number, moment in enumerate((1, -1, -5 * SECOND + 7, 1_600_000_000 * SECOND + 999_999_999)):
        path = folder + b"/link-%d" % number
        os.symlink(b"../somewhere/%d" % number, path)
        os.lchown(path, number * 7, (1 << 31) + number)
        os.link(path, path + b".again", follow_symlinks=False)
        os.utime(path, ns=(0, moment), follow_symlinks=False)


def _nested(base: bytes) -> None:
    """Make odd names below odd names, and a path nearly as long as paths can be."""
    path = base + b"/nested"
    for name in NESTED:
        path += b"/" + name
        _write(path + b"/f\xf0(", name)
        os.setxattr(path + b"/f\xf0(", b"user.name", name)
        os.symlink(name + b"\xff", path + b"/link\xff")
        os.link(path + b"/f\xf0(", path + b"/hard\xff")
    path = base + b"/long"
    while len(path) - len(base) < 3500:
        path += b"/" + b"l" * 99
    _write(path + b"/end", b"further down\n")


def _heirs(base: bytes) -> None:
    """Make folders that hand on their group and their default ACL, and some that do not take it."""
    folder = base + b"/heirs"
    os.mkdir(folder)
    os.chown(folder, 5, 7)
    os.chmod(folder, 0o2775)
    os.setxattr(folder, b"system.posix_acl_default", DEFAULT)
    os.makedirs(folder + b"/son/grandson")
    _write(folder + b"/son/grandson/file", b"")
    os.setxattr(folder + b"/son/grandson/file", b"system.posix_acl_access", ACCESS)
    os.chmod(folder + b"/son", 0o700)
    os.mkdir(folder + b"/stranger")
    os.removexattr(folder + b"/stranger", b"system.posix_acl_default")
    os.chmod(folder + b"/stranger", 0o755)


def _many_attributes(base: bytes) -> None:
    """Make a file with many attributes, and with names and values that mean something to whoever writes them down."""
    path = base + b"/attributes/many"
    _write(path, b"")
    for number in range(40):
        os.setxattr(path, b"user.%04d" % number, b"%d" % number)
    for name, value in (
        (b"user.\xff\xfe new\nline", b"\0\n\0="),
        (b"user.a=b", b"c=d"),
        (b"user.%3D%", b"c%3D"),
        (b"user.*[a]?", b"glob"),
        (b"user." + b"n" * 200, b""),
    ):
        os.setxattr(path, name, value)


def add_socket(path: Path) -> None:
    """Make a socket that nobody listens on."""
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path has a hundred bytes or so
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _root(base: bytes) -> None:
    os.setxattr(base, b"user.root", b"of the root")
    os.setxattr(base, b"trusted.root", b"of the root")
    os.setxattr(base, b"system.posix_acl_default", DEFAULT)
    os.chown(base, 999, 998)
    os.chmod(base, 0o1750)
    os.utime(base, ns=(0, 1_500_000_000 * SECOND + 5))


def _write(path: bytes, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def _rotate(folder: bytes) -> None:
    os.rename(folder + b"/2", folder + b"/spare")
    os.rename(folder + b"/1", folder + b"/2")
    os.rename(folder + b"/0", folder + b"/1")
    os.rename(folder + b"/spare", folder + b"/0")


def supported(folder: Path) -> bool:
    """Whether this user may make the awkward set in a folder's file system."""
    probe = folder / "probe"
    probe.touch()
    tries: tuple[Callable[[], None], ...] = (
        lambda: os.setxattr(probe, "trusted.probe", b"1"),
        lambda: os.setxattr(probe, "user.probe", b"1"),
        lambda: os.setxattr(probe, "system.posix_acl_access", ACCESS),
        lambda: os.chown(probe, 1, 1),
    )
    try:
        for attempt in tries:
            attempt()
    except OSError:
        return False
    finally:
        with suppress(OSError):
            probe.unlink()
    return True
