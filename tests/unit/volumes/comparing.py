"""Two trees compared by what the kernel says of them, past everything that is under test."""

# Names of files are bytes here, which pathlib does not take.
# ruff: noqa: PTH115, PTH208

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from attrs import frozen


@frozen
class Node:
    """One name in a tree, and all that can be seen of it but its inode's number and the times that reading changes."""

    mode: int
    owner: tuple[int, int]
    modified: int
    size: int
    device: int
    links: tuple[bytes, ...]
    attributes: tuple[tuple[str, bytes], ...]
    target: bytes
    digest: str
    data: tuple[tuple[int, int], ...]


def picture(root: Path, *, sockets: bool = True) -> dict[bytes, Node]:
    """Return every name below a folder, itself included as ``.``, with what is behind it.

    Args:
        root: the folder.
        sockets: whether sockets count, which no archive holds.
    """
    base = os.fsencode(root)
    found: dict[bytes, os.stat_result] = {}

    def walk(path: bytes, name: bytes) -> None:
        seen = os.lstat(path)
        if stat.S_ISSOCK(seen.st_mode) and not sockets:
            return
        found[name] = seen
        if stat.S_ISDIR(seen.st_mode):
            for child in sorted(os.listdir(path)):
                walk(path + b"/" + child, name + b"/" + child)

    walk(base, b".")
    groups: dict[int, list[bytes]] = {}
    for name, seen in found.items():
        groups.setdefault(seen.st_ino, []).append(name)
    return {name: _node(base + name[1:], seen, tuple(groups[seen.st_ino])) for name, seen in found.items()}


def differences(before: dict[bytes, Node], after: dict[bytes, Node]) -> list[str]:
    """Return what differs between two pictures, a line for each."""
    lines = [f"missing: {name!r}" for name in before.keys() - after.keys()]
    lines += [f"stray: {name!r}" for name in after.keys() - before.keys()]
    for name in before.keys() & after.keys():
        for field in Node.__attrs_attrs__:
            was, now = getattr(before[name], field.name), getattr(after[name], field.name)
            if was != now:
                lines.append(f"{name[:80]!r}: {field.name} was {was!r}, is {now!r}"[:400])
    return sorted(lines)


def _node(path: bytes, seen: os.stat_result, names: tuple[bytes, ...]) -> Node:
    regular, folder = stat.S_ISREG(seen.st_mode), stat.S_ISDIR(seen.st_mode)
    digest, data = _content(path, seen.st_size) if regular else ("", ())
    return Node(
        mode=seen.st_mode,
        owner=(seen.st_uid, seen.st_gid),
        modified=seen.st_mtime_ns,
        size=0 if folder else seen.st_size,
        device=seen.st_rdev,
        links=names,
        attributes=tuple(
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        ),
        target=os.readlink(path) if stat.S_ISLNK(seen.st_mode) else b"",
        digest=digest,
        data=data,
    )


def _content(path: bytes, size: int) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Return a digest of a file's data with their places, and the places alone; holes are passed over."""
    hasher = hashlib.sha256()
    places = []
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)  # what was not yet given room on disk may show as a hole, or not
        at = 0
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break  # nothing but a hole is left
            at = os.lseek(fd, start, os.SEEK_HOLE)
            places.append((start, at))
            os.lseek(fd, start, os.SEEK_SET)
            left = at - start
            while left and (piece := os.read(fd, min(left, 1 << 20))):
                hasher.update(piece)
                left -= len(piece)
    finally:
        os.close(fd)
    return hasher.hexdigest(), tuple(places)
