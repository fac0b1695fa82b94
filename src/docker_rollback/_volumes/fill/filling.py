"""Fills a volume from its archive; files that are proven to be untouched are not written."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator

from attrs import field, frozen

from docker_rollback._host import Tree
from docker_rollback._model import Descriptor, VolumeArchive, is_folder
from docker_rollback._store import BackupStore
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.access.single_file import fill_file
from docker_rollback._volumes.capture.base import attributes_of_folders
from docker_rollback._volumes.capture.scan import check
from docker_rollback._volumes.fill.excluded_paths import KeptPaths
from docker_rollback._volumes.fill.file_flags import clear_flags
from docker_rollback._volumes.fill.read_only import check_same
from docker_rollback._volumes.fill.untouched_files import Untouched, untouched
from docker_rollback._volumes.fill.volume_root import drop_attributes, drop_foreign_attributes
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback._volumes.tar.archive_stream import gathered, pieces_of, split
from docker_rollback._volumes.tar.members import END, MalformedArchiveError, Member, Members
from docker_rollback._volumes.tar.snapshot_file import ROOT
from docker_rollback.errors import ArchiveError

logger = logging.getLogger("docker_rollback")


class _BuriedError(ArchiveError):
    """A path is too long for tar, which removes each file by its whole path."""


@frozen
class _Folders:
    """The directories of a capture, by their names in the archive."""

    listings: dict[bytes, bytes] = field(factory=dict, repr=False)  # the list of entries of each
    # The names of extended attributes, of each directory that has some.
    attributes: dict[bytes, frozenset[bytes]] = field(factory=dict, repr=False)


class Filling:
    """Fills one volume; this can be repeated from the start.

    Args:
        reach: the access to the volume.
        archive: its archive.
        store: the store that holds the archive.
        progress: called with the bytes of tar so far.
    """

    def __init__(
        self, reach: Reach, archive: VolumeArchive, store: BackupStore, progress: Callable[[int], None] | None
    ) -> None:
        self._reach = reach
        self._archive = archive
        self._store = store
        self._progress = progress
        self._done = 0
        self._kept = KeptPaths({})
        self._is_closed = False

    def fill(self) -> int:
        """Restore the archive's files and remove all others; return how many bytes of tar were read.

        Nothing is written to a read-only volume.

        Raises:
            ArchiveError: not everything could be restored; or the volume is read-only, and differs.
            CorruptBackupError: the archive is damaged.
            StoreError, EngineError: the store or the engine failed.
        """
        reach = self._reach
        if reach.is_file:
            fill_file(reach, self._archive, self._store)
            return self._archive.size
        if reach.read_only:
            check_same(reach, self._archive, self._store)
            return self._archive.size
        self._kept = self._find_kept()
        known = untouched(reach, self._archive, self._store) if not self._kept.strays else None
        if known is not None and reach.tree is not None and self._archive.increment is not None:
            try:
                return self._write_changed(reach.tree, known, self._archive.increment)
            except (ArchiveError, MalformedArchiveError, OSError) as error:
                logger.warning("volume %s: writing all files: %s", reach.volume, error)
        try:
            return self._write_all()
        except gnu_tar.ChangedMeanwhileError:
            # The next attempt keeps all other users out. A volume's folder is the engine's, and closed to them anyway.
            self._is_closed = is_folder(self._reach.volume)
            raise
        except _BuriedError as error:
            logger.warning("volume %s: emptying it by rm: %s", reach.volume, error)
            self._empty()
            return self._write_all()
        except (ArchiveError, OSError) as error:
            cleared = clear_flags(reach.tree, but=self._kept.paths) if reach.tree is not None else 0
            if not cleared:
                raise
            logger.warning(
                "volume %s: cleared flags of %d files that prevented filling it: %s", reach.volume, cleared, error
            )
            return self._write_all()

    def _find_kept(self) -> KeptPaths:
        archive = self._archive
        kept = KeptPaths.look(self._reach, archive)
        if not kept:
            return kept
        folders = _Folders()
        for _ in self._folders(archive.increment or archive.base, folders):
            pass
        return kept.within(self._reach.volume, folders.listings)

    # Writing all files

    def _write_all(self) -> int:
        self._done = 0
        base, increment = self._archive.base, self._archive.increment
        drop_attributes(self._reach, keep=gnu_tar.attributes(self._store.open_tar(base)))
        self._drop_on_the_way(base)
        kept = self._kept
        self._extract([kept.emptying()], kept.amended(self._read(base), is_last=increment is None))
        if increment is not None:
            self._extract(kept.amended(self._read(increment)))
        return self._done

    def _drop_on_the_way(self, base: Descriptor) -> None:
        """Remove new attributes of folders that stay because a path below them does."""
        folders = [folder for folder in self._kept.folders if folder != ROOT]
        known = attributes_of_folders(self._store.open_tar(base)) if folders else {}
        for folder in folders:
            keep = frozenset(map(os.fsdecode, known.get(folder, ())))
            drop_attributes(self._reach, keep=keep, folder=os.fsdecode(folder))

    # Writing changed files

    def _write_changed(self, tree: Tree, known: Untouched, increment: Descriptor) -> int:
        self._done = 0
        folders = _Folders()
        # Restore the directories first: from then on no path leads through a link.
        self._extract(self._folders(increment, folders), [END])
        self._clear_away(tree, folders)
        base = self._read(self._archive.base)
        needed = _Needed(self._reach, tree, known, folders)
        self._extract(
            self._folders(increment, _Folders()),
            _only(base, needed.of_base),
            _only(self._read(increment), needed.of_increment),
            [END],
        )
        logger.debug("volume %s: %d untouched files were not written", self._reach.volume, needed.left_alone)
        return self._done

    def _folders(self, blob: Descriptor, folders: _Folders) -> Iterator[bytes]:
        """Yield the directories at the beginning of an archive, amended, and record them in `folders`."""
        members = Members()
        for data in self._store.open_tar(blob):
            for member in members.feed(data):
                if not member.is_directory:
                    return
                if member.listing is None:
                    raise MalformedArchiveError("a directory does not say what was in it")
                folders.listings[member.name] = member.listing
                if member.attributes:
                    folders.attributes[member.name] = member.attributes
                yield self._kept.directory(member)

    def _clear_away(self, tree: Tree, folders: _Folders) -> None:
        """Remove new attributes and sockets, which tar leaves in existing directories."""
        for name in folders.listings.keys() - self._kept.mounted:
            drop_foreign_attributes(tree, name, keep=folders.attributes.get(name, frozenset()))
        for name in gnu_tar.sockets(self._archive.name, self._archive.not_covered):
            _remove(self._reach, tree, name)

    # Both

    def _read(self, blob: Descriptor) -> Iterator[bytes]:
        for data in self._store.open_tar(blob):
            yield data
            self._done += len(data)
            if self._progress is not None:
                self._progress(self._done)

    def _extract(self, *parts: Iterable[bytes | memoryview]) -> None:
        if self._is_closed:
            # The archive's root directory, which tar finishes last, opens it again.
            self._extract_all([gnu_tar.closing()])
        self._extract_all(*parts)

    def _extract_all(self, *parts: Iterable[bytes | memoryview]) -> None:
        with self._reach.run(gnu_tar.extract(self._reach.root), stdin=True) as tar:
            for part in parts:
                for data in gathered(part):
                    tar.write(data)
            tar.close_input()
            finished = tar.finish()
            if gnu_tar.met_long_path(finished):
                raise _BuriedError(self._reach.volume, "it has a file at a path that is too long for tar to remove")
            gnu_tar.check_extracted(self._reach.volume, finished)

    def _empty(self) -> None:
        """Remove all but the paths that stay, at any depth: rm goes from folder to folder, and needs no whole paths."""
        reach = self._reach
        for folder, stay in self._kept.staying.items():
            above = os.fsencode(reach.root) + b"/" + folder
            listing = ("find", os.fsdecode(above), "-mindepth", "1", "-maxdepth", "1", "-printf", "%f\\0")
            with reach.run(listing) as find:
                found = [name for name in split(pieces_of(find)) if name not in stay]
                check(reach, "listing its files", "find", find.finish())
            removed = [above + b"/" + name + b"\0" for name in found]
            with reach.run(("xargs", "-0", "rm", "-rf", "--"), stdin=True) as rm:
                for data in gathered(removed):
                    rm.write(data)
                rm.close_input()
                check(reach, "removing its files", "rm", rm.finish())


class _Needed:
    """Decides which members have to be written.

    Args:
        reach: the access to the volume.
        tree: its files.
        known: tells which files are untouched.
        folders: the directories of the capture.

    Attributes:
        left_alone: how many untouched files were skipped.
    """

    def __init__(self, reach: Reach, tree: Tree, known: Untouched, folders: _Folders) -> None:
        self.left_alone = 0
        self._reach = reach
        self._tree = tree
        self._known = known
        self._folders = folders
        self._last: tuple[bytes, frozenset[bytes]] = (b"", frozenset())

    def of_base(self, member: Member) -> bool:
        """Return True if a member of the base existed at the capture, and has to be written."""
        return not member.is_directory and not self._is_there(member) and self._is_from_base(member.name)

    def of_increment(self, member: Member) -> bool:
        """Return True if a member of the increment has to be written; directories are already restored."""
        return not member.is_directory and not self._is_there(member)

    def _is_there(self, member: Member) -> bool:
        if self._known.holds(member):
            self.left_alone += 1
            return True
        return False

    def _is_from_base(self, path: bytes) -> bool:
        folder, _, name = path.rpartition(b"/")
        if folder != self._last[0]:
            listing = self._folders.listings.get(folder, b"")
            self._last = (folder, frozenset(entry[1:] for entry in listing.split(b"\0") if entry[:1] == b"N"))
        if name not in self._last[1]:
            return False
        # tar does so itself for members of the increment, but not for files that it only lists.
        if self._tree.is_folder(path):
            _remove(self._reach, self._tree, path)
        return True


def _only(pieces: Iterable[bytes], is_wanted: Callable[[Member], bool]) -> Iterator[bytes | memoryview]:
    """Yield the wanted members of an archive, byte for byte, without the end of the archive."""
    members = Members()
    wanted = False
    for data in pieces:
        for part in members.parts(data):
            if isinstance(part, Member):
                wanted = is_wanted(part)
            if wanted:
                yield part.head if isinstance(part, Member) else part


def _remove(reach: Reach, tree: Tree, path: bytes) -> None:
    """Remove a path if it exists; a folder with everything in it, by rm in the sandbox."""
    try:
        tree.unlink(path)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        with reach.run(("rm", "-rf", "--", f"{reach.root}/{os.fsdecode(path)}")) as process:
            check(reach, "removing a folder", "rm", process.finish())
