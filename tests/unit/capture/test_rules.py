"""The rules of a preflight, each alone on a small scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from attrs import evolve

from docker_rollback._capture import CaptureOptions, VolumeOptions, rules
from docker_rollback._capture.scene import Facts, Scene
from docker_rollback._containers import Own
from docker_rollback._inspection import Loss, observe
from docker_rollback._model import ContainerState, Exclude, Mount, Observed, Project
from docker_rollback._volumes import Survey
from tests.unit.inspections import OTHER_ID, inspection

Status: TypeAlias = Literal["running", "paused", "exited"]

WEB = observe(inspection())
MEDIA = Mount("volume", "/media", "media", read_only=False)


def other(name: str = "other", *mounts: Mount, status: Status = "running", removed: bool = False) -> Observed:
    """Return a container outside the group, with these mounts."""
    found = observe(inspection({"Id": OTHER_ID, "Name": f"/{name}", "HostConfig/AutoRemove": removed}))
    return evolve(found, mounts=mounts, state=ContainerState(status=status))


def stopped(container: Observed) -> Observed:
    """Return the same container, stopped."""
    return evolve(container, state=ContainerState(status="exited"))


def reasons(rule: rules.Rule, scene: Scene) -> list[str]:
    """Return the reasons that a rule yields, all of them for the one container of the group."""
    found = list(rule(scene))
    assert {name for name, _ in found} <= {"web"}
    return [reason for _, reason in found]


def assert_said(found: Sequence[str], *words: str) -> None:
    """Check that one reason was yielded, with these words in it."""
    assert len(found) == 1
    assert [word for word in words if word not in found[0]] == []


def test_nothing_stands_against_an_ordinary_container() -> None:
    """No rule refuses it, and no rule needs more than its inspection and a few facts."""
    scene = Scene(given=(WEB,), named=("web",), group=(WEB,), facts={"web": Facts()}, outside=(other(),))
    assert rules.refusals(scene) == {}
    assert rules.refusals(Scene()) == {}


def test_a_task_of_swarm_is_refused() -> None:
    """Swarm would start another one in its place."""
    task = observe(inspection({"Config/Labels": {"com.docker.swarm.task.id": "x"}}))
    assert_said(reasons(rules.unrestorable, Scene(group=(task,))), "Swarm")


def test_the_own_container_is_refused() -> None:
    """Stopping it would stop the rollback."""
    assert_said(reasons(rules.own_program, Scene(group=(WEB,), own=Own((WEB,)))), "this program runs in it")


def test_a_stopped_container_needs_its_networks() -> None:
    """A running one keeps them, since no engine removes a network in use."""
    gone = frozenset(rules.networks_of_stopped(stopped(WEB)))
    assert "front" in gone
    assert_said(reasons(rules.gone_networks, Scene(group=(stopped(WEB),), gone_networks=gone)), "is gone")
    assert reasons(rules.gone_networks, Scene(group=(WEB,), gone_networks=gone)) == []


def test_the_network_of_a_mode_is_needed_where_the_engine_needs_it_to_start() -> None:
    """Other engines start a container without the network that it has left."""
    left = observe(inspection({"HostConfig/NetworkMode": "gone"}))
    scene = Scene(group=(left,), gone_networks=frozenset({"gone"}), needs_mode_network=True)
    assert_said(reasons(rules.gone_networks, scene), "its network mode names network 'gone'")
    assert reasons(rules.gone_networks, evolve(scene, needs_mode_network=False)) == []


def test_facts_about_a_commit_are_passed_on() -> None:
    """An image with too many layers, or a name that the commit would lose."""
    scene = Scene(group=(WEB,), facts={"web": Facts(uncommittable="too deep", unkept_names=("long", "mark"))})
    assert reasons(rules.uncommittable, scene) == ["too deep"]
    assert reasons(rules.unkept_names, scene) == ["long", "mark"]


def test_another_container_that_writes_to_a_volume_is_refused_stopped_or_ignored() -> None:
    """As `shared` says; a stop must not remove it, and a paused one cannot be stopped."""
    scene = Scene(group=(WEB,), outside=(other("guest", MEDIA),))
    assert scene.writers == scene.outside
    assert_said(reasons(rules.shared_volumes, scene), "'guest' writes to its volume 'media'", "shared='stop'")
    stop = evolve(scene, options=CaptureOptions(shared="stop"))
    assert reasons(rules.shared_volumes, stop) == []
    assert_said(
        reasons(rules.shared_volumes, evolve(stop, outside=(other("guest", MEDIA, status="paused"),))), "paused"
    )
    removed = other("guest", MEDIA, removed=True)
    assert_said(reasons(rules.shared_volumes, evolve(stop, outside=(removed,))), "--rm")


def test_another_container_that_only_reads_a_volume_is_fine() -> None:
    """Unless this program runs in it, which would be stopped before the volume is filled."""
    reader = other("reader", evolve(MEDIA, read_only=True))
    scene = Scene(group=(WEB,), outside=(reader,))
    assert (scene.writers, reasons(rules.shared_volumes, scene)) == ((), [])
    assert_said(reasons(rules.shared_volumes, evolve(scene, own=Own((reader,)))), "this program runs in 'reader'")
    assert reasons(rules.shared_volumes, evolve(scene, outside=(other("ended", MEDIA, status="exited"),))) == []


def test_an_unused_volume_of_a_project_is_shared_too() -> None:
    """The reason stands at the first container."""
    spare = Mount("volume", "/spare", "spare", read_only=False)
    scene = Scene(group=(WEB,), project=Project("shop", volumes=("media", "spare")), outside=(other("guest", spare),))
    assert scene.unused == ["spare"]
    assert_said(reasons(rules.shared_volumes_of_project, scene), "'guest' writes to its volume 'spare'")


def test_a_stop_must_not_lose_a_volume_in_memory() -> None:
    """A pause does not, and a stopped container has lost it already."""
    scene = Scene(group=(WEB,), in_memory=frozenset({"media"}))
    assert_said(reasons(rules.volumes_in_memory, scene), "'media' lives in memory", "quiesce='pause'")
    assert reasons(rules.volumes_in_memory, evolve(scene, options=CaptureOptions(quiesce="pause"))) == []
    assert reasons(rules.volumes_in_memory, evolve(scene, group=(stopped(WEB),))) == []


def test_a_running_one_off_command_is_refused_unless_it_is_named() -> None:
    """A rollback would run its command again."""
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.oneoff": "True"}
    task = observe(inspection({"Config/Labels": labels}))
    scene = Scene(given=(task,), group=(task,), project=Project("shop"))
    assert_said(reasons(rules.one_off_commands, scene), "compose run")
    assert reasons(rules.one_off_commands, evolve(scene, named=("web",))) == []
    assert reasons(rules.one_off_commands, evolve(scene, given=(stopped(task),))) == []


def test_include_binds_names_what_is_bound() -> None:
    """The reason lists the paths that are."""
    scene = Scene(group=(WEB,), volumes=VolumeOptions(include_binds=["/etc/app", "/srv/none"]))
    assert_said(reasons(rules.unbound_folders, scene), "'/srv/none', which no container", "they bind '/etc/app'")
    assert reasons(rules.unbound_folders, evolve(scene, group=())) == []


def test_exclude_names_what_would_be_backed_up() -> None:
    """It cannot leave out a volume that goes with its container, nor a folder that `include_binds` asks for."""
    anonymous = next(name for name, generated in WEB.volumes.items() if generated)
    volumes = VolumeOptions(exclude=["nothing", anonymous, "/etc/app", "media"], include_binds=["/etc/app"])
    scene = Scene(group=(WEB,), volumes=volumes)
    nothing, goes, both = reasons(rules.wrong_excludes, scene)
    assert "exclude names 'nothing', which the backup would not contain; they have" in nothing
    assert "goes with its container" in goes
    assert "so does include_binds" in both
    assert "media" not in scene.data


def test_settings_of_podman_and_paths_that_are_gone_are_named() -> None:
    """Recreating or starting the container would lose them."""
    facts = Facts(loss=Loss(refused=("a secret",)), missing_paths=("/dev/gone",))
    scene = Scene(group=(WEB,), facts={"web": facts})
    assert_said(reasons(rules.settings_of_podman, scene), "a secret")
    assert_said(reasons(rules.gone_paths, scene), "'/dev/gone'", "which is gone")


def test_an_empty_read_only_volume_is_refused_where_the_engine_would_fill_it() -> None:
    """Podman copies nothing into it."""
    survey = Survey("media", "direct", options={"o": "ro"}, is_empty=True)
    scene = Scene(group=(evolve(WEB, mounts=(MEDIA,)),), surveys={"media": survey})
    assert_said(reasons(rules.read_only_volumes, scene), "'media' is empty and read-only")
    assert reasons(rules.read_only_volumes, evolve(scene, copies_into_volumes=False)) == []


def test_a_state_that_is_kept_needs_nothing_to_start_again() -> None:
    """It may have lost a path; what makes its capture impossible still counts."""
    facts = Facts(uncommittable="too deep", missing_paths=("/dev/gone",))
    scene = Scene(group=(WEB,), facts={"web": facts}, unreachable=(("web", "no way"),))
    kept = evolve(scene, keeps=True, volumes=VolumeOptions(exclude=[Exclude("nothing")]))
    assert len(rules.refusals(scene)["web"]) == 3
    assert rules.refusals(kept) == {"web": ("too deep", "no way")}


def test_a_network_that_a_container_has_left_is_needed_only_by_some() -> None:
    """On an engine that needs it for a start, a running container needs it; one with no network at all always does."""

    def needed(networks: dict[str, object], *, running: bool, needed_to_start: bool) -> bool:
        found = observe(inspection({"HostConfig/NetworkMode": "front", "NetworkSettings/Networks": networks}))
        container = found if running else stopped(found)
        return rules.network_of_mode(container, needed_to_start=needed_to_start) == "front"

    assert needed({"back": {}}, running=True, needed_to_start=True)
    assert not needed({"back": {}}, running=False, needed_to_start=True)
    assert not needed({"back": {}}, running=True, needed_to_start=False)
    assert needed({}, running=False, needed_to_start=False)
    assert not needed({"front": {}}, running=True, needed_to_start=True)
