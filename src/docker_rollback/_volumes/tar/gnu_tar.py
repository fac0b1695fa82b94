"""Builds GNU tar's command lines to archive and fill a volume, and interprets its exit codes and messages.

All commands begin with the bare word ``tar``, which the caller replaces by the program to use. They run in the C
locale, so that the messages can be parsed.
"""

from __future__ import annotations

import logging
import os
import re
import tarfile
from collections.abc import Collection, Iterable
from typing import Final

from docker_rollback._engine import Finished
from docker_rollback._model import NotCovered, for_tar, is_folder, itself_for_tar
from docker_rollback._volumes.tar.headers import NOTHING, of_folder
from docker_rollback._volumes.tar.members import END, MalformedArchiveError, Members
from docker_rollback.errors import ArchiveError

logger = logging.getLogger("docker_rollback")

# No other available archiver keeps all of these: nanoseconds, numeric owners, every attribute, holes.
_FAITHFUL: Final = ("--xattrs", "--xattrs-include=*", "--acls", "--selinux", "--numeric-owner")

# tar does not restore these times, and reading a file changes one of them. Without them, an unchanged volume gives the
# same archive byte for byte, which the store then holds once. Sparse files are an exception: tar names them by its pid.
_SAME_AGAIN: Final = "--pax-option=delete=atime,delete=ctime"

# In blocks of 512 bytes. By default tar writes 20 blocks at a time, and wakes up the reader for each 10 KiB.
_AT_A_TIME: Final = "--blocking-factor=128"

FILE: Final = "data"  # the name of a single file in its archive and in a helper

GO: Final = b".\0"  # the input that starts a waiting tar

CHANGED: Final = 1  # tar's exit code if files changed, grew or vanished while they were read
# The last 64 KiB of a program's messages are kept; if there is nearly as much, some may be lost.
_LISTENED: Final = 60 << 10

_SOCKET: Final = re.compile(r"^\S*tar: (?P<path>.*): socket ignored$")
_VANISHED: Final = re.compile(r"^\S*tar: (?P<path>.*): File removed before we read it$")
_ESCAPE: Final = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_ESCAPED: Final = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_QUOTED: Final = {ord(char): "\\" + name.decode() for name, char in _ESCAPED.items()} | {ord("\\"): "\\\\"}
# Prefixes of attributes with own options in tar: labels, which follow a policy, and ACLs.
OWN_ATTRIBUTES: Final = ("security.selinux", "system.")
_LOST_ATTRIBUTE: Final = re.compile(r"Cannot (l?listxattr|l?getxattr|set '|setfilecon|set POSIX|drop default POSIX)")
# A file system without ACLs refuses even ACLs that only repeat the mode; nothing is lost then.
_NO_ACLS: Final = re.compile(r"POSIX ACLs for file .*: Operation not supported$")
# An archive is verified before tar gets it, so these messages mean a failed transfer: an engine cut the input off (seen
# on Podman 5.8 under load), or the container exited just before tar's start.
_CUT_OFF: Final = re.compile(
    r"Unexpected EOF in archive|does not look like a tar archive|Skipping to next header|Malformed extended header"
    r"|cannot exec in a |is not running|no such container",
    re.IGNORECASE,
)
# "Operation not permitted": a flag keeps even root from removing a file, which is then in the way.
_IN_VAIN: Final = re.compile(
    r"No space left on device|Disk quota exceeded|Read-only file system|Operation not permitted", re.IGNORECASE
)
# A path leads elsewhere than a moment ago, which no archive can cause by itself.
_CHANGED_MEANWHILE: Final = re.compile(
    r"^\S*tar: (?:\w+: Cannot [^:]* for file '(?P<file>.*)'|(?P<path>.*): Cannot (?!hard link)[^:]*): "
    r"(?:Not a directory|Is a directory|File exists|No such file or directory|Directory not empty"
    r"|Too many levels of symbolic links)$",
    re.MULTILINE,
)
_TOO_LONG: Final = ": File name too long"
_LINE: Final = 300
_SAID: Final = 4 * _LINE


class ChangedMeanwhileError(ArchiveError):
    """Somebody changes the files of a volume while it is filled."""

    def __init__(self, volume: str, path: str, said: str) -> None:
        who = f"end the programs that work in that folder (lsof +D '{volume}' lists them)"
        if not is_folder(volume):
            who = "end the programs on the engine's host that work in that volume"
        reason = f"somebody seems to change it while it is filled, at {path!r}; {who} and do this again: {said}"
        super().__init__(volume, reason, permanent=False)


def create(
    root: str,
    snapshot: str,
    *,
    whole: bool = True,
    waiting: bool = False,
    excluded: Collection[str] = (),
    passed_over: Collection[bytes] = (),
    into: str = "-",
) -> tuple[str, ...]:
    """Return the command that prints an archive of the files under `root`, or writes it to a file.

    Args:
        root: the volume's root.
        snapshot: tar's snapshot file, its record of directories, for an increment on this archive.
        whole: archive everything, and replace the snapshot file: an existing one would silently turn this archive into
            an increment. If False, archive the changes since the snapshot file.
        waiting: wait for the input `GO` and its end, and only then read the snapshot file.
        excluded: paths to leave out, as in `Exclude`; the archive lists them in their folders.
        passed_over: single files and mount points to leave out likewise, by their paths as tar writes them.
        into: the file; by default the archive is printed.
    """
    left_out = [*map(for_tar, excluded), *map(itself_for_tar, passed_over)]
    return (
        "tar",
        "--create",
        "--format=pax",
        _SAME_AGAIN,
        _AT_A_TIME,
        *_FAITHFUL,
        "--sparse",
        "--no-check-device",
        *(("--level=0",) if whole else ()),
        f"--listed-incremental={snapshot}",
        f"--file={into}",
        f"--directory={root}",
        *(("--anchored", "--no-wildcards-match-slash") if left_out else ()),
        *(f"--exclude={pattern}" for pattern in left_out),
        *(("--null", "--files-from=-") if waiting else (".",)),
    )


def extract(root: str) -> tuple[str, ...]:
    """Return the command that fills `root` from an archive, and removes files that the archive does not hold.

    An archive that was made with a snapshot file lists the entries of each directory; with ``--listed-incremental`` tar
    removes all others, never through a symbolic link. It unlinks an existing file before it extracts one.
    """
    return (
        "tar",
        "--extract",
        *_FAITHFUL,
        "--same-owner",
        "--preserve-permissions",
        "--listed-incremental=/dev/null",
        "--warning=no-timestamp",
        "--file=-",
        f"--directory={root}",
    )


def create_file(root: str) -> tuple[str, ...]:
    """Return the command that prints an archive of a single file, which is mounted as `FILE`."""
    folder, _, name = root.rpartition("/")
    command = ("tar", "--create", "--format=pax", _SAME_AGAIN, _AT_A_TIME, *_FAITHFUL, "--sparse")
    return (*command, "--file=-", f"--directory={folder}", f"./{name}")


def extract_file(folder: str) -> tuple[str, ...]:
    """Return the command that extracts a single file from its archive, as `FILE` in a folder."""
    command = ("tar", "--extract", *_FAITHFUL, "--same-owner", "--preserve-permissions")
    return (*command, "--warning=no-timestamp", "--file=-", f"--directory={folder}")


def make_files(folder: str) -> tuple[str, ...]:
    """Return the command that extracts files into a folder, and skips existing ones."""
    return ("tar", "--extract", "--skip-old-files", "--preserve-permissions", "--file=-", f"--directory={folder}")


def private_file(name: str) -> bytes:
    """Return an archive of an empty file that only root can read."""
    made = tarfile.TarInfo(name)
    made.mode = 0o600
    return made.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape") + END


def show_root(root: str) -> tuple[str, ...]:
    """Return the command that prints an archive of a folder without its entries, for `attributes`."""
    return ("tar", "--create", "--format=pax", *_FAITHFUL, "--no-recursion", "--file=-", f"--directory={root}", ".")


def closing() -> bytes:
    """Return an archive with which `extract` closes the root folder to all but root, and keeps its entries."""
    return of_folder(b".", None) + END


def attributes(archive: Iterable[bytes]) -> frozenset[str]:
    """Return the names of the extended attributes of an archive's first member, without reading further."""
    members = Members()
    try:
        for data in archive:
            for member in members.feed(data):
                return frozenset(map(os.fsdecode, member.attributes))
    except MalformedArchiveError:
        # The extraction reports that.
        pass
    return frozenset()


def emptying() -> bytes:
    """Return the beginning of an archive with which `extract` first empties the root folder.

    Without it, an existing directory would keep attributes that the archive does not have: tar sets the attributes of
    an existing directory, but removes none.
    """
    return of_folder(b".", NOTHING)


def check_created(volume: str, finished: Finished, *, at_rest: bool) -> tuple[NotCovered, ...]:
    """Check the end of a capture, and return the `NotCovered` entries for sockets.

    Args:
        volume: the volume's name.
        finished: tar's exit code and messages.
        at_rest: whether the volume's containers were quiesced.

    Raises:
        ArchiveError: tar failed, an attribute could not be read, or a file changed although all were quiesced.
    """
    changed = finished.exit_code == CHANGED
    if changed and at_rest:
        raise ArchiveError(volume, f"its files changed while they were read: {_said(finished)}")
    _check(volume, "archiving it", Finished(0, finished.stderr) if changed else finished)
    found = [match["path"] for line in finished.stderr.splitlines() if (match := _SOCKET.match(line))]
    return tuple(socket_gap(volume, path) for path in found)


def socket_gap(volume: str, path: str) -> NotCovered:
    """Return the `NotCovered` entry for a socket, whose path is as tar writes it."""
    return NotCovered(
        f"socket {path} in {_kind(volume)} {volume}", "no archive holds sockets; its program recreates it"
    )


def sockets(volume: str, not_covered: Iterable[NotCovered]) -> tuple[bytes, ...]:
    """Return the paths, below the root, of the sockets that `check_created` reported."""
    pattern = re.compile(rf"socket (?P<path>.*) in \S+ {re.escape(volume)}")
    return tuple(_unquoted(match["path"]) for gap in not_covered if (match := pattern.fullmatch(gap.what)))


def vanished(volume: str, finished: Finished) -> tuple[bytes, ...]:
    """Return the paths, below the root, of files that vanished before a live pass could read them.

    Raises:
        ArchiveError: some of tar's messages may be lost.
    """
    if len(finished.stderr) > _LISTENED:
        raise ArchiveError(volume, "so much changed while it was read that some of tar's messages are lost")
    lines = finished.stderr.splitlines()
    return tuple(_unquoted(match["path"]) for line in lines if (match := _VANISHED.match(line)))


def _kind(volume: str) -> str:
    return "folder" if is_folder(volume) else "volume"


def met_long_path(finished: Finished) -> bool:
    """Return True if tar failed at a path that is too long for a system call."""
    return finished.exit_code != 0 and _TOO_LONG in finished.stderr


def check_extracted(volume: str, finished: Finished) -> None:
    """Raise an `ArchiveError` unless everything was restored, including attributes."""
    changed = _CHANGED_MEANWHILE.search(finished.stderr)
    # tar may also print this as a warning, and exit with 0.
    if changed and finished.signal is None and not _IN_VAIN.search(finished.stderr):
        raise ChangedMeanwhileError(volume, changed["file"] or changed["path"], _short(changed[0]))
    _check(volume, "filling it", finished)


def failed(volume: str, doing: str, program: str, finished: Finished) -> ArchiveError:
    """Return the error for a failed program; its `permanent` tells whether a retry is pointless."""
    if (signal := finished.signal) is not None:
        how = f"{program} was killed by signal {signal}" + (" (memory ran out, or somebody did)" if signal == 9 else "")
        return ArchiveError(volume, f"{doing} failed: {how}", permanent=False)
    how = f"{program} ended with {finished.exit_code}"
    cut_off = _CUT_OFF.search(finished.stderr) and not _IN_VAIN.search(finished.stderr)
    return ArchiveError(volume, f"{doing} failed: {how}: {_said(finished)}", permanent=not cut_off)


def _check(volume: str, doing: str, finished: Finished) -> None:
    if finished.exit_code != 0:
        raise failed(volume, doing, "tar", finished)
    lines = finished.stderr.splitlines()
    if lost := [line for line in lines if _LOST_ATTRIBUTE.search(line) and not _NO_ACLS.search(line)]:
        # tar prints this as a warning, and exits with 0.
        raise ArchiveError(volume, f"{doing} lost attributes of files: {_short(lost[0])}")
    for line in lines:
        logger.debug("volume %s: %s", volume, line)


def quoted(path: bytes) -> str:
    """Return a path as tar writes it in messages."""
    return "".join(_QUOTED.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in path)


def _unquoted(path: str) -> bytes:
    """Return a path from the form in which tar writes it in messages."""

    def plain(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code, 8) & 0xFF]) if len(code) > 1 else _ESCAPED.get(code, code)

    return _ESCAPE.sub(plain, path.encode("utf-8", "surrogateescape"))


def _said(finished: Finished) -> str:
    """Return the first messages that are not mere notes, shortened: tar names the culprit first and sums up last."""
    telling = [line for line in finished.stderr.splitlines() if line.strip() and not _SOCKET.match(line)]
    return "; ".join(map(_short, telling))[:_SAID] or "it said nothing"


def _short(line: str) -> str:
    """Return a line without the middle of a long path; the reason is at the end."""
    return line if len(line) <= _LINE else f"{line[: _LINE // 2]}...{line[-_LINE // 2 :]}"
