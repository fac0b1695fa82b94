"""What is asked of an engine for networks, volumes and images, and what its answers mean."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest

from docker_rollback._engine.docker.engine import DockerEngine
from docker_rollback.errors import (
    EngineConflictError,
    EngineError,
    EngineTimeoutError,
    ImageNotFoundError,
    NetworkNotFoundError,
    VolumeNotFoundError,
)
from tests.unit.engine.scripted import CONTAINER, ID, ScriptedEngine, answer, changing, chunked, refusal

NET = "cd" * 32
NETWORK = {"Id": NET, "Name": "net", "Labels": {}}
DONE = answer(b"", 204)


def is_in(*networks: tuple[str, str | None]) -> dict[str, Any]:
    """Return the inspection of the container with these networks, by name and the id that it knows."""
    endpoints = {name: {"NetworkID": known} for name, known in networks}
    return {**CONTAINER, "NetworkSettings": {"Networks": endpoints}}


# Networks


def test_a_network_is_made_once(script: ScriptedEngine) -> None:
    """The request is sent as it is, and asks an older engine not to make a second one of the name."""
    script.says("POST", "/networks/create", answer({"Id": NET}, 201))
    assert script.engine().create_network({"Name": "net", "Driver": "bridge"}) == NET
    assert changing(script) == [
        ("POST", "/networks/create", {}, {"Name": "net", "Driver": "bridge", "CheckDuplicate": True})
    ]


def test_a_network_is_found_by_its_name_or_enough_of_its_id(script: ScriptedEngine) -> None:
    """The beginning of an id that is shorter than those that are shown is no reference."""
    script.says("GET", "/networks/.*", answer(NETWORK))
    for ref in ("net", NET, NET[:12]):
        assert script.engine().inspect_network(ref) == NETWORK
    for ref in (NET[:11], "ne", "other", NET[:-1] + "0", "NET" * 5):
        with pytest.raises(NetworkNotFoundError):
            script.engine().inspect_network(ref)


@pytest.mark.parametrize("ref", ["", ".", "..", "/net"])
def test_what_can_be_no_name_is_not_asked_for(script: ScriptedEngine, ref: str) -> None:
    """It would be the path of something else."""
    with pytest.raises(NetworkNotFoundError):
        script.engine().inspect_network(ref)
    with pytest.raises(VolumeNotFoundError):
        script.engine().inspect_volume(ref)
    assert script.asked == []


@pytest.mark.parametrize("labels", [{}, {"a": "1"}, {"a": "1", "b": "2"}])
def test_lists_of_networks_and_volumes_are_read_to_the_letter(script: ScriptedEngine, labels: dict[str, str]) -> None:
    """Podman takes a label's value for a pattern."""
    known: list[Any] = [{"a": "1", "b": "2"}, {"a": "12"}, None]
    found = [{"Id": str(k + 1), "Name": "xyz"[k], "Labels": labels} for k, labels in enumerate(known)]
    script.says("GET", "/networks.*", answer(found))
    script.says("GET", "/volumes.*", answer({"Volumes": found}))
    assert script.engine().list_networks(labels=labels) == (["1"] if labels else ["1", "2", "3"])
    assert script.engine().list_volumes(labels=labels) == (["x"] if labels else ["x", "y", "z"])
    asked = {"label": [f"{key}={value}" for key, value in labels.items()]}
    for one in script.asked:
        if not one.path.endswith("/version"):
            query = dict(parse_qsl(one.path.partition("?")[2]))
            assert query == ({"filters": json.dumps(asked)} if labels else {})


@pytest.mark.parametrize("none", [None, [], {}])
def test_an_engine_may_say_null_for_none(script: ScriptedEngine, none: Any) -> None:
    """Of networks, volumes and images."""
    script.says("GET", "/networks.*", answer(none))
    script.says("GET", "/images/json.*", answer(none))
    script.says("GET", "/volumes.*", answer(none or None))
    assert script.engine().list_networks() == script.engine().list_volumes() == script.engine().list_images("a") == []
    script.says("GET", "/volumes.*", answer({"Volumes": none or None}))
    assert script.engine().list_volumes() == []


@pytest.mark.parametrize(
    ("endpoints", "attached"),
    [
        ([("net", NET)], True),
        ([("other-name", NET)], True),
        ([("net", None)], True),
        ([("net", "")], True),
        ([(NET, "")], True),
        ([("net", "ef" * 32)], False),
        ([("other", "")], False),
        ([("other", "ef" * 32), ("net", NET)], True),
        ([], False),
    ],
)
def test_who_is_in_a_network_is_told_by_its_id(
    script: ScriptedEngine, endpoints: list[tuple[str, str | None]], *, attached: bool
) -> None:
    """By its name where a container knows no id; one that knows the id of an earlier network is not in this one."""
    script.says("GET", "/networks/net", answer(NETWORK))
    script.says("GET", f"/containers/(web|{ID})/json", answer(is_in(*endpoints)))
    script.says("POST", "/networks/.*connect", DONE)
    if attached:
        with pytest.raises(EngineConflictError, match="could not connect container 'web' to network 'net': it is conn"):
            script.engine().connect_network("net", "web", {})
        assert changing(script) == []
    else:
        script.engine().connect_network("net", "web", {"Aliases": ["a"]})
        body: dict[str, Any] = {"Container": ID, "EndpointConfig": {"Aliases": ["a"]}}
        assert changing(script) == [("POST", f"/networks/{NET}/connect", {}, body)]
    script.asked.clear()
    script.engine().disconnect_network("net", "web", force=True)
    body = {"Container": ID, "Force": True}
    assert changing(script) == ([("POST", f"/networks/{NET}/disconnect", {}, body)] if attached else [])


def test_a_container_leaves_a_network_without_force_unless_asked(script: ScriptedEngine) -> None:
    """Force is for one that does not run well."""
    script.says("GET", "/networks/net", answer(NETWORK))
    script.says("GET", f"/containers/(web|{ID})/json", answer(is_in(("net", NET))))
    script.says("POST", "/networks/.*connect", DONE)
    script.engine().disconnect_network("net", "web")
    assert changing(script)[0][-1] == {"Container": ID, "Force": False}


def test_a_network_that_is_gone_is_removed(script: ScriptedEngine) -> None:
    """One that is there is removed by its id."""
    script.engine().remove_network("net")
    assert changing(script) == []
    script.says("GET", "/networks/net", answer(NETWORK))
    script.says("DELETE", "/networks/.*", answer(b"", 204))
    script.engine().remove_network("net")
    assert changing(script) == [("DELETE", f"/networks/{NET}", {}, None)]


@pytest.mark.parametrize("again", [False, True], ids=["first time", "asked again"])
def test_a_network_of_a_swarm_is_removed_once_its_node_has_forgotten_it(script: ScriptedEngine, *, again: bool) -> None:
    """The node refuses its name until then; a removal that is asked for again meanwhile waits as well."""
    script.says("GET", "/networks/.*", answer({**NETWORK, "Scope": "swarm"}))
    gone = refusal(500, f"network {NET} not found")
    script.says("DELETE", f"/networks/{NET}", gone if again else answer(b"", 204))
    looks: list[float] = []

    def sleep(pause: float) -> None:
        looks.append(pause)
        if len(looks) == 3:
            script.says("GET", "/networks/.*", refusal(404, f"network {NET} not found"))

    script.engine(timer=SimpleNamespace(sleep=sleep, monotonic=time.monotonic)).remove_network("net")
    assert len(looks) == 3


def test_a_network_of_a_swarm_that_stays_is_told(script: ScriptedEngine) -> None:
    """A refusal is passed on; a node that never forgets the network is an error."""
    script.says("GET", "/networks/.*", answer({**NETWORK, "Scope": "swarm"}))
    script.says("DELETE", "/networks/.*", refusal(403, "network net is in use by task 1"))
    with pytest.raises(EngineError, match="in use by task 1"):
        script.engine().remove_network("net")
    script.says("DELETE", "/networks/.*", answer(b"", 204))
    passed = iter(range(0, 1000, 10))
    timer = SimpleNamespace(sleep=lambda _: None, monotonic=lambda: next(passed))
    with pytest.raises(EngineTimeoutError, match=r"'net'.*still has it 30 s after the swarm removed it"):
        script.engine(timer=timer).remove_network("net")


def test_podman_removes_no_network_under_those_in_it(podman: ScriptedEngine) -> None:
    """They could neither be stopped nor started then: they are named. Docker refuses by itself."""
    podman.says("GET", "/networks/net", answer(NETWORK))
    listed = [{**is_in(("net", NET)), "Names": [f"/{name}"]} for name in ("web", "db")]
    others = [{**is_in(("net", "ef" * 32)), "Names": ["/other"]}]
    podman.says("GET", "/containers/json", answer([*listed, *others]))
    podman.says("DELETE", "/networks/.*", answer({}))
    with pytest.raises(EngineConflictError, match="could not remove network 'net': it is in use by db, web"):
        podman.engine().remove_network("net")
    assert changing(podman) == []
    for nobody in (others, None):
        podman.says("GET", "/containers/json", answer(nobody))
        podman.engine().remove_network("net")
    assert len(changing(podman)) == 2


# Volumes

VOLUME = {"Name": "data", "Driver": "local", "Options": None, "Labels": None, "Mountpoint": "/v"}


def test_a_volume_is_found_by_its_whole_name(podman: ScriptedEngine) -> None:
    """Podman takes the beginning of a name for the name."""
    podman.says("GET", "/volumes/.*", answer(VOLUME))
    assert podman.engine().inspect_volume("data") == VOLUME
    with pytest.raises(VolumeNotFoundError) as caught:
        podman.engine().inspect_volume("dat")
    assert caught.value.action == "inspect volume 'dat'"
    podman.engine().remove_volume("dat")
    assert changing(podman) == []


def test_a_volume_is_removed_by_its_name(script: ScriptedEngine) -> None:
    """One that is gone is removed."""
    script.says("GET", "/volumes/data", answer(VOLUME))
    script.says("DELETE", "/volumes/data", DONE)
    script.engine().remove_volume("data")
    assert changing(script) == [("DELETE", "/volumes/data", {}, None)]
    script.says("GET", "/volumes/data", refusal(404, "no such volume"))
    script.engine().remove_volume("data")


@pytest.mark.parametrize(
    ("request_", "found", "differs"),
    [
        ({}, {}, ""),
        ({"Driver": "local", "DriverOpts": {}, "Labels": {}}, {"Options": {}, "Labels": {}}, ""),
        ({"Driver": "nfs"}, {"Driver": "nfs"}, ""),
        ({"DriverOpts": {"o": "size=1m"}}, {"Options": {"o": "size=1m", "SIZE": "1048576"}}, ""),
        ({"DriverOpts": {"o": "size=1m", "SIZE": "1"}}, {"Options": {"o": "size=1m"}}, ""),
        ({"Labels": {"a": "1"}}, {"Labels": {"a": "1"}}, ""),
        ({"Driver": "nfs"}, {}, "driver"),
        ({}, {"Driver": "nfs"}, "driver"),
        ({"DriverOpts": {"o": "size=1m"}}, {"Options": {"o": "size=2m"}}, "options"),
        ({}, {"Options": {"o": "bind"}}, "options"),
        ({"Labels": {"a": "1"}}, {"Labels": {"a": "2"}}, "labels"),
        ({}, {"Labels": {"a": "2"}}, "labels"),
        ({"Labels": {"a": "1"}, "Driver": "nfs"}, {"Options": {"x": "y"}}, "driver and options and labels"),
    ],
)
def test_a_volume_of_the_name_that_is_another_is_a_conflict(
    script: ScriptedEngine, request_: dict[str, Any], found: dict[str, Any], differs: str
) -> None:
    """An engine answers with the one that is there: what it differs by is named; Podman's own options do not count."""
    script.says("POST", "/volumes/create", answer({**VOLUME, **found}, 201))
    wanted = {"Name": "data", **request_}
    if differs:
        with pytest.raises(EngineConflictError, match=f"'data': a volume of that name has another {differs}$"):
            script.engine().create_volume(wanted)
    else:
        assert script.engine().create_volume(wanted) == "data"
    assert changing(script)[-1] == ("POST", "/volumes/create", {}, wanted)


def test_a_volume_without_a_name_is_never_another(script: ScriptedEngine) -> None:
    """Its engine makes up a name, and may add labels."""
    script.says("POST", "/volumes/create", answer({**VOLUME, "Name": "0f" * 32, "Labels": {"anonymous": ""}}, 201))
    assert script.engine().create_volume({"Labels": {}}) == "0f" * 32


# Images

IMAGE_ID = "sha256:" + "12" * 32
IMAGE = {"Id": IMAGE_ID, "RepoTags": ["web:2"]}


@pytest.mark.parametrize(
    ("ref", "path"),
    [
        ("web:2", "web:2"),
        ("host:5000/a/web", "host:5000/a/web"),
        ("12" * 32, "sha256:" + "12" * 32),
        ("sha256:" + "12" * 32, "sha256:" + "12" * 32),
        ("a b", "a b"),
    ],
)
def test_an_image_is_asked_for_by_name_or_id(script: ScriptedEngine, ref: str, path: str) -> None:
    """An id has its algorithm."""
    script.says("GET", "/images/.*", answer(IMAGE))
    assert script.engine().inspect_image(ref) == IMAGE
    assert unquote(script.asked[-1].path).endswith(f"/images/{path}/json")


@pytest.mark.parametrize("ref", ["", "a/../b", "..", "a//b", "/a", "a/"])
def test_what_can_be_no_image_is_not_asked_for(script: ScriptedEngine, ref: str) -> None:
    """It would be the path of something else."""
    for ask in (script.engine().inspect_image, script.engine().pull_image, script.engine().save_image):
        with pytest.raises(ImageNotFoundError):
            ask(ref)
    assert script.asked == []


@pytest.mark.parametrize(
    ("ref", "tags", "meant"),
    [
        ("abc", ["abc:latest"], True),
        ("abc", ["localhost/abc:latest"], True),
        ("abc", ["abc:1"], False),
        ("abc", ["xabc:latest"], False),
        ("abc", None, False),
        ("ab" * 6, None, True),
        ("ab" * 5 + "a", None, False),
        ("xyz", None, True),
    ],
)
def test_a_name_is_not_the_beginning_of_an_id(
    script: ScriptedEngine, ref: str, tags: list[str] | None, *, meant: bool
) -> None:
    """An engine takes one for the other where no image has the name; nothing is done to that."""
    script.says("GET", "/images/.*", answer({**IMAGE, "RepoTags": tags}))
    script.says("POST", "/images/.*", answer(b"", 201))
    script.says("DELETE", "/images/.*", answer([]))
    if meant:
        assert script.engine().inspect_image(ref)["Id"] == IMAGE["Id"]
        script.engine().tag_image(ref, "kept:1")
        script.engine().remove_image(ref)
        assert changing(script) == [
            ("POST", f"/images/{ref}/tag", {"repo": "kept", "tag": "1"}, None),
            ("DELETE", f"/images/{ref}", {"force": "0", "noprune": "1"}, None),
        ]
    else:
        for ask in (script.engine().inspect_image, lambda name: script.engine().tag_image(name, "kept:1")):
            with pytest.raises(ImageNotFoundError):
                ask(ref)
        script.engine().remove_image(ref)
        assert changing(script) == []


def test_podman_removes_both_of_a_name(podman: ScriptedEngine) -> None:
    """It knows a short name in two registries and removes one at a time; an id is one image."""
    podman.says("DELETE", "/images/.*", answer([]))
    podman.engine().remove_image("web:2")
    assert [path for _, path, *_ in changing(podman)] == ["/images/web:2"] * 2
    podman.asked.clear()
    podman.engine().remove_image(IMAGE_ID)
    assert len(changing(podman)) == 1


@pytest.mark.parametrize("flavour", ["script", "podman"])
def test_images_of_a_repository_are_listed_by_their_bare_names(flavour: str, request: pytest.FixtureRequest) -> None:
    """Without the registries that Podman puts before them; those of other repositories do not count."""
    script: ScriptedEngine = request.getfixturevalue(flavour)
    tags = ["kept:b", "localhost/kept:a", "docker.io/library/kept:c", "kept/more:d", "other/kept:e", "kept:a"]
    script.says("GET", "/images/json.*", answer([{"RepoTags": tags}, {"RepoTags": None}, {"RepoTags": ["keptx:1"]}]))
    assert script.engine().list_images("kept") == ["kept:a", "kept:b", "kept:c"]
    query = dict(parse_qsl(script.asked[-1].path.partition("?")[2]))
    expected = ["kept:*"] if flavour == "script" else ["kept:*", "localhost/kept:*"]
    assert json.loads(query["filters"]) == {"reference": expected}


@pytest.mark.parametrize("tag", ["kept", "host:5000/kept", ":1", "kept:"])
def test_a_tag_has_a_repository_and_a_version(script: ScriptedEngine, tag: str) -> None:
    """Nothing is made up where one of them is missing."""
    asks: list[Callable[[DockerEngine], object]] = [
        lambda engine: engine.tag_image("web:2", tag),
        lambda engine: engine.commit_container("web", tag),
        lambda engine: engine.import_image([b""], tag),
    ]
    for ask in asks:
        with pytest.raises(EngineError, match="is not of the form repository:tag"):
            ask(script.engine())
    assert changing(script) == []


@pytest.mark.parametrize(
    ("before", "after", "undone"),
    [
        (None, "sha256:new", [("DELETE", "/images/kept:1")]),
        ("sha256:old", "sha256:new", [("POST", "/images/sha256:old/tag")]),
        ("sha256:old", "sha256:old", []),
        (None, None, []),
    ],
)
def test_an_import_that_fails_leaves_the_name_as_it_was(
    script: ScriptedEngine, before: str | None, after: str | None, undone: list[tuple[str, str]]
) -> None:
    """An engine may give the name before it finds that it cannot unpack what it got."""
    found = iter([before, after])

    def show(connection: Any) -> None:
        identity = next(found)
        connection.sendall(answer({"Id": identity}) if identity else refusal(404, "No such image"))

    script.says("GET", "/images/kept:1/json", show)
    script.says("POST", r"/images/create\?.*", chunked(b'{"error":"bad tar"}'))
    script.says("POST", "/images/.*/tag.*", answer(b"", 201))
    script.says("DELETE", "/images/.*", answer([]))
    with pytest.raises(EngineError, match="could not import image 'kept:1': bad tar"):
        script.engine().import_image([b"tar"], "kept:1")
    assert [(method, path) for method, path, *_ in _without_uploads(script)][1:] == undone


def test_an_import_has_the_id_of_its_name(script: ScriptedEngine) -> None:
    """The archive arrives whole, for the name that was asked for."""
    script.says("GET", "/images/kept:1/json", answer(IMAGE))
    script.says("POST", r"/images/create\?.*", chunked(b'{"status":"sha256:12"}'))
    assert script.engine().import_image([b"one", b"two"], "kept:1") == IMAGE["Id"]
    (asked,) = (one for one in script.asked if one.method == "POST")
    assert asked.body == b"onetwo"
    assert dict(parse_qsl(asked.path.partition("?")[2])) == {"fromSrc": "-", "repo": "kept", "tag": "1"}


def _without_uploads(script: ScriptedEngine) -> list[tuple[str, str]]:
    return [
        (one.method, "/" + one.path.partition("?")[0].split("/", 2)[2]) for one in script.asked if one.method != "GET"
    ]
