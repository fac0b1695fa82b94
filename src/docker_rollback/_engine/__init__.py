"""The one door to container engines."""

from __future__ import annotations

from docker_rollback._engine._docker import DockerEngine
from docker_rollback._engine._docker_client import Client, as_engine
from docker_rollback._engine._retry import RetryingEngine
from docker_rollback._engine.port import Change, ContainerFilter, Engine, EngineInfo, Finished, Process

__all__ = [
    "Change",
    "Client",
    "ContainerFilter",
    "DockerEngine",
    "Engine",
    "EngineInfo",
    "Finished",
    "Process",
    "RetryingEngine",
    "as_engine",
]
