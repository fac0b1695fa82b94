"""The half of a create request that helpers and guards share: a container that has nothing of the application."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def quiet_request(
    image: str, program: Sequence[str], *, labels: Mapping[str, str], hidden: Iterable[str], host: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the request for a container of ours that nobody takes for the application. Pure.

    Args:
        image: the name or id of its image.
        program: what it runs.
        labels: its labels.
        hidden: the labels of the image. A proxy, a backup tool, an updater or compose would go by them.
        host: what else its host configuration has.
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
            # With any other driver, all that it prints is written to disk as well: 23 times slower.
            "LogConfig": {"Type": "none", "Config": {}},
            "CapDrop": ["ALL"],
            "SecurityOpt": ["label=disable"],
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            **host,
        },
    }
