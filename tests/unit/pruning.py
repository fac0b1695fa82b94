"""Somebody who prunes or removes before a chosen call, on the engine in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from docker_rollback import BackupStore, DockerRollbackError, RollbackRequested, Status, compare
from docker_rollback.errors import EngineConflictError
from docker_rollback.testing import FailingEngine, FakeEngine, Killed
from tests.unit.shop import Shop

Answer = TypeVar("Answer")
Prune: TypeAlias = Callable[[FakeEngine], object]


def remove(engine: FakeEngine, *, volumes: bool) -> None:
    """Remove the shop's container as somebody does who sees that it is stopped."""
    with suppress(EngineConflictError):
        engine.remove_container("shop", volumes=volumes)


def everything(engine: FakeEngine) -> None:
    """Prune all that can be pruned."""
    engine.prune_system(everything=True, volumes=True)
    engine.prune_volumes(everything=True)


PRUNES: dict[str, Prune] = {
    "containers": lambda engine: engine.prune_containers(),
    "images": lambda engine: engine.prune_images(everything=True),
    "networks": lambda engine: engine.prune_networks(),
    "volumes": lambda engine: engine.prune_volumes(everything=True),
    "system": lambda engine: engine.prune_system(),
    "everything": everything,
    "rm": lambda engine: remove(engine, volumes=False),
    "rm -v": lambda engine: remove(engine, volumes=True),
}


class Pruned(FailingEngine):
    """An engine on which somebody prunes before one of the calls after the first stop.

    Attributes:
        seen: how many calls there were since.
        pruned: whether it has happened.
    """

    def __init__(self, engine: FakeEngine, prune: Prune, at: int, *, dies: bool = False) -> None:
        super().__init__(engine)
        self.fake, self.prune, self.at, self.dies = engine, prune, at, dies
        self.stopped = self.pruned = False
        self.seen = 0

    def pass_on(self, verb: str, work: Callable[[], Answer], *arguments: object) -> Answer:
        """Do one call."""
        with self._lock:
            self.seen += self.stopped
            now = self.stopped and self.seen == self.at
            self.stopped = self.stopped or verb == "stop_container"
        if now:
            self.pruned = True
            self.prune(self.fake)
            self._dead = self.dies
        return super().pass_on(verb, work, *arguments)


class PrunedBack(Pruned):
    """An engine on which somebody prunes before one of the calls of a way back."""

    def begin(self) -> None:
        """Count from here on."""
        self.stopped, self.seen = True, 0


def shop_with_a_layer(folder: Path) -> Shop:
    """Return a service with a new store, which has written to its writable layer."""
    shop = Shop(BackupStore(folder))
    shop.engine.container("shop").write("/layer", "only copy")
    return shop


def check_serving(shop: Shop, story: str) -> None:
    """Assert that the service runs as it did, and that nothing of ours is left over."""
    standing = shop.engine.inspect_container("shop")
    assert standing["State"]["Running"], story
    assert shop.engine.container("shop").read("/layer") == b"only copy", story
    assert shop.engine.volume("orders").read("/table") == b"rows", story
    assert shop.cache().read("/warm") == b"yes", story
    assert standing["HostConfig"]["RestartPolicy"]["Name"] == "always", story
    assert standing["NetworkSettings"]["Networks"]["front"]["Aliases"] == ["till"], story
    if standing["Id"] == shop.id:
        assert compare(shop.before, standing) == [], story
    assert shop.store.journal.names() == [], story
    shop.check_nothing_left()
    # Somebody's prune may leave an image of a container no other name than ours.
    in_use = {shop.engine.inspect_container(one)["Image"] for one in shop.engine.list_containers()}
    others = {name for image, names in shop.engine.image_names().items() for name in names if image not in in_use}
    assert [name for name in others if "docker-rollback" in name] == [], story


def entering_fails(shop: Shop, engine: FailingEngine, **options: Any) -> DockerRollbackError | None:
    """Enter and leave a rollback, and return why that failed; None where it did not."""
    try:
        with shop.timed(engine, **options):
            pass
    except DockerRollbackError as error:
        return error
    return None


def way_back(shop: Shop, kind: str, k: int, *, dies: bool = False, **options: Any) -> tuple[PrunedBack, Status]:
    """Roll a broken update back while somebody prunes before the k-th call of that."""
    engine = PrunedBack(shop.engine, PRUNES[kind], k, dies=dies)
    engine.at = 0
    tx = shop.timed(engine, **options)
    with suppress(Killed), tx:
        shop.break_it()
        engine.at = k
        engine.begin()
        raise RollbackRequested
    return engine, tx.status


def check_equal(shop: Shop, story: str) -> None:
    """Assert that the service is what it was, but for the image that holds its writable layer, and its name."""
    check_serving(shop, story)
    differences = compare(shop.before, shop.engine.inspect_container("shop"))
    assert {one.path for one in differences} <= {"Image", "Config.Image"}, story
