"""An engine that fails on request: `FailingEngine`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar

from attrs import define

from docker_rollback._engine import EVERY, Change, ContainerFilter, Engine, EngineInfo, Finished, Inspection, Process
from docker_rollback.errors import EngineError, EngineTimeoutError
from docker_rollback.testing._failing.calls import CHANGING, FEEDING, READING, EngineCall, Killed

_Answer = TypeVar("_Answer")


class FailingEngine:
    """Passes every call on to another engine, counts and records the calls, and fails at chosen ones.

    Use it to prove that nothing is lost at any point at which the engine, or this process, may fail: run the test once
    for each call, until no call is left to fail.

    Attributes:
        calls: every call so far, in order.

    Example:
        >>> k = 0
        >>> while True:
        ...     k += 1
        ...     fake = service_on_an_engine()
        ...     failing = FailingEngine(fake, at=k)
        ...     roll_back_on(failing)
        ...     assert well(fake), failing.story()
        ...     if failing.struck is None:
        ...         break
    """

    def __init__(
        self,
        engine: Engine,
        *,
        at: int | Collection[int] | None = None,
        error: BaseException | Callable[[], BaseException] | None = None,
        after: bool = False,
        kill: bool = False,
        lasting: bool = False,
        verbs: Collection[str] = CHANGING,
    ) -> None:
        """Wrap an engine.

        Args:
            engine: the engine that does the work.
            at: the number of the counted call that fails, from 1, or several numbers; None for no failure.
            error: the exception to raise, or a callable that makes it. The default is a permanent `EngineError`, or,
                with `after`, an `EngineTimeoutError`, as with a real engine.
            after: fail after the call has taken effect, so that only its answer is lost.
            kill: raise `Killed` instead; every later call raises it too, and running programs lose their input, as
                they would if the process that feeds them died.
            lasting: fail every counted call after the first failure as well, as if the engine had gone away.
            verbs: the calls to count: `CHANGING`, `READING`, `FEEDING`, or any of their verbs.
        """
        unknown = set(verbs) - CHANGING - READING - FEEDING
        if unknown:
            raise ValueError(f"no verbs of an engine: {sorted(unknown)}")
        self._engine = engine
        self._at = frozenset() if at is None else frozenset([at] if isinstance(at, int) else at)
        self._error = error
        self._after = after
        self._kill = kill
        self._lasting = lasting
        self._verbs = frozenset(verbs)
        self._lock = threading.Lock()
        self._count = 0
        self._dead = False
        self._programs: list[Process] = []
        self._struck: EngineCall | None = None
        self.calls: list[EngineCall] = []

    @property
    def count(self) -> int:
        """The number of calls counted so far."""
        return self._count

    @property
    def struck(self) -> EngineCall | None:
        """The first call that was made to fail, or None."""
        return self._struck

    def story(self) -> str:
        """Return all calls, one a line, for an assertion's message."""
        return "\n".join(str(call) for call in self.calls)

    def called(self, verb: str) -> list[EngineCall]:
        """Return the calls of one verb."""
        return [call for call in self.calls if call.verb == verb]

    def pass_on(self, verb: str, work: Callable[[], _Answer], *arguments: object) -> _Answer:
        """Make one call, or fail; call this from your own wrapper to count more calls than this one does."""
        call, strikes = self._begin(verb, arguments)
        if strikes and not self._after:
            call.outcome = "failed"
            raise self._strike(call)
        try:
            answer = work()
        except BaseException:
            call.outcome = "refused"
            raise
        if strikes:
            call.outcome = "lost"
            if isinstance(answer, _Program):
                # The caller gets no handle, so it can neither feed nor end the program.
                answer.kill()
            raise self._strike(call)
        call.outcome = "done"
        return answer

    def _begin(self, verb: str, arguments: tuple[object, ...]) -> tuple[EngineCall, bool]:
        with self._lock:
            if self._dead:
                raise Killed(f"dead before {verb}")
            number = None
            if verb in self._verbs:
                self._count += 1
                number = self._count
            call = EngineCall(verb, arguments, number)
            self.calls.append(call)
            again = self._lasting and self._struck is not None
            strikes = number is not None and (number in self._at or again)
            if strikes and self._struck is None:
                self._struck = call
            return call, strikes

    def _strike(self, call: EngineCall) -> BaseException:
        if self._kill:
            self._dead = True
            for program in self._programs:
                program.kill()
            return Killed(str(call))
        if callable(self._error):
            return self._error()
        if self._error is not None:
            return self._error
        action = call.verb.replace("_", " ")
        if self._after:
            return EngineTimeoutError(action, "the answer was lost on purpose")
        return EngineError(action, "made to fail")

    def info(self) -> EngineInfo:
        """Return the engine's name, version and settings."""
        return self.pass_on("info", self._engine.info)

    def now(self) -> datetime:
        """Return the current time by the engine's own clock."""
        return self.pass_on("now", self._engine.now)

    def forbidden(self) -> list[str]:
        """Return the operations that the engine refuses for every object."""
        return self.pass_on("forbidden", self._engine.forbidden)

    # Containers

    def inspect_container(self, ref: str) -> Inspection:
        """Return the whole inspection of one container."""
        return self.pass_on("inspect_container", lambda: self._engine.inspect_container(ref), ref)

    def list_containers(self, where: ContainerFilter = EVERY, /) -> list[str]:
        """Return the full ids of the containers that match `where`."""
        return self.pass_on("list_containers", lambda: self._engine.list_containers(where), where)

    def create_container(self, name: str, request: Inspection, *, platform: str | None = None) -> str:
        """Create a container from a raw request and return its full id."""
        return self.pass_on(
            "create_container", lambda: self._engine.create_container(name, request, platform=platform), name
        )

    def start_container(self, ref: str) -> None:
        """Start a container."""
        self.pass_on("start_container", lambda: self._engine.start_container(ref), ref)

    def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
        """Stop a container with its own stop signal."""
        self.pass_on("stop_container", lambda: self._engine.stop_container(ref, timeout=timeout), ref)

    def kill_container(self, ref: str) -> None:
        """Kill a container."""
        self.pass_on("kill_container", lambda: self._engine.kill_container(ref), ref)

    def pause_container(self, ref: str) -> None:
        """Freeze a container's processes."""
        self.pass_on("pause_container", lambda: self._engine.pause_container(ref), ref)

    def unpause_container(self, ref: str) -> None:
        """Unfreeze a container's processes."""
        self.pass_on("unpause_container", lambda: self._engine.unpause_container(ref), ref)

    def rename_container(self, ref: str, name: str) -> None:
        """Rename a container."""
        self.pass_on("rename_container", lambda: self._engine.rename_container(ref, name), ref, name)

    def update_container(self, ref: str, changes: Inspection) -> None:
        """Change a container's resources or restart policy in place."""
        self.pass_on("update_container", lambda: self._engine.update_container(ref, changes), ref)

    def remove_container(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove a container."""
        self.pass_on("remove_container", lambda: self._engine.remove_container(ref, force=force, volumes=volumes), ref)

    def commit_container(self, ref: str, tag: str, *, author: str = "") -> str:
        """Commit a container's file system to a tagged image and return its id."""
        return self.pass_on(
            "commit_container", lambda: self._engine.commit_container(ref, tag, author=author), ref, tag
        )

    def put_archive(self, ref: str, archive: bytes) -> None:
        """Unpack a tar at the root of a container's file system."""
        self.pass_on("put_archive", lambda: self._engine.put_archive(ref, archive), ref)

    def get_archive(self, ref: str, path: str) -> Generator[bytes, None, None]:
        """Stream a tar of one file of a container, or of a folder and everything in it."""
        return self.pass_on("get_archive", lambda: self._engine.get_archive(ref, path), ref, path)

    def container_changes(self, ref: str) -> list[Change]:
        """Return the changes in a container's writable layer, compared with its image."""
        return self.pass_on("container_changes", lambda: self._engine.container_changes(ref), ref)

    def container_logs(self, ref: str, *, tail: int) -> str:
        """Return the last `tail` lines of a container's output."""
        return self.pass_on("container_logs", lambda: self._engine.container_logs(ref, tail=tail), ref)

    def exec(self, ref: str, command: Sequence[str], *, stdin: bool = False) -> Process:
        """Run a program as root in a running container."""

        def begin() -> _Program:
            program = self._engine.exec(ref, command, stdin=stdin)
            self._programs.append(program)
            return _Program(self, program)

        return self.pass_on("exec", begin, ref, *command)

    # Images

    def inspect_image(self, ref: str) -> Inspection:
        """Return the whole inspection of one image."""
        return self.pass_on("inspect_image", lambda: self._engine.inspect_image(ref), ref)

    def list_images(self, repository: str) -> list[str]:
        """Return the names of the images of one repository."""
        return self.pass_on("list_images", lambda: self._engine.list_images(repository), repository)

    def tag_image(self, ref: str, tag: str) -> None:
        """Add a name to an image."""
        self.pass_on("tag_image", lambda: self._engine.tag_image(ref, tag), ref, tag)

    def remove_image(self, ref: str) -> None:
        """Remove a name, and the image if that was its last name."""
        self.pass_on("remove_image", lambda: self._engine.remove_image(ref), ref)

    def save_image(self, ref: str) -> Iterator[bytes]:
        """Stream the image as a tar."""
        return self.pass_on("save_image", lambda: self._engine.save_image(ref), ref)

    def load_image(self, archive: Iterable[bytes]) -> None:
        """Load images from a tar."""
        self.pass_on("load_image", lambda: self._engine.load_image(archive))

    def import_image(self, archive: Iterable[bytes], tag: str) -> str:
        """Make a tagged image of one layer from a tar of a file system and return its id."""
        return self.pass_on("import_image", lambda: self._engine.import_image(archive, tag), tag)

    def pull_image(self, ref: str, *, platform: str | None = None) -> str:
        """Fetch an image from its registry."""
        return self.pass_on("pull_image", lambda: self._engine.pull_image(ref, platform=platform), ref)

    # Networks

    def inspect_network(self, ref: str) -> Inspection:
        """Return the whole inspection of one network."""
        return self.pass_on("inspect_network", lambda: self._engine.inspect_network(ref), ref)

    def list_networks(self, *, labels: Mapping[str, str] = {}) -> list[str]:
        """Return the ids of the networks that have `labels`."""
        return self.pass_on("list_networks", lambda: self._engine.list_networks(labels=labels), dict(labels))

    def create_network(self, request: Inspection) -> str:
        """Create a network from a raw request and return its id."""
        return self.pass_on("create_network", lambda: self._engine.create_network(request), request.get("Name"))

    def remove_network(self, ref: str) -> None:
        """Remove a network."""
        self.pass_on("remove_network", lambda: self._engine.remove_network(ref), ref)

    def connect_network(self, network: str, container: str, endpoint: Inspection) -> None:
        """Attach a container to a network."""
        self.pass_on(
            "connect_network",
            lambda: self._engine.connect_network(network, container, endpoint),
            network,
            container,
        )

    def disconnect_network(self, network: str, container: str, *, force: bool = False) -> None:
        """Detach a container from a network."""
        self.pass_on(
            "disconnect_network",
            lambda: self._engine.disconnect_network(network, container, force=force),
            network,
            container,
        )

    # Volumes

    def inspect_volume(self, name: str) -> Inspection:
        """Return the whole inspection of one volume."""
        return self.pass_on("inspect_volume", lambda: self._engine.inspect_volume(name), name)

    def list_volumes(self, *, labels: Mapping[str, str] = {}) -> list[str]:
        """Return the names of the volumes that have `labels`."""
        return self.pass_on("list_volumes", lambda: self._engine.list_volumes(labels=labels), dict(labels))

    def create_volume(self, request: Inspection) -> str:
        """Create a volume from a raw request and return its name."""
        return self.pass_on("create_volume", lambda: self._engine.create_volume(request), request.get("Name"))

    def remove_volume(self, name: str) -> None:
        """Remove a volume."""
        self.pass_on("remove_volume", lambda: self._engine.remove_volume(name), name)


@define(eq=False)
class _Program:
    """A program that a `FailingEngine` began; its calls are counted if `verbs` has those of `FEEDING`."""

    _owner: FailingEngine
    _process: Process

    def read(self, size: int, /) -> bytes:
        return self._owner.pass_on("process.read", lambda: self._process.read(size))

    def write(self, data: bytes | memoryview, /) -> None:
        self._owner.pass_on("process.write", lambda: self._process.write(data), len(data))

    def close_input(self) -> None:
        self._owner.pass_on("process.close_input", self._process.close_input)

    def finish(self) -> Finished:
        return self._owner.pass_on("process.finish", self._process.finish)

    def kill(self) -> None:
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._process.kill()
