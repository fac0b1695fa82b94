"""Groups that need each other in any way, on an engine whose answers take their time: several calls are under way."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from docker_rollback import BackupStore, RollbackRequested, Status, compare, healthy, rollback
from docker_rollback._engine import Inspection
from docker_rollback.testing import FakeEngine

CHANGED = {"HostConfig.NetworkMode", "HostConfig.VolumesFrom", "Config.Image", "Image"}
"""Ids of other containers, and the image of one that had files of its own: both are others after a create."""

KINDS = ("link", "volumes", "network", "depends", "depends")


class SlowEngine(FakeEngine):
    """An engine that takes its time, and notes each container that starts or stops out of order.

    Args:
        needs: the containers that each one needs, by name.
        dice: draws how long a call takes.
    """

    def __init__(self, needs: Mapping[str, set[str]], dice: random.Random) -> None:
        super().__init__(seed=str(dice.random()))
        self._needs = needs
        self._dice = dice
        self.is_slow = False
        self.out_of_order: list[str] = []

    def alive(self, name: str) -> bool:
        """Return True if a container is there, and runs or is paused."""
        found = [super(SlowEngine, self).inspect_container(one) for one in self.list_containers()]
        return any(one["Name"] == f"/{name}" and one["State"]["Status"] in ("running", "paused") for one in found)

    def _pause(self) -> None:
        if self.is_slow:
            time.sleep(self._dice.random() ** 4 * 0.008)

    def start_container(self, ref: str) -> None:
        """Start a container, late."""
        if self.is_slow:
            name = str(super().inspect_container(ref)["Name"])[1:]
            missed = [one for one in sorted(self._needs.get(name, ())) if not self.alive(one)]
            self.out_of_order += [f"{name} starts without {one}" for one in missed]
        self._pause()
        super().start_container(ref)
        self._pause()

    def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
        """Stop a container, late."""
        if self.is_slow:
            name = str(super().inspect_container(ref)["Name"])[1:]
            left = [one for one, needed in self._needs.items() if name in needed and self.alive(one)]
            self.out_of_order += [f"{name} stops under {one}" for one in left]
        self._pause()
        super().stop_container(ref, timeout=timeout)
        self._pause()

    def inspect_container(self, ref: str) -> Inspection:
        """Inspect a container, late."""
        self._pause()
        return super().inspect_container(ref)

    def commit_container(self, ref: str, tag: str, *, author: str = "") -> str:
        """Commit a container, late."""
        self._pause()
        return super().commit_container(ref, tag, author=author)

    def create_container(self, name: str, request: Inspection, *, platform: str | None = None) -> str:
        """Create a container, late."""
        self._pause()
        return super().create_container(name, request, platform=platform)

    def rename_container(self, ref: str, name: str) -> None:
        """Rename a container, late."""
        self._pause()
        super().rename_container(ref, name)
        self._pause()


@define
class Graph:
    """A group drawn by chance: who needs whom in which way, and in which state each is.

    Attributes:
        dice: draws it.
        uses: how each container uses others, by their names: a way for each.
        states: the state of each.
        engine: it stands on this.
    """

    dice: random.Random
    uses: dict[str, dict[str, str]] = field(factory=dict, init=False)
    states: dict[str, str] = field(factory=dict, init=False)
    engine: SlowEngine = field(init=False)

    def __attrs_post_init__(self) -> None:
        dice = self.dice
        letters = [f"{letter}-1" for letter in "abcdefghij"]
        dice.shuffle(letters)
        for name in letters[: dice.randint(3, 10)]:
            uses: dict[str, str] = {}
            for other in dice.sample(sorted(self.uses), k=min(len(self.uses), dice.choice((0, 1, 1, 2, 3)))):
                kind = dice.choice(KINDS)
                in_network = "network" in self.uses[other].values()
                # An engine takes one network mode, no links beside it, and does not join one who has joined another.
                if kind == "network" and (in_network or {"network", "link"}.intersection(uses.values())):
                    kind = "volumes"
                if kind == "link" and "network" in uses.values():
                    kind = "depends"
                uses[other] = kind
            self.uses[name] = uses
        bound = {other for uses in self.uses.values() for other, kind in uses.items() if kind != "depends"}
        for name in self.uses:
            free = name not in bound
            self.states[name] = dice.choice(("running", "running", "exited", "paused")) if free else "running"
        alive = {name for name, state in self.states.items() if state == "running"}
        self.engine = SlowEngine(
            {name: set(uses) & alive for name, uses in self.uses.items() if self.states[name] == "running"}, dice
        )

    def build(self) -> None:
        """Create and start all of it."""
        self.engine.add_image("app:1", files={"/app": "1"})
        ids: dict[str, str] = {}
        for name, uses in self.uses.items():
            kinds = {kind: [other for other in uses if uses[other] == kind] for kind in KINDS}
            host_config: dict[str, Any] = {
                "Links": [f"/{other}:/{name}/{other}" for other in kinds["link"]],
                "VolumesFrom": [self.dice.choice((other, ids[other])) for other in kinds["volumes"]],
            }
            if kinds["network"]:
                host_config["NetworkMode"] = f"container:{ids[kinds['network'][0]]}"
            depends = ",".join(f"{other}:service_started:false" for other in kinds["depends"])
            labels = {
                "com.docker.compose.project": "graph",
                "com.docker.compose.service": name,
                "com.docker.compose.depends_on": depends,
            }
            # One that ended just now would be awaited, in case that its engine starts it again.
            restart = "no" if self.states[name] == "exited" else self.dice.choice(("no", "always"))
            volumes = {f"rows-{name}": f"/{name}"} if self.dice.random() < 0.6 else {}
            ids[name] = self.engine.run(
                name, image="app:1", labels=labels, volumes=volumes, restart=restart, **host_config
            )
            for volume in volumes:
                self.engine.volume(volume).write("/count", name)
            if self.dice.random() < 0.5:
                self.engine.container(name).write("/own", name)
        for name in reversed(self.uses):
            if self.states[name] == "paused":
                self.engine.pause_container(name)
            elif self.states[name] == "exited":
                self.engine.stop_container(name)

    def break_it(self) -> None:
        """Remove some, end some, and change the data of others."""
        for name in reversed(self.uses):
            match self.dice.choice(("leave", "remove", "remove", "end", "write")):
                case "remove":
                    self.engine.remove_container(name, force=True)
                case "end":
                    self.engine.stop_container(name)
                case "write" if self.states[name] == "running":
                    self.engine.container(name).write("/own", "changed")
        for volume in self.engine.list_volumes():
            if self.dice.random() < 0.5:
                self.engine.volume(volume).write("/count", "99")

    def contents(self) -> dict[str, bytes]:
        """Return the content of each volume."""
        return {volume: self.engine.volume(volume).read("/count") for volume in self.engine.list_volumes()}

    def inspections(self) -> dict[str, Inspection]:
        """Return the inspection of each container, by name."""
        found = [self.engine.inspect_container(one) for one in self.engine.list_containers()]
        return {str(one["Name"])[1:]: one for one in found}

    def partners(self) -> dict[str, str]:
        """Return the name of the container in whose network each container is that is in one of another."""
        found = self.inspections()
        names = {f"container:{one['Id']}": name for name, one in found.items()}
        modes = {name: str(one["HostConfig"]["NetworkMode"]) for name, one in found.items()}
        return {name: names[mode] for name, mode in modes.items() if mode.startswith("container:")}


@pytest.mark.parametrize("seed", range(12))
def test_any_group_comes_back_in_order_on_a_slow_engine(seed: int, tmp_path: Path) -> None:
    """None starts before those that it needs run, none stops under one that needs it; all are as they were."""
    graph = Graph(random.Random(seed))
    graph.build()
    engine = graph.engine
    before, contents, partners = graph.inspections(), graph.contents(), graph.partners()
    names = graph.dice.sample(sorted(graph.uses), k=len(graph.uses))
    engine.is_slow = True
    with rollback(*names, client=engine, store=BackupStore(tmp_path), verify=healthy(stable_for=0.0)) as tx:
        assert {name: one["State"]["Status"] for name, one in graph.inspections().items()} == graph.states
        engine.is_slow = False
        graph.break_it()
        engine.is_slow = True
        raise RollbackRequested
    engine.is_slow = False
    assert tx.status is Status.ROLLED_BACK
    assert engine.out_of_order == []
    after = graph.inspections()
    assert after.keys() == before.keys()
    for name, one in before.items():
        assert {found.path for found in compare(one, after[name])} <= CHANGED | {"State.Status"}, name
        # One that had ended and was removed is not started for nothing.
        allowed = ("exited", "created") if graph.states[name] == "exited" else (graph.states[name],)
        assert after[name]["State"]["Status"] in allowed, name
    assert graph.contents() == contents
    assert graph.partners() == partners
