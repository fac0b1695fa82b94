"""The number of requests that an engine gets: it grows with the containers and not with their square."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from docker_rollback import BackupStore, Rollback, RollbackRequested, healthy
from docker_rollback._engine import ContainerFilter
from docker_rollback._host import may_do_anything
from docker_rollback.testing import CHANGING, EngineCall, FailingEngine, FakeClock
from tests.unit.containers.local_engine import Local
from tests.unit.shop import parts, timed

pytestmark = pytest.mark.skipif(not may_do_anything(), reason="only root sees an engine's layers")

_SEVERAL: Final = {
    "connect_network": 3,
    "container_changes": 2,
    "container_logs": 2,
    "disconnect_network": 3,
    "exec": 2,
    "kill_container": 3,
    "remove_network": 2,
    "stop_container": 2,
}
"""The methods of `DockerEngine` that send more than one request: most look the object up first."""

_BY_ID: Final = (
    "commit_container",
    "pause_container",
    "put_archive",
    "remove_container",
    "rename_container",
    "start_container",
    "unpause_container",
    "update_container",
)
"""The methods that send one request for a full id, and two for a name."""

_NONE: Final = ("info", "process.read", "process.write", "process.close_input", "process.finish")
"""`DockerEngine` remembers its `info`."""


def requests_of(call: EngineCall) -> int:
    """Return the number of requests that a call of `DockerEngine` sends, without those for each listed container."""
    if call.verb in _NONE:
        return 0
    if call.verb in _BY_ID:
        return 1 if len(str(call.arguments[0])) == 64 else 2
    if call.verb == "list_containers":
        where = call.arguments[0]
        assert isinstance(where, ContainerFilter)
        assert not where.running, "this inspects each container that is listed"
        return 1 if where.network is None else 2
    return _SEVERAL.get(call.verb, 1)


class Street:
    """Small idle containers of one image and in one network, and the calls that an operation makes."""

    def __init__(self, houses: int, folder: Path, *, data: bool = False) -> None:
        folder.mkdir(exist_ok=True)
        self.store = BackupStore(folder / "store")
        self.clock = FakeClock()
        self.engine = Local(folder / "layers", clock=self.clock)
        self.counted = FailingEngine(self.engine)
        self.engine.add_image("house:1", files={"/door": "shut"})
        self.names = [f"house-{number}" for number in range(houses)]
        self.data = data
        self._run()

    def entry(self) -> list[EngineCall]:
        """Enter a rollback, and return the calls until its block begins."""
        made: list[EngineCall] = []
        with self._rollback():
            made += self.counted.calls
        return made

    def end(self) -> list[EngineCall]:
        """Return the calls at the end of a block that succeeds."""
        with self._rollback():
            self.counted.calls.clear()
        return self.counted.calls

    def back(self) -> list[EngineCall]:
        """Return the calls of a rollback of containers that nobody has touched."""
        return self._back(lambda: None)

    def back_of_removed(self) -> list[EngineCall]:
        """Return the calls of a rollback of containers that were removed."""
        return self._back(self._remove)

    def back_of_recreated(self) -> list[EngineCall]:
        """Return the calls of a rollback of containers that were replaced by others of their names."""
        return self._back(self._recreate)

    def _back(self, update: Callable[[], None]) -> list[EngineCall]:
        with self._rollback():
            update()
            self.counted.calls.clear()
            raise RollbackRequested
        return self.counted.calls

    def restore(self) -> list[EngineCall]:
        """Return the calls of a restore of containers that were removed."""
        return self._restore(self._remove)

    def restore_of_running(self) -> list[EngineCall]:
        """Return the calls of a restore of containers that run."""
        return self._restore(lambda: None)

    def _restore(self, update: Callable[[], None]) -> list[EngineCall]:
        with self._rollback() as taken:
            pass
        update()
        self.counted.calls.clear()
        parts(self.counted, self.store, self.clock).recovery.restore(taken.backup)
        return self.counted.calls

    def recovery(self) -> list[EngineCall]:
        """Return the calls that finish a rollback whose process died while its block ran."""
        built = parts(self.counted, self.store, self.clock)
        with built.recovery.holding(self.names) as (report, _):
            built.recovery.begin(report)
        self._remove()
        self.counted.calls.clear()
        assert [one.outcome for one in parts(self.counted, self.store, self.clock).recovery.recover()] == [
            "rolled back"
        ]
        return self.counted.calls

    def _run(self) -> None:
        for name in self.names:
            volumes = {f"cellar-of-{name}": "/cellar"} if self.data else {}
            self.engine.run(name, image="house:1", networks=["street"], restart="always", volumes=volumes)

    def _recreate(self) -> None:
        self._remove()
        self._run()

    def _remove(self) -> None:
        for name in self.names:
            self.engine.remove_container(name, force=True)

    def _rollback(self) -> Rollback:
        check = healthy(stable_for=0.0)
        return timed(*self.names, engine=self.counted, store=self.store, clock=self.clock, verify=check)


SCENES: Final[Mapping[str, tuple[Callable[[Street], list[EngineCall]], int, int]]] = {
    "entry": (Street.entry, 12, 8),
    "end": (Street.end, 7, 5),
    "back": (Street.back, 19, 10),
    "back of removed": (Street.back_of_removed, 15, 8),
    "back of recreated": (Street.back_of_recreated, 23, 12),
    "restore": (Street.restore, 14, 6),
    "restore of running": (Street.restore_of_running, 20, 10),
    "recovery": (Street.recovery, 14, 7),
}
"""What is counted, the most requests for each container beyond the first, and how many of them change nothing."""


@pytest.mark.parametrize("scene", SCENES)
def test_the_requests_grow_with_the_containers(scene: str, tmp_path: Path) -> None:
    """Each further container needs so many, whether there are ten or fifty."""
    calls, most, most_questions = SCENES[scene]
    counted: dict[int, int] = {}
    questions: dict[int, int] = {}
    for houses in (1, 10, 50):
        made = calls(Street(houses, tmp_path / str(houses)))
        counted[houses] = sum(map(requests_of, made))
        # A change may begin with a look at what is to be changed.
        questions[houses] = counted[houses] - sum(call.verb in CHANGING for call in made)
        verbs = Counter(call.verb for call in made)
        assert counted[houses] <= counted[1] + most * (houses - 1), verbs.most_common()
        assert questions[houses] <= questions[1] + most_questions * (houses - 1), verbs.most_common()


@pytest.mark.parametrize("scene", SCENES)
def test_the_requests_grow_with_the_volumes(scene: str, tmp_path: Path) -> None:
    """Each further container with a volume needs no more than those before it."""
    calls, *_ = SCENES[scene]
    counted: dict[int, int] = {}
    for houses in (2, 6, 18):
        counted[houses] = sum(map(requests_of, calls(Street(houses, tmp_path / str(houses), data=True))))
    assert (counted[18] - counted[6]) / 12 <= (counted[6] - counted[2]) / 4 + 1, counted


def test_an_entry_looks_once_at_what_all_containers_share(tmp_path: Path) -> None:
    """The containers are listed, their network and their image inspected and exported, once for all of them."""
    made = Street(20, tmp_path).entry()
    verbs = Counter(call.verb for call in made)
    assert verbs["inspect_network"] == verbs["save_image"] == verbs["create_container"] == 1
    assert (verbs["list_containers"], verbs["list_networks"]) == (4, 1)
    assert verbs["commit_container"] == 0
