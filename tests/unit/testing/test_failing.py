"""An engine that fails when it is told to, and at no other time."""

from __future__ import annotations

import inspect
from contextlib import suppress

import pytest

from docker_rollback._engine.port import Engine
from docker_rollback.errors import ContainerNotFoundError, EngineError, EngineTimeoutError, EngineUnavailableError
from docker_rollback.testing import CHANGING, FEEDING, READING, FailingEngine, FakeEngine, Killed
from tests.contract.suite.lab import tar_of


@pytest.fixture
def shop(fake: FakeEngine) -> FakeEngine:
    """Give the engine with a container that runs."""
    fake.run("shop", image="shop:1")
    return fake


def test_every_verb_of_an_engine_is_known() -> None:
    """Each verb of the protocol either changes something or only looks, and none is forgotten."""
    verbs = {name for name, _ in inspect.getmembers(Engine, inspect.isfunction) if not name.startswith("_")}
    assert verbs == CHANGING | READING
    assert not CHANGING & READING


def test_calls_are_counted_and_written_down(shop: FakeEngine) -> None:
    """What changes something is counted, all is written down, and what the engine itself refuses is told apart."""
    failing = FailingEngine(shop)
    failing.stop_container("shop", timeout=3)
    failing.inspect_container("shop")
    with pytest.raises(ContainerNotFoundError):
        failing.start_container("nosuch")
    assert failing.count == 2
    assert failing.struck is None
    assert failing.story().splitlines() == [
        "1 stop_container('shop') done",
        "- inspect_container('shop') done",
        "2 start_container('nosuch') refused",
    ]
    assert [call.arguments for call in failing.called("start_container")] == [("nosuch",)]


def test_a_call_fails_before_it_takes_effect(shop: FakeEngine) -> None:
    """The chosen call does nothing; the ones around it work."""
    failing = FailingEngine(shop, at=2)
    failing.rename_container("shop", "renamed")
    with pytest.raises(EngineError) as caught:
        failing.stop_container("renamed")
    assert caught.value.permanent
    assert shop.container("renamed").status == "running"
    assert failing.struck is not None
    assert failing.struck.outcome == "failed"
    failing.stop_container("renamed")
    assert shop.container("renamed").status == "exited"


def test_an_answer_may_be_lost(shop: FakeEngine) -> None:
    """With `after`, the call has taken effect, and its caller gets what a lost answer gives."""
    failing = FailingEngine(shop, at=1, after=True)
    with pytest.raises(EngineTimeoutError):
        failing.stop_container("shop")
    assert shop.container("shop").status == "exited"
    assert failing.calls[0].outcome == "lost"


@pytest.mark.parametrize(
    "error", [EngineUnavailableError("ask", "gone"), lambda: EngineUnavailableError("ask", "gone")]
)
def test_the_error_may_be_chosen(shop: FakeEngine, error: EngineUnavailableError) -> None:
    """An error, or what makes one, is raised as it is."""
    with pytest.raises(EngineUnavailableError):
        FailingEngine(shop, at=1, error=error).stop_container("shop")


def test_several_calls_may_fail(shop: FakeEngine) -> None:
    """Each chosen call fails, and no other."""
    failing = FailingEngine(shop, at={1, 3})
    outcomes = []
    for _ in range(4):
        with suppress(EngineError):
            failing.pause_container("shop")
        outcomes.append(failing.calls[-1].outcome)
    assert outcomes == ["failed", "done", "failed", "done"]


def test_an_engine_may_go_for_good(shop: FakeEngine) -> None:
    """With `lasting`, every counted call after the first failure fails; the others still answer."""
    failing = FailingEngine(shop, at=1, lasting=True)
    for _ in range(3):
        with pytest.raises(EngineError):
            failing.stop_container("shop")
    assert failing.inspect_container("shop")["State"]["Running"]


def test_each_verb_reaches_the_engine(shop: FakeEngine) -> None:
    """Whatever is asked is passed on, and its answer passed back."""
    failing = FailingEngine(shop)
    assert failing.info() == shop.info()
    assert failing.now() <= shop.now()
    assert failing.list_containers() == shop.list_containers()
    assert failing.container_changes("shop") == []
    assert failing.container_logs("shop", tail=1) == ""
    assert failing.inspect_image("shop:1") == shop.inspect_image("shop:1")
    assert failing.list_images("shop") == shop.list_images("shop") == ["shop:1"]
    assert failing.create_volume({"Name": "data"}) == "data"
    assert failing.list_volumes() == shop.list_volumes()
    assert failing.inspect_volume("data") == shop.inspect_volume("data")
    network = failing.create_network({"Name": "front"})
    assert failing.inspect_network("front")["Id"] == network
    assert failing.list_networks() == shop.list_networks()
    failing.connect_network("front", "shop", {})
    failing.disconnect_network("front", "shop")
    failing.update_container("shop", {"CpuShares": 2})
    failing.put_archive("shop", tar_of("note", b"text"))
    assert b"text" in b"".join(failing.get_archive("shop", "/note"))
    failing.commit_container("shop", "kept:1")
    failing.tag_image("kept:1", "kept:2")
    archive = list(failing.save_image("kept:1"))
    failing.remove_image("kept:1")
    failing.load_image(archive)
    failing.import_image([], "empty:1")
    shop.publish("empty:1")
    failing.pull_image("empty:1")
    other = failing.create_container("other", {"Image": "empty:1", "Cmd": ["x"]})
    for verb in ("start", "pause", "unpause", "kill", "stop"):
        getattr(failing, f"{verb}_container")(other)
    failing.remove_container("other")
    failing.remove_network("front")
    failing.remove_volume("data")
    assert {call.outcome for call in failing.calls} == {"done"}
    assert {call.verb for call in failing.calls} == (CHANGING | READING) - {
        "forbidden",
        "inspect_container",
        "exec",
        "rename_container",
    }


def test_verbs_may_be_chosen(shop: FakeEngine) -> None:
    """Only the chosen verbs are counted; one that no engine has is refused."""
    failing = FailingEngine(shop, at=1, verbs={"inspect_container"})
    failing.stop_container("shop")
    with pytest.raises(EngineError):
        failing.inspect_container("shop")
    with pytest.raises(ValueError, match="destroy"):
        FailingEngine(shop, verbs={"destroy"})


def test_after_a_kill_nothing_works_any_more(shop: FakeEngine) -> None:
    """`Killed` is no `Exception`, and whoever catches it all the same can do nothing more."""
    failing = FailingEngine(shop, at=1, kill=True)
    with pytest.raises(Killed):
        failing.stop_container("shop")
    assert not issubclass(Killed, Exception)
    for call in (lambda: failing.stop_container("shop"), lambda: failing.inspect_container("shop")):
        with pytest.raises(Killed):
            call()
    assert shop.container("shop").status == "running"


def test_a_kill_takes_the_input_of_what_runs(shop: FakeEngine) -> None:
    """A program that the dead process was feeding ends with what it had got; leaving its block raises nothing more."""
    failing = FailingEngine(shop, at=2, kill=True, verbs={"process.write"})
    with pytest.raises(Killed), failing.exec("shop", ["tee", "/etc/copy"], stdin=True) as process:
        process.write(b"first")
        process.write(b"second")
    assert shop.container("shop").read("/etc/copy") == b"first"
    with pytest.raises(Killed):
        process.finish()
    process.kill()


def test_a_program_whose_beginning_was_not_answered_is_fed_by_nobody(shop: FakeEngine) -> None:
    """Where the answer of `exec` is lost, the program that it began has no input and ends."""
    failing = FailingEngine(shop, at=1, after=True, verbs={"exec"})
    with pytest.raises(EngineTimeoutError):
        failing.exec("shop", ["tee", "/etc/copy"], stdin=True)
    assert shop.container("shop").read("/etc/copy") == b""


def test_the_verbs_of_a_program_are_counted_where_asked(shop: FakeEngine) -> None:
    """Feeding a program and waiting for it can fail like any call."""
    failing = FailingEngine(shop, at=4, verbs=FEEDING)
    with failing.exec("shop", ["cat"], stdin=True) as process:
        process.write(b"x")
        process.close_input()
        assert process.read(5) == b"x"
        with pytest.raises(EngineError):
            process.finish()
    assert [call.verb for call in failing.calls if call.number] == [
        "process.write",
        "process.close_input",
        "process.read",
        "process.finish",
    ]
