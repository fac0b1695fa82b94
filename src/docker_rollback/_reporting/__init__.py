"""Reports the steps of an operation: progress, log, times and downtime."""

from docker_rollback._reporting.progress import Listener, Progress
from docker_rollback._reporting.reporter import Downtime, Reporter, StepTime
from docker_rollback._reporting.steps import StepName

__all__ = [
    "Downtime",
    "Listener",
    "Progress",
    "Reporter",
    "StepName",
    "StepTime",
]
