"""The place that one container has in an engine: its name, and whatever stands there while it is being restored."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from docker_rollback._containers import (
    ContainerSnapshotter,
    body_for,
    create_on,
    disturbed,
    end_lost_run,
    ensure_state,
    forgets_connected_macs,
    is_lost,
    join,
    led_to,
    look_at,
)
from docker_rollback._engine import ContainerFilter, Engine, remove_named
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
from docker_rollback._model import ContainerSnapshot, LedBack, Observed
from docker_rollback._names import ASIDE, TEMPORARY_ASIDE, again, aside_name, is_aside
from docker_rollback.errors import ContainerNotFoundError, EngineConflictError, EngineError, RestoreError

logger = logging.getLogger("docker_rollback")


HALF_REMOVED = ("dead", "removing")

_GONE = re.compile(r"does not exist|no such file or directory", re.IGNORECASE)


def hold(engine: Engine, container: Observed) -> None:
    """Stop a container and keep its engine from starting it, also after a reboot."""
    if restarts(container.inspection["HostConfig"]):
        engine.update_container(container.id, {"RestartPolicy": dict(HELD)})
    if container.state.status == "paused":
        engine.unpause_container(container.id)
    if container.state.alive:
        engine.stop_container(container.id)
    if container.state.status == "restarting" and is_lost(engine, container.inspection):
        end_lost_run(engine, container)


class Place:
    """Restores one container in its place; each method leaves what its step in the plan promises.

    Args:
        engine: where it is.
        snapshotter: what tells whether the original is untouched.
        snapshot: what is to stand there.
        ids: the new ids, by the old ones, of what was made anew; shared by all places of one restore.
        has_archives: whether the backup has the data of all its volumes, so that those of others may go.
        moved: whether the backup was taken on another engine, or on another version of this one.
        needs_name: whether it has to have its name before all data is back, as `_graph.needs_name` tells.

    Attributes:
        image_id: the id, in this engine, of the image that holds the file system.
    """

    def __init__(
        self,
        engine: Engine,
        snapshotter: ContainerSnapshotter,
        snapshot: ContainerSnapshot,
        ids: MutableMapping[str, str],
        *,
        has_archives: bool,
        moved: bool = False,
        needs_name: bool = False,
    ) -> None:
        self._engine = engine
        self._snapshotter = snapshotter
        self._snapshot = snapshot
        self._ids = ids
        self._has_archives = has_archives
        self._moved = moved
        self.image_id = snapshot.image.id
        self._needs_name = needs_name
        self._last_run = ""
        self._standing_id: str | None = None

    @property
    def _wanted(self) -> Mapping[str, Any]:
        """The inspection as it shall be: as captured, but for references to what was made anew."""
        return with_ids(self._snapshot.inspection, self._ids)

    def put_aside(self) -> None:
        """Rename away and stop the original, and whatever else has its name or was created in its place before.

        Renamed first: whoever starts a container by its name whenever that does not run finds nothing to start.
        """
        before = ContainerFilter(name_prefix=self._snapshot.name + ASIDE)
        for reference in (self._snapshot.id, self._snapshot.name, *self._engine.list_containers(before)):
            found = self._find(reference)
            if found is None:
                continue
            if found.state.status in HALF_REMOVED:
                # An engine that died while it removed a container lets nobody do anything else with it.
                self._engine.remove_container(found.id, force=True)
                continue
            try:
                self._rename_aside(found)
            except EngineError as error:
                logger.info("%s: it is renamed once it has stopped: %s", found.name, error)
            hold(self._engine, found)
            self._rename_aside(found)

    def restore(self) -> None:
        """Have the container stand, not running: the original where that is untouched, else its equal."""
        original = self._find(self._snapshot.id)
        if original is not None:
            self._last_run, self._standing_id = started_at(original.inspection), original.id
            if self._is_back(original):
                logger.info("%s: the original container is put back", self._snapshot.name)
                return
            self._rename_aside(original)
        logger.info("%s: making it anew", self._snapshot.name)
        self._last_run = ""
        self._create()

    def take_name(self) -> None:
        """Give the container its name; raise a `DisturbedError` if somebody started it, or made another of that name.

        All data is back: from here on it does no harm if somebody else starts it.
        """
        standing = self._standing()
        if standing.state.alive or started_at(standing.inspection) != self._last_run:
            raise disturbed(standing, "started it before all of its data was back")
        try:
            self._engine.rename_container(standing.id, self._snapshot.name)
        except EngineConflictError as error:
            named = self._find(self._snapshot.name)
            if named is None or named.id == standing.id:
                raise
            raise disturbed(named, "made it while another one of its name was put back") from error

    def restore_image_name(self) -> LedBack | None:
        """Have the name that the container was made from lead to the image that it led to at the capture.

        Returns:
            What was moved; None if the name leads there already, led nowhere at the capture, or its image is gone.
        """
        image = self._snapshot.image
        if image.name is None or image.name_id is None:
            return None
        if led_to(self._engine, image.name_id) is not None:
            wanted = image.name_id
        elif image.clean and image.name_id == image.original_id:
            # Another engine may give the same image another id.
            wanted = self.image_id
        else:
            logger.warning(
                "%s: image %s is gone, so its name %s is left", self._snapshot.name, image.name_id, image.name
            )
            return None
        lost_by = led_to(self._engine, image.name)
        if lost_by == wanted:
            return None
        self._engine.tag_image(wanted, image.name)
        logger.warning(
            "%s: image name %s leads to %s again; %s",
            self._snapshot.name,
            image.name,
            wanted,
            f"image {lost_by}, which had it, stays in the engine" if lost_by else "it led nowhere",
        )
        return LedBack(image.name, wanted, lost_by)

    def volume_at(self, destination: str) -> str:
        """Return the name of the volume that the container, as it stands, mounts at a path."""
        for mount in self._standing().mounts:
            if mount.kind == "volume" and mount.destination == destination:
                return mount.source
        raise RestoreError(self._snapshot.name, f"it has no volume at {destination}")

    @property
    def standing_id(self) -> str:
        """The id of the container that stands, or is put back, in this place; empty before that is known."""
        return self._standing_id or ""

    def volumes(self) -> frozenset[str]:
        """Return the volumes that the container mounts, as far as it stands."""
        standing = self._find(self._standing_id) if self._standing_id else None
        return frozenset() if standing is None else frozenset(standing.volumes)

    def give_policy_back(self) -> None:
        """Give the container its own restart policy again."""
        policy = restart_policy(self._snapshot.inspection)
        standing = self._standing()
        if policy and restart_policy(standing.inspection) != policy:
            self._engine.update_container(standing.id, {"RestartPolicy": dict(policy)})

    def resume(self) -> None:
        """Give the container its own restart policy again, and bring it to the state that it had."""
        self.give_policy_back()
        standing = self._standing()
        if self._snapshot.state.alive:
            with self._naming_lost_folders():
                self._engine.start_container(standing.id)
        if self._snapshot.state.status == "paused":
            self._engine.pause_container(standing.id)

    def compare(self) -> tuple[str, ...]:
        """Raise a `RestoreError` where the container is not what it was; return what is not exact, in words."""
        found = (compare_across if self._moved else compare)(self._wanted, self._standing().inspection)
        excused = [difference for difference in found if self._is_excused(difference)]
        differences = [difference for difference in found if difference not in excused]
        if differences:
            raise RestoreError(
                self._snapshot.name,
                "it was restored, but differs from what was captured:",
                [str(difference) for difference in differences],
            )
        told = tuple(
            f"container {self._snapshot.name!r} was created by the id of its image: {difference}"
            for difference in excused
            if difference.path == "Config.Image"
        )
        for sentence in told:
            logger.warning("%s", sentence)
        return told

    def ensure_running(self, *, timer: Timer = time) -> None:
        """Start the container again if it has ended; raise a `RestoreError` if it does not do what it did."""
        if self._snapshot.state.alive:
            snapshot, policy = self._snapshot, restart_policy(self._snapshot.inspection)
            reason = ensure_state(self._engine, snapshot.name, snapshot.state, policy=policy, timer=timer)
            if reason is not None:
                raise RestoreError(self._snapshot.name, f"it was restored, but {reason}", restored=True)

    def drop_users(self, volume: str) -> None:
        """Remove what was put aside and still refers to a volume, which can then be made anew.

        The original goes too: it refers to the volume that there was.
        """
        for user in self._engine.list_containers(ContainerFilter(volume=volume)):
            found = self._find(user)
            if found is not None and (found.id == self._snapshot.id or ASIDE in found.name):
                self._engine.remove_container(found.id, force=True, volumes=self._has_archives)

    def clear_aside(self) -> None:
        """Remove what was put aside, and let the engine forget what nobody needs any more."""
        for aside in self._engine.list_containers(ContainerFilter(name_prefix=self._snapshot.name + ASIDE)):
            standing = self._find(aside)
            shares = standing is not None and any(name in standing.volumes for name in self._volumes)
            if standing is not None and standing.state.alive and not shares:
                # It was stopped, and held: somebody wants it. Two on one volume nobody wants.
                logger.warning("%s was put aside and started since; it is left as it is", standing.name)
            else:
                self._engine.remove_container(aside, force=True, volumes=self._has_archives)
        self._snapshotter.release(self._snapshot)

    def clear_parked(self) -> None:
        """Remove the original where a successor stands in its place; that one has its anonymous volumes."""
        original = self._find(self._snapshot.id)
        if original is not None and is_aside(original.name) and not original.state.alive:
            self._engine.remove_container(original.id)

    @property
    def _volumes(self) -> frozenset[str]:
        return frozenset(mount.source for mount in self._snapshot.mounts if mount.kind == "volume")

    def _find(self, ref: str) -> Observed | None:
        return look_at(self._engine, ref)

    def _standing(self) -> Observed:
        name = self._snapshot.name
        standing = self._find(self._standing_id or name)
        if standing is None:
            reason = "it does not stand; somebody removed it while it was restored"
            raise RestoreError(name, reason) from ContainerNotFoundError(name)
        return standing

    def _rename_aside(self, container: Observed) -> None:
        standing = self._find(container.id)
        if standing is not None and (ASIDE not in standing.name or standing.name.endswith(TEMPORARY_ASIDE)):
            self._engine.rename_container(standing.id, aside_name(self._snapshot.name, standing.id))

    def _is_back(self, original: Observed) -> bool:
        """Put the original back where it is untouched; False where it is not, or where that fails."""
        try:
            tag = again(self._snapshot.image.tag)
            # A commit whose answer is lost is found by its name, which one of a dead process may still have.
            remove_named(self._engine, tag)
            return self._snapshotter.is_untouched(self._snapshot, original.id, tag=tag) and self._put_back(original)
        except EngineError as error:
            logger.warning("%s: the original container could not be put back: %s", self._snapshot.name, error)
            return False

    def _put_back(self, original: Observed) -> bool:
        """Undo what was changed about the original container; False where something cannot be undone in place."""
        if self._needs_name and original.name != self._snapshot.name:
            self._engine.rename_container(original.id, self._snapshot.name)
        if not self._put_back_networks(original):
            return False
        resources = self._changed_resources(original)
        if resources:
            self._engine.update_container(original.id, resources)
        now = self._engine.inspect_container(original.id)
        # What was changed from nothing is not undone by an update: to an engine, nothing means no change. What else was
        # updated at rest Podman 5.8 shows once it runs again; the last comparison sees that.
        podman = bool(resources) and self._engine.info().flavour == "podman"
        shown_later = [f"HostConfig.{key}" for key, value in resources.items() if value and podman]
        later = ("Name", "State.", "HostConfig.RestartPolicy", *shown_later)
        left = [difference for difference in compare(self._wanted, now) if not difference.path.startswith(later)]
        for difference in left:
            logger.info("%s: cannot be undone in place: %s", self._snapshot.name, difference)
        return not left

    def _put_back_networks(self, original: Observed) -> bool:
        """Attach the original to its networks as it was; False where the engine would forget what was asked for."""
        wanted = user_endpoints(self._snapshot.inspection)
        present = user_endpoints(original.inspection)
        attached = original.inspection["NetworkSettings"]["Networks"] or {}
        wrong = {
            name
            for name, endpoint in present.items()
            if wanted.get(name) != endpoint or self._is_stale(name, attached[name] or {})
        }
        missing = wanted.keys() - (present.keys() - wrong)
        if any("MacAddress" in wanted[name] for name in missing) and forgets_connected_macs(self._engine):
            logger.info("%s: its MAC address can be given back to another container alone", self._snapshot.name)
            return False
        for name in wrong:
            self._engine.disconnect_network(name, original.id, force=True)
        for name in missing:
            self._engine.connect_network(name, original.id, wanted[name])
        return True

    def _is_stale(self, network: str, endpoint: Mapping[str, Any]) -> bool:
        """Whether an endpoint belongs to a network that was removed and made again under the same name."""
        attached = endpoint.get("NetworkID")
        return bool(attached) and attached != self._engine.inspect_network(network)["Id"]

    def _changed_resources(self, original: Observed) -> dict[str, Any]:
        """Return the fields that an update in place can have changed, with the values that they had."""
        before, now = self._snapshot.inspection["HostConfig"], original.inspection["HostConfig"]
        return {key: before.get(key) for key in _RESOURCES if before.get(key) != now.get(key)}

    def _create(self) -> None:
        config = self._engine.inspect_image(self.image_id).get("Config") or {}
        reference = self._snapshot.image.reference
        request = create_request(self._wanted, image=reference, image_config=config, held=True)
        name = request.name + ("" if self._needs_name else TEMPORARY_ASIDE)
        with self._naming_lost_folders():
            created = create_on(self._engine, name, body_for(self._engine, request), self.image_id)
        self._ids[self._snapshot.id] = self._standing_id = created
        join(self._engine, created, request)

    @contextmanager
    def _naming_lost_folders(self) -> Iterator[None]:
        """Say in our words what an engine says of a folder, or a file, that the container binds and that is gone."""
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
        """Whether a difference is one of those that no engine can avoid, as the documentation lists them."""
        if difference.path == "Image":
            return self.image_id != self._snapshot.image.original_id
        if difference.path == "Config.Image":
            # It was created by the id of its image. Podman shows one of the names of that image.
            return led_to(self._engine, str(difference.after)) == self.image_id
        # What it does is looked at by `ensure_running`.
        return difference.path.startswith("State.")


def lost_bind(path: str) -> str:
    """Return what to say of a folder, or a file, that a container binds and that is gone."""
    return (
        f"it binds {path!r} of the engine's host, which is gone, and which the backup does not hold (see "
        "include_binds); put it there again, then restore the backup"
    )


def ensure_all_run(places: Iterable[Place], *, timer: Timer) -> None:
    """Have the containers in some places do what they did; raise a `RestoreError` if one does not; all are tried."""
    failures: list[RestoreError] = []
    for place in places:
        try:
            place.ensure_running(timer=timer)
        except RestoreError as error:
            failures.append(error)
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
"""What an engine's update can change in place (API 1.51, ContainerUpdate)."""
