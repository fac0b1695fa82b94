"""Defines a progress event and the function that receives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from attrs import frozen

from docker_rollback._reporting.steps import StepName


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
