"""Restores a backup: plans the steps, then applies them."""

from docker_rollback._restore.container_slot import HALF_REMOVED
from docker_rollback._restore.restorer import Intruders, Restorer
from docker_rollback._restore.surroundings import DetachedContainers
