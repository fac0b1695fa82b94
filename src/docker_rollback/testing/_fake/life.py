"""The life of containers in the in-memory engine: start, end and restart."""

from __future__ import annotations

import errno
import heapq
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any, Final

from attrs import define, field

from docker_rollback.errors import EngineConflictError, EngineError, NetworkNotFoundError, VolumeNotFoundError
from docker_rollback.testing._fake.containers import Container
from docker_rollback.testing._fake.files import Files
from docker_rollback.testing._fake.maker import SHARED_NETWORK, Maker
from docker_rollback.testing._fake.networks import Network
from docker_rollback.testing._fake.processes import KILLED
from docker_rollback.testing._fake.programs import prepare, reads
from docker_rollback.testing._fake.refusals import refusal
from docker_rollback.testing._fake.tree import directory

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 60.0
_RETRIES = 3
"""The number of failed probes in a row that make a container unhealthy, unless its health check sets `Retries`."""

Hook = Callable[[Container], object]

_NO_REAL_PID: Final = 1 << 22
"""Above every pid of a machine (PID_MAX_LIMIT of Linux), so that no fake container is taken for a real process."""


@define
class Life:
    """Starts, ends, restarts and removes an engine's containers.

    Attributes:
        maker: makes the containers and keeps them.
        on_start: called when a container's main program has started.
        on_stop: called when a container's main program is asked to stop; it may end the container with another exit
            code.
    """

    maker: Maker
    on_start: Hook
    on_stop: Hook
    _due: list[tuple[datetime, int, str, int, Callable[[], object]]] = field(factory=list)
    _order: Iterator[int] = field(factory=itertools.count)

    # Networks

    def connect(self, container: Container, name: str, endpoint: dict[str, Any]) -> None:
        """Attach a container to a network: now if it runs, otherwise at its next start."""
        action = f"connect container {container.name!r} to network {name!r}"
        if container.host["NetworkMode"].startswith(SHARED_NETWORK):
            raise refusal(action, 409, "container sharing network namespace with another container or host")
        if name == "host" or "host" in container.endpoints:
            raise refusal(
                action, 400, "cannot connect container to host network - container must be created in host mode"
            )
        if name == "none" or "none" in container.endpoints:
            reason = (
                "container cannot be connected to multiple networks with one of the networks in private (none) mode"
            )
            raise refusal(action, 400, reason)
        self.maker.networks.check(action, name, endpoint)
        if name in container.endpoints:
            raise EngineConflictError(action, "it is connected already")
        # Docker 25 and later keep a MAC address only if the request that created the container had it.
        endpoint.pop("MacAddress", None)
        if container.alive:
            self.maker.networks.attach(action, name, container.id, container.name, endpoint)
        container.endpoints[name] = {**endpoint, "Named": True}

    def disconnect(self, container: Container, network: Network) -> None:
        """Detach a container from a network; does nothing if it is not attached."""
        if network.name == "host" and network.name in container.endpoints and container.alive:
            action = f"disconnect container {container.name!r} from network {network.name!r}"
            raise refusal(action, 400, "cannot disconnect container from host network")
        container.endpoints.pop(network.name, None)
        self.maker.networks.detach(container.id, network)

    # Beginning and end

    def start(self, container: Container) -> None:
        """Start a container; does nothing if it runs."""
        action = f"start container {container.name!r}"
        if container.status == "paused":
            raise refusal(action, 409, "cannot start a paused container, try unpause instead")
        if container.alive:
            return
        container.restarts = 0
        self._begin(action, container)

    def _begin(self, action: str, container: Container) -> None:
        container.prepared = True
        try:
            self._join(action, container)
            for mount in container.mounts:
                if mount.spec.kind == "volume":
                    mount.node = self.maker.volume_node(mount.name, mount.spec)
                    if mount.node is None:
                        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), mount.spec.subpath)
                elif mount.spec.kind == "bind":
                    # The folder may have been replaced since the last start.
                    mount.node = self.maker.bound(action, mount.spec)
                container.make_place(mount.spec.destination, self.maker.moments.nanoseconds())
        except (EngineError, OSError, VolumeNotFoundError) as error:
            self.maker.networks.detach(container.id)
            reason = error.reason if isinstance(error, EngineError) else str(error)
            container.error = reason
            if container.status == "created":
                container.exit_code = 128
            if isinstance(error, EngineError):
                raise
            raise refusal(action, 500, reason) from error
        container.run += 1
        container.sandbox = "" if not container.endpoints else self.maker.new_id()
        container.status, container.exit_code, container.error = "running", 0, ""
        container.started = self.maker.moments.written()
        container.pid = _NO_REAL_PID + container.run
        container.health = "starting" if container.checked else None
        container.probes, container.undecided = [], False
        prepare(container.command, Files(container.view, self.maker.moments.nanoseconds, nullcontext()))
        self.on_start(container)
        if container.health == "starting" and container.status == "running" and not container.undecided:
            self.probe(container, 0, "")

    def _join(self, action: str, container: Container) -> None:
        """Set up the network of a container that starts."""
        mode = container.host["NetworkMode"]
        if mode.startswith(SHARED_NETWORK):
            other = self.maker.find(mode.removeprefix(SHARED_NETWORK))
            if other is None:
                raise refusal(action, 409, f"No such container: {mode.removeprefix(SHARED_NETWORK)}")
            if other.status not in ("running", "paused"):
                raise refusal(
                    action,
                    409,
                    "cannot join network namespace of a non running container: "
                    f"container {other.name} is {other.status}",
                )
            return
        if mode not in container.endpoints:
            self._find_network_of_mode(action, mode)
        for name, endpoint in container.endpoints.items():
            self.maker.networks.attach(action, name, container.id, container.name, endpoint)
        if mode not in ("host", "none") and not self.maker.networks.are_internal(container.endpoints):
            container.ports = self.maker.networks.publish(action, container.id, _published(container))

    def _find_network_of_mode(self, action: str, mode: str) -> None:
        try:
            self.maker.networks.get(mode)
        except NetworkNotFoundError:
            reason = f"could not find a network matching network mode {mode}: network {mode} not found"
            raise refusal(action, 404, f"failed to set up container networking: {reason}") from None

    def end(self, container: Container, code: int, *, asked: bool) -> None:
        """End a container's main program; if `asked`, a user stopped it, and its restart policy does not apply."""
        container.run += 1
        container.status, container.exit_code, container.pid = "exited", code, 0
        container.finished = self.maker.moments.written()
        container.ports, container.sandbox = {}, ""
        if container.health is not None:
            container.health = "unhealthy"
        self.maker.networks.detach(container.id)
        ending, container.processes = container.processes, []
        for process in ending:
            process.kill()
        self._forget_memory(container)
        if container.host["AutoRemove"]:
            self.remove(container, volumes=True)
        elif not asked and self._comes_back(container, code):
            container.status = "restarting"
            delay = min(_FIRST_DELAY * 2**container.restarts, _LONGEST_DELAY)
            container.restarts += 1
            self.later(container, delay, lambda: self._begin(f"restart container {container.name!r}", container))

    def _comes_back(self, container: Container, code: int) -> bool:
        policy = container.host["RestartPolicy"]
        if policy["Name"] == "on-failure":
            most = policy["MaximumRetryCount"]
            return code != 0 and (not most or container.restarts < most)
        return policy["Name"] in ("always", "unless-stopped")

    def _forget_memory(self, container: Container) -> None:
        """Empty the container's tmpfs mounts, and the volumes in memory that no running container mounts."""
        for mount in container.mounts:
            if mount.spec.kind == "tmpfs":
                mount.node = directory(mode=0o1777, mtime=self.maker.moments.nanoseconds())
            elif mount.name and mount.name in self.maker.volumes.known:
                volume = self.maker.volumes.get(mount.name)
                users = [self.maker.known[one] for one in self.maker.volumes.users(mount.name)]
                if volume.fleeting and not any(one.alive for one in users):
                    volume.root = directory(mtime=self.maker.moments.nanoseconds())

    def hang_up(self, container: Container, path: str) -> None:
        """End a container whose main program reads a FIFO that its last writer has closed."""
        held = any(one.feeds(path) for one in container.processes)
        if container.alive and not held and reads(container.command) == path:
            self.end(container, 0, asked=False)

    def stop(self, container: Container, *, patient: bool = True) -> None:
        """Stop a container; does nothing if it does not run. Its program is killed unless `patient`."""
        if not container.alive:
            return
        run = container.run
        if container.status == "restarting":
            self.end(container, container.exit_code, asked=True)
            return
        self.on_stop(container)
        if container.run == run:
            self.end(container, 0 if patient and not container.killed_by_stop else KILLED, asked=True)

    def kill(self, container: Container) -> None:
        """Kill a container; does nothing if it does not run."""
        if container.alive:
            self.end(container, KILLED, asked=True)

    def remove(self, container: Container, *, volumes: bool) -> None:
        """Remove a container that does not run, and, if `volumes`, its anonymous volumes that no other one uses."""
        self.maker.known.pop(container.id, None)
        if not volumes:
            return
        for mount in container.mounts:
            if mount.anonymous and mount.name in self.maker.volumes.known and not self.maker.volumes.users(mount.name):
                self.maker.volumes.remove(mount.name)

    def probe(self, container: Container, code: int, output: str) -> None:
        """Record the result of a container's health check, and update its health."""
        if not container.checked:
            return
        moment = self.maker.moments.written()
        container.probes.append({"Start": moment, "End": moment, "ExitCode": code, "Output": output})
        retries = int((container.config.get("Healthcheck") or {}).get("Retries") or _RETRIES)
        last = container.probes[-retries:]
        if code == 0:
            container.health = "healthy"
        elif len(last) == retries and all(probe["ExitCode"] != 0 for probe in last):
            container.health = "unhealthy"

    def later(self, container: Container, seconds: float, action: Callable[[], object]) -> None:
        """Call `action` once the clock has moved on by `seconds`, unless this run of the container ends before."""
        due = self.maker.moments.clock() + timedelta(seconds=seconds)
        heapq.heappush(self._due, (due, next(self._order), container.id, container.run, action))

    def settle(self) -> None:
        """Perform the scheduled actions that are due, in order."""
        while self._due and self._due[0][0] <= self.maker.moments.clock():
            _, _, identity, run, action = heapq.heappop(self._due)
            container = self.maker.known.get(identity)
            if container is not None and container.run == run:
                action()


def _published(container: Container) -> dict[str, Any]:
    """Return the requested host bindings of each exposed port."""
    bindings: dict[str, Any] = dict.fromkeys(container.config.get("ExposedPorts") or {})
    bindings |= container.host["PortBindings"] or {}
    if container.host["PublishAllPorts"]:
        bindings = {port: wishes or [{"HostIp": "", "HostPort": ""}] for port, wishes in bindings.items()}
    return bindings
