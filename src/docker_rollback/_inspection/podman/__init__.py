"""Finds the settings of a Podman container that Docker's API cannot restore. Pure."""

from docker_rollback._inspection.podman.loss import PROCESSES, PROCESSES_NOTE, Loss, loss_of, requires

__all__ = ["PROCESSES", "PROCESSES_NOTE", "Loss", "loss_of", "requires"]
