"""What Podman says of a container, in Docker's shape; recorded from Podman 5.8.6."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from docker_rollback._engine.docker.podman import docker_like, with_native
from docker_rollback._inspection.compare import compare
from docker_rollback._inspection.recreate import create_request, mount_places, mounts
from docker_rollback._model.backup import Mount
from tests.unit.engine.scripted import ID, VERSION, ScriptedEngine, answer, refusal

RECORDED: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("podman.json").read_text())
"""One container created, running and exited, and its equal: created from the translation of the running one."""


def translated(changes: dict[str, Any] | None = None, *, recorded: str = "running") -> dict[str, Any]:
    """Return a recorded inspection, changed at some paths and then translated."""
    found = copy.deepcopy(RECORDED[recorded])
    for path, value in (changes or {}).items():
        *parents, last = path.split("/")
        place = found
        for parent in parents:
            place = place[parent]
        place[last] = value
    return docker_like(found)


def test_an_equal_has_an_equal_translation() -> None:
    """Nothing differs between the translations of a container and of the one that Podman made from the first."""
    assert compare(translated(), translated(recorded="replayed")) == []


def test_a_stopped_container_is_the_same_container() -> None:
    """What Podman forgets when a container ends is no part of the translation."""
    paths = {found.path for found in compare(translated(), translated(recorded="exited"))}
    assert paths == {"State.Running", "State.Status"}


def test_the_inspection_is_left_alone() -> None:
    """A translation is a new value."""
    before = copy.deepcopy(RECORDED)
    translated()
    assert before == RECORDED


def test_the_network_mode_names_the_network() -> None:
    """Podman says "bridge" for every network; the aliases lose the short id and the host name behind them."""
    found = translated()
    assert found["HostConfig"]["NetworkMode"] == "back"
    assert {name: endpoint["Aliases"] for name, endpoint in found["NetworkSettings"]["Networks"].items()} == {
        "front": ["web", "till"],
        "back": ["second"],
    }


def test_the_default_network_comes_first() -> None:
    """A container that was connected to further networks was created on the default one."""
    networks = {"another": {"Aliases": None}, "podman": {"Aliases": None}}
    assert translated({"NetworkSettings/Networks": networks})["HostConfig"]["NetworkMode"] == "podman"


@pytest.mark.parametrize("mode", ["host", "none", "pasta"])
def test_other_network_modes_stay(mode: str) -> None:
    """Only "bridge" is a word for something else."""
    assert translated({"HostConfig/NetworkMode": mode})["HostConfig"]["NetworkMode"] == mode


def test_a_borrowed_network_is_not_its_own() -> None:
    """Podman lists the other container's networks; nothing can be asked of them."""
    found = translated({"HostConfig/NetworkMode": "container:abc"})
    assert found["NetworkSettings"]["Networks"] == {}
    assert "NetworkingConfig" not in create_request(found, image="x", image_config={}).body


@pytest.mark.parametrize(
    ("aliases", "asked"),
    [
        (None, None),
        (["short"], ["short"]),
        (["web", "SHORT"], ["web"]),
        (["web", "SHORT", "hosty"], ["web"]),
        (["SHORT", "web", "SHORT"], ["SHORT", "web"]),
        (["hosty", "SHORT", "hosty"], ["hosty"]),
        (["SHORT", "hosty"], None),
    ],
)
def test_aliases_lose_what_podman_appends(aliases: list[str] | None, asked: list[str] | None) -> None:
    """Sent back, it would stand there twice; the same words asked for by the user stay."""
    short = RECORDED["running"]["Id"][:12]
    given = [alias.replace("SHORT", short) for alias in aliases] if aliases else aliases
    kept = [alias.replace("SHORT", short) for alias in asked] if asked else asked
    found = translated({"NetworkSettings/Networks/front/Aliases": given})
    assert found["NetworkSettings"]["Networks"]["front"]["Aliases"] == kept


def test_binds_are_those_of_the_user() -> None:
    """Default options go, chosen ones stay, and volumes that nobody named are asked for as such."""
    found = translated()
    assert found["HostConfig"]["Binds"] == ["/etc:/app/etc:ro", "/srv:/srv:rslave", "data:/data", "logs:/logs:ro"]
    assert found["Config"]["Volumes"] == {"/cache": {}}
    assert found["HostConfig"]["Mounts"] == [{"Type": "volume", "Target": "/fixed", "ReadOnly": True}]
    assert found["HostConfig"]["Tmpfs"] == {"/any": "", "/run2": "size=1m,mode=700"}


def test_volumes_that_an_inspection_declares_stay_declared() -> None:
    """The ones that nobody named come to them."""
    assert translated({"Config/Volumes": {"/declared": {}}})["Config"]["Volumes"] == {"/declared": {}, "/cache": {}}


@pytest.mark.parametrize(
    ("said", "config"),
    [
        ({"Type": "journald", "Path": None, "Tag": None, "Size": None}, {}),
        ({"Type": "journald"}, {}),
        ({"Type": "k8s-file", "Path": f"/run/containers/{'ab' * 32}/userdata/ctr.log", "Size": "0B"}, {}),
        ({"Type": "k8s-file", "Path": "/var/log/web.log", "Tag": "web"}, {"path": "/var/log/web.log", "tag": "web"}),
    ],
)
def test_a_log_is_asked_for_as_it_was(said: dict[str, Any], config: dict[str, str]) -> None:
    """What Podman chose by itself, and what it does not say, is not asked for."""
    found = with_native({"HostConfig": {}}, {"Id": "ab" * 32, "HostConfig": {"LogConfig": said}})
    assert found["HostConfig"]["LogConfig"] == {"Type": said["Type"], "Config": config}


def test_every_mount_is_told_apart() -> None:
    """From the translation, anonymous volumes and named ones are known."""
    kinds = {(mount.kind, mount.destination): mount for mount in mounts(translated())}
    assert {place for place, mount in kinds.items() if mount.anonymous} == {("volume", "/cache"), ("volume", "/fixed")}
    assert kinds["volume", "/data"] == Mount("volume", "/data", "data", read_only=False)
    assert kinds["bind", "/app/etc"].read_only
    assert ("tmpfs", "/any") in kinds


@pytest.mark.parametrize(
    ("shown", "asked"),
    [
        ("data:/data:rprivate,nosuid,nodev,rbind", "data:/data"),
        ("data:/data:ro,rprivate,nosuid,nodev,rbind", "data:/data:ro"),
        ("data:/data:exec,dev,suid,rprivate,rbind", "data:/data:exec,dev,suid"),
        ("data:/data:nodev,rprivate,nosuid,rbind", "data:/data:nodev"),
        ("data:/data:rslave,nosuid,nodev,rbind", "data:/data:rslave"),
        ("/srv:/srv:ro,private,rbind", "/srv:/srv:ro,private"),
        ("/srv:/srv:bind,private", "/srv:/srv:bind,private"),
        ("/srv:/srv:nosuid,nodev,rprivate,rbind", "/srv:/srv:nosuid,nodev"),
    ],
)
def test_options_of_a_mount_are_those_that_were_asked_for(shown: str, asked: str) -> None:
    """What Podman appended goes, and nothing else: it appends the same to what was asked for, in the same order."""
    assert translated({"HostConfig/Binds": [shown]})["HostConfig"]["Binds"] == [asked]


@pytest.mark.parametrize(
    ("shown", "asked"),
    [
        ("rprivate,nosuid,nodev,tmpcopyup", ""),
        ("size=1m,mode=1770,exec,rprivate,nosuid,nodev,tmpcopyup", "size=1m,mode=1770,exec"),
        ("nodev,size=1m,rprivate,nosuid,tmpcopyup", "nodev,size=1m"),
        ("size=1m,nodev,rprivate,nosuid,tmpcopyup", "size=1m,nodev"),
        ("ro,rprivate,nosuid,nodev", "ro,notmpcopyup"),
        ("rprivate,nosuid,nodev", "notmpcopyup"),
    ],
)
def test_options_of_a_tmpfs_are_those_that_were_asked_for(shown: str, asked: str) -> None:
    """Of a tmpfs likewise; that the image's files are not to be copied shows by what is missing."""
    assert translated({"HostConfig/Tmpfs": {"/m": shown}})["HostConfig"]["Tmpfs"] == {"/m": asked}


def test_no_health_check_has_no_times() -> None:
    """To a check that is switched off Podman adds an interval when it is created again; it means nothing."""
    times = {"Interval": 30_000_000_000, "Timeout": 30_000_000_000, "Retries": 3}
    for shown in ({"Test": ["NONE"]}, {"Test": ["NONE"], **times}):
        assert translated({"Config/Healthcheck": shown})["Config"]["Healthcheck"] == {"Test": ["NONE"]}
    kept = {"Test": ["CMD", "true"], **times}
    assert translated({"Config/Healthcheck": kept})["Config"]["Healthcheck"] == kept


def test_volumes_are_told_from_those_that_another_container_lends() -> None:
    """With `VolumesFrom`, what the other one mounts at the same place is its own; the rest is this one's."""
    own = translated()
    found = copy.deepcopy(RECORDED["running"])
    found["HostConfig"]["VolumesFrom"] = ["other"]
    assert docker_like(found, [{"Mounts": []}])["Config"]["Volumes"] == own["Config"]["Volumes"]
    lent = [{"Mounts": [mount for mount in found["Mounts"] if mount["Type"] == "volume"]}]
    assert docker_like(found, lent)["Config"]["Volumes"] is None
    assert "data:/data" not in docker_like(found, lent)["HostConfig"]["Binds"]
    elsewhere = [{"Mounts": [{**mount, "Destination": "/elsewhere"} for mount in found["Mounts"]]}]
    assert "data:/data" in docker_like(found, elsewhere)["HostConfig"]["Binds"]


def test_borrowed_volumes_are_not_mounted_twice() -> None:
    """With `VolumesFrom` of a container that is gone, an anonymous volume is most likely that one's."""
    found = translated({"HostConfig/VolumesFrom": ["other"]})
    assert found["Config"]["Volumes"] is None
    assert "Mounts" not in found["HostConfig"]
    assert "data:/data" in found["HostConfig"]["Binds"]


def test_annotations_are_those_of_the_user() -> None:
    """What Podman notes down from other fields is none of them."""
    assert translated()["HostConfig"]["Annotations"] == {"org.example.mine": "1"}


def test_limits_have_the_names_of_a_create() -> None:
    """Names without their prefix, in one order, whatever Podman added at the first start."""
    assert [limit["Name"] for limit in translated()["HostConfig"]["Ulimits"]] == ["nofile", "nproc"]


@pytest.mark.parametrize(
    ("nano", "period", "quota", "sent"),
    [
        (500_000_000, 100_000, 50_000, (500_000_000, 0, 0)),
        (0, 50_000, 20_000, (0, 50_000, 20_000)),
        (500_000_000, 100_000, 70_000, (500_000_000, 100_000, 70_000)),
    ],
)
def test_processors_are_said_once(nano: int, period: int, quota: int, sent: tuple[int, int, int]) -> None:
    """The quota that stands for a number of processors goes; any other one is a question for the engine."""
    changes = {"HostConfig/NanoCpus": nano, "HostConfig/CpuPeriod": period, "HostConfig/CpuQuota": quota}
    host_config = translated(changes)["HostConfig"]
    assert (host_config["NanoCpus"], host_config["CpuPeriod"], host_config["CpuQuota"]) == sent


@pytest.mark.parametrize(
    ("memory", "shown", "sent"), [(0, 0, None), (1, -1, None), (1, 0, 0), (1, 10, 10), (0, 10, 10)]
)
def test_swappiness_is_what_was_asked_for(memory: int, shown: int, sent: int | None) -> None:
    """Zero without memory and minus one are Podman's words for nothing."""
    found = translated({"HostConfig/Memory": memory, "HostConfig/MemorySwappiness": shown})
    assert found["HostConfig"]["MemorySwappiness"] == sent


@pytest.mark.parametrize(("mode", "size"), [("shareable", 8388608), ("private", 8388608), ("host", 0), ("none", 0)])
def test_a_borrowed_memory_has_no_size(mode: str, size: int) -> None:
    """Podman refuses a size of memory where there is none of its own."""
    assert translated({"HostConfig/IpcMode": mode})["HostConfig"]["ShmSize"] == size


def test_words_for_nothing_are_left_out() -> None:
    """Docker leaves these empty, and "oci" is no runtime's name."""
    host_config = translated()["HostConfig"]
    assert [host_config[key] for key in ("PidMode", "UTSMode", "UsernsMode", "Runtime")] == ["", "", "", ""]
    assert translated({"HostConfig/PidMode": "host"})["HostConfig"]["PidMode"] == "host"


def test_the_environment_has_one_order_and_no_host_name() -> None:
    """Podman keeps variables in no order; the host name's own may hold a short id."""
    environment = translated()["Config"]["Env"]
    assert environment == sorted(environment)
    assert not any(variable.startswith("HOSTNAME=") for variable in environment)
    assert translated({"Config/Env": ["HOSTNAME=mine"]})["Config"]["Env"] == ["HOSTNAME=mine"]


@pytest.mark.parametrize(("number", "name"), [("2", "SIGINT"), ("15", "SIGTERM"), ("37", "37"), ("SIGQUIT", "SIGQUIT")])
def test_a_signal_has_its_name(number: str, name: str) -> None:
    """Podman gives numbers; those without a name stay."""
    assert translated({"Config/StopSignal": number})["Config"]["StopSignal"] == name


def test_what_podman_writes_into_a_container_is_known() -> None:
    """The folder of its link to the mounts is listed as changed in every container, and is no change of the user's."""
    assert "/etc" in mount_places(translated())
    assert "/etc/passwd" not in mount_places(translated())
    assert {"/var", "/var/tmp"} <= mount_places(translated({"HostConfig/ReadonlyRootfs": True}))


def test_a_device_has_its_default_rights() -> None:
    """Podman shows none, and refuses none."""
    assert translated()["HostConfig"]["Devices"][0]["CgroupPermissions"] == "rwm"


def test_an_inspection_of_another_version_passes() -> None:
    """Fields that are missing are no error, fields that are unknown stay."""
    found = docker_like({"Id": "a" * 64, "Name": "/x", "New": 1})
    assert found["New"] == 1
    assert found["HostConfig"]["Binds"] == []


def test_an_endpoint_keeps_what_it_says_of_itself() -> None:
    """An address that was asked for stays in the translation; one of which Podman says nothing is an empty one."""
    address = {"IPAMConfig": {"IPv4Address": "10.89.0.9"}, "Aliases": ["web"]}
    found = translated({"NetworkSettings/Networks/front": address, "NetworkSettings/Networks/back": None})
    networks = found["NetworkSettings"]["Networks"]
    assert networks == {"front": {**address, "Aliases": ["web"]}, "back": {"Aliases": None}}


def _podman(script: ScriptedEngine, component: dict[str, Any]) -> None:
    script.says("GET", "/version", answer({**VERSION, "Components": [component]}))


@pytest.mark.parametrize(
    ("component", "version"),
    [
        ({"Name": "Podman Engine", "Version": "5.8.2-dev", "Details": {"APIVersion": "5.8.2-rc1"}}, "5.8.2"),
        ({"Name": "Podman Engine", "Version": "4.3.1"}, "4.3.1"),
        ({"Name": "Podman Engine"}, "5.0.0"),
    ],
)
def test_podman_is_asked_in_its_own_version(script: ScriptedEngine, component: dict[str, Any], version: str) -> None:
    """Podman's own API is spoken in the version that it names, by the container's full id."""
    _podman(script, component)
    script.says("GET", f"/libpod/containers/{ID}/json", answer({"Id": ID, "Pod": "p"}))
    assert script.engine().inspect_container("web")["Native"] == {"Id": ID, "Pod": "p"}
    assert script.asked[-1].path == f"/v{version}/libpod/containers/{ID}/json"


def test_docker_has_no_inspection_of_its_own(script: ScriptedEngine) -> None:
    """Docker is not asked for what it does not have."""
    assert "Native" not in script.engine().inspect_container("web")
    assert not any("libpod" in asked.path for asked in script.asked)


def test_a_proxy_that_hides_the_own_api_of_podman_is_named(script: ScriptedEngine) -> None:
    """What cannot be looked at natively cannot be told to come back, so that it is needed."""
    _podman(script, {"Name": "Podman Engine", "Version": "5.8.2"})
    script.says("GET", "/libpod/containers/.*", refusal(403, "no"))
    assert script.engine().forbidden() == ["inspect containers by Podman's own API (GET /libpod/containers/.../json)"]


def test_a_changed_file_may_have_any_name(script: ScriptedEngine) -> None:
    """Podman writes the bytes of a file's name as they are; those that are no UTF-8 stay what they are."""
    _podman(script, {"Name": "Podman Engine", "Version": "5.8.2"})
    script.says("GET", f"/containers/{ID}/changes", answer(b'[{"Path": "/tmp/caf\xe9", "Kind": 1}]'))
    changes = script.engine().container_changes("web")
    assert [(os.fsencode(change.path), change.kind) for change in changes] == [(b"/tmp/caf\xe9", "added")]


@pytest.mark.parametrize(
    ("shown", "asked"),
    [
        ({"Type": "k8s-file", "Path": f"/c/{ID}/userdata/ctr.log", "Tag": "", "Size": "-1B"}, {}),
        ({"Type": "journald", "Path": "", "Tag": "web", "Size": "0B"}, {"tag": "web"}),
        (
            {"Type": "json-file", "Path": "/var/log/web", "Tag": "", "Size": "10MB"},
            {"path": "/var/log/web", "max-size": "10MB"},
        ),
    ],
)
def test_the_log_is_the_one_that_podman_shows_natively(
    script: ScriptedEngine, shown: dict[str, str], asked: dict[str, str]
) -> None:
    """Docker's API calls a driver of Podman json-file and shows no options; an inspection has what was asked for."""
    _podman(script, {"Name": "Podman Engine", "Version": "5.8.2"})
    script.says("GET", f"/libpod/containers/{ID}/json", answer({"Id": ID, "HostConfig": {"LogConfig": shown}}))
    found = script.engine().inspect_container("web")["HostConfig"]["LogConfig"]
    assert found == {"Type": shown["Type"], "Config": asked}


@pytest.mark.parametrize(("podman", "sent"), [(True, "k8s-file"), (False, "json-file")])
def test_a_log_driver_of_podman_has_another_name_on_docker(script: ScriptedEngine, *, podman: bool, sent: str) -> None:
    """A container that moves from Podman to Docker logs to a file there, too."""
    if podman:
        _podman(script, {"Name": "Podman Engine", "Version": "5.8.2"})
    script.says("POST", "/containers/create.*", answer({"Id": ID}))
    body = {"Image": "i", "HostConfig": {"LogConfig": {"Type": "k8s-file", "Config": {"max-size": "10MB"}}}}
    script.engine().create_container("web", body)
    assert script.asked[-1].json["HostConfig"]["LogConfig"] == {"Type": sent, "Config": {"max-size": "10MB"}}
    script.engine().create_container("web", {"Image": "i"})
    assert script.asked[-1].json == {"Image": "i"}


@pytest.mark.parametrize(
    ("limit", "annotations", "sent"),
    [
        (2048, {}, None),
        (2048, {"io.podman.annotations.pids-limit": "2048"}, 2048),
        (77, {"io.podman.annotations.pids-limit": "77"}, 77),
        (77, {}, 77),
        (-1, {"io.podman.annotations.pids-limit": "-1"}, -1),
        (0, {"io.podman.annotations.pids-limit": "0"}, 0),
    ],
)
def test_a_limit_that_nobody_asked_for_is_not_asked_for(
    limit: int, annotations: dict[str, str], sent: int | None
) -> None:
    """Podman notes a limit of processes that it was asked for; its default comes by itself, without the note."""
    found = translated({"HostConfig/PidsLimit": limit, "HostConfig/Annotations": annotations})
    assert found["HostConfig"]["PidsLimit"] == limit
    assert create_request(found, image="x", image_config={}).body["HostConfig"].get("PidsLimit") == sent
    assert compare(found, {**found, "OwnDefaults": []}) == []
