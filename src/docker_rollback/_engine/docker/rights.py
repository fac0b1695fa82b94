"""Finds requests that an engine, or a proxy in front of it, forbids, by requests about missing objects.

A proxy that protects an engine's socket refuses by method and path (HTTP 403), before the engine could answer that the
object is missing (404). Loading and importing images, and creating networks, cannot be tested in this way.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from docker_rollback._engine.docker.errors import Asking
from docker_rollback._engine.docker.http import Wire
from docker_rollback.errors import EngineError, EngineForbiddenError

# The requests in words, and as requests that no engine can fulfil.
_PROBES: Final[tuple[tuple[str, str, str, Any], ...]] = (
    ("list containers", "GET", "/containers/json?limit=1", None),
    ("create containers", "POST", "/containers/create?name={nobody}", {"Image": "{nobody}"}),
    ("start containers", "POST", "/containers/{nobody}/start", None),
    ("stop containers", "POST", "/containers/{nobody}/stop", None),
    ("pause containers", "POST", "/containers/{nobody}/pause", None),
    ("unpause containers", "POST", "/containers/{nobody}/unpause", None),
    ("rename containers", "POST", "/containers/{nobody}/rename?name={nobody}", None),
    ("update containers", "POST", "/containers/{nobody}/update", {}),
    ("remove containers", "DELETE", "/containers/{nobody}", None),
    ("see what containers changed", "GET", "/containers/{nobody}/changes", None),
    ("run programs in containers", "POST", "/containers/{nobody}/exec", {"Cmd": ["true"]}),
    ("commit containers", "POST", "/commit?container={nobody}", {}),
    ("inspect images", "GET", "/images/{nobody}/json", None),
    ("tag images", "POST", "/images/{nobody}/tag?repo={nobody}&tag=1", None),
    ("save images", "GET", "/images/{nobody}/get", None),
    ("remove images", "DELETE", "/images/{nobody}", None),
    ("inspect networks", "GET", "/networks/{nobody}", None),
    ("connect networks", "POST", "/networks/{nobody}/connect", {"Container": "{nobody}"}),
    ("disconnect networks", "POST", "/networks/{nobody}/disconnect", {"Container": "{nobody}"}),
    ("remove networks", "DELETE", "/networks/{nobody}", None),
    ("inspect volumes", "GET", "/volumes/{nobody}", None),
    ("remove volumes", "DELETE", "/volumes/{nobody}", None),
)

_NATIVE: Final = "inspect containers by Podman's own API (GET /libpod/containers/.../json)"


def forbidden(wire: Wire) -> list[str]:
    """Return, in words, the kinds of requests of this library that are always refused."""
    nobody = f"docker-rollback-nobody-{secrets.token_hex(8)}"

    def probe(words: str, method: str, path: str, body: Any) -> None:
        filled = body and {key: nobody if value == "{nobody}" else value for key, value in body.items()}
        wire.answer(method, path.format(nobody=nobody), Asking(words), body=filled).close()

    found = [request[0] for request in _PROBES if _is_forbidden(partial(probe, *request))]
    if wire.podman and _is_forbidden(lambda: wire.native(f"/containers/{nobody}/json", Asking(_NATIVE))):
        found.append(_NATIVE)
    return found


def _is_forbidden(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except EngineForbiddenError:
        return True
    except EngineError as error:
        # The object is missing, as expected. An error without a status means that nothing answered.
        if error.status is None:
            raise
    return False
