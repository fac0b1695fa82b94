"""Data that a backup excludes and a restore does not touch: whole volumes, paths within them, mount points. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final, Self, TypeAlias

from attrs import field, frozen

_ANY: Final = {"*": "[^/]*", "?": "[^/]"}
_SPECIAL: Final = re.compile(r"[\\\[\]]")
_MEANING: Final = re.compile(r"[\\\[\]*?]")


def _checked_path(path: str) -> str:
    if not isinstance(path, str):
        raise TypeError(f"the path of an Exclude must be a str, not {path!r}")
    if not path:
        return path
    parts = path.strip("/").split("/")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts) or "\0" in path:
        raise ValueError(f"{path!r} is not a path within a volume: use names separated by /, relative to its root")
    return "/".join(parts)


@frozen
class Exclude:
    """Data that a backup excludes; a restore neither removes nor overwrites it.

    Every argument that takes one also takes a string: ``"cache"`` for a whole volume, ``"data:tmp/*.log"`` for paths
    within one. Use this class if a folder's path contains a colon.

    Args:
        volume: the volume's name, or the path of a folder of the host, as in `include_binds`.
        path: a path below its root; ``*`` matches any characters of one name, ``?`` matches one. Matching paths are
            excluded with everything below them. Empty for the whole volume.

    Raises:
        ValueError: the volume is empty, or the path leads out of the volume.

    Example:
        >>> Exclude.of("data:tmp/*.log")
        Exclude(volume='data', path='tmp/*.log')
    """

    volume: str
    path: str = field(default="", converter=_checked_path)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.volume, str):
            raise TypeError(f"the volume of an Exclude must be a name or a path, not {self.volume!r}")
        if not self.volume:
            raise ValueError(f"{self!r} names no volume; write it as 'volume' or 'volume:path'")

    @classmethod
    def of(cls, what: ExcludeArgument) -> Self | Exclude:
        """Parse the string form; raises `ValueError` if it is malformed, `TypeError` if it is not a string."""
        if isinstance(what, Exclude):
            return what
        if not isinstance(what, str):
            raise TypeError(f"'volume', 'volume:path' or an Exclude was expected, not {what!r}")
        volume, colon, path = what.partition(":")
        if colon and not path:
            raise ValueError(f"{what!r} names no path; omit the colon to exclude the whole volume")
        return cls(volume, path)

    def __str__(self) -> str:
        kind = "folder" if self.volume.startswith("/") else "volume"
        return f"{self.path} in {kind} {self.volume}" if self.path else f"{kind} {self.volume}"


ExcludeArgument: TypeAlias = Exclude | str
"""An `Exclude`, or its string form."""


def as_excludes(given: Iterable[ExcludeArgument]) -> tuple[Exclude, ...]:
    """Return the exclusions without duplicates; raises as `Exclude.of`."""
    if isinstance(given, str | bytes | Exclude) or not isinstance(given, Iterable):
        raise TypeError(f"exclude must be a list, not {given!r}")
    return tuple(dict.fromkeys(map(Exclude.of, given)))


@frozen
class MountPoint:
    """A mount point in a volume. Only its name is part of the volume."""

    path: str  # its path below the volume's root
    mode: int = 0o755  # its permissions, as seen through the mount
    uid: int = 0  # the owner's id, as seen through the mount
    gid: int = 0  # the group's id, as seen through the mount
    is_directory: bool = True  # True for a directory, False for a file

    @property
    def name(self) -> bytes:
        """The path in bytes."""
        return self.path.encode("utf-8", "surrogateescape")


def paths_within(volume: str, excluded: Iterable[Exclude]) -> tuple[str, ...]:
    """Return the sorted paths that are excluded within a volume."""
    return tuple(sorted(what.path for what in excluded if what.volume == volume and what.path))


class Paths:
    """Matches the paths that are excluded from one volume.

    Args:
        patterns: the paths of `Exclude`, with wildcards.
        exact: paths without wildcards; every character matches itself.
    """

    def __init__(self, patterns: Collection[str] = (), *, exact: Collection[str] = ()) -> None:
        each = "|".join([*map(_expression, patterns), *map(_exactly, exact)])
        self._match = re.compile(rf"\./(?:{each})(?:/|\Z)".encode("latin-1"), re.DOTALL).match if each else None
        self._itself = re.compile(rf"\./(?:{each})\Z".encode("latin-1"), re.DOTALL).match if each else None

    def __bool__(self) -> bool:
        return self._match is not None

    def __contains__(self, path: bytes) -> bool:
        """Return True if a path in tar's form (``./tmp/x``) matches, or is below a match."""
        return self._match is not None and self._match(path) is not None

    def begins(self, path: bytes) -> bool:
        """Return True if a path itself matches."""
        return self._itself is not None and self._itself(path) is not None


def for_tar(pattern: str) -> str:
    """Quote a path of `Exclude` for tar's ``--exclude``."""
    return "./" + _SPECIAL.sub(r"\\\g<0>", pattern)


def for_find(path: str) -> str:
    """Quote a path for find's ``-path``, so that it matches itself alone."""
    return _MEANING.sub(r"\\\g<0>", path)


def itself_for_tar(path: bytes) -> str:
    """Quote a path in tar's form (``./tmp/x``) for ``--exclude``, so that it matches itself alone."""
    return for_find(path.decode("utf-8", "surrogateescape"))


def _expression(pattern: str) -> str:
    # File names are bytes; as everywhere in Python, a str has the bytes that are not UTF-8 as surrogates.
    return _as_bytes("".join(_ANY.get(char) or re.escape(char) for char in pattern))


def _exactly(path: str) -> str:
    return _as_bytes(re.escape(path))


def _as_bytes(expression: str) -> str:
    return expression.encode("utf-8", "surrogateescape").decode("latin-1")


NONE: Final = Paths()
