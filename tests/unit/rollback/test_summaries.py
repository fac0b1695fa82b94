"""The values that people print: each repr is one line, and an outcome's text is fit for a log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from docker_rollback import Outcome, RollbackRequested, Status, UpdateRejectedError, rollback
from docker_rollback.reports import Downtime, LedBack, Recovered, Report, Trouble
from docker_rollback.testing import FakeContainer
from tests.unit.shop import Shop

BEGUN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def outcome(status: Status, seconds: float = 14.2) -> Outcome:
    """Return an outcome in which nothing happened but its time."""
    return Outcome(status, True, ("web", "db"), BEGUN, BEGUN + timedelta(seconds=seconds))


def test_a_rollback_shows_its_containers_status_and_backup(shop: Shop) -> None:
    """The backup is shown once there is one."""
    tx = shop.rollback()
    assert repr(tx) == "<Rollback of 'shop': not started>"
    with tx:
        assert repr(tx) == f"<Rollback of 'shop': updating, backup {tx.backup.id}>"
    assert repr(tx) == f"<Rollback of 'shop': committed, backup {tx.backup.id}>"


def test_a_rollback_of_a_project_shows_its_name(shop: Shop) -> None:
    """Containers that were named as well are shown after it."""
    tx = rollback("shop", project="site", client=shop.engine, store=shop.store, verify=None)
    assert repr(tx) == "<Rollback of project 'site', 'shop': not started>"


def test_a_backup_shows_its_id_containers_and_volumes(shop: Shop) -> None:
    """One line, and no secret of an inspection."""
    with shop.rollback() as tx:
        volumes = ", ".join(repr(volume.name) for volume in tx.backup.volumes)
        assert repr(tx.backup) == f"<Backup {tx.backup.id} of containers 'shop', volumes {volumes}>"


def test_a_report_shows_what_it_covers_and_refuses(shop: Shop) -> None:
    """With the space that the backup takes; nothing to cover is said as such."""
    shown = repr(shop.rollback().check())
    assert shown.startswith("<Report on containers 'shop', volumes ")
    assert "'orders'" in shown
    assert shown.endswith(" MB>")
    assert "\n" not in shown
    refused = Report((), refused={"web": ("it is a Swarm task",)}, room=2_500_000)
    assert repr(refused) == "<Report on containers none, volumes none: about 2.50 MB, refused: 'web'>"


@pytest.mark.parametrize("status", Status)
def test_an_outcome_shows_its_status_and_time(status: Status) -> None:
    """On one line, whatever the status is."""
    assert repr(outcome(status)) == f"<Outcome of web, db: {status.value} after 14.2 s>"


def test_an_outcome_without_news_is_one_line() -> None:
    """A line of a log is enough if there is nothing else to know."""
    assert str(outcome(Status.UNCHANGED, 0.31)) == "web, db: unchanged after 0.3 s"


def test_an_outcome_as_text_says_why_and_what_is_left_to_do(shop: Shop) -> None:
    """The lines of a reason that has several are indented below it."""

    def fall_over(container: FakeContainer) -> None:
        container.print("no tables")
        container.exit(4)

    shop.engine.on_start("shop:2", fall_over)
    with pytest.raises(UpdateRejectedError), shop.rollback() as tx:
        tx.replace("shop", "shop:2", host_config={"RestartPolicy": {"Name": "no"}})
    lines = str(tx.outcome).splitlines()
    assert lines[0].startswith("shop: rolled back after ")
    assert lines[1].startswith("  reason: UpdateRejectedError in step 'verify': ")
    assert any(line.startswith("    ") and "no tables" in line for line in lines)
    assert f"  backup: {tx.backup.id} in {shop.store.path}" in lines
    assert any(line.startswith("  downtime: shop ") and line.endswith("(rollback)") for line in lines)
    assert any(line.startswith("  restored: container 'shop', ") for line in lines)
    assert lines[-1].startswith("  discarded: what was written in the ")


def test_an_outcome_as_text_says_everything_else() -> None:
    """One line for each fact, in this order."""
    whole = Outcome(
        Status.FAILED,
        entered=True,
        containers=("web",),
        begun=BEGUN,
        ended=BEGUN + timedelta(seconds=1),
        downtime={"web": Downtime(capture=1.26, rollback=2.0), "db": Downtime()},
        names=(LedBack("web:1", "sha256:aa"),),
        not_exact=("its MAC address differs",),
        failures=(Trouble("RestoreError", "no space", "restore"),),
        kept="20260102T030405Z-web-a1b2c3",
        problems=(Trouble("HookError", "it raised", None),),
        to_do=("call recover()",),
        recovered=(Recovered("20260101T000000Z-web-ffffff", ("web",), "rolled back"),),
    )
    assert str(whole).splitlines() == [
        "web: failed after 1.0 s",
        "  downtime: web 1.3 s (capture), 2.0 s (rollback)",
        "  downtime: db 0.0 s",
        "  failed state: kept as backup 20260102T030405Z-web-a1b2c3",
        "  image name: web:1 restored to sha256:aa",
        "  not exact: its MAC address differs",
        "  failure: RestoreError in step 'restore': no space",
        "  problem: HookError: it raised",
        "  recovered: operation 20260101T000000Z-web-ffffff on web: rolled back",
        "  to do: call recover()",
    ]


def test_no_value_of_the_environment_is_printed(shop: Shop) -> None:
    """Neither by a repr nor by an outcome's text."""
    shop.engine.run("guarded", image="shop:1", env=["TOKEN=hunter2hunter2"])
    tx = rollback("guarded", client=shop.engine, store=shop.store, verify=None)
    found = tx.check()
    with tx:
        raise RollbackRequested("the token hunter2hunter2 was refused")
    printed = [repr(tx), repr(tx.backup), repr(found), repr(tx.outcome), str(tx.outcome)]
    assert not [text for text in printed if "hunter2hunter2" in text]
    assert not [text for text in printed[:4] if "\n" in text]
