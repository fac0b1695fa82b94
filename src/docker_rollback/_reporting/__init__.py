"""Reports the steps of an operation: progress, log, times and downtime."""

from docker_rollback._reporting.progress import Listener, Progress, StepName
from docker_rollback._reporting.reporter import Downtime, Reporter, StepTime
