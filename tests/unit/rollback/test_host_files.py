"""The files that a project was started from: backed up when asked for, and as they were after a rollback."""

from __future__ import annotations

import io
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen

from docker_rollback import (
    BackupStore,
    CorruptBackupError,
    Restorer,
    RollbackFailedError,
    RollbackRequested,
    Status,
    UnsupportedContainerError,
    backup,
    recover,
    restore,
)
from docker_rollback.__main__ import main
from docker_rollback._capture import project_files
from docker_rollback._containers.own_container import Own
from docker_rollback._host import LARGEST, is_of_this_machine
from docker_rollback._inspection import observe
from docker_rollback._recovery.operations import Operation
from docker_rollback.errors import CaptureError, RestoreError, StoreError
from docker_rollback.testing import FailingEngine, FakeEngine, Killed
from tests.unit.town import NAME, PROJECT, Town, labels

OLD = {"docker-compose.yml": "image: app:1\n", "override.yml": "# none\n", ".env": "TOKEN=open sesame\n"}
PREFIX = "com.docker.compose.project"


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


def naming(folder: Path | str, files: Sequence[str], **more: str) -> dict[str, str]:
    """Return the labels that name these files."""
    named = {f"{PREFIX}.working_dir": str(folder), f"{PREFIX}.config_files": ",".join(files)}
    return named | {f"{PREFIX}.{key}": value for key, value in more.items()}


def run(town: Town, folder: Path | str, files: Sequence[str], **more: str) -> None:
    """Run a service with labels that name these files."""
    town.engine.run("shop-files-1", image="app:1", labels=labels("files") | naming(folder, files, **more))


def roll_back(started: Started, **options: Any) -> Any:
    """Roll back an update, and return how."""
    with started.town.rollback(include_files=True, **options) as tx:
        started.update()
        raise RollbackRequested
    return tx


def identity(path: Path) -> tuple[int, int, int]:
    """Return what changes with each write; a read may change its time of access."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def kept_in(sentence: str) -> str:
    """Return the content of the file that a sentence names last."""
    return Path(re.findall(r"(/\S+)$", sentence)[0]).read_text(encoding="utf-8")


def test_the_files_are_as_before_the_update(started: Started) -> None:
    """Those that the labels name, and `.env`; one that did not change is left alone."""
    same = identity(started.folder / "override.yml")
    tx = roll_back(started)
    assert [file.path for file in tx.backup.files] == started.paths
    assert tx.status is Status.ROLLED_BACK
    assert started.read() == OLD
    assert identity(started.folder / "override.yml") == same
    assert [one for one in tx.outcome.rolled_back if one.startswith("file")] == [
        f"file {path!r}" for path in started.paths
    ]


def test_what_the_update_wrote_is_kept_and_said(started: Started, caplog: pytest.LogCaptureFixture) -> None:
    """As long as the backup, in the outcome, its text and the log; the store's file is private."""
    tx = roll_back(started)
    compose, env = tx.outcome.files
    assert compose.startswith(f"file {started.paths[0]!r}: written back; the content that it had is kept in ")
    assert env == f"file {started.paths[2]!r}: written back; it was gone"
    assert kept_in(compose) == "image: app:2\n"
    assert compose in caplog.messages
    assert f"files: {compose}" in str(tx.outcome)
    kept = Path(compose.split()[-1])
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    started.town.store.clear_left_over()
    assert kept.exists()
    started.town.store.delete(tx.backup.id)
    assert not kept.parent.exists()


def test_a_dry_prune_keeps_what_was_replaced(started: Started) -> None:
    """Even of a backup that it would remove."""
    tx = roll_back(started)
    backup(project=NAME, client=started.town.engine, store=started.town.store)
    kept = Path(tx.outcome.files[0].split()[-1])
    assert started.town.store.prune(keep=1, dry_run=True).removed == (tx.backup.id,)
    assert kept.exists()
    assert started.town.store.prune(keep=1).removed == (tx.backup.id,)
    assert not kept.exists()


def test_they_are_left_alone_unless_asked_for(started: Started) -> None:
    """They belong to the user, who may restore them himself."""
    with started.town.rollback() as tx:
        assert tx.backup.files == ()
        started.update()
        raise RollbackRequested
    assert started.read()["docker-compose.yml"] == "image: app:2\n"


def test_an_update_that_succeeds_keeps_its_files(started: Started) -> None:
    """Nothing is written then."""
    with started.town.rollback(include_files=True) as tx:
        (started.folder / ".env").write_text("TOKEN=new\n", encoding="utf-8")
    assert started.read()[".env"] == "TOKEN=new\n"
    assert tx.outcome.files == ()


def test_paths_are_backed_up_in_their_place(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any paths, also relative ones, each once; those of the labels have to be among them."""
    other = started.folder / "settings.env"
    other.write_text("MODE=old\n", encoding="utf-8")
    monkeypatch.chdir(started.folder)
    with started.town.rollback(include_files=["settings.env", other, f"//{other}"]) as tx:
        other.write_text("MODE=new\n", encoding="utf-8")
        started.update()
        raise RollbackRequested
    assert [file.path for file in tx.backup.files] == [str(other)]
    assert started.read()["settings.env"] == "MODE=old\n"
    assert started.read()["docker-compose.yml"] == "image: app:2\n"


def test_the_check_lists_them_and_changes_nothing(started: Started) -> None:
    """Their content may be secret."""
    before = sorted(path.name for path in started.folder.iterdir())
    report = started.town.rollback(include_files=True).check()
    assert list(report.files) == started.paths
    assert not report.refused
    assert sorted(path.name for path in started.folder.iterdir()) == before
    assert "sesame" not in repr(report)


def test_what_changes_while_the_backup_is_taken_is_in_it(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is that of the moment before the update, not of the check."""
    real = project_files.store_files

    def late(*args: Any, **more: Any) -> Any:
        (started.folder / "override.yml").write_text("# late\n", encoding="utf-8")
        return real(*args, **more)

    monkeypatch.setattr("docker_rollback._capture.capture.store_files", late)
    with started.town.rollback(include_files=True):
        started.update()
        (started.folder / "override.yml").write_text("# update\n", encoding="utf-8")
        raise RollbackRequested
    assert started.read() == OLD | {"override.yml": "# late\n"}


@pytest.mark.parametrize("change", ["content", "mode", "gone"])
def test_a_file_that_changes_just_before_the_update_ends_it(
    started: Started, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A rollback would undo that change as well; nothing has happened, and no backup is left."""
    real, path = project_files.check_unchanged, started.folder / "override.yml"

    def late(*args: Any) -> None:
        if change == "content":
            path.write_text("# late\n", encoding="utf-8")
        elif change == "mode":
            path.chmod(0o640)
        else:
            path.unlink()
        real(*args)

    monkeypatch.setattr("docker_rollback._recovery.journalled_capture.check_unchanged", late)
    with pytest.raises(CaptureError, match=r"override\.yml.*try again"):
        started.town.rollback(include_files=True).__enter__()
    assert started.town.store.ids() == []
    assert started.town.store.journal.names() == []
    assert started.town.engine.inspect_container("shop-web-1")["State"]["Running"]


# The labels


@pytest.mark.parametrize("start", ["", "./", "/"])
def test_an_environment_file_that_is_named_stands_for_the_default(town: Town, tmp_path: Path, start: str) -> None:
    """Compose does not read `.env` then. Compose 1 gives relative paths."""
    for name in ("compose.yml", "prod.env", ".env"):
        (tmp_path / name).write_text("x\n", encoding="utf-8")
    start = f"{tmp_path}/" if start == "/" else start
    run(town, tmp_path, [f"{start}compose.yml"], environment_file=f"{start}prod.env")
    report = town.rollback(include_files=True).check()
    assert list(report.files) == [str(tmp_path / name) for name in ("compose.yml", "prod.env")]


def test_files_that_several_containers_name_are_taken_once(started: Started) -> None:
    """By different words for the same path."""
    odd = f"{started.folder}/../project/docker-compose.yml"
    started.town.engine.run("shop-more-1", image="app:1", labels=labels("more") | naming(started.folder, [odd]))
    assert sorted(started.town.rollback(include_files=True).check().files) == sorted(started.paths)


def test_the_labels_of_an_image_name_no_file(town: Town, tmp_path: Path) -> None:
    """Whoever makes an image would choose the files of the host that are read."""
    shadow = tmp_path / "shadow"
    shadow.write_text("root:secret\n", encoding="utf-8")
    town.engine.add_image("evil:1", files={"/app": "1"}, labels=naming("/", [str(shadow)]))
    town.engine.run("shop-evil-1", image="evil:1", labels=labels("evil") | naming("/", [str(shadow)]))
    with pytest.raises(UnsupportedContainerError, match="no container has labels of compose"):
        town.rollback(include_files=True).__enter__()


@pytest.mark.parametrize("lacks", ["project", "service"])
def test_labels_without_a_service_name_no_file(town: Town, tmp_path: Path, lacks: str) -> None:
    """Compose gives all of them."""
    (tmp_path / "compose.yml").write_text("x\n", encoding="utf-8")
    given = labels("files") | naming(tmp_path, ["compose.yml"])
    del given[f"{PREFIX}" if lacks == "project" else "com.docker.compose.service"]
    town.engine.run("odd", image="app:1", labels=given)
    assert town.rollback("odd", include_files=True).check().files == ()


def test_another_project_names_no_file(started: Started) -> None:
    """Even if one of its containers is backed up too."""
    other = labels("files") | PROJECT | {PREFIX: "library"} | naming(started.folder, ["other.yml"])
    started.town.engine.run("other", image="app:1", labels=other)
    assert list(started.town.rollback("other", include_files=True).check().files) == started.paths


def test_a_container_that_a_rollback_recreated_still_names_its_files(started: Started) -> None:
    """Its image is a commit of ours, which has all labels of the container."""
    for _ in range(2):
        with started.town.rollback(include_files=True) as tx:
            started.town.engine.container("shop-files-1").write("/note", "mine")
            started.town.engine.remove_container("shop-files-1", force=True)
            started.update()
            raise RollbackRequested
        assert tx.status is Status.ROLLED_BACK
        assert started.read() == OLD


@pytest.mark.parametrize(
    "named",
    ["compose.yml", "\0", "\udcff", chr(0xD800), "x" * 300, "x/" * 3000, "-", "/dev/null", "/proc/self/mem", "/"],
)
def test_a_label_that_names_no_file_is_refused(town: Town, named: str) -> None:
    """As a sentence, and never as an error of the system."""
    run(town, "/nowhere\0" if named == "\0" else "/nowhere", [named])
    (reasons,) = town.rollback(include_files=True).check().refused.values()
    assert any("cannot be backed up" in reason and "give the paths" in reason for reason in reasons)


@pytest.mark.parametrize("become", ["missing", "a folder", "too large", "a link", "a fifo"])
def test_a_file_that_cannot_be_kept_is_refused_before_anything(started: Started, become: str) -> None:
    """The error names the file and says why; no container was stopped."""
    path = started.folder / "override.yml"
    path.unlink()
    if become == "a folder":
        path.mkdir()
    elif become == "too large":
        path.write_bytes(bytes(LARGEST + 1))
    elif become == "a link":
        path.symlink_to("docker-compose.yml")
    elif become == "a fifo":
        os.mkfifo(path)
    with pytest.raises(UnsupportedContainerError, match=r"override\.yml.* cannot be backed up"):
        started.town.rollback(include_files=True).__enter__()
    started.town.engine.remove_container("shop-files-1", force=True)
    started.town.check_restored()
    assert started.town.store.ids() == []


def test_a_default_environment_file_that_is_a_link_is_refused(started: Started) -> None:
    """It is no missing file."""
    (started.folder / ".env").rename(started.folder / "real")
    (started.folder / ".env").symlink_to("real")
    (reasons,) = started.town.rollback(include_files=True).check().refused.values()
    assert "symbolic link" in reasons[0]


def test_files_that_are_too_large_together_are_refused(started: Started) -> None:
    """They are read into memory."""
    for name in OLD:
        (started.folder / name).write_bytes(bytes(LARGEST // 2))
    (reasons,) = started.town.rollback(include_files=True).check().refused.values()
    assert f"at most {LARGEST}" in reasons[0]


def test_a_file_that_could_not_be_written_back_is_refused(started: Started) -> None:
    """Such as one with another name, which would keep the update's content."""
    os.link(started.folder / "override.yml", started.folder / "hard")
    with pytest.raises(UnsupportedContainerError, match="hard links"):
        started.town.rollback(include_files=True).__enter__()
    assert started.town.store.ids() == []


@pytest.mark.parametrize(("address", "said"), [("tcp://10.0.0.1:2375", "tcp://10"), ("unix:///run/x.sock", "unix://")])
def test_the_labels_of_an_engine_elsewhere_name_no_file(
    started: Started, monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    """By its address, or since its containers are no processes of this machine; paths that are given are used."""
    info = evolve(started.town.engine.info(), address=address, flavour="docker")
    monkeypatch.setattr(FakeEngine, "info", lambda _: info)
    if said == "tcp://10":
        # Some containers may not run, or have the number of a process here.
        monkeypatch.setattr("docker_rollback._capture.preflight.is_of_this_machine", lambda _: True)
    (reasons,) = started.town.rollback(include_files=True).check().refused.values()
    assert said in reasons[0]
    assert "may be on another machine" in reasons[0]
    assert not started.town.rollback(include_files=started.paths).check().refused


def test_a_program_in_a_container_takes_no_file_from_labels(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees other files at the paths than compose did; paths that are given are used."""
    info = evolve(started.town.engine.info(), address="unix:///run/x.sock", flavour="docker")
    monkeypatch.setattr(FakeEngine, "info", lambda _: info)
    monkeypatch.setattr("docker_rollback._capture.preflight.is_of_this_machine", lambda _: True)
    started.town.engine.run("updater", image="app:1")
    updater = observe(started.town.engine.inspect_container("updater"))
    monkeypatch.setattr("docker_rollback._capture.preflight.own_container", lambda *_: Own((updater,)))
    (reasons,) = started.town.rollback(include_files=True).check().refused.values()
    assert reasons[0].startswith("include_files=True, but this program runs in a container")
    assert not started.town.rollback(include_files=started.paths).check().refused


def test_a_process_of_this_machine_is_known_by_its_group() -> None:
    """One that does not run says nothing about the machine."""
    assert is_of_this_machine({"Id": "a" * 64, "State": {"Pid": 0}})
    assert not is_of_this_machine({"Id": "a" * 64, "State": {"Pid": os.getpid()}})
    assert not is_of_this_machine({"Id": "a" * 64, "State": {"Pid": 1 << 30}})


# Failures


def test_a_file_that_cannot_be_written_fails_a_rollback_that_is_over(started: Started) -> None:
    """Everything else is restored, nothing is left to recover, and the file's content can be copied."""
    away = started.folder.with_name("away")
    with (
        pytest.raises(RollbackFailedError, match=r"docker-compose\.yml': it is not written"),
        started.town.rollback(include_files=True) as tx,
    ):
        started.update()
        started.folder.rename(away)
        raise RollbackRequested
    assert tx.status is Status.FAILED
    assert tx.outcome.rolled_back == ()
    assert len(tx.outcome.failures) == len(tx.outcome.files) == 3
    assert [kept_in(one) for one in tx.outcome.files] == list(OLD.values())
    assert not any("recover" in one for one in tx.outcome.to_do)
    assert started.town.store.journal.names() == []
    started.town.engine.remove_container("shop-files-1", force=True)
    started.town.check_restored()
    assert recover(client=started.town.engine, store=started.town.store) == ()
    with started.town.rollback():
        pass


def test_one_file_that_cannot_be_written_does_not_hinder_the_others(started: Started) -> None:
    """Each is tried; what has taken its place stays."""
    with pytest.raises(RollbackFailedError), started.town.rollback(include_files=True) as tx:
        started.update()
        (started.folder / "docker-compose.yml").unlink()
        (started.folder / "docker-compose.yml").mkdir()
        raise RollbackRequested
    assert (started.folder / ".env").read_text() == OLD[".env"]
    assert (started.folder / "docker-compose.yml").is_dir()
    assert len(tx.outcome.failures) == 1


def test_nothing_is_overwritten_that_cannot_be_kept(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full store the update's file stays."""

    def full(*_: object) -> None:
        raise StoreError("/store", "it is full")

    monkeypatch.setattr(BackupStore, "keep_file", full)
    with pytest.raises(RollbackFailedError, match="it is full"):
        roll_back(started)
    assert started.read()["docker-compose.yml"] == "image: app:2\n"
    assert started.read()[".env"] == OLD[".env"], "there was nothing to keep"


def test_a_rollback_that_fails_otherwise_names_the_files_too(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finishes it by hand has to know."""

    def fail(*_: object) -> None:
        raise RestoreError("shop-web-1", "it has ended")

    monkeypatch.setattr(Restorer, "ensure_running", fail)
    with pytest.raises(RollbackFailedError, match="it has ended") as raised, started.town.rollback(include_files=True):
        started.update()
        started.folder.rename(started.folder.with_name("away"))
        raise RollbackRequested
    assert "docker-compose.yml" in str(raised.value)


# A process that dies


def die(started: Started, **options: Any) -> None:
    """Enter a rollback, change everything, and die."""
    killed = FailingEngine(started.town.engine, at=1, kill=True, verbs={"kill_container"})
    with pytest.raises(Killed), started.town.rollback(engine=killed, include_files=True, **options):
        started.update()
        killed.kill_container("alone")


def test_recovery_writes_them_back_and_keeps_repairs(started: Started, caplog: pytest.LogCaptureFixture) -> None:
    """What people repaired after the crash is overwritten, but kept and said."""
    die(started)
    (started.folder / "docker-compose.yml").write_text("image: mended\n", encoding="utf-8")
    (done,) = recover(client=started.town.engine, store=started.town.store)
    assert started.read() == OLD
    assert kept_in(done.files[0]) == "image: mended\n"
    assert done.files[0] in caplog.messages


def test_the_next_rollback_finishes_this_one_without_its_files(started: Started) -> None:
    """Whoever tries again may have put the files there that the next update is to use. The outcome says so."""
    die(started)
    (started.folder / "docker-compose.yml").write_text("image: app:3\n", encoding="utf-8")
    with started.town.rollback(include_files=started.paths[:2]) as tx:
        assert started.read()["docker-compose.yml"] == "image: app:3\n"
        (started.folder / "docker-compose.yml").write_text("image: app:4\n", encoding="utf-8")
        raise RollbackRequested
    assert started.read() == {"docker-compose.yml": "image: app:3\n", "override.yml": OLD["override.yml"]}
    (done,) = tx.outcome.recovered
    assert [kept_in(one) for one in done.files] == [OLD["docker-compose.yml"], OLD[".env"]]
    assert "may be new work" in done.files[0]
    assert f"recovered: {done.files[0]}" in str(tx.outcome)


def test_the_command_prints_what_recovery_wrote(
    started: Started, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For the log of a service at boot."""
    die(started)
    done = recover(client=started.town.engine, store=started.town.store)
    monkeypatch.setattr("docker_rollback.__main__.recover", lambda **_: done)
    assert main(["recover", "--store", str(started.town.store.path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in printed[1:]] == list(done[0].files)


def test_recovery_does_not_stop_at_a_file(
    started: Started, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The record goes, the containers are back, and the log says where the content is; the command does not hide it."""
    die(started)
    away = started.folder.rename(started.folder.with_name("away"))
    (done,) = recover(client=started.town.engine, store=started.town.store)
    assert done.outcome == "rolled back"
    assert list(done.unwritten) == started.paths
    monkeypatch.setattr("docker_rollback.__main__.recover", lambda **_: (done,))
    assert main(["recover", "--store", str(started.town.store.path)]) == 1
    assert [kept_in(one) for one in done.files] == list(OLD.values())
    assert set(done.files) <= {one.message for one in caplog.records if one.levelname == "ERROR"}
    assert started.town.store.journal.names() == []
    assert away.is_dir()


def test_recovery_on_another_machine_leaves_its_files_alone(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same paths may be those of other files there."""
    die(started)
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    (done,) = recover(client=started.town.engine, store=started.town.store)
    assert started.read()["docker-compose.yml"] == "image: app:2\n"
    assert all("on another machine" in one for one in done.files)
    assert len(done.files) == 3


def test_files_are_not_written_again_once_everything_was_restored(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People may be at work by then; the report says that such a file is not as in the backup."""
    real = Operation.try_enter

    def die_then(self: Operation, phase: Any, **seen: Any) -> None:
        real(self, phase, **seen)
        if phase == "restored":
            raise Killed("here")

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Operation, "try_enter", die_then)
        with started.town.rollback(include_files=True):
            started.update()
            raise RollbackRequested
    assert started.read() == OLD
    (started.folder / "override.yml").write_text("# repaired\n", encoding="utf-8")
    (done,) = recover(client=started.town.engine, store=started.town.store)
    assert started.read() == OLD | {"override.yml": "# repaired\n"}
    (said,) = done.files
    assert "override.yml" in said
    assert kept_in(said) == OLD["override.yml"]


def test_the_temporary_file_of_a_killed_rollback_is_removed(started: Started) -> None:
    """By the recovery of the same operation, which knows its name."""
    die(started)
    (operation,) = started.town.store.ids()
    (started.folder / f".docker-rollback.{operation}.tmp").write_text("torn", encoding="utf-8")
    recover(client=started.town.engine, store=started.town.store)
    assert started.read() == OLD


# Other ways


def test_a_restore_leaves_them_alone(started: Started, caplog: pytest.LogCaptureFixture) -> None:
    """Long after the backup they may be the user's new work. It says so, and the backup has their content."""
    tx = roll_back(started)
    started.update()
    restore(tx.backup, client=started.town.engine, store=started.town.store)
    assert started.read()["docker-compose.yml"] == "image: app:2\n"
    assert any("leaves files alone" in one and started.paths[0] in one for one in caplog.messages)
    found = {Path(file.path).name: b"".join(started.town.store.open_blob(file.data)) for file in tx.backup.files}
    assert {name: content.decode() for name, content in found.items()} == OLD


def test_a_restore_that_continues_a_rollback_leaves_them_alone_too(started: Started) -> None:
    """One rule for all restores."""
    die(started)
    (operation,) = started.town.store.ids()
    restore(operation, client=started.town.engine, store=started.town.store)
    assert started.read()["docker-compose.yml"] == "image: app:2\n"
    assert started.town.store.journal.names() == []


def test_a_state_that_is_kept_has_no_files(started: Started) -> None:
    """Those of the update are kept as files."""
    tx = roll_back(started, keep_failed=True)
    assert tx.outcome.kept is not None
    assert started.town.store.get(tx.outcome.kept).files == ()
    assert started.town.store.get(tx.backup.id).files == tx.backup.files


def test_a_damaged_file_is_found_before_anything_is_touched(started: Started) -> None:
    """As any other blob."""
    with pytest.raises(RollbackFailedError, match="cannot be read"), started.town.rollback(include_files=True) as tx:
        started.update()
        blob = tx.backup.files[0].data.digest.removeprefix("sha256:")
        path = started.town.store.path / "blobs/sha256" / blob
        path.write_bytes(b"forged: app1\n")
        raise RollbackRequested
    with pytest.raises(CorruptBackupError):
        started.town.store.verify(tx.backup.id)
    assert started.read()["docker-compose.yml"] == "image: app:2\n"


def test_an_export_has_them(started: Started, tmp_path: Path) -> None:
    """As all of a backup, an empty one too; none is swept."""
    (started.folder / "override.yml").write_bytes(b"")
    tx = roll_back(started)
    started.town.store.clear_left_over()
    other, exported = BackupStore(tmp_path / "other"), io.BytesIO()
    started.town.store.export(tx.backup.id, exported)
    exported.seek(0)
    other.import_(exported)
    other.clear_left_over()
    other.verify(tx.backup.id)
    files = other.get(tx.backup.id).files
    assert files == tx.backup.files
    assert [b"".join(other.open_blob(file.data)).decode() for file in files] == ["image: app:1\n", "", OLD[".env"]]
