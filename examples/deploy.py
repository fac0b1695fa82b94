"""A deployment script: replace a container by one of another image, and have the old one back where that fails.

It speaks to people on its output, to programs by its exit code and by one line of JSON for each deployment.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from docker_rollback import BackupStore, DockerRollbackError, Exec, Outcome, RollbackFailedError, healthy, rollback

DONE: Final = 0
NOT_BEGUN: Final = 1
ROLLED_BACK: Final = 2
DOWN: Final = 3
"""The exit codes: the new version runs; nothing was touched; the old version runs again; somebody has to look."""


def deploy(options: argparse.Namespace) -> int:
    """Deploy, and return the exit code."""

    def tell(outcome: Outcome) -> None:
        if options.log is not None:
            with options.log.open("a", encoding="utf-8") as log:
                log.write(outcome.to_json() + "\n")
        for line in summary(outcome):
            print(line)

    update = rollback(
        options.container,
        store=BackupStore(options.store),
        verify=healthy(timeout=options.timeout, stable_for=options.stable_for),
        watch=options.watch,
        max_downtime=options.max_downtime,
        before_quiesce=[Exec(options.container, ["sh", "-c", command]) for command in options.before],
        keep=options.keep,
        keep_failed=True,
        on_outcome=tell,
    )
    try:
        # What `replace` does, with the outcome at hand if it raises.
        update.update(options.container, options.image, pull=options.pull)
    except RollbackFailedError as error:
        print(error, file=sys.stderr)
        return DOWN
    except DockerRollbackError:
        # It was told already.
        return ROLLED_BACK if update.outcome.entered else NOT_BEGUN
    return DONE


def summary(outcome: Outcome) -> list[str]:
    """Return what people want to know, line by line."""
    lines = [f"{', '.join(outcome.containers)}: {outcome.status.value}"]
    if outcome.reason is not None:
        lines.append(f"  because: {outcome.reason.text.splitlines()[0]}")
    lines += [f"  it said: {line}" for check in outcome.rejected for line in check.log[-3:]]
    for name, down in outcome.downtime.items():
        lines.append(f"  {name} was down for {down.capture + down.update + down.rollback:.1f} s")
    if outcome.lost is not None:
        lines.append(f"  what was written in {outcome.lost:.1f} s is discarded")
    if outcome.kept is not None:
        lines.append(f"  the failed state is backup {outcome.kept}")
    return lines + [f"  to do: {sentence}" for sentence in outcome.to_do]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.deploy", description=__doc__)
    parser.add_argument("container", help="the container's name")
    parser.add_argument("image", help="the image of the new version")
    parser.add_argument("--store", type=Path, required=True, help="where the backups are")
    parser.add_argument("--log", type=Path, help="a file that gets one line of JSON for each deployment")
    parser.add_argument("--pull", choices=["missing", "always", "never"], default="missing")
    parser.add_argument("--timeout", type=float, help="seconds for the health check to turn healthy")
    parser.add_argument("--watch", type=float, help="seconds of probation after the checks")
    parser.add_argument("--stable-for", type=float, default=5.0, help="seconds to stay up without a health check")
    parser.add_argument("--max-downtime", type=float, help="seconds that the backup may take the service down for")
    parser.add_argument(
        "--before", action="append", default=[], metavar="COMMAND", help="a shell command that it runs before"
    )
    parser.add_argument("--keep", type=int, default=3, help="how many backups stay")
    return deploy(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
