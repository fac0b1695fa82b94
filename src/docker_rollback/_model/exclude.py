"""What a backup leaves out, and a restore leaves alone: whole volumes, paths within them, and mount points; pure."""

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
        raise TypeError(f"the path of an Exclude is a text, not {path!r}")
    if not path:
        return path
    parts = path.strip("/").split("/")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts) or "\0" in path:
        raise ValueError(f"{path!r} is no path within a volume: names with / between, below its root, please")
    return "/".join(parts)


@frozen
class Exclude:
    """Something that a backup leaves out, and a restore leaves alone, neither removed nor overwritten.

    Wherever one is asked for, it can be written as a text: ``"cache"`` for a whole volume, ``"data:tmp/*.log"`` for
    paths within one. This class says the same where a folder's path has a colon.

    Args:
        volume: the volume's name; or the path of a folder of the host, as in `include_binds`.
        path: a path below its root; ``*`` stands for any characters of one name, and ``?`` for one. It leaves out what
            matches, with all that is below it. Empty for the whole volume.

    Raises:
        ValueError: it names nothing, or a path that leads elsewhere.

    Example:
        >>> Exclude.of("data:tmp/*.log")
        Exclude(volume='data', path='tmp/*.log')
    """

    volume: str
    path: str = field(default="", converter=_checked_path)

    def __attrs_post_init__(self) -> None:
        """Refuse what names no volume."""
        if not isinstance(self.volume, str):
            raise TypeError(f"the volume of an Exclude is a name or a path, not {self.volume!r}")
        if not self.volume:
            raise ValueError(f"{self!r} names no volume; write it as 'volume' or 'volume:path'")

    @classmethod
    def of(cls, what: ExcludeArgument) -> Self | Exclude:
        """Return what a text says; raises `ValueError` where it says nothing, `TypeError` for what is no text."""
        if isinstance(what, Exclude):
            return what
        if not isinstance(what, str):
            raise TypeError(f"'volume', 'volume:path' or an Exclude was expected, not {what!r}")
        volume, colon, path = what.partition(":")
        if colon and not path:
            raise ValueError(f"{what!r} names no path; leave the colon out for the whole volume")
        return cls(volume, path)

    def __str__(self) -> str:
        """Say what it is, for people."""
        kind = "folder" if self.volume.startswith("/") else "volume"
        return f"{self.path} in {kind} {self.volume}" if self.path else f"{kind} {self.volume}"


ExcludeArgument: TypeAlias = Exclude | str
"""Something to leave out: an `Exclude`, or the text that says the same."""


def as_excludes(given: Iterable[ExcludeArgument]) -> tuple[Exclude, ...]:
    """Return what is to be left out, each once; raises as `Exclude.of`."""
    if isinstance(given, str | bytes | Exclude) or not isinstance(given, Iterable):
        raise TypeError(f"exclude is a list of what to leave out, not {given!r} alone")
    return tuple(dict.fromkeys(map(Exclude.of, given)))


@frozen
class MountPoint:
    """A name in a volume where something else was mounted; only the name is part of the volume.

    Attributes:
        path: its path below the volume's root.
        mode: the permissions that were seen there.
        uid: the owner's number.
        gid: the group's number.
        is_directory: whether it was one; else it was a file.
    """

    path: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    is_directory: bool = True

    @property
    def name(self) -> bytes:
        """The same path in bytes."""
        return self.path.encode("utf-8", "surrogateescape")


def paths_within(volume: str, excluded: Iterable[Exclude]) -> tuple[str, ...]:
    """Return the paths in a volume that are left out, in order."""
    return tuple(sorted(what.path for what in excluded if what.volume == volume and what.path))


class Paths:
    """Paths that are left out of one volume.

    Args:
        patterns: the paths of `Exclude`.
        exact: paths whose characters all stand for themselves.
    """

    def __init__(self, patterns: Collection[str] = (), *, exact: Collection[str] = ()) -> None:
        each = "|".join([*map(_expression, patterns), *map(_exactly, exact)])
        self._match = re.compile(rf"\./(?:{each})(?:/|\Z)".encode("latin-1"), re.DOTALL).match if each else None
        self._itself = re.compile(rf"\./(?:{each})\Z".encode("latin-1"), re.DOTALL).match if each else None

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self._match is not None

    def __contains__(self, path: bytes) -> bool:
        """Whether a path, as tar has it (``./tmp/x``), is one of them or below one."""
        return self._match is not None and self._match(path) is not None

    def begins(self, path: bytes) -> bool:
        """Whether a path is one of them itself."""
        return self._itself is not None and self._itself(path) is not None


def for_tar(pattern: str) -> str:
    """Return a path of `Exclude` as tar's ``--exclude`` takes it."""
    return "./" + _SPECIAL.sub(r"\\\g<0>", pattern)


def for_find(path: str) -> str:
    """Return a path as find's ``-path`` takes it to mean no other one."""
    return _MEANING.sub(r"\\\g<0>", path)


def itself_for_tar(path: bytes) -> str:
    """Return a path, as tar has it (``./tmp/x``), as ``--exclude`` takes it to mean no other one."""
    return for_find(path.decode("utf-8", "surrogateescape"))


def _expression(pattern: str) -> str:
    # The names of files are bytes; a text that has others than UTF-8 has them as surrogates, as everywhere in Python.
    return _as_bytes("".join(_ANY.get(char) or re.escape(char) for char in pattern))


def _exactly(path: str) -> str:
    return _as_bytes(re.escape(path))


def _as_bytes(expression: str) -> str:
    return expression.encode("utf-8", "surrogateescape").decode("latin-1")


NONE: Final = Paths()
"""No paths."""
