"""The checks of a group run side by side; the first that fails decides, and after a rollback everyone is asked."""

from __future__ import annotations

import threading

import pytest

from docker_rollback._inspection.recreate import observe
from docker_rollback._rollback.checked_container import Check, CheckedContainer
from docker_rollback._rollback.verdict import Verdict
from docker_rollback.errors import RestoreError, UpdateRejectedError
from docker_rollback.testing import FakeClock, FakeEngine

NAMES = ("web", "db", "cache")


@pytest.fixture
def clock() -> FakeClock:
    """A clock on which waiting costs nothing."""
    return FakeClock()


@pytest.fixture
def engine(clock: FakeClock) -> FakeEngine:
    """An engine with a group of three."""
    engine = FakeEngine(clock=clock)
    engine.add_image("plain:1", files={"/app": "x"})
    for name in NAMES:
        engine.run(name, image="plain:1")
    return engine


class Switched:
    """Checks that hold on entry; from then on `then` is asked."""

    def __init__(self, then: Check) -> None:
        self.then: Check | None = None
        self._next = then

    def __call__(self, container: CheckedContainer) -> None:
        """Ask, once switched."""
        if self.then is not None:
            self.then(container)

    def switch(self) -> None:
        """Begin to ask."""
        self.then = self._next


def begun(engine: FakeEngine, clock: FakeClock, check: Check, *names: str) -> Verdict:
    """Return a verdict on containers on which `check` holds so far."""
    switched = Switched(check)
    verdict = Verdict(engine, [switched], timer=clock)
    verdict.begin([observe(engine.inspect_container(name)) for name in names or NAMES])
    switched.switch()
    return verdict


def test_containers_are_checked_side_by_side(engine: FakeEngine, clock: FakeClock) -> None:
    """Each check waits for those of the other containers: one after the other they would never pass."""
    together = threading.Barrier(len(NAMES), timeout=10.0)

    def check(_: CheckedContainer) -> None:
        together.wait()

    begun(engine, clock, check).judge()
    begun(engine, clock, check).judge_again()


def test_what_the_preflight_saw_counts_for_a_moment(engine: FakeEngine, clock: FakeClock) -> None:
    """While a check waits for its answer, another container ends: its own check looks at it, and is not repeated."""
    failing: list[str] = []

    def check(container: CheckedContainer) -> None:
        if container.inspect()["State"]["Status"] != "running":
            failing.append(container.name)
            raise container.reject("it does not run")
        clock.sleep(30.0)
        if container.name == "web":
            engine.stop_container("db")

    verdict = Verdict(engine, [check], timer=clock)
    verdict.begin([observe(engine.inspect_container(name)) for name in NAMES])
    assert failing == ["db"]
    verdict.judge_again()
    assert failing == ["db"]


def test_the_first_that_fails_decides(engine: FakeEngine, clock: FakeClock) -> None:
    """Nobody waits for the checks of the others; they end at their next sleep."""
    others = threading.Semaphore(0)

    def check(container: CheckedContainer) -> None:
        if container.name == "db":
            raise container.reject("it is broken")
        try:
            while True:
                container.sleep(0.0)
        finally:
            others.release()

    with pytest.raises(UpdateRejectedError, match="broken") as rejected:
        begun(engine, clock, check).judge()
    assert rejected.value.container == "db"
    assert all(others.acquire(timeout=10.0) for _ in range(2))


def test_one_container_is_checked_in_the_thread_of_the_caller(engine: FakeEngine, clock: FakeClock) -> None:
    """Its checks can be interrupted, and what belongs to a thread can be used in them."""
    seen: list[threading.Thread] = []
    begun(engine, clock, lambda _: seen.append(threading.current_thread()), "web").judge()
    assert seen == [threading.current_thread()]


@pytest.mark.parametrize("names", [("web",), NAMES], ids=["one", "group"])
@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_comes_out(
    engine: FakeEngine, clock: FakeClock, names: tuple[str, ...], raised: type[BaseException]
) -> None:
    """A check that exits is not a check that fails."""

    def check(container: CheckedContainer) -> None:
        if container.name == "web":
            raise raised

    with pytest.raises(raised):
        begun(engine, clock, check, *names).judge()


def test_the_checks_of_a_container_run_in_their_order(engine: FakeEngine, clock: FakeClock) -> None:
    """Only one that passed is followed by the next."""
    seen: list[str] = []
    verdict = Verdict(
        engine,
        [lambda one: seen.append(f"{one.name} first"), lambda one: seen.append(f"{one.name} second")],
        timer=clock,
    )
    verdict.begin([observe(engine.inspect_container(name)) for name in NAMES])
    seen.clear()
    verdict.judge()
    assert sorted(seen) == sorted(f"{name} {which}" for name in NAMES for which in ("first", "second"))
    assert all(seen.index(f"{name} first") < seen.index(f"{name} second") for name in NAMES)


def test_after_a_rollback_everyone_is_asked(engine: FakeEngine, clock: FakeClock) -> None:
    """Every container that is not well is named."""

    def check(container: CheckedContainer) -> None:
        if container.name != "db":
            raise LookupError(container.name)

    verdict = begun(engine, clock, check)
    with pytest.raises(RestoreError, match="cache") as failed:
        verdict.judge_again()
    assert [failure.container for failure in failed.value.failures if isinstance(failure, RestoreError)] == [
        "web",
        "cache",
    ]


def test_after_a_rollback_nobody_is_in_a_hurry(engine: FakeEngine, clock: FakeClock) -> None:
    """A service that finds its database only after a while is well again."""
    tries: list[str] = []

    def check(container: CheckedContainer) -> None:
        tries.append(container.name)
        if len(tries) < 9:
            raise LookupError("no database")

    begun(engine, clock, check, "web").judge_again()
    assert len(tries) == 9
    begun_at = clock.monotonic()
    with pytest.raises(RestoreError, match="never"):
        begun(engine, clock, reject, "web").judge_again()
    assert 30.0 <= clock.monotonic() - begun_at < 31.0


def test_what_did_not_hold_before_is_not_asked_after(engine: FakeEngine, clock: FakeClock) -> None:
    """A check that failed on entry is left out of what a rollback has to reach."""
    verdict = Verdict(engine, [Switched(lambda _: None), reject], timer=clock)
    verdict.begin([observe(engine.inspect_container("web"))])
    with pytest.raises(UpdateRejectedError):
        verdict.judge()
    verdict.judge_again()


def reject(container: CheckedContainer) -> None:
    """Never hold."""
    raise container.reject("never")
