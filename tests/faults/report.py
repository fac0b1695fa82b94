"""The words of a run: a line for each case as it ends, and the table of all. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from tests.faults.cases import FAULTS, PHASES, Effect, Phase
from tests.faults.run import Outcome

_SHOWN: Final = 12


def overview(seen: Mapping[tuple[str, Phase], Sequence[Effect]], total: int) -> str:
    """Say how many effects each phase of each scene has, and what they are."""
    lines = ["effects that were counted:"]
    for (scene, phase), effects in seen.items():
        kinds = Counter(effect.kind for effect in effects)
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        lines.append(f"  {scene:<13} {phase:<9} {len(effects):>4}  ({told})")
    return "\n".join([*lines, f"cases in all: {total}"])


def line(outcome: Outcome) -> str:
    """Say in a line what came of a case."""
    case = outcome.case
    verdict = "FAILED" if outcome.faults else "engine" if outcome.excuse else "ok"
    recovery = f"; recover: {outcome.recovery}" if outcome.recovery else ""
    excuse = outcome.excuse
    return (
        f"{verdict:<6} {case.scene:<13} {case!s:<28} {outcome.seconds:4.1f} s  [{outcome.struck or 'not reached'}] "
        f"{outcome.victim}{recovery}; as {outcome.state or 'NEITHER'}" + (f" ({excuse})" if excuse else "")
    )


def details(outcome: Outcome) -> str:
    """Say what is not as promised, as far as it fits a dozen lines."""
    shown = [
        "    " + (text if len(text) < 300 else f"{text[:290]} ...")
        for fault in outcome.faults[:_SHOWN]
        for text in fault.splitlines()[-_SHOWN:]
    ]
    if len(outcome.faults) > _SHOWN:
        shown.append(f"    and {len(outcome.faults) - _SHOWN} more")
    return "".join(f"{text}\n" for text in shown)


def summary(outcomes: Sequence[Outcome], total: int, *, seed: int, engine: str, seconds: float) -> str:
    """Say how much was played, how it ended, and how to play the failures again."""
    failed = [outcome for outcome in outcomes if outcome.faults]
    played = f"{len(outcomes)} of {total} cases played on {engine} in {seconds:.0f} s, seed {seed}"
    excused = sum(1 for outcome in outcomes if outcome.excuse and not outcome.faults)
    kept = len(outcomes) - len(failed)
    lines = [f"{played}: {kept} as promised ({excused} of them but for a fault of the engine's own), {len(failed)} not"]
    lines += [
        f"again: python -m tests.faults --engine {engine} --scene {one.case.scene} --only {one.case} --seed {seed}"
        for one in failed
    ]
    return "\n".join(lines)


def table(outcomes: Sequence[Outcome], total: int, *, seed: int, engine: str) -> str:
    """Return the table of a run, as Markdown."""
    failed = sum(1 for outcome in outcomes if outcome.faults)
    lines = [
        "# What happened at every effect",
        "",
        f"{len(outcomes)} of {total} cases, on {engine}, seed {seed}; {failed} not as promised.",
        "",
        *(f"- `{fault}`: {words}" for fault, (words, _) in FAULTS.items()),
        "",
        "| scene | phase | k | effect | fault | the process | recover() | the world is as | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    order = {phase: number for number, phase in enumerate(PHASES)}
    for one in sorted(outcomes, key=lambda one: (one.case.scene, order[one.case.phase], one.case.number)):
        cells = (
            one.case.scene,
            one.case.phase,
            str(one.case.number),
            one.struck or "(not reached)",
            one.case.fault,
            one.victim,
            one.recovery or "-",
            one.state or "neither",
            "; ".join(fault.splitlines()[0] for fault in one.faults) or one.excuse or "ok",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])
