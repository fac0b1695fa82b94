"""What a backup would cover, with containers as they are found later."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from docker_rollback._inspection.preflight_report import Report
from docker_rollback._inspection.recreate import observe
from docker_rollback._model.backup import ContainerState
from tests.unit.inspections import ID, OTHER_ID, inspection
from tests.unit.shop import Shop, parts


def test_containers_and_guests_are_taken_as_they_are_found_later() -> None:
    """By their ids; those that were not looked at again stay as they were, and strangers do not come in."""
    web, guest = observe(inspection()), observe(inspection({"Id": OTHER_ID, "Name": "/guest"}))
    db = observe(inspection({"Id": "d" * 64, "Name": "/db"}))
    report = Report(containers=(web, db), volumes={}, guests=(guest,))
    later = [evolve(one, state=ContainerState("exited", exit_code=3)) for one in (guest, web)]
    stranger = observe(inspection({"Id": "e" * 64, "Name": "/stranger"}))
    found = report.with_now([*later, stranger])
    assert found.containers == (later[1], db)
    assert found.guests == (later[0],)
    assert [one.id for one in report.with_now([]).containers] == [ID, "d" * 64]


def test_what_took_the_name_while_a_lock_was_waited_for_is_locked_instead(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever held it before may have made another container of that name; the lock of the old one is let go."""
    made: list[str] = []
    lock = shop.store.lock

    def replaced_meanwhile(*arguments: Any, **options: Any) -> Any:
        if not made:
            shop.engine.remove_container("shop", force=True)
            made.append(shop.engine.run("shop", image="shop:2"))
        return lock(*arguments, **options)

    monkeypatch.setattr(shop.store, "lock", replaced_meanwhile)
    with parts(shop.engine, shop.store, shop.clock).preflight.holding(["shop"]) as report:
        assert [one.id for one in report.containers] == made
        assert shop.store.is_locked(made[0])
        assert not shop.store.is_locked(shop.id)
    assert not shop.store.is_locked(made[0])
