"""Helper containers: how they are made, what they mount, and that none is left."""

from __future__ import annotations

from typing import Any

import pytest

from docker_rollback._engine.port import ContainerFilter, EngineInfo
from docker_rollback._volumes.access import helper_image, host_programs
from docker_rollback._volumes.access.helper import remove_left_over, request
from docker_rollback._volumes.access.helper_source import Helpers, Use, mount
from docker_rollback.errors import EngineError, EngineTimeoutError, EngineUnavailableError, VolumeAccessError
from docker_rollback.testing import FailingEngine, FakeEngine, Run

PLAIN = {"Name": "vol", "Driver": "local", "Options": None, "Mountpoint": "/engine/volumes/vol/_data"}
BOUND = {**PLAIN, "Options": {"type": "none", "o": "bind", "device": "/srv"}}
ANONYMOUS = "a" * 64


@pytest.fixture
def fake() -> FakeEngine:
    """Give an engine with two volumes."""
    engine = FakeEngine()
    engine.volume("data").write("/file", "content")
    engine.volume("more").write("/other", "content")
    return engine


def volumes(fake: FakeEngine, *names: str) -> dict[str, Any]:
    """Return the inspections of volumes."""
    return {name: fake.inspect_volume(name) for name in names}


def nothing_left(fake: FakeEngine) -> bool:
    """Say whether an engine has neither a helper nor a helper's image."""
    return not fake.list_containers() and not fake.has_image(helper_image.pack_kit().tag)


class PodmanLike(FakeEngine):
    """An engine that says that it is Podman, and removes containers and volumes as Podman does."""

    def info(self) -> EngineInfo:
        """Say so."""
        found = super().info()
        return EngineInfo("podman", *[getattr(found, field.name) for field in EngineInfo.__attrs_attrs__[1:]])


# What a helper is


def test_a_helper_has_what_tar_needs_and_nothing_more() -> None:
    """No network, no log, no health check, no label of an application, every right over files."""
    toolbox = helper_image.foreign(
        "sha256:1", {"Volumes": {"/data": {}, "/own": {}}, "Labels": {"proxy.enable": "true"}}
    )
    labels = {"docker-rollback.role": "helper", "docker-rollback.operation": "op"}
    made = request(toolbox, [mount("vol", PLAIN, "read", 0, podman=False)], labels=labels, auto_remove=True)
    host = made["HostConfig"]
    assert (host["NetworkMode"], host["LogConfig"]["Type"], host["UsernsMode"]) == ("none", "none", "host")
    assert host["CapDrop"] == ["ALL"]
    assert {"SYS_ADMIN", "MKNOD", "SETFCAP", "DAC_OVERRIDE", "CHOWN"} <= set(host["CapAdd"])
    assert (made["Healthcheck"], made["User"], host["SecurityOpt"]) == ({"Test": ["NONE"]}, "0:0", ["label=disable"])
    labels = {"proxy.enable": "", "docker-rollback.role": "helper", "docker-rollback.operation": "op"}
    assert made["Labels"] == labels
    # It ends with its maker for good, and goes then by itself.
    assert (host["RestartPolicy"]["Name"], host["AutoRemove"], made["StopSignal"]) == ("no", True, "SIGKILL")
    assert made["Env"] == ["LC_ALL=C", "TAR_OPTIONS="]
    # An image's VOLUME would be an anonymous volume, which is created, and on Podman removed with others.
    assert host["Tmpfs"] == {"/data": "", "/own": ""}


@pytest.mark.parametrize(
    ("inspection", "use", "podman", "kind", "target"),
    [
        (PLAIN, "read", False, "volume", "/.docker-rollback/volumes/3"),
        (PLAIN, "fill", False, "volume", "/.docker-rollback/volumes/3"),
        (BOUND, "read", False, "volume", "/.docker-rollback/volumes/3"),
        (PLAIN, "read", True, "bind", "/.docker-rollback/volumes/3"),
        (BOUND, "read", True, "volume", "/.docker-rollback/volumes/3"),
        (PLAIN, "fill", True, "volume", "/.docker-rollback/padded"),
    ],
)
def test_a_volume_is_mounted_so_that_the_engine_changes_nothing_in_it(
    inspection: dict[str, Any], use: Use, *, podman: bool, kind: str, target: str
) -> None:
    """Read, it is read-only, and Podman does not even notice; filled, Podman takes its own filling for done."""
    made = mount("vol", inspection, use, 3, podman=podman)
    assert (made.target, made.request["Type"], made.request["ReadOnly"]) == (target, kind, use == "read")
    assert made.request["Source"] == (PLAIN["Mountpoint"] if kind == "bind" else "vol")
    assert kind == "bind" or made.request["VolumeOptions"] == {"NoCopy": True}


@pytest.mark.parametrize(("name", "goes"), [("named", True), (ANONYMOUS, False)])
def test_on_podman_a_helper_with_an_anonymous_volume_does_not_remove_itself(name: str, *, goes: bool) -> None:
    """Podman removes a container's anonymous volumes with it, also those that are an application's."""
    fake = PodmanLike()
    fake.volume(name)
    with Helpers(fake).standing(volumes(fake, name), "fill", operation="op"):
        (helper,) = fake.list_containers()
        assert fake.inspect_container(helper)["HostConfig"]["AutoRemove"] is goes
    assert fake.inspect_volume(name)
    assert nothing_left(fake)


# Its life


def test_a_helper_runs_programs_on_its_volumes(fake: FakeEngine) -> None:
    """It sees the files of each volume where it says, and is gone afterwards."""
    with Helpers(fake).standing(volumes(fake, "data", "more"), "read", operation="op") as helper:
        assert helper.ask(("cat", f"{helper.roots['data']}/file", f"{helper.roots['more']}/other")) == "contentcontent"
        assert helper.ask(("false",)) is None
        assert fake.list_containers(ContainerFilter(labels={"docker-rollback.operation": "op"})) != []
    assert nothing_left(fake)


def test_a_helper_is_gone_whatever_happens_in_its_block(fake: FakeEngine) -> None:
    """An exception from the block comes out untouched, and nothing is left."""
    with pytest.raises(KeyError), Helpers(fake).standing(volumes(fake, "data"), "read", operation="op"):
        raise KeyError
    assert nothing_left(fake)


def test_nothing_is_left_wherever_the_engine_fails(fake: FakeEngine) -> None:
    """At whichever call the engine refuses, or loses its answer, neither helper nor image stays behind."""
    for after in (False, True):
        at = 0
        while True:
            at += 1
            failing = FailingEngine(fake, at=at, after=after)
            try:
                with Helpers(failing).standing(volumes(fake, "data"), "read", operation="op"):
                    pass
            except (VolumeAccessError, EngineTimeoutError):
                pass
            # Where removing is what failed, what is left is left to `remove_left_over`.
            if failing.struck is not None and failing.struck.verb.startswith("remove_"):
                remove_left_over(fake, lambda _: True)
                fake.remove_image(helper_image.pack_kit().tag)
            assert nothing_left(fake), failing.story()
            if failing.struck is None:
                break
        assert at > 4


def test_leftovers_are_those_whose_makers_died(fake: FakeEngine) -> None:
    """Only helpers are removed, and of them those whose lock nobody holds; one that names none stays."""
    fake.add_image("app")
    app = fake.run("app", image="app")
    toolbox = helper_image.foreign(str(fake.inspect_image("app")["Id"]), {})
    made = {}
    for lock in ("/one", "/two", ""):
        labels = {"docker-rollback.role": "helper", "docker-rollback.lock": lock}
        wanted = request(toolbox, [], labels=labels, auto_remove=True)
        made[lock] = fake.create_container(f"docker-rollback-helper-left{lock.replace('/', '-')}", wanted)
    assert remove_left_over(fake, lambda lock: lock == "/two") == [made["/two"]]
    assert sorted(fake.list_containers()) == sorted([app, made["/one"], made[""]])


# Its image


class Snatching:
    """An engine whose helper image is removed by somebody else just before the first container of it is made."""

    def __init__(self, fake: FakeEngine, times: int) -> None:
        self._fake = fake
        self._times = times

    def create_container(self, name: str, wanted: dict[str, Any], *, platform: str | None = None) -> str:
        """Create one, once the image is gone."""
        if self._times:
            self._times -= 1
            self._fake.remove_image(helper_image.pack_kit().tag)
        return self._fake.create_container(name, wanted, platform=platform)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fake, name)


def test_an_image_that_another_process_removed_is_brought_in_again(fake: FakeEngine) -> None:
    """The image is shared between processes; one that is done with it does not break another."""
    engine: Any = Snatching(fake, 2)
    with Helpers(engine).standing(volumes(fake, "data"), "read", operation="op") as helper:
        assert helper.ask(("cat", f"{helper.roots['data']}/file")) == "content"
    assert nothing_left(fake)


def test_an_image_that_never_stays_is_an_error(fake: FakeEngine) -> None:
    """It is not tried for ever."""
    engine: Any = Snatching(fake, 100)
    with (
        pytest.raises(VolumeAccessError, match="no helper container reaches it"),
        Helpers(engine).standing(volumes(fake, "data"), "read", operation="op"),
    ):
        pytest.fail("a helper stands that cannot")


def test_a_named_image_is_used_and_kept(fake: FakeEngine) -> None:
    """The image that was named serves, by its own programs, and stays."""
    fake.add_image("toolbox:1", labels={"proxy": "on"}, volumes=["/var/lib/x"])
    with Helpers(fake, image="toolbox:1").standing(volumes(fake, "data"), "read", operation="op") as helper:
        assert helper.ask(("cat", f"{helper.roots['data']}/file")) == "content"
        (made,) = fake.list_containers()
        assert fake.inspect_container(made)["Config"]["Labels"]["proxy"] == ""
    assert fake.has_image("toolbox:1")
    assert fake.list_volumes() == ["data", "more"]


def test_a_named_image_without_gnu_tar_is_refused(fake: FakeEngine) -> None:
    """An image whose tar is another one would lose attributes without a word."""

    def busybox(run: Run) -> int:
        run.stdout += b"tar (busybox) 1.35.0\n"
        return 0

    fake.add_image("toolbox:1")
    fake.program("tar", busybox)
    with (
        pytest.raises(VolumeAccessError, match=r"volume 'data': no helper .* has no GNU tar"),
        Helpers(fake, image="toolbox:1").standing(volumes(fake, "data"), "read", operation="op"),
    ):
        pytest.fail("a helper stands that has no GNU tar")
    assert fake.list_containers() == []


def test_a_named_image_that_is_missing_is_named(fake: FakeEngine) -> None:
    """The error says which image the engine does not have."""
    with (
        pytest.raises(VolumeAccessError, match="no image 'nowhere:1'"),
        Helpers(fake, image="nowhere:1").standing(volumes(fake, "data"), "read", operation="op"),
    ):
        pytest.fail("a helper stands without an image")


def test_where_no_image_can_be_made_a_users_image_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """On another architecture, the image of a container that uses the volume is taken, if it has GNU tar."""
    fake = FakeEngine(architecture="s390x")
    fake.add_image("db:1")
    fake.run("db", image="db:1", volumes={"data": "/data"}, start=False)
    fake.volume("data").write("/file", "content")
    with Helpers(fake).standing(volumes(fake, "data"), "read", operation="op") as helper:
        assert not helper.toolbox.ours
        assert helper.ask(("cat", f"{helper.roots['data']}/file")) == "content"
    monkeypatch.setattr(host_programs, "is_gnu_tar", lambda _: False)
    with (
        pytest.raises(VolumeAccessError, match=r"host is s390x; image .* has no GNU tar"),
        Helpers(fake).standing(volumes(fake, "data"), "read", operation="op"),
    ):
        pytest.fail("a helper stands that has no GNU tar")


# What stands in its way


class Refusing:
    """An engine that cannot mount one volume."""

    def __init__(self, fake: FakeEngine, volume: str, error: EngineError) -> None:
        self._fake = fake
        self._volume = volume
        self._error = error

    def create_container(self, name: str, wanted: dict[str, Any], *, platform: str | None = None) -> str:
        """Create one, unless it mounts the volume."""
        if any(one["Source"] == self._volume for one in wanted["HostConfig"]["Mounts"]):
            raise self._error
        return self._fake.create_container(name, wanted, platform=platform)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fake, name)


def test_the_volume_that_cannot_be_mounted_is_named(fake: FakeEngine) -> None:
    """Of several volumes, the error names the one that stands in the way, and why."""
    engine: Any = Refusing(fake, "more", EngineError("create container", "plugin 'far' not found", status=400))
    with (
        pytest.raises(VolumeAccessError, match="'far' not found") as caught,
        Helpers(engine).standing(volumes(fake, "data", "more"), "read", operation="op"),
    ):
        pytest.fail("a helper stands that cannot")
    assert caught.value.volume == "more"
    assert nothing_left(fake)


@pytest.mark.parametrize("error", [EngineUnavailableError("create", "gone"), EngineTimeoutError("create", "late")])
def test_an_engine_that_does_not_answer_is_no_fault_of_the_volume(fake: FakeEngine, error: EngineError) -> None:
    """That comes out as what it is, and no other image is tried."""
    engine: Any = Refusing(fake, "data", error)
    with (
        pytest.raises(type(error)),
        Helpers(engine).standing(volumes(fake, "data"), "read", operation="op"),
    ):
        pytest.fail("a helper stands that cannot")
