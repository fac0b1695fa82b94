"""Which world a scene is played in."""

from __future__ import annotations

from pathlib import Path

import docker

from tests.faults.cases import Scene
from tests.faults.group import Group
from tests.faults.shop import Shop
from tests.faults.world import World


def world_of(scene: Scene, client: docker.DockerClient, witness: Path) -> World:
    """Return the world of a scene, on an engine; see `World` for the arguments."""
    return (Group if scene.group else Shop)(client, scene, witness)
