"""Finds the mounts of Podman that Docker's API cannot request, in an inspection and on a command line. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final


def names(text: str) -> frozenset[str]:
    """Return the names in a text, separated by white space."""
    return frozenset(text.split())


# The types of `--mount` that can be restored; a glob is resolved to binds when the container is created.
_KINDS: Final = ("bind", "volume", "tmpfs", "glob")

_BINDS: Final = ("bind", "glob")
_MEANS: Final = {"chown": "U"}

# The keys of `--mount` that an inspection shows.
_KEYS: Final = names(
    """
    type src source dst dest destination target ro readonly rw consistency bind-propagation bind-nonrecursive
    suid nosuid dev nodev exec noexec U chown z Z relabel idmap nocopy volume-nocopy copy subpath volume-subpath
    tmpfs-size tmpfs-mode size mode tmpcopyup notmpcopyup
    """
)

# The options of a mount that Docker's API accepts as it shows them.
_OPTIONS: Final = names(
    """
    bind rbind suid nosuid dev nodev exec noexec copy nocopy private rprivate shared rshared slave rslave unbindable
    runbindable z Z U
    """
)

_FILE_SYSTEMS: Final = ("devpts", "ramfs")
_MADE_BY_PODMAN: Final = "/overlay-containers/"  # part of the path of a mount that Podman assembled for one container


def lost_mounts(native: Mapping[str, Any]) -> Iterator[str]:
    """Yield, in words, the mounts of an inspection that Docker's API cannot request."""
    for mount in native.get("Mounts") or ():
        kind, source, place = (str(mount.get(key) or "") for key in ("Type", "Source", "Destination"))
        options = set(mount.get("Options") or ())
        if kind not in ("bind", "volume"):
            yield f"a mount of type {kind} at {place}"
        elif kind == "bind" and not source.startswith("/"):
            yield f"a mount of type {source if source in _FILE_SYSTEMS else kind} at {place}"
        elif mount.get("SubPath"):
            yield f"a subpath of a volume at {place}"
        elif "O" in options or (kind == "bind" and _MADE_BY_PODMAN in source):
            yield f"an overlay mount at {place}"
        elif unknown := sorted(option for option in options - _OPTIONS if option):
            yield f"the mount option {', '.join(unknown)} at {place}"
    for place, said in ((native.get("HostConfig") or {}).get("Tmpfs") or {}).items():
        if any(option == "U" or option.startswith(("uid=", "gid=")) for option in str(said).split(",")):
            yield f"a tmpfs that belongs to the container's user (U) at {place}"


def mount_words(value: str) -> str | None:
    """Return the part of a `--mount` value that would be lost, in words; None if an inspection shows all of it."""
    options = dict(_pair(part) for part in value.split(","))
    kind = options.get("type", "volume")
    if kind not in _KINDS:
        return f"--mount type={kind}"
    if kind in _BINDS and "idmap" in options:
        return "--mount with idmap"
    unknown = sorted(options.keys() - _KEYS)
    return f"--mount with {', '.join(unknown)}" if unknown else None


def volume_words(value: str) -> str | None:
    """Return the part of a `--volume` value that would be lost, in words, or None."""
    found = {option.partition("=")[0] for option in _volume_options(value)}
    if found & {"O", "upperdir", "workdir"}:
        return "--volume with an overlay (O)"
    return "--volume with idmap" if "idmap" in found else None


def faded(name: str, value: str) -> Iterator[tuple[str, str]]:
    """Yield the options of a bind that Podman applies at the create, and shows only until the container runs.

    `name` and `value` are those of the bind's option on the command line.
    """
    if name == "volume" and "/" in value.partition(":")[0]:
        place, options = value.partition(":")[2].partition(":")[0], _volume_options(value)
    elif name == "mount":
        said = dict(_pair(part) for part in value.split(","))
        if said.get("type", "volume") not in _BINDS:
            return
        place = next((said[key] for key in ("target", "dst", "dest", "destination") if key in said), "")
        options = [_MEANS.get(key, key) for key, on in said.items() if on != "false"]
        options += ["Z" if said.get("relabel") == "private" else "z"] if "relabel" in said else []
    else:
        return
    yield from ((option, place) for option in options if option in ("z", "Z", "U"))


def _volume_options(value: str) -> list[str]:
    return [option for part in value.split(":")[2:] for option in part.split(",")]


def _pair(part: str) -> tuple[str, str]:
    key, _, value = part.strip().partition("=")
    return key, value
