"""The unit tests of `Middleware`, on an engine in memory: no Docker, no root, no waiting."""

from __future__ import annotations

from pathlib import Path

import pytest

from docker_rollback import BackupStore, Status, healthy
from docker_rollback.testing import FailingEngine, FakeClock, FakeContainer, FakeEngine, Killed
from examples.middleware.manager import Middleware


class Site:
    """A middleware of two containers on an engine in memory."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.engine = FakeEngine(clock=self.clock)
        for image in ("db:15", "db:16", "web:1", "web:2"):
            self.engine.add_image(image, files={"/version": image})
        self.engine.run("db", image="db:15", volumes={"rows": "/rows"}, networks=["back"], restart="always")
        self.engine.run("web", image="web:1", networks=["back"], restart="always")
        self.engine.volume("rows").write("/table", "7 apples")
        self.store = BackupStore(folder / "store")
        self.signs: list[bool] = []

    def middleware(self, engine: FakeEngine | FailingEngine | None = None) -> Middleware:
        """Return the class under test; time moves only when somebody sleeps."""
        return Middleware(
            engine or self.engine,
            self.store,
            ["db", "web"],
            checks=[healthy(stable_for=5.0)],
            keep=2,
            maintenance=self.signs.append,
            clock=self.clock,
            timer=self.clock,
        )

    def images(self) -> list[str]:
        """Return what the containers are made from."""
        return [self.engine.container(name).image for name in ("db", "web")]

    def migrate_badly(self, container: FakeContainer) -> None:
        """Do what a bad version does when it starts: change the data, and fall over a moment later."""
        container.write("/rows/table", "7")
        container.print("cannot read apples")
        container.after(2.0, lambda: container.exit(1))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A middleware that runs."""
    return Site(tmp_path)


def test_an_upgrade_replaces_all(site: Site) -> None:
    """The new versions run on the data that there was, behind a maintenance sign for the time of the backup alone."""
    outcome = site.middleware().upgrade({"db": "db:16", "web": "web:2"})
    assert outcome.status is Status.COMMITTED
    assert site.images() == ["db:16", "web:2"]
    assert site.engine.volume("rows").read("/table") == b"7 apples"
    assert site.signs == [True, False]
    (version,) = site.middleware().versions()
    assert (version.images, version.failed) == ({"db": "db:15", "web": "web:1"}, False)


def test_an_upgrade_that_fails_is_none(site: Site) -> None:
    """One bad version takes both back, with the data, and the outcome says why; what it left is kept."""
    site.engine.on_start("db:16", site.migrate_badly)
    outcome = site.middleware().upgrade({"db": "db:16", "web": "web:2"})
    assert outcome.status is Status.ROLLED_BACK
    assert [(check.container, check.log) for check in outcome.rejected] == [("db", ("cannot read apples",))]
    assert site.images() == ["db:15", "web:1"]
    assert site.engine.volume("rows").read("/table") == b"7 apples"
    assert [version.failed for version in site.middleware().versions()] == [False, True]


def test_an_image_that_is_not_there_costs_nothing(site: Site) -> None:
    """The middleware runs as before, and no container has lost its place."""
    before = [site.engine.container(name).id for name in ("db", "web")]
    outcome = site.middleware().upgrade({"web": "web:3"})
    assert outcome.reason is not None
    assert outcome.reason.type == "ImageNotFoundError"
    assert [site.engine.container(name).id for name in ("db", "web")] == before


def test_a_version_can_be_gone_back_to(site: Site) -> None:
    """Days later, with the data of then."""
    site.middleware().upgrade({"db": "db:16"})
    site.engine.volume("rows").write("/table", "8 pears")
    (version,) = site.middleware().versions()
    site.middleware().go_back(version.id)
    assert site.images() == ["db:15", "web:1"]
    assert site.engine.volume("rows").read("/table") == b"7 apples"


def test_a_death_on_the_way_is_finished_by_the_next_process(site: Site) -> None:
    """The program is killed while it replaces the database; when it begins again, all is as it was."""
    dying = FailingEngine(site.engine, at=1, verbs={"rename_container"}, after=True, kill=True)
    with pytest.raises(Killed):
        site.middleware(dying).upgrade({"db": "db:16"})
    (done,) = site.middleware().finish_what_was_cut_off()
    assert done.outcome == "rolled back"
    assert site.images() == ["db:15", "web:1"]


def test_looking_touches_nothing(site: Site) -> None:
    """It names the volumes that would be saved, and what stands against it."""
    report = site.middleware().look()
    assert (list(report.volumes), dict(report.refused)) == (["rows"], {})
    assert site.store.list() == []
