"""Takes snapshots of containers: configuration, file system as an image, mounts and state."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

from attrs import evolve, field, frozen

from docker_rollback._containers.committed_parts import Committed
from docker_rollback._containers.creation import forgets_connected_macs
from docker_rollback._containers.find import find_container, find_image
from docker_rollback._containers.image_depth import store_image
from docker_rollback._containers.images import (
    bare,
    earlier_name,
    image_id_of,
    name_of,
    origin_in,
    shown_image,
    take_name,
)
from docker_rollback._containers.locking import locked
from docker_rollback._containers.overlay import altered, is_unwritten, lost_by_commit
from docker_rollback._containers.overlay_changes import changes as seen_changes
from docker_rollback._containers.quiesce import QuiescedContainers
from docker_rollback._containers.unkept_names import unkept_names
from docker_rollback._engine import Engine, removal_error, remove_named
from docker_rollback._host import Timer, may_do_anything, now
from docker_rollback._inspection import (
    Loss,
    Origin,
    attached_networks,
    gap_of,
    hash_gap,
    layers_of,
    loss_of,
    made_for_mounts,
    mount_places,
    observe,
    primary_network,
    with_asked,
    with_asked_macs,
)
from docker_rollback._model import Backup, ContainerSnapshot, ImageSnapshot, NotCovered, Observed, Quiesce, backup_id
from docker_rollback._names import IMAGE_REPOSITORY, KEPT_REPOSITORY, again, image_tag, live, named, names_of, part_of
from docker_rollback._reporting import Reporter
from docker_rollback._store import BackupStore, Draft
from docker_rollback.errors import CaptureError, EngineConflictError, EngineError

logger = logging.getLogger("docker_rollback")

_FAILED = 500
"""The HTTP status with which an engine says that it failed."""


@frozen(eq=False)
class ContainerSnapshotter:
    """Takes snapshots of containers.

    `snapshot` is enough for one container. `observe`, `capture` and `seal` are its phases, for callers that capture
    several things at one moment.

    Args:
        engine: the engine that has the containers.
        store: the store that the images go to.
        export_image: copy the image into the store. If False, it stays in the engine under a name of ours, and the
            backup is not durable: an engine that loses its images loses the backup.
        quiesce: how `snapshot` quiesces the container.
        reporter: reports and measures the steps.
        clock: returns the time, in UTC.
        timer: measures time and waits.

    Example:
        >>> snapshotter = ContainerSnapshotter(DockerEngine.from_env(), BackupStore("/var/backups/containers"))
        >>> snapshotter.snapshot("web").image.layers
    """

    _engine: Engine
    _store: BackupStore
    _export_image: bool = field(default=True, kw_only=True)
    _quiesce: Quiesce = field(default="stop", kw_only=True)
    _reporter: Reporter = field(factory=Reporter, kw_only=True)
    _clock: Callable[[], datetime] = field(default=now, kw_only=True)
    _timer: Timer = field(default=time, kw_only=True)
    _known: dict[str, Mapping[str, Any]] = field(factory=dict, init=False)
    _listed: dict[str, Mapping[str, str]] = field(factory=dict, init=False)
    _committed: set[str] = field(factory=set, init=False)

    def snapshot(self, container: str) -> ContainerSnapshot:
        """Capture one container, without the data of its volumes, as a backup of its own in the store.

        The container is quiesced for the commit (by default stopped with its own signal and time-out) and resumed
        afterwards, also after an error.

        Unlike `docker_rollback.backup`, this keeps no journal record and runs no guard. If the container is pruned or
        removed while it is stopped, or this process dies then, nothing recreates or starts it, not even `recover`. With
        ``quiesce="pause"`` no prune removes it.

        Raises:
            ContainerNotFoundError: the engine has no such container.
            CaptureError: somebody started the container while it was captured.
            ResumeError: it could not be resumed.
            StoreError: the store cannot take the image.
        """
        observed = self.observe(container)
        created = self._clock()
        identity = backup_id(observed.name, created, secrets.token_hex(3))
        tag = self.tag(identity, 0, observed)
        with (
            locked(self._store, [observed]),
            self._store.draft(identity) as draft,
            self.discarding([tag]),
        ):
            self.expect([observed], draft)
            originals = self.store_originals([observed], draft)
            with QuiescedContainers(self._engine, self._quiesce, reporter=self._reporter, timer=self._timer) as rest:
                rest.quiesce(observed)
                snapshot = self.capture(observed, tag=tag)
                rest.check_undisturbed()
            snapshot = self.seal(snapshot, draft, stored=originals)
            gaps = tuple(
                NotCovered(f"volume {name} of {observed.name}", "the container alone was captured")
                for name in observed.volumes
            )
            snapshot = evolve(snapshot, not_covered=(*snapshot.not_covered, *gaps))
            draft.commit(
                Backup(
                    id=identity,
                    created=created,
                    engine=self._engine.info().record(),
                    quiesce=self._quiesce,
                    containers=(snapshot,),
                )
            )
        self.release(snapshot)
        return snapshot

    def tag(self, backup: str, number: int, container: Observed) -> str:
        """Return the name for the image of one container of a backup in the engine."""
        return image_tag(backup, number, container.name, stored=self._export_image)

    def observe(self, container: str) -> Observed:
        """Inspect a container, by name or id, in any state."""
        return observe(self._engine.inspect_container(container))

    def expect(self, containers: Iterable[Observed], draft: Draft) -> None:
        """Look up images in advance, so that `capture` asks the engine for less in the downtime.

        The draft begins to hash the layers that the store has, so that `seal` waits less.
        """
        for container in containers:
            layers = self._layers(str(container.inspection["Image"]))
            if self._export_image:
                draft.expect_image(layers)

    def store_originals(self, containers: Iterable[Observed], draft: Draft) -> list[ImageSnapshot]:
        """Copy the images that containers were created from into the store; return those that it lacked, for `seal`.

        That needs no downtime, and leaves `seal` with the layers that the containers have written.
        """
        stored: list[ImageSnapshot] = []
        if not self._export_image:
            return stored
        for container in containers:
            found = self._image(str(container.inspection["Image"]))
            layers = layers_of(found)
            if not draft.has_layers(layers):
                self._reporter.announce("store", container.name)
                image = evolve(_image(container, ""), layers=layers, clean=True)
                stored.append(self._stored(image, draft, stored, Committed(found, len(layers))))
        return stored

    def capture(self, container: Observed, *, tag: str, folders: Collection[str] = ()) -> ContainerSnapshot:
        """Commit a quiesced container; the engine holds the image under `tag` until `release`.

        A container whose writable layer is visible here and empty is not committed, unless it was while it ran, since a
        commit would add no layer: its image is the one that it was created from, and has `tag` from `seal` on.

        The image is not copied into the store: `seal` does that, once the container runs again.

        Args:
            container: its inspection from before it was quiesced.
            tag: the image's name.
            folders: the folders of the host that the same backup holds.
        """
        self._reporter.announce("capture", container.name)
        return self._taken(container, tag, tag, folders)

    def capture_live(self, container: Observed, *, tag: str) -> ContainerSnapshot:
        """Commit a container that still runs, as `live(tag)`; `capture` uses `tag` for its own commit."""
        return self._taken(container, live(tag), tag, ())

    def commit_live(self, snapshot: ContainerSnapshot) -> None:
        """Commit the container of a snapshot of `capture_live`, unless that has done so."""
        name = live(snapshot.image.tag)
        if name not in self._committed:
            self._commit(snapshot, name)

    def uncommitted(self, container: Observed, *, tag: str) -> ContainerSnapshot:
        """Return the snapshot of a container that could not be committed; its file system is that of its image."""
        return self._of(container, _image(container, tag), ())

    def _taken(self, container: Observed, name: str, tag: str, folders: Collection[str]) -> ContainerSnapshot:
        """Return the snapshot of a container, committed by a name unless nothing was written to it."""
        # A container that was committed while it ran may have removed all that it had written. It is committed again: a
        # second guard is started from that image, and recovery takes the newest image that has a name.
        was_committed = name == tag and live(tag) in self._committed
        if not was_committed and self._is_unwritten(container):
            layers = self._layers(str(container.inspection["Image"]))
            image = evolve(_image(container, tag), layers=layers, committed_layers=layers, clean=True)
            return self._of(container, image, folders)
        return self._snapshot(container, self._commit(container, name), tag, folders)

    def _is_unwritten(self, container: Observed) -> bool:
        """Return True if a commit of a container would add no layer, as its writable layer shows."""
        return self._sees_layers() and is_unwritten(container.inspection)

    def _sees_layers(self) -> bool:
        """Return True if this program can read the layers of the engine's containers."""
        engine = self._engine.info()
        # Podman makes files of its own in a writable layer. A unix socket proves that the layers are on this machine,
        # and not at the same paths of its clone. Overlayfs shows its marks to root alone.
        return engine.flavour != "podman" and engine.address.startswith("unix://") and may_do_anything()

    def _commit(self, container: Observed | ContainerSnapshot, tag: str) -> str:
        # Added before the call: a commit whose answer is lost may have taken effect.
        self._committed.add(tag)
        return self._engine.commit_container(container.id, tag, author=self._origin(container.inspection).note)

    def _origin(self, inspection: Mapping[str, Any]) -> Origin:
        return origin_in(self._image(str(inspection["Image"])), inspection)

    def _snapshot(self, container: Observed, committed: str, tag: str, folders: Collection[str]) -> ContainerSnapshot:
        layers = self._layers(committed)
        original = str(container.inspection["Image"])
        clean = self._is_clean(container, layers)
        image = evolve(
            _image(container, tag),
            id=original if clean else committed,
            layers=self._layers(original) if clean else layers,
            committed_layers=layers,
            clean=clean,
        )
        return self._of(container, image, folders)

    def _of(self, container: Observed, image: ImageSnapshot, folders: Collection[str]) -> ContainerSnapshot:
        gaps = [gap for mount in container.mounts if (gap := gap_of(mount, folders)) is not None]
        gaps += [gap] if (gap := hash_gap(container)) is not None else []
        return ContainerSnapshot(
            name=container.name,
            id=container.id,
            inspection=container.inspection,
            state=container.state,
            image=image,
            mounts=container.mounts,
            not_covered=(*gaps, *native_loss(self._engine, container).not_covered(container.name, refusals=True)),
        )

    def seal(
        self,
        snapshot: ContainerSnapshot,
        draft: Draft,
        *,
        guarded: ContainerSnapshot | None = None,
        stored: Sequence[ImageSnapshot] = (),
    ) -> ContainerSnapshot:
        """Copy the snapshot's image into the store; return the snapshot with the image's descriptor and its gaps.

        Args:
            snapshot: the result of `capture`.
            draft: the backup that the image goes to.
            guarded: the result of `capture_live` for the same container; its image cannot be pruned.
            stored: the images that the draft has already; they are not copied again.
        """
        if guarded is not None:
            snapshot = self._on_guarded(snapshot, guarded)
        podman = self._engine.info().flavour == "podman"
        several = attached_networks(snapshot.inspection).keys() - {primary_network(snapshot.inspection)}
        if podman or (several and forgets_connected_macs(self._engine)):
            # A container that ran has been resumed by now.
            standing = find_container(self._engine, snapshot.id)
            find = with_asked if podman else with_asked_macs
            inspection, unknown = find(snapshot.inspection, standing.inspection if standing else None)
            snapshot = evolve(snapshot, inspection=inspection, not_covered=(*snapshot.not_covered, *unknown))
        if snapshot.image.clean:
            self._give_up_commit(snapshot)
        else:
            for reason in unkept_names(self._engine, snapshot):
                # They were written after the preflight.
                raise CaptureError(snapshot.name, reason)
            lost = lost_by_commit(snapshot.inspection)
            snapshot = evolve(snapshot, not_covered=(*snapshot.not_covered, *lost))
        image = self._with_name(snapshot)
        snapshot = evolve(
            snapshot, image=image, not_covered=(*snapshot.not_covered, *self._lost_names(evolve(snapshot, image=image)))
        )
        if self._export_image:
            self._reporter.announce("store", snapshot.name)
        image = snapshot.image
        committed = Committed(
            self._image(image.id),
            self._origin(snapshot.inspection).layers,
            container=snapshot.id,
            changes=self._listed.get(snapshot.id),
        )
        return evolve(snapshot, image=self._stored(image, draft, stored, committed))

    def _stored(
        self, image: ImageSnapshot, draft: Draft, stored: Sequence[ImageSnapshot], committed: Committed
    ) -> ImageSnapshot:
        equal = (one.manifest for one in stored if (one.id, one.layers) == (image.id, image.layers))
        image = evolve(image, manifest=next(equal, None))
        committed = evolve(committed, stored=stored)
        return store_image(self._engine, self._store, draft, image, committed, export=self._export_image)

    def _on_guarded(self, snapshot: ContainerSnapshot, guarded: ContainerSnapshot) -> ContainerSnapshot:
        """Replace a dirty container's image by an equal one that cannot be pruned."""
        image, equal = snapshot.image, guarded.image
        if image.clean or equal.clean or image.committed_layers != equal.committed_layers or image.id == equal.id:
            return snapshot
        self._engine.tag_image(equal.id, image.tag)
        self._forget(snapshot.name, image.id)
        return evolve(snapshot, image=evolve(image, id=equal.id))

    def forget_live(self, snapshot: ContainerSnapshot) -> None:
        """Remove the name of the image that `capture_live` committed."""
        if live(snapshot.image.tag) in self._committed:
            self._forget(snapshot.name, live(snapshot.image.tag))

    def _give_up_commit(self, snapshot: ContainerSnapshot) -> None:
        """Give our name to the original image, and remove the commit, if one had to prove that nothing was written."""
        # The original is the better image: it is complete, and its id is the one that the container shows. The commit
        # keeps a name until it is removed, so that recovery finds it if this process dies here.
        tag = snapshot.image.tag
        if tag in self._committed:
            self._engine.tag_image(tag, again(tag))
        self._engine.tag_image(snapshot.image.original_id, tag)
        if tag in self._committed:
            self._forget(snapshot.name, again(tag))

    def release(self, *snapshots: ContainerSnapshot, spare: bool = False, seen: Iterable[Observed] = ()) -> None:
        """Remove our names from the images of containers, unless a backup needs them.

        That includes the names from earlier rollbacks, because a recreated container may use such an image until it is
        replaced. An image that only the engine has stays, because its backup needs it. A name that the container shows
        stays as well (see `create_on`), until its next rollback: it leads to the container's image.

        Args:
            snapshots: the containers.
            spare: keep the image that a container was created from, even if it has no other name.
            seen: the containers that the caller has inspected; what they show is not asked for again.
        """
        # A container shows one image name for all its life.
        shown = {one.name: {shown_image(one)} for one in seen}
        # The locks of the containers are held, so nobody else gives their images a name.
        try:
            there = {*self._engine.list_images(IMAGE_REPOSITORY), *self._engine.list_images(KEPT_REPOSITORY)}
        except EngineError as error:
            # Recovery removes names that no operation needs.
            logger.warning("could not list images, so names of ours may stay: %s", error)
            return
        for snapshot in snapshots:
            try:
                kept = shown.get(snapshot.name) or self._shown(snapshot.name)
                self._release(snapshot, there, kept=kept, spare=spare)
            except EngineError as error:
                logger.warning("%s: names of its images may stay: %s", snapshot.name, error)

    def _release(
        self, snapshot: ContainerSnapshot, there: Collection[str], *, kept: Collection[str], spare: bool
    ) -> None:
        """Do the work of `release` for one container, with the names that are there, and those that stay."""
        image = snapshot.image
        kept = {*kept, image.tag} if image.manifest is None else kept
        # A container that was created by an image id may use an image of ours, which need not be kept.
        spare = spare and image.clean and name_of(image.reference, image.original_id) is not None
        # A second commit still has its name if its process died, or if the engine refused to remove it.
        for tag in {*names_of(image.tag), *self._names_of_ours(snapshot, there)} - {image.tag}:
            if tag in there and tag not in kept:
                self._forget(snapshot.name, tag)
        if image.tag in there and image.tag not in kept:
            self._forget(snapshot.name, image.tag, spare=spare)
        if named(image.tag) in there:
            self._forget(snapshot.name, named(image.tag), spare=True)

    def forget_pruned(self, snapshot: ContainerSnapshot) -> None:
        """Remove our name of the image of a pruned backup, unless the container shows it."""
        if snapshot.image.tag not in self._shown(snapshot.name):
            remove_named(self._engine, snapshot.image.tag)

    def forget_all(self, snapshot: ContainerSnapshot) -> None:
        """Remove every image that was committed for a snapshot."""
        for image in names_of(snapshot.image.tag):
            self._forget(snapshot.name, image)

    def forget(self, backup: str, names: Sequence[str]) -> None:
        """Remove every image that an interrupted capture may have committed for a backup of some containers."""
        for number, name in enumerate(names):
            for stored in (True, False):
                tag = image_tag(backup, number, name, stored=stored)
                for image in names_of(tag):
                    self._forget(name, image)
                self._forget(name, named(tag), spare=True)

    def _forget(self, container: str, image: str, *, spare: bool = False) -> None:
        """Remove an image or one of its names; only log a failure, which does no harm."""
        error = removal_error(partial(take_name if spare else remove_named, self._engine, image))
        if isinstance(error, EngineConflictError):
            # A container uses the image, and an engine keeps the last name of such an image.
            logger.debug("%s: image %s stays", container, image)
        elif error is not None:
            logger.warning("%s: could not remove image %s from the engine: %s", container, image, error)

    def _shown(self, container: str) -> set[str]:
        standing = find_container(self._engine, container)
        return set() if standing is None else {shown_image(standing)}

    def _names_of_ours(self, snapshot: ContainerSnapshot, there: Collection[str]) -> list[str]:
        """Return the names, from any rollback of a container, of the image that it was created from."""
        ours = re.compile(rf"{IMAGE_REPOSITORY}:.+\.\d+\.{re.escape(part_of(snapshot.name))}(-live)?")
        if all(name == snapshot.image.tag for name in there if ours.fullmatch(name)):
            return []
        image = find_image(self._engine, snapshot.image.original_id) or {}
        return [name for name in map(bare, image.get("RepoTags") or []) if ours.fullmatch(name)]

    @contextmanager
    def discarding(self, tags: Sequence[str]) -> Iterator[None]:
        """Remove the images with these tags if the block ends with an error."""
        try:
            yield
        except BaseException as error:
            removals = [(name, remove_named) for tag in tags for name in names_of(tag)]
            removals += [(named(tag), take_name) for tag in tags]
            for name, remove in removals:
                try:
                    remove(self._engine, name)
                except EngineError as failure:
                    error.add_note(f"could not remove image {name} from the engine: {failure}")
            raise

    def is_untouched(self, snapshot: ContainerSnapshot, container: Observed, *, tag: str) -> bool:
        """Return True if a stopped container still has the file system that was captured."""
        if self._is_unwritten(container):
            return self._layers(str(container.inspection["Image"])) == snapshot.image.committed_layers
        # A commit whose answer is lost is found by its name, so no commit of a dead process may have that name.
        remove_named(self._engine, tag)
        # Equal file systems have equal layers, so another commit, which is removed at once, shows a difference.
        committed = self._engine.commit_container(container.id, tag)
        try:
            return self._layers(committed) == snapshot.image.committed_layers
        finally:
            remove_named(self._engine, tag)

    def _with_name(self, snapshot: ContainerSnapshot) -> ImageSnapshot:
        """Return the image with the name that the container was created from, and the id that this name has now."""
        image = snapshot.image
        name = name_of(image.reference, image.original_id)
        name = name or earlier_name(self._store, snapshot.name, image.original_id)
        name_id = None if name is None else image_id_of(self._engine, name)
        if name_id is not None and name_id != image.id:
            # An update may move the name to another image, and then prune images without a name.
            self._engine.tag_image(name_id, named(image.tag))
        return evolve(image, name=name, name_id=name_id)

    def _lost_names(self, snapshot: ContainerSnapshot) -> Iterator[NotCovered]:
        """Yield a gap if the container could not be recreated by its own reference (`Config.Image`)."""
        image, reference = snapshot.image, snapshot.image.reference
        # A reference that is a name has just been looked up.
        is_name = name_of(reference, image.original_id) is not None
        if (image.name_id if is_name else image_id_of(self._engine, reference)) != image.id:
            yield NotCovered(
                f"Config.Image of {snapshot.name}",
                f"if the container has to be recreated, it is not {reference!r}, which leads elsewhere",
            )

    def _layers(self, image: str) -> tuple[str, ...]:
        return layers_of(self._image(image))

    def config_of(self, image: str) -> Mapping[str, Any]:
        """Return the configuration of an image, by its id."""
        found: Mapping[str, Any] = self._image(image).get("Config") or {}
        return found

    def _image(self, image: str) -> Mapping[str, Any]:
        """Return the inspection of an image, by its id; asked for once, because only its names can change."""
        if image not in self._known:
            self._known[image] = self._engine.inspect_image(image)
        return self._known[image]

    def _is_clean(self, container: Observed, layers: tuple[str, ...]) -> bool:
        """Return True if the writable layer has nothing but mount points, which an engine makes for each container."""
        if layers == self._layers(str(container.inspection["Image"])):
            return True
        changes = self._changes(container)
        folders = None if changes is None else made_for_mounts(container.inspection, changes)
        return folders is not None and not altered(container.inspection, folders)

    def _changes(self, container: Observed) -> dict[str, str] | None:
        """Return the changes in the writable layer, by path; None if the engine cannot list them."""
        # Podman's own answer is quick, and leaves out the files that Podman makes.
        if self._sees_layers():
            # One change more than there are mount points proves that something else changed.
            seen = seen_changes(container.inspection, most=len(mount_places(container.inspection)) + 1)
            if seen is not None:
                return seen
        try:
            changes: dict[str, str] = {
                change.path: change.kind for change in self._engine.container_changes(container.id)
            }
        except EngineError as error:
            if self._engine.info().flavour != "podman" or error.status != _FAILED:
                raise
            # Podman 5.8 fails like this if a folder has replaced a file.
            logger.debug("%s: its changes cannot be listed: %s", container.name, error)
            return None
        self._listed[container.id] = changes
        return changes


def native_loss(engine: Engine, container: Observed) -> Loss:
    """Return the settings that only Podman's own API shows, and that a container loses if it is recreated."""
    if container.native is None:
        return Loss()
    return loss_of(container.native, runtime=engine.info().default_runtime)


def _image(container: Observed, tag: str) -> ImageSnapshot:
    """Return a container's image before anything is known about its writable layer."""
    original = str(container.inspection["Image"])
    reference = str(container.inspection["Config"]["Image"])
    return ImageSnapshot(reference, original, original, (), (), clean=False, tag=tag)
