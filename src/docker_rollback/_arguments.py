"""Checks arguments before anything is touched; an error names the argument, its valid values and the given one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, Protocol, TypeAlias


class ContainerLike(Protocol):
    """Anything with an id, such as docker-py's `Container`."""

    @property
    def id(self) -> str | None:
        """The full id."""


ContainerArgument: TypeAlias = str | ContainerLike
"""A container's name, its id, or an object that has one."""


def reference_of(container: ContainerArgument) -> str:
    """Return the name or the id of a given container; refuse anything else."""
    reference = container if isinstance(container, str) else getattr(container, "id", None)
    if not isinstance(reference, str):
        raise TypeError(f"a name, an id or an object with an id was expected for a container, not {container!r}")
    if not reference:
        raise ValueError("a container with an empty name, or an object without an id, was given")
    return reference


def one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Refuse a value that is not one of the choices."""
    # The type is compared first: an array of numpy equals any choice.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}, not {value!r}")


def flag(name: str, value: object) -> None:
    """Refuse a value other than True and False: the string "no" would count as True."""
    if not isinstance(value, bool):
        _wrong(name, "True or False", value)


def text(name: str, value: object, *, what: str = "a text", optional: bool = False) -> None:
    """Refuse a value that is not a string, or empty."""
    if value is None and optional:
        return
    if not isinstance(value, str):
        _wrong(name, what + (" or None" if optional else ""), value)
    if not value:
        raise ValueError(f"{name} is empty; it is {what}" + (", or left out" if optional else ""))


def texts(name: str, value: object, *, what: str) -> tuple[str, ...]:
    """Return a collection of strings as a tuple; refuse a single string, which would be read as its letters."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        _wrong(name, f"a list of {what}", value)
    found = tuple(value)
    for one in found:
        if not isinstance(one, str):
            raise TypeError(f"{name} is a list of {what}; {one!r} in it is none")
    return found


def several(name: str, value: object, *, what: str) -> tuple[Any, ...]:
    """Return a collection as a tuple; refuse a single string, which would be read as its letters."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        _wrong(name, what, value)
    return tuple(value)


def mapping(name: str, value: object, *, optional: bool = False) -> None:
    """Refuse a value that is not a mapping with strings as keys."""
    if value is None and optional:
        return
    if not isinstance(value, Mapping):
        _wrong(name, "a mapping", value)
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{name} is a mapping of texts; the key {key!r} in it is none")


def seconds(name: str, value: object, *, above: bool = False, optional: bool = False) -> None:
    """Refuse a value that is not a number of seconds; `above` refuses 0 as well, `optional` accepts None."""
    if value is None and optional:
        return
    what = f"a number of seconds{' above 0' if above else ', 0 or more'}{', or None' if optional else ''}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        _wrong(name, what, value)
    if not math.isfinite(value) or value < 0 or (above and value == 0):
        raise ValueError(f"{name} is {what}, not {value!r}")


def whole(name: str, value: object, *, least: int, most: int, optional: bool = False) -> None:
    """Refuse a value that is not a whole number from `least` to `most`."""
    if value is None and optional:
        return
    what = f"a whole number from {least} to {most}{', or None' if optional else ''}"
    if isinstance(value, bool) or not isinstance(value, int):
        _wrong(name, what, value)
    if not least <= value <= most:
        raise ValueError(f"{name} is {what}, not {value!r}")


def function(name: str, value: object, *, optional: bool = False) -> None:
    """Refuse a value that is not callable."""
    if not callable(value) and not (value is None and optional):
        _wrong(name, "a callable" + (" or None" if optional else ""), value)


def instance(name: str, value: object, kinds: tuple[type[Any], ...], *, what: str) -> None:
    """Refuse a value of another type; True and False do not count as numbers."""
    if not isinstance(value, kinds) or isinstance(value, bool):
        _wrong(name, what, value)


def _wrong(name: str, what: str, value: object) -> NoReturn:
    raise TypeError(f"{name} is {what}, not {value!r}")
