"""Restores the networks of a backup by recreating those that are gone or changed."""

from __future__ import annotations

import logging

from attrs import field, frozen

from docker_rollback._containers import find_network
from docker_rollback._engine import Engine
from docker_rollback._inspection import is_same_network, network_request
from docker_rollback._model import Backup, NetworkRecord
from docker_rollback._restore.surroundings import DetachedContainers, Surroundings
from docker_rollback.errors import EngineError

logger = logging.getLogger("docker_rollback")


@frozen(eq=False)
class NetworkRestorer:
    """Restores single networks of a backup.

    With `remove_others`, a network outside the backup that has addresses of one in it is removed. `detached` takes
    containers outside the backup off a network while that is recreated.
    """

    _engine: Engine
    _backup: Backup
    _surroundings: Surroundings
    _detached: DetachedContainers
    _remove_others: bool = field(kw_only=True)

    def restore(self, network: NetworkRecord) -> str:
        """Provide a network as it was, attach the other containers again, and return its id."""
        standing = find_network(self._engine, network.name)
        if standing is None:
            found = self._create(network)
        elif is_same_network(network.inspection, standing):
            found = str(standing["Id"])
        else:
            found = self._recreate(network)
        self._detached.attach_again(network.name)
        return found

    def _recreate(self, network: NetworkRecord) -> str:
        # The backup's containers are stopped. Others are here only in a rollback: else `Restorer.check` refuses them.
        if network.inspection.get("ConfigOnly"):
            # No engine removes it while a network made from it exists; such networks are restored after it.
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
        """Remove networks made since the backup that may have the addresses of one; return True if there were any."""
        # The restore of another network may have removed or recreated some.
        self._surroundings.refresh()
        removed = self._surroundings.remove_added_networks()
        # An update may have created a network under another name, which the engine then gave the free addresses.
        taken = self._surroundings.addresses_taken(network) if self._remove_others else []
        for other, subnet in taken:
            logger.warning("removing network %s, which has addresses of network %s: %s", other, network.name, subnet)
            self._remove(other, "which is in the way")
        return removed or bool(taken)
