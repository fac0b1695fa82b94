"""The files that a project was started from: kept when asked for, and as they were after a rollback."""

from __future__ import annotations

import io
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from attrs import frozen

from docker_rollback import (
    BackupStore,
    RecoveryFailedError,
    RollbackFailedError,
    RollbackRequested,
    Status,
    UnsupportedContainerError,
    backup,
    recover,
    restore,
)
from docker_rollback._host import files as host_files
from docker_rollback.testing import FailingEngine, Killed
from tests.unit.town import NAME, Town, labels

OLD = {"docker-compose.yml": "image: app:1\n", "override.yml": "# none\n", ".env": "TOKEN=open sesame\n"}


@frozen
class Started:
    """A project that was started from two compose files and a `.env`."""

    town: Town
    folder: Path

    @property
    def paths(self) -> list[str]:
        """The files' paths."""
        return [str(self.folder / name) for name in OLD]

    def update(self) -> None:
        """Change one file, remove one, and leave one as it is; and a container, to have something to restore."""
        (self.folder / "docker-compose.yml").write_text("image: app:2\n", encoding="utf-8")
        (self.folder / ".env").unlink()
        self.town.engine.remove_container("shop-web-1", force=True)

    def read(self) -> dict[str, str]:
        """Return the files as they are."""
        return {path.name: path.read_text(encoding="utf-8") for path in self.folder.iterdir()}


@pytest.fixture
def started(town: Town, tmp_path: Path) -> Started:
    """Give the project, one of whose containers has the labels of compose 2 that name its files."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name, content in OLD.items():
        (folder / name).write_text(content, encoding="utf-8")
    run(town, folder, [str(folder / "docker-compose.yml"), "override.yml"])
    return Started(town, folder)


def run(town: Town, folder: Path, files: Sequence[str], **more: str) -> None:
    """Run a service with labels that name these files."""
    prefix = "com.docker.compose.project"
    named = {f"{prefix}.working_dir": str(folder), f"{prefix}.config_files": ",".join(files)}
    named |= {f"{prefix}.{key}": value for key, value in more.items()}
    town.engine.run("shop-files-1", image="app:1", labels=labels("files") | named)


def test_the_files_are_as_before_the_update(started: Started) -> None:
    """Those that the labels name, and `.env`; one that did not change is left alone."""
    same = (started.folder / "override.yml").stat()
    with started.town.rollback(include_files=True) as tx:
        assert [file.path for file in tx.backup.files] == started.paths
        started.update()
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert started.read() == OLD
    assert (started.folder / "override.yml").stat() == same
    assert [one for one in tx.outcome.rolled_back if one.startswith("file")] == [
        f"file {path!r}" for path in started.paths
    ]


def test_they_are_left_alone_unless_asked_for(started: Started) -> None:
    """They belong to the user, who may restore them himself."""
    with started.town.rollback() as tx:
        assert tx.backup.files == ()
        started.update()
        raise RollbackRequested
    assert started.read()["docker-compose.yml"] == "image: app:2\n"


def test_an_update_that_succeeds_keeps_its_files(started: Started) -> None:
    """Nothing is written then."""
    with started.town.rollback(include_files=True):
        (started.folder / ".env").write_text("TOKEN=new\n", encoding="utf-8")
    assert started.read()[".env"] == "TOKEN=new\n"


def test_paths_are_backed_up_in_their_place(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any paths, also relative ones; those of the labels have to be among them."""
    other = started.folder / "settings.env"
    other.write_text("MODE=old\n", encoding="utf-8")
    monkeypatch.chdir(started.folder)
    with started.town.rollback(include_files=["settings.env", other]) as tx:
        other.write_text("MODE=new\n", encoding="utf-8")
        started.update()
        raise RollbackRequested
    assert [file.path for file in tx.backup.files] == [str(other)]
    assert started.read()["settings.env"] == "MODE=old\n"
    assert started.read()["docker-compose.yml"] == "image: app:2\n"


def test_the_check_lists_them_and_shows_no_content(started: Started) -> None:
    """The content may be secret."""
    report = started.town.rollback(include_files=True).check()
    assert [file.path for file in report.files] == started.paths
    assert not report.refused
    assert "sesame" not in repr(report.files)
    assert report.files[0].base64 not in repr(report.files)


def test_an_environment_file_that_is_named_stands_for_the_default(town: Town, tmp_path: Path) -> None:
    """Compose does not read `.env` then."""
    for name in ("compose.yml", "prod.env", ".env"):
        (tmp_path / name).write_text("x\n", encoding="utf-8")
    run(town, tmp_path, ["compose.yml"], environment_file="prod.env")
    report = town.rollback(include_files=True).check()
    assert [Path(file.path).name for file in report.files] == ["compose.yml", "prod.env"]


@pytest.mark.parametrize("become", ["missing", "a folder", "too large"])
def test_a_file_that_cannot_be_kept_is_refused_before_anything(started: Started, become: str) -> None:
    """The error names the file and says why; no container was stopped."""
    path = started.folder / "override.yml"
    if become == "too large":
        path.write_bytes(bytes(host_files.LARGEST + 1))
    else:
        path.unlink()
    if become == "a folder":
        path.mkdir()
    with pytest.raises(UnsupportedContainerError, match=r"override\.yml") as refused:
        started.town.rollback(include_files=True).__enter__()
    assert "cannot be backed up" in str(refused.value)
    started.town.engine.remove_container("shop-files-1", force=True)
    started.town.check_restored()
    assert started.town.store.ids() == []


@pytest.mark.parametrize("path", ["/\0", "/\udcff"])
def test_a_path_that_no_system_knows_is_refused(town: Town, path: str) -> None:
    """As a file that is missing is."""
    assert town.rollback(include_files=[path]).check().refused


def test_a_project_without_labels_is_refused(town: Town) -> None:
    """Nobody knows its files then."""
    with pytest.raises(UnsupportedContainerError, match="give the paths"):
        town.rollback(include_files=True).__enter__()


def test_a_file_that_cannot_be_written_fails_the_rollback_of_running_containers(started: Started) -> None:
    """Everything else is restored first, and `recover` finishes once the cause is gone."""
    away = started.folder.with_name("away")
    with (
        pytest.raises(RollbackFailedError, match=r"docker-compose\.yml': No such file"),
        started.town.rollback(include_files=True) as tx,
    ):
        started.update()
        started.folder.rename(away)
        raise RollbackRequested
    assert tx.status is Status.FAILED
    assert started.town.engine.inspect_container("shop-web-1")["State"]["Running"]
    assert any("recover" in one for one in tx.outcome.to_do)
    with pytest.raises(RecoveryFailedError, match=r"docker-compose\.yml"):
        recover(client=started.town.engine, store=started.town.store)
    away.rename(started.folder)
    (done,) = recover(client=started.town.engine, store=started.town.store)
    assert done.outcome == "rolled back"
    assert started.read() == OLD


def test_a_link_that_leads_elsewhere_is_said(started: Started, tmp_path: Path) -> None:
    """The file that it led to is as it was, and the link is not touched."""
    link, new = tmp_path / "current.yml", tmp_path / "new.yml"
    link.symlink_to(started.folder / "docker-compose.yml")
    with started.town.rollback(include_files=[link]) as tx:
        started.update()
        new.write_text("new\n", encoding="utf-8")
        link.unlink()
        link.symlink_to(new)
        raise RollbackRequested
    assert started.read()["docker-compose.yml"] == OLD["docker-compose.yml"]
    assert link.resolve() == new
    assert any(str(link) in one for one in tx.outcome.not_exact)


def die(started: Started) -> None:
    """Enter a rollback, change everything, and die."""
    killed = FailingEngine(started.town.engine, at=1, kill=True, verbs={"kill_container"})
    with pytest.raises(Killed), started.town.rollback(engine=killed, include_files=True):
        started.update()
        killed.kill_container("alone")


def test_recovery_writes_them_back(started: Started) -> None:
    """On the machine that they are of."""
    die(started)
    recover(client=started.town.engine, store=started.town.store)
    assert started.read() == OLD


def test_recovery_on_another_machine_leaves_its_files_alone(
    started: Started, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same paths may be those of other files there; a warning names them."""
    die(started)
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    recover(client=started.town.engine, store=started.town.store)
    assert started.read()["docker-compose.yml"] == "image: app:2\n"
    assert any("docker-compose.yml" in one and "on another machine" in one for one in caplog.messages)


@pytest.mark.parametrize("host", ["same", "another"])
def test_a_restore_writes_them_only_if_it_is_asked_to(
    started: Started, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """Long after the backup they may be the user's new work, and on another machine somebody else's."""
    taken = backup(project=NAME, client=started.town.engine, store=started.town.store, include_files=True)
    started.update()
    if host == "another":
        monkeypatch.setattr(socket, "gethostname", lambda: "another")
    restore(taken, client=started.town.engine, store=started.town.store)
    assert started.read()["docker-compose.yml"] == "image: app:2\n"
    restore(taken, client=started.town.engine, store=started.town.store, restore_files=True)
    assert started.read() == OLD


def test_an_export_has_them(started: Started, tmp_path: Path) -> None:
    """As all of a backup."""
    taken = backup(project=NAME, client=started.town.engine, store=started.town.store, include_files=True)
    other, exported = BackupStore(tmp_path / "other"), io.BytesIO()
    started.town.store.export(taken.id, exported)
    exported.seek(0)
    other.import_(exported)
    assert other.get(taken.id).files == taken.files
    assert {Path(file.path).name: file.content.decode() for file in other.get(taken.id).files} == OLD
