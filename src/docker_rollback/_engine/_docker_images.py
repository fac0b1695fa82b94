"""Images as streams, out of an engine and into it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from docker_rollback._engine._docker_errors import Asking
from docker_rollback._engine._docker_wire import IDENTITY, Params, Wire, events

_TAR_END: Final = bytes(1024)


def export(wire: Wire, path: str, asking: Asking) -> Iterator[bytes]:
    """Ask for a tar, then return its blocks.

    An engine that fails half way has said yes already. It ends the stream as it would a good one, with words where the
    end of the tar should be; so the end is looked at.
    """
    response = wire.answer("GET", path, asking, headers=IDENTITY, patient=True)
    return _until_its_end(wire.blocks(response, asking), asking)


def _until_its_end(blocks: Iterator[bytes], asking: Asking) -> Iterator[bytes]:
    end = b""
    for block in blocks:
        end = (end + block)[-4096:] if len(block) < 4096 else block[-4096:]
        yield block
    if not end.endswith(_TAR_END):
        words = end.rpartition(b"\0")[2].decode("utf-8", "replace")
        raise asking.failed(_reason(words) or "the archive is cut short")


def load(
    wire: Wire, path: str, params: Params, archive: Iterable[bytes], asking: Asking
) -> Iterator[Mapping[str, Any]]:
    """Send a tar and return what the engine tells of it; raises what it tells of a failure."""
    response = wire.answer("POST", path, asking, params=params, upload=archive, headers=IDENTITY, patient=True)
    return events(wire.blocks(response, asking), asking)


def _reason(words: str) -> str:
    start = words.find("{")
    if start < 0:
        return words.strip()[:500]
    try:
        told = json.loads(words[start:])
    except ValueError:
        return words[start:][:500]
    detail = told.get("errorDetail")
    return str((detail.get("message") if isinstance(detail, dict) else None) or told.get("error") or told)
