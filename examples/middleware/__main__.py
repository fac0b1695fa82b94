"""``python -m examples.middleware``: look after a middleware from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from docker_rollback import BackupStore, DockerEngine, RollbackFailedError, Status
from examples.middleware.manager import Middleware


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 where what was asked for is so now."""
    parser = argparse.ArgumentParser(prog="python -m examples.middleware", description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="where the backups are")
    commands = parser.add_subparsers(dest="command", required=True)
    upgrade = commands.add_parser("upgrade", help="replace containers by ones of other images, all or none")
    upgrade.add_argument("images", nargs="+", metavar="CONTAINER=IMAGE")
    back = commands.add_parser("go-back", help="put a version back")
    back.add_argument("version")
    for command in (back, commands.add_parser("versions", help="list the versions that there are")):
        command.add_argument("containers", nargs="+", metavar="CONTAINER")
    options = parser.parse_args(arguments)
    images = dict(pair.partition("=")[::2] for pair in options.images) if options.command == "upgrade" else {}
    middleware = Middleware(
        DockerEngine.from_env(), BackupStore(options.store), list(images) or list(options.containers)
    )
    for done in middleware.finish_what_was_cut_off():
        print(f"finished first: {done.operation} is {done.outcome}")
    if options.command == "upgrade":
        return _upgrade(middleware, images)
    if options.command == "go-back":
        middleware.go_back(options.version)
    for version in middleware.versions():
        print(version.id, *(f"{name}={image}" for name, image in version.images.items()), "failed" * version.failed)
    return 0


def _upgrade(middleware: Middleware, images: dict[str, str]) -> int:
    try:
        outcome = middleware.upgrade(images)
    except RollbackFailedError as error:
        print(error, file=sys.stderr)
        return 2
    reason = f": {outcome.reason.text.splitlines()[0]}" if outcome.reason is not None else ""
    print(f"{outcome.status.value}{reason}")
    return 0 if outcome.status is Status.COMMITTED else 1


if __name__ == "__main__":
    sys.exit(main())
