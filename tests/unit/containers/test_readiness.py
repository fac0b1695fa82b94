"""A service that compose would start once another one is healthy is started then, by a capture and by a rollback."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from docker_rollback import BackupStore, Rollback, RollbackRequested, rollback
from docker_rollback._containers.readiness import await_needed
from docker_rollback._inspection.recreate import observe
from docker_rollback.testing import FailingEngine, FakeClock, FakeContainer, FakeEngine, Run

LABELS = {"com.docker.compose.project": "shop"}


class Shop:
    """A web server that needs a healthy database, which takes a while to come up each time."""

    def __init__(self, store: BackupStore, *, condition: str = "service_healthy", test: Any = ("CMD", "ready")) -> None:
        self.store = store
        self.engine = FakeEngine()
        self.engine.add_image("app:1", files={"/app": "1"})
        self.probes = 3
        self.engine.program("ready", self.ready)
        check = {"Test": list(test), "Interval": 30_000_000_000, "StartPeriod": 0, "Retries": 3}
        db = LABELS | {"com.docker.compose.service": "db"}
        web = LABELS | {
            "com.docker.compose.service": "web",
            "com.docker.compose.depends_on": f"cache:service_started:true,db:{condition}:false",
        }
        self.engine.on_start("db", self.begin)
        self.engine.run("db", image="app:1", labels=db, healthcheck=check)
        self.engine.run("web", image="app:1", labels=web)

    def ready(self, run: Run) -> int:
        """Answer from the third time on."""
        del run
        self.probes += 1
        return 0 if self.probes > 2 else 1

    def begin(self, db: FakeContainer) -> None:
        """Come up: nobody knows yet whether it is well."""
        self.probes = 0
        db.starting()

    def settle(self) -> None:
        """Let the engine find the database healthy."""
        self.probes = 3
        self.engine.container("db").probe(0, "")

    def rollback(self, engine: FailingEngine) -> Rollback:
        """Return a rollback of both, unchecked."""
        return rollback("web", "db", client=engine, store=self.store, verify=None)


def story(engine: FailingEngine, since: int = 0) -> list[str]:
    """Return in which order containers were started and asked."""
    names = {engine.inspect_container(name)["Id"]: name for name in ("db", "web")}
    words = {"start_container": "start", "exec": "probe"}
    calls = [(call.verb, str(call.arguments[0])) for call in engine.calls[since:] if call.verb in words]
    return [f"{words[verb]} {names.get(ref, ref)}" for verb, ref in calls if ref in names or ref in names.values()]


@pytest.mark.parametrize("test", [("CMD", "ready"), ("CMD-SHELL", "ready")])
def test_a_dependent_starts_once_what_it_needs_answers(tmp_path: Path, test: tuple[str, ...]) -> None:
    """After the capture and after the rollback, without waiting for the engine's next probe."""
    shop = Shop(BackupStore(tmp_path), test=test)
    shop.settle()
    watching = FailingEngine(shop.engine)
    with shop.rollback(watching):
        entered = len(watching.calls)
        assert story(watching) == ["start db", "probe db", "probe db", "probe db", "start web"]
        shop.settle()
        raise RollbackRequested
    assert story(watching, entered) == ["start db", "probe db", "probe db", "probe db", "start web"]


def test_nothing_is_waited_for_that_compose_would_not_wait_for(tmp_path: Path) -> None:
    """Another condition, or a service that was not healthy before."""
    started, sick = Shop(BackupStore(tmp_path / "1"), condition="service_started"), Shop(BackupStore(tmp_path / "2"))
    started.settle()
    for shop in (started, sick):
        watching = FailingEngine(shop.engine)
        with shop.rollback(watching):
            assert story(watching) == ["start db", "start web"]


@pytest.mark.parametrize("test", [None, ("NONE",), ("CMD",), ()])
def test_what_is_healthy_or_has_no_probe_is_not_asked(tmp_path: Path, test: tuple[str, ...] | None) -> None:
    """The engine has asked already, or there is nothing to ask."""
    shop = Shop(BackupStore(tmp_path))
    shop.settle()
    db, web = (observe(shop.engine.inspect_container(name)) for name in ("db", "web"))
    if test is not None:
        shop.engine.container("db").starting()
    watching = Unprobed(shop.engine, test)
    clock = FakeClock()
    await_needed(watching, web, [db], timer=clock)
    assert (watching.called("exec"), clock.monotonic()) == ([], 0)


class Unprobed(FailingEngine):
    """An engine that says that health checks are others than they are."""

    def __init__(self, engine: FakeEngine, test: tuple[str, ...] | None) -> None:
        super().__init__(engine)
        self._test = test

    def inspect_container(self, ref: str) -> Any:
        """Inspect, with another test."""
        found = dict(super().inspect_container(ref))
        check = found["Config"].get("Healthcheck")
        if self._test is not None and check:
            found["Config"] = {**found["Config"], "Healthcheck": {**check, "Test": list(self._test)}}
        return found


def test_nothing_is_waited_for_without_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After a minute the dependent is started all the same, and the log says so."""
    shop = Shop(BackupStore(tmp_path))
    shop.settle()
    db, web = (observe(shop.engine.inspect_container(name)) for name in ("db", "web"))
    shop.engine.stop_container("db")
    shop.engine.program("ready", lambda _: 1)
    await_needed(shop.engine, web, [db])
    shop.engine.start_container("db")
    clock = FakeClock()
    with caplog.at_level(logging.WARNING, "docker_rollback"):
        await_needed(shop.engine, web, [db], timer=clock)
    assert 60 <= clock.monotonic() < 61
    assert "db is not healthy after 60 s" in caplog.text


def test_an_engine_that_cannot_be_asked_holds_nothing_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever waits has to start what rests."""
    shop = Shop(BackupStore(tmp_path))
    shop.settle()
    db, web = (observe(shop.engine.inspect_container(name)) for name in ("db", "web"))
    shop.engine.remove_container("db", force=True)
    with caplog.at_level(logging.WARNING, "docker_rollback"):
        await_needed(shop.engine, web, [db])
    assert "web: starting it although the health of db is unknown" in caplog.text
