"""The image of an update that was found ahead: taken as it was found, its name led to it."""

from __future__ import annotations

import pytest
from attrs import evolve

from docker_rollback._reporting import Reporter
from docker_rollback._rollback.update_image import UpdateImage
from docker_rollback.errors import ImageNotFoundError
from docker_rollback.testing import FailingEngine, FakeEngine


@pytest.fixture
def engine() -> FakeEngine:
    """Give an engine with two images."""
    fake = FakeEngine()
    for version in ("1", "2"):
        fake.add_image(f"web:{version}", files={"/version": version})
    return fake


def found_ahead(engine: FakeEngine, name: str) -> UpdateImage:
    """Return the update to an image that was found ahead."""
    return evolve(UpdateImage(name, "never", None), id=str(engine.inspect_image(name)["Id"]))


def test_a_name_that_was_led_back_leads_to_it_again(engine: FakeEngine) -> None:
    """The capture had recorded where it led before."""
    wanted = found_ahead(engine, "web:2")
    engine.tag_image("web:1", "web:2")
    assert wanted.find(engine, "web:2", reporter=Reporter())["Id"] == wanted.id
    assert engine.inspect_image("web:2")["Id"] == wanted.id


@pytest.mark.parametrize("by", ["name", "id", "digest"])
def test_no_name_is_given_without_need(engine: FakeEngine, by: str) -> None:
    """One that leads there stays as it is, and an id and a digest are none."""
    wanted = found_ahead(engine, "web:2")
    reference = {"name": "web:2", "id": str(wanted.id), "digest": f"web@{wanted.id}"}[by]
    watching = FailingEngine(engine)
    assert wanted.find(watching, reference, reporter=Reporter())["Id"] == wanted.id
    assert watching.called("tag_image") == []


def test_one_that_somebody_removed_since_is_not_taken_for_found(engine: FakeEngine) -> None:
    """It is looked for again, and its name may lead to another one by then."""
    wanted = found_ahead(engine, "web:2")
    engine.remove_image("web:2")
    with pytest.raises(ImageNotFoundError):
        wanted.find(engine, "web:2", reporter=Reporter())
    engine.tag_image("web:1", "web:2")
    assert wanted.find(engine, "web:2", reporter=Reporter())["Id"] == engine.inspect_image("web:1")["Id"]
