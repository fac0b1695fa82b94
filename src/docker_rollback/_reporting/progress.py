"""Defines the steps of an operation, a progress event, and the function that receives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from attrs import frozen

StepName: TypeAlias = Literal[
    "preflight",
    "live pass",
    "before_quiesce",
    "quiesce",
    "capture",
    "resume",
    "after_resume",
    "store",
    "update",
    "verify",
    "watch",
    "keep",
    "restore",
    "verify again",
    "after_rollback",
    "finish",
    "pull",
    "replace",
    "data",
]
"""The steps of a rollback, in this order; a step that is not needed is skipped.

- "preflight": finish what an earlier operation left undone, and check everything that can be wrong.
- "live pass": archive large volumes while they are in use.
- "before_quiesce", "after_resume", "after_rollback": run the hooks of that name.
- "quiesce", "capture", "resume": stop the containers, capture them, start them. The service is down in these three.
- "store": write the images and the manifest to the store, and read them back.
- "update": the caller's block.
- "verify", "watch": run the checks, then the probation.
- "keep": save the state of a failed update.
- "restore", "verify again": restore the backup, then run the checks that passed before the update.
- "finish": remove leftovers and old backups.

"pull", "replace" and "data" (of a volume) are announced within another step and are not measured.
"""


@frozen
class Progress:
    """A progress event of a backup, a rollback or a restore.

    Attributes:
        step: the current step.
        subject: the container, volume or image; for "restore", the step of the plan in words; for a hook, its program.
        done: bytes so far; for "data" only.
        expected: total bytes, approximate while a volume is archived; for "data" only, and None if unknown.
    """

    step: StepName
    subject: str
    done: int | None = None
    expected: int | None = None


Listener: TypeAlias = Callable[[Progress], None]
"""Receives each progress event, also from other threads. It has to return quickly: the service may be down."""
