"""A service on an engine in memory, and an update that breaks it: the ground of many tests."""

from __future__ import annotations

from typing import Any

from docker_rollback import BackupStore, Rollback, compare, healthy, rollback
from docker_rollback._api import build_parts
from docker_rollback._capture import CaptureOptions
from docker_rollback._engine.port import Engine
from docker_rollback.parts import RollbackOptions, RollbackParts
from docker_rollback.reports import Recovered
from docker_rollback.testing import FakeClock, FakeEngine, Files, Run
from docker_rollback.testing._fake.gnu_tar import tar


class UpdateFailedError(Exception):
    """What the update under test raises."""


def parts(engine: Engine, store: BackupStore, clock: FakeClock, **options: Any) -> RollbackParts:
    """Return parts that measure and wait by a clock that stands still until somebody waits."""
    return build_parts(engine, store, CaptureOptions(**options), timer=clock)


def timed(*containers: str, engine: Engine, store: BackupStore, clock: FakeClock, **options: Any) -> Rollback:
    """Return a rollback on such parts, which takes the options of `rollback`."""
    captured = {name: options.pop(name) for name in list(options) if hasattr(CaptureOptions, name)}
    built = parts(engine, store, clock, **captured)
    project = options.pop("project", None)
    return Rollback(
        containers,
        built,
        RollbackOptions(**options),
        capture=CaptureOptions(**captured),
        project=project,
    )


class Shop:
    """A service with data in a named and in an anonymous volume."""

    def __init__(self, store: BackupStore, *, seed: str = "") -> None:
        self.store = store
        self.clock = FakeClock()
        self.engine = FakeEngine(clock=self.clock, seed=seed)
        self.engine.add_image("shop:1", files={"/app": "version 1"}, volumes=["/cache"])
        self.engine.add_image("shop:2", files={"/app": "version 2"}, volumes=["/cache"])
        self.id = self.engine.run(
            "shop",
            image="shop:1",
            volumes={"orders": "/data"},
            networks={"front": {"Aliases": ["till"]}},
            restart="always",
            env=["A=1"],
        )
        self.engine.volume("orders").write("/table", "rows")
        self.cache().write("/warm", "yes")
        self.before = self.engine.inspect_container("shop")

    def cache(self) -> Files:
        """Return the files of the anonymous volume that the container of this name has now."""
        return self.engine.volume(self.engine.anonymous_volume("shop", "/cache"))

    def rollback(self, engine: Engine | None = None, **options: Any) -> Rollback:
        """Return a rollback of the container that waits for nothing."""
        chosen: dict[str, Any] = {"verify": healthy(stable_for=0.0), **options}
        return rollback("shop", client=engine or self.engine, store=self.store, **chosen)

    def recover(self, engine: Engine | None = None, **options: Any) -> tuple[Recovered, ...]:
        """Do what `recover` does, on the clock of the shop."""
        return parts(engine or self.engine, self.store, self.clock).recovery.recover(**options)

    def timed(self, engine: Engine, **options: Any) -> Rollback:
        """Return a rollback that measures and waits by the clock of the shop, and takes what `Rollback` takes."""
        return timed("shop", engine=engine, store=self.store, clock=self.clock, **options)

    def break_it(self) -> None:
        """Do what a bad update does: replace the container, change its data, remove its network."""
        self.engine.remove_container("shop", force=True, volumes=True)
        self.engine.remove_network("front")
        self.engine.volume("orders").delete("/table")
        self.engine.volume("orders").write("/migrated", "half")
        self.engine.run("shop", image="shop:2", volumes={"orders": "/data"})

    def check_restored(self) -> None:
        """Assert that everything is as it was, and that nothing of ours is left over."""
        self.check_equal()
        self.check_nothing_left()

    def check_equal(self) -> None:
        """Assert that everything is as it was."""
        assert compare(self.before, self.engine.inspect_container("shop")) == []
        assert self.engine.volume("orders").read("/table") == b"rows"
        assert not self.engine.volume("orders").exists("/migrated")
        assert self.cache().read("/warm") == b"yes"

    def check_nothing_left(self) -> None:
        """Assert that the engine has no helper, and nothing that was put aside."""
        for found in map(self.engine.inspect_container, self.engine.list_containers()):
            assert "docker-rollback" not in found["Name"]
            assert "docker-rollback.role" not in found["Config"]["Labels"]


def changed_as_tar_reads(run: Run) -> int | None:
    """Be a tar that finds a file of a volume changed while it reads it."""
    code = tar(run)
    if "--create" not in run.arguments:
        return code
    run.stderr.append("tar: ./table: file changed as we read it\n")
    return 1
