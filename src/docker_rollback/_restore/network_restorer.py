"""Restores the networks of a backup: recreates those that are gone or changed."""

from __future__ import annotations

import logging

from docker_rollback._engine import Engine
from docker_rollback._inspection import is_same_network, network_request
from docker_rollback._model import Backup, NetworkRecord
from docker_rollback._restore.surroundings import DetachedContainers, Surroundings
from docker_rollback.errors import EngineError, NetworkNotFoundError

logger = logging.getLogger("docker_rollback")


class NetworkRestorer:
    """Restores single networks of a backup.

    Args:
        engine: the engine that they are restored on.
        backup: the backup.
        surroundings: the containers and networks outside the backup.
        detached: the other containers that are detached while a network is recreated.
        remove_others: whether to remove another network that has addresses of one of the backup.
    """

    def __init__(
        self,
        engine: Engine,
        backup: Backup,
        surroundings: Surroundings,
        detached: DetachedContainers,
        *,
        remove_others: bool,
    ) -> None:
        self._engine = engine
        self._backup = backup
        self._surroundings = surroundings
        self._detached = detached
        self._remove_others = remove_others

    def restore(self, network: NetworkRecord) -> str:
        """Provide a network as it was, attach the other containers again, and return its id.

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
        self._detached.attach_again(network.name)
        return found

    def _recreate(self, network: NetworkRecord) -> str:
        # Containers of the backup are stopped. Only a rollback finds others here; `Restorer.check` refuses them else.
        if network.inspection.get("ConfigOnly"):
            # No engine removes it while a network that is made from it exists; those are restored after it.
            for other in self._backup.networks:
                if (other.inspection.get("ConfigFrom") or {}).get("Network") == network.name:
                    self._remove(other.name, f"which was made from {network.name}")
        self._remove(network.name, "which was changed")
        return self._create(network)

    def _remove(self, name: str, why: str) -> None:
        for other in self._surroundings.others_in(name):
            if other.id in self._backup.bystanders:
                self._detached.detach(other, name)
            else:
                logger.warning("%s: detaching it from network %s, %s", other.name, name, why)
                self._engine.disconnect_network(name, other.id, force=True)
        self._engine.remove_network(name)

    def _create(self, network: NetworkRecord) -> str:
        request = network_request(network.inspection)
        try:
            return self._engine.create_network(request)
        except EngineError as error:
            logger.info("network %s cannot be created while others exist: %s", network.name, error)
            if not self._free_addresses(network):
                raise
        return self._engine.create_network(request)

    def _free_addresses(self, network: NetworkRecord) -> bool:
        """Remove networks made since the backup that may have the addresses of one; return whether there were any."""
        # Another network may have been recreated since the last look.
        self._surroundings.refresh()
        removed = self._surroundings.remove_added_networks()
        # An engine gives free addresses to the next network: that of an update, under another name.
        taken = self._surroundings.addresses_taken(network) if self._remove_others else []
        for other, subnet in taken:
            logger.warning(
                "removing network %s, because it has addresses of network %s: %s", other, network.name, subnet
            )
            self._remove(other, "which is in the way")
        return removed or bool(taken)
