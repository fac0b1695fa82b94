"""The command (see the package)."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path

from bench import catalog, report
from bench.groups import Group, GroupRounds
from bench.measure import Notebook, Rounds, say
from bench.stage import Stage, machine, staged
from bench.subjects import Subject
from tests.engines import NAMES, EngineStartError
from tests.engines.debian import DistributionError

PROJECT = Path(__file__).resolve().parent.parent
BY_DEFAULT = "docker-28.5"


def main() -> int:
    """Measure what the arguments choose; return 1 where a part of it failed."""
    given = _parser().parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: only root can start a private engine")
    # A termination passes through here as an exception, so that the engine is ended.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    known = catalog.cases(given.size)
    chosen = [case for name in given.only or known for case in known[name]]
    try:
        results, failed = measure(given.engine, chosen, rounds=given.rounds, ways=given.ways, keep=given.keep)
    except (EngineStartError, DistributionError) as error:
        sys.exit(f"bench: {error}")
    print(report.render(*report.parse(results)))
    if failed:
        say(f"failed: {', '.join(failed)}")
    elif given.size == "full" and not given.only and not given.ways:
        report.write(PROJECT, results)
        say(f"{report.PAGE}, {report.CHART} and {report.RESULTS} are written")
    return int(bool(failed))


def measure(
    engine: str,
    chosen: Collection[catalog.Case | catalog.GroupCase],
    *,
    rounds: int,
    ways: Collection[str] | None = None,
    keep: Path | None = None,
) -> tuple[str, list[str]]:
    """Measure cases one after the other; return the results, and what failed.

    Args:
        engine: which private engine.
        chosen: the cases.
        rounds: how often.
        ways: which ways alone.
        keep: a file for the results so far, after each case and where this is broken off.
    """
    notebook, failed, shape = Notebook(), [], dict[str, str]()
    numbered = list(enumerate(chosen, start=1))
    for xfs in (False, True):
        there = [(number, case) for number, case in numbered if _is_on_xfs(case) == xfs]
        if not there:
            continue
        groups = any(isinstance(case, catalog.GroupCase) for _, case in there)
        database = any(case.kind == "postgresql" for _, case in there if isinstance(case, catalog.Case))
        with staged(engine, with_postgresql=database, with_compose=groups, xfs=xfs) as stage:
            shape = shape or {**machine(stage), "rounds": str(rounds)}
            for number, case in there:
                say(f"{case.name}: being made ({number} of {len(chosen)})")
                wanted = {way: count for way, count in case.rounds(rounds).items() if not ways or way in ways}
                try:
                    _play(case, stage, f"bench{number}", notebook, wanted)
                except Exception:
                    # The others can be measured all the same.
                    traceback.print_exc()
                    failed.append(case.name)
                finally:
                    if keep is not None:
                        keep.write_text(report.dump(shape, notebook.samples))
    return report.dump(shape, notebook.samples), failed


def _is_on_xfs(case: catalog.Case | catalog.GroupCase) -> bool:
    return isinstance(case, catalog.Case) and case.xfs


def _play(
    case: catalog.Case | catalog.GroupCase, stage: Stage, name: str, notebook: Notebook, rounds: Mapping[str, int]
) -> None:
    if isinstance(case, catalog.GroupCase):
        group = Group(stage, case.name, name, case.shape)
        with group.standing():
            GroupRounds(notebook, rounds, case.back).play(group)
        return
    subject = Subject(stage, case.name, name, case.kind, case.data, case.image_bytes)
    with subject.standing():
        Rounds(notebook, rounds, whole=case.whole).play(subject)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = tuple(catalog.cases("full"))
    every = sorted({*catalog.EVERY_WAY, *catalog.GROUP_WAYS})
    parser.add_argument("--only", nargs="+", choices=names, help="these alone, and nothing is written")
    parser.add_argument("--ways", nargs="+", choices=every, help="these alone, and nothing is written")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each way is measured")
    parser.add_argument("--size", choices=("small", "full"), default="full", help="small: does it work? writes nothing")
    parser.add_argument("--engine", choices=NAMES, default=BY_DEFAULT)
    parser.add_argument("--keep", type=Path, metavar="FILE", help="where to put all values, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
