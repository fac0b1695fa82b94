"""Restores the networks of a backup: those that are gone or changed are created again."""

from __future__ import annotations

import logging

from docker_rollback._engine import Engine
from docker_rollback._inspection import is_same_network, network_request
from docker_rollback._model import Backup, NetworkRecord
from docker_rollback._restore.surroundings import OffNetworks, Surroundings
from docker_rollback.errors import EngineError, NetworkNotFoundError

logger = logging.getLogger("docker_rollback")


class NetworkRestorer:
    """Restores single networks of a backup.

    Args:
        engine: where they are.
        backup: what is put back.
        off: the containers that are off a network until that is made again.
        remove_others: whether another network that has addresses of one of them is removed.
    """

    def __init__(self, engine: Engine, backup: Backup, off: OffNetworks, *, remove_others: bool) -> None:
        self._engine = engine
        self._backup = backup
        self._off = off
        self._remove_others = remove_others

    def restore(self, network: NetworkRecord) -> str:
        """Have a network there as it was, with other containers in it again; return its id.

        Raises:
            EngineError: the engine refused or failed.
        """
        try:
            standing = self._engine.inspect_network(network.name)
        except NetworkNotFoundError:
            found = self._create(network)
        else:
            found = str(standing["Id"])
            if not is_same_network(network.inspection, standing):
                found = self._recreate(network)
        self._off.put_back(network.name)
        return found

    def _recreate(self, network: NetworkRecord) -> str:
        # Those of the backup are stopped. There are others for a rollback alone; `Restorer.check` has seen to that.
        if network.inspection.get("ConfigOnly"):
            # No engine removes it under the networks that are made from it; those are restored after it.
            for other in self._backup.networks:
                if (other.inspection.get("ConfigFrom") or {}).get("Network") == network.name:
                    self._remove(other.name, f"which was made from {network.name}")
        self._remove(network.name, "which was changed")
        return self._create(network)

    def _remove(self, name: str, why: str) -> None:
        for other in Surroundings(self._engine, self._backup).others_in(name):
            if other.id in self._backup.bystanders:
                self._off.take_off(other, name)
            else:
                logger.warning("%s: it is taken off network %s, %s", other.name, name, why)
                self._engine.disconnect_network(name, other.id, force=True)
        self._engine.remove_network(name)

    def _create(self, network: NetworkRecord) -> str:
        request = network_request(network.inspection)
        try:
            return self._engine.create_network(request)
        except EngineError as error:
            logger.info("network %s cannot be made while others are there: %s", network.name, error)
            if not self._make_room(network):
                raise
        return self._engine.create_network(request)

    def _make_room(self, network: NetworkRecord) -> bool:
        """Remove the networks that came since and may have the addresses of one; say whether there were any."""
        surroundings = Surroundings(self._engine, self._backup)
        dropped = surroundings.drop_new_networks()
        # Engines choose what has become free for the next network: that of an update, under another name.
        taken = surroundings.addresses_taken(network) if self._remove_others else []
        for other, subnet in taken:
            logger.warning(
                "removing network %s, because it has addresses of network %s: %s", other, network.name, subnet
            )
            self._remove(other, "which is in the way")
        return dropped or bool(taken)
