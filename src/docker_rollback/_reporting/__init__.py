"""Progress and timing of the steps of an operation."""

from docker_rollback._reporting.progress import Listener, Progress, Reporter, StepName
from docker_rollback._reporting.timeline import Downtime, OutcomeStep, StepTime, Timeline

__all__ = [
    "Downtime",
    "Listener",
    "OutcomeStep",
    "Progress",
    "Reporter",
    "StepName",
    "StepTime",
    "Timeline",
]
