"""``python -m docker_rollback recover``: finish what was cut off, as a service at boot does."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from docker_rollback._api import recover
from docker_rollback._exit_codes import ExitCode
from docker_rollback._model import Recovered
from docker_rollback._store import BackupStore
from docker_rollback.errors import DockerRollbackError, UnfinishedElsewhereError


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
        sys.stdout.write("nothing was cut off\n")
    return ExitCode.DONE


def _print(finished: Sequence[Recovered]) -> None:
    for operation in finished:
        kept = f"; what was found is kept as backup {operation.kept}" if operation.kept else ""
        sys.stdout.write(f"{', '.join(operation.containers)}: {operation.operation} is {operation.outcome}{kept}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m docker_rollback", description="Rollbacks of containers.")
    commands = parser.add_subparsers(dest="command", required=True)
    recovery = commands.add_parser(
        "recover",
        help="finish the rollbacks, backups and restores whose process died",
        description="Finish every operation of a store whose process died, on the engine that DOCKER_HOST names. "
        "Those at work are left alone.",
        epilog="Exit codes: 0 all is finished; 1 something could not be finished, or there is no such store; "
        "2 wrong arguments; 5 another store has unfinished work on this engine: the message has the command for it.",
    )
    recovery.add_argument(
        "--store", metavar="PATH", type=_path, help="where the backups are; by default the user's data folder"
    )
    recovery.add_argument(
        "--give-up-found",
        action="store_true",
        help="do not keep the state that is found as a backup before it is rolled back",
    )
    recovery.add_argument("--verbose", action="store_true", help="tell every step")
    return parser


def _path(text: str) -> str:
    """Return a path that was given; an empty one is a variable that was not set, not the folder that we are in."""
    if not text:
        raise argparse.ArgumentTypeError("it is an empty path; leave it out for the user's data folder")
    return text


if __name__ == "__main__":
    sys.exit(main())
