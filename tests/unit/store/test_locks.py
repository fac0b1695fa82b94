"""Locks of the kernel: one holder at a time, released by its death, never by a file's age."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from docker_rollback._store import BackupStore, FileLock, LockedError
from docker_rollback._store._holds import Holds
from docker_rollback.errors import ContainerBusyError
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
    with pytest.raises(ValueError, match="no container's id"), store.lock(name, container="web"):
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
