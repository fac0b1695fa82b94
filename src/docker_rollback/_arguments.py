"""Checks of arguments: a wrong one is named, with what it has to be and what was given, before anything is touched."""

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
    """Return the name or the id of a container that was given; refuse what is none."""
    reference = container if isinstance(container, str) else getattr(container, "id", None)
    if not isinstance(reference, str):
        raise TypeError(f"a name, an id or an object with an id was expected for a container, not {container!r}")
    if not reference:
        raise ValueError("a container with an empty name, or an object without an id, was given")
    return reference


def one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Refuse what is none of the choices."""
    # A list is equal to no choice, and an array of numpy to all of them.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}, not {value!r}")


def flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False: the text "no" would count as True."""
    if not isinstance(value, bool):
        _wrong(name, "True or False", value)


def text(name: str, value: object, *, what: str = "a text", optional: bool = False) -> None:
    """Refuse what is no text, and an empty one."""
    if value is None and optional:
        return
    if not isinstance(value, str):
        _wrong(name, what + (" or None" if optional else ""), value)
    if not value:
        raise ValueError(f"{name} is empty; it is {what}" + (", or left out" if optional else ""))


def texts(name: str, value: object, *, what: str) -> tuple[str, ...]:
    """Return a collection of texts; refuse one text alone, which is a collection of its letters."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        _wrong(name, f"a list of {what}", value)
    found = tuple(value)
    for one in found:
        if not isinstance(one, str):
            raise TypeError(f"{name} is a list of {what}; {one!r} in it is none")
    return found


def several(name: str, value: object, *, what: str) -> tuple[Any, ...]:
    """Return what a collection holds; refuse a text, which is a collection of its letters."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        _wrong(name, what, value)
    return tuple(value)


def mapping(name: str, value: object, *, optional: bool = False) -> None:
    """Refuse what is no mapping whose keys are texts."""
    if value is None and optional:
        return
    if not isinstance(value, Mapping):
        _wrong(name, "a mapping", value)
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{name} is a mapping of texts; the key {key!r} in it is none")


def seconds(name: str, value: object, *, above: bool = False, optional: bool = False) -> None:
    """Refuse what is no number of seconds.

    Args:
        name: of the argument.
        value: what was given.
        above: whether it has to be above 0.
        optional: whether None is fine.
    """
    if value is None and optional:
        return
    what = f"a number of seconds{' above 0' if above else ', 0 or more'}{', or None' if optional else ''}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        _wrong(name, what, value)
    if not math.isfinite(value) or value < 0 or (above and value == 0):
        raise ValueError(f"{name} is {what}, not {value!r}")


def whole(name: str, value: object, *, least: int, most: int, optional: bool = False) -> None:
    """Refuse what is no whole number within two bounds."""
    if value is None and optional:
        return
    what = f"a whole number from {least} to {most}{', or None' if optional else ''}"
    if isinstance(value, bool) or not isinstance(value, int):
        _wrong(name, what, value)
    if not least <= value <= most:
        raise ValueError(f"{name} is {what}, not {value!r}")


def function(name: str, value: object, *, optional: bool = False) -> None:
    """Refuse what cannot be called."""
    if not callable(value) and not (value is None and optional):
        _wrong(name, "a callable" + (" or None" if optional else ""), value)


def instance(name: str, value: object, kinds: tuple[type[Any], ...], *, what: str) -> None:
    """Refuse what is of none of some kinds; True and False are no numbers."""
    if not isinstance(value, kinds) or isinstance(value, bool):
        _wrong(name, what, value)


def _wrong(name: str, what: str, value: object) -> NoReturn:
    raise TypeError(f"{name} is {what}, not {value!r}")
