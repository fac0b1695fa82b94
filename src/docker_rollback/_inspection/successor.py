"""Builds the request for a container's successor on another image. Pure: raw JSON in, raw JSON out.

An inspection shows the user's settings merged with the image's defaults. If it were sent back whole, the old image's
PATH, labels and command would override those of the new image. So values that equal the old image's defaults are
removed first, and the new image supplies its own.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Final, TypeAlias, TypedDict

from attrs import field, frozen

from docker_rollback._arguments import instance, mapping, texts
from docker_rollback._inspection.recreate import CreateRequest, create_request
from docker_rollback._model import Observed

Words: TypeAlias = str | Sequence[str]
"""A command: a list of words, or one string that is split like a shell command."""

# Fields of a configuration in which an empty value means the image's default.
_PLAIN: Final = ("User", "WorkingDir", "StopSignal", "Shell")

_NOT_ASKED_FOR: Final = ("OnBuild", "ArgsEscaped")  # fields that only an image has

# The label in which compose records the id of the image that it created a container from.
_OF_THE_IMAGE: Final = "com.docker.compose.image"


class ChangeArguments(TypedDict, total=False):
    """The settings in which a successor may differ from the replaced container, besides its image; see `Changes`."""

    environment: Mapping[str, str | None]
    labels: Mapping[str, str | None]
    command: Words
    entrypoint: Words
    user: str
    working_dir: str
    healthcheck: Mapping[str, Any]
    config: Mapping[str, Any]
    host_config: Mapping[str, Any]


def _words(value: Words | None) -> list[str] | None:
    if isinstance(value, str):
        return shlex.split(value)
    return None if value is None else list(texts("a command", value, what="words"))


@frozen
class Changes:
    """The changes of a successor against the replaced container, besides its image."""

    environment: Mapping[str, str | None] = field(factory=dict)  # variables to set; None removes one of the user's
    labels: Mapping[str, str | None] = field(factory=dict)  # labels to set; None removes one of the user's
    command: list[str] | None = field(default=None, converter=_words)
    # The new entrypoint; an empty one clears the image's.
    entrypoint: list[str] | None = field(default=None, converter=_words)
    user: str | None = None  # the user that its program runs as
    working_dir: str | None = None  # the working directory of its program
    healthcheck: Mapping[str, Any] | None = None  # its health check, in the API's form
    config: Mapping[str, Any] = field(factory=dict)  # any other fields of the API's container configuration
    host_config: Mapping[str, Any] = field(factory=dict)  # any fields of the API's `HostConfig`

    def __attrs_post_init__(self) -> None:
        """Refuse values that the engine would refuse later, or misunderstand."""
        for name in ("environment", "labels", "config", "host_config"):
            mapping(name, getattr(self, name))
        mapping("healthcheck", self.healthcheck, optional=True)
        for name in ("environment", "labels"):
            for key, value in getattr(self, name).items():
                if not isinstance(value, str | NoneType):
                    # The message does not show the value, which may be a secret.
                    raise TypeError(f"{name}[{key!r}] is a text or None, not of type {type(value).__name__}")
        for name in ("user", "working_dir"):
            instance(name, getattr(self, name), (str, NoneType), what="a text or None")


def update_request(
    container: Observed, *, image: str, image_id: str, defaults: Mapping[str, Any], changes: Changes
) -> CreateRequest:
    """Return the request for a container's successor: the user's settings on another image's defaults.

    The successor gets the container's anonymous volumes, by the names that the engine gave them. From then on the
    engine treats them as named volumes. `defaults` is the `Config` of the image that the container was created from.
    """
    config = _own(container.inspection["Config"], defaults, container.inspection["HostConfig"])
    host_config = dict(container.inspection["HostConfig"])
    _carry_volumes_over(container, config, host_config)
    labels = config["Labels"]
    if labels.get(_OF_THE_IMAGE) == container.inspection.get("Image"):
        labels[_OF_THE_IMAGE] = image_id
    config["Env"] = _environment(config["Env"], changes.environment)
    for label, value in changes.labels.items():
        labels.pop(label, None)
        labels |= {} if value is None else {label: value}
    given = {
        "Cmd": changes.command,
        # An empty list would mean the image's default.
        "Entrypoint": changes.entrypoint if changes.entrypoint != [] else [""],
        "User": changes.user,
        "WorkingDir": changes.working_dir,
        "Healthcheck": changes.healthcheck,
    }
    config |= {key: value for key, value in given.items() if value is not None} | dict(changes.config)
    inspection = {
        **container.inspection,
        "Config": config,
        "HostConfig": host_config | dict(changes.host_config),
    }
    return create_request(inspection, image=image, image_config={})


def equal_request(
    container: Observed, inspection: Mapping[str, Any], *, image_config: Mapping[str, Any]
) -> CreateRequest:
    """Return the request that recreates a container with its own anonymous volumes.

    Its `inspection` may have references to other containers that were recreated.
    """
    config, host_config = dict(inspection["Config"]), dict(inspection["HostConfig"])
    _carry_volumes_over(container, config, host_config)
    changed = {**inspection, "Config": config, "HostConfig": host_config}
    return create_request(changed, image=str(config["Image"]), image_config=image_config)


def _own(config: Mapping[str, Any], defaults: Mapping[str, Any], host_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user's settings: the configuration without the values that equal the image's defaults."""
    own = {key: value for key, value in config.items() if key not in _NOT_ASKED_FOR}
    inherited = set(defaults.get("Env") or ())
    own["Env"] = [entry for entry in config.get("Env") or () if entry not in inherited]
    own["Labels"] = _beyond(config.get("Labels"), defaults.get("Labels"))
    published = host_config.get("PortBindings") or {}
    exposed = _beyond(
        config.get("ExposedPorts"),
        {port: value for port, value in (defaults.get("ExposedPorts") or {}).items() if port not in published},
    )
    own["ExposedPorts"] = exposed or None
    own["Volumes"] = _beyond(config.get("Volumes"), defaults.get("Volumes")) or None
    for key in _PLAIN:
        if own.get(key) == defaults.get(key):
            own.pop(key, None)
    own |= _program(config, defaults)
    own["Healthcheck"] = _healthcheck(config.get("Healthcheck") or {}, defaults.get("Healthcheck") or {})
    return own


def _beyond(own: Mapping[str, Any] | None, inherited: Mapping[str, Any] | None) -> dict[str, Any]:
    known = inherited or {}
    return {key: value for key, value in (own or {}).items() if key not in known or known[key] != value}


def _program(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entrypoint and command to send, without those that are the image's defaults.

    A command belongs to an entrypoint. If the user set the entrypoint, the command is the user's too, even an empty
    one.
    """
    entrypoint, command = config.get("Entrypoint") or None, config.get("Cmd") or None
    if entrypoint == (defaults.get("Entrypoint") or None):
        return {"Entrypoint": None, "Cmd": None if command == (defaults.get("Cmd") or None) else command}
    # Null would mean the new image's entrypoint, so a cleared one is sent as an empty string.
    return {"Entrypoint": entrypoint or [""], "Cmd": command}


def _healthcheck(own: Mapping[str, Any], inherited: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the fields of a health check that the user set; an engine takes all others from the image."""
    if own.get("Test") == ["NONE"] and inherited.get("Test") != ["NONE"]:
        return {"Test": ["NONE"]}
    return {key: value for key, value in own.items() if value and value != inherited.get(key)} or None


def _environment(own: Sequence[str], changes: Mapping[str, str | None]) -> list[str]:
    kept = [entry for entry in own if entry.partition("=")[0] not in changes]
    return kept + [f"{name}={value}" for name, value in changes.items() if value is not None]


def _carry_volumes_over(container: Observed, config: dict[str, Any], host_config: dict[str, Any]) -> None:
    """Request the container's anonymous volumes by name, at their destinations.

    Volumes that come from another container by `VolumesFrom` come from there again.
    """
    volumes = dict(config.get("Volumes") or {})
    shown = container.inspection["Config"].get("Volumes") or {}
    requests = [dict(mount) for mount in host_config.get("Mounts") or ()]
    binds = list(host_config.get("Binds") or ())
    for mount in container.mounts:
        if not mount.anonymous:
            continue
        place = _place(mount.destination)
        request = next((one for one in requests if _place(str(one.get("Target"))) == place), None)
        keys = [key for key in shown if _place(key) == place]
        if request is not None:
            request["Source"] = mount.source
        elif keys:
            binds.append(f"{mount.source}:{mount.destination}" + (":ro" if mount.read_only else ""))
        for key in keys:
            volumes.pop(key, None)
    config["Volumes"] = volumes or None
    if binds:
        host_config["Binds"] = binds
    if requests:
        host_config["Mounts"] = requests


def _place(path: str) -> str:
    return path.rstrip("/") or "/"
