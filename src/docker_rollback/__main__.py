"""``python -m docker_rollback recover``: finish interrupted operations, for a service at boot."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from enum import IntEnum

from docker_rollback._api import recover
from docker_rollback._model import Recovered
from docker_rollback._store import BackupStore
from docker_rollback.errors import DockerRollbackError, UnfinishedElsewhereError


class ExitCode(IntEnum):
    """How the command ended. A process that a signal ends has 128 and the signal's number."""

    DONE = 0
    """Done, or there was nothing to do."""

    FAILED = 1
    """It failed; the message says what to do."""

    USAGE = 2
    """The arguments are wrong."""

    UNFINISHED = 5
    """Unfinished work is in the way; the message has the command that finishes it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code, one of `ExitCode`."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s %(message)s")
    try:
        done = recover(store=BackupStore(options.store), keep_found=not options.give_up_found)
    except UnfinishedElsewhereError as error:
        _print(error.finished)
        sys.stderr.write(f"{error}\n")
        return ExitCode.UNFINISHED
    except DockerRollbackError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.FAILED
    _print(done)
    if not done:
        sys.stdout.write("nothing was interrupted\n")
    return ExitCode.FAILED if any(operation.unwritten for operation in done) else ExitCode.DONE


def _print(finished: Sequence[Recovered]) -> None:
    for operation in finished:
        kept = f"; the state before recovery is kept as backup {operation.kept}" if operation.kept else ""
        sys.stdout.write(f"{', '.join(operation.containers)}: {operation.operation} is {operation.outcome}{kept}\n")
        sys.stdout.writelines(f"  {sentence}\n" for sentence in operation.files)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m docker_rollback", description="Roll back containers.")
    commands = parser.add_subparsers(dest="command", required=True)
    recovery = commands.add_parser(
        "recover",
        help="finish rollbacks, backups and restores whose process died",
        description="Finish every operation of a store whose process died, on the engine of DOCKER_HOST. "
        "Running operations are left alone.",
        epilog="Exit codes: 0 everything is finished; 1 something could not be finished, a file "
        "was not written back, or the store does not exist; "
        "2 wrong arguments; 5 another store has unfinished operations on this engine: the message has the command.",
    )
    recovery.add_argument(
        "--store", metavar="PATH", type=_path, help="the store of the backups; by default in the user's data folder"
    )
    recovery.add_argument(
        "--give-up-found",
        action="store_true",
        help="do not keep the current state as a backup before it is rolled back",
    )
    recovery.add_argument("--verbose", action="store_true", help="log every step")
    return parser


def _path(text: str) -> str:
    """Return the path; refuse an empty one, which is an unset variable rather than the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; omit the option for the user's data folder")
    return text


if __name__ == "__main__":
    sys.exit(main())
