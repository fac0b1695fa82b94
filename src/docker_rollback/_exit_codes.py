"""The exit codes of the command, each with one meaning."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How the command ended. A process that a signal ends has 128 and the signal's number."""

    DONE = 0
    """Done, or there was nothing to do."""

    FAILED = 1
    """It failed; the message says what to do."""

    USAGE = 2
    """The arguments are wrong."""

    UNFINISHED = 5
    """Unfinished work is in the way; the message has the command that finishes it."""
