"""The engine behind a docker-py client: Docker, or Podman by Docker's API.

What engines answer differently is made one behaviour here; `docs/explanation/engines.md` lists it.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self
from urllib.parse import quote

import docker
from docker import APIClient, DockerClient

from docker_rollback._engine._docker_errors import Asking, secrets_of
from docker_rollback._engine._docker_exec import Demultiplexer, DockerProcess
from docker_rollback._engine._docker_images import export, load
from docker_rollback._engine._docker_info import describe
from docker_rollback._engine._docker_socket import take_over
from docker_rollback._engine._docker_wire import Wire
from docker_rollback._engine.port import EVERY, Change, ContainerFilter, EngineInfo, Inspection, Process
from docker_rollback.errors import (
    ContainerNotFoundError,
    EngineConflictError,
    EngineError,
    ImageNotFoundError,
    NetworkNotFoundError,
    NotFoundError,
    VolumeNotFoundError,
)

_FULL_ID: Final = re.compile(r"[0-9a-f]{64}")
_SHORT_ID: Final = re.compile(r"[0-9a-f]{1,63}")
_SHORTEST_ID: Final = 12
_KINDS: Final[Mapping[int, Any]] = {0: "changed", 1: "added", 2: "deleted"}
_ALIVE: Final = ("running", "paused", "restarting")


class DockerEngine:
    """An engine, reached by docker-py; implements `Engine`.

    A reference is a full id, an exact name, or the beginning of an id of at least 12 digits. Engines themselves take
    any beginning of an id for a reference: to them "db" is, once the container of that name is gone, any container
    whose id begins so.

    Safe to use from several threads at once.

    Example:
        >>> engine = DockerEngine(docker.from_env())
        >>> engine.info().flavour
        'docker'
    """

    def __init__(
        self,
        client: DockerClient | APIClient,
        *,
        timeout: float = 60.0,
        address: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Use a client; nothing is asked of the engine before the first call of a method.

        Args:
            client: of docker-py, high or low level. It stays the caller's: it is neither changed nor closed.
            timeout: seconds until an answer must have begun. Where the work grows with data, or waits for a program
                (create, commit, stop, removals, images), there is no limit.
            address: where the engine is, for `info`; found out where None.
            sleep: waits, in seconds.
        """
        self._wire = Wire(client.api if isinstance(client, DockerClient) else client, timeout=timeout)
        self._address = address
        self._sleep = sleep

    @classmethod
    def from_env(cls, *, timeout: float = 60.0) -> Self:
        """Use the engine that the `docker` command would: by DOCKER_HOST and its kin, or by the current context.

        Raises:
            EngineUnavailableError: no engine answers there.
        """
        with Asking("reach the engine that the environment names").translated():
            client = docker.from_env()
        return cls(client, timeout=timeout)

    def info(self) -> EngineInfo:
        asking = Asking("ask the engine who it is")
        version = self._wire.json("GET", "/version", asking)
        return describe(self._wire, version, self._wire.json("GET", "/info", asking), self._address)

    # Containers

    def inspect_container(self, ref: str) -> Inspection:
        return self._inspect_container(ref, f"inspect container {ref!r}")

    def list_containers(self, where: ContainerFilter = EVERY, /) -> list[str]:
        asking = Asking("list containers")
        found = self._wire.json("GET", "/containers/json", asking, params={"all": 1, **_label_filter(where.labels)})
        network = self._network_id(where.network) if where.network is not None else None
        return [str(one["Id"]) for one in found or [] if _matches(one, where, network)]

    def create_container(self, name: str, request: Inspection, *, platform: str | None = None) -> str:
        asking = Asking(
            f"create container {name!r}", ImageNotFoundError, str(request.get("Image")), secrets_of(request)
        )
        params = {"name": name, **({"platform": platform} if platform else {})}
        answer = self._wire.json("POST", "/containers/create", asking, params=params, body=request, patient=True)
        return str(answer["Id"])

    def start_container(self, ref: str) -> None:
        self._verb(ref, "start")

    def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
        self._verb(ref, "stop", params={} if timeout is None else {"t": math.ceil(timeout)}, patient=True)

    def kill_container(self, ref: str) -> None:
        asking = self._asking_container(f"kill container {ref!r}", ref)
        full_id = self._container_id(ref, asking.action)
        with suppress(EngineConflictError):
            self._post(f"/containers/{full_id}/kill", asking, params={"signal": "SIGKILL"})
        pause = 0.005
        while self._alive(full_id):
            self._sleep(pause)
            pause = min(pause * 2, 0.25)

    def pause_container(self, ref: str) -> None:
        self._freeze(ref, "pause", frozen=True)

    def unpause_container(self, ref: str) -> None:
        self._freeze(ref, "unpause", frozen=False)

    def rename_container(self, ref: str, name: str) -> None:
        found = self._inspect_container(ref, f"rename container {ref!r} to {name!r}")
        if found.get("Name") == f"/{name}":
            return
        asking = self._asking_container(f"rename container {ref!r} to {name!r}", ref)
        self._post(f"/containers/{found['Id']}/rename", asking, params={"name": name})

    def update_container(self, ref: str, changes: Inspection) -> None:
        asking = self._asking_container(f"update container {ref!r}", ref)
        full_id = self._container_id(ref, asking.action)
        self._wire.json("POST", f"/containers/{full_id}/update", asking, body=changes)

    def remove_container(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        asking = self._asking_container(f"remove container {ref!r}", ref)
        with suppress(ContainerNotFoundError):
            full_id = self._container_id(ref, asking.action)
            params = {"force": int(force), "v": int(volumes)}
            self._wire.json("DELETE", f"/containers/{full_id}", asking, params=params, patient=True)

    def commit_container(self, ref: str, tag: str) -> str:
        asking = self._asking_container(f"commit container {ref!r}", ref)
        repository, version = _split_tag(tag, asking)
        params = {
            "container": self._container_id(ref, asking.action),
            "repo": repository,
            "tag": version,
            "pause": "false",
        }
        # The body says what to change of the configuration. Docker 23.0 and 24.0 fail where there is none.
        answer = self._wire.json("POST", "/commit", asking, params=params, body={}, patient=True)
        return _image_id(str(answer["Id"]))

    def container_changes(self, ref: str) -> list[Change]:
        asking = self._asking_container(f"list the changes of container {ref!r}", ref)
        full_id = self._container_id(ref, asking.action)
        found = self._wire.json("GET", f"/containers/{full_id}/changes", asking, patient=True)
        return [Change(str(one["Path"]), _KINDS[one["Kind"]]) for one in found or []]

    def container_logs(self, ref: str, *, tail: int) -> str:
        asking = self._asking_container(f"read the log of container {ref!r}", ref)
        found = self._inspect_container(ref, asking.action)
        params = {"stdout": 1, "stderr": 1, "tail": tail}
        path = f"/containers/{found['Id']}/logs"
        with self._wire.answer("GET", path, asking, params=params) as response, asking.translated():
            text = response.content
        if not found["Config"].get("Tty"):
            text = Demultiplexer(together=True).feed(memoryview(text))
        return text.decode("utf-8", "replace")

    def exec(self, ref: str, command: Sequence[str], *, stdin: bool = False) -> Process:
        asking = self._asking_container(f"run {command[0]!r} in container {ref!r}", ref)
        full_id = self._container_id(ref, asking.action)
        body = {
            "AttachStdin": stdin,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
            "User": "0:0",
            "Cmd": list(command),
        }
        exec_id = self._wire.json("POST", f"/containers/{full_id}/exec", asking, body=body)["Id"]
        response = self._wire.answer(
            "POST",
            f"/exec/{exec_id}/start",
            asking,
            body={"Detach": False, "Tty": False},
            headers={"Connection": "Upgrade", "Upgrade": "tcp"},
        )
        with asking.translated():
            duplex = take_over(self._wire.api, response)
        return DockerProcess(
            duplex,
            lambda: self._wire.json("GET", f"/exec/{exec_id}/json", asking),
            lambda _: None,
            asking,
            stdin=stdin,
            sleep=self._sleep,
        )

    # Images

    def inspect_image(self, ref: str) -> Inspection:
        asking = Asking(f"inspect image {ref!r}", ImageNotFoundError, ref)
        found: Inspection = self._wire.json("GET", f"/images/{_image_path(ref, asking)}/json", asking)
        if not _is_meant(ref, found):
            raise ImageNotFoundError(ref, action=asking.action)
        return found

    def tag_image(self, ref: str, tag: str) -> None:
        asking = Asking(f"tag image {ref!r} as {tag!r}", ImageNotFoundError, ref)
        repository, version = _split_tag(tag, asking)
        self._post(f"/images/{self._image(ref, asking)}/tag", asking, params={"repo": repository, "tag": version})

    def remove_image(self, ref: str) -> None:
        asking = Asking(f"remove image {ref!r}", ImageNotFoundError, ref)
        with suppress(ImageNotFoundError):
            # noprune: an engine would remove the untagged images below it too, and another backup may need them.
            params = {"force": 0, "noprune": 1}
            self._wire.json("DELETE", f"/images/{self._image(ref, asking)}", asking, params=params, patient=True)

    def save_image(self, ref: str) -> Iterator[bytes]:
        asking = Asking(f"save image {ref!r}", ImageNotFoundError, ref)
        return export(self._wire, f"/images/{self._image(ref, asking)}/get", asking)

    def load_image(self, archive: Iterable[bytes]) -> None:
        asking = Asking("load an image")
        for _ in load(self._wire, "/images/load", {"quiet": 1}, archive, asking):
            pass

    def import_image(self, archive: Iterable[bytes], tag: str) -> str:
        asking = Asking(f"import image {tag!r}")
        repository, version = _split_tag(tag, asking)
        params: dict[str, str | int] = {"fromSrc": "-", "repo": repository, "tag": version}
        for _ in load(self._wire, "/images/create", params, archive, asking):
            pass
        return str(self.inspect_image(tag)["Id"])

    # Networks

    def inspect_network(self, ref: str) -> Inspection:
        asking = Asking(f"inspect network {ref!r}", NetworkNotFoundError, ref)
        found: Inspection = self._wire.json("GET", f"/networks/{_segment(ref, asking)}", asking)
        if ref != found.get("Name") and not _begins(ref, str(found.get("Id"))):
            raise NetworkNotFoundError(ref, action=asking.action)
        return found

    def list_networks(self, *, labels: Mapping[str, str] = {}) -> list[str]:
        found = self._wire.json("GET", "/networks", Asking("list networks"), params=_label_filter(labels))
        return [str(one["Id"]) for one in found or [] if _bears(one, labels)]

    def create_network(self, request: Inspection) -> str:
        name = str(request.get("Name"))
        asking = Asking(f"create network {name!r}")
        # Before 1.44 an engine makes a second network of the same name unless it is told not to.
        answer = self._wire.json("POST", "/networks/create", asking, body={**request, "CheckDuplicate": True})
        return str(answer["Id"])

    def remove_network(self, ref: str) -> None:
        asking = Asking(f"remove network {ref!r}", NetworkNotFoundError, ref)
        with suppress(NetworkNotFoundError):
            self._wire.json("DELETE", f"/networks/{self._network_id(ref)}", asking)

    def connect_network(self, network: str, container: str, endpoint: Inspection) -> None:
        asking = Asking(f"connect container {container!r} to network {network!r}", NetworkNotFoundError, network)
        body = {"Container": self._container_id(container, asking.action), "EndpointConfig": endpoint}
        self._post(f"/networks/{self._network_id(network)}/connect", asking, body=body)

    def disconnect_network(self, network: str, container: str, *, force: bool = False) -> None:
        asking = Asking(f"disconnect container {container!r} from network {network!r}", NetworkNotFoundError, network)
        body = {"Container": self._container_id(container, asking.action), "Force": force}
        self._post(f"/networks/{self._network_id(network)}/disconnect", asking, body=body)

    # Volumes

    def inspect_volume(self, name: str) -> Inspection:
        asking = Asking(f"inspect volume {name!r}", VolumeNotFoundError, name)
        found: Inspection = self._wire.json("GET", f"/volumes/{_segment(name, asking)}", asking)
        if found.get("Name") != name:
            raise VolumeNotFoundError(name, action=asking.action)
        return found

    def list_volumes(self, *, labels: Mapping[str, str] = {}) -> list[str]:
        found = self._wire.json("GET", "/volumes", Asking("list volumes"), params=_label_filter(labels))
        return [str(one["Name"]) for one in (found or {}).get("Volumes") or [] if _bears(one, labels)]

    def create_volume(self, request: Inspection) -> str:
        asking = Asking(f"create volume {request.get('Name')!r}")
        found = self._wire.json("POST", "/volumes/create", asking, body=request)
        return str(found["Name"])

    def remove_volume(self, name: str) -> None:
        asking = Asking(f"remove volume {name!r}", VolumeNotFoundError, name)
        with suppress(VolumeNotFoundError):
            self.inspect_volume(name)
            self._wire.json("DELETE", f"/volumes/{_segment(name, asking)}", asking, patient=True)

    # What the methods above share

    def _asking_container(self, action: str, ref: str) -> Asking:
        return Asking(action, ContainerNotFoundError, ref)

    def _inspect_container(self, ref: str, action: str) -> Inspection:
        asking = self._asking_container(action, ref)
        plain = ref.removeprefix("/")
        found: Inspection = self._wire.json("GET", f"/containers/{_segment(plain, asking)}/json", asking)
        if found.get("Name") != f"/{plain}" and not _begins(plain, str(found.get("Id"))):
            raise ContainerNotFoundError(ref, action=action)
        return found

    def _container_id(self, ref: str, action: str) -> str:
        return ref if _FULL_ID.fullmatch(ref) else str(self._inspect_container(ref, action)["Id"])

    def _network_id(self, ref: str) -> str:
        return ref if _FULL_ID.fullmatch(ref) else str(self.inspect_network(ref)["Id"])

    def _image(self, ref: str, asking: Asking) -> str:
        if _SHORT_ID.fullmatch(ref):
            self.inspect_image(ref)
        return _image_path(ref, asking)

    def _post(
        self,
        path: str,
        asking: Asking,
        *,
        params: Mapping[str, str | int] | None = None,
        body: object = None,
        patient: bool = False,
    ) -> None:
        self._wire.answer("POST", path, asking, params=params, body=body, patient=patient).close()

    def _verb(
        self, ref: str, verb: str, *, params: Mapping[str, str | int] | None = None, patient: bool = False
    ) -> None:
        asking = self._asking_container(f"{verb} container {ref!r}", ref)
        full_id = self._container_id(ref, asking.action)
        self._post(f"/containers/{full_id}/{verb}", asking, params=params, patient=patient)

    def _freeze(self, ref: str, verb: str, *, frozen: bool) -> None:
        try:
            self._verb(ref, verb)
        except NotFoundError:
            raise
        except EngineError:
            state = self._inspect_container(ref, f"{verb} container {ref!r}")["State"]
            if not state.get("Running") or bool(state.get("Paused")) is not frozen:
                raise

    def _alive(self, full_id: str) -> bool:
        try:
            state = self._inspect_container(full_id, f"wait for the end of container {full_id!r}")["State"]
        except ContainerNotFoundError:
            return False
        return bool(state.get("Running"))


def _segment(name: str, asking: Asking) -> str:
    """Return a name as one part of a path; one that cannot be a name is not there, and is not asked for.

    An empty one would ask for the list of all instead, and a dotted one for another path.
    """
    if name.strip(".") == "" and asking.missing is not None:
        raise asking.missing(name, action=asking.action)
    return quote(name, safe="")


def _image_path(ref: str, asking: Asking) -> str:
    if not ref or ".." in ref or ref.startswith("/") or ref.endswith("/"):
        raise ImageNotFoundError(ref, action=asking.action)
    return quote(ref, safe="/:@")


def _begins(ref: str, full_id: str) -> bool:
    if ref == full_id:
        return True
    return len(ref) >= _SHORTEST_ID and _SHORT_ID.fullmatch(ref) is not None and full_id.startswith(ref)


def _is_meant(ref: str, image: Inspection) -> bool:
    """Tell an image of that name from one whose id happens to begin so."""
    if _SHORT_ID.fullmatch(ref) is None or len(ref) >= _SHORTEST_ID:
        return True
    return any(str(tag).rpartition("/")[2] == f"{ref}:latest" for tag in image.get("RepoTags") or [])


def _image_id(digest: str) -> str:
    return digest if digest.startswith("sha256:") else f"sha256:{digest}"


def _split_tag(tag: str, asking: Asking) -> tuple[str, str]:
    repository, colon, version = tag.rpartition(":")
    if not colon or "/" in version or not repository or not version:
        raise EngineError(asking.action, f"{tag!r} is not of the form repository:tag")
    return repository, version


def _label_filter(labels: Mapping[str, str]) -> dict[str, str]:
    if not labels:
        return {}
    return {"filters": json.dumps({"label": [f"{key}={value}" for key, value in labels.items()]})}


def _bears(found: Inspection, labels: Mapping[str, str]) -> bool:
    # Asked of the engine too; but Podman takes a label's value for a pattern.
    borne = found.get("Labels") or {}
    return all(borne.get(key) == value for key, value in labels.items())


def _matches(found: Inspection, where: ContainerFilter, network: str | None) -> bool:
    names = [str(name).removeprefix("/") for name in found.get("Names") or []]
    if where.name is not None and where.name not in names:
        return False
    if where.name_prefix is not None and not any(name.startswith(where.name_prefix) for name in names):
        return False
    if where.running and found.get("State") not in _ALIVE:
        return False
    if where.volume is not None and not any(
        mount.get("Type") == "volume" and mount.get("Name") == where.volume for mount in found.get("Mounts") or []
    ):
        return False
    if network is not None:
        joined = ((found.get("NetworkSettings") or {}).get("Networks") or {}).values()
        if not any(endpoint.get("NetworkID") == network for endpoint in joined):
            return False
    return _bears(found, where.labels)
