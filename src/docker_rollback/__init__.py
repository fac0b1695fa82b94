"""Updates of containers, made transactional.

>>> from docker_rollback import rollback
>>> with rollback("web"):
...     update()

The names that most programs need are here. `docker_rollback.parts` has the components behind `rollback`,
`docker_rollback.reports` the values that operations return, `docker_rollback.errors` every error, and
`docker_rollback.types` the types of arguments.
"""

from importlib import import_module

# Type checkers treat this name as true. Importing it from typing would take longer than the rest of this module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from docker_rollback._api import backup, recover, replace, restore, rollback
    from docker_rollback._capture import Exec, Hooks
    from docker_rollback._containers import ContainerSnapshotter
    from docker_rollback._engine.docker import DockerEngine
    from docker_rollback._inspection import compare
    from docker_rollback._model import Backup, Exclude
    from docker_rollback._reporting import Progress
    from docker_rollback._restore import Restorer
    from docker_rollback._rollback import (
        CheckedContainer,
        Outcome,
        Rollback,
        Status,
        eventually,
        healthy,
        http_ok,
        tcp_open,
    )
    from docker_rollback._store import BackupStore, Keep
    from docker_rollback._volumes import VolumeArchiver
    from docker_rollback.errors import (
        BackupNotFoundError,
        ContainerBusyError,
        ContainerNotFoundError,
        CorruptBackupError,
        DockerRollbackError,
        DowntimeExceededError,
        EngineError,
        EngineUnavailableError,
        HookError,
        ImageNotFoundError,
        RecoveryFailedError,
        RollbackFailedError,
        RollbackRequested,
        StoreError,
        StoreFullError,
        UnfinishedElsewhereError,
        UnfinishedRollbackError,
        UnsupportedContainerError,
        UpdateRejectedError,
    )

    __version__: str

_HOMES = {
    "_api": (
        "backup",
        "recover",
        "replace",
        "restore",
        "rollback",
    ),
    "_capture": (
        "Exec",
        "Hooks",
    ),
    "_containers": ("ContainerSnapshotter",),
    "_engine.docker": ("DockerEngine",),
    "_inspection": ("compare",),
    "_model": (
        "Backup",
        "Exclude",
    ),
    "_reporting": ("Progress",),
    "_restore": ("Restorer",),
    "_rollback": (
        "CheckedContainer",
        "Outcome",
        "Rollback",
        "Status",
        "eventually",
        "healthy",
        "http_ok",
        "tcp_open",
    ),
    "_store": (
        "BackupStore",
        "Keep",
    ),
    "_volumes": ("VolumeArchiver",),
}
"""The module of each public name that is no error. It is imported when the name is first used, because some are slow to
import."""

_SUBMODULES = ("errors", "parts", "reports", "testing", "types")

__all__ = [
    "Backup",
    "BackupNotFoundError",
    "BackupStore",
    "CheckedContainer",
    "ContainerBusyError",
    "ContainerNotFoundError",
    "ContainerSnapshotter",
    "CorruptBackupError",
    "DockerEngine",
    "DockerRollbackError",
    "DowntimeExceededError",
    "EngineError",
    "EngineUnavailableError",
    "Exclude",
    "Exec",
    "HookError",
    "Hooks",
    "ImageNotFoundError",
    "Keep",
    "Outcome",
    "Progress",
    "RecoveryFailedError",
    "Restorer",
    "Rollback",
    "RollbackFailedError",
    "RollbackRequested",
    "Status",
    "StoreError",
    "StoreFullError",
    "UnfinishedElsewhereError",
    "UnfinishedRollbackError",
    "UnsupportedContainerError",
    "UpdateRejectedError",
    "VolumeArchiver",
    "__version__",
    "backup",
    "compare",
    "eventually",
    "healthy",
    "http_ok",
    "recover",
    "replace",
    "restore",
    "rollback",
    "tcp_open",
]

_HOME_OF = dict.fromkeys(__all__, "errors") | {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name, or a public submodule, when it is first used."""
    if name == "__version__":
        value: object = import_module("importlib.metadata").version("docker-rollback")
    elif name in _HOME_OF:
        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    elif name in _SUBMODULES:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, for completion."""
    return sorted({*__all__, *_SUBMODULES, *globals()})
