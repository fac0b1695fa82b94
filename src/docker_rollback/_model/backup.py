"""The values that make up a backup. All are frozen, and do no I/O.

Inspections are an engine's own JSON, stored whole: a later version may need fields that this one does not understand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from attrs import field, frozen

from docker_rollback._model.exclude import Exclude, MountPoint
from docker_rollback._model.privileges import privileges, privileges_of_volume

Quiesce: TypeAlias = Literal["stop", "pause", "none"]
"""How containers are quiesced for their capture."""

Shared: TypeAlias = Literal["refuse", "stop", "ignore"]
"""How to treat another container that writes to a captured volume: refuse the capture, stop that container too, or let
it run and accept that the archive may mix the data of several moments."""

Way: TypeAlias = Literal["direct", "helper"]
"""How a volume's data is accessed: by tar as a child process, or by tar in a helper container."""

Status: TypeAlias = Literal["created", "running", "paused", "restarting", "exited", "dead", "removing"]
"""A container's state, as an engine names it."""


def is_folder(name: str) -> bool:
    """Return True if the name is the path of a bind-mounted folder or file on the engine's host, not of a volume."""
    return name.startswith("/")


# The field that marks the inspection of a single file on the engine's host, as opposed to a folder.
SINGLE_FILE = {"Kind": "file"}


def is_file(inspection: Mapping[str, Any]) -> bool:
    """Return True if the inspection is of a single file on the engine's host, not of a folder or a volume."""
    return inspection.items() >= SINGLE_FILE.items()


@frozen
class Descriptor:
    """A reference to a blob in the store: media type, digest and size in bytes (OCI image spec v1.1, descriptor)."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(factory=dict)


@frozen
class NotCovered:
    """Data that a backup does not contain.

    Attributes:
        what: the data's place ("bind /etc/app at /app/etc", "tmpfs /run").
        reason: why the backup does not contain it, a sentence.
    """

    what: str
    reason: str


@frozen
class Mount:
    """A mount of a container, as its inspection shows it.

    Attributes:
        kind: "volume", "bind", "tmpfs" or another kind that the engine names.
        destination: its path in the container.
        source: the volume's name, or the path on the engine's host; empty for tmpfs.
        read_only: True if the container may only read it.
        anonymous: True if the engine named the volume, so that it is removed with its container.
    """

    kind: str
    destination: str
    source: str
    read_only: bool
    anonymous: bool = False


@frozen
class ContainerState:
    """A container's state at its capture.

    Attributes:
        status: the engine's word for it.
        exit_code: the exit code of its last run; 0 if it has never exited.
        health: "healthy", "unhealthy" or "starting"; None if it has no health check.
        looping: True if it exits again and again, and its engine restarts it.
    """

    status: Status
    exit_code: int = 0
    health: str | None = None
    looping: bool = False

    @property
    def alive(self) -> bool:
        """True if its processes exist, paused ones included."""
        return self.status in ("running", "paused", "restarting")

    @property
    def loops(self) -> bool:
        """True if it was in a crash loop, in any phase of the loop."""
        return self.looping or self.status == "restarting"


@frozen
class Observed:
    """A container as it was found, from one inspection.

    Attributes:
        name: its name, without the leading slash.
        id: its full id.
        inspection: its whole inspection.
        state: its state.
        mounts: all its mounts.
        native: the inspection by Podman's own API; None on an engine that has only Docker's API.
    """

    name: str
    id: str
    inspection: Mapping[str, Any] = field(repr=False)  # holds secrets
    state: ContainerState
    mounts: tuple[Mount, ...]
    native: Mapping[str, Any] | None = field(default=None, repr=False)  # holds secrets

    @property
    def volumes(self) -> dict[str, bool]:
        """The volumes that it mounts; the value is True for an anonymous one."""
        return {mount.source: mount.anonymous for mount in self.mounts if mount.kind == "volume"}


@frozen
class Resting:
    """A quiesced container, with the facts that are needed to resume it."""

    id: str
    name: str  # its name, without the leading slash
    how: Quiesce  # how it is quiesced; "none" if it does not run anyway
    started: str  # the time of its last start, as the engine writes it
    policy: Mapping[str, Any] = field(factory=dict)
    restarted: int = 0  # the number of restarts by that policy


@frozen
class Detached:
    """Another container that is disconnected from a network while the network is recreated."""

    id: str
    name: str  # its name, without the leading slash
    network: str
    # The endpoint's configuration as the user requested it: addresses, aliases, options.
    endpoint: Mapping[str, Any] = field(factory=dict)


@frozen
class ImageSnapshot:
    """A container's file system, as an image.

    Attributes:
        reference: the reference that the container was created with, byte for byte (`Config.Image`).
        original_id: the id of the image that it referred to at the capture.
        id: the id, in the captured engine, of the image with the file system: the original image if the writable layer
            was clean, else the committed one.
        layers: the digests of its uncompressed layers, lowest first.
        committed_layers: the layers of the commit at the capture, which identify an unchanged container later.
        clean: True if the writable layer held only mount points, which an engine creates itself.
        tag: our name for the image in the engine.
        manifest: the image in the store; None if it is in the engine alone.
        name: the user's name of the container's image, with its tag. If an earlier rollback had to create the
            container by an id, it is the name that the container had been created with before. None if it was created
            by an id or a digest.
        name_id: the id of the image that `name` led to at the capture, which can differ from the container's; None if
            it led nowhere.
    """

    reference: str
    original_id: str
    id: str
    layers: tuple[str, ...]
    committed_layers: tuple[str, ...]
    clean: bool
    tag: str
    manifest: Descriptor | None = None
    name: str | None = None
    name_id: str | None = None


@frozen
class LedBack:
    """An image name that was moved back to the image that it had at the capture.

    Attributes:
        name: the name, with its tag.
        image: the id of the image that it leads to now.
        lost_by: the id of the image that it led to before, which stays in the engine; None if it led nowhere.
    """

    name: str
    image: str
    lost_by: str | None = None


@frozen
class ContainerSnapshot:
    """A captured container.

    Attributes:
        name: its name, without the leading slash.
        id: its full id at the capture.
        inspection: its whole inspection, from before it was quiesced.
        state: its state at that time.
        image: its file system.
        mounts: all its mounts.
        not_covered: the data of it that no part of the backup contains.
    """

    name: str
    id: str
    inspection: Mapping[str, Any] = field(repr=False)  # holds secrets
    state: ContainerState
    image: ImageSnapshot
    mounts: tuple[Mount, ...] = ()
    not_covered: tuple[NotCovered, ...] = ()

    @property
    def privileges(self) -> tuple[str, ...]:
        """Its privileges on its host beyond those of an ordinary container, in plain words."""
        return privileges(self.inspection)


@frozen
class Clock:
    """A reading of a machine's clock that shows later whether the clock was set since.

    Attributes:
        boot: the id of the kernel's boot; empty if unknown.
        offset: the time of day minus the time since that boot, in nanoseconds.
    """

    boot: str
    offset: int


@frozen
class VolumeArchive:
    """A captured volume, or a captured bind-mounted folder or file of the engine's host.

    Attributes:
        name: the volume's name, or the path of the folder or file, which starts with a slash.
        inspection: the volume's whole inspection: driver, options, labels; for a folder, its resolved path.
        anonymous: True if it is removed with its container.
        way: how its data was accessed.
        base: the archive, a tar in zstd, or the list of its pieces.
        increment: the changes after the base, if there was a live pass; at most one.
        size: the size of the tars in base and increment, before compression, in bytes.
        not_covered: the data in it that an archive cannot contain.
        snapshot: tar's snapshot file of the base, corrected for an increment, in zstd. It has the directories that were
            in the same place at the capture. None if there is no increment.
        clock: the clock of the machine that took the base, when it began; None if there is no increment.
        excluded: the paths in it that were excluded; a restore does not touch them.
        listing: the metadata of each file in the base, in zstd, for an increment of a later backup.
        mount_points: the mount points in it; the data that is mounted there is not archived.
        base_stored: the size of all blobs of the base in the store, in bytes; 0 in older backups.
        increment_stored: the same for the blobs of the increment that the base does not have.
    """

    name: str
    inspection: Mapping[str, Any] = field(repr=False)  # holds secrets
    anonymous: bool
    way: Way
    base: Descriptor
    increment: Descriptor | None = None
    size: int = 0
    not_covered: tuple[NotCovered, ...] = ()
    snapshot: Descriptor | None = None
    clock: Clock | None = None
    listing: Descriptor | None = None
    excluded: tuple[str, ...] = ()
    mount_points: tuple[MountPoint, ...] = ()
    base_stored: int = 0
    increment_stored: int = 0

    @property
    def tars(self) -> tuple[Descriptor, ...]:
        """Its base, and its increment if there is one."""
        return (self.base,) if self.increment is None else (self.base, self.increment)

    @property
    def stored(self) -> tuple[int, int]:
        """The sizes in the store, in bytes, of its base and of what the increment adds to it."""
        increment = self.increment.size if self.increment is not None else 0
        return self.base_stored or self.base.size, self.increment_stored or increment

    @property
    def is_file(self) -> bool:
        """True if it is a single file of the engine's host."""
        return is_file(self.inspection)

    @property
    def is_partial(self) -> bool:
        """True if the archive lacks excluded or mounted data, which exists in the volume alone."""
        return bool(self.excluded or self.mount_points)

    @property
    def privileges(self) -> tuple[str, ...]:
        """The parts of its host that the volume exposes through its driver's options, in plain words."""
        return privileges_of_volume(self.inspection)


@frozen
class NetworkRecord:
    """A network that a captured container was connected to.

    Attributes:
        name: its name.
        id: its id at the capture.
        inspection: its whole inspection, without its containers.
    """

    name: str
    id: str
    inspection: Mapping[str, Any] = field(repr=False)  # holds secrets


@frozen
class EngineRecord:
    """The engine that a backup was taken on.

    `identity` distinguishes it from every other engine, so that containers of one name on two engines are not
    confused. It is empty in backups of versions that did not record it.
    """

    flavour: str
    version: str
    api_version: str
    architecture: str
    containerd_store: bool
    default_runtime: str
    identity: str = ""


@frozen
class Project:
    """A compose project as it was found: everything with its label, by which compose finds its own objects.

    Attributes:
        name: its name.
        containers: the full ids of its containers.
        volumes: the names of its volumes, unused ones included.
        networks: the names of its networks, unused ones included.
    """

    name: str
    containers: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()


@frozen
class HostFile:
    """A file of the machine that took the backup, such as a compose file.

    Attributes:
        path: its absolute path.
        mode: its permissions.
        uid: the id of its owner.
        gid: the id of its group.
        data: its content.
    """

    path: str
    mode: int
    uid: int
    gid: int
    data: Descriptor


@frozen
class Backup:
    """An immutable record of containers, their volumes and networks at one moment.

    Attributes:
        id: its name in the store; ids sort by time.
        created: the moment of the capture, in UTC.
        engine: the engine that it was taken on.
        quiesce: how the containers were quiesced.
        containers: the snapshots, in start order.
        volumes: the archives of their volumes, each volume once.
        networks: the networks that the containers were connected to.
        bystanders: the ids of all other containers at the capture. A rollback stops one that is in its way only for as
            long as it takes; a container that was added later is stopped for good.
        kept_for: if the backup preserves a state that a rollback then undid, the names of the containers that were
            rolled back; empty for every other backup.
        project: the compose project, with its objects at the capture; anything else with its label was added later.
            None if single containers were named.
        excluded: the data that was excluded.
        other_networks: the ids of all other networks at the capture. A rollback never removes them.
        files: the files that `include_files` asked for.
    """

    id: str
    created: datetime
    engine: EngineRecord
    quiesce: Quiesce
    containers: tuple[ContainerSnapshot, ...]
    volumes: tuple[VolumeArchive, ...] = ()
    networks: tuple[NetworkRecord, ...] = ()
    bystanders: tuple[str, ...] = ()
    kept_for: tuple[str, ...] = ()
    project: Project | None = None
    excluded: tuple[Exclude, ...] = ()
    other_networks: tuple[str, ...] = ()
    files: tuple[HostFile, ...] = ()

    def __repr__(self) -> str:
        containers = ", ".join(repr(container.name) for container in self.containers)
        volumes = ", ".join(repr(volume.name) for volume in self.volumes)
        return f"<Backup {self.id} of containers {containers or 'none'}, volumes {volumes or 'none'}>"

    @property
    def durable(self) -> bool:
        """True if the store alone is enough to restore; False if an image is in the engine alone."""
        return all(container.image.manifest is not None for container in self.containers)

    @property
    def not_covered(self) -> tuple[NotCovered, ...]:
        """The data that this backup does not contain."""
        containers = tuple(gap for container in self.containers for gap in container.not_covered)
        volumes = tuple(gap for volume in self.volumes for gap in volume.not_covered)
        return containers + volumes + tuple(left_out(what) for what in self.excluded if not what.path)

    @property
    def outside_project(self) -> tuple[str, ...]:
        """The names of its containers that are not part of its compose project; of all containers if it has none."""
        within = self.project.containers if self.project is not None else ()
        return tuple(container.name for container in self.containers if container.id not in within)

    def volume(self, name: str) -> VolumeArchive:
        """Return the archive of a volume; raises `KeyError` if there is none."""
        for archive in self.volumes:
            if archive.name == name:
                return archive
        raise KeyError(name)


def left_out(what: Exclude, *, found: bool = True) -> NotCovered:
    """Return the record of an exclusion, which also says whether anything matched it."""
    return NotCovered(str(what), "it is excluded" if found else "it is excluded; there was nothing of the kind")


def backup_id(name: str, created: datetime, token: str) -> str:
    """Return a backup's id: its time, the name of its subject, and a token that distinguishes those of one second.

    It is valid as an OCI reference name and as an image tag, and sorts by time.

    Example:
        >>> backup_id("web", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "a1b2c3")
        '20260102T030405Z-web-a1b2c3'
    """
    moment = created.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    readable = re.sub(r"[^A-Za-z0-9_-]", "-", name)[:40]
    return f"{moment}-{readable}-{token}"
