"""Checks: callables that are given a container and raise unless it is well."""

from __future__ import annotations

import http.client
import logging
import math
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import TypeAlias

from docker_rollback._engine.port import Engine, Inspection
from docker_rollback._model import ContainerState
from docker_rollback._spec import observe
from docker_rollback.errors import ContainerNotFoundError, EngineError, UpdateRejectedError

logger = logging.getLogger("docker_rollback")

_POLL = 0.1
"""Seconds between two looks at a container."""

_LOG_LINES = 20


class CheckedContainer:
    """A container as a check sees it: always the one that bears the name now, whatever its id.

    Attributes:
        name: its name.
        before: what it was doing when the backup was taken.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        before: ContainerState,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self.name = name
        self.before = before
        self.clock = clock
        self.sleep = sleep

    def hurried(self, *, clock: Callable[[], float], sleep: Callable[[float], None]) -> CheckedContainer:
        """Return the same container with another sense of time."""
        return CheckedContainer(self._engine, self.name, self.before, clock=clock, sleep=sleep)

    def inspect(self) -> Inspection:
        """Return the container's inspection; raises `ContainerNotFoundError` where it is gone."""
        return self._engine.inspect_container(self.name)

    def reject(self, reason: str) -> UpdateRejectedError:
        """Return the error that says the container is not well, with what helps to understand why."""
        return UpdateRejectedError(self.name, reason, details=self._details())

    def _details(self) -> str:
        try:
            inspection = self.inspect()
            logs = self._engine.container_logs(self.name, tail=_LOG_LINES)
        except EngineError as error:
            return f"nothing more is known: {error}"
        state = inspection["State"]
        lines = [f"state: {state['Status']}, exit code {state.get('ExitCode')}"]
        probes = (state.get("Health") or {}).get("Log") or []
        if probes:
            lines.append(
                f"last health probe: exit code {probes[-1].get('ExitCode')}, {probes[-1].get('Output', '').strip()}"
            )
        if logs.strip():
            lines.append("last lines of its log:\n" + logs.rstrip())
        return "\n".join(lines)


Check: TypeAlias = Callable[[CheckedContainer], None]


def healthy(*, timeout: float = 60.0, stable_for: float = 1.0) -> Check:
    """Return a check that a container runs, stays up, and turns healthy where it has a health check.

    A container that is gone, ended with an error, is being restarted, ran out of memory or is unhealthy fails at
    once. One that ended with exit code 0 and is not to be restarted has done its work and is well. Of a container that
    did not run before, nothing is asked.

    Args:
        timeout: how long a health check may take to turn healthy, in seconds; the container's own start period counts
            on top.
        stable_for: how long a container without a health check has to stay up, in seconds.

    Raises:
        UpdateRejectedError: by the check, where the container is not well.

    Example:
        >>> with rollback("web", verify=healthy(timeout=120)):
        ...     update()
    """

    def check(container: CheckedContainer) -> None:
        if not container.before.alive or container.before.status == "restarting":
            return
        first = _look(container)
        started = container.clock()
        while not _is_well(container, first, container.clock() - started, timeout, stable_for):
            container.sleep(_POLL)

    return check


def http_ok(url: str, *, timeout: float = 30.0, status: int | None = None) -> Check:
    """Return a check that a URL answers: with `status` where given, else with any status below 400.

    Args:
        url: what to ask for; ``http`` or ``https``.
        timeout: how long it may take until it answers so, in seconds.
        status: the one status that is right.

    Raises:
        UpdateRejectedError: by the check, where it does not.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"not an http or https address: {url!r}")

    # The service is asked itself: a proxy that the environment names would answer in its place.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask() -> str | None:
        try:
            with opener.open(url, timeout=timeout) as answer:
                found = int(answer.status)
        except urllib.error.HTTPError as error:
            found = error.code
        except (OSError, http.client.HTTPException) as error:
            return f"{url} does not answer: {error!r}"
        right = found == status if status is not None else found < 400
        return None if right else f"{url} answers with status {found}"

    return _until(ask, timeout)


def tcp_open(host: str, port: int, *, timeout: float = 30.0) -> Check:
    """Return a check that a TCP port takes a connection within `timeout` seconds.

    Raises:
        UpdateRejectedError: by the check, where it does not.
    """

    def ask() -> str | None:
        try:
            with socket.create_connection((host, port), timeout=timeout):
                return None
        except OSError as error:
            return f"{host}:{port} takes no connection: {error}"

    return _until(ask, timeout)


def as_checks(verify: Check | Sequence[Check] | None) -> tuple[Check, ...]:
    """Return the checks that a `verify=` argument means: one, several, or none."""
    checks: tuple[Check, ...] = () if verify is None else (verify,) if callable(verify) else tuple(verify)
    makers: tuple[object, ...] = (healthy, http_ok, tcp_open)
    for check in checks:
        if not callable(check):
            raise TypeError(f"a check is a callable, not {check!r}")
        if check in makers:
            raise ValueError(f"{check!r} makes a check; call it, and give verify= what it returns")
    return checks


def holds_now(check: Check, container: CheckedContainer) -> bool:
    """Whether a check holds at this moment, without waiting for it to turn good.

    Its waiting is cut short by a clock on which every sleep lasts forever: what has to stay well for a while counts as
    well, what has yet to turn well does not.
    """
    time_is_up = False

    def sleep(_seconds: float) -> None:
        nonlocal time_is_up
        time_is_up = True

    hurried = container.hurried(clock=lambda: math.inf if time_is_up else 0.0, sleep=sleep)
    try:
        check(hurried)
    except Exception as error:
        logger.info("%s: a check does not hold before the update: %s", container.name, error)
        return False
    return True


def _until(ask: Callable[[], str | None], timeout: float) -> Check:
    """Return a check that asks until the answer is None, at most for `timeout` seconds."""

    def check(container: CheckedContainer) -> None:
        if not container.before.alive:
            return
        deadline = container.clock() + timeout
        while (problem := ask()) is not None:
            if container.clock() >= deadline:
                raise container.reject(problem)
            container.sleep(_POLL)

    return check


def _look(container: CheckedContainer) -> Inspection:
    try:
        return container.inspect()
    except ContainerNotFoundError as error:
        raise container.reject("it is gone") from error


def _is_well(container: CheckedContainer, first: Inspection, waited: float, timeout: float, stable_for: float) -> bool:
    """Return whether the container is well now; False means: ask again. Raises where it will not turn well."""
    inspection = _look(container)
    state = observe(inspection).state
    if inspection["State"].get("OOMKilled"):
        raise container.reject("it ran out of memory")
    if state.status in ("exited", "dead"):
        if state.exit_code == 0 and not _restarts(inspection):
            return True
        raise container.reject(f"it ended with exit code {state.exit_code}")
    if inspection.get("RestartCount", 0) > first.get("RestartCount", 0) or state.status == "restarting":
        raise container.reject("it ends again and again and is being restarted")
    if state.status == "paused":
        if container.before.status == "paused":
            return True
        raise container.reject("it is paused")
    if not state.alive:
        raise container.reject(f"it does not run: it is {state.status}")
    if state.health is None:
        return waited >= stable_for
    if state.health == "unhealthy":
        raise container.reject("its health check says that it is unhealthy")
    if state.health == "healthy":
        return True
    if waited >= timeout + _start_period(inspection):
        raise container.reject(f"it did not turn healthy within {waited:.0f} s")
    return False


def _restarts(inspection: Inspection) -> bool:
    policy = (inspection["HostConfig"].get("RestartPolicy") or {}).get("Name")
    return policy in ("always", "unless-stopped")


def _start_period(inspection: Inspection) -> float:
    """Return, in seconds, for how long failing probes do not count (the engine keeps it in nanoseconds)."""
    return float(((inspection["Config"].get("Healthcheck") or {}).get("StartPeriod") or 0) / 1e9)
