"""Assembles the tar of an image layer from the parts that an engine keeps of it. Pure.

Docker and Podman unpack a layer into a folder. The rest of its tar, headers and padding, they keep in a file of JSON
objects, one a line, in the format of the Go package tar-split. Both together give the tar byte for byte, as an export
of the image has it: with the markers of deletions, hard links, attributes and times that are in its headers.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

_FILE: Final = 1
_SEGMENT: Final = 2


class TarSplitError(ValueError):
    """The parts of a layer do not fit together, or are in an unknown format."""


def assembled(lines: Iterable[bytes], content: Callable[[bytes], Iterator[bytes]]) -> Iterator[bytes]:
    """Yield the tar of a layer. The caller checks its digest.

    Args:
        lines: the lines of the layer's tar-split file, decompressed.
        content: returns the content of a file of the layer, by its name in the tar.

    Raises:
        TarSplitError: the parts do not fit together.
    """
    for line in lines:
        entry = _parsed(line)
        kind, payload = entry.get("type"), entry.get("payload")
        if kind == _SEGMENT:
            yield _decoded(payload or "")
        elif kind != _FILE:
            raise TarSplitError(f"an entry has the type {kind!r}")
        elif size := entry.get("size"):
            left = size
            for data in content(_name(entry)):
                left -= len(data)
                if left < 0:
                    break
                yield data
            if left:
                raise TarSplitError(f"a file does not have its {size} bytes")


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        raise TarSplitError("a line is not JSON") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("size") or 0, int):
        raise TarSplitError("an entry is malformed")
    return entry


def _name(entry: dict[str, Any]) -> bytes:
    """Return the name of a file: text, or base64 if it is not UTF-8."""
    raw, name = entry.get("name_raw"), entry.get("name")
    if raw:
        return _decoded(raw)
    if not isinstance(name, str) or not name:
        raise TarSplitError("a file has no name")
    return name.encode("utf-8", "surrogatepass")


def _decoded(text: object) -> bytes:
    if not isinstance(text, str):
        raise TarSplitError("an entry is malformed")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise TarSplitError("an entry is not base64") from None
