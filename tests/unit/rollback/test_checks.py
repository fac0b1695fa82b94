"""A check passes a container that is well, and says of any other what is wrong with it."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from attrs import evolve

from docker_rollback._engine.port import Inspection
from docker_rollback._inspection.recreate import observe
from docker_rollback._model.backup import ContainerState
from docker_rollback._rollback.checked_container import CheckedContainer, passes_now
from docker_rollback._rollback.checks import eventually, healthy, http_ok, tcp_open
from docker_rollback.errors import EngineError, UpdateRejectedError
from docker_rollback.parts import RollbackOptions
from docker_rollback.testing import FailingEngine, FakeClock, FakeEngine

PROBE = {"Test": ["CMD", "true"], "StartPeriod": 5_000_000_000}


@pytest.fixture
def clock() -> FakeClock:
    """A clock on which waiting costs nothing."""
    return FakeClock()


@pytest.fixture
def engine(clock: FakeClock) -> FakeEngine:
    """An engine with two images: one without a health check and one with."""
    engine = FakeEngine(clock=clock)
    engine.add_image("plain:1", files={"/app": "x"})
    engine.add_image("probed:1", files={"/app": "x"}, healthcheck=PROBE)
    return engine


def checked(engine: FakeEngine, clock: FakeClock, name: str = "web") -> CheckedContainer:
    """Return a container to check, as it is now."""
    state = observe(engine.inspect_container(name)).state
    return CheckedContainer(engine, name, state, timer=clock)


def test_a_container_without_a_health_check_has_to_stay_up(engine: FakeEngine, clock: FakeClock) -> None:
    """It passes once it was up for as long as asked, and not before."""
    engine.run("web", image="plain:1")
    begun = clock.monotonic()
    healthy(stable_for=3.0)(checked(engine, clock))
    assert 3.0 <= clock.monotonic() - begun < 3.5


def test_a_container_that_ends_within_that_time_is_rejected(engine: FakeEngine, clock: FakeClock) -> None:
    """The error says how it ended and what it said last."""
    engine.run("web", image="plain:1")
    web = engine.container("web")
    web.print("out of luck")
    web.after(2.0, lambda: web.exit(7))
    with pytest.raises(UpdateRejectedError, match="exit code 7") as rejected:
        healthy(stable_for=3.0)(checked(engine, clock))
    assert rejected.value.container == "web"
    assert "out of luck" in rejected.value.details


def test_a_container_has_to_stay_up_for_five_seconds_by_default(engine: FakeEngine, clock: FakeClock) -> None:
    """One that dies four seconds after its start is rejected, one that lives is well after five."""
    engine.run("web", image="plain:1")
    web = engine.container("web")
    web.after(4.0, lambda: web.exit(1))
    with pytest.raises(UpdateRejectedError, match="exit code 1"):
        healthy()(checked(engine, clock))
    engine.start_container("web")
    begun = clock.monotonic()
    healthy()(checked(engine, clock))
    assert 5.0 <= clock.monotonic() - begun < 5.5


@pytest.mark.parametrize(("up", "left"), [(0.0, 5.0), (3.0, 2.0), (5.0, 0.0), (86_400.0, 0.0)])
def test_the_time_counts_from_the_start(engine: FakeEngine, clock: FakeClock, up: float, left: float) -> None:
    """A container that has been up for long by then is not waited for."""
    engine.run("web", image="plain:1")
    clock.advance(up)
    begun = clock.monotonic()
    healthy()(checked(engine, clock))
    assert left <= clock.monotonic() - begun < left + 0.2


class Elsewhere(FakeEngine):
    """An engine that answers wrong or not at all when it is asked for its time."""

    said: datetime | None = None

    def now(self) -> datetime:
        """Return what it says."""
        if self.said is None:
            raise EngineError("ask the engine for its time", "'None' is not a time")
        return self.said


@pytest.mark.parametrize("said", [None, datetime(2025, 12, 31, tzinfo=UTC)], ids=["unknown", "set back"])
def test_where_the_start_cannot_be_trusted_the_first_look_counts(clock: FakeClock, said: datetime | None) -> None:
    """An engine that does not say its time, or whose clock was set back since, has the whole time waited for."""
    engine = Elsewhere(clock=clock)
    engine.said = said
    engine.add_image("plain:1")
    engine.run("web", image="plain:1")
    clock.advance(60.0)
    begun = clock.monotonic()
    healthy()(checked(engine, clock))
    assert 5.0 <= clock.monotonic() - begun < 5.5


def test_only_the_clock_of_the_engine_counts(engine: FakeEngine) -> None:
    """The clock of this machine may be years away from it."""
    here = FakeClock(datetime(2031, 1, 1, tzinfo=UTC))
    engine.run("web", image="plain:1")
    container = checked(engine, here)
    healthy()(container)
    assert 5.0 <= here.monotonic() < 5.5


@pytest.mark.parametrize("policy", ["no", "on-failure"])
def test_a_job_is_not_waited_for(engine: FakeEngine, clock: FakeClock, policy: str) -> None:
    """It ends with 0 before the five seconds are over, and nobody starts it again."""
    engine.run("web", image="plain:1", restart=policy)
    web = engine.container("web")
    web.after(2.0, lambda: web.exit(0))
    begun = clock.monotonic()
    healthy()(checked(engine, clock))
    assert 2.0 <= clock.monotonic() - begun < 2.5


def test_a_health_check_that_passes_is_not_waited_for(engine: FakeEngine, clock: FakeClock) -> None:
    """It says that the container is well."""
    engine.run("web", image="probed:1")
    healthy()(checked(engine, clock))
    assert clock.monotonic() == 0.0


def test_a_paused_container_is_not_waited_for(engine: FakeEngine, clock: FakeClock) -> None:
    """It was paused before, and nothing happens to it meanwhile."""
    engine.run("web", image="plain:1")
    engine.pause_container("web")
    healthy()(checked(engine, clock))
    assert clock.monotonic() == 0.0


def test_a_restart_of_long_ago_is_not_waited_for(engine: FakeEngine, clock: FakeClock) -> None:
    """Its engine started it again once, and it has been up since."""
    engine.run("web", image="plain:1", restart="always")
    engine.container("web").exit(1)
    clock.advance(1.0)
    assert engine.inspect_container("web")["RestartCount"] == 1
    clock.advance(3600.0)
    begun = clock.monotonic()
    healthy()(checked(engine, clock))
    assert clock.monotonic() == begun


def test_a_loop_of_four_seconds_is_rejected(engine: FakeEngine, clock: FakeClock) -> None:
    """The engine starts it again each time."""
    engine.on_start("web", lambda web: web.after(4.0, lambda: web.exit(1)))
    engine.run("web", image="plain:1", restart="always")
    with pytest.raises(UpdateRejectedError, match="keeps ending"):
        healthy()(checked(engine, clock))


def test_a_start_by_somebody_else_begins_the_count_again(engine: FakeEngine, clock: FakeClock) -> None:
    """Twice may be part of the update; again and again is a loop that a program outside of the engine drives."""

    def again() -> None:
        engine.stop_container("web")
        engine.start_container("web")

    left = iter([again, again])
    engine.on_start("web", lambda web: web.after(3.0, next(left, lambda: None)))
    engine.run("web", image="plain:1")
    begun = clock.monotonic()
    healthy()(checked(engine, clock))
    assert 11.0 <= clock.monotonic() - begun < 11.8
    engine.on_start("web", lambda web: web.after(3.0, again))
    again()
    with pytest.raises(UpdateRejectedError, match="somebody keeps restarting it"):
        healthy()(checked(engine, clock))


def test_a_job_that_ends_well_is_well(engine: FakeEngine, clock: FakeClock) -> None:
    """A container that did its work and ended with 0, and is not to be restarted, passes."""
    engine.run("web", image="plain:1")
    web = engine.container("web")
    container = checked(engine, clock)
    web.exit(0)
    healthy()(container)


def test_a_container_that_is_gone_is_rejected(engine: FakeEngine, clock: FakeClock) -> None:
    """There is nothing of that name any more."""
    engine.run("web", image="plain:1")
    container = checked(engine, clock)
    engine.remove_container("web", force=True)
    with pytest.raises(UpdateRejectedError, match="gone"):
        healthy()(container)


def test_a_container_that_is_restarted_again_and_again_is_rejected(engine: FakeEngine, clock: FakeClock) -> None:
    """Between two restarts it looks as if it ran; the count gives it away."""
    engine.run("web", image="plain:1", restart="always")
    container = checked(engine, clock)
    engine.container("web").after(0.5, lambda: engine.container("web").exit(1))
    with pytest.raises(UpdateRejectedError, match="keeps ending"):
        healthy(stable_for=5.0)(container)


def test_a_container_that_was_never_started_is_rejected(engine: FakeEngine, clock: FakeClock) -> None:
    """An update that only creates its container has not updated a service that ran."""
    engine.run("web", image="plain:1")
    container = checked(engine, clock)
    engine.remove_container("web", force=True)
    engine.run("web", image="plain:1", start=False)
    with pytest.raises(UpdateRejectedError, match="created"):
        healthy()(container)


def test_a_health_check_has_to_turn_healthy(engine: FakeEngine, clock: FakeClock) -> None:
    """It passes as soon as a probe succeeds, however late within its time."""
    engine.on_start("web", lambda web: web.starting())
    engine.run("web", image="probed:1")
    web = engine.container("web")
    container = checked(engine, clock)
    web.after(20.0, lambda: web.probe(0))
    healthy(timeout=30.0)(container)
    assert 20.0 <= clock.monotonic() < 21.0


def test_an_unhealthy_container_fails_at_once(engine: FakeEngine, clock: FakeClock) -> None:
    """Nobody waits for the time-out where the health check has decided; its last words are in the error."""
    engine.run("web", image="probed:1")
    web = engine.container("web")
    for _ in range(9):
        web.probe(1, "no route to db")
    with pytest.raises(UpdateRejectedError, match="unhealthy") as rejected:
        healthy(timeout=600.0)(checked(engine, clock))
    assert "no route to db" in rejected.value.details
    assert (rejected.value.state, rejected.value.exit_code) == ("running", 0)
    assert clock.monotonic() < 1.0


def test_a_health_check_that_never_decides_runs_out_of_time(engine: FakeEngine, clock: FakeClock) -> None:
    """The container's own start period counts on top of the time-out."""
    engine.on_start("web", lambda web: web.starting())
    engine.run("web", image="probed:1")
    with pytest.raises(UpdateRejectedError, match=r"did not become healthy within .* never run its health check"):
        healthy(timeout=10.0)(checked(engine, clock))
    assert 15.0 <= clock.monotonic() < 16.0


def test_nothing_is_asked_of_a_container_that_did_not_run(engine: FakeEngine, clock: FakeClock) -> None:
    """A stopped container may be stopped after the update as well."""
    engine.run("web", image="plain:1", start=False)
    healthy()(checked(engine, clock))
    tcp_open("127.0.0.1", 1, timeout=0.1)(checked(engine, clock))


def test_what_holds_now_is_found_without_waiting(engine: FakeEngine, clock: FakeClock) -> None:
    """What must stay well counts as well; what has yet to turn well does not."""
    engine.run("up", image="plain:1")
    engine.on_start("starting", lambda starting: starting.starting())
    engine.run("starting", image="probed:1")
    engine.run("sick", image="probed:1")
    for _ in range(9):
        engine.container("sick").probe(1)
    for name, check, passes in (
        ("up", healthy(stable_for=1e9), True),
        ("starting", healthy(), False),
        ("sick", healthy(), False),
    ):
        assert passes_now(check, checked(engine, clock, name), engine.inspect_container(name)) is passes, name
    assert clock.monotonic() == 0.0


def test_a_start_between_two_looks_does_not_hold_up_a_look_at_what_holds(engine: FakeEngine, clock: FakeClock) -> None:
    """It is healthy once it has been started without its health check, and no time passes for it to stay up."""

    class Recreated(FailingEngine):
        recreated = False

        def inspect_container(self, ref: str) -> Inspection:
            if not self.recreated:
                self.recreated = True
                engine.remove_container("web", force=True)
                engine.run("web", image="plain:1")
            return super().inspect_container(ref)

    looks = Recreated(engine)
    engine.on_start("web", lambda web: None if looks.recreated else web.starting())
    engine.run("web", image="probed:1")
    web = CheckedContainer(looks, "web", ContainerState("running"), timer=clock)
    assert passes_now(healthy(), web, engine.inspect_container("web"))
    assert len(looks.called("inspect_container")) == 1


def test_a_check_of_ones_own_knows_how_long_a_container_has_been_up(engine: FakeEngine, clock: FakeClock) -> None:
    """Before the update too, when no check waits."""
    engine.run("web", image="plain:1")
    clock.sleep(90.0)
    found: list[int] = []
    seen = engine.inspect_container("web")
    assert passes_now(
        lambda container: found.append(int(container.up_for(container.inspect()))), checked(engine, clock), seen
    )
    assert 80 < found[0] <= 90


def test_what_holds_now_is_read_from_what_the_preflight_saw(engine: FakeEngine, clock: FakeClock) -> None:
    """The engine is asked for neither the container nor its time; a check that wants to look again does."""
    engine.run("web", image="plain:1")
    counted = FailingEngine(engine)
    web = CheckedContainer(counted, "web", ContainerState("running"), timer=clock)
    seen = engine.inspect_container("web")
    assert passes_now(healthy(), web, seen)
    assert counted.calls == []
    looks: list[Inspection] = []
    assert passes_now(lambda container: looks.extend([container.inspect(), container.inspect()]), web, seen)
    assert looks == [seen, seen]
    assert [call.verb for call in counted.calls] == ["inspect_container"]


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers each path with the status that it names."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """The address of a web server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield "127.0.0.1", server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def web(engine: FakeEngine, clock: FakeClock) -> CheckedContainer:
    """A running container to check."""
    engine.run("web", image="plain:1")
    return checked(engine, clock)


def test_an_address_that_answers_is_well(web: CheckedContainer, server: tuple[str, int]) -> None:
    """Any status below 400 will do, or the one that is asked for."""
    host, port = server
    http_ok(f"http://{host}:{port}/204")(web)
    http_ok(f"http://{host}:{port}/503", status=503)(web)
    tcp_open(host, port)(web)


@pytest.mark.parametrize(("path", "status"), [("500", None), ("404", None), ("200", 204)])
def test_an_address_that_answers_otherwise_is_not(
    web: CheckedContainer, server: tuple[str, int], path: str, status: int | None
) -> None:
    """The error names the address and the status it gave."""
    host, port = server
    with pytest.raises(UpdateRejectedError, match=f"/{path} answers with status {path}"):
        http_ok(f"http://{host}:{port}/{path}", timeout=0.5, status=status)(web)


def test_an_address_that_nobody_listens_on_is_not_well(web: CheckedContainer) -> None:
    """The error names the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(UpdateRejectedError, match=f"127.0.0.1:{port}"):
            tcp_open("127.0.0.1", port, timeout=0.5)(web)
        with pytest.raises(UpdateRejectedError, match="does not answer"):
            http_ok(f"http://127.0.0.1:{port}/", timeout=0.5)(web)


def test_only_web_addresses_are_asked() -> None:
    """A file of this machine is no service."""
    with pytest.raises(ValueError, match="file:"):
        http_ok("file:///etc/passwd")


def test_an_argument_means_one_check_or_several_or_none() -> None:
    """`verify=` takes whatever is handy."""
    one, other = healthy(), tcp_open("localhost", 1)
    assert RollbackOptions(verify=None).verify == ()
    assert RollbackOptions(verify=one).verify == (one,)
    assert RollbackOptions(verify=[one, other]).verify == (one, other)


SLOW_PROBE = {
    "Test": ["CMD", "true"],
    "StartPeriod": 5_000_000_000,
    "Interval": 4_000_000_000,
    "Timeout": 2_000_000_000,
    "Retries": 2,
}


@pytest.mark.parametrize(
    ("probe", "seconds"),
    [
        (SLOW_PROBE, 5 + 2 + 2 * (4 + 2) + 10),
        ({"Test": ["CMD", "true"]}, 30 + 3 * (30 + 30) + 10),
    ],
    ids=["its own timings", "those of the engine"],
)
def test_a_health_check_has_the_time_that_its_timings_give_it(
    engine: FakeEngine, clock: FakeClock, probe: dict[str, object], seconds: float
) -> None:
    """Without a time-out of the check, it has as long as it can take to decide, and ten seconds more."""
    engine.on_start("web", lambda web: web.starting())
    engine.run("web", image="plain:1", healthcheck=probe)
    with pytest.raises(UpdateRejectedError, match="did not become healthy"):
        healthy()(checked(engine, clock))
    assert seconds <= clock.monotonic() < seconds + 1


def test_a_health_check_that_has_begun_to_fail_is_waited_for(engine: FakeEngine, clock: FakeClock) -> None:
    """It still says healthy, but its last probe failed: the next ones tell whether the update broke it."""
    engine.run("web", image="probed:1")
    web = engine.container("web")
    web.probe(0)
    web.probe(1, "no route to db")
    assert web.health == "healthy"
    web.after(20.0, lambda: web.probe(0))
    healthy()(checked(engine, clock))
    assert 20.0 <= clock.monotonic() < 21.0
    web.probe(1)
    for delay in (10.0, 20.0):
        web.after(delay, lambda: web.probe(1, "still none"))
    with pytest.raises(UpdateRejectedError, match="unhealthy") as rejected:
        healthy()(checked(engine, clock))
    assert rejected.value.probe == "exit code 1, still none"


def test_a_container_that_was_restarted_before_has_to_stay_up_longer(engine: FakeEngine, clock: FakeClock) -> None:
    """It waited for its database once, or falls over every few seconds: ten seconds tell the one from the other."""
    engine.run("web", image="plain:1", restart="always")
    web = engine.container("web")
    container = checked(engine, clock)
    web.exit(1)
    clock.advance(2.0)
    begun = clock.monotonic()
    healthy(stable_for=1.0)(container)
    assert 10.0 <= clock.monotonic() - begun < 11.0
    web.exit(1)
    clock.advance(2.0)
    assert engine.inspect_container("web")["RestartCount"] == 2
    web.after(5.0, lambda: web.exit(1))
    with pytest.raises(UpdateRejectedError, match="keeps ending"):
        healthy(stable_for=1.0)(container)


class Starved(FakeEngine):
    """An engine on which every container has run out of memory."""

    def inspect_container(self, ref: str) -> Inspection:
        """Return the inspection, with the kernel's verdict in it."""
        found = super().inspect_container(ref)
        return {**found, "State": {**found["State"], "OOMKilled": True}}


def test_a_container_that_ran_out_of_memory_fails_at_once(clock: FakeClock) -> None:
    """Also where its main program lives on: the kernel ended one of its others."""
    engine = Starved(clock=clock)
    engine.add_image("plain:1", files={"/app": "x"})
    engine.run("web", image="plain:1")
    with pytest.raises(UpdateRejectedError, match="ran out of memory") as rejected:
        healthy()(checked(engine, clock))
    assert rejected.value.state == "running"
    assert clock.monotonic() == 0.0


def test_the_error_says_why_in_fields(engine: FakeEngine, clock: FakeClock) -> None:
    """State, exit code, the last probe's words and the last lines of the log, for programs and for people."""
    engine.run("web", image="probed:1")
    web = engine.container("web")
    web.probe(1, "no route to db\n")
    web.print(*(f"line {number}" for number in range(30)))
    web.exit(7)
    error = checked(engine, clock).reject("it is so")
    assert (error.state, error.exit_code, error.probe) == ("exited", 7, "exit code 1, no route to db")
    assert error.log == tuple(f"line {number}" for number in range(10, 30))
    for words in ("state: exited, exit code 7", "last health probe: exit code 1, no route to db", "\nline 29"):
        assert words in error.details
        assert words in str(error)
    engine.remove_container("web")
    gone = CheckedContainer(engine, "web", ContainerState("running")).reject("it is gone")
    assert (gone.state, gone.exit_code, gone.probe, gone.log) == (None, None, None, ())


def test_no_value_of_the_environment_is_in_the_error(engine: FakeEngine, clock: FakeClock) -> None:
    """Neither that of the old container nor that of the new one: instead there is the variable's name."""
    engine.add_image("known:1", files={"/app": "x"}, env=["PATH=/usr/local/bin"], healthcheck=PROBE)
    engine.run("web", image="known:1", env=["DB_PASSWORD=old-secret"])
    before = CheckedContainer.of(engine, observe(engine.inspect_container("web")), timer=clock)
    engine.remove_container("web", force=True)
    engine.run("web", image="known:1", env=["DB_PASSWORD=new-secret"])
    web = engine.container("web")
    web.print("login with new-secret and old-secret refused, PATH is /usr/local/bin")
    web.probe(1, "new-secret refused")
    error = before.reject("LookupError: old-secret")
    assert "secret" not in str(error)
    assert error.reason == "LookupError: ${DB_PASSWORD}"
    assert error.log == ("login with ${DB_PASSWORD} and ${DB_PASSWORD} refused, PATH is /usr/local/bin",)
    assert error.probe == "exit code 1, ${DB_PASSWORD} refused"


def test_nobody_waits_for_an_answer_of_what_has_failed(engine: FakeEngine, clock: FakeClock) -> None:
    """A container that ended with an error, or is gone, will not answer; one that did its work has nothing to say."""
    engine.run("web", image="plain:1")
    container = checked(engine, clock)
    engine.container("web").exit(3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(UpdateRejectedError, match="accepts no connection") as rejected:
            tcp_open("127.0.0.1", port, timeout=600.0)(container)
        assert rejected.value.exit_code == 3
        engine.remove_container("web")
        with pytest.raises(UpdateRejectedError, match="gone"):
            tcp_open("127.0.0.1", port, timeout=600.0)(container)
    assert clock.monotonic() == 0.0


def test_an_address_that_never_answers_does_not_hold_the_check_up(web: CheckedContainer) -> None:
    """It takes connections and says nothing; the time-out counts for the asking too."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        patient = evolve(web, timer=time)
        with pytest.raises(UpdateRejectedError, match="does not answer"):
            http_ok(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.5)(patient)
        assert time.monotonic() - begun < 5.0


def test_a_check_is_tried_until_it_passes(web: CheckedContainer, clock: FakeClock) -> None:
    """What needs a while after a start may have it; the last error comes out where it takes too long."""
    tries: list[str] = []

    def check(container: CheckedContainer) -> None:
        tries.append(container.name)
        if len(tries) < 4:
            raise LookupError(f"try {len(tries)}")

    eventually(check, timeout=5.0)(web)
    assert tries == ["web"] * 4
    with pytest.raises(LookupError, match="try 2"):
        tries.clear()
        eventually(check, timeout=0.15)(web)
    assert clock.monotonic() < 1.0


def test_a_check_that_does_not_come_back_is_given_up(web: CheckedContainer) -> None:
    """The update is rejected in time, and the call ends at its next sleep."""
    ended, never = threading.Event(), threading.Event()

    def check(container: CheckedContainer) -> None:
        try:
            while not never.wait(0.01):
                container.sleep(0.0)
        finally:
            ended.set()

    with pytest.raises(UpdateRejectedError, match="did not return within 0 s"):
        eventually(check, timeout=0.2)(web)
    assert ended.wait(10.0)
    with pytest.raises(TypeError, match="callable"):
        eventually("web")  # type: ignore[arg-type]  # what somebody may do
