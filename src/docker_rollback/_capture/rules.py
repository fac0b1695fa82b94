"""The rules of a preflight: each reads the scene, does no I/O, and yields reasons not to begin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from docker_rollback._capture.scene import Scene, has, writes_to
from docker_rollback._containers import lost_partners, lost_path, uncopied
from docker_rollback._inspection import (
    attached_networks,
    called,
    is_one_off,
    is_plain_network,
    own_network,
    refers,
    requires,
)
from docker_rollback._model import Observed, is_folder

Refusal: TypeAlias = tuple[str, str]
"""The name of a container, and why a backup of it does not begin."""

Rule: TypeAlias = Callable[[Scene], Iterable[Refusal]]


def unrestorable(scene: Scene) -> Iterator[Refusal]:
    """Refuse a container that no engine can restore exactly."""
    for one in scene.group:
        if (reason := refusal(one.inspection)) is not None:
            yield one.name, reason


def own_program(scene: Scene) -> Iterator[Refusal]:
    """Refuse to stop the container that this program runs in, or one that it depends on."""
    for one in scene.group:
        if (reason := scene.own.refusal(one)) is not None:
            yield one.name, reason


def gone_networks(scene: Scene) -> Iterator[Refusal]:
    """Refuse a container that cannot start or be recreated because a network is gone."""
    for one in scene.group:
        gone = [name for name in networks_of_stopped(one) if name in scene.gone_networks]
        mode = network_of_mode(one, needed_to_start=scene.needs_mode_network)
        if gone:
            reason = (
                f"it is on network {gone[0]!r}, which is gone, and its engine can neither start nor create it "
                f"without; create a network {gone[0]!r}, or disconnect the container from it with --force"
            )
            yield one.name, reason
        elif mode in scene.gone_networks:
            reason = (
                f"its network mode names network {mode!r}, which it has left and which is gone, and its engine "
                f"cannot start or create it without; create a network {mode!r}, or recreate the container with "
                "another mode"
            )
            yield one.name, reason


def uncommittable(scene: Scene) -> Iterator[Refusal]:
    """Refuse a container that its engine cannot commit."""
    for name, facts in scene.facts.items():
        if facts.uncommittable is not None:
            yield name, facts.uncommittable


def unkept_names(scene: Scene) -> Iterator[Refusal]:
    """Refuse a container that would lose files in a commit."""
    for name, facts in scene.facts.items():
        for reason in facts.unkept_names:
            yield name, reason


def shared_volumes(scene: Scene) -> Iterator[Refusal]:
    """Refuse a container if a container outside the group prevents the capture of a volume that both have."""
    for one in scene.group:
        for reason in _sharing_refusals(scene, scene.data_of(one)):
            yield one.name, reason


def volumes_in_memory(scene: Scene) -> Iterator[Refusal]:
    """Refuse to stop a container if that would lose the data of a volume."""
    for one in scene.group:
        for volume in volumes_at_a_stop(one, scene):
            if volume in scene.in_memory:
                reason = f"its volume {volume!r} lives in memory (tmpfs) and a stop would lose it; say quiesce='pause'"
                yield one.name, reason


def gone_partners(scene: Scene) -> Iterator[Refusal]:
    """Refuse a container that cannot start again without another one that is gone or stopped."""
    for one in scene.group:
        for reason in lost_partners(one, [*scene.group, *scene.outside]):
            yield one.name, reason


def gone_paths(scene: Scene) -> Iterator[Refusal]:
    """Refuse a container that cannot start again without a path of its host that is gone."""
    for name, facts in scene.facts.items():
        for path in facts.missing_paths:
            yield name, lost_path(path)


def shared_volumes_of_project(scene: Scene) -> Iterator[Refusal]:
    """Refuse as `shared_volumes` does, for volumes of the project that no container of it has."""
    for reason in _sharing_refusals(scene, scene.unused):
        yield scene.group[0].name, reason


def settings_of_podman(scene: Scene) -> Iterator[Refusal]:
    """Refuse a container with settings that only Podman knows and that Docker's API cannot restore."""
    for name, facts in scene.facts.items():
        if (reason := facts.loss.refusal()) is not None:
            yield name, reason


def required_by_others(scene: Scene) -> Iterator[Refusal]:
    """Refuse a container that a container outside the group was created to run after."""
    for one in scene.group:
        for other in scene.outside:
            if other.native is not None and one.id in requires(other.native):
                reason = f"container {other.name!r} was created to run after it (--requires); remove that one first"
                yield one.name, reason


def one_off_commands(scene: Scene) -> Iterator[Refusal]:
    """Refuse a running member of a project that runs for one command alone, unless the caller named it."""
    reason = (
        "it was created by `compose run` and is running: a rollback would run its command again from the start; wait "
        "until it has ended, stop it, or name it besides the project to treat it like any other"
    )
    for one in scene.given if scene.project is not None else ():
        by_name = any(refers(reference, one.name, one.id) for reference in scene.named)
        if is_one_off(one) and one.state.alive and not by_name:
            yield one.name, reason


def unbound_folders(scene: Scene) -> Iterator[Refusal]:
    """Refuse `include_binds` if no container of the group binds the path."""
    bound = sorted({mount.source for one in scene.group for mount in one.mounts if mount.kind == "bind"})
    there = f"they bind {', '.join(map(repr, bound))}" if bound else "they bind nothing"
    for folder in scene.volumes.include_binds if scene.group else ():
        if folder not in scene.data:
            reason = f"include_binds names {folder!r}, which no container of the rollback binds; {there}"
            yield scene.group[0].name, reason


def wrong_excludes(scene: Scene) -> Iterator[Refusal]:
    """Refuse `exclude` if it names data that would not be backed up, or that cannot be excluded."""
    project = scene.project.volumes if scene.project is not None else ()
    there = {name for one in scene.group for name in scene.archivable(one)}.union(project)
    known = f"they have {', '.join(sorted(map(repr, there)))}" if there else "they have no volumes"
    anonymous = {name for one in scene.group for name, generated in one.volumes.items() if generated}
    for one in scene.volumes.exclude:
        if one.volume not in there:
            reason = f"exclude names {one.volume!r}, which the backup would not contain; {known}"
        elif not one.path and one.volume in anonymous:
            reason = f"exclude names the volume {one.volume!r}, which goes with its container"
        elif not one.path and is_folder(one.volume):
            reason = f"exclude names {one.volume!r}, and so does include_binds; leave it out of both"
        else:
            continue
        yield scene.group[0].name, reason


def unusable_files(scene: Scene) -> Iterator[Refusal]:
    """Refuse `include_files` if a file cannot be backed up, or could not be written back."""
    for reason in scene.unusable_files:
        yield scene.group[0].name, reason


def unreachable_volumes(scene: Scene) -> Iterator[Refusal]:
    """Refuse a container if the data of a volume cannot be reached."""
    yield from scene.unreachable


def read_only_volumes(scene: Scene) -> Iterator[Refusal]:
    """Refuse a container whose volumes could not be mounted or filled again because they are read-only."""
    for one in scene.group:
        for reason in uncopied(one, scene.surveys, copies=scene.copies_into_volumes):
            yield one.name, reason


RULES: Final[tuple[Rule, ...]] = (
    unrestorable,
    own_program,
    gone_networks,
    uncommittable,
    unkept_names,
    shared_volumes,
    volumes_in_memory,
    gone_partners,
    gone_paths,
    shared_volumes_of_project,
    settings_of_podman,
    required_by_others,
    one_off_commands,
    unbound_folders,
    wrong_excludes,
    unusable_files,
    unreachable_volumes,
    read_only_volumes,
)
"""In the order in which their reasons are listed."""

FOR_STARTS: Final[frozenset[Rule]] = frozenset(
    {
        gone_networks,
        gone_partners,
        gone_paths,
        settings_of_podman,
        required_by_others,
        wrong_excludes,
        read_only_volumes,
    }
)
"""The rules that are skipped for a state that is kept before it is undone: nothing starts it again."""


def refusals(scene: Scene) -> dict[str, tuple[str, ...]]:
    """Return the reasons why a backup would not begin, by container; empty if there are none."""
    found: dict[str, list[str]] = {one.name: [] for one in scene.group}
    for rule in RULES:
        if not (scene.keeps and rule in FOR_STARTS):
            for name, reason in rule(scene):
                found[name].append(reason)
    return {name: tuple(reasons) for name, reasons in found.items() if reasons}


def refusal(inspection: Mapping[str, Any]) -> str | None:
    """Return why no engine can restore a container exactly, or None."""
    labels = inspection["Config"].get("Labels") or {}
    if "com.docker.swarm.task.id" in labels:
        return "it is a task of a Swarm service; use `docker service update --rollback`"
    if "io.kubernetes.pod.uid" in labels or "io.kubernetes.container.name" in labels:
        return "it belongs to a Kubernetes pod, which its orchestrator recreates"
    listed = (inspection.get("NetworkSettings") or {}).get("Networks") or {}
    if twice := sorted(listed.keys() - attached_networks(inspection).keys()):
        return (
            f"it was connected to a network by a prefix of that network's id, {twice[0]!r}, and once it is stopped its "
            "engine cannot start it again; recreate it with the network's name"
        )
    status = inspection["State"]["Status"]
    if status in ("dead", "removing"):
        return f"it is {status}; remove it by hand"
    return None


def networks_of_stopped(container: Observed) -> list[str]:
    """Return the networks that a stopped container needs to start."""
    # No engine removes a network from under a running container.
    attached = () if container.state.alive else attached_networks(container.inspection)
    return [name for name in attached if not is_plain_network(name)]


def network_of_mode(container: Observed, *, needed_to_start: bool) -> str | None:
    """Return the network that a container's mode names and that the container needs but has left; None if none.

    Args:
        container: the container.
        needed_to_start: whether its engine needs that network even to start it, not only to create it.
    """
    network, attached = own_network(container.inspection), attached_networks(container.inspection)
    if network is None or network in attached or is_plain_network(network):
        return None
    return network if not attached or (container.state.alive and needed_to_start) else None


def volumes_at_a_stop(container: Observed, scene: Scene) -> list[str]:
    """Return the volumes of a container that nothing mounts once it is stopped for the capture."""
    stops = scene.options.quiesce == "stop" and container.state.alive
    return list(container.volumes) if stops else []


def _sharing_refusals(scene: Scene, volumes: Iterable[str]) -> Iterator[str]:
    volumes = list(volumes)
    for other in scene.outside:
        for volume in has(other, volumes) if other.state.alive else ():
            if (reason := _sharing_refusal(scene, other, volume)) is not None:
                yield reason


def _sharing_refusal(scene: Scene, other: Observed, volume: str) -> str | None:
    """Return why a container outside the group that has a volume of the group prevents the backup, or None."""
    if scene.own.has(other):
        return f"this program runs in {other.name!r}, which mounts its {called(volume)} too and would be stopped"
    if not writes_to(other, volume):
        return None
    if scene.options.shared == "refuse":
        return (
            f"the running container {other.name!r} writes to its {called(volume)} too; add it to the rollback, or "
            "say shared='stop' or shared='ignore'"
        )
    if other.state.status == "paused":
        return f"container {other.name!r}, which mounts its {called(volume)} too, is paused"
    if other.inspection["HostConfig"].get("AutoRemove"):
        return f"a stop would remove container {other.name!r} (--rm), which mounts its {called(volume)} too"
    return None
