"""Rolls back under the journal, and finishes operations whose process died."""

from docker_rollback._recovery.operations import Operation, Operations
from docker_rollback._recovery.recovery import Recovery
