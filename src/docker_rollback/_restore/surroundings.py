"""Handles the containers, networks and volumes outside a backup that a restore of it has to consider."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Self

from docker_rollback._containers import (
    Added,
    QuiescedContainers,
    added_since,
    find_container,
    find_containers,
    find_listed,
    find_network,
    find_volume,
)
from docker_rollback._engine import ContainerFilter, Engine
from docker_rollback._inspection import (
    common_subnet,
    compare_networks,
    conflict,
    is_same_network,
    restarts,
    user_endpoints,
)
from docker_rollback._model import (
    Backup,
    ContainerSnapshot,
    Detached,
    NetworkRecord,
    Observed,
    Project,
    VolumeArchive,
    is_folder,
)
from docker_rollback._names import is_aside, is_aside_of
from docker_rollback._restore.container_slot import hold
from docker_rollback.errors import (
    ContainerNotFoundError,
    EngineConflictError,
    EngineError,
    RestoreError,
)

logger = logging.getLogger("docker_rollback")


class DetachedContainers:
    """Detaches containers outside the backup from networks that are recreated, and attaches them again afterwards.

    Args:
        engine: the engine that they are on.
        known: those that an earlier attempt detached.
        record: called with each container before it is detached.
    """

    def __init__(
        self, engine: Engine, *, known: Iterable[Detached] = (), record: Callable[[Detached], None] | None = None
    ) -> None:
        self._engine = engine
        self._record = record
        self._known = {(found.id, found.network): found for found in known}

    def detach(self, container: Observed, network: str) -> None:
        """Detach a container from a network until `attach_again`. Raises `EngineError` if the engine refuses."""
        found = Detached(container.id, container.name, network, user_endpoints(container.inspection)[network])
        if self._record is not None:
            self._record(found)
        # If an earlier attempt recorded the container, that record has its original endpoint.
        self._known.setdefault((found.id, network), found)
        self._engine.disconnect_network(network, container.id, force=True)

    def attach_again(self, network: str) -> None:
        """Attach all detached containers to a network again, with their addresses if these are free.

        An attachment that the engine refuses is only logged. Raises `EngineError` if the engine does not answer.
        """
        for found in [found for found in self._known.values() if found.network == network]:
            standing = find_container(self._engine, found.id)
            if standing is None:
                logger.warning(
                    "%s: it was detached from network %s, and somebody removed it since", found.name, network
                )
            elif network not in user_endpoints(standing.inspection):
                self._attach(found)

    def _attach(self, found: Detached) -> None:
        without_address = {key: value for key, value in found.endpoint.items() if key != "IPAMConfig"}
        for settings in (found.endpoint, without_address):
            try:
                self._engine.connect_network(found.network, found.id, settings)
            except EngineError as error:
                if not error.permanent:
                    raise
                logger.warning("%s: could not attach it to network %s again: %s", found.name, found.network, error)
            else:
                return


class Surroundings:
    """Handles containers, networks and volumes outside a backup while it is restored.

    It works on the containers that `refresh` found last, so that a restore of many containers asks the engine once.
    The containers of the backup, and others with their names, are not inspected here: whoever restores one does that.
    """

    def __init__(self, engine: Engine, backup: Backup) -> None:
        self._engine = engine
        self._backup = backup
        self._ids = {member.id for member in backup.containers}
        self._names = {member.name for member in backup.containers}
        self._containers: tuple[Observed, ...] = ()
        self._there: frozenset[str] = frozenset()  # the ids of all containers
        self._namesakes: frozenset[str] = frozenset()  # the ids of other containers with names of the backup
        self._added = Added()
        self._handled: set[str] = set()
        self._stopping = threading.Lock()

    def refresh(self, *, but: Collection[str] | None = None) -> Self:
        """Look up the other containers of the engine and the additions to the project. Raises `EngineError`.

        Args:
            but: the ids of those not to look up; by default, the containers of the backup and those with their names.
        """
        listed = self._engine.list_containers()
        self._there = frozenset(listed)
        self.has_namesakes()
        but = self._ids | self._namesakes if but is None else but
        self._containers = tuple(find_listed(self._engine, listed, but=but))
        self._added = added_since(self._engine, self._backup, self._containers)
        self._handled = set()
        return self

    def has_namesakes(self) -> bool:
        """Return True if containers outside the backup have names of it now. Raises `EngineError`."""
        named = self._engine.list_containers(ContainerFilter(name=tuple(self._names)))
        self._namesakes = frozenset(named) - self._ids
        return bool(self._namesakes)

    def hold_added(self, others: QuiescedContainers) -> None:
        """Stop and hold added containers, and stop users of project volumes that no container of the backup uses."""
        for one in reversed(self._added.containers):
            with suppress(ContainerNotFoundError):  # a stop removes it, or it was about to go
                hold(self._engine, one)
        for user, reason in self._users_of_the_unused():
            self._stop(user, reason, others)

    def remove_added_networks(self) -> bool:
        """Remove the networks that were added to the project; return True if there were any."""
        for network in self._added.networks:
            for other in self.others_in(network):
                self._engine.disconnect_network(network, other.id, force=True)
            self._engine.remove_network(network)
        return bool(self._added.networks)

    def addresses_taken(self, network: NetworkRecord) -> list[tuple[str, str]]:
        """Return the networks made since the backup that overlap one to be created, each with the common subnet."""
        return _overlapping(network, self._foreign_networks())

    def remove_added_users(self, volume: str) -> None:
        """Remove the added containers that refer to a volume, so that it can be recreated."""
        for one in self._added.containers:
            if volume in one.volumes:
                self._engine.remove_container(one.id, force=True)

    def remove_added(self, *, spare_volumes: bool, only: Project | None = None) -> None:
        """Remove the additions to the project; only log a failure.

        Args:
            spare_volumes: whether volumes stay, anonymous ones included.
            only: the additions that may be removed; None for all.
        """
        added = self._added if only is None else self._added.within(only)
        # In reverse: a container whose namespaces others use cannot go before them.
        for container in reversed(added.containers):
            with _logging_failure(f"container {container.name}"):
                self._engine.remove_container(container.id, force=True, volumes=not spare_volumes)
        for network in added.networks:
            with _logging_failure(f"network {network}"):
                self._engine.remove_network(network)
        for volume in added.volumes:
            if spare_volumes:
                logger.warning("volume %s was added to the project since the backup; leaving it", volume)
                continue
            with _logging_failure(f"volume {volume}"):
                self._engine.remove_volume(volume)

    def unexpected(self) -> list[str]:
        """Return a sentence for each container and network that appeared since the backup and is in its way."""
        found = [one for container in self._backup.containers for one in self._conflicting(container)]
        containers = [
            f"container {other.name!r}, which was not there, {reason}"
            for other, reason in found + self._users_of_the_unused()
            if other.id not in self._backup.bystanders
        ]
        conflicting = self._conflicting_networks(self._standing_networks())
        return containers + [f"network {name!r}, which was not there, {reason}" for name, reason in conflicting]

    def refuse(self) -> None:
        """Raise `RestoreError` for the first container or network in the way; touch nothing."""
        everybody = ", ".join(sorted(self._names))
        standing = self._standing_networks()
        for network in self._backup.networks:
            self._refuse_changed_network(network, standing[network.name])
        for other, reason in self._conflicting_networks(standing):
            raise RestoreError(
                everybody,
                f"network {other!r}, which is not part of backup {self._backup.id}, {reason}; "
                "remove it first. Nothing was touched",
            )
        found = [(one.name, conflicting) for one in self._backup.containers for conflicting in self._conflicting(one)]
        for name, (other_container, reason) in found + [(everybody, one) for one in self._users_of_the_unused()]:
            raise RestoreError(
                name,
                f"container {other_container.name!r}, which is not part of backup {self._backup.id}, {reason}; "
                "stop it first. Nothing was touched",
            )

    def stop_conflicting(self, container: ContainerSnapshot, others: QuiescedContainers) -> None:
        """Stop the containers that conflict with one of the backup, and hold stopped ones that share its volumes.

        May be called for several containers at once: one other container is then stopped after the other.
        """
        volumes = {mount.source for mount in container.mounts if mount.kind == "volume"}
        with self._stopping:
            for other, reason in self._conflicting(container):
                self._stop(other, reason, others)
            # Otherwise a stopped container might start after a reboot, and find half of its data.
            for other in self._containers:
                if _starts_by_itself(other) and volumes & other.volumes.keys() and other.name not in self._names:
                    self._hold_stopped(other, others)

    def in_place_of(self, container: ContainerSnapshot) -> list[str]:
        """Return ids and names of what may stand in the place of a container of the backup, itself included."""
        # An id that is gone never comes back.
        itself = [container.id] if container.id in self._there else []
        namesake = [container.name] if self._namesakes else []
        return [*itself, *namesake, *(one.id for one in self.renamed_away_from(container.name))]

    def renamed_away_from(self, name: str) -> list[Observed]:
        """Return the containers that were renamed away from a name."""
        return [one for one in self._containers if is_aside_of(one.name, [name])]

    def others_in(self, network: str) -> list[Observed]:
        """Look up the containers on a network, in any state, that the restore does not handle itself."""
        found = find_containers(self._engine, ContainerFilter(network=network), but=self._ids)
        return [
            other
            for other in found
            if other.name not in self._names
            and not is_aside(other.name)
            and network in user_endpoints(other.inspection)
        ]

    @property
    def _expected(self) -> set[str]:
        """The ids of the containers that the restore itself handles."""
        return self._ids | self._added.ids

    def _standing_networks(self) -> dict[str, Mapping[str, Any] | None]:
        """Look up the networks of the backup, by their names; None for one that is gone."""
        return {network.name: find_network(self._engine, network.name) for network in self._backup.networks}

    def _refuse_changed_network(self, network: NetworkRecord, standing: Mapping[str, Any] | None) -> None:
        if standing is None or is_same_network(network.inspection, standing):
            return
        differences = compare_networks(network.inspection, standing)
        others = [
            str(member.get("Name") or identity)
            for identity, member in (standing.get("Containers") or {}).items()
            # A swarm lists the endpoint of its own load balancer among the containers of an overlay network.
            if not identity.startswith("lb-")
            and identity not in self._expected
            and member.get("Name") not in self._names
        ]
        if differences and others:
            raise RestoreError(
                ", ".join(sorted(self._names)),
                f"network {network.name!r} was changed, and {', '.join(others)} uses it; detach it first. "
                "Nothing was touched",
                [str(difference) for difference in differences],
            )

    def _conflicting_networks(self, standing: Mapping[str, Mapping[str, Any] | None]) -> list[tuple[str, str]]:
        """Return the networks that keep one of the backup from being created, each with the reason."""
        missing = []
        for network in self._backup.networks:
            found = standing[network.name]
            if found is None or not is_same_network(network.inspection, found):
                missing.append(network)
        others = self._foreign_networks() if missing else []
        return [
            (other, f"has addresses of network {network.name!r}, {subnet}")
            for network in missing
            for other, subnet in _overlapping(network, others)
        ]

    def _foreign_networks(self) -> list[Mapping[str, Any]]:
        """Look up the networks made since the backup, except those that it restores or that joined its project."""
        ours = {*self._added.networks, *(one.name for one in self._backup.networks)}
        since = set(self._engine.list_networks()) - set(self._backup.other_networks)
        found = (find_network(self._engine, identity) for identity in since)
        return [other for other in found if other is not None and other["Name"] not in ours]

    def _running(self) -> list[Observed]:
        """Return the running containers that the restore does not handle itself."""
        return [
            one
            for one in self._containers
            if one.state.alive and one.id not in self._expected and one.name not in self._names
        ]

    def _users_of_the_unused(self) -> list[tuple[Observed, str]]:
        """Return the running containers that use a project volume that no container of the backup uses."""
        if self._backup.project is None:
            return []
        used = {mount.source for container in self._backup.containers for mount in container.mounts}
        unused = [volume.name for volume in self._backup.volumes if volume.name not in used]
        return [
            (user, f"uses volume {volume!r}") for volume in unused for user in self._running() if volume in user.volumes
        ]

    def _conflicting(self, container: ContainerSnapshot) -> list[tuple[Observed, str]]:
        """Return the running containers that conflict with one of the backup, each with the reason."""
        folders = [volume.name for volume in self._backup.volumes if is_folder(volume.name)]
        # An earlier attempt may have renamed a container away without stopping it.
        others = [other for other in self._running() if not is_aside_of(other.name, self._names)]
        reasons = [(other, conflict(container, other, folders=folders)) for other in others]
        return [(other, reason) for other, reason in reasons if reason is not None]

    def _stop(self, other: Observed, reason: str, others: QuiescedContainers) -> None:
        """Stop a container: for the time of the restore if it existed at the capture, else for good."""
        standing = self._standing(other)
        if standing is None or not standing.state.alive:
            return
        if other.id in self._backup.bystanders:
            others.quiesce(standing)
        else:
            logger.warning("%s: stopping it for good, because it %s", other.name, reason)
            hold(self._engine, standing)

    def _hold_stopped(self, other: Observed, others: QuiescedContainers) -> None:
        standing = self._standing(other) if other.id not in self._ids else None
        if standing is not None and _starts_by_itself(standing):
            others.quiesce(standing)

    def _standing(self, other: Observed) -> Observed | None:
        """Look up a container again, on the first call for it; later calls return None."""
        # Stopping other containers may have taken long, so its state may have changed.
        if other.id in self._handled:
            return None
        self._handled.add(other.id)
        return find_container(self._engine, other.id)


def _starts_by_itself(container: Observed) -> bool:
    """Return True if a stopped container starts when its engine does."""
    return not container.state.alive and restarts(container.inspection["HostConfig"])


def _overlapping(network: NetworkRecord, others: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the names of the networks that have addresses of `network`, each with the common subnet."""
    subnets = [(str(other["Name"]), common_subnet(network.inspection, other)) for other in others]
    return [(name, subnet) for name, subnet in subnets if subnet is not None]


def remove_orphan(engine: Engine, volume: VolumeArchive) -> None:
    """Remove an anonymous volume whose container is gone; the new container's volume has its data."""
    name = volume.name
    try:
        if not volume.is_partial:
            engine.remove_volume(name)
        elif find_volume(engine, name) and not engine.list_containers(ContainerFilter(volume=name)):
            logger.warning("keeping volume %s: the data that was excluded from its archive is nowhere else", name)
    except EngineConflictError:
        logger.debug("volume %s is in use", name)
    except EngineError as error:
        logger.warning("could not remove volume %s: %s", name, error)


@contextmanager
def _logging_failure(subject: str) -> Iterator[None]:
    try:
        yield
    except EngineError as error:
        logger.warning("could not remove %s, which was added to the project: %s", subject, error)
