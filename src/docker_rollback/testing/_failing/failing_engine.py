"""An engine that fails on request: `FailingEngine`."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from attrs import define

from docker_rollback._engine import ContainerFilter, Engine, Finished, Process
from docker_rollback.errors import EngineError, EngineTimeoutError
from docker_rollback.testing._failing.calls import CHANGING, FEEDING, READING, EngineCall, Killed

_Answer = TypeVar("_Answer")
_Arguments = ParamSpec("_Arguments")


def _passed_on(
    method: Callable[Concatenate[Engine, _Arguments], _Answer],
) -> Callable[Concatenate[FailingEngine, _Arguments], _Answer]:
    """Return the method of a `FailingEngine` for a method of the engine."""
    verb = method.__name__

    @functools.wraps(method)
    def passed(self: FailingEngine, /, *arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Answer:
        def work() -> _Answer:
            answer: _Answer = getattr(self._engine, verb)(*arguments, **options)
            return answer

        named = [one.get("Name") if isinstance(one, Mapping) else one for one in arguments]
        return self.pass_on(verb, work, *(one for one in named if isinstance(one, str | ContainerFilter)))

    return passed


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

    info = _passed_on(Engine.info)
    now = _passed_on(Engine.now)
    forbidden = _passed_on(Engine.forbidden)

    # Containers

    inspect_container = _passed_on(Engine.inspect_container)
    list_containers = _passed_on(Engine.list_containers)
    create_container = _passed_on(Engine.create_container)
    start_container = _passed_on(Engine.start_container)
    stop_container = _passed_on(Engine.stop_container)
    kill_container = _passed_on(Engine.kill_container)
    pause_container = _passed_on(Engine.pause_container)
    unpause_container = _passed_on(Engine.unpause_container)
    rename_container = _passed_on(Engine.rename_container)
    update_container = _passed_on(Engine.update_container)
    remove_container = _passed_on(Engine.remove_container)
    commit_container = _passed_on(Engine.commit_container)
    put_archive = _passed_on(Engine.put_archive)
    container_changes = _passed_on(Engine.container_changes)
    container_logs = _passed_on(Engine.container_logs)

    def exec(self, ref: str, command: Sequence[str], *, stdin: bool = False) -> Process:
        """Run a program as root in a running container."""

        def begin() -> _Program:
            program = self._engine.exec(ref, command, stdin=stdin)
            self._programs.append(program)
            return _Program(self, program)

        return self.pass_on("exec", begin, ref, *command)

    # Images

    inspect_image = _passed_on(Engine.inspect_image)
    list_images = _passed_on(Engine.list_images)
    tag_image = _passed_on(Engine.tag_image)
    remove_image = _passed_on(Engine.remove_image)
    save_image = _passed_on(Engine.save_image)
    load_image = _passed_on(Engine.load_image)
    import_image = _passed_on(Engine.import_image)
    pull_image = _passed_on(Engine.pull_image)

    # Networks

    inspect_network = _passed_on(Engine.inspect_network)
    list_networks = _passed_on(Engine.list_networks)
    create_network = _passed_on(Engine.create_network)
    remove_network = _passed_on(Engine.remove_network)
    connect_network = _passed_on(Engine.connect_network)
    disconnect_network = _passed_on(Engine.disconnect_network)

    # Volumes

    inspect_volume = _passed_on(Engine.inspect_volume)
    list_volumes = _passed_on(Engine.list_volumes)
    create_volume = _passed_on(Engine.create_volume)
    remove_volume = _passed_on(Engine.remove_volume)


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
