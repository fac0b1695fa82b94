"""The components behind `rollback`, for programs that compose them themselves."""

from docker_rollback._capture import Call, Capture, CaptureOptions, Preflight, VolumeOptions
from docker_rollback._engine import Change, ContainerFilter, Engine, EngineInfo, Finished, Process
from docker_rollback._recovery import Operations, Recovery
from docker_rollback._reporting import Reporter
from docker_rollback._rollback import RollbackOptions, RollbackParts
from docker_rollback._store import Draft

__all__ = [
    "Call",
    "Capture",
    "CaptureOptions",
    "Change",
    "ContainerFilter",
    "Draft",
    "Engine",
    "EngineInfo",
    "Finished",
    "Operations",
    "Preflight",
    "Process",
    "Recovery",
    "Reporter",
    "RollbackOptions",
    "RollbackParts",
    "VolumeOptions",
]
