"""Tests that clean up after themselves do so beside an engine that is at it already."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from docker.errors import APIError

from tests.removal import remove_container, unless_gone


def refusal(status: int, reason: str) -> APIError:
    """Return an engine's answer as docker-py raises it."""
    response = requests.Response()
    response.status_code = status
    return APIError("refused", response=response, explanation=reason)


class Engine:
    """Answers a removal with a refusal, and inspections until the container is gone."""

    def __init__(self, refused: APIError, *, looks: int) -> None:
        self.api = SimpleNamespace(remove_container=self.remove, inspect_container=self.inspect)
        self.refused = refused
        self.left: Iterator[dict[str, Any]] = iter([{"State": {"Status": "removing"}}] * looks)

    def remove(self, *_: Any, **__: Any) -> None:
        """Refuse it."""
        raise self.refused

    def inspect(self, _: str) -> dict[str, Any]:
        """Return it while it is there."""
        for found in self.left:
            return found
        raise refusal(404, "No such container: web")


def test_a_removal_that_is_under_way_is_waited_for() -> None:
    """Docker refuses a second removal; a volume of the container could not be removed before the first has ended."""
    engine: Any = Engine(refusal(409, "removal of container web is already in progress"), looks=3)
    remove_container(engine, "web")
    assert list(engine.left) == []


def test_any_other_refusal_is_told() -> None:
    """What an engine cannot do is no container that is gone."""
    engine: Any = Engine(refusal(500, "device or resource busy"), looks=0)
    with pytest.raises(APIError, match="busy"):
        remove_container(engine, "web")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, "No such container: web"),
        (500, "no container with ID 0d7eb276 found in database: no such container"),
    ],
)
def test_what_is_gone_is_gone_on_every_engine(status: int, reason: str) -> None:
    """Podman answers 500 where Docker answers 404."""
    with unless_gone():
        raise refusal(status, reason)
