"""GNU tar for the in-memory engine: the options that this library uses, applied to file trees in memory.

An unknown option ends it with exit code 64, so that a change to this library's commands shows here at once.
"""

from __future__ import annotations

import io
import re
import tarfile
from decimal import Decimal

from attrs import define, field, frozen

from docker_rollback._model import NONE, Paths
from docker_rollback.testing._fake.processes import Run
from docker_rollback.testing._fake.tar_members import add, entries, put, xattr_headers, xattrs_of
from docker_rollback.testing._fake.tree import Node

USAGE = 64
_ROOT = "."
_SECOND = 1_000_000_000
_DUMPDIR = "GNU.dumpdir"
_HEAD = b"GNU tar-1.35-2\n"
DEVICE = 2049
"""The device number of the only file system."""
_FLAGS = frozenset(
    {
        "--acls",
        "--anchored",
        "--atime-preserve=system",
        "--format=pax",
        "--no-check-device",
        "--no-wildcards-match-slash",
        "--null",
        "--numeric-owner",
        "--pax-option=delete=atime,delete=ctime",
        "--preserve-permissions",
        "--quoting-style=escape",
        "--same-owner",
        "--selinux",
        "--sparse",
        "--totals",
        "--xattrs",
        "--xattrs-include=*",
    }
)
_SHORT = {"-c": "--create", "-x": "--extract", "-t": "--list"}
_SHORT_WITH_A_VALUE = {"-f": "--file", "-C": "--directory"}
_ESCAPED = re.compile(r"\\(.)")
_FIELD = re.compile(rb"([^\0]*)\0")


@frozen
class Options:
    """The options of a command line.

    Attributes:
        action: "create", "extract", "list" or "version".
        folder: the working directory.
        snapshot: the snapshot file; None if the archive is not incremental.
        level: 0 to ignore the content of the snapshot file.
        recursive: True if a directory is archived with its contents.
        members: the paths to archive, or the members to extract.
        excluded: the paths below the folder that are not archived.
        skips: True if existing files are left alone.
    """

    action: str
    folder: str
    snapshot: str | None
    level: int | None
    recursive: bool
    members: tuple[str, ...]
    excluded: Paths = NONE
    skips: bool = False


def tar(run: Run) -> int:
    """Run tar; a `Program`."""
    options = _options(run)
    if isinstance(options, str):
        run.stderr.append(f"tar: {options}\n")
        return USAGE
    if options.action == "version":
        run.stdout += b"tar (GNU tar) 1.35\n"
        return 0
    if options.action == "create":
        return _create(run, options)
    return _extract(run, options)


def _options(run: Run) -> Options | str:
    action, folder, snapshot, level, recursive, members = "", "/", None, None, True, []
    excluded, skips = [], False
    for argument in _long(run.arguments[1:]):
        name, _, value = argument.partition("=")
        if argument in ("--create", "--extract", "--list", "--version"):
            action = argument[2:]
        elif name == "--directory":
            folder = value
        elif name == "--listed-incremental":
            snapshot = value
        elif name == "--exclude":
            excluded.append(_ESCAPED.sub(r"\1", value.removeprefix("./")))
        elif argument == "--no-recursion":
            recursive = False
        elif argument == "--skip-old-files":
            skips = True
        elif name == "--level":
            level = int(value)
        elif argument == "--files-from=-":
            members += [part.decode("utf-8", "surrogateescape") for part in run.stdin.split(b"\0") if part]
        elif argument in _FLAGS or name in ("--warning", "--blocking-factor") or argument == "--file=-":
            continue
        elif argument.startswith("-"):
            return f"unrecognized option '{argument}'"
        else:
            members.append(argument)
    if not action:
        return "You must specify one of the '-Acdtrux', '--delete' or '--test-label' options"
    if action == "create" and not members:
        return "Cowardly refusing to create an empty archive"
    return Options(action, folder, snapshot, level, recursive, tuple(members), Paths(excluded), skips)


def _long(arguments: list[str]) -> list[str]:
    """Return arguments with the known short options in their long form."""
    written, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument in _SHORT_WITH_A_VALUE and rest:
            written.append(f"{_SHORT_WITH_A_VALUE[argument]}={rest.pop(0)}")
        else:
            written.append(_SHORT.get(argument, argument))
    return written


# The snapshot file


@define
class SnapshotEntry:
    """A directory's entry in a snapshot file.

    Attributes:
        seconds: the seconds of its mtime.
        nanoseconds: the nanoseconds of its mtime.
        inode: its inode number.
        entries: its contents, each a letter and a name: Y for a stored file, N for one not stored, D for a directory.
    """

    seconds: int
    nanoseconds: int
    inode: int
    entries: list[bytes] = field(factory=list)


@define
class Snapshot:
    """A snapshot file: the start of the pass, and the directories at that time.

    Attributes:
        began: the start, in nanoseconds since 1970.
        records: the directories by name, "." for the top one.
    """

    began: int
    records: dict[bytes, SnapshotEntry] = field(factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> Snapshot:
        """Parse a snapshot file; raises `ValueError` if it is malformed."""
        if not data.startswith(b"GNU tar-") or not data.partition(b"\n")[0].endswith(b"-2"):
            raise ValueError("Unsupported incremental format")
        fields = iter(_FIELD.findall(data[data.index(b"\n") + 1 :]))
        try:
            found = cls(int(next(fields)) * _SECOND + int(next(fields)))
            for _ in fields:
                seconds, nanoseconds, _, inode, name = [next(fields) for _ in range(5)]
                record = found.records[name] = SnapshotEntry(int(seconds), int(nanoseconds), int(inode))
                while entry := next(fields):
                    record.entries.append(entry)
                next(fields)
        except StopIteration:
            raise ValueError("Unexpected EOF in snapshot file") from None
        return found

    def written(self) -> bytes:
        """Return the snapshot file's content."""
        out = bytearray(_HEAD + b"%d\0%d\0" % divmod(self.began, _SECOND))
        for name, record in self.records.items():
            out += b"0\0%d\0%d\0%d\0%d\0%s\0" % (record.seconds, record.nanoseconds, DEVICE, record.inode, name)
            out += b"".join(entry + b"\0" for entry in record.entries) + b"\0\0"
        return bytes(out)


# Archives out


def _create(run: Run, options: Options) -> int:
    before: Snapshot | None = None
    began = run.now()
    if options.snapshot is not None:
        try:
            data = run.files.read(options.snapshot) if options.level != 0 else b""
        except FileNotFoundError:
            data = b""
        try:
            before = Snapshot.parse(data) if data else None
        except ValueError as error:
            run.stderr.append(f"tar: {options.snapshot}: {error}\n")
            return 2
    after = Snapshot(began)
    archiver = _Archiver(
        run, before, after, options.excluded, incremental=options.snapshot is not None, recursive=options.recursive
    )
    for member in options.members:
        start = run.files.node(f"{options.folder}/{member}", follow=False)
        archiver.add(member.rstrip("/") or _ROOT, start, whole=before is None)
    archiver.close()
    if options.snapshot is not None:
        run.files.write(options.snapshot, after.written())
    return 0


@define
class _Archiver:
    """Writes one archive."""

    run: Run
    before: Snapshot | None
    after: Snapshot
    excluded: Paths
    incremental: bool
    recursive: bool
    _buffer: io.BytesIO = field(factory=io.BytesIO)
    _linked: dict[int, str] = field(factory=dict)
    _later: list[tuple[str, Node]] = field(factory=list)
    _tar: tarfile.TarFile = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._tar = tarfile.open(  # noqa: SIM115 (closed by close, once all members are in)
            fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape"
        )

    def add(self, name: str, node: Node, *, whole: bool) -> None:
        """Add a node and all below it; unless `whole`, only files newer than the snapshot."""
        if node.kind == "socket":
            self.run.stderr.append(f"tar: {name}: socket ignored\n")
            return
        if node.kind != "directory":
            if self.incremental:
                # In an incremental archive all directories come first, with the lists of their contents.
                self._later.append((name, node))
            else:
                self._member(name, node)
            return
        known = self._known(name, node)
        if self.before is not None and name != _ROOT:
            whole = whole or known is None
        listed_before = {entry[1:] for entry in known.entries} if known is not None else set()
        entries = {
            child: (
                b"N"
                if f"{name}/{child}".encode("utf-8", "surrogateescape") in self.excluded
                else b"D"
                if below.kind == "directory"
                else b"Y"
                if whole or self._newer(below) or child.encode("utf-8", "surrogateescape") not in listed_before
                else b"N"
            )
            for child, below in sorted(node.children.items())
        }
        headers = {}
        if self.incremental:
            listed = [flag + child.encode("utf-8", "surrogateescape") for child, flag in entries.items()]
            seconds, nanoseconds = divmod(node.mtime, _SECOND)
            key = name.encode("utf-8", "surrogateescape")
            self.after.records[key] = SnapshotEntry(seconds, nanoseconds, node.number, listed)
            dumpdir = b"".join(entry + b"\0" for entry in listed) + b"\0"
            headers[_DUMPDIR] = dumpdir.decode("utf-8", "surrogateescape")
        self._member(name, node, headers)
        for child in sorted(node.children) if self.recursive else ():
            if entries[child] != b"N":
                self.add(f"{name}/{child}", node.children[child], whole=whole)

    def close(self) -> None:
        """Write the remaining members and the end of the archive to the program's output."""
        for name, node in self._later:
            self._member(name, node)
        self._tar.close()
        self.run.stdout += self._buffer.getvalue()

    def _known(self, name: str, node: Node) -> SnapshotEntry | None:
        """Return a directory's entry in the snapshot file, or None if it is not the same directory."""
        if self.before is None:
            return None
        record = self.before.records.get(name.encode("utf-8", "surrogateescape"))
        return record if record is not None and record.inode == node.number else None

    def _newer(self, node: Node) -> bool:
        return self.before is None or max(node.mtime, node.ctime) >= self.before.began

    def _member(self, name: str, node: Node, headers: dict[str, str] | None = None) -> None:
        times = {"mtime": _moment(node.mtime)}
        add(self._tar, name, node, self._linked, {**times, **(headers or {}), **xattr_headers(node.xattrs)})


def _moment(nanoseconds: int) -> str:
    sign, (seconds, rest) = ("-" if nanoseconds < 0 else ""), divmod(abs(nanoseconds), _SECOND)
    return f"{sign}{seconds}.{rest:09d}".rstrip("0").rstrip(".") if rest else f"{sign}{seconds}"


# Archives in


def _extract(run: Run, options: Options) -> int:
    root = run.files.node(options.folder)
    done: list[tuple[Node, tarfile.TarInfo]] = []
    code = 0
    try:
        for entry, content in entries(run.stdin):
            names = [part for part in entry.name.split("/") if part not in ("", _ROOT)]
            if options.members and not any(_within(entry.name, member) for member in options.members):
                continue
            if options.action == "list":
                run.stdout += (entry.name + ("/" if entry.isdir() else "") + "\n").encode("utf-8", "surrogateescape")
                continue
            if options.skips and "/".join(names) in root.children:
                continue
            node = put(root, names, entry, content) if names else root
            if entry.isdir() and options.snapshot is not None:
                _purge(node, entry, run)
            if entry.islnk():
                node.ctime = run.now()
            else:
                done.append((node, entry))
    except (tarfile.TarError, EOFError, KeyError) as error:
        run.stderr.append(f"tar: {error}\ntar: Error is not recoverable: exiting now\n")
        code = 2
    # Last, because extracting into a directory changes its mtime.
    for node, entry in done:
        _attributes(node, entry, run)
    return code


def _within(name: str, member: str) -> bool:
    name, member = name.rstrip("/"), member.rstrip("/")
    return name == member or name.startswith(f"{member}/")


def _purge(node: Node, entry: tarfile.TarInfo, run: Run) -> None:
    """Remove a directory's contents that the archive does not list, or lists as another kind."""
    listed = entry.pax_headers.get(_DUMPDIR)
    if listed is None:
        return
    flags = {part[1:]: part[0] for part in listed.split("\0") if part}
    for name, child in list(node.children.items()):
        if name not in flags or (flags[name] != "N" and (flags[name] == "D") != (child.kind == "directory")):
            del node.children[name]
    node.ctime = run.now()


def _attributes(node: Node, entry: tarfile.TarInfo, run: Run) -> None:
    node.mode, node.uid, node.gid = entry.mode, entry.uid, entry.gid
    node.mtime = int(Decimal(str(entry.pax_headers.get("mtime", entry.mtime))) * _SECOND)
    # An existing directory keeps extended attributes that the archive does not have; its ACLs are replaced.
    node.xattrs = {key: value for key, value in node.xattrs.items() if not key.startswith("system.")}
    node.xattrs |= xattrs_of(entry)
    node.ctime = run.now()
