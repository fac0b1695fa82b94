"""What a proxy before an engine forbids is found out by asking for what cannot be done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_rollback import rollback
from docker_rollback.errors import EngineForbiddenError, EngineTimeoutError
from docker_rollback.testing import FailingEngine, FakeEngine
from tests.unit.engine.scripted import ScriptedEngine, hanging, refusal, scripted


@pytest.fixture
def script(tmp_path: Path) -> Iterator[ScriptedEngine]:
    """Run an engine that knows nothing of what it is asked."""
    with scripted(tmp_path / "engine.sock") as engine:
        yield engine


def test_an_engine_that_knows_no_such_thing_forbids_nothing(script: ScriptedEngine) -> None:
    """Everything was asked for, of something that is not there."""
    assert script.engine().forbidden() == []
    asked = [one.path for one in script.asked if one.path != "/version"]
    assert len(asked) > 20
    assert all("docker-rollback-nobody-" in path for path in asked if "/containers/json" not in path)
    named = [one.json for one in script.asked if "connect" in one.path or "/containers/create" in one.path]
    assert [list(body) for body in named] == [["Image"], ["Container"], ["Container"]]
    assert all(body[key].startswith("docker-rollback-nobody-") for body in named for key in body)


@pytest.mark.parametrize(
    ("method", "pattern", "words"),
    [
        ("POST", r"/commit.*", "commit containers"),
        ("POST", r"/containers/[^/]+/rename.*", "rename containers"),
        ("DELETE", r"/volumes/.*", "remove volumes"),
        ("GET", r"/images/.*/get", "save images"),
    ],
)
def test_what_a_proxy_refuses_is_named(script: ScriptedEngine, method: str, pattern: str, words: str) -> None:
    """By what it means, not by its path."""
    script.says(method, pattern, refusal(403, "Forbidden by administrative rules"))
    assert script.engine().forbidden() == [words]


def test_silence_is_no_permission(script: ScriptedEngine) -> None:
    """An engine that does not answer is an error of its own."""
    with hanging() as hang:
        script.says("POST", r"/containers/[^/]+/stop", hang)
        with pytest.raises(EngineTimeoutError):
            script.engine(timeout=0.2).forbidden()


def test_nothing_is_touched_where_something_is_forbidden(tmp_path: Path) -> None:
    """A rollback that could not end is not begun."""

    class Guarded(FakeEngine):
        def forbidden(self) -> list[str]:
            return ["commit containers", "rename containers"]

    engine = Guarded()
    engine.add_image("app")
    engine.run("web", image="app")
    counting = FailingEngine(engine)
    with (
        pytest.raises(EngineForbiddenError, match="does not let us commit containers, rename containers"),
        rollback("web", client=counting, store=tmp_path / "store"),
    ):
        pytest.fail("the block was entered")
    assert counting.count == 0
