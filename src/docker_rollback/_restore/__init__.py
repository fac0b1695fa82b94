"""Restores a backup: a plan, then its steps."""

from docker_rollback._restore.container_slot import HALF_REMOVED
from docker_rollback._restore.restorer import Intruders, Restorer
from docker_rollback._restore.surroundings import OffNetworks

__all__ = [
    "HALF_REMOVED",
    "Intruders",
    "OffNetworks",
    "Restorer",
]
