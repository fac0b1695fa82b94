"""Restores a backup: a plan, then its steps."""

from docker_rollback._restore.container_slot import HALF_REMOVED
from docker_rollback._restore.restorer import Intruders, Restorer
from docker_rollback._restore.surroundings import DetachedContainers

__all__ = [
    "HALF_REMOVED",
    "DetachedContainers",
    "Intruders",
    "Restorer",
]
