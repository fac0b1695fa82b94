"""The public names: which there are, where, and what importing them costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import get_args, get_type_hints

import docker
import pytest

import docker_rollback
from docker_rollback import errors, parts, reports, testing, types

NAMES = {
    "": [
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
    ],
    "parts": [
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
    ],
    "reports": [
        "ArchivedVolume",
        "BackedUp",
        "Clock",
        "ContainerSnapshot",
        "ContainerState",
        "Descriptor",
        "Difference",
        "Downtime",
        "EngineRecord",
        "HostFile",
        "ImageSnapshot",
        "InFlight",
        "LedBack",
        "Mount",
        "NetworkRecord",
        "NotCovered",
        "Observed",
        "Project",
        "PruneReport",
        "Recovered",
        "RejectedCheck",
        "Report",
        "StepTime",
        "Trouble",
        "VolumeArchive",
    ],
    "types": [
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
    ],
}
MODULES = [docker_rollback, parts, reports, types, errors]


@pytest.mark.parametrize("where", NAMES)
def test_the_public_names_are_these(where: str) -> None:
    """A name that comes or goes is a decision, taken here and in the changelog."""
    module = import_module(f"docker_rollback.{where}".removesuffix("."))
    assert [name for name in module.__all__ if name != "__version__"] == NAMES[where]


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_there_and_documented(module: ModuleType) -> None:
    """Completion in an editor leads to something with words of its own."""
    for name in module.__all__:
        assert name in dir(module)
        assert getattr(module, name).__doc__ or module is types, name


def _annotated(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Yield the public functions and classes of a module, and the functions of these classes, ours alone."""
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            yield name, value
        for kind in inspect.getmro(value) if inspect.isclass(value) else ():
            if kind.__module__.startswith("docker_rollback."):
                yield from ((f"{name}.{key}", function) for key, function in _functions(kind))


def _functions(kind: type) -> Iterator[tuple[str, object]]:
    for key, member in vars(kind).items():
        for function in (member, *(getattr(member, inner, None) for inner in ("__func__", "fget", "func"))):
            if inspect.isfunction(function):
                yield key, function


@pytest.mark.parametrize("module", [*MODULES, testing])
def test_every_annotation_can_be_evaluated(module: ModuleType) -> None:
    """A tool that reads annotations at run time finds their types, inherited methods and constructors included."""
    found = dict(_annotated(module))
    assert found or module is types
    for name, annotated in found.items():
        try:
            get_type_hints(annotated)
        except NameError as error:
            pytest.fail(f"{module.__name__}.{name}: {error}")


def test_the_types_of_a_client_are_those_of_docker_py() -> None:
    """They are docker-py's own, although importing the package does not import it."""
    kinds = get_args(get_type_hints(docker_rollback.rollback)["client"])
    assert kinds == (docker.DockerClient, docker.APIClient, parts.Engine, type(None))


def test_no_name_has_two_homes() -> None:
    """Only errors are in two places: all of them in their module, and those that programs catch at the top."""
    names = [name for module in MODULES if module is not errors for name in module.__all__]
    assert len(names) == len(set(names))


def test_every_error_has_one_root() -> None:
    """One except clause catches whatever the library has to say, and control flow is not part of it."""
    for name in errors.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(errors, name), errors.DockerRollbackError)
    assert not issubclass(errors.RollbackRequested, errors.DockerRollbackError)


def test_the_version_is_that_of_the_package() -> None:
    """It stands in one place."""
    assert docker_rollback.__version__ == version("docker-rollback")


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A typo is told as Python tells it."""
    with pytest.raises(AttributeError, match="module 'docker_rollback' has no attribute 'rolback'"):
        docker_rollback.rolback  # noqa: B018  (it is the access that raises)


@pytest.mark.parametrize(
    "statement", ["import docker_rollback", "from docker_rollback import rollback, healthy, parts, reports, types"]
)
def test_docker_py_is_imported_when_an_engine_is_needed(statement: str) -> None:
    """It takes half a second to import, with requests; a program that shows its help does not wait for it."""
    script = f"import sys; {statement}; print([name for name in ('docker', 'requests') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"


def test_importing_the_package_imports_nothing_of_it() -> None:
    """Its names are found when they are used."""
    script = "import sys, docker_rollback; print([name for name in sys.modules if name.startswith('docker_rollback.')])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"
