"""What Podman alone knows of a container, and what Docker's API on it cannot bring back. Pure."""

from docker_rollback._inspection.podman.loss import PROCESSES, PROCESSES_NOTE, Loss, loss_of, requires

__all__ = ["PROCESSES", "PROCESSES_NOTE", "Loss", "loss_of", "requires"]
