"""A restore asks the engine what there is a fixed number of times, however many containers it restores."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from docker_rollback import BackupStore, backup, restore
from docker_rollback._restore import Restorer
from docker_rollback._restore.container_slot import ContainerSlot
from docker_rollback._restore.surroundings import DetachedContainers, Surroundings
from docker_rollback._restore.volume_restorer import VolumeRestorer
from docker_rollback.testing import FailingEngine, FakeEngine

LISTINGS = {"list_containers", "list_images", "list_networks", "list_volumes"}
PROJECT = {"com.docker.compose.project": "shop"}


def calls_of_a_restore(count: int, path: Path, *, project: bool) -> Counter[str]:
    """Return how often each verb is called by a restore of some containers on one volume and one network."""
    engine = FakeEngine()
    engine.add_image("shop:1", files={"/app": "1"})
    engine.create_network({"Name": "front", "Labels": PROJECT if project else {}})
    names = [f"shop-{number}" for number in range(count)]
    options: dict[str, Any] = {"labels": PROJECT} if project else {}
    for name in names:
        engine.run(name, image="shop:1", volumes={"orders": "/data"}, networks=["front"], restart="always", **options)
    store = BackupStore(path / "store")
    taken = backup(*names, client=engine, store=store, project="shop" if project else None)
    for name in names:
        engine.remove_container(name, force=True)
    counted = FailingEngine(engine)
    assert sorted(restore(taken, client=counted, store=store)) == names
    return Counter(call.verb for call in counted.calls)


@pytest.mark.parametrize("project", [False, True])
def test_the_listings_of_a_restore_do_not_grow_with_its_containers(tmp_path: Path, *, project: bool) -> None:
    """Each listing asks an engine for all of its containers, while the service is down."""
    one = calls_of_a_restore(1, tmp_path / "one", project=project)
    ten = calls_of_a_restore(10, tmp_path / "ten", project=project)
    assert {verb: ten[verb] for verb in LISTINGS} == {verb: one[verb] for verb in LISTINGS}


def test_no_part_of_a_restore_asks_the_engine_when_it_is_made(tmp_path: Path) -> None:
    """Parts can be made wherever it suits, also while the engine is away."""
    engine = FakeEngine()
    engine.add_image("shop:1", files={"/app": "1"})
    engine.run("shop", image="shop:1")
    store = BackupStore(tmp_path / "store")
    taken = backup("shop", client=engine, store=store)
    counted = FailingEngine(engine)
    restorer = Restorer(counted, store)
    surroundings = Surroundings(counted, taken)
    DetachedContainers(counted)
    (slot,) = restorer._slots(taken).values()
    assert isinstance(slot, ContainerSlot)
    VolumeRestorer(counted, restorer._archiver, taken, [slot], surroundings)
    assert counted.calls == []
