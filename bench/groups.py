"""Middleware: groups of containers that are stopped and started together, by compose, by the docker CLI and by us."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from attrs import define, frozen

from bench import ours, samples
from bench.measure import Notebook, scratch
from bench.stage import BUSYBOX, LABEL, CommandError, Stage
from bench.ways import Took
from docker_rollback.types import Way

SETTLING: Final = 1.0
"""Seconds from a start to the next measurement: until then, each container handles its stop signal."""

REMEMBERED: Final = 256
"""How many events an engine remembers."""

WAYS: Final[Mapping[str, Way]] = {samples.DIRECT: "direct", samples.HELPER: "helper"}

_STOPS: Final = ("kill", "pause", "die", "died", "stop")
_STARTS: Final = ("start", "unpause")


@frozen
class Shape:
    """The containers of a group.

    Attributes:
        number: how many.
        stop: seconds that each takes to end after its stop signal; with 0 it is killed at once.
        levels: how many levels of `depends_on`; each container depends on all of the level before.
        megabytes: the size of the file in the volume of each; with 0 there are no volumes.
    """

    number: int
    stop: float = 0.0
    levels: int = 1
    megabytes: int = 0

    def project(self, name: str) -> dict[str, Any]:
        """Return a compose file whose containers are called `name-1`, `name-2` and so on."""
        services = {}
        for number in range(self.number):
            level = number * self.levels // self.number
            before = [one for one in range(self.number) if one * self.levels // self.number == level - 1]
            services[f"s{number + 1}"] = {
                "image": BUSYBOX,
                "container_name": f"{name}-{number + 1}",
                # Compose looks for variables.
                "command": ["sh", "-c", self.script.replace("$", "$$")],
                "labels": {LABEL: ""},
                "stop_signal": "SIGTERM" if self.stop else "SIGKILL",
                "depends_on": [f"s{one + 1}" for one in before],
                "volumes": [f"v{number + 1}:/data"] if self.megabytes else [],
            }
        volumes: dict[str, Any] = {f"v{number + 1}": {} for number in range(self.number) if self.megabytes}
        return {"services": services, "volumes": volumes}

    @property
    def script(self) -> str:
        """The command of each container."""
        if not self.stop:
            return "exec sleep 86400"
        fill = f"[ -e /data/file ] || head -c {self.megabytes}000000 /dev/urandom > /data/file; "
        work = "date >> /data/log; sleep 1" if self.megabytes else "sleep 3600"
        # The signal interrupts `wait`, but not a program in the foreground.
        return (
            f"trap 'sleep {self.stop}; exit 0' TERM; {fill if self.megabytes else ''}while :; do {work} & wait $!; done"
        )


@define
class Group:
    """A compose project that runs.

    Attributes:
        stage: its engine.
        title: its name in the tables.
        name: the name of the project.
        shape: its containers.
    """

    stage: Stage
    title: str
    name: str
    shape: Shape

    @property
    def names(self) -> list[str]:
        """The names of its containers."""
        return [f"{self.name}-{number + 1}" for number in range(self.shape.number)]

    @property
    def _file(self) -> Path:
        return self.stage.folder / f"{self.name}.json"

    def compose(self, *words: str) -> None:
        """Run docker compose for the project."""
        self.stage.run(self.stage.compose, "-p", self.name, "-f", str(self._file), *words)

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Have it run for the time of a block."""
        self._file.write_text(json.dumps(self.shape.project(self.name)))
        try:
            self.compose("up", "-d")
            yield
        finally:
            # Leftovers go with the engine; their errors must not hide why the block ended.
            with suppress(CommandError):
                self.compose("down", "-v", "-t", "0")

    def restart_each(self) -> None:
        """Stop all at once, then start all at once: a docker CLI for each container."""
        with ThreadPoolExecutor(self.shape.number) as pool:
            for command in ("stop", "start"):
                list(pool.map(lambda name, command=command: self.stage.docker(command, name), self.names))

    def restart_all(self) -> None:
        """Stop all, then start all: a single docker CLI, which stops them at once and starts one after the other."""
        self.stage.docker("stop", *self.names)
        self.stage.docker("start", *self.names)

    def restart_compose(self) -> None:
        """Stop and start the project by docker compose, in the order of its dependencies."""
        self.compose("stop")
        self.compose("start")

    def remove(self) -> None:
        """Remove all containers, as a failed update does; networks and volumes stay."""
        self.stage.docker("rm", "--force", *self.names)

    def downtime(self, since: float) -> float | None:
        """Return the seconds from the first container's stop signal to the last one's start.

        None without a stop, or if the engine may have forgotten the first one since.
        """
        # The SDK's types take no fractions of seconds; the engine does.
        api: Any = self.stage.client.api
        history = list(api.events(since=f"{since:.6f}", until=f"{time.time():.6f}", decode=True))
        if len(history) >= REMEMBERED:
            return None
        return downtime(
            (event["Action"], event["timeNano"] / 1e9)
            for event in history
            if event["Type"] == "container" and LABEL in event["Actor"]["Attributes"]
        )


def downtime(events: Iterator[tuple[str, float]]) -> float | None:
    """Return the seconds from the first stop to the last start, of actions and moments."""
    known = list(events)
    stops = [moment for action, moment in known if action in _STOPS]
    starts = [moment for action, moment in known if action in _STARTS]
    return max(starts) - min(stops) if stops and starts else None


@define
class GroupRounds:
    """Rounds of several methods over one group.

    Attributes:
        notebook: takes the samples.
        rounds: how many rounds each method is in, by its name.
        back: whether all containers are removed and rolled back as well.
    """

    notebook: Notebook
    rounds: Mapping[str, int]
    back: bool

    def play(self, group: Group) -> None:
        """Measure all of it."""
        restarts: Mapping[str, Callable[[], None]] = {
            samples.EACH: group.restart_each,
            samples.ALL: group.restart_all,
            samples.COMPOSE: group.restart_compose,
        }
        for number in range(max(self.rounds.values())):
            for name, count in self.rounds.items():
                if number >= count:
                    continue
                time.sleep(SETTLING if group.shape.stop else 0)
                os.sync()
                if name in restarts:
                    self._restart(group, name, restarts[name])
                else:
                    self._enter(group, name)

    def _restart(self, group: Group, name: str, restart: Callable[[], None]) -> None:
        since, began = time.time(), time.perf_counter()
        restart()
        took = Took(time.perf_counter() - began)
        self.notebook.took(group.title, name, samples.RESTART, took, group.downtime(since))

    def _enter(self, group: Group, name: str) -> None:
        down: list[float | None] = []

        def block() -> None:
            down.append(group.downtime(since))
            if self.back:
                group.remove()

        with scratch(group.stage) as folder:
            since, task = time.time(), "rollback" if self.back else "entry"
            said = ours.call(group.stage, task, str(folder), WAYS[name], *group.names, block=block)
        took = Took(said["entry"], said["memory"])
        self.notebook.took(group.title, name, samples.ENTERING, took, down[0])
        self.notebook.note(group.title, name, samples.ENTERING, samples.REQUESTS, said["requests"])
        if self.back:
            self.notebook.took(group.title, name, samples.REMOVED, Took(said["seconds"]))
