"""Tars that are stored in pieces, so that a large file with few changes is not stored again as a whole.

A stored tar is an ordered row of pieces. Each is a blob, a frame of zstd; what they hold, one after the other, is the
tar. A tar of a single piece is that blob. Any other has a list of its pieces, a blob too, and is known by that.

The content of a large file is cut at fixed offsets, and the list tells of each such piece which file and offset it is
of, and a hash of it. A piece may be a difference: it needs another blob to be read, which is always a plain piece. The
manifest of an archive names that, too, so who holds a manifest holds all that it takes to read the archive.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Final

from attrs import frozen

from docker_rollback._model import Descriptor, VolumeArchive
from docker_rollback._store import oci
from docker_rollback._store.blobs import Blobs
from docker_rollback._store.strict_json import MalformedError, load_object
from docker_rollback._threads import ahead
from docker_rollback._zstd import CorruptStreamError, packed, unpack

MAX_LIST: Final = 16 << 20
"""The maximum size of a list of pieces, in bytes: a few bytes of zstd can hold any number of them."""
MAX_PIECES: Final = 10_000
"""The maximum number of pieces of a tar: each could need another one, which takes time to be read."""
MAX_NEEDED: Final = 32 << 20
"""The maximum size of the content of a piece that another one needs, in bytes: it is held in memory."""


@frozen
class Content:
    """Where the content of a piece is from.

    Attributes:
        path: the file's path in the tar; bytes, each as the character of its number.
        offset: the offset in the file.
        sha256: the SHA-256 of the content, in hexadecimal digits.
    """

    path: str
    offset: int
    sha256: str


@frozen
class Needed:
    """The blob of a plain piece, to whose content another piece is the difference.

    Attributes:
        digest: its digest.
        size: its size, in bytes.
    """

    digest: oci.Digest
    size: int

    @property
    def blob(self) -> Descriptor:
        """The same as a descriptor."""
        return Descriptor(oci.VOLUME_ARCHIVE, self.digest, self.size)


@frozen
class Piece:
    """A piece of a stored tar.

    Attributes:
        digest: the digest of its blob.
        size: the size of its blob, in bytes.
        length: how many bytes of tar it holds; None if that is not recorded.
        content: the content that it holds, if all of it is of one large file.
        needs: the plain piece that it is a difference to; None if it is plain itself.
    """

    digest: oci.Digest
    size: int
    length: int | None = None
    content: Content | None = None
    needs: Needed | None = None

    @property
    def blob(self) -> Descriptor:
        """Its blob."""
        return Descriptor(oci.VOLUME_ARCHIVE, self.digest, self.size)

    @property
    def plain(self) -> Needed:
        """Itself if it is plain, else what it needs."""
        return self.needs or Needed(self.digest, self.size)


@frozen
class _List:
    pieces: tuple[Piece, ...]


def write_pieces(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """Yield a list of pieces as it is stored: JSON in zstd, with a line for each piece."""
    lines = (json.dumps(oci.CONVERTER.hooks.unstructure(piece), separators=(",", ":")) for piece in pieces)
    return packed([b'{"pieces":[\n', ",\n".join(lines).encode("ascii"), b"\n]}\n"])


def pieces_of(blobs: Blobs, tar: Descriptor) -> tuple[Piece, ...]:
    """Return the pieces of a stored tar, in order.

    Raises:
        CorruptBackupError: its list is damaged, or missing.
        StoreError: it cannot be read.
    """
    if tar.media_type != oci.PIECES:
        return (Piece(oci.Digest(tar.digest), tar.size),)
    try:
        data = _bounded(unpack(blobs.open(tar)), MAX_LIST)
        pieces = oci.CONVERTER.structure(load_object(data), _List).pieces
        if len(pieces) > MAX_PIECES:
            raise MalformedError(f"it has {len(pieces)} pieces, and the limit is {MAX_PIECES}")
        return pieces
    except (CorruptStreamError, MalformedError) as error:
        raise blobs.corrupt(tar.digest, f"its list of pieces is broken: {error}") from error


def blobs_of(blobs: Blobs, tar: Descriptor) -> tuple[Descriptor, ...]:
    """Return the blobs that a stored tar takes, each once, its list first; raises as `pieces_of`."""
    if tar.media_type != oci.PIECES:
        return (tar,)
    found = (blob for piece in pieces_of(blobs, tar) for blob in (piece.blob, piece.plain.blob))
    return tar, *{blob.digest: blob for blob in found}.values()


def layers_of(blobs: Blobs, volume: VolumeArchive) -> list[Descriptor]:
    """Return all blobs of a volume's archive in the order of its manifest; raises as `pieces_of`.

    A piece of the increment that the base has too comes once. All others come as often as the archive names them.
    """
    base = blobs_of(blobs, volume.base)
    known = {blob.digest for blob in base[1:]}
    increment = blobs_of(blobs, volume.increment) if volume.increment is not None else ()
    rest = [blob for blob in increment if blob.digest not in known]
    return [*base, *rest, *(blob for blob in (volume.snapshot, volume.listing) if blob is not None)]


def read_tar(blobs: Blobs, tar: Descriptor, *, hashed: bool = False) -> Iterator[bytes]:
    """Yield a stored tar, in bounded chunks.

    Args:
        blobs: the blobs of the store.
        tar: its only blob, or its list of pieces.
        hashed: whether the content of pieces is held against the hashes in the list, too. The hashes of the blobs, and
            zstd's own checksums, are looked at in any case.

    Raises:
        CorruptBackupError: a blob is missing or damaged; the error names it.
        StoreError: it cannot be read.
    """
    pieces = pieces_of(blobs, tar)
    with closing(ahead(_compressed(blobs, pieces))) as compressed:
        for piece in pieces:
            # Each piece ends with an empty chunk.
            yield from _content(blobs, piece, iter(lambda: next(compressed), b""), hashed=hashed)


def read_needed(blobs: Blobs, piece: Needed) -> bytes:
    """Return the content of a plain piece; raises as `read_tar`."""
    try:
        return _bounded(unpack(blobs.open(piece.blob)), MAX_NEEDED)
    except (CorruptStreamError, MalformedError) as error:
        raise blobs.corrupt(piece.digest, f"it cannot be used by another piece: {error}") from error


def _compressed(blobs: Blobs, pieces: Sequence[Piece]) -> Iterator[bytes]:
    for piece in pieces:
        yield from blobs.open(piece.blob)
        yield b""


def _content(blobs: Blobs, piece: Piece, compressed: Iterator[bytes], *, hashed: bool) -> Iterator[bytes]:
    """Yield what a piece holds, from its compressed chunks."""
    needed = read_needed(blobs, piece.needs) if piece.needs is not None else None
    length, hasher = 0, hashlib.sha256() if hashed and piece.content is not None else None
    try:
        for data in unpack(compressed, needed):
            length += len(data)
            if piece.length is not None and length > piece.length:
                raise blobs.corrupt(piece.digest, f"it decompresses to more than {piece.length} bytes")
            if hasher is not None:
                hasher.update(data)
            yield data
    except CorruptStreamError as error:
        raise blobs.corrupt(piece.digest, f"its zstd stream is broken: {error}") from error
    if piece.length not in (None, length):
        raise blobs.corrupt(piece.digest, f"it decompresses to {length} bytes, not {piece.length}")
    if hasher is not None and piece.content is not None and hasher.hexdigest() != piece.content.sha256:
        raise blobs.corrupt(piece.digest, f"it holds other content than {piece.content.sha256}")


def _bounded(chunks: Iterable[bytes], limit: int) -> bytes:
    """Return all chunks joined; raises `MalformedError` as soon as they are longer than a limit, in bytes."""
    held, size = [], 0
    for data in chunks:
        held.append(data)
        size += len(data)
        if size > limit:
            raise MalformedError(f"it holds more than {limit} bytes")
    return b"".join(held)
