"""What is asked of an engine for containers, and what its answers mean."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import pytest

from docker_rollback._engine.docker.engine import DockerEngine
from docker_rollback._engine.port import Change, ContainerFilter
from docker_rollback.errors import ContainerNotFoundError, EngineConflictError, EngineError, EngineTimeoutError
from tests.unit.engine.scripted import CONTAINER, ID, Answer, ScriptedEngine, answer, changing, refusal

OTHER = "cd" * 32
THIRD = "ef" * 32
DONE = answer(b"", 204)


def web(**changes: Any) -> dict[str, Any]:
    """Return the inspection of the container, with changes to its state and its host's part."""
    found: dict[str, Any] = dict(CONTAINER)
    for key, value in changes.items():
        part = "State" if key in ("Status", "Running", "Paused") else "HostConfig"
        if key == "RestartCount":
            found[key] = value
        else:
            found[part] = {**found[part], key: value}
    return found


def is_so(script: ScriptedEngine, *states: Mapping[str, Any]) -> None:
    """Have the engine show one inspection of the container after the other, and then the last one again."""
    waiting = list(states)

    def show(connection: socket.socket) -> None:
        connection.sendall(answer(waiting.pop(0) if len(waiting) > 1 else waiting[0]))

    script.says("GET", f"/containers/(web|{ID})/json", show)


def in_turn(*answers: Answer) -> Answer:
    """Return an answer that is another one each time."""
    waiting = iter(answers)

    def give(connection: socket.socket) -> None:
        given = next(waiting)
        assert isinstance(given, bytes)
        connection.sendall(given)

    return give


def quick(script: ScriptedEngine, slept: list[float] | None = None) -> DockerEngine:
    """Return the engine under test, on a clock that goes on only while it sleeps."""
    naps: list[float] = [] if slept is None else slept
    return script.engine(timer=SimpleNamespace(sleep=naps.append, monotonic=lambda: sum(naps)))


# One request each


@pytest.mark.parametrize(
    ("ask", "asked"),
    [
        (lambda engine: engine.start_container("web"), ("POST", f"/containers/{ID}/start", {}, None)),
        (lambda engine: engine.stop_container("web"), ("POST", f"/containers/{ID}/stop", {}, None)),
        (
            lambda engine: engine.stop_container("web", timeout=0.2),
            ("POST", f"/containers/{ID}/stop", {"t": "1"}, None),
        ),
        (lambda engine: engine.pause_container("web"), ("POST", f"/containers/{ID}/pause", {}, None)),
        (lambda engine: engine.unpause_container("web"), ("POST", f"/containers/{ID}/unpause", {}, None)),
        (
            lambda engine: engine.rename_container("web", "other"),
            ("POST", f"/containers/{ID}/rename", {"name": "other"}, None),
        ),
        (
            lambda engine: engine.update_container("web", {"Memory": 5}),
            ("POST", f"/containers/{ID}/update", {}, {"Memory": 5}),
        ),
        (
            lambda engine: engine.remove_container("web"),
            ("DELETE", f"/containers/{ID}", {"force": "0", "v": "0"}, None),
        ),
        (
            lambda engine: engine.remove_container("web", force=True, volumes=True),
            ("DELETE", f"/containers/{ID}", {"force": "1", "v": "1"}, None),
        ),
        (
            lambda engine: engine.commit_container("web", "kept:1"),
            ("POST", "/commit", {"container": ID, "repo": "kept", "tag": "1", "pause": "false"}, {}),
        ),
    ],
)
def test_each_change_is_one_request(
    script: ScriptedEngine, ask: Callable[[DockerEngine], object], asked: tuple[str, str, dict[str, str], Any]
) -> None:
    """It names the container by its full id, whatever the caller named it by."""
    script.says("POST", "/commit.*", answer({"Id": "12" * 32}, 201))
    for method in ("POST", "DELETE"):
        script.says(method, "/containers/.*", answer({}))
    ask(script.engine())
    assert changing(script) == [asked]


def test_files_are_put_into_the_root_of_a_container(script: ScriptedEngine) -> None:
    """The archive arrives byte for byte."""
    script.says("PUT", f"/containers/{ID}/archive.*", answer(b""))
    script.engine().put_archive("web", b"tar \0 here")
    assert script.asked[-1].path.endswith("/archive?path=%2F")
    assert script.asked[-1].body == b"tar \0 here"


@pytest.mark.parametrize("status", [400, 409, 500])
def test_a_name_that_is_there_already_is_no_error(script: ScriptedEngine, status: int) -> None:
    """Engines refuse to give it; only another container's name is a conflict."""
    script.says("POST", f"/containers/{ID}/rename.*", refusal(status, "the same name as its current name"))
    script.engine().rename_container(ID, "web")
    with pytest.raises(EngineError, match="the same name"):
        script.engine().rename_container(ID, "other")


@pytest.mark.parametrize(
    "ask",
    [
        lambda engine: engine.rename_container(ID, "other"),
        lambda engine: engine.remove_container(ID),
        lambda engine: engine.start_container(ID),
        lambda engine: engine.update_container(ID, {"Memory": 5}),
    ],
)
def test_a_container_is_not_looked_up_by_its_full_id(
    script: ScriptedEngine, ask: Callable[[DockerEngine], object]
) -> None:
    """It begins no other id, and nothing about the container is needed."""
    for method in ("POST", "DELETE"):
        script.says(method, "/containers/.*", answer({}))
    ask(script.engine())
    assert len(changing(script)) == len([one for one in script.asked if "/containers/" in one.path]) == 1


def test_files_are_read_by_any_name(script: ScriptedEngine) -> None:
    """Also by a name with blanks, one with the signs of an address, and one that is not UTF-8."""
    script.says("GET", f"/containers/{ID}/archive.*", answer(b"tar"))
    assert list(script.engine().get_archive("web", "/a b?&%\n\udcff")) == [b"tar"]
    assert script.asked[-1].path.endswith("/archive?path=/a%20b%3F%26%25%0A%FF")


@pytest.mark.parametrize(("said", "changes"), [(None, []), ([], [])])
def test_a_container_without_changes_has_none(script: ScriptedEngine, said: Any, changes: list[Change]) -> None:
    """Docker answers null for none."""
    script.says("GET", f"/containers/{ID}/changes", answer(said))
    assert script.engine().container_changes("web") == changes


def test_changes_are_told_by_their_kind(script: ScriptedEngine) -> None:
    """The engine's numbers have words here."""
    said = [{"Path": "/a", "Kind": 0}, {"Path": "/b", "Kind": 1}, {"Path": "/c", "Kind": 2}]
    script.says("GET", f"/containers/{ID}/changes", answer(said))
    assert script.engine().container_changes("web") == [
        Change("/a", "changed"),
        Change("/b", "added"),
        Change("/c", "deleted"),
    ]


@pytest.mark.parametrize("tty", [False, True])
def test_a_log_is_read_with_and_without_frames(script: ScriptedEngine, *, tty: bool) -> None:
    """A terminal has one stream; without one, both streams come together, without the heads of their frames."""
    is_so(script, {**CONTAINER, "Config": {"Tty": tty}})
    plain = b"\x01\x00\x00\x00 raw"
    framed = b"\x01\0\0\0\0\0\0\x04out\n\x02\0\0\0\0\0\0\x04err\n"
    script.says("GET", f"/containers/{ID}/logs.*", answer(plain if tty else framed))
    assert script.engine().container_logs("web", tail=7) == (plain.decode() if tty else "out\nerr\n")
    assert dict(parse_qsl(script.asked[-1].path.partition("?")[2])) == {"stdout": "1", "stderr": "1", "tail": "7"}
    script.engine().container_logs("web", tail=-1)
    assert script.asked[-1].path.endswith("tail=0")


# Lists

LISTED = [
    {
        "Id": ID,
        "Names": ["/web"],
        "Labels": {"a": "1", "b": "2"},
        "Mounts": [{"Type": "volume", "Name": "data"}],
        "NetworkSettings": {"Networks": {"front": {"NetworkID": OTHER}}},
    },
    {
        "Id": OTHER,
        "Names": ["/db", "/web/db"],
        "Labels": {"a": "10"},
        "Mounts": [{"Type": "bind", "Name": "data", "Source": "/data"}, {"Type": "volume", "Name": "data2"}],
        "NetworkSettings": {"Networks": {"back": {"NetworkID": ID}, "front": {"NetworkID": ""}}},
    },
    {"Id": THIRD, "Names": None, "Labels": None, "Mounts": None, "NetworkSettings": None},
]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (ContainerFilter(), [ID, OTHER, THIRD]),
        (ContainerFilter(name="web"), [ID]),
        (ContainerFilter(name="db"), [OTHER]),
        (ContainerFilter(name="w"), []),
        (ContainerFilter(name=("w", "db", "web")), [ID, OTHER]),
        (ContainerFilter(name=()), []),
        (ContainerFilter(name_prefix="w"), [ID, OTHER]),
        (ContainerFilter(name_prefix="d"), [OTHER]),
        (ContainerFilter(name_prefix="eb"), []),
        (ContainerFilter(volume="data"), [ID]),
        (ContainerFilter(volume="data2"), [OTHER]),
        (ContainerFilter(volume=("data", "data2", "none")), [ID, OTHER]),
        (ContainerFilter(volume=()), []),
        (ContainerFilter(volume="/data"), []),
        (ContainerFilter(labels={"a": "1"}), [ID]),
        (ContainerFilter(labels={"a": "1", "b": "2"}), [ID]),
        (ContainerFilter(labels={"a": "1", "b": "3"}), []),
        (ContainerFilter(network="front"), [ID, OTHER]),
        (ContainerFilter(network="front", name="web"), [ID]),
    ],
)
def test_a_list_holds_what_was_asked_for_to_the_letter(
    script: ScriptedEngine, where: ContainerFilter, found: list[str]
) -> None:
    """Engines take parts of names, paths and patterns; here none of these counts."""
    script.says("GET", "/networks/front", answer({"Id": OTHER, "Name": "front"}))
    script.says("GET", "/containers/json.*", answer(LISTED))
    assert script.engine().list_containers(where) == found
    query = dict(parse_qsl(script.asked[-1].path.partition("?")[2]))
    assert query["all"] == "1"
    asked = {"label": [f"{key}={value}" for key, value in where.labels.items()]}
    assert query.get("filters") == (json.dumps(asked) if where.labels else None)


@pytest.mark.parametrize("none", [None, []])
def test_an_engine_without_containers_has_none(script: ScriptedEngine, none: Any) -> None:
    """Some engines answer null."""
    script.says("GET", "/containers/json.*", answer(none))
    assert script.engine().list_containers() == []


def test_whether_one_runs_is_asked_of_itself(script: ScriptedEngine) -> None:
    """A list is a moment old: one that has stopped since, and one that is gone since, do not run."""
    script.says("GET", "/containers/json.*", answer([{"Id": one} for one in (ID, OTHER, THIRD)]))
    script.says("GET", f"/containers/{ID}/json", answer(web(Running=True)))
    script.says("GET", f"/containers/{OTHER}/json", answer({**web(Running=False), "Id": OTHER}))
    script.says("GET", f"/containers/{THIRD}/json", refusal(404, "No such container"))
    assert script.engine().list_containers(ContainerFilter(running=True)) == [ID]


# States


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("stopped", "exited"),
        ("configured", "created"),
        ("initialized", "created"),
        ("stopping", "running"),
        ("running", "running"),
        ("exited", "exited"),
    ],
)
def test_states_have_the_words_of_docker(script: ScriptedEngine, said: str, meant: str) -> None:
    """Podman has words of its own for some."""
    is_so(script, web(Status=said))
    assert script.engine().inspect_container("web")["State"] == {"Running": True, "Status": meant}


@pytest.mark.parametrize(
    ("verb", "state", "right"),
    [
        ("pause", {"Running": True, "Paused": True}, True),
        ("pause", {"Running": True, "Paused": False}, False),
        ("pause", {"Running": False, "Paused": False}, False),
        ("unpause", {"Running": True, "Paused": False}, True),
        ("unpause", {"Running": True, "Paused": True}, False),
        ("unpause", {"Running": False, "Paused": False}, False),
        ("unpause", {"Running": True}, True),
    ],
)
def test_what_is_frozen_already_need_not_be_frozen(
    script: ScriptedEngine, verb: str, state: dict[str, bool], *, right: bool
) -> None:
    """A refusal is no error if the container is what it should be; one that does not run never is."""
    is_so(script, web(**state))
    script.says("POST", f"/containers/{ID}/{verb}", refusal(409, "no"))
    ask = getattr(script.engine(), f"{verb}_container")
    if right:
        ask("web")
    else:
        with pytest.raises(EngineConflictError):
            ask("web")
    script.says("POST", f"/containers/{ID}/{verb}", refusal(404, "No such container"))
    with pytest.raises(ContainerNotFoundError):
        ask("web")


# Ends


def test_a_kill_waits_until_it_is_dead(script: ScriptedEngine) -> None:
    """An engine answers before; one that had ended is no error."""
    slept: list[float] = []
    is_so(script, web(), web(Running=True), web(Running=True), web(Running=False))
    script.says("POST", f"/containers/{ID}/kill.*", refusal(409, "is not running"))
    quick(script, slept).kill_container("web")
    assert changing(script) == [("POST", f"/containers/{ID}/kill", {"signal": "SIGKILL"}, None)]
    assert len(slept) == 2


def test_a_kill_that_ends_nothing_is_an_error(script: ScriptedEngine) -> None:
    """What is alive after the time-out stays so."""
    slept: list[float] = []
    script.says("POST", f"/containers/{ID}/kill.*", DONE)
    with pytest.raises(EngineTimeoutError, match="could not kill container 'web': it is still alive"):
        quick(script, slept).kill_container("web")
    assert 60 < sum(slept) < 61
    assert max(slept) == 0.25
    assert slept[:3] == [0.005, 0.01, 0.02]


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize(("auto", "running", "waits"), [(True, True, True), (True, False, False), (False, True, False)])
def test_one_that_removes_itself_is_waited_for(
    script: ScriptedEngine, how: str, *, auto: bool, running: bool, waits: bool
) -> None:
    """Until it is gone it holds its name; one that did not run, or stays, is not waited for."""
    first = web(AutoRemove=auto, Running=running)
    first["Config"] = {}
    looks: list[bytes] = [answer(first), answer(web(Running=False)), answer(web(Running=False))]

    def show(connection: socket.socket) -> None:
        connection.sendall(looks.pop(0) if looks else refusal(404, "No such container: web"))

    script.says("GET", f"/containers/(web|{ID})/json", show)
    script.says("POST", f"/containers/{ID}/(stop|kill).*", DONE)
    getattr(quick(script), f"{how}_container")("web")
    assert (looks == []) is waits


# Podman


def test_podman_kills_what_is_removed_by_force(podman: ScriptedEngine) -> None:
    """It would ask it to end and wait; one that has ended is no error. Docker kills by itself."""
    podman.says("POST", f"/containers/{ID}/kill.*", refusal(409, "is not running"))
    podman.says("DELETE", f"/containers/{ID}.*", answer({}))
    podman.engine().remove_container("web", force=True)
    assert changing(podman) == [
        ("POST", f"/containers/{ID}/kill", {"signal": "SIGKILL"}, None),
        ("DELETE", f"/containers/{ID}", {"force": "1", "v": "0"}, None),
    ]
    podman.asked.clear()
    podman.engine().remove_container("web")
    assert [method for method, *_ in changing(podman)] == ["DELETE"]


@pytest.mark.parametrize("paused", [True, False])
def test_podman_thaws_what_it_stops(podman: ScriptedEngine, *, paused: bool) -> None:
    """It would refuse to stop it, after the signal was sent."""
    is_so(podman, {**web(Status="paused", Running=True, Paused=paused), "Config": {}})
    podman.says("POST", f"/containers/{ID}/(unpause|stop)", DONE)
    podman.engine().stop_container("web")
    paths = [path.rpartition("/")[2] for _, path, *_ in changing(podman)]
    assert paths == (["unpause", "stop"] if paused else ["stop"])


def test_docker_thaws_by_itself(script: ScriptedEngine) -> None:
    """A paused container is stopped by one request."""
    is_so(script, {**web(Paused=True), "Config": {}})
    script.says("POST", f"/containers/{ID}/stop", DONE)
    script.engine().stop_container("web")
    assert len(changing(script)) == 1


def test_podman_keeps_a_restart_policy_that_is_not_changed(podman: ScriptedEngine) -> None:
    """Without a word it takes it away; a policy that is to be another one is sent alone."""
    policy = {"Name": "always", "MaximumRetryCount": 0}
    is_so(podman, web(RestartPolicy=policy))
    podman.says("POST", f"/containers/{ID}/update", answer({}))
    podman.engine().update_container("web", {"Memory": 5})
    podman.engine().update_container("web", {"RestartPolicy": {"Name": "no"}})
    assert [body for *_, body in changing(podman)] == [
        {"RestartPolicy": policy, "Memory": 5},
        {"RestartPolicy": {"Name": "no"}},
    ]


POLICY = {"Name": "always", "MaximumRetryCount": 0}


@pytest.mark.parametrize(
    ("state", "held"),
    [
        ({"Running": False, "RestartPolicy": POLICY}, True),
        ({"Running": True, "RestartCount": 3, "RestartPolicy": POLICY}, True),
        ({"Running": True, "RestartCount": 0, "RestartPolicy": POLICY}, False),
        ({"Running": False, "RestartPolicy": {"Name": "no"}}, False),
        ({"Running": False, "RestartPolicy": {"Name": ""}}, False),
        ({"Running": False, "RestartPolicy": None}, False),
    ],
)
def test_podman_is_kept_from_the_next_run_of_what_fails(
    podman: ScriptedEngine, state: dict[str, Any], *, held: bool
) -> None:
    """The restart policy goes before the stop, and comes back once the last run is cleaned up after."""
    slept: list[float] = []
    is_so(podman, {**web(**state), "Config": {}})
    listed = [answer([{"Id": OTHER, "State": "stopped"}, {"Id": ID, "State": word}]) for word in ("stopped", "exited")]
    podman.says("GET", "/containers/json.*", in_turn(*listed))
    podman.says("POST", f"/containers/{ID}/(stop|update)", answer({}))
    quick(podman, slept).stop_container("web")
    said = [(path.rpartition("/")[2], (body or {}).get("RestartPolicy")) for _, path, _, body in changing(podman)]
    if held:
        assert said == [("update", {"Name": "no"}), ("stop", None), ("update", POLICY)]
        assert len(slept) == 1
    else:
        assert said == [("stop", None)]


def test_a_stop_does_not_fail_for_what_is_never_cleaned_up(podman: ScriptedEngine) -> None:
    """The policy comes back after ten seconds all the same."""
    slept: list[float] = []
    is_so(podman, {**web(Running=False, RestartPolicy=POLICY), "Config": {}})
    podman.says("GET", "/containers/json.*", answer([{"Id": ID, "State": "stopped"}]))
    podman.says("POST", f"/containers/{ID}/(stop|update)", answer({}))
    quick(podman, slept).stop_container("web")
    assert changing(podman)[-1][-1] == {"RestartPolicy": POLICY}
    assert 10 < sum(slept) < 11


def test_docker_needs_no_such_thing(script: ScriptedEngine) -> None:
    """It knows to end what it is about to start."""
    is_so(script, {**web(Running=False, RestartPolicy=POLICY), "Config": {}})
    script.says("POST", f"/containers/{ID}/stop", DONE)
    script.engine().stop_container("web")
    assert len(changing(script)) == 1


def test_a_policy_comes_back_after_a_stop_that_failed(podman: ScriptedEngine) -> None:
    """What Podman refuses leaves the container as it was."""
    is_so(podman, {**web(Running=False, RestartPolicy=POLICY), "Config": {}})
    podman.says("POST", f"/containers/{ID}/stop", refusal(500, "no way"))
    podman.says("POST", f"/containers/{ID}/update", answer({}))
    with pytest.raises(EngineError, match="no way"):
        podman.engine().stop_container("web")
    assert changing(podman)[-1][-1] == {"RestartPolicy": POLICY}


@pytest.mark.parametrize("noted", [True, False])
def test_an_update_in_the_midst_of_an_end_is_tried_again(podman: ScriptedEngine, *, noted: bool) -> None:
    """Podman says no and has noted the policy all the same, or has not: then it is told once more."""
    slept: list[float] = []
    now = {"Name": "no"} if noted else POLICY
    before = {**web(Running=False, RestartPolicy=POLICY), "Config": {}}
    is_so(podman, before, before, {**web(Running=False, RestartPolicy=now), "Config": {}})
    podman.says("GET", "/containers/json.*", answer([{"Id": ID, "State": "exited"}]))
    podman.says("POST", f"/containers/{ID}/stop", answer({}))
    podman.says("POST", f"/containers/{ID}/update", in_turn(refusal(500, "improper"), *[answer({})] * 3))
    quick(podman, slept).stop_container("web")
    updates = [body["RestartPolicy"]["Name"] for _, path, _, body in changing(podman) if path.endswith("update")]
    assert updates == (["no", "always"] if noted else ["no", "no", "always"])
    assert len(slept) == (0 if noted else 1)
