"""Hooks: what a caller has done around a capture and after a rollback, each within its time."""

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
        timeout: how long it may take, in seconds; it is ended then, and has failed. None is as long as it wants.

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
    """A hook that calls a function, without arguments; what it raises means that it has failed.

    Args:
        function: what is called, in a thread of its own.
        timeout: how long it may take, in seconds; it is waited for no longer then, and has failed. With None it runs in
            the thread of the caller, for as long as it wants.

    Example:
        >>> with rollback("web", before_quiesce=Call(maintenance_on, timeout=5), after_resume=maintenance_off):
        ...     update()
    """

    function: Callable[[], object]
    timeout: float | None = field(default=_PATIENCE, kw_only=True, validator=_positive)

    def __attrs_post_init__(self) -> None:
        function("the function of a Call", self.function)


Hook: TypeAlias = Callable[[], object] | Call | Exec
"""A callable, which means `Call` with its time-out of 60 seconds; or one of the two, with a time-out of its own."""

HookArgument: TypeAlias = Hook | Sequence[Hook]
"""A hook, or several that run one after the other until one fails."""


class Hooks:
    """Runs the hooks of one operation.

    Args:
        engine: where the containers are in which programs run.
        before_quiesce: before the first container is brought to rest, once nothing else is left to do before it.
        after_resume: once every container that was brought to rest runs again.
        after_rollback: once everything is put back and well.
        reporter: is told when they begin, and measures them.

    Attributes:
        problems: why hooks failed whose failure changes nothing.

    Raises:
        TypeError: a hook is none.

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
    def around_rest(self, containers: Sequence[Observed], *, resumes: bool) -> Iterator[None]:
        """Run those before a block in which containers are at rest, and those after it.

        Those after it run also where the block ends with an error, for the containers run again then too; not where one
        does not (`ResumeError`).

        Args:
            containers: those that are at rest; no value of their environments is told by an error.
            resumes: whether they run again after a block that ends well.

        Raises:
            HookError: one of those before it failed; the block is not entered, and those after it do not run.
        """
        self._environment = [str(entry) for one in containers for entry in one.inspection["Config"].get("Env") or ()]
        self._run("before_quiesce", self._before_quiesce)
        try:
            yield
        except ResumeError:
            raise
        except BaseException:
            self._run_all_the_same("after_resume", self._after_resume)
            raise
        if resumes:
            self._run_all_the_same("after_resume", self._after_resume)

    def after_rollback(self) -> None:
        """Run those after a rollback."""
        self._run_all_the_same("after_rollback", self._after_rollback)

    def _run_all_the_same(self, name: HookName, hooks: Sequence[Call | Exec]) -> None:
        """Run hooks whose failure is told and changes nothing."""
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
            raise HookError(name, f"it did not come back within {hook.timeout:g} s", program=program) from None
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
    """Return the hooks that an argument means."""
    wanted = f"{name} is a callable, a Call or an Exec, or several of them"
    one = isinstance(given, Call | Exec) or callable(given)
    hooks: Sequence[Hook] = (given,) if one else several(name, given, what=wanted.partition(" is ")[2])
    for hook in hooks:
        if not isinstance(hook, Call | Exec) and not callable(hook):
            raise TypeError(f"{wanted}, not {hook!r}")
    return tuple(hook if isinstance(hook, Call | Exec) else Call(hook) for hook in hooks)
