"""Networks and volumes of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from docker_rollback._engine.docker.errors import Asking
from docker_rollback._engine.docker.references import Referring, attached, bears, label_filter, segment
from docker_rollback._engine.port import Inspection
from docker_rollback.errors import EngineConflictError, EngineError, NetworkNotFoundError, VolumeNotFoundError

NO_LABELS: Final[Mapping[str, str]] = {}

_SWARM_PATIENCE: Final = 30.0
"""Seconds for which a node of a swarm may keep a network after its removal."""

# Podman tells what it understood of an option as options of its own.
_DERIVED_OPTIONS: Final = frozenset({"SIZE", "INODES", "UID", "GID", "NOQUOTA"})


class DockerNetworks(Referring):
    """The part of `DockerEngine` that is about networks."""

    def inspect_network(self, ref: str) -> Inspection:
        return self._found_network(ref, f"inspect network {ref!r}")

    def list_networks(self, *, labels: Mapping[str, str] = NO_LABELS) -> list[str]:
        found = self._wire.json("GET", "/networks", Asking("list networks"), params=label_filter(labels))
        return [str(one["Id"]) for one in found or [] if bears(one, labels)]

    def create_network(self, request: Inspection) -> str:
        asking = Asking(f"create network {request.get('Name')!r}")
        # Before 1.44 an engine makes a second network of the same name unless it is told not to.
        body = {**request, "CheckDuplicate": True}
        return str(self._wire.json("POST", "/networks/create", asking, body=body)["Id"])

    def remove_network(self, ref: str) -> None:
        asking = Asking(f"remove network {ref!r}", NetworkNotFoundError, ref)
        with suppress(NetworkNotFoundError):
            found = self._found_network(ref, asking.action)
            if self._wire.podman:
                self._see_that_nobody_uses(found, asking)
            if found.get("Scope") == "swarm":
                self._remove_from_swarm(str(found["Id"]), asking)
            else:
                self._wire.json("DELETE", f"/networks/{found['Id']}", asking)

    def connect_network(self, network: str, container: str, endpoint: Inspection) -> None:
        asking = Asking(
            f"connect container {self._called(container)} to network {network!r}", NetworkNotFoundError, network
        )
        joining = self._found_container(container, asking.action)
        joined = self._found_network(network, asking.action)
        if attached(joining, joined):
            # Of a container that does not run, engines would write another configuration over the one that is there.
            raise EngineConflictError(asking.action, "it is connected already")
        body = {"Container": joining["Id"], "EndpointConfig": endpoint}
        self._wire.answer("POST", f"/networks/{joined['Id']}/connect", asking, body=body).close()

    def disconnect_network(self, network: str, container: str, *, force: bool = False) -> None:
        asking = Asking(
            f"disconnect container {self._called(container)} from network {network!r}", NetworkNotFoundError, network
        )
        leaving = self._found_container(container, asking.action)
        left = self._found_network(network, asking.action)
        if attached(leaving, left):
            body = {"Container": leaving["Id"], "Force": force}
            self._wire.answer("POST", f"/networks/{left['Id']}/disconnect", asking, body=body).close()

    def _remove_from_swarm(self, full_id: str, asking: Asking) -> None:
        # The node learns of the removal some moments after the answer, and refuses the name until then.
        try:
            self._wire.json("DELETE", f"/networks/{full_id}", asking)
        except EngineError as error:
            if f"network {full_id} not found" not in error.reason:
                raise
        self._until(
            lambda: self._network_gone(full_id),
            _SWARM_PATIENCE,
            asking.action,
            f"its node still has it {_SWARM_PATIENCE:.0f} s after the swarm removed it",
        )

    def _network_gone(self, full_id: str) -> bool:
        try:
            self._found_network(full_id, f"look for network {full_id!r}")
        except NetworkNotFoundError:
            return True
        return False

    def _see_that_nobody_uses(self, network: Inspection, asking: Asking) -> None:
        # Podman removes a network under running containers, which then can neither be stopped nor started.
        listed = self._wire.json("GET", "/containers/json", asking) or []
        users = [str(one["Names"][0]).removeprefix("/") for one in listed if attached(one, network)]
        if users:
            raise EngineConflictError(asking.action, f"it is in use by {', '.join(sorted(users))}")


class DockerVolumes(Referring):
    """The part of `DockerEngine` that is about volumes."""

    def inspect_volume(self, name: str) -> Inspection:
        asking = Asking(f"inspect volume {name!r}", VolumeNotFoundError, name)
        found: Inspection = self._wire.json("GET", f"/volumes/{segment(name, asking)}", asking)
        if found.get("Name") != name:
            raise VolumeNotFoundError(name, action=asking.action)
        return found

    def list_volumes(self, *, labels: Mapping[str, str] = NO_LABELS) -> list[str]:
        found = self._wire.json("GET", "/volumes", Asking("list volumes"), params=label_filter(labels))
        return [str(one["Name"]) for one in (found or {}).get("Volumes") or [] if bears(one, labels)]

    def create_volume(self, request: Inspection) -> str:
        asking = Asking(f"create volume {request.get('Name')!r}")
        found = self._wire.json("POST", "/volumes/create", asking, body=request)
        if request.get("Name"):
            _see_that_it_is_equal(found, request, asking)
        return str(found["Name"])

    def remove_volume(self, name: str) -> None:
        asking = Asking(f"remove volume {name!r}", VolumeNotFoundError, name)
        with suppress(VolumeNotFoundError):
            # Podman takes the beginning of a name for the name, and removes what it finds.
            self.inspect_volume(name)
            self._wire.json("DELETE", f"/volumes/{segment(name, asking)}", asking, patient=True)


def _see_that_it_is_equal(found: Inspection, request: Inspection, asking: Asking) -> None:
    """Raise where an engine answered with a volume that was there before and is another than the one asked for."""
    options = {key: value for key, value in (found.get("Options") or {}).items() if key not in _DERIVED_OPTIONS}
    asked = {key: value for key, value in (request.get("DriverOpts") or {}).items() if key not in _DERIVED_OPTIONS}
    differing = [
        word
        for word, is_, should in (
            ("driver", found.get("Driver"), request.get("Driver") or "local"),
            ("options", options, asked),
            ("labels", dict(found.get("Labels") or {}), dict(request.get("Labels") or {})),
        )
        if is_ != should
    ]
    if differing:
        raise EngineConflictError(asking.action, f"there is one of that name with another {' and '.join(differing)}")
