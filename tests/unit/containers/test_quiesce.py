"""Containers stopped for a capture: each is started again, whatever interrupts that, and whoever meddles is noticed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal, TypeVar

import pytest

from docker_rollback import EngineError
from docker_rollback._containers.quiesce import QuiescedContainers, quiesced_container
from docker_rollback._inspection.recreate import HELD, observe
from docker_rollback._model import Resting
from docker_rollback.errors import CaptureError, ResumeError
from docker_rollback.testing import FailingEngine, FakeClock, FakeEngine

T = TypeVar("T")

NAMES = ["one", "two", "three"]


@pytest.fixture
def engine() -> FakeEngine:
    """Give an engine with three running containers, which its daemon starts again."""
    engine = FakeEngine(clock=FakeClock())
    engine.add_image("app:1")
    for name in NAMES:
        engine.run(name, image="app:1", restart="always")
    return engine


def bring(rest: QuiescedContainers, engine: FakeEngine, *names: str) -> None:
    """Have containers stopped, or paused, as they are now."""
    for name in names:
        rest.quiesce(observe(engine.inspect_container(name)))


def states(engine: FakeEngine) -> list[str]:
    """Return what each container does."""
    return [engine.container(name).status for name in NAMES]


class Interrupted(FailingEngine):
    """An engine during whose first starts the user presses Ctrl-C."""

    def __init__(self, engine: FakeEngine, times: int) -> None:
        super().__init__(engine)
        self.left = times

    def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
        """Do one call, or be interrupted before it."""
        if verb == "start_container" and self.left:
            self.left -= 1
            raise KeyboardInterrupt
        return super().pass_on(verb, work, *arguments)


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.usefixtures("one_at_a_time")
def test_an_interruption_waits_until_all_run_again(engine: FakeEngine, times: int) -> None:
    """However often Ctrl-C is pressed, up to a limit, every container runs again; then it comes out."""
    interrupted = Interrupted(engine, times)
    with pytest.raises(KeyboardInterrupt), QuiescedContainers(interrupted, "stop") as rest:
        bring(rest, engine, *NAMES)
        assert states(engine) == ["exited"] * 3
    assert states(engine) == ["running"] * 3
    assert interrupted.left == 0


@pytest.mark.usefixtures("one_at_a_time")
def test_somebody_who_interrupts_again_and_again_is_heard(engine: FakeEngine) -> None:
    """At the sixth time the rest is left to a recovery."""
    interrupted = Interrupted(engine, 6)
    with pytest.raises(KeyboardInterrupt), QuiescedContainers(interrupted, "stop") as rest:
        bring(rest, engine, *NAMES)
    assert interrupted.left == 0
    assert "exited" in states(engine)


class Stubborn(FailingEngine):
    """An engine that refuses so many starts of one container."""

    def __init__(self, engine: FakeEngine, name: str, times: int) -> None:
        super().__init__(engine)
        self._id, self.left = engine.container(name).id, times

    def start_container(self, ref: str) -> None:
        """Start, or refuse to."""
        if ref == self._id and self.left:
            self.left -= 1
            raise EngineError(f"start container {ref!r}", "made to fail")
        super().start_container(ref)


class Waiting(FakeClock):
    """A clock that notes how long it was waited for, and what was seen then."""

    def __init__(self, look: Callable[[], list[str]]) -> None:
        super().__init__()
        self.waited: list[float] = []
        self.seen: list[list[str]] = []
        self.look = look

    def sleep(self, seconds: float) -> None:
        """Move it on."""
        self.waited.append(seconds)
        self.seen.append(self.look())
        super().sleep(seconds)


@pytest.mark.parametrize("failures", [1, 4, 5])
def test_a_start_that_fails_is_tried_five_times(
    engine: FakeEngine, failures: int, caplog: pytest.LogCaptureFixture
) -> None:
    """After the others, with half a second between; a warning comes only if the last try fails."""
    waiting = Waiting(lambda: states(engine))
    stubborn = Stubborn(engine, "three", failures)
    rest = QuiescedContainers(stubborn, "stop", timer=waiting)
    if failures == 5:
        with pytest.raises(ResumeError) as failed, rest:
            bring(rest, engine, *NAMES)
        assert failed.value.containers == ("three",)
        assert [type(one) for one in failed.value.failures] == [EngineError]
        assert states(engine) == ["running", "running", "exited"]
    else:
        with rest:
            bring(rest, engine, *NAMES)
        assert states(engine) == ["running"] * 3
    assert stubborn.left == 0
    assert waiting.waited == [0.5] * min(failures, 4)
    assert waiting.seen == [["running", "running", "exited"]] * min(failures, 4)
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == (failures == 5)


@pytest.mark.usefixtures("one_at_a_time")
def test_the_last_is_started_first(engine: FakeEngine) -> None:
    """Of those that do not depend on each other, if only one can be started at a time."""
    watching = FailingEngine(engine)
    ids = [engine.container(name).id for name in NAMES]
    with QuiescedContainers(watching, "stop") as rest:
        bring(rest, engine, *NAMES)
    assert [call.arguments[0] for call in watching.called("stop_container")] == ids
    assert [call.arguments[0] for call in watching.called("start_container")] == ids[::-1]
    assert watching.called("update_container") == [], "a restart policy that was not taken is not given back"


class Meeting(FailingEngine):
    """An engine that works on a call only when so many calls of the same verb have come in."""

    def __init__(self, engine: FakeEngine, **counts: int) -> None:
        super().__init__(engine)
        self.meetings = {verb: threading.Barrier(count, timeout=30) for verb, count in counts.items()}

    def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
        """Wait for the others, then do the work."""
        if verb in self.meetings:
            self.meetings[verb].wait()
        return super().pass_on(verb, work, *arguments)


@pytest.mark.parametrize("how", ["stop", "pause", "hold"])
def test_those_that_do_not_depend_on_each_other_go_at_once(
    engine: FakeEngine, how: Literal["stop", "pause", "hold"]
) -> None:
    """All three are being stopped, and later started, before one of them is; the record of each comes first."""
    recorded: list[list[str]] = []
    verbs = ("pause_container", "unpause_container") if how == "pause" else ("stop_container", "start_container")
    meeting = Meeting(engine, **dict.fromkeys(verbs, 3))
    with QuiescedContainers(meeting, how, record=lambda _: recorded.append(states(engine))) as rest:
        rest.quiesce(*(observe(engine.inspect_container(name)) for name in NAMES))
        assert states(engine) == ["paused" if how == "pause" else "exited"] * 3
    assert recorded == [["running"] * 3] * 3
    assert states(engine) == ["running"] * 3


def test_whoever_depends_on_another_starts_after_it(engine: FakeEngine) -> None:
    """Whether it was stopped in this process or by one that is dead."""
    engine.run("four", image="app:1", Links=["one:x"])
    engine.run("five", image="app:1", Links=["four:x"])
    chain = [engine.container(name).id for name in ("one", "four", "five")]
    names = [*NAMES, "five", "four"]
    found = [observe(engine.inspect_container(name)) for name in names]
    for adopted in (False, True):
        watching = FailingEngine(engine)
        with QuiescedContainers(watching, "stop") as rest:
            if adopted:
                for one in [observe(engine.inspect_container(name)) for name in names]:
                    engine.stop_container(one.id)
                    rest.adopt(quiesced_container(one, "stop"))
            else:
                rest.quiesce(*found)
        started = [call.arguments[0] for call in watching.called("start_container")]
        assert [one for one in started if one in chain] == chain
        assert len(started) == len(names)


def test_those_that_are_stopped_together_have_an_error_each(engine: FakeEngine) -> None:
    """The first error has a note about the other one, and all containers run again, those that failed as well."""
    one, two = (engine.container(name).id for name in ("one", "two"))
    meeting = threading.Barrier(3, timeout=30)

    class Refusing(FailingEngine):
        def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
            meeting.wait()
            if ref in (one, two):
                raise EngineError(f"stop container {ref!r}", "made to fail")
            super().stop_container(ref, timeout=timeout)

    with pytest.raises(EngineError, match=one[:12]) as failed, QuiescedContainers(Refusing(engine), "stop") as rest:
        try:
            rest.quiesce(*(observe(engine.inspect_container(name)) for name in NAMES))
        finally:
            assert states(engine) == ["running", "running", "exited"]
    (note,) = failed.value.__notes__
    assert two[:12] in note
    assert states(engine) == ["running"] * 3


@pytest.mark.parametrize("how", ["stop", "pause", "hold"])
def test_nothing_is_touched_after_an_error(engine: FakeEngine, how: Literal["stop", "pause", "hold"]) -> None:
    """A container whose dependent did not stop goes on, and is not resumed either."""
    engine.run("four", image="app:1", Links=["one:x"])
    refused = engine.container("four").id

    class Refusing(FailingEngine):
        def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
            if verb in ("stop_container", "pause_container") and arguments[0] == refused:
                raise EngineError("stop container 'four'", "made to fail")
            return super().pass_on(verb, work, *arguments)

    watched = Refusing(engine)
    with pytest.raises(EngineError, match="made to fail"), QuiescedContainers(watched, how, timer=FakeClock()) as rest:
        rest.quiesce(*(observe(engine.inspect_container(name)) for name in ("one", "four")))
    assert [one.name for one in rest.containers] == ["four"]
    assert states(engine) == ["running"] * 3


def test_a_check_can_forbid_to_touch_more(engine: FakeEngine) -> None:
    """Such as one for the time that all may take."""

    def forbid() -> None:
        raise CaptureError("one", "it took too long")

    with pytest.raises(CaptureError, match="too long"), QuiescedContainers(engine, "stop") as rest:
        rest.quiesce(*(observe(engine.inspect_container(name)) for name in NAMES), check=forbid)
    assert rest.containers == ()


def test_a_container_waits_only_for_those_that_it_has_to_wait_for(engine: FakeEngine) -> None:
    """One that takes long to stop, or to start, holds up only those that depend on it."""
    engine.run("four", image="app:1", Links=["one:x"])
    one, four, slow = (engine.container(name).id for name in ("one", "four", "three"))
    done = {verb: threading.Event() for verb in ("stop_container", "start_container")}
    last = {"stop_container": one, "start_container": four}

    class Slow(FailingEngine):
        def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
            if verb in done and arguments[0] == slow:
                assert done[verb].wait(30)
            result = super().pass_on(verb, work, *arguments)
            if verb in done and arguments[0] == last[verb]:
                done[verb].set()
            return result

    with QuiescedContainers(Slow(engine), "stop") as rest:
        rest.quiesce(*(observe(engine.inspect_container(name)) for name in (*NAMES, "four")))
    assert all(event.is_set() for event in done.values())
    assert states(engine) == ["running"] * 3


def test_one_that_is_removed_while_the_others_stop_keeps_nobody_down(engine: FakeEngine) -> None:
    """It is named, and every other container runs again."""
    with pytest.raises(ResumeError) as failed, QuiescedContainers(engine, "stop") as rest:
        rest.quiesce(*(observe(engine.inspect_container(name)) for name in NAMES))
        engine.remove_container("two")
        with pytest.raises(CaptureError, match="removed"):
            rest.check_undisturbed()
    assert failed.value.containers == ("two",)
    assert [engine.container(name).status for name in ("one", "three")] == ["running"] * 2


def test_what_is_kept_at_rest_runs_after_an_error_all_the_same(engine: FakeEngine) -> None:
    """Only a block that ends well leaves its containers as they are."""
    with QuiescedContainers(engine, "stop") as rest:
        bring(rest, engine, "one")
        rest.keep()
    assert states(engine) == ["exited", "running", "running"]
    with pytest.raises(LookupError), QuiescedContainers(engine, "stop") as rest:
        bring(rest, engine, "two")
        rest.keep()
        raise LookupError
    assert states(engine) == ["exited", "running", "running"]


def test_what_stays_at_rest_after_an_error_is_named(engine: FakeEngine) -> None:
    """Where a recovery is to finish it, the error says which containers do not run, if there are any."""
    with pytest.raises(LookupError) as failed, QuiescedContainers(engine, "stop", after_errors=False) as rest:
        bring(rest, engine, "one", "two")
        raise LookupError
    assert states(engine) == ["exited", "exited", "running"]
    (note,) = failed.value.__notes__
    assert "one, two" in note
    with pytest.raises(LookupError) as failed, QuiescedContainers(engine, "stop", after_errors=False):
        raise LookupError
    assert not hasattr(failed.value, "__notes__")


def test_what_is_held_has_its_policy_back(engine: FakeEngine) -> None:
    """Meanwhile the engine does not start it; a note comes before each container is touched."""
    noted: list[tuple[str, str]] = []
    with QuiescedContainers(
        engine, "hold", record=lambda one: noted.append((one.name, engine.container(one.id).status))
    ) as rest:
        bring(rest, engine, "one")
        assert engine.inspect_container("one")["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert noted == [("one", "running")]
    assert engine.inspect_container("one")["HostConfig"]["RestartPolicy"]["Name"] == "always"
    assert states(engine) == ["running"] * 3


@pytest.mark.parametrize(
    ("quiesce", "meddle", "words"),
    [
        ("stop", FakeEngine.info, None),
        ("pause", FakeEngine.info, None),
        ("stop", lambda engine: engine.start_container("one"), "running although"),
        ("pause", lambda engine: engine.unpause_container("one"), "running although"),
        ("stop", lambda engine: (engine.start_container("one"), engine.stop_container("one")), "exited although"),
        ("stop", lambda engine: engine.rename_container("one", "other"), "renamed"),
        ("pause", lambda engine: engine.rename_container("one", "other"), "renamed"),
        ("stop", lambda engine: engine.update_container("one", {"RestartPolicy": {"Name": "no"}}), "restart policy"),
    ],
)
def test_whoever_meddles_with_what_rests_is_noticed(
    engine: FakeEngine, quiesce: str, meddle: Callable[[FakeEngine], object], words: str | None
) -> None:
    """A start, a rename and another restart policy mean that the capture may be a mixture."""
    rest = QuiescedContainers(engine, "stop" if quiesce == "stop" else "pause")
    bring(rest, engine, "one")
    meddle(engine)
    if words is None:
        rest.check_undisturbed()
    else:
        with pytest.raises(CaptureError, match=words) as noticed:
            rest.check_undisturbed()
        assert noticed.value.container == "one"


def test_none_means_that_nothing_is_touched(engine: FakeEngine) -> None:
    """Neither is what does not run, unless its engine would start it."""
    engine.stop_container("two")
    watching = FailingEngine(engine)
    with QuiescedContainers(watching, "none") as rest:
        bring(rest, engine, "one")
    with QuiescedContainers(watching, "stop") as rest:
        bring(rest, engine, "two")
    assert [call.verb for call in watching.calls if call.number] == []
    with QuiescedContainers(watching, "hold") as rest:
        bring(rest, engine, "two")
    assert [call.verb for call in watching.calls if call.number] == ["update_container", "update_container"]
    assert states(engine) == ["running", "exited", "running"]


def test_one_that_is_quiesced_again_has_its_own_policy_back(engine: FakeEngine) -> None:
    """A dead process has held it, and recovery stops it once more: the policy that it has by then is not its own."""
    own = engine.inspect_container("one")["HostConfig"]["RestartPolicy"]
    found = quiesced_container(observe(engine.inspect_container("one")), "stop")
    engine.update_container("one", {"RestartPolicy": dict(HELD)})
    recorded: list[Resting] = []
    rest = QuiescedContainers(engine, "hold", record=recorded.append, timer=FakeClock())
    with rest:
        rest.adopt(found)
        bring(rest, engine, "one", "one")
        assert [one.policy for one in rest.containers] == [own]
    assert [one.policy for one in recorded] == [own, own]
    assert engine.inspect_container("one")["HostConfig"]["RestartPolicy"] == own
    assert states(engine) == ["running"] * 3


def test_an_unexpected_error_keeps_no_other_container_down(engine: FakeEngine) -> None:
    """It comes out once each of the others has been tried."""
    broken = engine.container("two").id

    class Broken(FailingEngine):
        def start_container(self, container: str) -> None:
            if container == broken:
                raise ZeroDivisionError
            super().start_container(container)

    rest = QuiescedContainers(Broken(engine), "stop", timer=FakeClock())
    with pytest.raises(ZeroDivisionError), rest:
        bring(rest, engine, *NAMES)
    assert states(engine) == ["running", "exited", "running"]
