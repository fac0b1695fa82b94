"""The successor of a container has what the user asked for, and from its own image the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from docker_rollback._inspection.recreate import observe
from docker_rollback._inspection.successor import Changes, equal_request, update_request
from docker_rollback.testing import FakeEngine
from tests.unit.inspections import ANONYMOUS, inspection

OLD = {
    "Env": ["PATH=/old/bin", "VERSION=1"],
    "Labels": {"org.opencontainers.image.version": "1", "kept": "no"},
    "ExposedPorts": {"80/tcp": {}, "81/tcp": {}},
    "Volumes": {"/cache": {}},
    "Entrypoint": ["/entry"],
    "Cmd": ["serve"],
    "User": "app",
    "WorkingDir": "/old",
    "StopSignal": "SIGQUIT",
    "Healthcheck": {"Test": ["CMD", "probe"], "Interval": 5, "Retries": 2},
}
"""What the old image says."""


def request(config: Mapping[str, Any], changes: Changes | None = None, **host_config: Any) -> Mapping[str, Any]:
    """Return the body of the request for a successor of a container that has `config` over the old image's."""
    found = inspection({"Mounts": []})
    found["Config"] = {**OLD, "Hostname": found["Id"][:12], "Image": "web:1", **config}
    found["HostConfig"] = {"NetworkMode": "bridge", "PortBindings": {}, "Binds": None, **host_config}
    found["NetworkSettings"] = {"Networks": {"bridge": {}}}
    return update_request(
        observe(found), image="web:2", image_id="sha256:2", defaults=OLD, changes=changes or Changes()
    ).body


def test_what_the_old_image_gave_is_not_sent() -> None:
    """The new image's environment, labels, ports, volumes, program, user and health check apply."""
    body = request({})
    for key in ("Env", "Labels", "ExposedPorts", "Volumes", "Entrypoint", "Cmd", "Healthcheck"):
        assert not body[key], key
    for key in ("User", "WorkingDir", "StopSignal", "Hostname"):
        assert key not in body, key
    assert body["Image"] == "web:2"


@pytest.mark.parametrize(
    ("config", "sent"),
    [
        ({"Env": ["VERSION=1", "MODE=x", "PATH=/mine"]}, {"Env": ["MODE=x", "PATH=/mine"]}),
        ({"Env": ["EMPTY=", "A=1=x", "LONE"]}, {"Env": ["EMPTY=", "A=1=x", "LONE"]}),
        ({"Labels": {**OLD["Labels"], "kept": "yes", "own": ""}}, {"Labels": {"kept": "yes", "own": ""}}),  # type: ignore[dict-item]  # a literal's union
        ({"ExposedPorts": {"80/tcp": {}, "99/udp": {}}}, {"ExposedPorts": {"99/udp": {}}}),
        ({"Volumes": {"/cache": {}, "/mine": {}}}, {"Volumes": {"/mine": {}}}),
        ({"Cmd": ["serve", "-v"]}, {"Entrypoint": None, "Cmd": ["serve", "-v"]}),
        ({"Entrypoint": ["/mine"]}, {"Entrypoint": ["/mine"], "Cmd": ["serve"]}),
        ({"Entrypoint": ["/mine"], "Cmd": None}, {"Entrypoint": ["/mine"], "Cmd": None}),
        ({"Entrypoint": None, "Cmd": ["sh"]}, {"Entrypoint": [""], "Cmd": ["sh"]}),
        ({"User": "root"}, {"User": "root"}),
        ({"WorkingDir": "/mine"}, {"WorkingDir": "/mine"}),
        ({"StopSignal": "SIGINT"}, {"StopSignal": "SIGINT"}),
        ({"Hostname": "till"}, {"Hostname": "till"}),
        ({"Healthcheck": {"Test": ["NONE"]}}, {"Healthcheck": {"Test": ["NONE"]}}),
        ({"Healthcheck": {"Test": ["CMD", "probe"], "Interval": 9, "Retries": 2}}, {"Healthcheck": {"Interval": 9}}),
        ({"Healthcheck": {"Test": ["CMD", "own"], "Interval": 5}}, {"Healthcheck": {"Test": ["CMD", "own"]}}),
    ],
)
def test_what_the_user_asked_for_is_sent(config: dict[str, Any], sent: dict[str, Any]) -> None:
    """What differs from the old image's own came from the user."""
    body = request(config)
    assert {key: body[key] for key in sent} == sent


def test_a_published_port_stays_exposed() -> None:
    """The new image may not name it any more."""
    body = request({}, PortBindings={"80/tcp": [{"HostPort": "8080"}]})
    assert body["ExposedPorts"] == {"80/tcp": {}}
    assert body["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostPort": "8080"}]}


def test_changes_go_over_what_the_user_had() -> None:
    """Each of them, and None takes away what was the user's own."""
    body = request(
        {"Env": ["A=1", "B=2"], "Labels": {"a": "1", "b": "2"}},
        Changes(
            environment={"A": "9", "B": None, "C": "3"},
            labels={"a": None, "c": "3"},
            command="serve 'two words'",
            entrypoint=[],
            user="1000",
            working_dir="/srv",
            healthcheck={"Test": ["NONE"]},
            config={"StopTimeout": 7},
            host_config={"Memory": 1 << 30},
        ),
    )
    assert body["Env"] == ["A=9", "C=3"]
    assert body["Labels"] == {"b": "2", "c": "3"}
    assert (body["Cmd"], body["Entrypoint"]) == (["serve", "two words"], [""])
    assert (body["User"], body["WorkingDir"], body["StopTimeout"]) == ("1000", "/srv", 7)
    assert body["Healthcheck"] == {"Test": ["NONE"]}
    assert body["HostConfig"]["Memory"] == 1 << 30
    with pytest.raises(TypeError, match="memory"):
        Changes(memory=1)  # type: ignore[call-arg]  # what somebody may do


def test_compose_finds_the_new_image_in_its_label() -> None:
    """Else its next `up` would make the container anew."""
    found = inspection()
    labels = {"com.docker.compose.image": found["Image"], "com.docker.compose.config-hash": "x"}
    container = observe(inspection({"Config/Labels": labels}))
    body = update_request(container, image="web:2", image_id="sha256:2", defaults={}, changes=Changes()).body
    assert body["Labels"] == {"com.docker.compose.image": "sha256:2", "com.docker.compose.config-hash": "x"}


def test_anonymous_volumes_are_carried_over() -> None:
    """By the names that the engine gave them, each at its place and once, read-only where it was."""
    container = observe(inspection())
    anonymous = [mount for mount in container.mounts if mount.anonymous]
    assert [mount.source for mount in anonymous] == [ANONYMOUS]
    body = update_request(container, image="web:2", image_id="x", defaults={}, changes=Changes()).body
    place = anonymous[0].destination
    assert f"{ANONYMOUS}:{place}" in body["HostConfig"]["Binds"]
    assert place not in (body["Volumes"] or {})


def test_an_equal_container_has_the_very_same_anonymous_volumes() -> None:
    """By their names; it asks for none of them as an anonymous one again, and for all else as before."""
    container = observe(inspection({"Config/Volumes": {"/cache": {}, "/declared": {}}}))
    asked = {**container.inspection, "HostConfig": {**container.inspection["HostConfig"], "NetworkMode": "host"}}
    made = equal_request(container, asked, image_config={}).body
    assert made["Image"] == "registry.example/app:1"
    assert made["Volumes"] == {"/declared": {}}
    assert made["HostConfig"]["Binds"] == ["logs:/logs:ro", "data:/data", "/etc/app:/app/etc:z", f"{ANONYMOUS}:/cache"]
    assert made["HostConfig"]["NetworkMode"] == "host"
    assert (made["Cmd"], made["StopSignal"]) == (["sleep", "1000"], "SIGINT")
    assert container.inspection["Config"]["Volumes"] == {"/cache": {}, "/declared": {}}, "what was found is not changed"


def test_named_volumes_and_folders_stay_beside_an_anonymous_one() -> None:
    """What the user bound is bound again, in its order, and the volume that nobody named comes after it."""
    engine = FakeEngine()
    engine.add_image("web:1", volumes=["/cache"])
    engine.run("web", image="web:1", volumes={"data": "/data", "/srv/conf": "/conf:ro"})
    found = engine.inspect_container("web")
    body = update_request(observe(found), image="web:1", image_id="x", defaults={}, changes=Changes()).body
    anonymous = engine.anonymous_volume("web", "/cache")
    assert body["HostConfig"]["Binds"] == ["data:/data", "/srv/conf:/conf:ro", f"{anonymous}:/cache"]


def test_a_mount_without_a_source_gets_its_volume() -> None:
    """Asked for by `Mounts`, it stays there: two at one place are refused."""
    engine = FakeEngine()
    engine.add_image("web:1")
    engine.run("web", image="web:1", Mounts=[{"Type": "volume", "Target": "/data", "ReadOnly": True}])
    found = engine.inspect_container("web")
    body = update_request(observe(found), image="web:1", image_id="x", defaults={}, changes=Changes()).body
    (mount,) = body["HostConfig"]["Mounts"]
    assert mount == {
        "Type": "volume",
        "Target": "/data",
        "ReadOnly": True,
        "Source": engine.anonymous_volume("web", "/data"),
    }
    assert not body["HostConfig"]["Binds"]
