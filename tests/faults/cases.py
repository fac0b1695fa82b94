"""Which faults there are, where each can happen, and which cases a run plays. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, TypeAlias

from attrs import frozen

Kind: TypeAlias = Literal["engine", "stream", "write", "disk", "program", "data"]
"""What an effect is: a request to the engine, input for a program in a container, bytes or names that need room on the
disk, any other change of the disk, a program of our own on a volume, the update's own change of files."""

Phase: TypeAlias = Literal["backup", "body", "rollback", "commit"]

PHASES: Final[tuple[Phase, ...]] = ("backup", "body", "rollback", "commit")

FAULTS: Final[Mapping[str, tuple[str, frozenset[Kind]]]] = {
    "kill-before": (
        "our process is killed before it",
        frozenset({"engine", "stream", "write", "disk", "program", "data"}),
    ),
    "kill-after": (
        "our process is killed after it",
        frozenset({"engine", "stream", "write", "disk", "program", "data"}),
    ),
    "daemon-before": (
        "the engine is killed before it, and started again",
        frozenset({"engine", "stream", "write", "disk", "program"}),
    ),
    "daemon-during": ("the engine is killed while it does it, and started again", frozenset({"engine", "stream"})),
    "error-500": ("the engine answers 500 and does nothing", frozenset({"engine"})),
    "timeout": ("it is done, and the answer takes too long", frozenset({"engine"})),
    "drop-before": ("the connection breaks before it is done", frozenset({"engine", "stream"})),
    "drop-after": ("it is done, and the connection breaks before the answer", frozenset({"engine"})),
    "disk-full": ("there is no room left on the disk", frozenset({"write"})),
}
"""Each fault, in words, and at which kinds of effects it can happen."""


@frozen
class Scene:
    """One way in which containers can be, and be updated.

    Attributes:
        name: what it is called.
        way: how the library reaches volumes.
        dirty: whether containers wrote outside their volumes before the backup.
        replace: whether the update removes containers and makes others; otherwise it only changes them.
        library: whether the update is the library's own, `tx.replace`; it replaces neither network nor volumes.
        group: whether there are eight containers that need each other; otherwise there is one. Several threads work on
            a group, so which effect is the n-th one differs from run to run.
    """

    name: str
    way: Literal["direct", "helper"]
    dirty: bool
    replace: bool
    library: bool = False
    group: bool = False


SCENES: Final = (
    Scene("direct-clean", "direct", dirty=False, replace=True),
    Scene("helper-dirty", "helper", dirty=True, replace=True),
    Scene("direct-dirty", "direct", dirty=True, replace=False),
    Scene("helper-clean", "helper", dirty=False, replace=False),
    Scene("direct-library", "direct", dirty=True, replace=False, library=True),
    Scene("direct-group", "direct", dirty=True, replace=True, group=True),
)


@frozen
class Effect:
    """One effect that a run was seen to have.

    Attributes:
        number: which of its phase it is, from 1.
        kind: what it is.
        name: what it does, in words.
    """

    number: int
    kind: Kind
    name: str


@frozen
class Case:
    """One fault at one effect.

    Attributes:
        scene: the name of the scene.
        phase: the phase.
        fault: which fault.
        number: at which effect of the phase, or the next one at which the fault can happen.
        effect: what that effect was when it was counted, which may be another one than in the run of the case; empty
            where the case was named by hand.
    """

    scene: str
    phase: Phase
    fault: str
    number: int
    effect: str = ""

    def __str__(self) -> str:
        return f"{self.phase}:{self.fault}:{self.number}"


def all_cases(seen: Mapping[tuple[str, Phase], Sequence[Effect]]) -> Iterator[Case]:
    """Yield every case that the effects of each scene and phase allow."""
    ours = {scene.name for scene in SCENES if scene.library}
    for (scene, phase), effects in seen.items():
        # What fails an update that is not ours is the update's affair.
        others = phase == "body" and scene not in ours
        for effect in effects:
            for fault, (_, kinds) in FAULTS.items():
                if effect.kind in kinds and not (others and fault in ("error-500", "timeout")):
                    yield Case(scene, phase, fault, effect.number, effect.name)


def shuffled(cases: Iterable[Case], seed: int) -> list[Case]:
    """Return the cases in an order in which any beginning is a fair sample: scenes, phases and faults take turns."""
    dice = random.Random(seed)
    groups: dict[tuple[str, Phase, str], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.scene, case.phase, case.fault), []).append(case)
    queues = list(groups.values())
    for queue in queues:
        dice.shuffle(queue)
    order: list[Case] = []
    while queues:
        dice.shuffle(queues)
        order += [queue.pop() for queue in queues]
        queues = [queue for queue in queues if queue]
    return order
