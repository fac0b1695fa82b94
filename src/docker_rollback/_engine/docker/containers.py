"""Implements the container methods of `DockerEngine`."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import quote

from docker_rollback._engine.docker.errors import Asking, secrets_of
from docker_rollback._engine.docker.exec import Demultiplexer, DockerProcess
from docker_rollback._engine.docker.http import IDENTITY, Upload
from docker_rollback._engine.docker.images import image_id, split_tag
from docker_rollback._engine.docker.kill import MARK, Killer
from docker_rollback._engine.docker.podman import as_docker_takes_it, with_native
from docker_rollback._engine.docker.references import Referring, attached, has_labels, label_filter, with_names
from docker_rollback._engine.docker.socket import take_over
from docker_rollback._engine.port import EVERY, Change, ContainerFilter, Inspection, Process
from docker_rollback.errors import (
    ContainerNotFoundError,
    EngineConflictError,
    EngineError,
    EngineTimeoutError,
    ImageNotFoundError,
    NotFoundError,
)

_KINDS: Final[Mapping[int, Any]] = {0: "changed", 1: "added", 2: "deleted"}
_ALREADY: Final = "already in progress"
_REMOVAL: Final = 60.0  # seconds to wait for a removal that is already in progress
_NO_POLICY: Final = ("", "no", None)
_TIME_TO_STOP = 10.0  # the engines' default stop timeout, in seconds

_SMALL: Final = 1 << 16

_FOR_EVER = 7 * 86400.0  # seconds after which even a stop without a timeout is given up

_CLEANUP: Final = 10.0


class DockerContainers(Referring):
    """The container methods of `DockerEngine`."""

    def inspect_container(self, ref: str) -> Inspection:
        found = self._found_container(ref, f"inspect container {self._called(ref)}")
        if not self._wire.podman:
            return found
        asking = Asking(f"inspect container {self._called(ref)} by Podman's own API", ContainerNotFoundError, ref)
        # By its id, because Podman may take a name for the prefix of another container's id.
        return with_native(found, self._wire.native(f"/containers/{found['Id']}/json", asking))

    def list_containers(self, where: ContainerFilter = EVERY, /) -> list[str]:
        asking = Asking("list containers")
        network = None if where.network is None else self._found_network(where.network, asking.action)
        found = self._wire.json("GET", "/containers/json", asking, params={"all": 1, **label_filter(where.labels)})
        ids = [str(one["Id"]) for one in found or [] if _matches(one, where, network)]
        # Inspect each for its state, because the list is a moment old: Docker's shows just stopped ones as running.
        return [one for one in ids if self._alive(one)] if where.running else ids

    def create_container(self, name: str, request: Inspection, *, platform: str | None = None) -> str:
        image = str(request.get("Image"))
        asking = Asking(f"create container {name!r}", ImageNotFoundError, image, secrets_of(request))
        params = {"name": name, **({"platform": platform} if platform else {})}
        request = request if self._wire.podman else as_docker_takes_it(request)
        answer = self._wire.json("POST", "/containers/create", asking, params=params, body=request, patient=True)
        self._know(str(answer["Id"]), name)
        return str(answer["Id"])

    def start_container(self, ref: str) -> None:
        self._verb(ref, "start")

    def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
        found = self._found_container(ref, f"stop container {self._called(ref)}")
        params = {} if timeout is None else {"t": math.ceil(timeout)}
        if self._wire.podman and found["State"].get("Paused"):
            # Docker unpauses a container to stop it; Podman would refuse, after sending the signal.
            self.unpause_container(found["Id"])
        with self._held_down(found):
            patient = _time_to_stop(found, timeout) + self._wire.timeout
            self._verb(found["Id"], "stop", params=params, patient=patient, called=ref)
        self._wait_for_removal(found, f"stop container {self._called(ref)}")

    def kill_container(self, ref: str) -> None:
        action = f"kill container {self._called(ref)}"
        found = self._found_container(ref, action)
        full_id = str(found["Id"])
        with self._held_down(found):
            with suppress(EngineConflictError, ContainerNotFoundError):
                self._verb(full_id, "kill", params={"signal": "SIGKILL"}, called=ref)
            self._until(lambda: not self._alive(full_id), self._wire.timeout, action, "it is still alive")
        self._wait_for_removal(found, action)

    def pause_container(self, ref: str) -> None:
        self._freeze(ref, "pause", frozen=True)

    def unpause_container(self, ref: str) -> None:
        self._freeze(ref, "unpause", frozen=False)

    def rename_container(self, ref: str, name: str) -> None:
        asking = Asking(f"rename container {self._called(ref)} to {name!r}", ContainerNotFoundError, ref)
        full_id = self._container_id(ref, asking.action)
        try:
            self._wire.json("POST", f"/containers/{full_id}/rename", asking, params={"name": name})
        except NotFoundError:
            raise
        except EngineError:
            # Engines refuse to give a container the name that it has.
            if self._found_container(full_id, asking.action).get("Name") != f"/{name}":
                raise
        self._know(full_id, name)

    def update_container(self, ref: str, changes: Inspection) -> None:
        asking = Asking(f"update container {self._called(ref)}", ContainerNotFoundError, ref)
        full_id = self._container_id(ref, asking.action)
        if self._wire.podman:
            # Podman sets the restart policy to "no" if a request has none.
            found = self._found_container(full_id, asking.action)
            changes = {"RestartPolicy": found["HostConfig"].get("RestartPolicy"), **changes}
        self._wire.json("POST", f"/containers/{full_id}/update", asking, body=changes)

    def remove_container(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        asking = Asking(f"remove container {self._called(ref)}", ContainerNotFoundError, ref)
        params = {"force": int(force), "v": int(volumes)}
        with suppress(ContainerNotFoundError):
            full_id = self._container_id(ref, asking.action)
            if self._wire.podman and force:
                # A forced removal kills the container in Docker. Podman stops it, and waits for its stop timeout.
                with suppress(EngineConflictError):
                    self._verb(full_id, "kill", params={"signal": "SIGKILL"}, called=ref)
            try:
                self._wire.json("DELETE", f"/containers/{full_id}", asking, params=params, patient=True)
            except EngineConflictError as error:
                # Docker 28.5 shows a removal in this message some moments before it does in the container's state.
                said = _ALREADY in error.reason
                if not said and self._found_container(full_id, asking.action)["State"].get("Status") != "removing":
                    raise
                # It is being removed already, by somebody else or by the engine because of auto-remove.
                self._until(
                    lambda: self._gone(self._found_container, full_id), _REMOVAL, asking.action, "it is still there"
                )

    def commit_container(self, ref: str, tag: str, *, author: str = "") -> str:
        asking = Asking(f"commit container {self._called(ref)}", ContainerNotFoundError, ref)
        repository, version = split_tag(tag, asking)
        full_id = self._container_id(ref, asking.action)
        params = {"container": full_id, "repo": repository, "tag": version, "pause": "false", "author": author}
        # The body has changes of the configuration. Docker 23.0 and 24.0 fail without a body.
        answer = self._wire.json("POST", "/commit", asking, params=params, body={}, patient=True)
        return image_id(str(answer["Id"]))

    def put_archive(self, ref: str, archive: bytes) -> None:
        asking = Asking(f"put files into container {self._called(ref)}", ContainerNotFoundError, ref)
        path = f"/containers/{self._container_id(ref, asking.action)}/archive"
        self._wire.answer("PUT", path, asking, params={"path": "/"}, body=Upload([archive]), patient=True).close()

    def get_archive(self, ref: str, path: str) -> Generator[bytes, None, None]:
        asking = Asking(f"read files of container {self._called(ref)}", ContainerNotFoundError, ref)
        called = (
            f"/containers/{self._container_id(ref, asking.action)}/archive?path={quote(os.fsencode(path), safe='/')}"
        )
        answer = self._wire.answer("GET", called, asking, headers=IDENTITY, patient=True)
        # Of a large folder, callers may want nothing but the first member.
        return self._wire.blocks(answer, asking, size=_SMALL)

    def container_changes(self, ref: str) -> list[Change]:
        asking = Asking(f"list the changes of container {self._called(ref)}", ContainerNotFoundError, ref)
        full_id = self._found_container(ref, asking.action)["Id"]
        path = f"/containers/{full_id}/changes"
        changes = self._wire.json("GET", path, asking, patient=True, raw_names=True)
        return [Change(str(one["Path"]), _KINDS[one["Kind"]]) for one in changes or []]

    def container_logs(self, ref: str, *, tail: int) -> str:
        asking = Asking(f"read the log of container {self._called(ref)}", ContainerNotFoundError, ref)
        found = self._found_container(ref, asking.action)
        path = f"/containers/{found['Id']}/logs"
        params = {"stdout": 1, "stderr": 1, "tail": max(tail, 0)}
        with self._wire.answer("GET", path, asking, params=params) as response, asking.translated():
            text = response.content
        if not found["Config"].get("Tty"):
            text = Demultiplexer(together=True).feed(memoryview(text))
        return text.decode("utf-8", "replace")

    def exec(self, ref: str, command: Sequence[str], *, stdin: bool = False) -> Process:
        asking = Asking(f"run {command[0]!r} in container {self._called(ref)}", ContainerNotFoundError, ref)
        full_id = self._container_id(ref, asking.action)
        mark = secrets.token_hex(16)
        # Errors show the program's name alone, because an argument may be a secret.
        body = {
            "AttachStdin": stdin,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
            "User": "0:0",
            "Env": [f"{MARK}={mark}"],
            "Cmd": list(command),
        }
        exec_id = str(self._wire.json("POST", f"/containers/{full_id}/exec", asking, body=body)["Id"])
        response = self._wire.answer(
            "POST",
            f"/exec/{exec_id}/start",
            asking,
            body={"Detach": False, "Tty": False},
            headers={"Connection": "Upgrade", "Upgrade": "tcp"},
        )
        try:
            with asking.translated():
                duplex = take_over(self._wire.api, response)
        except BaseException:
            response.close()
            raise
        return DockerProcess(
            duplex,
            lambda: self._wire.json("GET", f"/exec/{exec_id}/json", asking),
            Killer(self._wire, full_id, mark),
            asking,
            stdin=stdin,
            timer=self._timer,
        )

    def _verb(
        self,
        ref: str,
        verb: str,
        *,
        params: Mapping[str, str | int] | None = None,
        patient: bool | float = False,
        called: str | None = None,
    ) -> None:
        name = ref if called is None else called
        asking = Asking(f"{verb} container {self._called(name)}", ContainerNotFoundError, name)
        full_id = self._container_id(ref, asking.action)
        self._wire.answer("POST", f"/containers/{full_id}/{verb}", asking, params=params, patient=patient).close()

    def _freeze(self, ref: str, verb: str, *, frozen: bool) -> None:
        try:
            self._verb(ref, verb)
        except NotFoundError:
            raise
        except EngineError:
            state = self._found_container(ref, f"{verb} container {self._called(ref)}")["State"]
            if not state.get("Running") or bool(state.get("Paused")) is not frozen:
                raise

    @contextmanager
    def _held_down(self, found: Inspection) -> Iterator[None]:
        """Prevent Podman from restarting a crash-looping container while it is being stopped.

        Between two runs Podman reports that there is nothing to stop, and then starts the next run. Only removing the
        restart policy prevents that. Docker does not need this.
        """
        policy = found["HostConfig"].get("RestartPolicy") or {}
        fails = not found["State"].get("Running") or found.get("RestartCount")
        if not (self._wire.podman and fails and policy.get("Name") not in _NO_POLICY):
            yield
            return
        full_id = str(found["Id"])
        self._set_policy(full_id, {"Name": "no"})
        try:
            yield
            # Podman may start the next run until it has cleaned up after the last one.
            with suppress(EngineTimeoutError):
                self._until(lambda: self._listed_state(full_id) != "stopped", _CLEANUP, "", "")
        finally:
            with suppress(ContainerNotFoundError):
                self._set_policy(full_id, policy)

    def _set_policy(self, full_id: str, policy: Inspection) -> None:
        def done() -> bool:
            try:
                self.update_container(full_id, {"RestartPolicy": policy})
            except NotFoundError:
                raise
            except EngineError:
                # The program ended during the update. Podman may or may not have stored the policy.
                found = self._found_container(full_id, action)["HostConfig"].get("RestartPolicy") or {}
                return bool(found.get("Name") == policy.get("Name"))
            return True

        action = f"set the restart policy of container {full_id!r}"
        self._until(done, _CLEANUP, action, "its program ends again and again meanwhile")

    def _listed_state(self, full_id: str) -> str | None:
        # Only Podman's list distinguishes "stopped" (not cleaned up yet) from "exited".
        params: dict[str, str | int] = {"all": 1, "filters": json.dumps({"id": [full_id]})}
        found = self._wire.json("GET", "/containers/json", Asking("list containers"), params=params)
        return next((str(one.get("State")) for one in found or [] if one.get("Id") == full_id), None)

    def _alive(self, full_id: str) -> bool:
        with suppress(ContainerNotFoundError):
            return bool(self._found_container(full_id, "see whether a container is alive")["State"].get("Running"))
        return False

    def _wait_for_removal(self, found: Inspection, action: str) -> None:
        # The engine removes such a container a moment after its end; until then its name is taken.
        if found["HostConfig"].get("AutoRemove") and found["State"].get("Running"):
            full_id = str(found["Id"])
            self._until(
                lambda: self._gone(self._found_container, full_id), self._wire.patience, action, "it is still there"
            )


def _time_to_stop(found: Inspection, timeout: float | None) -> float:
    """Return the number of seconds after which the engine kills a container that does not stop."""
    if timeout is not None:
        return timeout
    own = found["Config"].get("StopTimeout")
    if own is None:
        return _TIME_TO_STOP
    # With a negative timeout the engine waits for ever.
    return float(own) if own >= 0 else _FOR_EVER


def _matches(found: Inspection, where: ContainerFilter, network: Inspection | None) -> bool:
    # Engines cannot filter exactly: they match a name in part and a volume as a path, and Podman treats a label's value
    # as a pattern.
    names = [str(name).removeprefix("/") for name in found.get("Names") or []]
    if not where.allows_names(names):
        return False
    if where.name_prefix is not None and not any(name.startswith(where.name_prefix) for name in names):
        return False
    if where.volume is not None and not where.allows_volumes(_volumes(found)):
        return False
    if network is not None and not attached(found, network):
        return False
    return has_labels(found, where.labels)


def _volumes(found: Inspection) -> list[str]:
    return [str(mount.get("Name")) for mount in with_names(found).get("Mounts") or [] if mount.get("Type") == "volume"]
