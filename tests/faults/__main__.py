"""The command (see the package)."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.engines import LOCAL, NAMES, PrivateEngine, catalog
from tests.faults import report
from tests.faults.cases import FAULTS, PHASES, SCENES, Case, Effect, Phase, all_cases, shuffled
from tests.faults.run import Outcome, Stage, Sweep


def main() -> int:
    """Play the cases that the arguments choose; return 1 where one of them did not end as promised."""
    given = _parser().parse_args()
    began = time.monotonic()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    with (
        PrivateEngine(given.engine, instance=str(os.getpid())) as engine,
        tempfile.TemporaryDirectory(prefix="docker-rollback-faults-", dir=_quick_folder()) as scratch,
        Stage(engine, Path(scratch)) as stage,
    ):
        # Started again here, Podman's service has another /run, and so knows nothing of the programs that still run.
        daemon = catalog.recipe(given.engine).kind == "docker"
        sweep = Sweep(stage, random.Random(seed), daemon=daemon)
        faults = given.fault or [fault for fault in FAULTS if daemon or not fault.startswith("daemon-")]
        scenes = [scene for scene in SCENES if given.scene in (None, scene.name)]
        if given.only:
            cases = [_case(words, given.scene or SCENES[0].name) for words in given.only]
            total = len(cases)
        else:
            seen: dict[tuple[str, Phase], Sequence[Effect]] = {}
            for scene in scenes:
                seen |= sweep.count(scene)
            every = list(all_cases(seen))
            total = len(every)
            wanted = [case for case in every if case.fault in faults and case.phase in (given.phase or PHASES)]
            cases = shuffled(wanted, seed)
            print(report.overview(seen, total), flush=True)
            if not daemon:
                print("left out: kills of the engine, which is not started again as it was", flush=True)
            if given.list:
                return 0
        outcomes: list[Outcome] = []
        for case in cases:
            if given.minutes is not None and time.monotonic() - began > given.minutes * 60:
                break
            outcomes.append(sweep.play(case))
            print(report.line(outcomes[-1]), flush=True)
            print(report.details(outcomes[-1]), end="", flush=True)
    print(report.summary(outcomes, total, seed=seed, engine=given.engine, seconds=time.monotonic() - began))
    if given.table is not None:
        given.table.write_text(report.table(outcomes, total, seed=seed, engine=given.engine), encoding="utf-8")
    return 1 if any(outcome.faults for outcome in outcomes) else 0


def _case(words: str, scene: str) -> Case:
    phase, fault, number = words.split(":")
    if phase not in PHASES or fault not in FAULTS:
        raise SystemExit(f"a case is PHASE:FAULT:K, of {', '.join(PHASES)} and {', '.join(FAULTS)}, not {words!r}")
    return Case(scene, next(known for known in PHASES if known == phase), fault, int(number))


def _quick_folder() -> str | None:
    """Return a folder in memory where there is one: the store is written anew for each case."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--engine", choices=NAMES, default=LOCAL)
    parser.add_argument("--minutes", type=float, help="play a sample that fits this time")
    parser.add_argument("--seed", type=int, help="chooses the sample; drawn and said where it is not given")
    parser.add_argument("--only", action="append", metavar="PHASE:FAULT:K", help="play one case; may be given again")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="play only this fault; may be given again")
    parser.add_argument("--phase", action="append", choices=PHASES, help="play only this phase; may be given again")
    parser.add_argument("--scene", choices=[scene.name for scene in SCENES])
    parser.add_argument("--table", type=Path, metavar="FILE", help="where the table is written, as Markdown")
    parser.add_argument("--list", action="store_true", help="count the effects and play nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
