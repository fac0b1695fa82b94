"""Restores one container under its name, and renames away the container that has the name meanwhile."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from attrs import define, evolve, field

from docker_rollback._containers import (
    ContainerSnapshotter,
    body_for,
    create_on,
    disturbed,
    end_lost_run,
    ensure_state,
    find_container,
    forgets_connected_macs,
    image_id_of,
    is_lost,
    join,
)
from docker_rollback._engine import Engine, Inspection
from docker_rollback._host import Timer
from docker_rollback._inspection import (
    HELD,
    Difference,
    compare,
    compare_across,
    create_request,
    restart_policy,
    restarts,
    started_at,
    user_endpoints,
    with_ids,
)
from docker_rollback._model import ContainerSnapshot, EngineRecord, LedBack, Observed
from docker_rollback._names import ASIDE, TEMPORARY_ASIDE, again, aside_name, is_aside
from docker_rollback._threads import each_at_once
from docker_rollback.errors import ContainerNotFoundError, EngineConflictError, EngineError, RestoreError

logger = logging.getLogger("docker_rollback")

HALF_REMOVED = ("dead", "removing")
"""The states of a container whose removal was interrupted."""

_TOO_EARLY = "started it before all of its data was back"

_GONE = re.compile(r"does not exist|no such file or directory", re.IGNORECASE)


def hold(engine: Engine, container: Observed) -> None:
    """Stop a container and keep its engine from starting it again, even after a reboot."""
    if restarts(container.inspection["HostConfig"]):
        engine.update_container(container.id, {"RestartPolicy": dict(HELD)})
    if container.state.status == "paused":
        engine.unpause_container(container.id)
    if container.state.alive:
        engine.stop_container(container.id)
    if container.state.status == "restarting" and is_lost(engine, container.inspection):
        end_lost_run(engine, container)


@define(eq=False)
class ContainerSlot:
    """Restores one container of a backup; each method carries out a step of the plan.

    Args:
        engine: the engine.
        snapshotter: checks whether the original container is untouched.
        snapshot: the container to restore.
        ids: the new ids of recreated containers and networks, by the old ones; shared by all slots of one restore.
        has_archives: True if the backup has the data of all volumes of the container, so that its anonymous volumes may
            be removed with a container that was renamed away.
        captured_on: the engine that the backup was taken on; None if that does not matter.
        needs_name: True if the container needs its name before all data is back (`_inspection.needs_name`).

    Attributes:
        image_id: the id, in this engine, of the image with the container's file system.
    """

    _engine: Engine
    _snapshotter: ContainerSnapshotter
    _snapshot: ContainerSnapshot
    _ids: MutableMapping[str, str]
    _has_archives: bool = field(kw_only=True)
    _captured_on: EngineRecord | None = field(default=None, kw_only=True)
    _needs_name: bool = field(default=False, kw_only=True)
    image_id: str = field(init=False)
    _last_run: str = field(default="", init=False)
    _standing_id: str | None = field(default=None, init=False)
    _volumes: frozenset[str] = field(default=frozenset(), init=False)
    _is_gone: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.image_id = self._snapshot.image.id

    @property
    def _wanted(self) -> Mapping[str, Any]:
        """The inspection as captured, with the new ids of recreated containers and networks."""
        # A copy: meanwhile other slots add the ids of their containers.
        return with_ids(self._snapshot.inspection, dict(self._ids))

    def rename_away(self, standing: Collection[str]) -> None:
        """Rename away and stop what stands in the container's place.

        Args:
            standing: the ids and names of such containers. The original is gone if its id is not among them.
        """
        self._is_gone = self._snapshot.id not in standing
        for reference in standing:
            found = self._find(reference)
            if found is None:
                continue
            if found.state.status in HALF_REMOVED:
                # If an engine dies while it removes a container, it later allows nothing but another removal.
                self._engine.remove_container(found.id, force=True)
                continue
            # Renamed before it stops: a supervisor that starts a stopped container by its name must not find it.
            renamed = True
            try:
                self._rename_one(found)
            except EngineError as error:
                renamed = False
                logger.info(
                    "%s: could not rename it while it runs; renaming it once it has stopped: %s", found.name, error
                )
            hold(self._engine, found)
            if not renamed:
                self._rename_one(self._find(found.id))

    def restore(self) -> None:
        """Provide the container, stopped: the original if that is untouched, else an equal one.

        Raises:
            DisturbedError: somebody started the original, or took the name that the new container needs.
            EngineError: the engine refused or failed.
        """
        original = None if self._is_gone else self._find(self._snapshot.id)
        if original is not None:
            if original.state.alive:
                # What it writes after a look at its files would stay.
                raise disturbed(original, _TOO_EARLY)
            self.stands(original)
            self._last_run = started_at(original.inspection)
            if self._is_back(original):
                logger.info("%s: reusing the original container", self._snapshot.name)
                return
            # It may have its own name again.
            self._rename_one(self._find(original.id))
        logger.info("%s: recreating the container", self._snapshot.name)
        self._create()

    def stands(self, standing: Observed) -> None:
        """Note which container is the restored one; from now on it is known by its id."""
        self._standing_id = standing.id
        # An engine never changes the mounts of a container.
        self._volumes = frozenset(standing.volumes)

    def take_name(self) -> Observed:
        """Give the container its name, and return it.

        All data is restored: from now on it does no harm if somebody else starts the container.

        Raises:
            DisturbedError: somebody started it, or created another one of that name.
        """
        standing, name = self.look(), self._snapshot.name
        if standing.state.alive or started_at(standing.inspection) != self._last_run:
            raise disturbed(standing, _TOO_EARLY)
        if standing.name == name:
            return standing
        with self._naming_namesake(name):
            self._engine.rename_container(standing.id, name)
        # The rename alone lies between the inspection and now.
        return evolve(standing, name=name, inspection={**standing.inspection, "Name": f"/{name}"})

    def restore_image_name(self) -> LedBack | None:
        """Move the image name that the container was created from back to the image that it named at the capture.

        Returns:
            The name that was moved; None if it has that image already, had none at the capture, or its image is gone.
        """
        image = self._snapshot.image
        if image.name is None or image.name_id is None:
            return None
        if image_id_of(self._engine, image.name_id) is not None:
            wanted = image.name_id
        elif image.clean and image.name_id == image.original_id:
            # Another engine may give the same image another id.
            wanted = self.image_id
        else:
            logger.warning("%s: image %s is gone; leaving its name %s", self._snapshot.name, image.name_id, image.name)
            return None
        lost_by = image_id_of(self._engine, image.name)
        if lost_by == wanted:
            return None
        self._engine.tag_image(wanted, image.name)
        logger.warning(
            "%s: image name %s points at %s again; %s",
            self._snapshot.name,
            image.name,
            wanted,
            f"image {lost_by}, which had the name, stays in the engine" if lost_by else "no image had the name",
        )
        return LedBack(image.name, wanted, lost_by)

    def volume_at(self, destination: str) -> str:
        """Return the name of the volume that the container mounts at a path now."""
        for mount in self.look().mounts:
            if mount.kind == "volume" and mount.destination == destination:
                return mount.source
        raise RestoreError(self._snapshot.name, f"it has no volume at {destination}")

    @property
    def standing_id(self) -> str:
        """The id of the restored container; empty until it is known."""
        return self._standing_id or ""

    @property
    def volumes(self) -> frozenset[str]:
        """The volumes that the restored container mounts; none before it exists."""
        return self._volumes

    def restore_policy(self) -> None:
        """Give the container its own restart policy back, which it has lost where it was held."""
        if restarts(self._snapshot.inspection["HostConfig"]):
            policy = restart_policy(self._snapshot.inspection)
            self._engine.update_container(self._reference, {"RestartPolicy": dict(policy)})

    def resume(self) -> None:
        """Give the container its own restart policy back, and start or pause it if it was running or paused."""
        try:
            self.restore_policy()
            if self._snapshot.state.alive:
                with self._naming_lost_folders():
                    self._engine.start_container(self._reference)
                self._put_back_hidden_resources()
            if self._snapshot.state.status == "paused":
                self._engine.pause_container(self._reference)
        except ContainerNotFoundError:
            # Raises if it is gone. A container whose network it uses may be missing as well.
            self.look()
            raise

    def _put_back_hidden_resources(self) -> None:
        """Undo an update in place that Podman 5.8 hides until the container runs: it was stopped at the update."""
        if self._engine.info().flavour != "podman" or (now := self._find(self._reference)) is None:
            return
        # An update cannot clear a field; the comparison sees what is left.
        resources = {key: value for key, value in self._changed_resources(now).items() if value}
        if resources:
            self._engine.update_container(now.id, resources)

    def compare(self, standing: Observed) -> tuple[str, ...]:
        """Raise `RestoreError` if the container differs from its snapshot; return unavoidable differences in words."""
        found = (compare_across if self._is_moved() else compare)(self._wanted, standing.inspection)
        excused = [difference for difference in found if self._is_excused(difference)]
        differences = [difference for difference in found if difference not in excused]
        if differences:
            raise RestoreError(
                self._snapshot.name,
                "it was restored, but differs from what was captured:",
                [str(difference) for difference in differences],
            )
        unavoidable = tuple(
            f"container {self._snapshot.name!r} could not be created by its own reference: {difference}"
            for difference in excused
            if difference.path == "Config.Image"
        )
        for sentence in unavoidable:
            logger.warning("%s", sentence)
        return unavoidable

    def ensure_running(self, seen: Inspection | None = None, *, timer: Timer = time) -> None:
        """Start the container again if it has ended. Raises `RestoreError` if that does not succeed.

        `seen` is its inspection from after the last start; one that shows that it runs is enough.
        """
        if self._snapshot.state.alive:
            name, state = self._snapshot.name, self._snapshot.state
            policy = restart_policy(self._snapshot.inspection)
            reason = ensure_state(self._engine, name, state, policy=policy, seen=seen, timer=timer)
            if reason is not None:
                raise RestoreError(self._snapshot.name, f"it was restored, but {reason}", restored=True)

    def remove_users(self, users: Iterable[str]) -> None:
        """Remove the original, and containers that were renamed away, among the users of a volume to be recreated."""
        for user in users:
            found = self._find(user)
            if found is not None and (found.id == self._snapshot.id or ASIDE in found.name):
                self._engine.remove_container(found.id, force=True, volumes=self._has_archives)

    def remove_renamed(self, one: Observed) -> None:
        """Remove a renamed container."""
        volumes = {mount.source for mount in self._snapshot.mounts if mount.kind == "volume"}
        does_harm = not volumes.isdisjoint(one.volumes)
        if one.state.alive and not does_harm:
            # It was stopped and held, so somebody started it on purpose. But two containers on one volume do harm.
            logger.warning("%s was renamed away and started since; leaving it", one.name)
        else:
            # Without force, the engine refuses to remove one that somebody starts just now.
            self._engine.remove_container(one.id, force=does_harm, volumes=self._has_archives)

    def remove_original(self) -> None:
        """Remove the original if it was renamed away for a successor, which has its anonymous volumes."""
        original = self._find(self._snapshot.id)
        if original is not None and is_aside(original.name) and not original.state.alive:
            self._engine.remove_container(original.id)

    def _is_moved(self) -> bool:
        """Return True if the backup was taken on another engine, or on another version of this one."""
        if self._captured_on is None:
            return False
        here = self._engine.info().record()
        # Older backups do not distinguish engines of one kind.
        return self._captured_on != (here if self._captured_on.identity else evolve(here, identity=""))

    def _find(self, ref: str) -> Observed | None:
        return find_container(self._engine, ref)

    @property
    def _reference(self) -> str:
        return self._standing_id or self._snapshot.name

    def look(self) -> Observed:
        """Inspect the restored container. Raises `RestoreError` if it is gone."""
        standing = self._find(self._reference)
        if standing is None:
            removed = RestoreError(self._snapshot.name, "somebody removed it while it was restored")
            raise removed from ContainerNotFoundError(self._snapshot.name)
        return standing

    def _rename_one(self, standing: Observed | None) -> None:
        if standing is not None and (ASIDE not in standing.name or standing.name.endswith(TEMPORARY_ASIDE)):
            self._engine.rename_container(standing.id, aside_name(self._snapshot.name, standing.id))

    def _is_back(self, original: Observed) -> bool:
        """Reuse the original if it is untouched; return False if it is not, or if the engine fails."""
        try:
            tag = again(self._snapshot.image.tag)
            return self._snapshotter.is_untouched(self._snapshot, original, tag=tag) and self._put_back(original)
        except EngineError as error:
            logger.warning("%s: the original container could not be reused: %s", self._snapshot.name, error)
            return False

    def _put_back(self, original: Observed) -> bool:
        """Undo changes to the original container; return False if something cannot be undone in place."""
        is_renamed = self._needs_name and original.name != self._snapshot.name
        if is_renamed:
            self._engine.rename_container(original.id, self._snapshot.name)
        wrong, missing = self._networks_to_change(original)
        if any("MacAddress" in endpoint for endpoint in missing.values()) and forgets_connected_macs(self._engine):
            logger.info("%s: only a new container can have its MAC address", self._snapshot.name)
            return False
        for name in wrong:
            self._engine.disconnect_network(name, original.id, force=True)
        for name, endpoint in missing.items():
            self._engine.connect_network(name, original.id, endpoint)
        resources = self._changed_resources(original)
        if resources:
            self._engine.update_container(original.id, resources)
        # An engine shows links by the container's own name.
        is_changed = is_renamed or wrong or missing or resources
        now = self._engine.inspect_container(original.id) if is_changed else original.inspection
        # An update cannot clear a field, because an engine takes an empty value for no change. And Podman 5.8 shows
        # some updates of a stopped container only once it runs again; the last comparison sees those.
        podman = self._engine.info().flavour == "podman"
        shown_later = [f"HostConfig.{key}" for key, value in resources.items() if value and podman]
        later = ("Name", "State.", "HostConfig.RestartPolicy", *shown_later)
        left = [difference for difference in compare(self._wanted, now) if not difference.path.startswith(later)]
        for difference in left:
            logger.info("%s: this cannot be undone in place: %s", self._snapshot.name, difference)
        return not left

    def _networks_to_change(self, original: Observed) -> tuple[set[str], dict[str, dict[str, Any]]]:
        """Return the networks to detach the original from, and the endpoints to attach it by afterwards."""
        wanted = user_endpoints(self._snapshot.inspection)
        present = user_endpoints(original.inspection)
        attached = original.inspection["NetworkSettings"]["Networks"] or {}
        wrong = {
            name
            for name, endpoint in present.items()
            if wanted.get(name) != endpoint or self._is_stale(name, attached[name] or {})
        }
        missing = {name: wanted[name] for name in wanted if name not in present or name in wrong}
        return wrong, missing

    def _is_stale(self, network: str, endpoint: Mapping[str, Any]) -> bool:
        """Return True if an endpoint belongs to a network that was removed and recreated under the same name."""
        attached = endpoint.get("NetworkID")
        if attached in ("host", "none"):
            # Podman shows these modes of a container as networks, and has no such networks.
            return False
        # The restore of the network has just looked it up, or created it.
        before = (self._snapshot.inspection["NetworkSettings"]["Networks"] or {}).get(network) or {}
        standing = self._ids.get(str(before.get("NetworkID")))
        return bool(attached) and attached != (standing or self._engine.inspect_network(network)["Id"])

    def _changed_resources(self, original: Observed) -> dict[str, Any]:
        """Return the previous values of the fields that an update in place has changed."""
        before, now = self._snapshot.inspection["HostConfig"], original.inspection["HostConfig"]
        return {key: before.get(key) for key in _RESOURCES if before.get(key) != now.get(key)}

    def _create(self) -> None:
        config = self._snapshotter.config_of(self.image_id)
        reference, tag = self._snapshot.image.reference, self._snapshot.image.tag
        request = create_request(self._wanted, image=reference, image_config=config, held=True)
        name = request.name + ("" if self._needs_name else TEMPORARY_ASIDE)
        with self._naming_lost_folders(), self._naming_namesake(name):
            created = create_on(self._engine, name, body_for(self._engine, request), self.image_id, tag=tag)
        self.stands(created)
        # Also a run before this first look at it is somebody else's.
        self._last_run = ""
        self._ids[self._snapshot.id] = created.id
        join(self._engine, created.id, request)

    @contextmanager
    def _naming_namesake(self, name: str) -> Iterator[None]:
        """Replace an engine's refusal of a name by a `DisturbedError`, if another container has it."""
        try:
            yield
        except EngineConflictError as error:
            named = self._find(name)
            if named is None or named.id == self._standing_id:
                raise
            raise disturbed(named, "created it while another container of its name was restored") from error

    @contextmanager
    def _naming_lost_folders(self) -> Iterator[None]:
        """Replace an engine's error about a missing bind source by one that tells the user the remedy."""
        try:
            yield
        except EngineError as error:
            gone = _GONE.search(error.reason) is not None
            lost = [mount.source for mount in self._snapshot.mounts if mount.kind == "bind" and gone]
            lost = [source for source in lost if source in error.reason]
            if not lost:
                raise
            raise RestoreError(self._snapshot.name, lost_bind(max(lost, key=len))) from error

    def _is_excused(self, difference: Difference) -> bool:
        """Return True for a difference that no engine can avoid; the documentation lists them."""
        if difference.path == "Image":
            return self.image_id != self._snapshot.image.original_id
        if difference.path == "Config.Image":
            # The container was created by the image's id, or on Podman by a name of ours.
            return image_id_of(self._engine, str(difference.after)) == self.image_id
        # `ensure_running` checks the state.
        return difference.path.startswith("State.")


def lost_bind(path: str) -> str:
    """Return the message about a folder or file that a container binds and that is gone."""
    return (
        f"it binds {path!r} of the engine's host, which is gone, and which the backup does not hold (see "
        "include_binds); put it there again, then restore the backup"
    )


def ensure_all_run(slots: Mapping[str, ContainerSlot], seen: Iterable[Observed] = (), *, timer: Timer) -> None:
    """Ensure that restored containers run. Raises `RestoreError` after every one was tried.

    Args:
        slots: their slots, by name.
        seen: those of them that were inspected after the last start.
        timer: measures time and waits.
    """
    failures: list[RestoreError] = []
    shown = {one.name: one.inspection for one in seen}

    def ensure(name: str) -> None:
        slots[name].ensure_running(shown.get(name), timer=timer)

    for error in each_at_once(list(slots), ensure):
        if isinstance(error, RestoreError):
            failures.append(error)
        elif error is not None:
            raise error
    if len(failures) == 1:
        raise failures[0]
    if failures:
        names = ", ".join(failure.container for failure in failures)
        raise RestoreError(names, "they were restored, but do not run:", failures=failures, restored=True)


_RESOURCES = (
    "BlkioWeight",
    "CpuShares",
    "CpuPeriod",
    "CpuQuota",
    "CpuRealtimePeriod",
    "CpuRealtimeRuntime",
    "CpusetCpus",
    "CpusetMems",
    "Memory",
    "MemoryReservation",
    "MemorySwap",
    "NanoCpus",
    "PidsLimit",
)
"""The fields that an engine can update in place (API 1.51, ContainerUpdate)."""
