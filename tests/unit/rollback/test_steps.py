"""What a rollback says while it works, and the errors that do not change its outcome."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from docker_rollback import DockerRollbackError, Progress, RollbackRequested, Status, recover
from docker_rollback.errors import EngineError, UpdateRejectedError
from docker_rollback.testing import FailingEngine
from tests.unit.shop import Shop, UpdateFailedError


@pytest.mark.parametrize("fails", [False, True])
def test_each_check_says_of_what_it_is(shop: Shop, *, fails: bool) -> None:
    """Who waits for one knows for which containers."""
    heard: list[tuple[str, str]] = []

    def listen(news: Progress) -> None:
        heard.append((news.step, news.subject))

    with shop.rollback(progress=listen, watch=0.01):
        if fails:
            raise RollbackRequested
    checks = [one for one in dict.fromkeys(heard) if one[0] in ("verify", "watch", "verify again")]
    named = [("verify again", "shop")] if fails else [("verify", "shop"), ("watch", "shop")]
    assert [one for one in checks if one[1]] == named


def test_a_failed_state_that_cannot_be_kept_is_a_problem_and_no_failure(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """All is restored; the outcome, the log and a note on the error say what is lost."""

    class Uncommitted(FailingEngine):
        def commit_container(self, ref: str, tag: str, *, author: str = "") -> str:
            """Refuse once the update is made."""
            if updated:
                raise EngineError("commit it", "made to fail")
            return super().commit_container(ref, tag, author=author)

    updated: list[str] = []
    tx = shop.rollback(Uncommitted(shop.engine), keep_failed=True)
    with pytest.raises(UpdateFailedError) as failed, tx:
        shop.engine.container("shop").write("/app", "changed")
        updated.append("yes")
        raise UpdateFailedError
    assert tx.status is Status.ROLLED_BACK
    assert tx.outcome.kept is None
    (problem,) = tx.outcome.problems
    assert (problem.type, problem.step) == ("EngineError", "keep")
    said = "the state of the failed update could not be kept: "
    assert said in caplog.text
    assert [note.partition(said)[1] for note in failed.value.__notes__ if said in note] == [said]
    assert tx.outcome.to_do == ()
    shop.check_restored()


def test_what_is_left_over_after_entering_failed_is_left_to_do(shop: Shop) -> None:
    """The capture failed, and so did undoing it: whoever reads the outcome knows what to call."""

    class Jammed(FailingEngine):
        def start_container(self, ref: str) -> None:
            """Start no service."""
            if shop.engine.container(ref).name == "shop":
                raise EngineError("start it", "made to fail")
            super().start_container(ref)

    tx = shop.rollback(Jammed(shop.engine))
    with pytest.raises(DockerRollbackError), tx:
        pytest.fail("the block was entered")
    assert tx.status is Status.FAILED
    call = f"docker_rollback.recover(store={str(shop.store.path)!r})"
    assert f"something is left over: call {call}" in tx.outcome.to_do
    recover(client=shop.engine, store=shop.store)
    shop.check_restored()


@pytest.mark.parametrize("again", [True, False])
def test_half_a_replacement_counts_until_it_is_made_whole(shop: Shop, *, again: bool) -> None:
    """Whoever catches its error may try once more."""

    class Jammed(FailingEngine):
        def start_container(self, ref: str) -> None:
            """Refuse the new service once."""
            if jammed and shop.engine.container(ref).name == "shop":
                jammed.clear()
                raise EngineError("start it", "made to fail")
            super().start_container(ref)

    jammed: list[str] = []
    tx = shop.rollback(Jammed(shop.engine), verify=None)
    with nullcontext() if again else pytest.raises(UpdateRejectedError, match="failed half way"), tx:
        jammed.append("yes")
        with pytest.raises(EngineError):
            tx.replace("shop", "shop:2")
        if again:
            tx.replace("shop", "shop:2")
    assert tx.status is (Status.COMMITTED if again else Status.ROLLED_BACK)
    assert shop.engine.container("shop").read("/app") == (b"version 2" if again else b"version 1")
