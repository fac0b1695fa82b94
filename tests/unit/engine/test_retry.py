"""Asking again: what is asked again, how often, and what never is."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from docker_rollback._engine.port import Inspection
from docker_rollback._engine.retry import RetryingEngine
from docker_rollback.errors import EngineConflictError, EngineError, EngineTimeoutError, EngineUnavailableError
from docker_rollback.testing import CHANGING, FEEDING, READING, FailingEngine, FakeClock, FakeEngine

ONCE = frozenset({"exec", "get_archive", "import_image", "load_image", "save_image"})
"""What runs something or streams."""

FOUND = frozenset({"commit_container", "connect_network", "create_container", "create_network", "rename_container"})
"""What makes something once, and finds it where only the answer was lost."""


@pytest.fixture
def fake() -> FakeEngine:
    """Give an engine in memory with a container that runs, one that is paused, a network and a volume."""
    fake = FakeEngine(clock=FakeClock())
    fake.add_image("shop:1", files={"/app": "1"})
    fake.publish("shop:1")
    fake.run("web", image="shop:1", volumes={"data": "/data"})
    fake.run("frozen", image="shop:1")
    fake.pause_container("frozen")
    fake.create_network({"Name": "net"})
    return fake


def _ask(engine: RetryingEngine, verb: str) -> object:
    """Ask for one thing of each kind."""
    asks: dict[str, Callable[[], object]] = {
        "commit_container": lambda: engine.commit_container("web", "kept:1"),
        "connect_network": lambda: engine.connect_network("net", "web", {}),
        "container_changes": lambda: engine.container_changes("web"),
        "container_logs": lambda: engine.container_logs("web", tail=1),
        "create_container": lambda: engine.create_container("new", {"Image": "shop:1"}),
        "create_network": lambda: engine.create_network({"Name": "new"}),
        "create_volume": lambda: engine.create_volume({"Name": "new"}),
        "disconnect_network": lambda: engine.disconnect_network("net", "web"),
        "exec": lambda: engine.exec("web", ["true"]).finish(),
        "get_archive": lambda: list(engine.get_archive("web", "/")),
        "import_image": lambda: engine.import_image(engine.save_image("shop:1"), "new:1"),
        "forbidden": engine.forbidden,
        "info": engine.info,
        "inspect_container": lambda: engine.inspect_container("web"),
        "inspect_image": lambda: engine.inspect_image("shop:1"),
        "inspect_network": lambda: engine.inspect_network("net"),
        "inspect_volume": lambda: engine.inspect_volume("data"),
        "kill_container": lambda: engine.kill_container("web"),
        "list_containers": engine.list_containers,
        "list_images": lambda: engine.list_images("shop"),
        "list_networks": engine.list_networks,
        "list_volumes": engine.list_volumes,
        "now": engine.now,
        "load_image": lambda: engine.load_image(list(engine.save_image("shop:1"))),
        "put_archive": lambda: engine.put_archive("web", bytes(1024)),
        "pull_image": lambda: engine.pull_image("shop:1"),
        "pause_container": lambda: engine.pause_container("web"),
        "remove_container": lambda: engine.remove_container("web", force=True),
        "remove_image": lambda: engine.remove_image("none:1"),
        "remove_network": lambda: engine.remove_network("net"),
        "remove_volume": lambda: engine.remove_volume("none"),
        "rename_container": lambda: engine.rename_container(str(engine.inspect_container("web")["Id"]), "new"),
        "save_image": lambda: list(engine.save_image("shop:1")),
        "start_container": lambda: engine.start_container("web"),
        "stop_container": lambda: engine.stop_container("web"),
        "tag_image": lambda: engine.tag_image("shop:1", "shop:2"),
        "unpause_container": lambda: engine.unpause_container("frozen"),
        "update_container": lambda: engine.update_container("web", {"CpuShares": 512}),
    }
    return asks[verb]()


def _none(_: float) -> None:
    """Wait no time at all."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("verb", sorted(CHANGING | READING))
def test_what_may_be_asked_twice_is(fake: FakeEngine, verb: str, *, after: bool) -> None:
    """A call that fails twice succeeds at the third try where it can do no harm, and is not tried again elsewhere."""
    error = EngineTimeoutError("ask", "no answer")
    failing = FailingEngine(fake, at=(1, 2), error=lambda: error, after=after, verbs={verb})
    engine = RetryingEngine(failing, sleep=_none)
    if verb in ONCE or (verb in FOUND and not after):
        with pytest.raises(EngineTimeoutError) as caught:
            _ask(engine, verb)
        assert caught.value is error
    else:
        _ask(engine, verb)
    assert failing.count == (1 if verb in ONCE | FOUND else 3)


@pytest.mark.parametrize(
    "error", [EngineConflictError("ask", "taken"), EngineError("ask", "bad", status=400), KeyError(1)]
)
def test_what_would_fail_again_is_not_asked_again(fake: FakeEngine, error: Exception) -> None:
    """A failure that is permanent, or none of the engine's, is raised at once."""
    failing = FailingEngine(fake, at=1, error=error, verbs={"info"})
    with pytest.raises(type(error)) as caught:
        RetryingEngine(failing, sleep=_none).info()
    assert caught.value is error
    assert failing.count == 1


def test_the_limit_holds_all_tries_together(fake: FakeEngine) -> None:
    """The pauses grow, are drawn by lot, and end before the limit; the last failure is what is raised."""
    failing = FailingEngine(
        fake, at=1, lasting=True, error=lambda: EngineUnavailableError("ask", "gone"), verbs={"info"}
    )
    pauses: list[float] = []
    engine = RetryingEngine(failing, limit=20.0, first_pause=0.1, longest_pause=2.0, sleep=pauses.append)
    with pytest.raises(EngineUnavailableError):
        engine.info()
    assert 15 < sum(pauses) <= 20
    assert max(pauses) <= 2.0
    assert len(set(pauses)) == len(pauses) > 8
    assert failing.count == len(pauses) + 1


def test_each_try_is_logged(fake: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    """That the engine is asked again, and why, can be read in the log."""
    failing = FailingEngine(fake, at=1, error=EngineUnavailableError("ask", "gone"), verbs={"info"})
    with caplog.at_level(logging.INFO, logger="docker_rollback"):
        RetryingEngine(failing, sleep=_none).info()
    assert [record.name for record in caplog.records] == ["docker_rollback"]
    assert "could not ask: gone" in caplog.text


def test_a_volume_without_a_name_is_made_once(fake: FakeEngine) -> None:
    """A request that names no volume would make another one each time."""
    failing = FailingEngine(
        fake, at=1, after=True, error=EngineTimeoutError("ask", "no answer"), verbs={"create_volume"}
    )
    with pytest.raises(EngineTimeoutError):
        RetryingEngine(failing, sleep=_none).create_volume({})
    assert failing.count == 1


def test_nothing_is_kept_between_calls(fake: FakeEngine) -> None:
    """Each call has the whole limit to itself."""
    failing = FailingEngine(
        fake, at=(1, 3, 5), error=lambda: EngineUnavailableError("ask", "gone"), verbs=CHANGING | READING | FEEDING
    )
    engine = RetryingEngine(failing, limit=2.0, first_pause=1.5, longest_pause=1.5, sleep=_none)
    for _ in range(3):
        engine.info()
    assert failing.count == 6


@pytest.mark.parametrize("verb", sorted(FOUND))
def test_what_was_done_is_found(fake: FakeEngine, verb: str) -> None:
    """Where only the answer was lost, the answer is what an undisturbed call would have given."""
    failing = FailingEngine(fake, at=1, after=True, error=EngineTimeoutError("ask", "no answer"), verbs={verb})
    engine = RetryingEngine(failing, sleep=_none)
    answer = _ask(engine, verb)
    expected = {
        "commit_container": lambda: fake.inspect_image("kept:1")["Id"],
        "create_container": lambda: fake.inspect_container("new")["Id"],
        "create_network": lambda: fake.inspect_network("new")["Id"],
    }
    assert answer == expected.get(verb, lambda: None)()


def test_another_one_of_the_name_is_not_taken_for_it(fake: FakeEngine) -> None:
    """A container of that name that somebody else made meanwhile is not ours."""

    class Racing(FakeEngine):
        def create_container(self, name: str, request: object, *, platform: str | None = None) -> str:
            del request, platform
            fake.create_container(name, {"Image": "shop:1", "Labels": {"owner": "somebody"}})
            raise EngineTimeoutError("create", "no answer")

    racing = Racing()
    racing.inspect_container = fake.inspect_container  # type: ignore[method-assign]  # one engine in two coats
    with pytest.raises(EngineTimeoutError):
        RetryingEngine(racing, sleep=_none).create_container("new", {"Image": "shop:1", "Labels": {"owner": "us"}})


def test_another_network_of_the_name_is_not_taken_for_it(fake: FakeEngine) -> None:
    """One with other labels is somebody else's; and what was refused for good is not looked for."""
    fake.create_network({"Name": "new", "Labels": {"owner": "somebody"}})
    lost = EngineTimeoutError("create", "no answer")
    request = {"Name": "new", "Labels": {"owner": "us"}}
    with pytest.raises(EngineTimeoutError) as caught:
        RetryingEngine(FailingEngine(fake, at=1, error=lost), sleep=_none).create_network(request)
    assert caught.value is lost
    watching = FailingEngine(fake, at=1)
    with pytest.raises(EngineError):
        RetryingEngine(watching, sleep=_none).create_network({"Name": "new", "Labels": {"owner": "somebody"}})
    assert watching.called("inspect_network") == []


@pytest.mark.parametrize("ref", ["db", "d"])
def test_a_rename_of_another_container_is_not_taken_for_it(fake: FakeEngine, ref: str) -> None:
    """That one of the new name is there says nothing of the one that was to get it, unless its id does."""
    fake.run("db", image="shop:1")
    fake.run("new", image="shop:1")
    lost = EngineTimeoutError("rename", "no answer")
    with pytest.raises(EngineTimeoutError) as caught:
        RetryingEngine(FailingEngine(fake, at=1, error=lost), sleep=_none).rename_container(ref, "new")
    assert caught.value is lost


@pytest.mark.parametrize("networks", [None, {}, {"other": None}, {"other": {"NetworkID": "0" * 64}}])
def test_a_connect_that_was_not_done_is_told(fake: FakeEngine, networks: object) -> None:
    """Where the answer was lost and the container is not in the network, the lost answer is the error."""

    class Elsewhere(FailingEngine):
        def inspect_container(self, ref: str) -> Inspection:
            return {**super().inspect_container(ref), "NetworkSettings": {"Networks": networks}}

    error = EngineTimeoutError("ask", "no answer")
    failing = Elsewhere(fake, at=1, error=error, verbs={"connect_network"})
    with pytest.raises(EngineTimeoutError) as caught:
        RetryingEngine(failing, sleep=_none).connect_network("net", "web", {})
    assert caught.value is error
