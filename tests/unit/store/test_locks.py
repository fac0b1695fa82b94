"""Locks of the kernel: one holder at a time, released by its death, never by a file's age."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from docker_rollback._store import locks as store_locks
from docker_rollback._store.holds import Holds
from docker_rollback._store.locks import FileLock, LockedError
from docker_rollback._store.store import BackupStore
from docker_rollback.errors import ContainerBusyError, StoreError
from tests.unit.store import making

ID = "c0ffee" * 10 + "beef"

HOLD = """
import sys
from docker_rollback._store import BackupStore
with BackupStore(sys.argv[1]).lock(sys.argv[2], container="web"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process(store: BackupStore) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold the lock of a container."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.path), ID], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_holder_is_told_who_the_first_is(store: BackupStore) -> None:
    """A container that another process holds is busy, and the error names process, host and time."""
    with other_process(store) as process:
        with pytest.raises(ContainerBusyError) as caught, store.lock(ID, container="web"):
            pass
        assert caught.value.container == "web"
        assert f"process {process.pid} on {os.uname().nodename}" in caught.value.holder
        assert "since 20" in caught.value.holder


def test_death_releases_a_lock_at_once(store: BackupStore) -> None:
    """After a SIGKILL of its holder a lock is free, though its file is there and names the dead."""
    with other_process(store) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with store.lock(ID, container="web"):
            pass


def test_an_old_lock_file_means_nothing(store: BackupStore) -> None:
    """A lock file that was left by whomever, in whatever state, holds nobody up."""
    store.check()
    path = store.path / "locks" / f"container-{ID}.lock"
    path.write_bytes(b"\xff not JSON")
    os.utime(path, (0, 0))
    with store.lock(ID, container="web"), pytest.raises(ContainerBusyError), store.lock(ID, container="web"):
        pass


def test_threads_of_one_process_exclude_each_other(store: BackupStore) -> None:
    """The lock holds between threads as well, and `timeout` waits for it."""
    order = []
    taken = threading.Event()

    def hold() -> None:
        with store.lock(ID, container="web"):
            taken.set()
            time.sleep(0.2)
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    with store.lock(ID, container="web", timeout=30):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_other_containers_are_free(store: BackupStore) -> None:
    """One container's lock is no other's."""
    with store.lock(ID, container="web"), store.lock("d" * 64, container="db"):
        pass


def test_a_lock_is_released_when_its_block_fails(store: BackupStore) -> None:
    """An exception in the block leaves the container free."""
    with pytest.raises(KeyError), store.lock(ID, container="web"):
        raise KeyError("body")
    with store.lock(ID, container="web"):
        pass


def test_a_forked_child_does_not_keep_a_lock(store: BackupStore) -> None:
    """A child that was forked while the lock was held lives on after its parent let go, and the lock is free."""
    read, write = os.pipe()
    begun, say = os.pipe()
    with store.lock(ID, container="web"):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.write(say, b"!")
            os.read(read, 1)
            os._exit(0)
        os.read(begun, 1)
    try:
        with store.lock(ID, container="web"):
            pass
    finally:
        os.close(write)
        os.waitpid(child, 0)
        for end in (read, begun, say):
            os.close(end)


def test_a_child_that_is_given_the_lock_keeps_it(store: BackupStore) -> None:
    """A program that was handed the descriptor keeps the container busy until it ends, whoever else has died."""
    with store.lock(ID, container="web") as lock:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock.fileno()])
    with pytest.raises(ContainerBusyError), store.lock(ID, container="web"):
        pass
    child.communicate()
    with store.lock(ID, container="web"):
        pass


def test_a_lock_says_when_it_is_not_held(tmp_path: Path) -> None:
    """A lock that was not taken has no descriptor, and letting it go is harmless."""
    lock = FileLock(tmp_path / "x.lock")
    with pytest.raises(ValueError, match="not locked"):
        lock.fileno()
    lock.release()
    with lock, FileLock(tmp_path / "x.lock") as other:
        lock.acquire(note="a test")
        with pytest.raises(LockedError, match="a test"):
            other.acquire()


@pytest.mark.parametrize("name", ["../x", "", "a/b", "a\0b", "x" * 200])
def test_a_lock_is_named_by_an_id_alone(store: BackupStore, name: str) -> None:
    """What cannot be a container's id is not made a file's name."""
    with pytest.raises(ValueError, match="not a container's id"), store.lock(name, container="web"):
        pass


def test_nothing_is_pruned_between_the_look_and_the_hold_of_a_reader(
    store: BackupStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup is found, and then held, while nobody else may remove it."""
    making.save(store, "b1")
    reading = Holds.reading
    held: list[str] = []

    def watched(holds: Holds, backup_id: str, *more: Any) -> AbstractContextManager[None]:
        with FileLock(store.path / "locks" / "store.lock") as lock, pytest.raises(LockedError):
            lock.acquire()
        held.append(backup_id)
        return reading(holds, backup_id, *more)

    monkeypatch.setattr(Holds, "reading", watched)
    with store.using("b1"):
        assert store.prune(keep=0).spared == {"b1": "it is being read"}
    assert held == ["b1"]


def locks(store: BackupStore) -> set[str]:
    """Return the names of the lock files of containers."""
    return {path.name for path in (store.path / "locks").glob("container-*")}


def test_a_lock_file_goes_when_nobody_wants_the_lock(store: BackupStore) -> None:
    """It is there while the lock is held, and after that neither by a good end nor by an error."""
    with store.lock(ID, container="web"):
        assert locks(store) == {f"container-{ID}.lock"}
    assert locks(store) == set()
    with pytest.raises(KeyError), store.lock(ID, container="web"):
        raise KeyError("body")
    assert locks(store) == set()


def test_a_lock_file_stays_while_a_child_has_the_lock(store: BackupStore) -> None:
    """A tar that outlives its maker keeps both, and the next holder takes the file away."""
    with store.lock(ID, container="web") as lock:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock.fileno()])
    try:
        assert locks(store) == {f"container-{ID}.lock"}
        assert store.is_locked(ID)
    finally:
        child.communicate()
    with store.lock(ID, container="web"):
        pass
    assert locks(store) == set()


def test_lock_files_that_the_dead_left_go_with_the_next_prune(store: BackupStore) -> None:
    """Those of the living stay."""
    with other_process(store) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        (store.path / "locks" / "container-old.lock").touch()
        with store.lock("d" * 64, container="db"):
            store.prune(keep=1)
            assert locks(store) == {f"container-{'d' * 64}.lock"}
        with (
            pytest.raises(ContainerBusyError),
            store.lock("e" * 64, container="x"),
            store.lock("e" * 64, container="x"),
        ):
            pass


CONTEND = """
import os, sys
from pathlib import Path
from docker_rollback._store import FileLock
from docker_rollback._store.locks import remove_unheld
path, inside = Path(sys.argv[1]), Path(sys.argv[2])
for turn in range(int(sys.argv[3])):
    with FileLock(path, transient=True) as lock:
        lock.acquire(60)
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
        assert path.exists()
        inside.unlink()
    remove_unheld(path)
print("done")
"""


def test_no_two_processes_hold_a_lock_whose_file_comes_and_goes(tmp_path: Path) -> None:
    """Many at once take it, let it go and remove its file; each time one alone is inside, and no file is left."""
    path, inside = tmp_path / "x.lock", tmp_path / "inside"
    command = [sys.executable, "-c", CONTEND, str(path), str(inside), "60"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    ended = [process.communicate() for process in processes]
    assert [said for said, _ in ended] == ["done\n"] * 8, ended
    assert list(tmp_path.iterdir()) == []


def test_threads_hold_a_lock_whose_file_comes_and_goes_one_at_a_time(tmp_path: Path) -> None:
    """Likewise in one process."""
    path, inside = tmp_path / "x.lock", tmp_path / "inside"
    failures: list[BaseException] = []

    def contend() -> None:
        try:
            for _ in range(100):
                with FileLock(path, transient=True) as lock:
                    lock.acquire(60)
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                    inside.unlink()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=contend) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not path.exists()


def test_a_waiter_whose_file_was_removed_takes_the_next_one(tmp_path: Path) -> None:
    """A lock on a file that has no name any more would be seen by nobody."""
    path = tmp_path / "x.lock"
    first = FileLock(path)
    first.acquire()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        path.unlink(missing_ok=True)
        first.release()

    timer: Any = SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
    with FileLock(path, timer=timer) as second:
        second.acquire(60)
        assert slept
        assert os.fstat(second.fileno()).st_ino == path.stat().st_ino
        with FileLock(path) as third, pytest.raises(LockedError):
            third.acquire()


def test_a_file_system_without_locks_is_named(store: BackupStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS without its lock service says `No locks available`: a `StoreError` with the path and what to do."""

    def none(*_: object, **__: object) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    store.check()
    monkeypatch.setattr(store_locks, "lock_descriptor", none)
    for attempt in (lambda: store.prune(keep=1), lambda: store.lock(ID, container="web").__enter__()):
        with pytest.raises(StoreError, match=r"has no locks \(No locks available\).*to a local disk") as caught:
            attempt()
        assert str(store.path) in caught.value.path


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_lock_is_held_whatever_its_file_says(tmp_path: Path, text: str) -> None:
    """Its holder may have just opened it."""
    path = tmp_path / "x.lock"
    with FileLock(path) as lock, FileLock(path) as other:
        lock.acquire(note="why")
        path.write_text(text)
        with pytest.raises(LockedError, match=r"^another process holds it$"):
            other.acquire()
