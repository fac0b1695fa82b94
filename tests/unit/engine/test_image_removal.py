"""Images that lose their names when an engine dies while it removes them."""

from __future__ import annotations

from contextlib import suppress

import pytest

from docker_rollback import RollbackRequested, Status
from docker_rollback._engine.removal import remove_named
from docker_rollback.testing import FailingEngine, FakeEngine
from tests.unit.shop import Shop, timed

OURS = "docker-rollback"


class DiesBetween(FailingEngine):
    """An engine that dies in each removal of an image by its last name: the name goes, the image stays.

    Asked again it says that there is no image of that name, which is harmless.
    """

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(engine)
        self._fake = engine
        self.deaths = 0

    def remove_image(self, ref: str) -> None:
        """Remove an image, or its name alone."""
        if ref.startswith(OURS) and self._fake.image_names().get(self._id(ref)) == [ref]:
            self.deaths += 1
            self._fake.tag_image("shop:2", ref)
        super().remove_image(ref)

    def _id(self, ref: str) -> str:
        return next((image for image, names in self._fake.image_names().items() if ref in names), "")


@pytest.mark.parametrize("fails", [False, True])
def test_an_image_that_has_lost_its_name_is_removed(shop: Shop, *, fails: bool) -> None:
    """Neither a backup nor a rollback leaves an image without a name."""
    before = shop.engine.image_names()
    dying = DiesBetween(shop.engine)
    tx = shop.timed(dying)
    with suppress(RollbackRequested), tx:
        if fails:
            shop.engine.stop_container("shop")
            raise RollbackRequested
    assert tx.status is (Status.ROLLED_BACK if fails else Status.COMMITTED)
    assert dying.deaths
    assert shop.engine.image_names() == before


def test_an_image_that_has_another_name_or_a_container_stays(shop: Shop) -> None:
    """What a name of ours led to may be the user's."""
    image = str(shop.engine.inspect_image("shop:1")["Id"])
    shop.engine.tag_image("shop:1", f"{OURS}:mine")
    remove_named(shop.engine, f"{OURS}:mine")
    assert shop.engine.image_names()[image] == ["shop:1"]
    remove_named(shop.engine, f"{OURS}:mine")
    shop.engine.tag_image("shop:1", f"{OURS}:mine")
    shop.engine.tag_image("shop:2", "shop:1")
    remove_named(DiesBetween(shop.engine), f"{OURS}:mine")
    assert image in shop.engine.image_names(), "a container stands on it"


@pytest.mark.parametrize("fails", [False, True])
def test_an_image_that_is_known_by_its_digest_alone_stays(shop: Shop, *, fails: bool) -> None:
    """A digest is a name of the user's: no update, rollback or pruned backup removes its image."""
    pinned = f"shop@sha256:{'1' * 64}"
    image = shop.engine.add_image(pinned, files={"/app": "pinned"})
    shop.engine.run("pinned", image=pinned)
    for first in (True, False):
        tx = timed("pinned", engine=shop.engine, store=shop.store, clock=shop.clock, keep=1)
        with suppress(RollbackRequested), tx:
            shop.engine.remove_container("pinned", force=True)
            if fails:
                raise RollbackRequested
            shop.engine.run("pinned", image=pinned if first else "shop:2")
        assert tx.status is (Status.ROLLED_BACK if fails else Status.COMMITTED)
        assert shop.engine.image_names()[image] == [pinned]
    shop.engine.remove_container("pinned", force=True)
    shop.engine.tag_image(pinned, f"{OURS}:mine")
    remove_named(shop.engine, f"{OURS}:mine")
    found = shop.engine.inspect_image(pinned)
    assert (found["Id"], found["RepoTags"], found["RepoDigests"]) == (image, [], [pinned])
