"""The programs that every container of the in-memory engine has."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence

from docker_rollback.testing._fake_exec import Program, Run
from docker_rollback.testing._fake_files import Files
from docker_rollback.testing._fake_tar import tar

NOT_FOUND = 127


def find_program(known: Mapping[str, Program], files: Files, command: Sequence[str]) -> tuple[Program, list[str]]:
    """Return the program of a command line and its arguments, without the loader that it may be called through.

    A program that is named by its path must be there; one that is named alone is where it usually is.
    """
    arguments = list(command)
    if posixpath.basename(arguments[0]).startswith("ld") and files.exists(arguments[0]):
        arguments = _without_loader(arguments)
    program = known.get(posixpath.basename(arguments[0]))
    if program is None or ("/" in arguments[0] and not files.exists(arguments[0])):
        return _missing, arguments
    return program, arguments


def _without_loader(arguments: list[str]) -> list[str]:
    rest = arguments[1:]
    while rest and rest[0].startswith("--"):
        takes_value = rest[0] in ("--library-path", "--argv0", "--preload", "--inhibit-rpath")
        rest = rest[2:] if takes_value else rest[1:]
    return rest


def _missing(run: Run) -> int:
    run.stderr.append(f'exec: "{run.arguments[0]}": executable file not found in $PATH\n')
    return NOT_FOUND


def _cat(run: Run) -> int:
    for path in run.arguments[1:] or ["-"]:
        run.stdout += run.stdin if path == "-" else run.files.read(path)
    return 0


def _touch(run: Run) -> int:
    for path in run.arguments[1:]:
        run.files.touch(path)
    return 0


def _true(_: Run) -> int:
    return 0


def _false(_: Run) -> int:
    return 1


def _sleep(_: Run) -> None:
    return None


PROGRAMS: Mapping[str, Program] = {
    "cat": _cat,
    "false": _false,
    "sleep": _sleep,
    "tar": tar,
    "touch": _touch,
    "true": _true,
}
