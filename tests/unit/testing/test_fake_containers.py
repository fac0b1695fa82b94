"""Containers of the in-memory engine live as those of Docker do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from docker_rollback._engine.port import Change, ContainerFilter
from docker_rollback.errors import (
    ContainerNotFoundError,
    EngineConflictError,
    EngineError,
    ImageNotFoundError,
    NetworkNotFoundError,
)
from docker_rollback.testing import FakeClock, FakeContainer, FakeEngine


def state(fake: FakeEngine, ref: str = "shop") -> dict[str, Any]:
    """Return a container's state, as its inspection has it."""
    found: dict[str, Any] = fake.inspect_container(ref)["State"]
    return found


def test_a_container_runs_once_it_has_been_started(fake: FakeEngine) -> None:
    """A container that `run` makes is there, by its name, its id and the beginning of its id, and runs."""
    identity = fake.run("shop", image="shop:1")
    for ref in ("shop", "/shop", identity, identity[:12]):
        assert fake.inspect_container(ref)["Id"] == identity
    assert state(fake)["Status"] == "running"
    with pytest.raises(ContainerNotFoundError):
        fake.inspect_container(identity[:11])


def test_a_container_is_created_and_no_more_until_its_start(fake: FakeEngine) -> None:
    """A container that was created only has no process, no address and no start."""
    fake.run("shop", image="shop:1", start=False)
    found = fake.inspect_container("shop")
    assert found["State"]["Status"] == "created"
    assert found["State"]["StartedAt"] == "0001-01-01T00:00:00Z"
    assert found["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] == ""


def test_ids_repeat() -> None:
    """Two engines of the same seed make the same ids, one of another seed makes others."""
    ids = []
    for seed in ("", "", "another"):
        fake = FakeEngine(seed=seed)
        fake.add_image("shop:1")
        ids.append(fake.run("shop", image="shop:1"))
    assert ids[0] == ids[1] != ids[2]


def test_every_status_can_be_reached_and_left(fake: FakeEngine) -> None:
    """Stop, kill, pause, unpause and start lead where they do on Docker; each is harmless where nothing is to do."""
    fake.run("shop", image="shop:1")
    for step, expected, code in (
        (fake.start_container, "running", 0),
        (fake.pause_container, "paused", 0),
        (fake.pause_container, "paused", 0),
        (fake.unpause_container, "running", 0),
        (fake.unpause_container, "running", 0),
        (fake.kill_container, "exited", 137),
        (fake.kill_container, "exited", 137),
        (fake.stop_container, "exited", 137),
        (fake.start_container, "running", 0),
        (fake.stop_container, "exited", 0),
    ):
        step("shop")
        assert (state(fake)["Status"], state(fake)["ExitCode"]) == (expected, code)


@pytest.mark.parametrize("verb", ["pause_container", "unpause_container"])
def test_what_does_not_run_cannot_be_frozen(fake: FakeEngine, verb: str) -> None:
    """Pause and unpause are refused for a container that was stopped."""
    fake.run("shop", image="shop:1", start=False)
    with pytest.raises(EngineConflictError):
        getattr(fake, verb)("shop")


def test_a_paused_container_is_not_started(fake: FakeEngine) -> None:
    """A start of a paused container is refused, for unpause is what it wants."""
    fake.run("shop", image="shop:1")
    fake.pause_container("shop")
    with pytest.raises(EngineConflictError):
        fake.start_container("shop")


def test_a_stop_without_patience_kills(fake: FakeEngine) -> None:
    """A program that is given no time to end has the exit code of SIGKILL."""
    fake.run("shop", image="shop:1")
    fake.stop_container("shop", timeout=0)
    assert state(fake)["ExitCode"] == 137


def test_a_name_is_given_once(fake: FakeEngine) -> None:
    """Creating and renaming to a taken name is a conflict; to its own name, a container may be renamed."""
    fake.run("shop", image="shop:1")
    fake.run("other", image="shop:1")
    with pytest.raises(EngineConflictError):
        fake.run("shop", image="shop:1")
    with pytest.raises(EngineConflictError):
        fake.rename_container("other", "shop")
    fake.rename_container("other", "other")
    fake.rename_container("other", "renamed")
    assert fake.inspect_container("renamed")["Name"] == "/renamed"


@pytest.mark.parametrize("name", ["x", "", "-x", "a b", "a/b"])
def test_a_name_that_is_none_is_refused(fake: FakeEngine, name: str) -> None:
    """Docker's rule for names holds."""
    with pytest.raises(EngineError):
        fake.run(name, image="shop:1")


def test_an_unknown_image_is_named(fake: FakeEngine) -> None:
    """Creating from an image that is not there raises the error that says so."""
    with pytest.raises(ImageNotFoundError) as caught:
        fake.run("shop", image="nosuch:1")
    assert caught.value.name == "nosuch:1"


def test_the_image_is_merged_into_the_configuration(fake: FakeEngine) -> None:
    """What the request does not say comes from the image: environment behind, labels, ports and volumes together."""
    fake.run(
        "shop",
        image="shop:1",
        env=["MODE=mine", "EXTRA"],
        labels={"own": "yes"},
        anonymous=["/cache"],
        ports={"81/tcp": "8081"},
    )
    config = fake.inspect_container("shop")["Config"]
    assert config["Env"] == ["MODE=mine", "EXTRA", "PATH=/bin"]
    assert config["Labels"] == {"from": "image", "own": "yes"}
    assert config["Volumes"] == {"/data": {}, "/cache": {}}
    assert config["ExposedPorts"] == {"80/tcp": {}, "81/tcp": {}}
    assert config["Cmd"] == ["/app"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (["/entry"], ["serve"])),
        ({"Cmd": ["mine"]}, (["/entry"], ["mine"])),
        ({"Entrypoint": ["/mine"]}, (["/mine"], None)),
        ({"Entrypoint": ["/mine"], "Cmd": ["x"]}, (["/mine"], ["x"])),
        ({"Entrypoint": [""], "Cmd": ["x"]}, (None, ["x"])),
        ({"Entrypoint": []}, ([], ["serve"])),
    ],
)
def test_entrypoint_and_command_follow_dockers_rule(
    fake: FakeEngine, config: dict[str, Any], expected: tuple[Any, Any]
) -> None:
    """An entrypoint of one's own makes the image's command void; one empty string clears the image's."""
    fake.add_image("tool:1", entrypoint=["/entry"], command=["serve"])
    fake.run("tool", image="tool:1", config=config)
    found = fake.inspect_container("tool")["Config"]
    assert (found["Entrypoint"], found["Cmd"]) == expected


def test_no_command_is_refused(fake: FakeEngine) -> None:
    """A container with nothing to run is not created."""
    fake.add_image("bare:1", command=None)
    with pytest.raises(EngineError, match="no command specified"):
        fake.run("bare", image="bare:1")


def test_the_rest_of_an_images_configuration_is_inherited(fake: FakeEngine) -> None:
    """User, working folder, signal and shell come from the image, unless the container has its own."""
    fake.add_image("tool:1", user="7", workdir="/srv", config={"StopSignal": "SIGKILL", "Shell": ["/bin/ash"]})
    fake.run("tool", image="tool:1")
    fake.run("own", image="tool:1", config={"User": "8", "StopSignal": "SIGINT"})
    tool, own = (fake.inspect_container(name)["Config"] for name in ("tool", "own"))
    assert (tool["User"], tool["WorkingDir"], tool["StopSignal"], tool["Shell"]) == (
        "7",
        "/srv",
        "SIGKILL",
        ["/bin/ash"],
    )
    assert (own["User"], own["StopSignal"]) == ("8", "SIGINT")
    assert fake.inspect_image("tool:1")["Config"]["StopSignal"] == "SIGKILL"
    fake.stop_container("tool")
    fake.stop_container("own")
    assert (state(fake, "tool")["ExitCode"], state(fake, "own")["ExitCode"]) == (137, 0)


def test_an_unconfined_container_has_no_masks(fake: FakeEngine) -> None:
    """A privileged container has none of the paths that an engine hides; an empty list stays empty."""
    fake.run("open", image="shop:1", Privileged=True)
    fake.run("half", image="shop:1", MaskedPaths=[])
    assert fake.inspect_container("open")["HostConfig"]["MaskedPaths"] is None
    assert fake.inspect_container("half")["HostConfig"]["MaskedPaths"] == []
    assert fake.inspect_container("half")["HostConfig"]["ReadonlyPaths"]


def test_a_container_wide_address_goes_to_its_own_network(fake: FakeEngine) -> None:
    """`Config.MacAddress` of a request is the address in the container's own network."""
    fake.run("shop", image="shop:1", config={"MacAddress": "02:00:00:00:00:01"}, networks=["front", "back"])
    found = fake.inspect_container("shop")
    assert found["Config"]["MacAddress"] == "02:00:00:00:00:01"
    assert found["NetworkSettings"]["Networks"]["front"]["MacAddress"] == "02:00:00:00:00:01"
    assert found["NetworkSettings"]["Networks"]["back"]["MacAddress"] != "02:00:00:00:00:01"


@pytest.mark.parametrize("status", ["created", "paused", "restarting"])
def test_programs_want_a_container_that_runs(fake: FakeEngine, status: str) -> None:
    """In no other state is anything run."""
    fake.run("shop", image="shop:1", restart="always", start=status != "created")
    if status == "paused":
        fake.pause_container("shop")
    if status == "restarting":
        fake.container("shop").exit(1)
    with pytest.raises(EngineConflictError):
        fake.exec("shop", ["true"])


def test_the_engine_says_who_it_is() -> None:
    """It is a fake of the architecture that it was given, of this machine's otherwise."""
    assert FakeEngine(architecture="aarch64").info().architecture == "aarch64"
    assert FakeEngine().info().flavour == "fake"


def test_a_health_check_inherits_field_by_field(fake: FakeEngine) -> None:
    """What a container's check leaves open is as its image has it; NONE switches it off."""
    fake.add_image("well:1", healthcheck={"Test": ["CMD", "true"], "Interval": 5, "Retries": 2})
    fake.run("well", image="well:1", healthcheck={"Interval": 7})
    fake.run("none", image="well:1", healthcheck={"Test": ["NONE"]})
    assert fake.inspect_container("well")["Config"]["Healthcheck"] == {
        "Test": ["CMD", "true"],
        "Interval": 7,
        "Retries": 2,
    }
    assert state(fake, "well")["Health"]["Status"] == "healthy"
    assert "Health" not in state(fake, "none")


def test_health_is_what_the_test_says(fake: FakeEngine) -> None:
    """A program may leave its health open, then turn unhealthy and well again."""
    fake.on_start("shop", lambda shop: shop.starting())
    fake.run("shop", image="shop:1", healthcheck={"Test": ["CMD", "true"], "Retries": 2})
    shop = fake.container("shop")
    assert shop.health == "starting"
    shop.probe(1, "no answer")
    assert shop.health == "starting"
    shop.probe(1)
    assert state(fake)["Health"]["Status"] == "unhealthy"
    assert state(fake)["Health"]["FailingStreak"] == 2
    shop.probe(0)
    assert state(fake)["Health"]["FailingStreak"] == 0
    fake.stop_container("shop")
    assert shop.health == "unhealthy"


def test_a_container_without_a_check_has_no_health(fake: FakeEngine) -> None:
    """Probing where there is nothing to probe changes nothing."""
    fake.run("shop", image="shop:1")
    fake.container("shop").probe(1)
    fake.container("shop").starting()
    assert fake.container("shop").health is None


@pytest.mark.parametrize(
    ("restart", "code", "comes_back"),
    [
        ("no", 1, False),
        ("always", 0, True),
        ("unless-stopped", 1, True),
        ("on-failure", 0, False),
        ("on-failure", 1, True),
        ("on-failure:1", 1, True),
    ],
)
def test_the_restart_policy_decides_who_comes_back(
    fake: FakeEngine, clock: FakeClock, restart: str, code: int, *, comes_back: bool
) -> None:
    """A program that ends by itself comes back where its policy says so, after a pause; until then it is restarting."""
    fake.run("shop", image="shop:1", restart=restart)
    fake.container("shop").exit(code)
    assert state(fake)["Status"] == ("restarting" if comes_back else "exited")
    clock.advance(1)
    assert state(fake)["Status"] == ("running" if comes_back else "exited")
    assert fake.inspect_container("shop")["RestartCount"] == int(comes_back)


def test_a_policy_with_a_limit_gives_up(fake: FakeEngine, clock: FakeClock) -> None:
    """After as many tries as the policy allows, the container stays as it is."""
    fake.on_start("shop", lambda shop: shop.exit(3))
    fake.run("shop", image="shop:1", restart="on-failure:2")
    for _ in range(5):
        clock.advance(60)
        state(fake)
    assert (state(fake)["Status"], state(fake)["ExitCode"]) == ("exited", 3)
    assert fake.inspect_container("shop")["RestartCount"] == 2


def test_what_somebody_stopped_stays_stopped(fake: FakeEngine, clock: FakeClock) -> None:
    """No policy starts again what was stopped or killed, also while it was waiting for its next try."""
    fake.run("shop", image="shop:1", restart="always")
    fake.kill_container("shop")
    clock.advance(100)
    assert state(fake)["Status"] == "exited"
    fake.start_container("shop")
    fake.container("shop").exit(4)
    with pytest.raises(EngineConflictError):
        fake.pause_container("shop")
    fake.stop_container("shop")
    clock.advance(100)
    assert (state(fake)["Status"], state(fake)["ExitCode"]) == ("exited", 4)


def test_a_container_that_removes_itself_takes_its_own_volumes(fake: FakeEngine) -> None:
    """The end of a ``--rm`` container removes it and its anonymous volumes; named ones stay."""
    fake.run("shop", image="shop:1", volumes={"kept": "/kept"}, auto_remove=True)
    own = fake.anonymous_volume("shop", "/data")
    shop = fake.container("shop")
    fake.stop_container("shop")
    assert shop.status == "removed"
    assert fake.list_volumes() == ["kept"]
    assert own not in fake.list_volumes()


@pytest.mark.parametrize(
    "host",
    [
        {"AutoRemove": True, "RestartPolicy": {"Name": "always"}},
        {"RestartPolicy": {"Name": "sometimes"}},
        {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 2}},
        {"NanoCpus": 1, "CpuQuota": 1},
        {"Runtime": "nosuch"},
        {"Binds": ["one:/data", "two:/data/"]},
        {"Binds": ["one:relative"]},
        {"Mounts": [{"Type": "bind", "Source": "/nowhere/at/all", "Target": "/x"}]},
        {"Mounts": [{"Type": "image", "Target": "/x"}]},
        {"Mounts": [{"Type": "volume", "Target": "x"}]},
        {"VolumesFrom": ["nosuch"]},
        {"Links": ["nosuch:alias"]},
        {"UTSMode": "host"},
        {"NetworkMode": "container:shop"},
    ],
)
def test_a_request_that_contradicts_itself_is_refused(fake: FakeEngine, host: dict[str, Any]) -> None:
    """What Docker does not create is not created here, and leaves no container behind."""
    request = {"Image": "shop:1", "Hostname": "mine", "HostConfig": host}
    fake.run("shop", image="shop:1")
    with pytest.raises(EngineError):
        fake.create_container("bad", request)
    assert len(fake.list_containers()) == 1


def test_a_policy_is_changed_in_place(fake: FakeEngine) -> None:
    """An update changes the policy and the resources that it names; zero means as it is."""
    fake.run("shop", image="shop:1", restart="always", Memory=64_000_000)
    fake.update_container("shop", {"RestartPolicy": {"Name": "no"}, "CpuShares": 5, "Memory": 0})
    host = fake.inspect_container("shop")["HostConfig"]
    assert host["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert (host["CpuShares"], host["Memory"], host["MemorySwap"]) == (5, 64_000_000, 128_000_000)


@pytest.mark.parametrize(
    ("host", "changes"),
    [
        ({"AutoRemove": True}, {"RestartPolicy": {"Name": "always"}}),
        ({"NanoCpus": 500_000_000}, {"CpuQuota": 50_000}),
    ],
)
def test_an_update_that_cannot_be_is_a_conflict(
    fake: FakeEngine, host: dict[str, Any], changes: dict[str, Any]
) -> None:
    """A container that removes itself takes no policy, one that has whole CPUs no quota."""
    fake.create_container("shop", {"Image": "shop:1", "HostConfig": host})
    with pytest.raises(EngineConflictError):
        fake.update_container("shop", changes)


def test_what_runs_is_removed_by_force_alone(fake: FakeEngine) -> None:
    """A running container is not removed, unless forced; one that is not there is no error."""
    fake.run("shop", image="shop:1")
    own = fake.anonymous_volume("shop", "/data")
    with pytest.raises(EngineConflictError):
        fake.remove_container("shop")
    fake.remove_container("shop", force=True)
    assert own in fake.list_volumes()
    fake.remove_container("shop", force=True)


def test_an_inspection_is_the_callers_own(fake: FakeEngine) -> None:
    """Changing what an inspection answered changes nothing in the engine."""
    fake.run("shop", image="shop:1")
    found: Any = fake.inspect_container("shop")
    found["Config"]["Labels"]["new"] = "label"
    found["HostConfig"]["Binds"] = ["x:/y"]
    assert "new" not in fake.inspect_container("shop")["Config"]["Labels"]
    assert fake.inspect_container("shop")["HostConfig"]["Binds"] is None


def test_a_list_names_what_its_filter_describes(fake: FakeEngine) -> None:
    """Each condition of a filter narrows the list."""
    shop = fake.run("shop", image="shop:1", labels={"a": "1"}, volumes={"data": "/data"}, networks=["front"])
    fake.run("other", image="shop:1", start=False)
    everything = fake.list_containers()
    assert len(everything) == 2
    for where in (
        ContainerFilter(name="shop"),
        ContainerFilter(name=("sho", "shop")),
        ContainerFilter(name_prefix="sh"),
        ContainerFilter(labels={"a": "1"}),
        ContainerFilter(volume="data"),
        ContainerFilter(network="front"),
        ContainerFilter(running=True),
    ):
        assert fake.list_containers(where) == [shop]
    assert fake.list_containers(ContainerFilter(name="sho")) == []
    with pytest.raises(NetworkNotFoundError):
        fake.list_containers(ContainerFilter(network="nosuch"))


def test_a_new_container_changes_nothing(fake: FakeEngine) -> None:
    """A container whose mounts fall on folders of its image has a clean writable layer, also after it has run."""
    fake.run("shop", image="shop:1")
    fake.stop_container("shop")
    assert fake.container_changes("shop") == []


def test_the_writable_layer_tells_what_changed(fake: FakeEngine) -> None:
    """Files added, changed and deleted are listed with the folders on their way; what is in volumes is not."""
    fake.run("shop", image="shop:1", volumes={"cache": "/var/cache"})
    shop = fake.container("shop")
    shop.write("/etc/new/file", "x")
    shop.touch("/etc/shop.conf")
    shop.delete("/app")
    shop.write("/data/order", "in a volume")
    shop.write("/var/cache/page", "in a volume")
    assert fake.container_changes("shop") == [
        Change("/app", "deleted"),
        Change("/etc", "changed"),
        Change("/etc/new", "added"),
        Change("/etc/new/file", "added"),
        Change("/etc/shop.conf", "changed"),
        Change("/var", "added"),
        Change("/var/cache", "added"),
    ]


def test_the_log_keeps_what_was_printed(fake: FakeEngine) -> None:
    """The last lines that a program printed are its log."""
    fake.run("shop", image="shop:1")
    fake.container("shop").print("one", "two", "three")
    assert fake.container_logs("shop", tail=2) == "two\nthree\n"
    assert fake.container_logs("shop", tail=9) == "one\ntwo\nthree\n"
    assert fake.container_logs("shop", tail=0) == ""


def test_programs_behave_as_they_are_told(fake: FakeEngine, clock: FakeClock) -> None:
    """A container's own behaviour goes before that of its image, by name or id; time moves with the clock alone."""
    seen: list[str] = []

    def note(word: str) -> Callable[[FakeContainer], None]:
        return lambda container: seen.append(f"{word} {container.name} {container.image}")

    fake.on_start("shop:1", note("image"))
    fake.on_start("mine", note("own"))
    fake.on_stop(str(fake.inspect_image("shop:1")["Id"]), note("stop"))
    fake.run("mine", image="shop:1")
    fake.run("other", image="shop:1")
    fake.stop_container("other")
    assert seen == ["own mine shop:1", "image other shop:1", "stop other shop:1"]
    mine = fake.container("mine")
    mine.after(5, lambda: mine.exit(9))
    clock.advance(4.9)
    assert fake.container("mine").status == "running"
    clock.sleep(0.2)
    assert (fake.container("mine").status, mine.exit_code) == ("exited", 9)


def test_a_clock_tells_how_long_it_is(clock: FakeClock) -> None:
    """It counts the seconds from its beginning, and sleeping moves it; it never goes back."""
    clock.sleep(1.5)
    clock.sleep(-1)
    assert clock.monotonic() == 1.5


def test_what_was_due_in_one_run_does_not_strike_the_next(fake: FakeEngine, clock: FakeClock) -> None:
    """A stop and a start forget what the program was about to do."""
    fake.run("shop", image="shop:1")
    shop = fake.container("shop")
    shop.after(5, lambda: shop.exit(9))
    fake.stop_container("shop")
    fake.start_container("shop")
    clock.advance(10)
    assert fake.container("shop").status == "running"


def test_a_program_that_ends_itself_when_asked_keeps_its_code(fake: FakeEngine) -> None:
    """What `on_stop` does comes before the end, and may be the end."""
    fake.on_stop("shop", lambda shop: shop.exit(143))
    fake.run("shop", image="shop:1")
    fake.stop_container("shop")
    assert state(fake)["ExitCode"] == 143


def test_a_handle_reads_well(fake: FakeEngine) -> None:
    """A handle says in a message which container it is and what it does; its exit is harmless once it has ended."""
    identity = fake.run("shop", image="shop:1")
    shop = fake.container("shop")
    shop.exit(2)
    shop.exit(3)
    assert repr(shop) == "<FakeContainer 'shop' exited>"
    assert (shop.id, shop.exit_code) == (identity, 2)


def test_a_shared_network_needs_its_owner(fake: FakeEngine) -> None:
    """A container that shares another's network is bound to that one's id, and starts only while it runs."""
    owner = fake.run("owner", image="shop:1")
    fake.create_container("guest", {"Image": "shop:1", "HostConfig": {"NetworkMode": "container:owner"}})
    fake.create_container("orphan", {"Image": "shop:1", "HostConfig": {"NetworkMode": "container:nosuch"}})
    found = fake.inspect_container("guest")
    assert found["HostConfig"]["NetworkMode"] == f"container:{owner}"
    assert found["NetworkSettings"]["Networks"] == {}
    fake.start_container("guest")
    fake.stop_container("guest")
    fake.stop_container("owner")
    for name in ("guest", "orphan"):
        with pytest.raises(EngineConflictError):
            fake.start_container(name)
        assert state(fake, name)["Error"]
    assert state(fake, "orphan")["ExitCode"] == 128


def test_links_and_modes_are_written_as_docker_writes_them(fake: FakeEngine) -> None:
    """Links become paths, and the names in modes become ids."""
    owner = fake.run("owner", image="shop:1")
    host = {"Links": ["owner:db", "/owner"], "PidMode": "container:owner", "IpcMode": "container:owner"}
    fake.create_container("guest", {"Image": "shop:1", "HostConfig": host})
    found = fake.inspect_container("guest")["HostConfig"]
    assert found["Links"] == ["/owner:/guest/db", "/owner:/guest/owner"]
    assert found["PidMode"] == found["IpcMode"] == f"container:{owner}"


def test_a_container_on_the_hosts_network_has_the_hosts_name(fake: FakeEngine) -> None:
    """The host's name stands for a name of its own."""
    fake.create_container("shop", {"Image": "shop:1", "HostConfig": {"NetworkMode": "host"}})
    assert fake.inspect_container("shop")["Config"]["Hostname"] == "engine-host"


def test_a_working_folder_is_made(fake: FakeEngine) -> None:
    """A working folder that the image does not have is made at creation, as Docker makes it."""
    fake.create_container("shop", {"Image": "shop:1", "WorkingDir": "/work"})
    assert fake.container_changes("shop") == [Change("/work", "added")]
