"""What a backup is: frozen values, no I/O.

`Inspection` values are an engine's own JSON, kept whole: what this version does not understand, a later one may need.
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
"""How a service is brought to rest for its capture."""

Shared: TypeAlias = Literal["refuse", "stop", "ignore"]
"""What becomes of a container outside that writes to a volume which is to be captured: the capture is refused, it is
brought to rest with the others, or it goes on and the archive may be a mixture of moments."""

Way: TypeAlias = Literal["direct", "helper"]
"""How a volume's data is reached: by tar as our child, or by tar in a helper container."""

Status: TypeAlias = Literal["created", "running", "paused", "restarting", "exited", "dead", "removing"]
"""A container's state, as an engine names it."""


def is_folder(name: str) -> bool:
    """Whether what a volume's name could be is the path of a folder on the engine's host, which a container binds."""
    return name.startswith("/")


SINGLE_FILE = {"Kind": "file"}
"""What the inspection of a single file on the engine's host says beside a folder's."""


def is_file(inspection: Mapping[str, Any]) -> bool:
    """Return True if this inspection is of a single file on the engine's host, and not of a folder or a volume."""
    return inspection.items() >= SINGLE_FILE.items()


@frozen
class Descriptor:
    """A blob in the store: what it is, its digest, its size in bytes (OCI image spec v1.1, descriptor)."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(factory=dict)


@frozen
class NotCovered:
    """Something that a backup does not hold, and why.

    Attributes:
        what: its place ("bind /etc/app at /app/etc", "tmpfs /run").
        reason: why it is not in the backup, a sentence.
    """

    what: str
    reason: str


@frozen
class Mount:
    """One mount of a container, as its inspection shows it.

    Attributes:
        kind: "volume", "bind", "tmpfs" or whatever else the engine names.
        destination: its path in the container.
        source: the volume's name, or the path on the engine's host; empty for tmpfs.
        read_only: whether the container may only read it.
        anonymous: whether the engine gave the volume its name, so that it goes with its container.
    """

    kind: str
    destination: str
    source: str
    read_only: bool
    anonymous: bool = False


@frozen
class ContainerState:
    """What a container was doing at its capture.

    Attributes:
        status: as the engine names it.
        exit_code: of its last run; 0 where it never ended.
        health: "healthy", "unhealthy" or "starting"; None where it has no health check.
        looping: whether it ends again and again and its engine starts it again.
    """

    status: Status
    exit_code: int = 0
    health: str | None = None
    looping: bool = False

    @property
    def alive(self) -> bool:
        """Whether its processes exist, frozen ones included."""
        return self.status in ("running", "paused", "restarting")

    @property
    def loops(self) -> bool:
        """Return True if it was in a crash loop, at whatever moment of the loop it was looked at."""
        return self.looping or self.status == "restarting"


@frozen
class Observed:
    """One container as it was found: what its inspection says, read once and taken as the truth from then on.

    Attributes:
        name: without the leading slash.
        id: its full id.
        inspection: everything that the engine said of it.
        state: what it was doing.
        mounts: every mount of it.
        native: everything that Podman's own API said of it; None on an engine that has no API but Docker's.
    """

    name: str
    id: str
    inspection: Mapping[str, Any] = field(repr=False)  # holds secrets
    state: ContainerState
    mounts: tuple[Mount, ...]
    native: Mapping[str, Any] | None = field(default=None, repr=False)  # holds secrets

    @property
    def volumes(self) -> dict[str, bool]:
        """The volumes that it mounts, each with whether it is anonymous."""
        return {mount.source: mount.anonymous for mount in self.mounts if mount.kind == "volume"}


@frozen
class Resting:
    """A container that is brought to rest for a while, and what it takes to set it going again.

    Attributes:
        id: its full id.
        name: without the leading slash.
        how: how it is brought to rest; "none" for one that rests already.
        started: when its engine started it last, as the engine says it.
        policy: its restart policy.
        restarted: how often its engine had started it again by that policy.
    """

    id: str
    name: str
    how: Quiesce
    started: str
    policy: Mapping[str, Any] = field(factory=dict)
    restarted: int = 0


@frozen
class Detached:
    """A container outside that is taken off a network while that is made again, and what puts it back.

    Attributes:
        id: its full id.
        name: without the leading slash.
        network: the network's name.
        endpoint: what its user asked for there: addresses, aliases, options.
    """

    id: str
    name: str
    network: str
    endpoint: Mapping[str, Any] = field(factory=dict)


@frozen
class ImageSnapshot:
    """A container's file system, as an image.

    Attributes:
        reference: what the container was created from, byte for byte (`Config.Image`).
        original_id: the id of the image that this was at the capture.
        id: the id, in the engine that was asked, of the image that holds the file system: the original one where the
            writable layer was clean, the committed one where not.
        layers: the digests of its layers, uncompressed, lowest first.
        committed_layers: the same of the commit at the capture, by which an untouched container is known again.
        clean: whether the writable layer held nothing beyond the places for mounts, which an engine makes by itself.
        tag: the name that holds the image in the engine.
        manifest: the image in the store; None where it was left in the engine alone.
        name: the user's name of the image, with its tag, that the container was made from. If an earlier rollback had
            to create the container by an id, it is the name that the container had been made from before. None if it
            was made from an id or a digest.
        name_id: the id of the image that `name` led to at the capture, which can be another one than the container's;
            None if it led nowhere.
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
    """A name of an image that leads again to the image that it led to at a capture.

    Attributes:
        name: the name, with its tag.
        image: the id of the image that it leads to.
        lost_by: the id of the image that had it, which stays in the engine; None if it led nowhere.
    """

    name: str
    image: str
    lost_by: str | None = None


@frozen
class ContainerSnapshot:
    """One container, captured.

    Attributes:
        name: without the leading slash.
        id: the full id that it had.
        inspection: everything that the engine said of it, before it was quiesced.
        state: what it was doing then.
        image: its file system.
        mounts: every mount of it.
        not_covered: what of it no part of the backup holds.
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
        """What it may do to its host beyond an ordinary container, in plain words."""
        return privileges(self.inspection)


@frozen
class Clock:
    """A machine's clock, as far as it takes to tell whether anybody has set it since.

    Attributes:
        boot: which start of the machine's kernel; empty where that cannot be told.
        offset: nanoseconds that the time of day is ahead of the time since that start.
    """

    boot: str
    offset: int


@frozen
class VolumeArchive:
    """One volume, or one folder or file of the engine's host that a container binds, captured.

    Attributes:
        name: the volume's name; the path of a folder or file, which begins with a slash.
        inspection: everything that the engine said of it: driver, options, labels; of a folder, where it leads.
        anonymous: whether it goes with its container.
        way: how its data was reached.
        base: the archive, tar in zstd.
        increment: what changed after the base, where there was a live pass; at most one.
        size: bytes of tar in base and increment, before compression.
        not_covered: what of it no archive can hold.
        snapshot: tar's snapshot file of the base, put right for an increment, in zstd: the directories that were still
            where they had been at the capture; None where there is no increment.
        clock: the clock of the machine that took the base, when it began; None where there is no increment.
        excluded: the paths in it that were left out on purpose, and are left alone by a restore.
        listing: what was known of each file that the base holds, in zstd, for an increment of a later backup.
        mount_points: the names in it where something else was mounted, which is not archived.
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

    @property
    def is_file(self) -> bool:
        """Whether it is a single file of the engine's host."""
        return is_file(self.inspection)

    @property
    def is_partial(self) -> bool:
        """Whether something of it is left out, so that it is nowhere but in the volume itself."""
        return bool(self.excluded or self.mount_points)

    @property
    def privileges(self) -> tuple[str, ...]:
        """What of its host a volume shows by its driver's options, in plain words."""
        return privileges_of_volume(self.inspection)


@frozen
class NetworkRecord:
    """One network that a captured container was attached to.

    Attributes:
        name: its name.
        id: the id that it had.
        inspection: everything that the engine said of it; its containers left out.
    """

    name: str
    id: str
    inspection: Mapping[str, Any] = field(repr=False)  # holds secrets


@frozen
class EngineRecord:
    """The engine that a backup was taken on, for people and for what depends on its kind.

    `identity` tells it from every other engine, so that containers of one name on two of them are not taken for the
    same; empty in backups that were taken before it was kept.
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
    """A compose project, as it was found: whatever bears its label, by which compose itself knows what is its own.

    Attributes:
        name: its name.
        containers: the full ids of its containers.
        volumes: the names of its volumes, also of those that no container uses.
        networks: the names of its networks, likewise.
    """

    name: str
    containers: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()


@frozen
class Backup:
    """An immutable record of one moment.

    Attributes:
        id: its name in the store; sorts by time.
        created: the moment of the capture, in UTC.
        engine: the engine it was taken on.
        quiesce: how the service was brought to rest.
        containers: the snapshots, in the order in which they start.
        volumes: the archives of their volumes, each volume once.
        networks: the networks they were attached to.
        bystanders: the ids of all other containers that there were. One that is in the way of a rollback rests as long
            as that takes; what came later is stopped for good.
        kept_for: of a state that was kept before a rollback undid it, the names of the containers that were rolled
            back; empty for every other backup.
        project: the compose project that it is of, with what there was of it: what else bears its label, came later.
            None where single containers were named alone.
        excluded: what was left out on purpose.
        other_networks: the ids of all other networks that there were. None of them is removed to make room.
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

    def __repr__(self) -> str:
        """Return the id and the names of the containers and volumes, on one line."""
        containers = ", ".join(repr(container.name) for container in self.containers)
        volumes = ", ".join(repr(volume.name) for volume in self.volumes)
        return f"<Backup {self.id} of containers {containers or 'none'}, volumes {volumes or 'none'}>"

    @property
    def durable(self) -> bool:
        """Whether the store alone is enough to restore; False where an image was left in the engine."""
        return all(container.image.manifest is not None for container in self.containers)

    @property
    def not_covered(self) -> tuple[NotCovered, ...]:
        """Everything that this backup does not hold."""
        containers = tuple(gap for container in self.containers for gap in container.not_covered)
        volumes = tuple(gap for volume in self.volumes for gap in volume.not_covered)
        return containers + volumes + tuple(left_out(what) for what in self.excluded if not what.path)

    @property
    def beside(self) -> tuple[str, ...]:
        """The names of those of its containers that are no part of its compose project; of all where it has none."""
        within = self.project.containers if self.project is not None else ()
        return tuple(container.name for container in self.containers if container.id not in within)

    def volume(self, name: str) -> VolumeArchive:
        """Return the archive of one volume; raises `KeyError` where it holds none of that name."""
        for archive in self.volumes:
            if archive.name == name:
                return archive
        raise KeyError(name)


def left_out(what: Exclude, *, found: bool = True) -> NotCovered:
    """Return the note that something was left out on purpose, and whether anything of the kind was found."""
    return NotCovered(str(what), "it is excluded" if found else "it is excluded; there was nothing of the kind")


def backup_id(name: str, created: datetime, token: str) -> str:
    """Return the id of a backup: the moment, whose it is, and a token that keeps two of one second apart.

    It is at the same time a name for an OCI reference and for an image tag, and sorts by time.

    Example:
        >>> backup_id("web", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "a1b2c3")
        '20260102T030405Z-web-a1b2c3'
    """
    moment = created.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    readable = re.sub(r"[^A-Za-z0-9_-]", "-", name)[:40]
    return f"{moment}-{readable}-{token}"
