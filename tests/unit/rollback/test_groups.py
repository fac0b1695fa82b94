"""A group: one moment for all of its containers, in the order of what depends on what, each to its own prior state."""

from __future__ import annotations

from pathlib import Path

import pytest

from docker_rollback import (
    BackupStore,
    Rollback,
    RollbackRequested,
    Status,
    UpdateRejectedError,
    compare,
    healthy,
    restore,
    rollback,
)
from docker_rollback._engine.port import Engine
from docker_rollback.testing import FailingEngine, FakeClock, FakeEngine

ORDER = ("db", "cache", "sidecar", "web", "exporter", "tail", "old")
"""In which they can start; `old` does not run, `cache` is paused."""

RUNNING = ("db", "web", "sidecar", "exporter", "tail")


def compose(service: str, depends: str = "") -> dict[str, str]:
    """Return the labels by which compose says what a container is, and what it starts after."""
    return {
        "com.docker.compose.project": "group",
        "com.docker.compose.service": service,
        "com.docker.compose.depends_on": depends,
    }


class Group:
    """Seven containers that depend on each other in every way there is."""

    def __init__(self, store: BackupStore) -> None:
        self.store = store
        self.clock = FakeClock()
        self.engine = FakeEngine(clock=self.clock)
        self.engine.add_image("app:1", files={"/app": "1"})
        self.engine.add_image("app:2", files={"/app": "2"})
        self.ids = {
            "db": self.engine.run(
                "db",
                image="app:1",
                labels=compose("db"),
                volumes={"rows": "/rows"},
                anonymous=["/log"],
                networks=["net"],
            ),
            "cache": self.engine.run(
                "cache", image="app:1", labels=compose("cache"), volumes={"keys": "/keys"}, networks=["net"]
            ),
        }
        self.ids["web"] = self.engine.run(
            "web",
            image="app:1",
            labels=compose("web", "db:service_healthy:false,cache:service_started:true"),
            volumes={"rows": "/rows", "keys": "/keys"},
            networks=["net"],
            restart="always",
        )
        self.ids["sidecar"] = self.engine.run("sidecar", image="app:1", NetworkMode=f"container:{self.ids['web']}")
        self.ids["exporter"] = self.engine.run("exporter", image="app:1", VolumesFrom=[self.ids["db"]])
        self.ids["tail"] = self.engine.run("tail", image="app:1", Links=["/exporter:/tail/source"])
        self.ids["old"] = self.engine.run("old", image="app:1", start=False)
        self.engine.pause_container("cache")
        self.write(1)
        self.engine.container("db").write("/log/begin", "yes")
        self.before = {name: self.engine.inspect_container(name) for name in self.ids}

    def write(self, number: int) -> None:
        """Count in both stores, as one request does."""
        self.engine.volume("rows").write("/count", f"{number}")
        self.engine.volume("keys").write("/count", f"{number}")

    def rollback(self, *names: str, engine: Engine | None = None) -> Rollback:
        """Return a rollback of some of the group, in an order that is as wrong as can be."""
        chosen = names or tuple(reversed(ORDER))
        return rollback(*chosen, client=engine or self.engine, store=self.store, verify=healthy(stable_for=0.0))

    def break_it(self) -> None:
        """Do what a bad update does to all of them."""
        for name in reversed(self.ids):
            self.engine.remove_container(name, force=True, volumes=True)
        self.engine.remove_network("net")
        self.engine.remove_volume("keys")
        self.engine.volume("rows").write("/count", "99")
        self.engine.run("db", image="app:2", volumes={"rows": "/rows"})

    def check_restored(self) -> None:
        """Assert that all of them are what they were, data included."""
        for name, before in self.before.items():
            after = self.engine.inspect_container(name)
            references = {"HostConfig.NetworkMode", "HostConfig.VolumesFrom"}
            assert {found.path for found in compare(before, after)} <= references, name
            assert after["State"]["Status"] == before["State"]["Status"], name
        web, db = self.engine.container("web").id, self.engine.container("db").id
        assert self.engine.inspect_container("sidecar")["HostConfig"]["NetworkMode"] == f"container:{web}"
        assert self.engine.inspect_container("exporter")["HostConfig"]["VolumesFrom"] == [db]
        assert self.engine.volume("rows").read("/count") == self.engine.volume("keys").read("/count") == b"1"
        assert self.engine.container("exporter").read("/log/begin") == b"yes"
        assert sorted(self.engine.container(one).name for one in self.engine.list_containers()) == sorted(self.ids)


@pytest.fixture
def group(tmp_path: Path) -> Group:
    """The group, with an empty store."""
    return Group(BackupStore(tmp_path / "store"))


def calls(engine: FailingEngine, group: Group, *verbs: str) -> list[tuple[str, str]]:
    """Return the calls of some kinds on containers of the group, by their names."""
    names = {identity: name for name, identity in group.ids.items()}
    found = [(call.verb, str(call.arguments[0])) for call in engine.calls if call.verb in verbs]
    return [(verb.removesuffix("_container"), names[ref]) for verb, ref in found if ref in names]


def test_all_rest_before_the_first_is_captured(group: Group) -> None:
    """Whoever depends on another stops before it, and starts after it; what does not run is left alone."""
    watching = FailingEngine(group.engine)
    with group.rollback(engine=watching):
        pass
    seen = calls(watching, group, "stop_container", "commit_container", "start_container", "pause_container")
    stopped = [name for verb, name in seen if verb == "stop"]
    started = [name for verb, name in seen if verb == "start"]
    # What runs is committed before it is stopped too, so that a prune cannot take the only copy.
    assert [verb for verb, _ in seen] == ["commit"] * 5 + ["stop"] * 5 + ["commit"] * 7 + ["start"] * 5
    assert sorted(stopped) == sorted(RUNNING)
    assert started == stopped[::-1]
    for one, other in (("db", "web"), ("web", "sidecar"), ("db", "exporter"), ("exporter", "tail")):
        assert started.index(one) < started.index(other)


def test_a_volume_of_several_is_archived_once(group: Group) -> None:
    """The data that they share is one data: `rows` and `keys` have two containers each, and so has `/log`."""
    with group.rollback() as tx:
        pass
    log = group.engine.anonymous_volume("db", "/log")
    assert sorted(volume.name for volume in tx.backup.volumes) == sorted(["rows", "keys", log])
    assert len(tx.backup.containers) == len(ORDER)


def test_a_group_comes_back_as_a_whole(group: Group) -> None:
    """Made anew, in order: running, paused or never started, in each other's networks, on each other's volumes."""
    watching = FailingEngine(group.engine)
    with group.rollback(engine=watching) as tx:
        group.break_it()
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    group.check_restored()


def test_a_group_is_restored_from_its_backup(group: Group) -> None:
    """The same, long after, by the backup's id."""
    with group.rollback() as tx:
        pass
    group.break_it()
    assert sorted(restore(tx.backup.id, client=group.engine, store=group.store)) == sorted(ORDER)
    group.check_restored()


def test_an_untouched_group_is_put_back_itself(group: Group) -> None:
    """Where the update changed data alone, every container keeps its id, and the two stores agree."""
    with group.rollback():
        group.write(2)
        group.engine.volume("keys").write("/count", "3")
        raise RollbackRequested
    assert {name: group.engine.container(name).id for name in group.ids} == group.ids
    group.check_restored()


def test_one_that_fails_takes_all_back(group: Group) -> None:
    """The update of one container is rejected: the others, well as they are, are put back as well."""
    with pytest.raises(UpdateRejectedError) as rejected, group.rollback() as tx:
        group.write(2)
        group.engine.container("db").exit(3)
    assert rejected.value.container == "db"
    assert tx.status is Status.ROLLED_BACK
    group.check_restored()


def test_whoever_would_break_belongs_to_the_group(group: Group) -> None:
    """Of `web` and `db` named alone, those in their networks, on their volumes and behind their links come along."""
    report = group.rollback("web", "db", "cache").check()
    assert sorted(report.joined) == ["exporter", "sidecar", "tail"]
