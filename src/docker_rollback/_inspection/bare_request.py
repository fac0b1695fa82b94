"""Builds the create request of helpers and guards: a container without anything of the application. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def quiet_request(
    image: str, program: Sequence[str], *, labels: Mapping[str, str], hidden: Iterable[str], host: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the request for a container of ours that nothing mistakes for the application.

    The labels of its image are `hidden`: they are cleared, because proxies, backup tools, updaters and compose use
    them. `host` has additional fields of its host configuration.
    """
    return {
        "Image": image,
        "Entrypoint": list(program),
        "Cmd": [],
        "User": "0:0",
        "WorkingDir": "/",
        "Labels": {**dict.fromkeys(hidden, ""), **labels},
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGKILL",
        "HostConfig": {
            "NetworkMode": "none",
            # Any other driver also writes the output to disk, which is 23 times slower.
            "LogConfig": {"Type": "none", "Config": {}},
            "CapDrop": ["ALL"],
            "SecurityOpt": ["label=disable"],
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            **host,
        },
    }
