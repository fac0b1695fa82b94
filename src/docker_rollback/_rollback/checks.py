"""Provides checks: callables that receive a container and raise if it is not healthy."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Final

from docker_rollback._arguments import seconds, text, whole
from docker_rollback._engine import Inspection
from docker_rollback._inspection import observe, restart_count, restart_policy, started_at
from docker_rollback._rollback.checked_container import Check, CheckedContainer
from docker_rollback._threads import LateError, within
from docker_rollback.errors import ContainerNotFoundError

_POLL: Final = 0.1
"""Seconds between two inspections of a container."""

_WATCH: Final = 1.0
"""Seconds between two inspections of a container on probation."""

_NEVER_ASKED: Final = "; its engine has never run its health check (Podman leaves that to systemd)"

_SETTLED: Final = 10.0
"""Seconds after which an engine considers a restarted program stable (moby, restartmanager)."""

_MOST_RUNS: Final = 3
"""Runs of a container after which a check concludes that somebody keeps restarting it."""

_MARGIN: Final = 10.0
"""Seconds for a slow engine, added to the time that a health check takes to decide."""

_PROBING: Final = {"Interval": 30.0, "Timeout": 30.0, "Retries": 3, "StartPeriod": 0.0}
"""An engine's defaults for a health check, in seconds."""


def healthy(*, timeout: float | None = None, stable_for: float = 5.0) -> Check:
    """Return a check that a container runs, stays up, and becomes healthy if it has a health check.

    The check fails at once for a container that is gone, ended with an error, is being restarted, ran out of memory or
    is unhealthy. A container that ended with exit code 0 and has no policy to restart it has done its work and passes.
    A container that did not run before the update is not checked.

    Args:
        timeout: how long the container may take to become healthy, in seconds after its own start period. By default
            this follows from its health check: start period, interval, timeout and retries, plus a margin.
        stable_for: how long a container without a health check has to stay up, in seconds since its start by its
            engine's clock; a container that has been up for longer passes at once. One that its engine has restarted
            has to stay up for at least ten seconds.

    Raises:
        UpdateRejectedError: by the check, if the container fails it.

    Example:
        >>> with rollback("web", verify=healthy(timeout=120)):
        ...     update()
    """
    seconds("timeout", timeout, optional=True)
    seconds("stable_for", stable_for)

    def check(container: CheckedContainer) -> None:
        if not container.before.alive:
            return
        first = _inspect(container)
        begun = container.clock()
        run, since, runs = started_at(first), begun - container.up_so_far(first), 1
        inspection, now = first, begun
        while True:
            if started_at(inspection) != run:
                # The engine did not restart it (it counts its restarts): somebody started or recreated it.
                run, since, runs = started_at(inspection), now, runs + 1
            if _is_healthy(container, inspection, first, timeout=timeout, waited=now - begun) and (
                _is_settled(inspection, now - since, stable_for)
            ):
                return
            if runs > _MOST_RUNS:
                raise container.reject("somebody keeps restarting it")
            container.sleep(_POLL)
            inspection, now = _inspect(container), container.clock()

    return check


def stays_up(seconds: float) -> Check:
    """Return a check that a container does not end, restart or become unhealthy for some seconds.

    A container that ends with exit code 0 and has no policy to restart it has done its work and passes. A container
    that did not run before the update is not checked.
    """

    def check(container: CheckedContainer) -> None:
        if not container.before.alive:
            return
        first = inspection = _inspect(container)
        until = container.clock() + seconds
        while not _has_done_its_work(container, inspection, first):
            if (inspection["Id"], started_at(inspection)) != (first["Id"], started_at(first)):
                raise container.reject("it was restarted")
            if _is_unhealthy(inspection) and not _is_unhealthy(first):
                raise container.reject("its health check says that it is unhealthy")
            left = until - container.clock()
            if left <= 0:
                return
            container.sleep(min(_WATCH, left))
            inspection = _inspect(container)

    return check


def http_ok(url: str, *, timeout: float = 30.0, status: int | None = None) -> Check:
    """Return a check that a URL answers with the given status, or with any status below 400.

    Args:
        url: the URL, ``http`` or ``https``.
        timeout: how long the right answer may take, in seconds.
        status: the expected status; None for any below 400.

    Raises:
        UpdateRejectedError: by the check, if there is no such answer; at once if the container ended with an error.
        ValueError: the URL is neither ``http`` nor ``https``.

    Example:
        >>> with rollback("web", verify=[healthy(), http_ok("http://localhost:8080/ready")]):
        ...     update()
    """
    text("url", url, what="an http or https address")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"url is an http or https address, not {url!r}")
    seconds("timeout", timeout)
    whole("status", status, least=100, most=599, optional=True)

    # Without proxies: a proxy from the environment would answer in place of the service.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(timeout: float) -> str | None:
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
    """Return a check that a TCP port accepts a connection within `timeout` seconds.

    Raises:
        UpdateRejectedError: by the check, if it does not; at once if the container ended with an error.

    Example:
        >>> with rollback("db", verify=tcp_open("localhost", 5432, timeout=60)):
        ...     update()
    """
    text("host", host, what="a host's name or address")
    whole("port", port, least=1, most=65535)
    seconds("timeout", timeout)

    def ask(timeout: float) -> str | None:
        try:
            with socket.create_connection((host, port), timeout=timeout):
                return None
        except OSError as error:
            return f"{host}:{port} accepts no connection: {error}"

    return _until(ask, timeout)


def eventually(check: Check, *, timeout: float = 30.0) -> Check:
    """Return a check that repeats another check until it passes, for at most `timeout` seconds.

    A call that does not return in that time is abandoned. It runs in a thread of its own, which then ends at its next
    ``container.sleep``.

    Raises:
        UpdateRejectedError: by the check, if the other check did not return in time.
        Exception: by the check, the exception of the last try.

    Example:
        >>> def has_all_rows(container):
        ...     assert connect().execute("SELECT count(*) FROM orders").fetchone() == (7,)
        >>> with rollback("db", verify=eventually(has_all_rows, timeout=60)):
        ...     update()
    """
    if not callable(check):
        raise TypeError(f"a check is a callable, not {check!r}")
    seconds("timeout", timeout)

    def patient(container: CheckedContainer) -> None:
        deadline = container.clock() + timeout
        while True:
            left = max(0.0, deadline - container.clock())
            try:
                _call(check, container, left)
                return
            except Exception:
                container.sleep(_POLL)
                if container.clock() >= deadline:
                    raise

    return patient


def _call(check: Check, container: CheckedContainer, timeout: float) -> None:
    """Run a check in a thread and raise its exception; reject the container if it takes longer than `timeout`."""
    given_up = threading.Event()
    try:
        within(timeout, lambda: check(container.until(given_up)), name=f"check of {container.name}")
    except LateError:
        given_up.set()
        raise container.reject(f"a check did not return within {timeout:.0f} s") from None


def _until(ask: Callable[[float], str | None], timeout: float) -> Check:
    """Return a check that calls `ask` until it returns None, the container fails, or `timeout` seconds are over."""

    def check(container: CheckedContainer) -> None:
        if not container.before.alive:
            return
        deadline = container.clock() + timeout
        while (problem := ask(max(_POLL, deadline - container.clock()))) is not None:
            if container.clock() >= deadline or _has_failed(_inspect(container)):
                raise container.reject(problem)
            container.sleep(_POLL)

    return check


def _inspect(container: CheckedContainer) -> Inspection:
    try:
        return container.inspect()
    except ContainerNotFoundError as error:
        raise container.reject("it is gone") from error


def _has_failed(inspection: Inspection) -> bool:
    """Return True if a container ended with an error and is not being restarted."""
    state = observe(inspection).state
    return state.status in ("exited", "dead") and state.exit_code != 0


def _is_healthy(
    container: CheckedContainer, inspection: Inspection, first: Inspection, *, timeout: float | None, waited: float
) -> bool:
    """Return True if the container is healthy, False to ask again; raise if it will not become healthy."""
    state = observe(inspection).state
    if _has_done_its_work(container, inspection, first) or state.health is None or state.status == "paused":
        return True
    if state.health == "unhealthy":
        raise container.reject("its health check says that it is unhealthy")
    # A healthy container whose last probes failed may be about to become unhealthy: wait for the next probe.
    if state.health == "healthy" and not inspection["State"]["Health"].get("FailingStreak"):
        return True
    own = inspection["Config"].get("Healthcheck") or {}
    if waited >= (_seconds_to_decide(own) if timeout is None else timeout + _duration(own, "StartPeriod")):
        never = "" if inspection["State"]["Health"].get("Log") else _NEVER_ASKED
        raise container.reject(f"it did not become healthy within {waited:.0f} s{never}")
    return False


def _has_done_its_work(container: CheckedContainer, inspection: Inspection, first: Inspection) -> bool:
    """Return True if the container ended with exit code 0 for good, False if it is up; raise otherwise."""
    state = observe(inspection).state
    if inspection["State"].get("OOMKilled"):
        raise container.reject("it ran out of memory")
    if state.status in ("exited", "dead"):
        if state.exit_code == 0 and restart_policy(inspection).get("Name") not in ("always", "unless-stopped"):
            return True
        raise container.reject(f"it ended with exit code {state.exit_code}")
    if restart_count(inspection) > restart_count(first) or state.status == "restarting":
        raise container.reject("it keeps ending and is being restarted")
    if state.status == "paused" and container.before.status != "paused":
        raise container.reject("it is paused")
    if not state.alive:
        raise container.reject(f"it does not run: it is {state.status}")
    return False


def _is_unhealthy(inspection: Inspection) -> bool:
    return observe(inspection).state.health == "unhealthy"


def _is_settled(inspection: Inspection, up: float, stable_for: float) -> bool:
    """Return True unless a container runs without a health check and has not been up long enough."""
    state = observe(inspection).state
    if state.health is not None or state.status != "running":
        return True
    # `passes_now` stops the clock at infinity, so that `up` may be NaN: that passes.
    return not up < (max(stable_for, _SETTLED) if restart_count(inspection) else stable_for)


def _seconds_to_decide(probing: Mapping[str, Any]) -> float:
    # Failed probes count after the start period, except one that is running when it ends. As many as `Retries` may
    # fail, each after an interval and its own time-out.
    probe = _duration(probing, "Timeout")
    retries = int(probing.get("Retries") or _PROBING["Retries"])
    return _duration(probing, "StartPeriod") + probe + retries * (_duration(probing, "Interval") + probe) + _MARGIN


def _duration(probing: Mapping[str, Any], key: str) -> float:
    # An engine stores nanoseconds, and 0 for its default.
    return float((probing.get(key) or 0) / 1e9 or _PROBING[key])
