"""Parses untrusted JSON into attrs classes by cattrs, and writes it. Pure.

Parsing is strict: a value of another type than its attribute's is refused, not converted. Unknown keys are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args, get_origin

import attrs
from cattrs import (
    AttributeValidationNote,
    BaseValidationError,
    Converter,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn

T = TypeVar("T")

_origin: Callable[[Any], object] = get_origin


class MalformedError(ValueError):
    """The data does not have the required structure; the text says why, and calls the data "it"."""


class StrictConverter:
    """Converts parsed JSON to attrs classes and back.

    Args:
        overrides: cattrs' overrides of the attributes, by name, that have another key in JSON or a check of their own,
            in any class.
        whole: the names of the attributes that get the whole JSON object of their class.
    """

    def __init__(self, overrides: Mapping[str, Any], *, whole: tuple[str, ...] = ()) -> None:
        self._overrides = overrides
        self._whole = whole
        self.hooks: Converter = Converter()
        for kind, name in ((str, "a string"), (int, "a whole number"), (bool, "true or false")):
            self.hooks.register_structure_hook(kind, _exactly(kind, name))
        self.hooks.register_structure_hook(datetime, _moment)
        self.hooks.register_unstructure_hook(datetime, lambda moment: moment.astimezone(UTC).isoformat())
        self.hooks.register_structure_hook_func(lambda type_: _origin(type_) is tuple, self._tuple)
        self.hooks.register_structure_hook_func(lambda type_: _origin(type_) is Mapping, self._mapping)
        self.hooks.register_structure_hook_factory(attrs.has, self._class_hook)
        self.hooks.register_unstructure_hook_factory(
            attrs.has, lambda kind: make_dict_unstructure_fn(kind, self.hooks, **self._overrides_of(kind))
        )

    def structure(self, raw: object, kind: type[T]) -> T:
        """Convert parsed JSON; raises `MalformedError`, with cattrs' error as its cause."""
        try:
            return self.hooks.structure(raw, kind)
        except BaseValidationError as error:
            raise MalformedError(self._reason(error)) from error

    def _overrides_of(self, kind: type) -> dict[str, Any]:
        return {name: self._overrides[name] for name in attrs.fields_dict(kind).keys() & self._overrides.keys()}

    def _class_hook(self, kind: type[T]) -> Callable[[object, type], T]:
        fill = make_dict_structure_fn(kind, self.hooks, **self._overrides_of(kind))
        return lambda value, type_: fill({**_object(value), **dict.fromkeys(self._whole, value)}, type_)

    def _tuple(self, value: object, type_: Any) -> tuple[Any, ...]:
        # cattrs would gather the errors of all items, and each takes a kilobyte.
        return tuple(self._item(item, index, type_) for index, item in enumerate(_list(value)))

    def _item(self, value: object, index: int, type_: Any) -> Any:
        of = get_args(type_)[0]
        try:
            return self.hooks.structure(value, of)
        except Exception as error:
            error.add_note(IterableValidationNote(f"item {index}", index, of))
            raise IterableValidationError("a list", [error], type_) from None

    def _mapping(self, value: object, type_: Any) -> dict[str, Any]:
        of = get_args(type_)[1]
        return {key: item if of is Any else self.hooks.structure(item, of) for key, item in _object(value).items()}

    def _reason(self, error: BaseException) -> str:
        """Return which value is wrong, by its path, without the value: it may be a secret."""
        path = ""
        while isinstance(error, BaseValidationError):
            error = error.exceptions[0]
            for note in getattr(error, "__notes__", ()):
                if isinstance(note, IterableValidationNote):
                    path += f"[{note.index}]"
                elif isinstance(note, AttributeValidationNote) and note.name not in self._whole:
                    override = self._overrides.get(note.name)
                    path += f".{(override and override.rename) or note.name}"
        if isinstance(error, MalformedError):
            reason = str(error).removeprefix("it ")
        else:
            reason = "is missing" if isinstance(error, KeyError) else "has an unknown value"
        return f"its {path[1:]} {reason}" if path else f"it {reason}"


def load_json(data: bytes) -> Any:
    """Parse JSON; raises `MalformedError` if it is invalid or nested too deeply."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise MalformedError("its JSON is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, and numbers of too many digits
        # Without the document, which may contain secrets.
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise MalformedError(f"it is not JSON ({reason})") from None


def load_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object; raises `MalformedError` for anything else."""
    return _object(load_json(data))


def dump_json(value: object) -> bytes:
    """Serialize JSON in ASCII; equal values in the same order give equal bytes."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def _exactly(kind: type[T], name: str) -> Callable[..., T]:
    def structure(value: object, _: object = None) -> T:
        if type(value) is not kind:
            raise MalformedError(f"it is not {name}")
        return value

    return structure


_object = _exactly(dict, "a JSON object")
_list = _exactly(list, "a list")
_text = _exactly(str, "a string")


def _moment(value: object, _: type) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise MalformedError("it has no time zone")
    return moment.astimezone(UTC)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
