"""The programs that every container of the in-memory engine has."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from attrs import evolve

from docker_rollback.testing._fake.files import Files
from docker_rollback.testing._fake.gnu_tar import DEVICE, tar
from docker_rollback.testing._fake.processes import Program, Run
from docker_rollback.testing._fake.tree import walk

NOT_FOUND = 127
_BOOTED = 1_000_000
"""The boot time of the engine's host, in seconds since 1970."""
_LETTERS = {
    "file": "f",
    "directory": "d",
    "symlink": "l",
    "fifo": "p",
    "character": "c",
    "block": "b",
    "socket": "s",
}
_LOADER_OPTIONS_WITH_A_VALUE = ("--argv0", "--inhibit-rpath", "--library-path", "--preload")
_KINDS = {"file": "regular file", "symlink": "symbolic link", "character": "character special file"}
_MAKES_FIFO = re.compile(r"\bmkfifo (?:-m 600 )?(\S+)")


def find_program(known: Mapping[str, Program], files: Files, command: Sequence[str]) -> tuple[Program, list[str]]:
    """Return the program of a command line and its arguments, without a dynamic loader before them.

    A program named by a path must exist there; one named without a path is always found. For a shell's script, its last
    command is used.
    """
    arguments = _plain(command, files)
    program = known.get(posixpath.basename(arguments[0]))
    if program is None or ("/" in arguments[0] and not files.exists(arguments[0])):
        return missing, arguments
    return program, arguments


def reads(command: Sequence[str]) -> str:
    """Return the file that a main program only reads, to end at its end; empty for any other program."""
    arguments = _plain(command, None)
    copies = len(arguments) == 2 and posixpath.basename(arguments[0]) == "cat"
    return arguments[1] if copies else ""


def prepare(command: Sequence[str], files: Files) -> None:
    """Make the FIFO that a main program, a shell's script, makes before it reads from it."""
    match = _MAKES_FIFO.search(command[-1]) if posixpath.basename(command[0]) == "sh" else None
    if match is not None and not files.exists(match[1]):
        files.special(match[1], "fifo", mode=0o600)


def _plain(command: Sequence[str], files: Files | None) -> list[str]:
    """Return a command line without a dynamic loader or a shell before it."""
    arguments = list(command)
    if posixpath.basename(arguments[0]) == "sh" and arguments[1:2] == ["-c"]:
        return re.split(r"&&|;", arguments[2])[-1].removeprefix(" exec").split() or [""]
    if posixpath.basename(arguments[0]).startswith("ld") and (files is None or files.exists(arguments[0])):
        arguments = arguments[1:]
        while arguments and arguments[0].startswith("--"):
            arguments = arguments[2 if arguments[0] in _LOADER_OPTIONS_WITH_A_VALUE else 1 :]
    return arguments


def missing(run: Run) -> int:
    """Fail because the program does not exist; a `Program`."""
    run.stderr.append(f'exec: "{run.arguments[0]}": executable file not found in $PATH\n')
    return NOT_FOUND


def _cat(run: Run) -> int:
    code = 0
    for path in run.arguments[1:] or ["-"]:
        try:
            run.stdout += run.stdin if path == "-" else _of_kernel(run, path) or run.files.read(path)
        except OSError as error:
            run.stderr.append(f"cat: {path}: {error.strerror}\n")
            code = 1
    return code


def _of_kernel(run: Run, path: str) -> bytes:
    """Return the content of a kernel file about time or boot; empty for any other file."""
    if path == "/proc/sys/kernel/random/boot_id":
        return b"7c9f5f9e-0000-4000-8000-6d656d6f7279\n"
    if path == "/proc/uptime":
        return f"{_moment(run.now() - _BOOTED * 1_000_000_000)} 0.00\n".encode()
    return f"btime {_BOOTED}\n".encode() if path == "/proc/stat" else b""


def _tee(run: Run) -> int:
    run.stdout += run.stdin
    for path in run.arguments[1:]:
        if run.files.waits(path):
            run.hang_up(path)
        else:
            run.files.write(path, run.stdin)
    return 0


def _cp(run: Run) -> int:
    """Copy a file over an existing one, with its owner, mode, time and extended attributes."""
    if run.arguments[1:] == ["--version"]:
        run.stdout += b"cp (GNU coreutils) 9.1\n"
        return 0
    source, target = (run.files.node(path) for path in run.arguments[3:])
    target.content, target.mtime, target.ctime = source.content, source.mtime, run.now()
    target.mode, target.uid, target.gid = source.mode, source.uid, source.gid
    target.xattrs.update(source.xattrs)
    return 0


def _touch(run: Run) -> int:
    for path in run.arguments[1:]:
        run.files.touch(path)
    return 0


def _rm(run: Run) -> int:
    for path in (argument for argument in run.arguments[1:] if not argument.startswith("-")):
        if "-d" in run.arguments and run.files.list(path):
            run.stderr.append(f"rm: cannot remove '{path}': Directory not empty\n")
            return 1
        if run.files.exists(path):
            run.files.delete(path)
    return 0


def _stat(run: Run) -> int:
    """Print the fields that ``-c`` or ``--printf`` names: device, inode, mode, owner, kind, size, times, name."""
    if run.arguments[1] == "-f":
        run.stdout += f"ext2/ext3 {DEVICE:x}\n".encode()
        return 0
    ends = "\n" if run.arguments[1] == "-c" else ""
    code = 0
    for path in (argument for argument in run.arguments[3:] if argument != "--"):
        try:
            node = run.files.node(path)
        except FileNotFoundError:
            run.stderr.append(f"stat: cannot statx '{path}': No such file or directory\n")
            code = 1
            continue
        shown = {"%d": DEVICE, "%i": node.number, "%a": f"{node.mode:o}", "%u": node.uid, "%g": node.gid, "%h": 1}
        shown |= {"%.9Y": _moment(node.mtime), "%.9Z": _moment(node.ctime)}
        line = run.arguments[2].replace("\\0", "\0")
        kind = _KINDS.get(node.kind, node.kind)
        for word, value in {**shown, "%F": kind, "%s": len(node.content), "%n": path}.items():
            line = line.replace(word, str(value))
        run.stdout += f"{line}{ends}".encode("utf-8", "surrogateescape")
    return code


def _moment(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{seconds}.{rest:09d}"


def _find(run: Run) -> int:
    """Print the fields that ``-printf`` names for each file of a tree, or, with ``-type d``, each directory."""
    found = list(walk(run.files.node(run.arguments[1])))
    shape = run.arguments[run.arguments.index("-printf") + 1].replace("\\n", "\n").replace("\\0", "\0")
    names = Counter(id(node) for _, node in found)
    for path, node in found:
        if "-type" in run.arguments and node.kind != "directory":
            continue
        blocks = -(-len(node.content) // 512)
        shown = {"%y": _LETTERS[node.kind], "%n": names[id(node)], "%b": blocks, "%i": node.number}
        shown |= {"%C@": _moment(node.ctime), "%T@": _moment(node.mtime), "%s": len(node.content), "%P": path}
        line = shape
        for word, value in shown.items():
            line = line.replace(word, str(value))
        run.stdout += line.encode("utf-8", "surrogateescape")
    return 0


def _xargs(run: Run) -> int:
    """Run a program with the NUL-terminated names on its input as further arguments."""
    program, arguments = find_program(PROGRAMS, run.files, run.arguments[2:])
    names = [part.decode("utf-8", "surrogateescape") for part in run.stdin.split(b"\0") if part]
    return 123 if program(evolve(run, arguments=[*arguments, *names], stdin=b"")) else 0


def _setfattr(run: Run) -> int:
    """Remove an extended attribute."""
    name, path = run.arguments[1].removeprefix("--remove="), run.arguments[2]
    node = run.files.node(path)
    if name not in node.xattrs:
        run.stderr.append(f"setfattr: {path}: No such attribute\n")
        return 1
    del node.xattrs[name]
    node.ctime = run.now()
    return 0


def _true(_: Run) -> int:
    return 0


def _false(_: Run) -> int:
    return 1


def _sleep(_: Run) -> None:
    return None


PROGRAMS: Mapping[str, Program] = {
    "cat": _cat,
    "cp": _cp,
    "false": _false,
    "find": _find,
    "rm": _rm,
    "setfattr": _setfattr,
    "stat": _stat,
    "xargs": _xargs,
    "sleep": _sleep,
    "sync": _true,
    "tar": tar,
    "tee": _tee,
    "touch": _touch,
    "true": _true,
}
