"""Containers of the in-memory engine live as those of a real one."""

from __future__ import annotations

from docker_rollback.testing import FakeEngine


def test_a_container_runs_once_it_has_been_started() -> None:
    """A container that `run` makes is there, by its name, and runs."""
    fake = FakeEngine()
    fake.add_image("shop:1", files={"/app": "version 1"})
    identity = fake.run("shop", image="shop:1")
    assert fake.inspect_container("shop")["Id"] == identity
    assert fake.inspect_container(identity)["State"]["Status"] == "running"
