"""Checks: callables that are given a container and raise unless it is well."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from docker_rollback._arguments import seconds, several, text, whole
from docker_rollback._engine import Inspection
from docker_rollback._inspection import observe, restart_count, started_at
from docker_rollback._rollback.checked_container import Check, CheckedContainer
from docker_rollback._threads import LateError, within
from docker_rollback.errors import ContainerNotFoundError

_POLL: Final = 0.1
"""Seconds between two looks at a container."""

_WATCH: Final = 1.0
"""Seconds between two looks at a container that is on probation."""

_NEVER_ASKED: Final = "; its engine has not asked its health check once (Podman leaves that to systemd)"

_SETTLED: Final = 10.0
"""Seconds after which an engine takes a program that it has started again for one that stays (moby, restartmanager)."""

_MOST_RUNS: Final = 3
"""Runs of a container that a check sees before it takes somebody to start it again and again."""

_MARGIN: Final = 10.0
"""Seconds for a slow engine, on top of the time in which a health check has to decide."""

_PROBING: Final = {"Interval": 30.0, "Timeout": 30.0, "Retries": 3, "StartPeriod": 0.0}
"""What an engine takes where a health check does not say, in seconds."""


def healthy(*, timeout: float | None = None, stable_for: float = 5.0) -> Check:
    """Return a check that a container runs, stays up, and turns healthy where it has a health check.

    A container that is gone, ended with an error, is being restarted, ran out of memory or is unhealthy fails at
    once. One that ended with exit code 0 and is not to be restarted has done its work and is well. Of a container that
    did not run before, nothing is asked.

    Args:
        timeout: how long a health check may take to turn healthy, in seconds; the container's own start period counts
            on top. By default as long as its own timings give it: start period, interval, time-out and retries, and a
            margin.
        stable_for: how long a container without a health check has to stay up, in seconds from its start by its
            engine's clock: one that was started long ago is not waited for. One that its engine has started again
            already has to stay up for ten at least.

    Raises:
        UpdateRejectedError: by the check, where the container is not well.

    Example:
        >>> with rollback("web", verify=healthy(timeout=120)):
        ...     update()
    """
    seconds("timeout", timeout, optional=True)
    seconds("stable_for", stable_for)

    def check(container: CheckedContainer) -> None:
        if not container.before.alive:
            return
        first = _look(container)
        begun = container.clock()
        run, since, runs = started_at(first), begun - container.up_for(first), 1
        while True:
            inspection = _look(container)
            now = container.clock()
            if started_at(inspection) != run:
                # Not by its engine, which counts that: somebody has started or recreated it.
                run, since, runs = started_at(inspection), now, runs + 1
            if _is_well(container, inspection, first, timeout=timeout, waited=now - begun) and (
                _is_settled(inspection, now - since, stable_for)
            ):
                return
            if runs > _MOST_RUNS:
                raise container.reject("somebody starts it again and again")
            container.sleep(_POLL)

    return check


def stays_up(seconds: float) -> Check:
    """Return a check that a container neither ends nor is started again nor turns unhealthy for some seconds.

    One that ends with exit code 0 and is not to be restarted has done its work and is well. Of a container that did not
    run before, nothing is asked.

    Args:
        seconds: how long it is looked at.

    Raises:
        UpdateRejectedError: by the check, as soon as that happens.
    """

    def check(container: CheckedContainer) -> None:
        if not container.before.alive:
            return
        first = inspection = _look(container)
        until = container.clock() + seconds
        while not _has_done_its_work(container, inspection, first):
            if (inspection["Id"], started_at(inspection)) != (first["Id"], started_at(first)):
                raise container.reject("it was started again")
            if _is_unhealthy(inspection) and not _is_unhealthy(first):
                raise container.reject("its health check says that it is unhealthy")
            left = until - container.clock()
            if left <= 0:
                return
            container.sleep(min(_WATCH, left))
            inspection = _look(container)

    return check


def http_ok(url: str, *, timeout: float = 30.0, status: int | None = None) -> Check:
    """Return a check that a URL answers: with `status` where given, else with any status below 400.

    Args:
        url: what to ask for; ``http`` or ``https``.
        timeout: how long it may take until it answers so, in seconds.
        status: the one status that is right.

    Raises:
        UpdateRejectedError: by the check, where it does not; at once where the container has ended with an error.
        ValueError: the address is neither ``http`` nor ``https``.

    Example:
        >>> with rollback("web", verify=[healthy(), http_ok("http://localhost:8080/ready")]):
        ...     update()
    """
    text("url", url, what="an http or https address")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"url is an http or https address, not {url!r}")
    seconds("timeout", timeout)
    whole("status", status, least=100, most=599, optional=True)

    # The service is asked itself: a proxy that the environment names would answer in its place.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(patience: float) -> str | None:
        try:
            with opener.open(url, timeout=patience) as answer:
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
        UpdateRejectedError: by the check, where it does not; at once where the container has ended with an error.

    Example:
        >>> with rollback("db", verify=tcp_open("localhost", 5432, timeout=60)):
        ...     update()
    """
    text("host", host, what="a host's name or address")
    whole("port", port, least=1, most=65535)
    seconds("timeout", timeout)

    def ask(patience: float) -> str | None:
        try:
            with socket.create_connection((host, port), timeout=patience):
                return None
        except OSError as error:
            return f"{host}:{port} takes no connection: {error}"

    return _until(ask, timeout)


def eventually(check: Check, *, timeout: float = 30.0) -> Check:
    """Return a check that tries another one until it passes, at most for `timeout` seconds.

    A call that does not come back in that time is given up. It runs in a thread of its own, and only its
    ``container.sleep`` can end it then.

    Raises:
        UpdateRejectedError: by the check, where it did not come back in time.
        Exception: by the check, whatever the last try raised.

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


def as_checks(verify: Check | Sequence[Check] | None) -> tuple[Check, ...]:
    """Return the checks that a `verify=` argument means: one, several, or none."""
    checks: tuple[Check, ...] = ()
    if verify is not None:
        checks = (
            (verify,)
            if callable(verify)
            else several("verify", verify, what="a check, such as healthy() or http_ok(url), several, or None")
        )
    makers: tuple[object, ...] = (healthy, http_ok, tcp_open, eventually)
    for check in checks:
        if not callable(check):
            raise TypeError(f"a check is a callable, not {check!r}")
        if check in makers:
            raise ValueError(f"{check!r} makes a check; call it, and give verify= what it returns")
    return checks


def _call(check: Check, container: CheckedContainer, patience: float) -> None:
    """Run a check in a thread and raise what it raises; raise also where it is not done within `patience` seconds."""
    given_up = threading.Event()

    def sleep(seconds: float) -> None:
        container.sleep(seconds)
        if given_up.is_set():
            raise SystemExit  # ends this thread, and no handler of errors holds it up

    checked = container.hurried(clock=container.clock, sleep=sleep)
    try:
        within(patience, lambda: check(checked), name=f"check of {container.name}")
    except LateError:
        given_up.set()
        raise container.reject(f"a check did not come back within {patience:.0f} s") from None


def _until(ask: Callable[[float], str | None], timeout: float) -> Check:
    """Return a check that asks until the answer is None, at most for `timeout` seconds, and not of what has failed."""

    def check(container: CheckedContainer) -> None:
        if not container.before.alive:
            return
        deadline = container.clock() + timeout
        while (problem := ask(max(_POLL, deadline - container.clock()))) is not None:
            if container.clock() >= deadline or _has_failed(_look(container)):
                raise container.reject(problem)
            container.sleep(_POLL)

    return check


def _look(container: CheckedContainer) -> Inspection:
    try:
        return container.inspect()
    except ContainerNotFoundError as error:
        raise container.reject("it is gone") from error


def _has_failed(inspection: Inspection) -> bool:
    """Whether a container ended with an error and nobody will start it again."""
    state = observe(inspection).state
    return state.status in ("exited", "dead") and state.exit_code != 0


def _is_well(
    container: CheckedContainer, inspection: Inspection, first: Inspection, *, timeout: float | None, waited: float
) -> bool:
    """Return whether the container is well; False means: ask again. Raises where it will not turn well."""
    state = observe(inspection).state
    if _has_done_its_work(container, inspection, first) or state.health is None or state.status == "paused":
        return True
    if state.health == "unhealthy":
        raise container.reject("its health check says that it is unhealthy")
    # One whose last probes failed is about to be unhealthy, or was only slow: the next ones tell.
    if state.health == "healthy" and not inspection["State"]["Health"].get("FailingStreak"):
        return True
    own = inspection["Config"].get("Healthcheck") or {}
    if waited >= (_patience_of(own) if timeout is None else timeout + _probing(own, "StartPeriod")):
        never = "" if inspection["State"]["Health"].get("Log") else _NEVER_ASKED
        raise container.reject(f"it did not turn healthy within {waited:.0f} s{never}")
    return False


def _has_done_its_work(container: CheckedContainer, inspection: Inspection, first: Inspection) -> bool:
    """Return True for a container that ended as a job ends, False for one that is up; raise for every other one."""
    state = observe(inspection).state
    if inspection["State"].get("OOMKilled"):
        raise container.reject("it ran out of memory")
    if state.status in ("exited", "dead"):
        if state.exit_code == 0 and not _restarts(inspection):
            return True
        raise container.reject(f"it ended with exit code {state.exit_code}")
    if _restarted(inspection) > _restarted(first) or state.status == "restarting":
        raise container.reject("it ends again and again and is being restarted")
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
    # Between two moments of a clock that has run out there is no number of seconds: nobody is waited for then.
    return not up < (max(stable_for, _SETTLED) if _restarted(inspection) else stable_for)


def _restarts(inspection: Inspection) -> bool:
    policy = (inspection["HostConfig"].get("RestartPolicy") or {}).get("Name")
    return policy in ("always", "unless-stopped")


def _restarted(inspection: Inspection) -> int:
    """Return how often the engine has started a container again by itself since somebody started it."""
    return restart_count(inspection)


def _patience_of(probing: Mapping[str, Any]) -> float:
    """Return the seconds after which a health check has decided one way or the other.

    Probes count from the end of the start period on, the one that is under way then does not; as many as there are
    retries may fail, each after an interval and its time-out.
    """
    probe = _probing(probing, "Timeout")
    retries = int(probing.get("Retries") or _PROBING["Retries"])
    return _probing(probing, "StartPeriod") + probe + retries * (_probing(probing, "Interval") + probe) + _MARGIN


def _probing(probing: Mapping[str, Any], key: str) -> float:
    """Return one of the timings of a health check, in seconds; an engine keeps it in nanoseconds, 0 for its own."""
    return float((probing.get(key) or 0) / 1e9 or _PROBING[key])
