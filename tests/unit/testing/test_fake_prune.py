"""The engine in memory prunes what real engines prune."""

from __future__ import annotations

import pytest

from docker_rollback.testing import FakeEngine


@pytest.fixture
def fake() -> FakeEngine:
    """Give an engine with a container that runs, one that is stopped, and one that was only created."""
    engine = FakeEngine()
    engine.add_image("shop:1", files={"/app": "1"}, volumes=["/cache"])
    for name in ("runs", "stopped", "created"):
        engine.add_image(f"{name}:1", base="shop:1", files={"/name": name}, volumes=["/cache"])
        engine.run(name, image=f"{name}:1", volumes={f"{name}-data": "/data"}, networks=[f"{name}-net"])
    engine.stop_container("stopped")
    engine.remove_container("created", force=True)
    engine.run("created", image="created:1", volumes={"created-data": "/data"}, networks=["created-net"], start=False)
    return engine


def names(engine: FakeEngine) -> set[str]:
    """Return the names of the containers that there are."""
    return {engine.inspect_container(one)["Name"].strip("/") for one in engine.list_containers()}


def test_containers_that_do_not_run_are_pruned(fake: FakeEngine) -> None:
    """A container that was stopped goes, and so does one that was only created; its volumes stay."""
    pruned = fake.prune_containers()
    assert len(pruned) == 2
    assert names(fake) == {"runs"}
    assert fake.has_volume("stopped-data")


def test_networks_without_a_running_container_are_pruned(fake: FakeEngine) -> None:
    """A network that only stopped containers use goes, the engine's own stay."""
    assert set(fake.prune_networks()) == {"stopped-net", "created-net"}
    assert fake.has_network("runs-net")
    assert fake.has_network("bridge")


def test_volumes_that_no_container_mounts_are_pruned(fake: FakeEngine) -> None:
    """A stopped container holds its volumes; of those that nobody mounts, named ones go where all are asked for."""
    cache = fake.anonymous_volume("stopped", "/cache")
    left = [name for name in fake.list_volumes() if len(name) == 64 and name != cache]
    assert cache not in fake.prune_volumes()
    fake.remove_container("stopped")
    assert fake.prune_volumes() == [cache]
    assert fake.has_volume("stopped-data")
    assert fake.prune_volumes(everything=True) == ["stopped-data"]
    assert fake.has_volume("created-data")
    assert left


def test_images_that_no_container_uses_are_pruned(fake: FakeEngine) -> None:
    """A container in any state holds its image, and of its names one; images that nobody uses go with their names."""
    fake.tag_image("stopped:1", "stopped:2")
    fake.prune_images(everything=True)
    assert not fake.has_image("shop:1")
    assert fake.has_image("created:1")
    assert [fake.has_image("stopped:1"), fake.has_image("stopped:2")].count(True) == 1


def test_a_system_prune_does_it_all(fake: FakeEngine) -> None:
    """With everything and volumes, what is left is what runs, with its image, network and volumes; named ones stay."""
    cache = fake.anonymous_volume("stopped", "/cache")
    fake.prune_system(everything=True, volumes=True)
    assert names(fake) == {"runs"}
    assert not fake.has_network("stopped-net")
    assert not fake.has_volume(cache)
    assert fake.has_volume("stopped-data")
    assert not fake.has_image("stopped:1")
    assert fake.has_image("runs:1")
