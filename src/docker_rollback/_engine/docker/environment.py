"""Creates the docker-py client for the engine that the environment names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import docker
from docker import ContextAPI, DockerClient
from docker.constants import DEFAULT_UNIX_SOCKET
from docker.errors import DockerException, TLSParameterError

from docker_rollback._engine.docker.errors import Asking
from docker_rollback.errors import EngineUnavailableError

_REACH: Final = Asking("reach the engine that the environment names")
_DEFAULT: Final = DEFAULT_UNIX_SOCKET.replace("http+", "")
_OF_TLS: Final = ("ca.pem", "cert.pem", "key.pem")


def client_from_env() -> DockerClient:
    """Return a client for the engine that the `docker` command would use; see `DockerEngine.from_env`."""
    environment = os.environ
    where = environment.get("DOCKER_HOST") or _of_context(environment) or _DEFAULT
    if reason := _why_not(where, environment):
        raise EngineUnavailableError(_REACH.action, reason)
    with _REACH.translated(where):
        try:
            return docker.from_env()
        except TLSParameterError as error:
            raise EngineUnavailableError(_REACH.action, f"TLS to {where}: {error}") from error


def _of_context(environment: Mapping[str, str]) -> str:
    """Return the address of the current context; empty for the default one, which docker-py treats as missing."""
    name = environment.get("DOCKER_CONTEXT") or None
    try:
        # The type stubs do not say that it may return None.
        context: Any = ContextAPI.get_context(name)
    except (DockerException, OSError, ValueError) as error:
        reason = f"the docker context cannot be read: {error}; see `docker context ls`, or set DOCKER_HOST"
        raise EngineUnavailableError(_REACH.action, reason) from error
    if context is None:
        which = repr(name) if name is not None else "of the name that is in use"
        reason = f"there is no docker context {which}; `docker context ls` lists them"
        raise EngineUnavailableError(_REACH.action, reason)
    return "" if context.Name == "default" else str(context.Host or "")


def _why_not(where: str, environment: Mapping[str, str]) -> str:
    """Return what a connection to the address lacks; empty if nothing."""
    kind, known, _ = where.partition("://")
    if not known or kind not in ("unix", "tcp", "http", "https", "ssh", "npipe", "http+unix", "fd"):
        return (
            f"{where!r} is not an engine's address; set DOCKER_HOST to one such as unix:///var/run/docker.sock, "
            "tcp://host:2376 or ssh://user@host"
        )
    if kind == "ssh" and find_spec("paramiko") is None:
        return f"{where} needs paramiko, which is not installed: install docker-rollback with its extra 'ssh'"
    wanted = bool(environment.get("DOCKER_CERT_PATH")) or bool(environment.get("DOCKER_TLS_VERIFY"))
    if wanted and kind in ("tcp", "https") and environment.get("DOCKER_HOST"):
        folder = Path(environment.get("DOCKER_CERT_PATH") or Path("~/.docker").expanduser())
        if missing := [name for name in _OF_TLS if not (folder / name).is_file()]:
            return (
                f"DOCKER_TLS_VERIFY or DOCKER_CERT_PATH asks for TLS to {where}, and {folder} has no "
                f"{', '.join(missing)}; set DOCKER_CERT_PATH to the folder that has them, or unset both"
            )
    return ""
