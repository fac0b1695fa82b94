"""Lists the settings that a Podman container loses if it is recreated through Docker's API. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import field, frozen

from docker_rollback._inspection.podman.command import faded_options, hidden_settings
from docker_rollback._inspection.podman.fields import EMPTY, RULES, SHOWN
from docker_rollback._inspection.podman.mounts import lost_mounts
from docker_rollback._model import NotCovered

_BLOCKS: Final = ("Config", "HostConfig")
_SECRET: Final = "*******"  # the value that Podman shows for a variable that is a secret

# Programs that Podman runs in systemd mode by default, in addition to those called systemd.
_INITS: Final = ("/sbin/init", "/usr/sbin/init", "/usr/local/sbin/init")

_NOWHERE: Final = (
    "its sysctls, its rights to devices and the options z, Z and U of its binds are gone: it was created through an "
    "API, and no inspection shows them"
)

# The fields of a health check that Docker's API on Podman accepts.
_CHECK: Final = frozenset(["Test", "Interval", "Timeout", "StartPeriod", "Retries"])

_ROUNDED: Final = 3  # the number of digits up to which Podman shows a size exactly; it rounds to four

_MODES: Final = ("NetworkMode", "IpcMode", "PidMode", "UTSMode", "CgroupMode", "UsernsMode")
_OTHER: Final = "container:"
_OWN: Final = "io.podman.annotations."
PROCESSES: Final = 2048  # Podman's default limit of processes

PROCESSES_NOTE: Final = f"{_OWN}pids-limit"  # the annotation in which Podman records a requested limit of processes

# Podman's own annotations that follow from restored settings.
_FOLLOWS: Final = frozenset(
    f"{_OWN}{name}"
    for name in (
        "apparmor",
        "autoremove",
        "cid-file",
        "cpuset",
        "init",
        "label",
        "memory-nodes",
        "pids-limit",
        "privileged",
        "publish-all",
        "seccomp",
        "ulimit",
        "volumes-from",
    )
)


@frozen
class Loss:
    """The settings of a Podman container that Docker's API cannot restore."""

    refused: tuple[str, ...] = ()  # settings whose loss would change the container's behaviour, in words
    lost: Mapping[str, str] = field(factory=dict)  # harmless settings, by name, each with the effect of its loss

    def refusal(self) -> str | None:
        """Return why a container with this loss is refused; None if it is not."""
        if not self.refused:
            return None
        return (
            f"it has settings of Podman's own, which Docker's API cannot bring back: {'; '.join(self.refused)}; "
            "create it without them, or leave it out of the rollback"
        )

    def not_covered(self, container: str, *, refusals: bool = False) -> tuple[NotCovered, ...]:
        """Return the settings that a backup has to list as lost if the container of this name is recreated.

        With `refusals` it lists refused settings too, for a backup that is taken in spite of them.
        """
        listed = {**self.lost, **(dict.fromkeys(self.refused, "it is gone") if refusals else {})}
        return tuple(
            NotCovered(f"{what} of {container}", f"if the container has to be recreated, {becomes}")
            for what, becomes in listed.items()
        )


def loss_of(native: Mapping[str, Any], *, runtime: str) -> Loss:
    """Return the loss of a container, from Podman's own inspection of it and the engine's default runtime."""
    refused = [*_refused_fields(native), *_looked_into(native, runtime), *lost_mounts(native)]
    refused += [f"the option {words}" for words in hidden_settings(_command(native))]
    return Loss(tuple(dict.fromkeys(refused)), dict(_lost(native)))


def requires(native: Mapping[str, Any]) -> frozenset[str]:
    """Return the ids of the containers in `--requires`, without those that the container's modes refer to."""
    host_config = native.get("HostConfig") or {}
    modes = {str(host_config.get(mode) or "").removeprefix(_OTHER) for mode in _MODES}
    borrowed = {str(name).partition(":")[0] for name in host_config.get("VolumesFrom") or ()}
    return frozenset(str(one) for one in native.get("Dependencies") or () if str(one) not in modes | borrowed)


def _refused_fields(native: Mapping[str, Any]) -> Iterator[str]:
    for path, rule in RULES.items():
        value = _at(native, path)
        if value not in (*rule.back, *rule.harmless):
            yield rule.words


def _lost(native: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield harmless and unknown settings, each with the effect of its loss."""
    for path, rule in RULES.items():
        value = _at(native, path)
        if value in rule.harmless:
            becomes = "it is gone" if rule.becomes is None else f"it becomes {rule.becomes!r}"
            yield path, f"{becomes}, was {value!r}"
    for path, value in _fields(native):
        if path not in SHOWN and path not in RULES and value not in EMPTY:
            yield path, "it may be lost: Docker's API does not show it, and this version does not know it"
    for name, value in _annotations(native).items():
        if name.startswith(_OWN) and name not in _FOLLOWS:
            yield f"annotation {name}", f"it is gone, was {value!r}"
    if _at(native, "HostConfig.PidsLimit") not in (0, PROCESSES, None) and PROCESSES_NOTE not in _annotations(native):
        yield f"annotation {PROCESSES_NOTE}", "it is added"
    size = str((_at(native, "HostConfig.LogConfig") or {}).get("Size") or "")
    if sum(map(str.isdigit, size)) > _ROUNDED:
        yield "HostConfig.LogConfig.Size", f"it becomes exactly {size}, to which Podman rounds it"
    check = _at(native, "Config.Healthcheck") or {}
    if check.get("Test") == ["NONE"] and not check.get("Interval"):
        yield "Config.Healthcheck", "it gets an interval, which means nothing where there is no check"
    for option, place in faded_options(_command(native)):
        yield f"mount option {option} at {place}", "it is gone; what it did to the files stays"
    if _at(native, "Config.CreateCommand"):
        yield "Config.CreateCommand", "it is gone, so that Podman does not know how it was created"
    else:
        yield "settings that Podman shows nowhere", _NOWHERE


def _fields(native: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield all fields by their dotted paths; `Config` and `HostConfig` are blocks of fields."""
    for name, value in native.items():
        if name in _BLOCKS:
            yield from ((f"{name}.{inner}", one) for inner, one in (value or {}).items())
        else:
            yield name, value


def _annotations(native: Mapping[str, Any]) -> Mapping[str, Any]:
    return _at(native, "Config.Annotations") or {}


def _command(native: Mapping[str, Any]) -> list[str]:
    return [str(word) for word in _at(native, "Config.CreateCommand") or ()]


def _at(native: Mapping[str, Any], path: str) -> Any:
    block, _, name = path.rpartition(".")
    return ((native.get(block) or {}) if block else native).get(name)


def _looked_into(native: Mapping[str, Any], runtime: str) -> Iterator[str]:
    """Yield refused values of fields that are usually restored."""
    # Either runtime may be a path.
    if _program(found := str(native.get("OCIRuntime") or runtime)) != _program(runtime):
        yield f"the runtime {found}, where {runtime} is the engine's default (--runtime)"
    for option, place in faded_options(_command(native)):
        if option == "Z" and native.get("ProcessLabel"):
            # The new container has a label of its own, and may not read files with the label of this one.
            yield f"the mount option Z at {place}"
    if (native.get("State") or {}).get("Checkpointed"):
        yield "its checkpoint"
    if requires(native):
        yield "a container that has to run before it (--requires)"
    for variable in _at(native, "Config.Env") or ():
        name, _, value = str(variable).partition("=")
        if value == _SECRET:
            yield f"the secret {name} as a variable (--secret)"
    if bool(_at(native, "Config.SystemdMode")) != _is_init(native):
        yield "its systemd mode (--systemd)"
    check = _at(native, "Config.Healthcheck") or {}
    if unknown := sorted(check.keys() - _CHECK):
        yield f"the setting {', '.join(unknown)} of its health check"
    if check and check.get("Test") != ["NONE"] and not check.get("Interval"):
        yield "a health check that never runs by itself (--health-interval=disable)"
    if own := [name for name in ("ConmonPidFile", "PidFile") if _is_custom(native, name)]:
        yield f"a place for its {' and '.join(own)}"


def _is_init(native: Mapping[str, Any]) -> bool:
    """Return True if Podman would run a container in systemd mode by default."""
    command = [str(word) for word in (native.get("Path"), *(native.get("Args") or ()))]
    if len(command) > 2 and command[:2] == ["/bin/sh", "-c"]:
        command = command[2:]
    return command[0] in _INITS or _program(command[0]) == "systemd"


def _program(path: str) -> str:
    return path.rpartition("/")[2]


def _is_custom(native: Mapping[str, Any], name: str) -> bool:
    """Return True if a file of Podman's has a custom path; by default it is in the container's own folder."""
    path = str(native.get(name) or "")
    return bool(path) and f"/{native.get('Id')}/" not in path
