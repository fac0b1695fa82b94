"""Runs hooks before and after a capture and after a rollback, each with a timeout."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeAlias, TypeVar

from attrs import field, frozen

from docker_rollback._arguments import function, seconds, several, text, texts
from docker_rollback._engine import Engine
from docker_rollback._inspection import hide
from docker_rollback._model import Observed
from docker_rollback._reporting import Reporter
from docker_rollback._threads import LateError, within
from docker_rollback.errors import EngineError, HookError, ResumeError

logger = logging.getLogger("docker_rollback")

HookName: TypeAlias = Literal["before_quiesce", "after_resume", "after_rollback"]

_PATIENCE: Final = 60.0

T = TypeVar("T")


def _positive(_: object, name: Any, value: float | None) -> None:
    seconds(name.name, value, above=True, optional=True)


@frozen
class Exec:
    """A hook that runs a program, as root, in a running container.

    Args:
        container: the container's name or id.
        command: the program and its arguments; no shell reads them.
        timeout: the seconds after which it is ended and has failed; None for no timeout.

    Example:
        >>> with rollback("db", before_quiesce=Exec("db", ["psql", "-U", "postgres", "-c", "CHECKPOINT"])):
        ...     update()
    """

    container: str
    command: Sequence[str] = field(repr=False)  # may hold secrets
    timeout: float | None = field(default=_PATIENCE, kw_only=True, validator=_positive)

    def __attrs_post_init__(self) -> None:
        text("the container of an Exec", self.container, what="a name or an id")
        if isinstance(self.command, str | bytes) or not self.command:
            raise ValueError("the command of an Exec is a list: the program, then its arguments")
        texts("the command of an Exec", self.command, what="the program and its arguments")


@frozen
class Call:
    """A hook that calls a function without arguments, and fails if that raises an exception.

    Args:
        function: the function; it runs in a thread of its own.
        timeout: the seconds after which the hook has failed. With None it runs in the caller's thread, without a
            timeout.

    Example:
        >>> with rollback("web", before_quiesce=Call(maintenance_on, timeout=5), after_resume=maintenance_off):
        ...     update()
    """

    function: Callable[[], object]
    timeout: float | None = field(default=_PATIENCE, kw_only=True, validator=_positive)

    def __attrs_post_init__(self) -> None:
        function("the function of a Call", self.function)


Hook: TypeAlias = Callable[[], object] | Call | Exec
"""A `Call`, an `Exec`, or a plain callable, which gets the default timeout of 60 seconds."""

HookArgument: TypeAlias = Hook | Sequence[Hook]
"""A hook, or several; these run one after the other until one fails."""


class Hooks:
    """Runs the hooks of one operation.

    Args:
        engine: the engine that has the containers in which programs run.
        before_quiesce: run right before the first container is quiesced.
        after_resume: run once every quiesced container runs again.
        after_rollback: run once a rollback has restored everything and the checks have passed.
        reporter: progress and timing sink.

    Attributes:
        problems: the failures that did not change the outcome.

    Raises:
        TypeError: a hook is neither a callable nor a `Call` nor an `Exec`.

    Example:
        >>> Hooks(engine, before_quiesce=Exec("db", ["sync"]), after_rollback=[tell_the_team, maintenance_off])
    """

    def __init__(
        self,
        engine: Engine,
        *,
        before_quiesce: HookArgument = (),
        after_resume: HookArgument = (),
        after_rollback: HookArgument = (),
        reporter: Reporter | None = None,
    ) -> None:
        self._engine = engine
        self._before_quiesce = _as_hooks("before_quiesce", before_quiesce)
        self._after_resume = _as_hooks("after_resume", after_resume)
        self._after_rollback = _as_hooks("after_rollback", after_rollback)
        self._reporter = reporter or Reporter()
        self._environment: list[str] = []
        self.problems: list[HookError] = []

    @contextmanager
    def around_capture(self, containers: Sequence[Observed], *, resumes: bool) -> Iterator[None]:
        """Run the hooks before and after a block in which containers are quiesced.

        The hooks after it also run if the block ends with an error, because the containers run again then, too; but not
        if a container could not be resumed (`ResumeError`).

        Args:
            containers: the quiesced containers; errors hide the values of their environments.
            resumes: whether they run again after a block that succeeds.

        Raises:
            HookError: a hook before it failed; the block is not entered, and no hook after it runs.
        """
        self._environment = [str(entry) for one in containers for entry in one.inspection["Config"].get("Env") or ()]
        self._run("before_quiesce", self._before_quiesce)
        try:
            yield
        except ResumeError:
            raise
        except BaseException:
            self._run_and_log_failures("after_resume", self._after_resume)
            raise
        if resumes:
            self._run_and_log_failures("after_resume", self._after_resume)

    @property
    def has_after_rollback(self) -> bool:
        """True if there are hooks after a rollback."""
        return bool(self._after_rollback)

    def after_rollback(self) -> None:
        """Run the hooks after a rollback."""
        self._run_and_log_failures("after_rollback", self._after_rollback)

    def _run_and_log_failures(self, name: HookName, hooks: Sequence[Call | Exec]) -> None:
        """Run hooks; a failure is logged and added to `problems`."""
        try:
            self._run(name, hooks)
        except HookError as error:
            logger.warning("%s", error)
            self.problems.append(error)

    def _run(self, name: HookName, hooks: Sequence[Call | Exec]) -> None:
        if hooks:
            self._reporter.begin(name)
        for hook in hooks:
            self._reporter.announce(name, _program(hook))
            if isinstance(hook, Exec):
                self._exec(name, hook)
            else:
                self._call(name, hook)

    def _exec(self, name: HookName, hook: Exec) -> None:
        container, program = hook.container, _program(hook)
        environment = list(self._environment)
        try:
            environment += self._engine.inspect_container(hook.container)["Config"].get("Env") or ()
            with self._engine.exec(hook.container, hook.command) as process:
                ended = _in_time(hook, process.finish, name=name)
        except LateError:
            reason = f"it did not end within {hook.timeout:g} s, and was ended"
            raise HookError(name, reason, program=program, container=container) from None
        except EngineError as error:
            raise HookError(name, hide(str(error), environment), program=program, container=container) from error
        if ended.exit_code != 0:
            raise HookError(
                name,
                f"it ended with exit code {ended.exit_code}",
                program=program,
                container=container,
                exit_code=ended.exit_code,
                stderr=hide(ended.stderr, environment).strip(),
            )

    def _call(self, name: HookName, hook: Call) -> None:
        program = _program(hook)
        try:
            _in_time(hook, hook.function, name=name)
        except LateError:
            raise HookError(name, f"it did not return within {hook.timeout:g} s", program=program) from None
        except Exception as error:
            said = hide(str(error), self._environment)
            raise HookError(name, f"it raised {type(error).__name__}: {said}", program=program) from error


def _program(hook: Call | Exec) -> str:
    """Return the name of a hook's program; its arguments may hold secrets."""
    if isinstance(hook, Exec):
        return hook.command[0]
    return str(getattr(hook.function, "__qualname__", type(hook.function).__name__))


def _in_time(hook: Call | Exec, work: Callable[[], T], *, name: HookName) -> T:
    return work() if hook.timeout is None else within(hook.timeout, work, name=f"hook {name}")


def _as_hooks(name: HookName, given: HookArgument) -> tuple[Call | Exec, ...]:
    """Return the hooks of an argument as a tuple, with a `Call` for each callable."""
    wanted = f"{name} is a callable, a Call or an Exec, or several of them"
    one = isinstance(given, Call | Exec) or callable(given)
    hooks: Sequence[Hook] = (given,) if one else several(name, given, what=wanted.partition(" is ")[2])
    for hook in hooks:
        if not isinstance(hook, Call | Exec) and not callable(hook):
            raise TypeError(f"{wanted}, not {hook!r}")
    return tuple(hook if isinstance(hook, Call | Exec) else Call(hook) for hook in hooks)
