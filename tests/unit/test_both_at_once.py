"""Commits and volume data are taken at the same time, and the errors of both are kept."""

from __future__ import annotations

import threading

import pytest

from docker_rollback._model.backup import ContainerSnapshot
from docker_rollback._threads import both_at_once
from docker_rollback.errors import ArchiveError, EngineError


def nothing() -> None:
    """Stop nothing."""


def test_both_are_at_work_together() -> None:
    """Neither waits for the other to end."""
    meeting = threading.Barrier(2, timeout=30)

    def commits() -> list[ContainerSnapshot]:
        meeting.wait()
        return []

    assert both_at_once(commits, meeting.wait, nothing)[0] == []


def test_a_failed_commit_ends_the_archiving() -> None:
    """The service is not kept down for data that nobody will use; both errors are there."""
    stopped = threading.Event()
    error = EngineError("commit container 'web'", "no")

    def commits() -> list[ContainerSnapshot]:
        raise error

    def data() -> None:
        assert stopped.wait(30)
        raise ArchiveError("data", "tar was ended")

    with pytest.raises(EngineError) as raised:
        both_at_once(commits, data, stopped.set)
    assert raised.value is error
    assert isinstance(raised.value.__cause__, ArchiveError)


def test_failed_data_waits_for_the_commits_to_end() -> None:
    """When the error comes out, no commit is at work any more."""
    go = threading.Event()
    ended: list[str] = []

    def commits() -> list[ContainerSnapshot]:
        assert go.wait(30)
        ended.append("commits")
        return []

    def data() -> None:
        go.set()
        raise ArchiveError("data", "it cannot be read")

    with pytest.raises(ArchiveError):
        both_at_once(commits, data, nothing)
    assert ended == ["commits"]


def test_an_interruption_ends_the_other_and_comes_out() -> None:
    """Ctrl-C is raised at once: the other work is told to end."""
    stopped = threading.Event()

    def side() -> None:
        assert stopped.wait(30)
        raise ArchiveError("data", "it was given up")

    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        both_at_once(side, main, stopped.set)
    assert stopped.is_set()


def test_a_failure_of_the_other_is_raised_when_this_one_is_done() -> None:
    """Nothing that failed in the other thread is lost."""

    def side() -> None:
        raise ArchiveError("data", "it cannot be read")

    with pytest.raises(ArchiveError):
        both_at_once(side, lambda: 1, nothing)


def test_a_failure_ends_the_other_and_is_the_one_that_comes_out() -> None:
    """Nobody waits for what is packed of volumes where an image could not be exported, and reads that it was ended."""
    stopped = threading.Event()
    was_stopped: list[bool] = []

    def side() -> None:
        was_stopped.append(stopped.wait(10))
        raise ArchiveError("data", "archiving it was ended")

    def main() -> None:
        raise EngineError("export the image", "no")

    with pytest.raises(EngineError, match="export the image"):
        both_at_once(side, main, stopped.set)
    assert was_stopped == [True]
