"""Containers that go while a test looks at them, by somebody at work or by their engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import docker
from docker.errors import APIError

PATIENCE = 60.0
"""Seconds that an engine gets for a removal that it has begun."""


@contextmanager
def unless_gone() -> Iterator[None]:
    """Let a container go meanwhile; Podman has it in one place and not in another then, and answers 500."""
    try:
        yield
    except APIError as error:
        if error.status_code != 404 and "no such container" not in str(error):
            raise


def remove_container(client: docker.DockerClient, container: str) -> None:
    """Remove a container with its anonymous volumes; it is gone then, also where its engine was removing it already."""
    with unless_gone():
        try:
            client.api.remove_container(container, force=True, v=True)
        except APIError as error:
            if error.status_code != 409:
                raise
            _wait_until_gone(client, container, error)


def _wait_until_gone(client: docker.DockerClient, container: str, error: APIError) -> None:
    end = time.monotonic() + PATIENCE
    # Ends with an error in any case: once the container is gone, with that of `inspect_container`.
    while client.api.inspect_container(container):
        if time.monotonic() > end:
            raise error
        time.sleep(0.05)
