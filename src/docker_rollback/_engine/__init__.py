"""Access to container engines. Other rooms reach an engine only through this one."""

from docker_rollback._engine.client import Client, as_engine
from docker_rollback._engine.port import (
    EVERY,
    Change,
    ContainerFilter,
    Engine,
    EngineInfo,
    Finished,
    Inspection,
    Process,
)
from docker_rollback._engine.removal import removal_error, remove_named
