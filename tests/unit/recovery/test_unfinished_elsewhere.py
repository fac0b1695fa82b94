"""Work that another store has to finish: recovery names it, and never says that nothing was interrupted."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from docker_rollback import (
    BackupStore,
    EngineUnavailableError,
    RecoveryFailedError,
    StoreError,
    UnfinishedElsewhereError,
    recover,
)
from docker_rollback.__main__ import ExitCode, main
from docker_rollback.errors import StoreNotFoundError
from docker_rollback.parts import Operations
from docker_rollback.reports import InFlight
from docker_rollback.testing import FailingEngine, FakeEngine, Killed
from tests.unit.recovery.test_markers import MARK, mark
from tests.unit.recovery.test_recovery import die_in_the_body, recovered
from tests.unit.shop import Shop
from tests.unit.town import Town


@pytest.fixture
def other(tmp_path: Path) -> BackupStore:
    """Give another store that is there, and empty."""
    store = BackupStore(tmp_path / "other")
    store.check()
    return store


def run(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command on an engine in memory; return its exit code."""
    monkeypatch.setattr("docker_rollback._api.as_engine", lambda _: engine)
    return main(["recover", *arguments])


def test_a_store_that_is_not_there_is_an_error_and_is_not_made(shop: Shop, tmp_path: Path) -> None:
    """It names the path, the default and what to do."""
    missing = tmp_path / "mistyped"
    with pytest.raises(StoreNotFoundError, match="no such folder") as raised:
        recover(client=shop.engine, store=missing)
    assert raised.value.path == str(missing)
    assert "--store PATH" in str(raised.value)
    assert raised.value.default in str(raised.value)
    assert isinstance(raised.value, StoreError)
    assert not missing.exists()


def test_the_default_store_that_is_not_there_is_called_the_default(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever forgot to name the store learns that this is why."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with pytest.raises(StoreNotFoundError, match="this is the default") as raised:
        recover(client=shop.engine)
    assert raised.value.path.startswith(str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_a_folder_that_holds_something_else_is_no_store(shop: Shop, tmp_path: Path) -> None:
    """A mistyped path that leads to another folder is no empty store, nor is a file; neither is touched."""
    folder, file = tmp_path / "etc", tmp_path / "file"
    folder.mkdir()
    (folder / "passwd").touch()
    file.touch()
    with pytest.raises(StoreNotFoundError, match="something else"):
        recover(client=shop.engine, store=folder)
    with pytest.raises(StoreNotFoundError, match="not a folder"):
        recover(client=shop.engine, store=file)
    assert [path.name for path in folder.iterdir()] == ["passwd"]


def test_an_empty_store_has_nothing_that_was_cut_off(shop: Shop, other: BackupStore, tmp_path: Path) -> None:
    """Nor has a folder that was made for one; nothing is written into it."""
    (tmp_path / "empty" / "lost+found").mkdir(parents=True)
    assert recover(client=shop.engine, store=other) == ()
    assert recover(client=shop.engine, store=tmp_path / "empty") == ()
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["lost+found"]


def test_the_command_says_that_there_is_no_store(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It fails, prints the error without a traceback, and prints nothing as a result."""
    assert run(shop.engine, monkeypatch, "--store", str(tmp_path / "mistyped")) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"store {tmp_path / 'mistyped'}: there is no store here")
    assert err.count("\n") == 1


def test_an_empty_path_is_a_wrong_argument(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell's variable that is not set does not stand for the folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(shop.engine, monkeypatch, "--store", "")
    assert (ended.value.code, int(ExitCode.USAGE)) == (2, 2)
    assert "the path is empty" in capsys.readouterr().err


def test_unfinished_work_of_another_store_is_named(shop: Shop, other: BackupStore) -> None:
    """The error has the container, the host, since when, whether the process lives, the store and the command."""
    die_in_the_body(shop, shop.break_it)
    (note,) = shop.store.journal.names()
    with pytest.raises(UnfinishedElsewhereError) as raised:
        recover(client=shop.engine, store=other)
    (found,) = raised.value.operations
    assert found.operation == note.partition(".")[0]
    assert (found.containers, found.project, found.host) == (("shop",), None, socket.gethostname())
    assert (found.owner, found.record, found.store) == ("dead", "elsewhere", str(shop.store.path))
    assert found.since.endswith("+00:00")
    assert found.command == f"python -m docker_rollback recover --store {shop.store.path}"
    for word in ("'shop'", found.operation, found.host, found.since, "its process is dead", found.command):
        assert word in str(raised.value)
    assert raised.value.finished == ()
    recovered(shop)
    shop.check_restored()
    assert recover(client=shop.engine, store=other) == ()


def test_the_command_ends_with_a_code_of_its_own(
    shop: Shop, other: BackupStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 5 in place of 'nothing was interrupted'; the command that is printed finishes it, with code 0."""
    die_in_the_body(shop, shop.break_it)
    assert run(shop.engine, monkeypatch, "--store", str(other.path)) == 5
    out, err = capsys.readouterr()
    assert out == ""
    command = err.splitlines()[-1].split()
    assert command[:4] == ["python", "-m", "docker_rollback", "recover"]
    assert run(shop.engine, monkeypatch, *command[4:]) == 0
    assert "rolled back" in capsys.readouterr().out
    assert run(shop.engine, monkeypatch, "--store", str(other.path)) == 0
    assert capsys.readouterr().out == "nothing was interrupted\n"


def test_a_path_with_spaces_is_quoted_in_the_command(tmp_path: Path) -> None:
    """It can be pasted into a shell."""
    shop = Shop(BackupStore(tmp_path / "a store"))
    die_in_the_body(shop, shop.break_it)
    with pytest.raises(UnfinishedElsewhereError, match=f"--store '{shop.store.path}'"):
        recover(client=shop.engine, store=tmp_path / "not there")


def test_a_missing_store_does_not_hide_unfinished_work(shop: Shop, tmp_path: Path) -> None:
    """Both are said: there is no store here, and another one has the record; none is made."""
    die_in_the_body(shop, shop.break_it)
    missing = tmp_path / "mistyped"
    with pytest.raises(UnfinishedElsewhereError, match=r"there is no store here(.|\n)*its process is dead") as raised:
        recover(client=shop.engine, store=missing)
    assert isinstance(raised.value.__cause__, StoreNotFoundError)
    assert not missing.exists()


def test_a_missing_store_is_said_also_where_no_engine_answers(shop: Shop, tmp_path: Path) -> None:
    """The first error is the one that is raised."""

    class Away(FailingEngine):
        def list_volumes(self, **_: object) -> list[str]:
            """Have nobody answer."""
            raise EngineUnavailableError("list volumes", "nobody answers")

    with pytest.raises(StoreNotFoundError):
        recover(client=Away(shop.engine), store=tmp_path / "mistyped")


def test_what_this_store_can_finish_is_finished_first(tmp_path: Path) -> None:
    """The error of the other store's work has what was finished."""
    shop = Shop(BackupStore(tmp_path / "store"))
    die_in_the_body(shop, lambda: None)
    shop.engine.create_volume({"Name": "docker-rollback-busy-db", "Labels": labels_of_another_host()})
    with pytest.raises(UnfinishedElsewhereError) as raised:
        recover(client=shop.engine, store=shop.store)
    assert [done.outcome for done in raised.value.finished] == ["rolled back"]
    assert [one.containers for one in raised.value.operations] == [("db",)]
    assert raised.value.operations[0].owner == "unknown"
    assert "cannot be seen from here" in str(raised.value)
    shop.check_restored()


def labels_of_another_host() -> dict[str, str]:
    """Return what the lock volume of another host says."""
    own = {
        "role": "marker",
        "operation": "20260102T030405Z-db-a1b2c3",
        "container": "c" * 64,
        "host": "elsewhere",
        "boot": "0000",
        "machine": "1111",
        "store": "/var/backups/elsewhere",
        "folder": "1:2",
        "since": "2026-01-02T03:04:05+00:00",
    }
    return {f"docker-rollback.{key}": value for key, value in own.items()}


def test_an_operation_that_could_not_be_finished_does_not_hide_another_stores(shop: Shop) -> None:
    """Both are failures of the recovery."""
    die_in_the_body(shop, shop.break_it)
    shop.engine.create_volume({"Name": "docker-rollback-busy-db", "Labels": labels_of_another_host()})
    failing = FailingEngine(shop.engine, verbs={"create_network"}, at=1, lasting=True)
    with pytest.raises(RecoveryFailedError) as raised:
        recover(client=failing, store=shop.store)
    assert UnfinishedElsewhereError in [type(failure) for failure in raised.value.failures.exceptions]
    assert len(raised.value.failures.exceptions) == 2


def test_a_living_operation_of_another_store_was_not_cut_off(shop: Shop, other: BackupStore) -> None:
    """Nothing is said of it, and its lock volume stays; a list of what is in flight has it as alive."""
    with shop.rollback():
        assert recover(client=shop.engine, store=other) == ()
        (found,) = Operations(shop.engine, other).in_flight()
        assert (found.owner, found.record) == ("alive", "elsewhere")
        assert "is running" in str(found)
        (own,) = Operations(shop.engine, shop.store).in_flight()
        assert (own.owner, own.record) == ("alive", "here")
        assert shop.engine.has_volume(MARK)
    assert Operations(shop.engine, other).in_flight() == []


def test_a_project_is_one_operation(town: Town, other: BackupStore) -> None:
    """Its containers and its project each have a lock volume, and all of them tell of one operation."""
    killed = FailingEngine(town.engine, at=1, kill=True, verbs={"kill_container"})
    with pytest.raises(Killed), town.rollback(engine=killed):
        killed.kill_container("alone")
    (found,) = Operations(town.engine, other).in_flight()
    assert found.project == "shop"
    assert "shop-web-1" in found.containers
    assert len(found.containers) > 2
    assert "project 'shop'" in str(found)


@pytest.mark.parametrize("own", [True, False])
def test_a_lock_volume_that_outlived_its_operation_is_removed(shop: Shop, other: BackupStore, *, own: bool) -> None:
    """Where its store can be read and has no record of it, from whichever store recovery runs."""
    with shop.rollback():
        labels = dict(shop.engine.inspect_volume(MARK)["Labels"])
    shop.engine.create_volume({"Name": MARK, "Labels": labels})
    assert recover(client=shop.engine, store=shop.store if own else other) == ()
    assert not shop.engine.has_volume(MARK)


def test_a_lock_volume_whose_store_is_gone_stays(shop: Shop, other: BackupStore) -> None:
    """Nobody can tell whether its record is gone as well: it is reported, not removed, and no store is made there."""
    die_in_the_body(shop, lambda: None)
    shop.store.path.rename(shop.store.path.with_name("moved"))
    with pytest.raises(UnfinishedElsewhereError) as raised:
        recover(client=shop.engine, store=other)
    assert [one.record for one in raised.value.operations] == ["unknown"]
    assert shop.engine.has_volume(MARK)
    assert not shop.store.path.exists()


def test_another_folder_in_the_place_of_a_store_is_not_touched(shop: Shop, other: BackupStore) -> None:
    """A lock volume may name any path: nothing is written where there is no store."""
    die_in_the_body(shop, lambda: None)
    labels = dict(shop.engine.inspect_volume(MARK)["Labels"])
    shop.engine.remove_volume(MARK)
    folder = shop.store.path.with_name("etc")
    folder.mkdir()
    found = folder.stat()
    named = {"docker-rollback.store": str(folder), "docker-rollback.folder": f"{found.st_dev}:{found.st_ino}"}
    shop.engine.create_volume({"Name": MARK, "Labels": {**labels, **named}})
    with pytest.raises(UnfinishedElsewhereError):
        recover(client=shop.engine, store=other)
    assert list(folder.iterdir()) == []


def test_after_a_boot_a_store_whose_disk_is_not_mounted_is_missed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The empty folder in its place has no record; the lock volume stays, and the command says what to look at."""
    monkeypatch.setattr("docker_rollback._containers.store_identity.machine_id", lambda: "/etc/machine-id")
    monkeypatch.setattr("docker_rollback._containers.store_identity.boot_id", lambda: "boot")
    shop.store.path.mkdir()
    mark(shop, machine="/etc/machine-id", host=socket.gethostname(), store=str(shop.store.path), folder="1:2")
    with pytest.raises(UnfinishedElsewhereError, match="is its disk mounted") as raised:
        recover(client=shop.engine, store=shop.store)
    (found,) = raised.value.operations
    assert (found.owner, found.record) == ("dead", "unknown")
    assert shop.engine.has_volume(MARK)


def test_what_is_in_flight_is_a_value() -> None:
    """It compares by what it says, and is unfinished elsewhere only if it may be cut off and is not this store's."""
    found = InFlight("x", ("web",), None, "here", "2026", "/store", "dead", "elsewhere")
    assert found == InFlight("x", ("web",), None, "here", "2026", "/store", "dead", "elsewhere")
    kinds = [(owner, record) for owner in ("alive", "dead", "unknown") for record in ("here", "elsewhere", "unknown")]
    told = [kind for kind in kinds if InFlight("x", ("web",), None, "", "", "/s", *kind).is_unfinished_elsewhere]  # type: ignore[arg-type]  # a product of literals is a str to mypy
    assert told == [("dead", "elsewhere"), ("dead", "unknown"), ("unknown", "elsewhere"), ("unknown", "unknown")]
