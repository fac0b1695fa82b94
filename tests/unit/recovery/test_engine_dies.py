"""An engine that dies at any call of the way back: what counts as rolled back runs, and the rest is recovered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from docker_rollback import BackupStore, RecoveryFailedError, RollbackFailedError, RollbackRequested, Status, compare
from docker_rollback._engine.port import ContainerFilter, Engine
from docker_rollback._engine.retry import RetryingEngine
from docker_rollback.errors import EngineTimeoutError, EngineUnavailableError
from docker_rollback.testing import FailingEngine, FakeClock, FakeEngine, Killed
from tests.unit.mortal import COUNTED
from tests.unit.shop import Shop, parts, timed

T = TypeVar("T")


class DyingEngine(FailingEngine):
    """An engine that dies at one call, once it is armed, is away for some more, and is back.

    Counted is every call that changes something, and the first look after each: at which of several looks in a row it
    dies makes no difference to what it has done.

    Args:
        engine: the engine, in memory.
        at: at which of these calls it dies, from 1; before its work, or after it, in turn.
        away: how many calls after that one find nobody.
        live_restore: whether its containers go on meanwhile; otherwise they end, and those come back with it that
            have a restart policy.
    """

    def __init__(self, engine: FakeEngine, at: int, *, away: int, live_restore: bool) -> None:
        super().__init__(engine)
        self._fake, self._death, self._absent, self._live_restore = engine, at, away, live_restore
        self.armed = False
        self._count = self._missed = 0
        self._changed = True
        self._ended: list[str] = []
        self._programs: list[Any] = []

    def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
        """Do one call, or die at it, or be away."""
        if not self.armed or self._missed > self._absent:
            return self._noted(super().pass_on(verb, work, *arguments))
        action = verb.replace("_", " ")
        if self._count >= self._death:
            self._missed += 1
            if self._missed <= self._absent:
                raise EngineUnavailableError(action, "no such file or directory")
            self._come_back()
            return self._noted(super().pass_on(verb, work, *arguments))
        self._count += self._changed or verb in COUNTED
        self._changed = verb in COUNTED
        if self._count < self._death:
            return self._noted(super().pass_on(verb, work, *arguments))
        if self._count // 2 % 2:
            super().pass_on(verb, work, *arguments)
        self._die()
        raise EngineTimeoutError(action, "connection reset by peer")

    def _noted(self, answer: T) -> T:
        if hasattr(answer, "kill"):
            self._programs.append(answer)
        return answer

    def _die(self) -> None:
        for program in self._programs:
            program.kill()
        if self._live_restore:
            return
        for one in self._fake.list_containers(ContainerFilter(running=True)):
            self._ended.append(one)
            self._fake.kill_container(one)

    def _come_back(self) -> None:
        for one in self._ended:
            # One that is removed when it ends is gone.
            if one in self._fake.list_containers():
                policy = self._fake.inspect_container(one)["HostConfig"]["RestartPolicy"]["Name"]
                if policy in ("always", "unless-stopped"):
                    self._fake.start_container(one)

    @property
    def died(self) -> bool:
        """Return True if it has died."""
        return self._count >= self._death

    @property
    def is_back(self) -> bool:
        """Return True if somebody was answered since it died."""
        return self._missed > self._absent

    def revive(self) -> None:
        """Be there, for good."""
        if self.died and not self.is_back:
            self._come_back()
        self.armed = False


class Pair:
    """Two containers that share a network, the first with a volume, and an update that breaks both."""

    def __init__(self, store: BackupStore) -> None:
        self.store = store
        self.clock = FakeClock()
        self.engine = FakeEngine(clock=self.clock)
        self.engine.add_image("app:1", files={"/app": "1"})
        self.engine.add_image("app:2", files={"/app": "2"})
        self.engine.run("db", image="app:1", volumes={"rows": "/rows"}, networks=["net"])
        self.engine.run("web", image="app:1", networks=["net"], restart="always")
        self.engine.volume("rows").write("/table", "rows")
        self.before = {name: self.engine.inspect_container(name) for name in ("db", "web")}

    def timed(self, engine: Engine) -> Any:
        """Return a rollback of both that waits by the clock of this pair."""
        return timed("db", "web", engine=engine, store=self.store, clock=self.clock, verify=())

    def recover(self, engine: Engine | None = None) -> object:
        """Do what `recover` does, by that clock."""
        return parts(engine or self.engine, self.store, self.clock).recovery.recover()

    def break_it(self) -> None:
        """Recreate both from another image, and change the data."""
        for name in ("db", "web"):
            self.engine.remove_container(name, force=True)
        self.engine.volume("rows").write("/table", "half")
        self.engine.run("db", image="app:2", volumes={"rows": "/rows"}, networks=["net"])
        self.engine.run("web", image="app:2", networks=["net"])

    def check_equal(self) -> None:
        """Assert that both are what they were, and that the data is back."""
        for name, before in self.before.items():
            assert compare(before, self.engine.inspect_container(name)) == []
        assert self.engine.volume("rows").read("/table") == b"rows"

    def check_nothing_left(self) -> None:
        """Assert that there is nothing of ours."""
        names = [str(self.engine.inspect_container(one)["Name"]) for one in self.engine.list_containers()]
        assert sorted(names) == ["/db", "/web"]


def names_of(world: Shop | Pair) -> tuple[str, ...]:
    """Return the names of the containers of a world."""
    return ("shop",) if isinstance(world, Shop) else ("db", "web")


def check_running(world: Shop | Pair) -> None:
    """Assert that everything is as it was, and runs."""
    world.check_equal()
    for name in names_of(world):
        assert world.engine.container(name).status == "running", name


def rolls_back(world: Shop | Pair, dying: DyingEngine, engine: Engine) -> bool:
    """Roll an update back, with the engine armed once that begins; return whether it ended as rolled back."""
    tx = world.timed(engine)
    with suppress(RollbackFailedError, RollbackRequested), tx:
        world.break_it()
        dying.armed = True
        raise RollbackRequested
    assert tx.status in (Status.ROLLED_BACK, Status.FAILED)
    return tx.status is Status.ROLLED_BACK


def recovers(world: Shop | Pair, dying: DyingEngine, engine: Engine) -> bool:
    """Recover a rollback whose process died in the body, with the engine armed; return whether that was finished."""
    killed = FailingEngine(world.engine, at=1, kill=True, verbs={"kill_container"})
    with suppress(Killed), world.timed(killed):
        world.break_it()
        killed.kill_container(names_of(world)[0])
    dying.armed = True
    try:
        world.recover(engine)
    except RecoveryFailedError:
        return False
    return True


@pytest.mark.parametrize(("make", "way_back"), [(Shop, rolls_back), (Shop, recovers), (Pair, rolls_back)])
def test_what_counts_as_rolled_back_runs(
    tmp_path: Path, make: type[Shop] | type[Pair], way_back: Callable[[Shop | Pair, DyingEngine, Engine], bool]
) -> None:
    """The engine dies at each call in turn, and is back before one gives up asking."""
    well = play(tmp_path, make, way_back, range(1, 1000), asked_again=True)
    assert len(well) > 30, "the whole way back was tried"
    assert sum(well) > len(well) / 2


@pytest.mark.parametrize("make", [Shop, Pair])
def test_what_does_not_count_as_rolled_back_says_so(tmp_path: Path, make: type[Shop] | type[Pair]) -> None:
    """Nobody asks again, so the engine is not back in time; `recover` makes it right."""
    well = play(tmp_path, make, rolls_back, range(1, 1000, 3), asked_again=False)
    assert len(well) > 10
    assert not all(well)


def play(
    tmp_path: Path,
    make: type[Shop] | type[Pair],
    way_back: Callable[[Shop | Pair, DyingEngine, Engine], bool],
    calls: Iterable[int],
    *,
    asked_again: bool,
) -> list[bool]:
    """Let the engine die at some calls, each in a world of its own; return of each whether it ended as rolled back.

    Every other time its containers go on meanwhile.
    """
    outcomes: list[bool] = []
    for number in calls:
        world = make(BackupStore(tmp_path / str(number)))
        dying = DyingEngine(world.engine, number, away=2, live_restore=number % 2 == 0)
        engine: Engine = RetryingEngine(dying, sleep=world.clock.sleep) if asked_again else dying
        well = way_back(world, dying, engine)
        if not dying.died:
            break
        outcomes.append(well)
        if not (well and dying.is_back):
            dying.revive()
            world.recover()
            world.check_nothing_left()
        check_running(world)
    return outcomes
