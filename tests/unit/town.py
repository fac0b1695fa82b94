"""A compose project on an engine in memory, with neighbours, and an update of it: the ground of many tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from docker_rollback import BackupStore, Rollback, compare, healthy, rollback
from docker_rollback._engine.port import Engine
from docker_rollback.testing import FakeClock, FakeEngine

NAME = "shop"
PROJECT = {"com.docker.compose.project": NAME}
ORDER = ["shop-db-1", "shop-worker-2", "shop-worker-1", "shop-migrate-1", "shop-web-1"]
"""In which its containers were made, and start: `web` says that it depends on `db`."""


def labels(service: str, number: int = 1, depends: str = "", *, one_off: bool = False) -> dict[str, str]:
    """Return the labels that compose gives a container."""
    return PROJECT | {
        "com.docker.compose.service": service,
        "com.docker.compose.container-number": str(number),
        "com.docker.compose.depends_on": depends,
        "com.docker.compose.oneoff": str(one_off),
    }


class Town:
    """An engine with a project, with another one, and with a container of none."""

    def __init__(self, store: BackupStore, *, seed: str = "") -> None:
        self.store = store
        self.clock = FakeClock()
        self.engine = FakeEngine(clock=self.clock, seed=seed)
        for version in ("1", "2"):
            self.engine.add_image(f"app:{version}", files={"/app": version})
        for volume in ("shop_rows", "shop_spare"):
            self.make_volume(volume)
        self.make_network("shop_default")
        self.make_network("shop_unused")
        self.engine.volume("shop_rows").write("/count", "1")
        self.engine.volume("shop_spare").write("/kept", "yes")
        self.engine.volume("external").write("/common", "1")
        self.run("db", volumes={"shop_rows": "/rows"}, anonymous=["/log"])
        self.run("worker", number=2)
        self.run("worker")
        self.run("web", depends="db:service_started:false", volumes={"external": "/common:ro"}, restart="always")
        self.run("migrate", start=False)
        self.engine.run("library-web-1", image="app:1", labels={"com.docker.compose.project": "library"})
        self.engine.run("alone", image="app:1", volumes={"other": "/data"})
        self.before = self.stock()
        self.inspections = {name: self.engine.inspect_container(name) for name in ORDER}

    def make_volume(self, name: str, **more: str) -> None:
        """Make a volume as compose does."""
        request = {"Name": name, "Labels": PROJECT | {"com.docker.compose.volume": name} | more}
        self.engine.create_volume(request)

    def make_network(self, name: str) -> None:
        """Make a network as compose does."""
        self.engine.create_network({"Name": name, "Labels": PROJECT | {"com.docker.compose.network": name}})

    def run(self, service: str, *, number: int = 1, depends: str = "", one_off: bool = False, **more: Any) -> str:
        """Make a container of the project as compose does."""
        self.clock.sleep(1)
        options: dict[str, Any] = {"image": "app:1", "networks": ["shop_default"], **more}
        marks = labels(service, number, depends, one_off=one_off)
        name = options.pop("name", f"shop-{service}-{number}")
        return self.engine.run(name, labels=marks, **options)

    def stock(self) -> dict[str, list[str]]:
        """Return the names of all that there is."""
        containers = (self.engine.inspect_container(one) for one in self.engine.list_containers())
        networks = (self.engine.inspect_network(one)["Name"] for one in self.engine.list_networks())
        volumes = [self.engine.inspect_volume(one) for one in self.engine.list_volumes()]
        return {
            "containers": sorted(found["Name"].removeprefix("/") for found in containers),
            "networks": sorted(networks),
            "volumes": sorted(found["Name"] for found in volumes if len(found["Name"]) < len("f" * 64)),
        }

    def rollback(self, *names: str, engine: Engine | None = None, **options: Any) -> Rollback:
        """Return a rollback of the project that waits for nothing."""
        chosen: dict[str, Any] = {"project": NAME, "verify": healthy(stable_for=0.0), **options}
        return rollback(*names, client=engine or self.engine, store=self.store, **chosen)

    def update(self) -> None:
        """Do what `up` with another file does: services come, go and are made anew, on other data."""
        for name in ("shop-web-1", "shop-db-1", "shop-worker-2"):
            self.engine.remove_container(name, force=True)
        self.make_volume("shop_index")
        self.make_network("shop_back")
        self.engine.volume("shop_rows").write("/count", "99")
        self.engine.volume("shop_spare").delete("/kept")
        self.engine.volume("external").write("/common", "2")
        self.run("database", volumes={"shop_rows": "/rows"}, restart="always")
        self.run("web", image="app:2", depends="database:service_started:false", restart="always")
        self.run("search", networks=["shop_back", "shop_default"], volumes={"shop_index": "/i", "shop_spare": "/s"})
        self.run("worker", number=3, anonymous=["/scratch"])
        self.engine.volume("shop_index").write("/words", "many")

    def check_restored(self) -> None:
        """Assert that the project is what it was, and everything else too."""
        assert self.stock() == self.before
        for name, before in self.inspections.items():
            after = self.engine.inspect_container(name)
            assert compare(before, after) == [], name
            assert after["State"]["Status"] == before["State"]["Status"], name
        assert self.engine.volume("shop_rows").read("/count") == b"1"
        assert self.engine.volume("shop_spare").read("/kept") == b"yes"
        assert self.engine.volume("external").read("/common") == b"1"


def names(containers: Iterable[Any]) -> list[str]:
    """Return the names of some containers."""
    return [container.name for container in containers]
