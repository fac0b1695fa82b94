"""Checks of containers in every state that an engine can show, and what becomes of their answers."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from docker_rollback import healthy, http_ok, rollback, tcp_open
from docker_rollback._engine.port import Inspection
from docker_rollback._model.backup import ContainerState
from docker_rollback._rollback.checked_container import CheckedContainer
from docker_rollback._rollback.checks import stays_up
from docker_rollback.errors import EngineError, UpdateRejectedError
from docker_rollback.testing import FailingEngine, FakeClock, FakeEngine
from tests.unit.rollback.test_checks import server  # noqa: F401  # a fixture
from tests.unit.shop import Shop


class Showing(FailingEngine):
    """An engine that shows every container in another state than it is in."""

    def __init__(self, engine: FakeEngine, **state: Any) -> None:
        super().__init__(engine)
        self._state = state

    def inspect_container(self, ref: str) -> Inspection:
        """Return the inspection, with that state in it."""
        found = super().inspect_container(ref)
        return {**found, "State": {**found["State"], **self._state}}


def shown(
    before: Any = "running", *, restart: str = "no", clock: FakeClock | None = None, **state: Any
) -> CheckedContainer:
    """Return a container to check that is shown in a state."""
    clock = clock or FakeClock()
    engine = FakeEngine(clock=clock)
    engine.add_image("plain:1")
    engine.run("web", image="plain:1", restart=restart)
    return CheckedContainer(Showing(engine, **state), "web", ContainerState(before), timer=clock)


REJECTED: list[tuple[dict[str, Any], str]] = [
    ({"Status": "exited", "Running": False, "ExitCode": 3}, "it ended with exit code 3"),
    ({"Status": "dead", "Running": False, "ExitCode": 137}, "it ended with exit code 137"),
    ({"Status": "exited", "Running": False, "ExitCode": 0, "restart": "always"}, "it ended with exit code 0"),
    ({"Status": "exited", "Running": False, "ExitCode": 0, "restart": "unless-stopped"}, "it ended with exit code 0"),
    ({"Status": "restarting"}, "it keeps ending and is being restarted"),
    ({"Status": "paused", "Paused": True}, "it is paused"),
    ({"Status": "created", "Running": False}, "it does not run: it is created"),
    ({"Status": "removing", "Running": False}, "it does not run: it is removing"),
]


@pytest.mark.parametrize("check", [healthy(), stays_up(60.0)], ids=["healthy", "stays_up"])
@pytest.mark.parametrize(("state", "reason"), REJECTED)
def test_a_container_that_does_not_run_is_rejected_at_once(state: dict[str, Any], reason: str, check: Any) -> None:
    """The reason says what it does instead."""
    clock = FakeClock()
    with pytest.raises(UpdateRejectedError) as rejected:
        check(shown(clock=clock, **state))
    assert rejected.value.reason == reason
    assert clock.monotonic() == 0.0


PASSES: list[tuple[str, dict[str, Any]]] = [
    ("running", {"Status": "exited", "Running": False, "ExitCode": 0}),
    ("running", {"Status": "dead", "Running": False, "ExitCode": 0}),
    ("running", {"Status": "exited", "Running": False, "ExitCode": 0, "restart": "on-failure"}),
    ("paused", {"Status": "paused", "Paused": True}),
    ("exited", {"Status": "exited", "Running": False, "ExitCode": 1}),
]


@pytest.mark.parametrize(("before", "state"), PASSES)
def test_a_job_that_is_done_and_what_is_as_it_was_pass_at_once(before: str, state: dict[str, Any]) -> None:
    """Nobody waits for either."""
    clock = FakeClock()
    healthy()(shown(before, clock=clock, **state))
    assert clock.monotonic() == 0.0


@pytest.mark.parametrize(("status", "code", "waited"), [("dead", 1, 0.0), ("exited", 1, 0.0), ("exited", 0, 2.0)])
def test_an_answer_is_waited_for_unless_the_container_failed(status: str, code: int, waited: float) -> None:
    """A job that has done its work may have started what answers."""
    clock = FakeClock()
    web = shown(clock=clock, Status=status, Running=False, ExitCode=code)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UpdateRejectedError, match="accepts no connection"):
            tcp_open("127.0.0.1", taken.getsockname()[1], timeout=2.0)(web)
    assert waited <= clock.monotonic() < waited + 0.6


def test_a_health_check_that_ran_is_not_said_never_to_have_run() -> None:
    """Its container has only not become healthy in time."""
    log = [{"ExitCode": 1, "Output": "not yet"}]
    with pytest.raises(UpdateRejectedError) as rejected:
        healthy(timeout=0.0)(shown(Health={"Status": "starting", "Log": log}))
    assert rejected.value.reason.startswith("it did not become healthy within ")
    assert rejected.value.reason.endswith(" s")
    assert rejected.value.probe == "exit code 1, not yet"


@pytest.mark.parametrize(("status", "passes"), [(399, True), (400, False)])
def test_an_answer_of_400_is_an_error(server: tuple[str, int], status: int, *, passes: bool) -> None:  # noqa: F811
    """And no status below it."""
    host, port = server
    check = http_ok(f"http://{host}:{port}/{status}", timeout=0.1)
    if passes:
        check(shown())
    else:
        with pytest.raises(UpdateRejectedError, match="answers with status 400"):
            check(shown())


@pytest.mark.parametrize("verb", ["inspect_container", "container_logs"])
def test_a_rejection_by_an_engine_that_does_not_answer_has_its_reason(verb: str) -> None:
    """Without state and log, and without any secret of the container."""
    engine = FakeEngine()
    engine.add_image("plain:1")
    engine.run("web", image="plain:1")
    failing = FailingEngine(engine, at=1, verbs={verb}, lasting=True)
    web = CheckedContainer(failing, "web", ContainerState("running"), environment=["TOKEN=a-long-secret"])
    error = web.reject("refused a-long-secret")
    assert error.reason == "refused ${TOKEN}"
    assert error.details.startswith("its state and log are unknown: ")
    assert (error.state, error.exit_code, error.log) == (None, None, ())


def test_a_rejection_hides_secrets_also_if_the_image_is_gone() -> None:
    """Only the values that its image has as well are no secrets."""

    class Imageless(FailingEngine):
        def inspect_image(self, ref: str) -> Inspection:
            """Refuse."""
            raise EngineError("inspect the image", f"no such image {ref}")

    engine = FakeEngine()
    engine.add_image("plain:1")
    engine.run("web", image="plain:1", env=["TOKEN=a-long-secret"])
    error = CheckedContainer(Imageless(engine), "web", ContainerState("running")).reject("refused a-long-secret")
    assert (error.reason, error.state) == ("refused ${TOKEN}", "running")


def test_a_state_without_an_exit_code_is_0() -> None:
    """As an engine means it."""
    assert shown(ExitCode=None).reject("it is so").exit_code == 0


def test_a_check_that_hangs_does_not_keep_the_program_from_its_end(shop: Shop) -> None:
    """Checks of several containers run in threads that end with it; that of a single one has the caller's thread."""
    shop.engine.run("desk", image="shop:1")
    found: list[threading.Thread] = []

    def note(_: CheckedContainer) -> None:
        found.append(threading.current_thread())

    with rollback("shop", client=shop.engine, store=shop.store, verify=note):
        found.clear()
    assert found == [threading.current_thread()]
    with rollback("shop", "desk", client=shop.engine, store=shop.store, verify=note):
        found.clear()
    assert sorted((thread.name, thread.daemon) for thread in found) == [
        ("checks of container desk", True),
        ("checks of container shop", True),
    ]
