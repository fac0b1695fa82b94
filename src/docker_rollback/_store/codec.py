"""Converts a backup's record to JSON and back. Pure.

The values of the model are converted by cattrs; inspections are JSON already, and stay as they are. Reading is strict:
a string in place of a number is refused, not converted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any, TypeVar, get_args, get_origin

from cattrs import BaseValidationError, Converter
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from docker_rollback._model import Backup, Descriptor
from docker_rollback._store.oci import FIRST_FORMAT, FORMAT, MalformedError, dump_json, load_json

T = TypeVar("T")


class NewerFormatError(MalformedError):
    """The data was written by a newer version of this library."""


def dump_backup(backup: Backup) -> bytes:
    """Serialize a backup's record."""
    return dump(backup, "backup", version=format_of(backup))


def format_of(backup: Backup) -> int:
    """Return the oldest format version that can represent a backup."""
    newer = backup.excluded or any(volume.listing is not None or volume.is_partial for volume in backup.volumes)
    return FORMAT if newer else FIRST_FORMAT


def load_backup(data: bytes) -> Backup:
    """Parse a backup's record; raises `NewerFormatError`, or `MalformedError` if it is not one."""
    return load(data, Backup, "backup")


def dump(value: object, name: str, *, version: int = FIRST_FORMAT) -> bytes:
    """Serialize a value of the model under the name of its kind."""
    return dump_json({"format": version, "writer": _writer(), name: _CONVERTER.unstructure(value)})


def load(data: bytes, kind: type[T], name: str) -> T:
    """Parse the output of `dump`; raises `NewerFormatError`, or `MalformedError` if the data is something else."""
    raw = load_json(data)
    if not isinstance(raw, dict):
        raise MalformedError("it is not a JSON object")
    version = raw.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise MalformedError("it does not say its format")
    if version > FORMAT:
        raise NewerFormatError(f"it has format {version}, and this version reads formats up to {FORMAT}")
    try:
        return _CONVERTER.structure(raw.get(name), kind)
    except BaseValidationError as error:
        raise MalformedError(f"its fields are not those of a {name} ({_first_cause(error)})") from None
    except (TypeError, ValueError, KeyError, AttributeError, IndexError):
        # No cause and no value in the message, because a record contains secrets.
        raise MalformedError(f"its fields are not those of a {name}") from None


def _writer() -> str:
    try:
        return f"docker-rollback {version_of('docker-rollback')}"
    except PackageNotFoundError:  # a source tree that was never installed
        return "docker-rollback"


def _first_cause(error: BaseException) -> str:
    """Return the name of the field that does not fit, without its value."""
    while isinstance(error, BaseValidationError) and error.exceptions:
        error = error.exceptions[0]
    notes = [str(note) for note in getattr(error, "__notes__", ())]
    return notes[0] if notes else type(error).__name__


def _moment(value: object, _: type) -> datetime:
    if not isinstance(value, str):
        raise MalformedError("a time is not a string")
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise MalformedError("a time has no zone")
    return moment.astimezone(UTC)


def _exactly(kind: type) -> Any:
    def structure(value: object, _: type) -> object:
        if type(value) is not kind:
            raise MalformedError(f"not a {kind.__name__}")
        return value

    return structure


def _is_a(origin: object) -> Callable[[Any], bool]:
    def check(type_: Any) -> bool:
        found: object = get_origin(type_)
        return found is origin

    return check


def _make_converter() -> Converter:
    converter = Converter()
    for kind in (str, int, bool):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(datetime, _moment)
    converter.register_unstructure_hook(datetime, lambda moment: moment.astimezone(UTC).isoformat())

    def structure_tuple(value: object, type_: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise MalformedError("not a list")
        return tuple(converter.structure(item, get_args(type_)[0]) for item in value)

    def structure_mapping(value: object, type_: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise MalformedError("not an object")
        of = get_args(type_)[1]
        return value if of is Any else {key: converter.structure(item, of) for key, item in value.items()}

    converter.register_structure_hook_func(_is_a(tuple), structure_tuple)
    converter.register_structure_hook_func(_is_a(Mapping), structure_mapping)
    # A record spells descriptors like every other file of the layout.
    spelling = override(rename="mediaType")
    converter.register_unstructure_hook(
        Descriptor, make_dict_unstructure_fn(Descriptor, converter, media_type=spelling)
    )
    converter.register_structure_hook(Descriptor, make_dict_structure_fn(Descriptor, converter, media_type=spelling))
    return converter


_CONVERTER = _make_converter()
