"""The handle by which a test holds a container of the in-memory engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from attrs import frozen

from docker_rollback.testing._fake_containers import Container
from docker_rollback.testing._fake_files import Files
from docker_rollback.testing._fake_life import Life


@frozen
class FakeContainer(Files):
    """A container as a test sees it: its files, as its own program reads and writes them, and what that program does.

    Paths lead through its mounts. What `FakeEngine.on_start` and `FakeEngine.on_stop` call is given one of these.

    Example:
        >>> web = fake.container("web")
        >>> web.write("/etc/motd", "hello")
        >>> web.exit(3)
        >>> web.status
        'exited'
    """

    _container: Container
    _life: Life

    @property
    def id(self) -> str:
        """Its full id."""
        return self._container.id

    @property
    def name(self) -> str:
        """Its name, without a slash."""
        return self._container.name

    @property
    def image(self) -> str:
        """What it was created from, to the letter."""
        return str(self._container.config["Image"])

    @property
    def status(self) -> str:
        """What it does, in the engine's word; "removed" once it is gone."""
        return self._container.status if self._container.id in self._life.maker.known else "removed"

    @property
    def exit_code(self) -> int:
        """Of its last run."""
        return self._container.exit_code

    @property
    def health(self) -> str | None:
        """What its health check found; None where it has none."""
        return self._container.health

    def exit(self, code: int = 0) -> None:
        """Let its program end by itself; its restart policy may bring it back."""
        with self._lock:
            if self._container.alive:
                self._life.end(self._container, code, asked=False)

    def probe(self, exit_code: int, output: str = "") -> None:
        """Let its health check find something: 0 is healthy; as many others in a row as it has retries (3) are not.

        Without effect where it has no check.
        """
        with self._lock:
            self._life.probe(self._container, exit_code, output)

    def starting(self) -> None:
        """Leave its health undecided until `probe`: without this, a container is healthy as soon as it runs."""
        with self._lock:
            self._container.undecided = True

    def shows_natively(self, inspection: Mapping[str, Any]) -> None:
        """Let the engine show this by an API of its own, as Podman does."""
        with self._lock:
            self._container.native = dict(inspection)

    def print(self, *lines: str) -> None:
        """Let its program print lines, for its log."""
        with self._lock:
            self._container.log.extend(lines)

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Let `action` happen once the engine's clock has moved on so far, if this run of its program still goes on.

        Example:
            >>> fake.on_start("shop:2", lambda shop: shop.after(5, lambda: shop.exit(1)))
        """
        with self._lock:
            self._life.later(self._container, seconds, action)

    def __repr__(self) -> str:
        return f"<FakeContainer {self.name!r} {self.status}>"


def handle(container: Container, life: Life, lock: AbstractContextManager[object]) -> FakeContainer:
    """Return the handle of a container."""
    return FakeContainer(container.view, life.maker.moments.nanoseconds, lock, container, life)
