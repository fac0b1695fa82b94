"""What the fault sweep is made of: it chooses fairly, counts rightly, and sees what is not as it was."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults.cases import FAULTS, PHASES, SCENES, Case, Effect, Kind, Phase, all_cases, shuffled
from tests.faults.referee import Referee
from tests.faults.relay import effect_of


def effects(*kinds: Kind) -> tuple[Effect, ...]:
    """Return effects of these kinds, numbered."""
    return tuple(Effect(number, kind, f"{kind} {number}") for number, kind in enumerate(kinds, start=1))


SEEN: dict[tuple[str, Phase], tuple[Effect, ...]] = {
    ("one", phase): effects("engine", "write", "disk", "stream", "program") for phase in PHASES
}


def test_every_fault_meets_every_effect_that_it_can() -> None:
    """A write can find the disk full and a request can be refused, not the other way round; every effect can kill."""
    cases = list(all_cases(SEEN))
    assert len(cases) == len({str(case) for case in cases})
    met = Counter((case.fault, case.effect.split()[0]) for case in cases)
    assert met["disk-full", "write"] == len(PHASES)
    assert met["disk-full", "engine"] == met["error-500", "write"] == 0
    assert {fault for fault in FAULTS if met[fault, "engine"]} == FAULTS.keys() - {"disk-full"}
    assert all(met["kill-before", kind] == len(PHASES) for kind in ("engine", "write", "disk", "stream", "program"))


def test_our_own_update_may_be_refused() -> None:
    """What fails somebody else's update is no fault to be tried; `tx.replace` has to bear every fault there is."""
    library = next(scene.name for scene in SCENES if scene.library)
    body: Phase = "body"
    found = {case.fault for case in all_cases({(library, body): effects("engine")})}
    assert {"error-500", "timeout"} <= found
    assert not {"error-500", "timeout"} & {case.fault for case in all_cases({("one", body): effects("engine")})}


def test_a_sample_is_fair_and_the_same_for_a_seed() -> None:
    """Any beginning of the order has each phase and fault about as often; another seed gives another order."""
    cases = list(all_cases(SEEN))
    order = shuffled(cases, 4)
    assert order == shuffled(cases, 4) != shuffled(cases, 5)
    assert sorted(map(str, order)) == sorted(map(str, cases))
    groups = {(case.phase, case.fault) for case in cases}
    assert {(case.phase, case.fault) for case in order[: len(groups)]} == groups


def ask(referee: Referee, count: int) -> list[str]:
    """Have so many effects, and return what the referee says of each."""
    verdicts: list[str] = []
    for number in range(count):
        turn = referee.ask("engine", f"call {number}")
        verdicts.append(turn.verdict)
        turn.after()
    return verdicts


def test_the_referee_strikes_once_where_it_was_told() -> None:
    """The fault happens at the k-th effect of its phase alone; after a death there is nothing more."""
    killed: list[str] = []
    referee = Referee(lambda: killed.append("victim"), lambda: killed.append("engine"))
    referee.begin(("body", "error-500", 2))
    referee.enter("backup")
    assert ask(referee, 3) == ["go", "go", "go"]
    referee.enter("body")
    assert ask(referee, 3) == ["go", "refuse", "go"]
    assert referee.struck == Effect(2, "engine", "call 1")
    for fault, second in (("kill-before", "dead"), ("kill-after", "go")):
        referee.begin(("body", fault, 2))
        referee.enter("body")
        assert ask(referee, 3) == ["go", second, "dead"]
    assert killed == ["victim", "victim"]


@pytest.mark.parametrize(
    ("request_line", "effect"),
    [
        ("POST /v1.41/containers/" + "ab" * 32 + "/start HTTP/1.1", "POST /containers/<id>/start"),
        ("POST /v1.41/containers/create?name=web HTTP/1.1", "POST /containers/create web"),
        ("DELETE /v1.41/volumes/data?force=1 HTTP/1.1", "DELETE /volumes/data"),
        ("GET /v1.41/containers/web/json HTTP/1.1", None),
        ("POST /v1.41/containers/web/wait HTTP/1.1", None),
        ("HEAD /_ping HTTP/1.1", None),
    ],
)
def test_what_changes_something_is_an_effect(request_line: str, effect: str | None) -> None:
    """A request that only looks, or waits, is none; the others are named without what chance made of them."""
    assert effect_of(f"{request_line}\r\nHost: x\r\n\r\n".encode()) == effect


def test_a_case_reads_as_the_command_takes_it() -> None:
    """What is printed of a case plays it again."""
    assert str(Case("one", "backup", "kill-after", 17)) == "backup:kill-after:17"
