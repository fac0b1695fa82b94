"""Retries failed engine requests where a repetition is safe."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from docker_rollback._engine.port import Engine, Inspection
from docker_rollback._names import SHORT_ID
from docker_rollback.errors import ContainerNotFoundError, EngineError, NetworkNotFoundError

_logger = logging.getLogger("docker_rollback")
_Answer = TypeVar("_Answer")
P = ParamSpec("P")

_ANSWERED = 2.0  # a failed start that the engine answered with an error is retried for so many seconds


def _request(
    verb: Callable[Concatenate[Engine, P], _Answer], *, once: bool = False
) -> Callable[Concatenate[RetryingEngine, P], _Answer]:
    """Return the method that passes a request on, once or until it succeeds."""

    def send(self: RetryingEngine, /, *args: P.args, **kwargs: P.kwargs) -> _Answer:
        ask: Callable[[], _Answer] = partial(getattr(self._engine, verb.__name__), *args, **kwargs)
        return ask() if once else self._retry(ask)

    return send


class RetryingEngine:
    """Wraps an engine, and retries requests that are safe to repeat.

    After a failure that is not `permanent`, it repeats requests that only read, that remove, or that set a state.
    Requests that create something under a chosen name are sent once; if the answer is lost, the object is looked up
    by that name, and returned if it exists. Requests that run a program or stream data are sent once.

    Example:
        >>> engine = RetryingEngine(DockerEngine.from_env(), limit=5.0)
    """

    def __init__(
        self,
        engine: Engine,
        *,
        limit: float = 15.0,
        first_pause: float = 0.1,
        longest_pause: float = 2.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Wrap an engine.

        Args:
            engine: the wrapped engine.
            limit: the time in seconds, from the first try, after which the last failure is raised.
            first_pause: the longest pause before the second try, in seconds; pauses are random, and their upper bound
                doubles.
            longest_pause: the longest pause before any try, in seconds.
            sleep: waits for a number of seconds.
        """
        self._engine = engine
        self._limit = limit
        self._retrying = Retrying(
            sleep=sleep,
            stop=self._is_late,
            wait=wait_random_exponential(multiplier=first_pause, max=longest_pause),
            retry=retry_if_exception(_is_transient),
            before_sleep=_log_retry,
            reraise=True,
        )

    info = _request(Engine.info)
    now = _request(Engine.now)
    forbidden = _request(Engine.forbidden)

    # Containers

    inspect_container = _request(Engine.inspect_container)
    list_containers = _request(Engine.list_containers)

    def create_container(self, name: str, request: Inspection, *, platform: str | None = None) -> str:
        return self._or_find(
            lambda: self._engine.create_container(name, request, platform=platform),
            lambda: self._created(name, request),
        )

    def start_container(self, ref: str) -> None:
        # If the engine says why a container does not start, only the caller knows what may be missing, and retries.
        self._retry(lambda: self._engine.start_container(ref), answered=_ANSWERED)

    stop_container = _request(Engine.stop_container)
    kill_container = _request(Engine.kill_container)
    pause_container = _request(Engine.pause_container)
    unpause_container = _request(Engine.unpause_container)

    def rename_container(self, ref: str, name: str) -> None:
        self._or_find(lambda: self._engine.rename_container(ref, name), lambda: self._renamed(ref, name))

    update_container = _request(Engine.update_container)
    remove_container = _request(Engine.remove_container)

    def commit_container(self, ref: str, tag: str, *, author: str = "") -> str:
        return self._or_find(
            lambda: self._engine.commit_container(ref, tag, author=author),
            lambda: str(self._engine.inspect_image(tag)["Id"]),
        )

    put_archive = _request(Engine.put_archive)
    get_archive = _request(Engine.get_archive, once=True)
    container_changes = _request(Engine.container_changes)
    container_logs = _request(Engine.container_logs)
    exec = _request(Engine.exec, once=True)

    # Images

    inspect_image = _request(Engine.inspect_image)
    list_images = _request(Engine.list_images)
    tag_image = _request(Engine.tag_image)
    remove_image = _request(Engine.remove_image)
    save_image = _request(Engine.save_image, once=True)
    load_image = _request(Engine.load_image, once=True)
    import_image = _request(Engine.import_image, once=True)
    pull_image = _request(Engine.pull_image)

    # Networks

    inspect_network = _request(Engine.inspect_network)
    list_networks = _request(Engine.list_networks)

    def create_network(self, request: Inspection) -> str:
        return self._or_find(lambda: self._engine.create_network(request), lambda: self._network(request))

    remove_network = _request(Engine.remove_network)

    def connect_network(self, network: str, container: str, endpoint: Inspection) -> None:
        self._or_find(
            lambda: self._engine.connect_network(network, container, endpoint),
            lambda: self._connected(network, container),
        )

    disconnect_network = _request(Engine.disconnect_network)

    # Volumes

    inspect_volume = _request(Engine.inspect_volume)
    list_volumes = _request(Engine.list_volumes)

    def create_volume(self, request: Inspection) -> str:
        if not request.get("Name"):
            # Each request without a name creates another volume.
            return self._engine.create_volume(request)
        return self._retry(lambda: self._engine.create_volume(request))

    remove_volume = _request(Engine.remove_volume)

    # Requests that succeeded, though their answer was lost

    def _or_find(self, make: Callable[[], _Answer], find: Callable[[], _Answer]) -> _Answer:
        """Call `make` once; if its answer is lost, return what `find` finds, or raise the first error."""
        try:
            return make()
        except EngineError as error:
            if error.permanent:
                raise
            try:
                found = self._retry(find)
            except EngineError:
                raise error from None
            _logger.info("the request succeeded, only its answer was lost: %s", error)
            return found

    def _created(self, name: str, request: Inspection) -> str:
        found = self._engine.inspect_container(name)
        labels = found["Config"].get("Labels") or {}
        ours = (
            found["State"]["Status"] == "created"
            and found["Config"].get("Image") == request.get("Image")
            and all(labels.get(key) == value for key, value in (request.get("Labels") or {}).items())
        )
        if not ours:
            raise ContainerNotFoundError(name)
        return str(found["Id"])

    def _renamed(self, ref: str, name: str) -> None:
        found = self._engine.inspect_container(name)
        if not (len(ref) >= SHORT_ID and str(found["Id"]).startswith(ref)):
            raise ContainerNotFoundError(ref)

    def _network(self, request: Inspection) -> str:
        found = self._engine.inspect_network(str(request["Name"]))
        if (found.get("Labels") or {}) != (request.get("Labels") or {}):
            raise NetworkNotFoundError(str(request["Name"]))
        return str(found["Id"])

    def _connected(self, network: str, container: str) -> None:
        attached = self._engine.inspect_container(container)["NetworkSettings"].get("Networks") or {}
        if not any(network in (name, (endpoint or {}).get("NetworkID")) for name, endpoint in attached.items()):
            raise NetworkNotFoundError(network)

    def _retry(self, ask: Callable[[], _Answer], *, answered: float | None = None) -> _Answer:
        """Retry until the limit; if the engine answered with an error, for at most `answered` seconds."""
        if answered is None:
            return self._retrying.copy()(ask)
        return self._retrying.copy(stop=lambda state: self._is_late(state, answered=answered))(ask)

    def _is_late(self, state: RetryCallState, *, answered: float = math.inf) -> bool:
        # Pauses are counted by themselves too, so that the limit holds with a `sleep` that does not wait.
        spent = max(state.seconds_since_start or 0.0, state.idle_for)
        failure = state.outcome and state.outcome.exception()
        limit = min(self._limit, answered) if getattr(failure, "status", None) else self._limit
        return spent + state.upcoming_sleep > limit


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, EngineError) and not error.permanent


def _log_retry(state: RetryCallState) -> None:
    failure = state.outcome and state.outcome.exception()
    _logger.info("retrying the request in %.1f s: %s", state.upcoming_sleep, failure)


if TYPE_CHECKING:

    def _is_engine(engine: RetryingEngine) -> Engine:
        return engine
