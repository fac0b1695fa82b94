"""The handle of a container of the in-memory engine, for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from attrs import frozen

from docker_rollback.testing._fake.containers import Container
from docker_rollback.testing._fake.files import Files
from docker_rollback.testing._fake.life import Life
from docker_rollback.testing._fake.tree import Now, View  # noqa: F401  (in the inherited constructor)


@frozen
class FakeContainer(Files):
    """A handle on a container: reads and writes its files as its own program does, and controls that program.

    Paths lead through its mounts. The callables given to `FakeEngine.on_start` and `FakeEngine.on_stop` receive one.

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
        """The container's full id."""
        return self._container.id

    @property
    def name(self) -> str:
        """The container's name, without a slash."""
        return self._container.name

    @property
    def image(self) -> str:
        """The image reference that the container was created from, verbatim."""
        return str(self._container.config["Image"])

    @property
    def status(self) -> str:
        """The container's status, in the engine's word; "removed" once it is gone."""
        return self._container.status if self._container.id in self._life.maker.known else "removed"

    @property
    def exit_code(self) -> int:
        """The exit code of the container's last run."""
        return self._container.exit_code

    @property
    def health(self) -> str | None:
        """The container's health, or None if it has no health check."""
        return self._container.health

    def exit(self, code: int = 0) -> None:
        """Make the main program exit by itself; the restart policy may start the container again."""
        with self._lock:
            if self._container.alive:
                self._life.end(self._container, code, asked=False)

    def probe(self, exit_code: int, output: str = "") -> None:
        """Report a health check's result: 0 is healthy; as many failures in a row as it has retries (3) are unhealthy.

        It does nothing if the container has no health check.
        """
        with self._lock:
            self._life.probe(self._container, exit_code, output)

    def starting(self) -> None:
        """Keep the health "starting" until `probe`; without this, a container is healthy as soon as it runs."""
        with self._lock:
            self._container.undecided = True

    def shows_natively(self, inspection: Mapping[str, Any]) -> None:
        """Make the engine show this inspection in an API of its own, as Podman does."""
        with self._lock:
            self._container.native = dict(inspection)

    def print(self, *lines: str) -> None:
        """Add lines to the container's log, as if its program had printed them."""
        with self._lock:
            self._container.log.extend(lines)

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Call `action` once the engine's clock has advanced by `seconds`, unless this run has ended by then.

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
