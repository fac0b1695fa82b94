"""Who else is there while a backup is put back: what is in its way, what shares its data, what is in its networks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from docker_rollback._containers import AtRest, look_at, look_at_all, newcomers
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
    NetworkNotFoundError,
    RestoreError,
    VolumeNotFoundError,
)

logger = logging.getLogger("docker_rollback")


class OffNetworks:
    """Containers outside that are taken off networks which are made again, to be put into them afterwards.

    Args:
        engine: where they are.
        known: those that an attempt before this one took off.
        note: told of each before it is taken off.
    """

    def __init__(
        self, engine: Engine, *, known: Iterable[Detached] = (), note: Callable[[Detached], None] | None = None
    ) -> None:
        self._engine = engine
        self._note = note
        self._known = {(found.id, found.network): found for found in known}

    def take_off(self, container: Observed, network: str) -> None:
        """Take a container off a network; `put_back` attaches it again. Raises an `EngineError` where that fails."""
        found = Detached(container.id, container.name, network, user_endpoints(container.inspection)[network])
        if self._note is not None:
            self._note(found)
        # What an attempt before this one knew is what there was before any of them.
        self._known.setdefault((found.id, network), found)
        self._engine.disconnect_network(network, container.id, force=True)

    def put_back(self, network: str) -> None:
        """Attach whatever was taken off a network, with its addresses if they fit; who is in it stays as it is.

        Raises:
            EngineError: the engine does not answer. What it refuses is logged.
        """
        for found in [found for found in self._known.values() if found.network == network]:
            standing = look_at(self._engine, found.id)
            if standing is None:
                logger.warning("%s: it was taken off network %s, and somebody removed it", found.name, network)
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
                logger.warning("%s: it could not be put into network %s again: %s", found.name, found.network, error)
            else:
                return


class Surroundings:
    """Deals with containers that are no part of a backup while that is put back.

    Args:
        engine: where they are.
        backup: what is put back.
    """

    def __init__(self, engine: Engine, backup: Backup) -> None:
        self._engine = engine
        self._backup = backup
        self._ids = {member.id for member in backup.containers}
        self._names = {member.name for member in backup.containers}
        self._newcomers = newcomers(engine, backup)

    def hold_newcomers(self, guests: AtRest) -> None:
        """Stop what came to the project since, and what uses those volumes of it that none of its containers used."""
        for newcomer in reversed(self._newcomers.containers):
            with suppress(ContainerNotFoundError):  # a stop removes it, or it was about to go
                hold(self._engine, newcomer)
        for user, reason in self._users_of_the_unused():
            self._bring(user, reason, guests)

    def drop_new_networks(self) -> bool:
        """Remove the networks that came to the project since; say whether there were any."""
        for network in self._newcomers.networks:
            for other in self.others_in(network):
                self._engine.disconnect_network(network, other.id, force=True)
            self._engine.remove_network(network)
        return bool(self._newcomers.networks)

    def addresses_taken(self, network: NetworkRecord) -> list[tuple[str, str]]:
        """Return the networks that have addresses of one that is to be made, each with the subnet.

        They came since: while that one stood, its engine would not have made them. What came to the project is left
        out, what the backup restores, and what there was at the capture.
        """
        ours = {*self._newcomers.networks, *(one.name for one in self._backup.networks)}
        found = []
        for identity in set(self._engine.list_networks()) - set(self._backup.other_networks):
            with suppress(NetworkNotFoundError):
                other = self._engine.inspect_network(identity)
                subnet = common_subnet(network.inspection, other)
                if subnet is not None and other["Name"] not in ours:
                    found.append((str(other["Name"]), subnet))
        return found

    def drop_newcomers(self, volume: str) -> None:
        """Remove those that came to the project since and refer to a volume, which can then be made anew."""
        for newcomer in self._newcomers.containers:
            if volume in newcomer.volumes:
                self._engine.remove_container(newcomer.id, force=True)

    def clear_newcomers(self, *, spare_volumes: bool, only: Project | None = None) -> None:
        """Remove what came to the project since; what cannot be removed is named in the log.

        Args:
            spare_volumes: whether volumes stay, anonymous ones too.
            only: what may go at all; everything where None.
        """
        came = self._newcomers if only is None else self._newcomers.within(only)
        # The last first: one that others live in cannot go before them.
        for newcomer in reversed(came.containers):
            with _left_where_it_fails(f"container {newcomer.name}"):
                self._engine.remove_container(newcomer.id, force=True, volumes=not spare_volumes)
        for network in came.networks:
            with _left_where_it_fails(f"network {network}"):
                self._engine.remove_network(network)
        for volume in came.volumes:
            if spare_volumes:
                logger.warning("volume %s came to the project since the backup, and is left as it is", volume)
                continue
            with _left_where_it_fails(f"volume {volume}"):
                self._engine.remove_volume(volume)

    def strangers(self) -> list[str]:
        """Return what came since the backup and is in its way, a sentence each."""
        found = [one for container in self._backup.containers for one in self._in_the_way(container)]
        containers = [
            f"container {intruder.name!r}, which was not there, {reason}"
            for intruder, reason in found + self._users_of_the_unused()
            if intruder.id not in self._backup.bystanders
        ]
        networks = [f"network {name!r}, which was not there, {reason}" for name, reason in self._networks_in_the_way()]
        return containers + networks

    def refuse(self) -> None:
        """Raise a `RestoreError` for the first thing in the way; nothing is touched."""
        for network in self._backup.networks:
            self._refuse_changed_network(network)
        for other, reason in self._networks_in_the_way():
            raise RestoreError(
                ", ".join(sorted(self._names)),
                f"network {other!r}, which is not part of backup {self._backup.id}, {reason}; "
                "remove it first. Nothing was touched",
            )
        found = [(container.name, one) for container in self._backup.containers for one in self._in_the_way(container)]
        everybody = ", ".join(sorted(self._names))
        for name, (intruder, reason) in found + [(everybody, one) for one in self._users_of_the_unused()]:
            raise RestoreError(
                name,
                f"container {intruder.name!r}, which is not part of backup {self._backup.id}, {reason}; "
                "stop it first. Nothing was touched",
            )

    def make_way(self, container: ContainerSnapshot, guests: AtRest) -> None:
        """Bring to rest what is in a container's way, and hold what does not run and would find half of its data."""
        self._stop_intruders(container, guests)
        self._hold_sleepers(container, guests)

    def others_in(self, network: str) -> list[Observed]:
        """Return the containers in a network, in whatever state, that stand in no place that the backup restores."""
        found = look_at_all(self._engine, ContainerFilter(network=network), but=self._ids)
        return [
            other
            for other in found
            if other.name not in self._names
            and not is_aside(other.name)
            and network in user_endpoints(other.inspection)
        ]

    @property
    def _expected(self) -> set[str]:
        """The ids of what the restore itself sees to."""
        return self._ids | self._newcomers.ids

    def _refuse_changed_network(self, network: NetworkRecord) -> None:
        try:
            standing = self._engine.inspect_network(network.name)
        except NetworkNotFoundError:
            return
        if is_same_network(network.inspection, standing):
            return
        differences = compare_networks(network.inspection, standing)
        others = [
            str(member.get("Name") or identity)
            for identity, member in (standing.get("Containers") or {}).items()
            # A swarm lists the end of its own load balancer among the containers of an overlay network.
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

    def _networks_in_the_way(self) -> list[tuple[str, str]]:
        """Return the networks that keep one of the backup from being made, each with the reason."""
        return [
            (other, f"has addresses of network {network.name!r}, {subnet}")
            for network in self._backup.networks
            if not self._stands(network)
            for other, subnet in self.addresses_taken(network)
        ]

    def _stands(self, network: NetworkRecord) -> bool:
        try:
            return is_same_network(network.inspection, self._engine.inspect_network(network.name))
        except NetworkNotFoundError:
            return False

    def _stop_intruders(self, container: ContainerSnapshot, guests: AtRest) -> None:
        """Bring to rest what is in the container's way: for a while what was there before, for good what came later."""
        for intruder, reason in self._in_the_way(container):
            self._bring(intruder, reason, guests)

    def _users_of_the_unused(self) -> list[tuple[Observed, str]]:
        """Return the running containers that use a volume of the project which none of its containers used."""
        if self._backup.project is None:
            return []
        used = {mount.source for container in self._backup.containers for mount in container.mounts}
        unused = [volume.name for volume in self._backup.volumes if volume.name not in used]
        return [
            (user, f"uses volume {volume!r}")
            for volume in unused
            for user in look_at_all(self._engine, ContainerFilter(volume=volume, running=True), but=self._expected)
            if user.name not in self._names
        ]

    def _bring(self, intruder: Observed, reason: str, guests: AtRest) -> None:
        if intruder.id in self._backup.bystanders:
            guests.bring(intruder)
        else:
            logger.warning("%s: stopping it for good, because it %s", intruder.name, reason)
            hold(self._engine, intruder)

    def _hold_sleepers(self, container: ContainerSnapshot, guests: AtRest) -> None:
        """Keep the engine from starting, after a reboot, what does not run now and would find half of its data."""
        for volume in {mount.source for mount in container.mounts if mount.kind == "volume"}:
            for other in look_at_all(self._engine, ContainerFilter(volume=volume), but=self._ids):
                if other.name not in self._names and not other.state.alive and restarts(other.inspection["HostConfig"]):
                    guests.bring(other)

    def _in_the_way(self, container: ContainerSnapshot) -> list[tuple[Observed, str]]:
        """Return the running containers that conflict with one, and stand in no place that the backup restores."""
        running = look_at_all(self._engine, ContainerFilter(running=True), but=self._expected)
        # An attempt before this one may have renamed them away, and not stopped them.
        others = [other for other in running if not is_aside_of(other.name, self._names)]
        folders = [volume.name for volume in self._backup.volumes if is_folder(volume.name)]
        reasons = [
            (other, conflict(container, other, folders=folders)) for other in others if other.name not in self._names
        ]
        return [(other, reason) for other, reason in reasons if reason is not None]


def drop_orphan(engine: Engine, volume: VolumeArchive) -> None:
    """Remove an anonymous volume whose container is gone: its data is in the volume of the new one."""
    name = volume.name
    try:
        if not volume.is_partial:
            engine.remove_volume(name)
        elif _is_there(engine, name) and not engine.list_containers(ContainerFilter(volume=name)):
            logger.warning("volume %s is left over: what its archive leaves out is nowhere else", name)
    except EngineConflictError:
        logger.debug("volume %s is in use", name)
    except EngineError as error:
        logger.warning("volume %s is left over: %s", name, error)


def _is_there(engine: Engine, volume: str) -> bool:
    try:
        return bool(engine.inspect_volume(volume))
    except VolumeNotFoundError:
        return False


@contextmanager
def _left_where_it_fails(what: str) -> Iterator[None]:
    try:
        yield
    except EngineError as error:
        logger.warning("%s, which came to the project, could not be removed: %s", what, error)
