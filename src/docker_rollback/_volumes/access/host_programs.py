"""Finds this machine's GNU tar and the other programs of a helper, with the loader and libraries of each."""

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
_OLDEST_TAR: Final = (1, 27)  # the first version of GNU tar that supports extended attributes and ACLs

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LIBRARY: Final = re.compile(r"^\s*(?P<name>\S+)(?: => (?P<path>/.*))? \(0x[0-9a-f]+\)$")
_PT_INTERP: Final = 3


class ToolError(Exception):
    """A program is missing on this machine, or cannot be used elsewhere."""


@frozen
class Program:
    """A program with its loader and libraries."""

    path: Path
    loader: Path | None  # the loader of its shared libraries; None for a static program
    libraries: dict[str, Path]  # their files, by the names that the loader looks up


def is_gnu_tar(version: bytes) -> bool:
    """Return True if the output of ``tar --version`` is that of a recent enough GNU tar."""
    match = _TAR_VERSION.match(version)
    return match is not None and (int(match[1]), int(match[2])) >= _OLDEST_TAR


@cache
def find_tar() -> Path | None:
    """Return this machine's GNU tar, or None; the result is cached."""
    for name in _TAR_NAMES:
        path = _which(name)
        if path is not None and is_gnu_tar(_output([str(path), "--version"])):
            return path
    return None


def find_program(name: str) -> Path:
    """Return one of this machine's programs; raises `ToolError` if there is none of that name."""
    path = _which(name)
    if path is None:
        raise ToolError(f"this machine has no {name}")
    return path


def needs(path: Path) -> Program:
    """Find the loader and libraries of a program; raises `ToolError` if they cannot be found.

    The program's own loader lists the libraries without running the program. The result is cached until the program
    is replaced.
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
        # The kernel's own library has no file; the loader is known already.
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
    # Not the caller's PATH: programs that run as root on the volumes of others are the system's.
    found = shutil.which(name, path=_PATH)
    return Path(found) if found is not None else None


def _output(command: list[str]) -> bytes:
    """Return the output of a program of this machine; empty if it fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env={"LC_ALL": "C"}, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""
