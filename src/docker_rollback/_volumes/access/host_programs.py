"""This machine's own programs: GNU tar and the few others that a helper needs, and what each needs to run."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

from attrs import frozen

_TAR_NAMES: Final = ("tar", "gtar", "gnutar")
_TAR_VERSION: Final = re.compile(rb"^tar \(GNU tar\) (\d+)\.(\d+)")
_OLDEST_TAR: Final = (1, 27)
"""The first GNU tar that knows extended attributes and ACLs."""

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LIBRARY: Final = re.compile(r"^\s*(?P<name>\S+)(?: => (?P<path>/.*))? \(0x[0-9a-f]+\)$")
_PT_INTERP: Final = 3


class ToolError(Exception):
    """A program is missing on this machine, or cannot be taken along."""


@frozen
class Program:
    """One program and what it needs.

    Attributes:
        path: the program.
        loader: what loads its shared libraries; None for a static program.
        libraries: their files, by the names under which they are looked for.
    """

    path: Path
    loader: Path | None
    libraries: dict[str, Path]


def is_gnu_tar(version: bytes) -> bool:
    """Whether that is what a GNU tar says of its version that knows all it has to."""
    match = _TAR_VERSION.match(version)
    return match is not None and (int(match[1]), int(match[2])) >= _OLDEST_TAR


@cache
def find_tar() -> Path | None:
    """Return this machine's GNU tar, or None; looked for once."""
    for name in _TAR_NAMES:
        path = _which(name)
        if path is not None and is_gnu_tar(_output([str(path), "--version"])):
            return path
    return None


def find_program(name: str) -> Path:
    """Return one of this machine's programs; raises `ToolError` where there is none of that name."""
    path = _which(name)
    if path is None:
        raise ToolError(f"this machine has no {name}")
    return path


def needs(path: Path) -> Program:
    """Find out what a program of this machine needs to run elsewhere; raises `ToolError` where that cannot be told.

    Its own loader is asked, which lists the libraries of a program without running it. It is asked again once the
    program has been replaced.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ToolError(f"{path} cannot be read: {error}") from error
    return _needs(path, (found.st_dev, found.st_ino, found.st_ctime_ns))


@cache
def _needs(path: Path, _version: tuple[int, int, int]) -> Program:
    loader = interpreter(path)
    if loader is None:
        return Program(path, None, {})
    listed = _output([str(loader), "--list", str(path)]).decode("utf-8", "surrogateescape")
    libraries = {}
    for line in listed.splitlines():
        match = _LIBRARY.match(line)
        if match is None:
            raise ToolError(f"{loader} says of {path}: {line.strip()}")
        # The kernel's own library has no file, and the loader is not loaded.
        if match["path"] is not None and Path(match["name"]).name != loader.name:
            libraries[Path(match["name"]).name] = Path(match["path"])
    if not libraries:
        raise ToolError(f"{loader} does not say which libraries {path} needs")
    return Program(path, loader, libraries)


def interpreter(path: Path) -> Path | None:
    """Return the loader that an ELF program names, None for a static one; raises `ToolError` for any other file."""
    data = path.read_bytes()
    if len(data) < 64 or data[:4] != b"\x7fELF" or data[4] not in (1, 2) or data[5] not in (1, 2):
        raise ToolError(f"{path} is not a program that can be taken along")
    order = "<" if data[5] == 1 else ">"
    wide = data[4] == 2
    table = struct.unpack_from(order + ("Q" if wide else "I"), data, 32 if wide else 28)[0]
    size, count = struct.unpack_from(order + "HH", data, 54 if wide else 42)
    for number in range(count):
        head = table + number * size
        if struct.unpack_from(order + "I", data, head)[0] != _PT_INTERP:
            continue
        offset = struct.unpack_from(order + ("Q" if wide else "I"), data, head + (8 if wide else 4))[0]
        length = struct.unpack_from(order + ("Q" if wide else "I"), data, head + (32 if wide else 16))[0]
        return Path(os.fsdecode(data[offset : offset + length].rstrip(b"\0")))
    return None


def _which(name: str) -> Path | None:
    # Not the caller's own PATH: what runs as root on the volumes of others is the system's.
    found = shutil.which(name, path=_PATH)
    return Path(found) if found is not None else None


def _output(command: list[str]) -> bytes:
    """Return what a program of this machine prints; nothing where it fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env={"LC_ALL": "C"}, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""
