"""Implements the network and volume methods of `DockerEngine`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from docker_rollback._engine.docker.errors import Asking
from docker_rollback._engine.docker.references import Referring, attached, has_labels, label_filter, segment
from docker_rollback._engine.port import Inspection
from docker_rollback.errors import EngineConflictError, EngineError, NetworkNotFoundError, VolumeNotFoundError

_SWARM_PATIENCE: Final = 30.0  # seconds for which a node of a swarm may still have a network after its removal

# Podman adds its interpretation of a volume's options as options of its own.
_DERIVED_OPTIONS: Final = frozenset({"SIZE", "INODES", "UID", "GID", "NOQUOTA"})


class DockerNetworks(Referring):
    """The network methods of `DockerEngine`."""

    def inspect_network(self, ref: str) -> Inspection:
        return self._found_network(ref, f"inspect network {ref!r}")

    def list_networks(self, *, labels: Mapping[str, str] = {}) -> list[str]:
        found = self._wire.json("GET", "/networks", Asking("list networks"), params=label_filter(labels))
        return [str(one["Id"]) for one in found or [] if has_labels(one, labels)]

    def create_network(self, request: Inspection) -> str:
        asking = Asking(f"create network {request.get('Name')!r}")
        # Below API 1.44 an engine creates a second network of the same name without this field.
        body = {**request, "CheckDuplicate": True}
        return str(self._wire.json("POST", "/networks/create", asking, body=body)["Id"])

    def remove_network(self, ref: str) -> None:
        asking = Asking(f"remove network {ref!r}", NetworkNotFoundError, ref)
        with suppress(NetworkNotFoundError):
            found = self._found_network(ref, asking.action)
            if self._wire.podman:
                self._require_unused(found, asking)
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
            # For a container that does not run, engines would overwrite the present endpoint configuration.
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
        # The node removes the network some moments after the swarm's answer; until then the name is taken.
        try:
            self._wire.json("DELETE", f"/networks/{full_id}", asking)
        except EngineError as error:
            if f"network {full_id} not found" not in error.reason:
                raise
        reason = f"its node still has it {_SWARM_PATIENCE:.0f} s after the swarm removed it"
        self._until(lambda: self._gone(self._found_network, full_id), _SWARM_PATIENCE, asking.action, reason)

    def _require_unused(self, network: Inspection, asking: Asking) -> None:
        # Podman would remove a network of running containers, which could then be neither stopped nor started.
        listed = self._wire.json("GET", "/containers/json", asking) or []
        users = [str(one["Names"][0]).removeprefix("/") for one in listed if attached(one, network)]
        if users:
            raise EngineConflictError(asking.action, f"it is in use by {', '.join(sorted(users))}")


class DockerVolumes(Referring):
    """The volume methods of `DockerEngine`."""

    def inspect_volume(self, name: str) -> Inspection:
        asking = Asking(f"inspect volume {name!r}", VolumeNotFoundError, name)
        found: Inspection = self._wire.json("GET", f"/volumes/{segment(name, asking)}", asking)
        if found.get("Name") != name:
            raise VolumeNotFoundError(name, action=asking.action)
        return found

    def list_volumes(self, *, labels: Mapping[str, str] = {}) -> list[str]:
        found = self._wire.json("GET", "/volumes", Asking("list volumes"), params=label_filter(labels))
        return [str(one["Name"]) for one in (found or {}).get("Volumes") or [] if has_labels(one, labels)]

    def create_volume(self, request: Inspection) -> str:
        asking = Asking(f"create volume {request.get('Name')!r}")
        found = self._wire.json("POST", "/volumes/create", asking, body=request)
        if request.get("Name"):
            _require_equal(found, request, asking)
        return str(found["Name"])

    def remove_volume(self, name: str) -> None:
        asking = Asking(f"remove volume {name!r}", VolumeNotFoundError, name)
        with suppress(VolumeNotFoundError):
            if self._wire.podman:
                # It accepts a prefix of a name, and would remove another volume.
                self.inspect_volume(name)
            self._wire.json("DELETE", f"/volumes/{segment(name, asking)}", asking, patient=True)


def _require_equal(found: Inspection, request: Inspection, asking: Asking) -> None:
    """Raise if an engine returned an existing volume that differs from the request."""
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
        raise EngineConflictError(asking.action, f"a volume of that name has another {' and '.join(differing)}")
