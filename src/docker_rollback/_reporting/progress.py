"""Defines a progress event and the function that receives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from attrs import frozen

StepName: TypeAlias = Literal[
    "hook", "quiesce", "commit", "resume", "store", "restore", "data", "pull", "replace", "verify", "watch"
]
"""What can be going on: the hooks of one name, three steps of a capture and the storing of its images, a step of a
restore's plan, the data of a volume on its way into the store or back, an image on its way into the engine, a container
being replaced, the checks of some, and the probation of these."""


@frozen
class Progress:
    """A progress event of a backup, a rollback or a restore.

    Attributes:
        step: what is being done.
        subject: to which container, volume or image; for "restore", the step of the plan in words; for "hook", which.
        done: bytes so far; for "data" only.
        expected: total bytes, approximate while a volume is archived; for "data" only, and None if unknown.
    """

    step: StepName
    subject: str
    done: int | None = None
    expected: int | None = None


Listener: TypeAlias = Callable[[Progress], None]
"""Receives each progress event, also from other threads. It has to return quickly: the service may be down."""
