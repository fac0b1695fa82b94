"""The types of public arguments, for wrappers that pass them on."""

from docker_rollback._api import ReplaceArguments, RollbackArguments, StoreArgument
from docker_rollback._arguments import ContainerArgument
from docker_rollback._capture import FilesArgument, HookArgument
from docker_rollback._engine import Client
from docker_rollback._host import Timer
from docker_rollback._inspection import ChangeArguments
from docker_rollback._model import ExcludeArgument, Quiesce, Shared, Way
from docker_rollback._reporting import Listener, StepName
from docker_rollback._rollback import Check, OutcomeListener, Pull
from docker_rollback._store import KeepArgument

__all__ = [
    "ChangeArguments",
    "Check",
    "Client",
    "ContainerArgument",
    "ExcludeArgument",
    "FilesArgument",
    "HookArgument",
    "KeepArgument",
    "Listener",
    "OutcomeListener",
    "Pull",
    "Quiesce",
    "ReplaceArguments",
    "RollbackArguments",
    "Shared",
    "StepName",
    "StoreArgument",
    "Timer",
    "Way",
]
