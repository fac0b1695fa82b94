"""Restores backups: makes a plan without asking the engine, then applies its steps."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Final, Literal, TypeAlias

from attrs import Factory, define, field, frozen

from docker_rollback._containers import (
    BoundPaths,
    ContainerSnapshotter,
    DataWatch,
    DisturbedError,
    QuiescedContainers,
    await_needed,
    find_container,
    in_rounds,
    provide_image,
)
from docker_rollback._engine import Engine
from docker_rollback._host import Timer
from docker_rollback._inspection import HELD, StartOrder, needs_name, restart_policy, started_at
from docker_rollback._model import Backup, ContainerSnapshot, LedBack, Observed, Project
from docker_rollback._reporting import Reporter
from docker_rollback._restore.container_slot import ContainerSlot, ensure_all_run
from docker_rollback._restore.network_restorer import NetworkRestorer
from docker_rollback._restore.plan import (
    Compare,
    FillVolume,
    HoldAdded,
    ProvideImage,
    RemoveAdded,
    RemoveRenamed,
    RenameAway,
    RestoreContainer,
    RestoreImageName,
    RestoreNetwork,
    RestoreVolume,
    Resume,
    Step,
    TakeName,
    at_once,
    concerned,
    plan_restore,
)
from docker_rollback._restore.surroundings import DetachedContainers, Surroundings, remove_orphan
from docker_rollback._restore.volume_restorer import VolumeRestorer
from docker_rollback._store import BackupStore
from docker_rollback._threads import each_at_once, raise_first
from docker_rollback._volumes import VolumeArchiver
from docker_rollback.errors import DockerRollbackError, EngineError, RestoreError

logger = logging.getLogger("docker_rollback")

Intruders: TypeAlias = Literal["refuse", "stop"]
"""The treatment of running containers outside the backup that use a volume, a port or an address of one in it."""

_Starting: TypeAlias = tuple[ContainerSnapshot, ContainerSlot]

_STEPS: Final = 8
"""The most containers to rename away, or to restore, at once: each may be committed, to see whether it is untouched."""

Note: TypeAlias = Callable[[LedBack | str], None]
"""Called with each image name that was moved back, and with a sentence for each inexact result."""


@define(eq=False)
class Restorer:
    """Restores backups.

    Args:
        engine: the engine that the containers are restored on.
        store: the store that has the backups.
        archiver: fills the volumes; by default one on the same engine and store.
        intruders: "refuse" touches nothing if a running container outside the backup has a volume, a port or an address
            of one in it, or a network outside has addresses of one that must be created. "stop" stops such a container
            and removes such a network: for a rollback, in which only the failed update can have made them.
        reporter: progress and timing sink.
        timer: measures time and waits.

    Example:
        >>> restorer = Restorer(DockerEngine.from_env(), store)
        >>> for step in restorer.plan(store.get(backup_id)):
        ...     print(step)
        >>> restorer.restore(store.get(backup_id))
        ['web']
    """

    _engine: Engine
    _store: BackupStore
    _archiver: VolumeArchiver = field(
        default=Factory(lambda self: VolumeArchiver(self._engine, self._store), takes_self=True), kw_only=True
    )
    _snapshotter: ContainerSnapshotter = field(
        default=Factory(lambda self: ContainerSnapshotter(self._engine, self._store), takes_self=True), init=False
    )
    _intruders: Intruders = field(default="refuse", kw_only=True)
    _reporter: Reporter = field(factory=Reporter, kw_only=True)
    _timer: Timer = field(default=time, kw_only=True)

    def plan(self, backup: Backup, *, restore_tags: bool = True) -> tuple[Step, ...]:
        """Return the steps of a restore of `backup`, in order, without asking the engine."""
        return plan_restore(backup, restore_tags=restore_tags)

    def restore(self, backup: Backup, *, restore_tags: bool = True) -> list[str]:
        """Restore a backup and return the names of its containers.

        The whole backup is read and verified before anything is touched. A restore that was interrupted can be run
        again from its start. It takes no lock: `docker_rollback.restore` does.

        Args:
            backup: the backup to restore.
            restore_tags: point the image names that the containers were created from at the images that they had at the
                capture.

        Raises:
            CorruptBackupError: the backup is damaged; nothing was touched.
            RestoreError: something outside the backup is in the way, and nothing was touched; or a restored container
                differs from its snapshot; or several steps failed, which are its `failures`. Every container was
                tried.
            EngineError, VolumeError, StoreError: one step failed.
        """
        # While it is in use, no prune and no deletion removes the backup.
        with self._store.using(backup.id):
            self.check(backup)
            self.put_back(backup, restore_tags=restore_tags)
        self.clean_up(backup)
        self._snapshotter.release(*backup.containers)
        return [container.name for container in backup.containers]

    def check(self, backup: Backup, *, deep: bool = True) -> None:
        """Verify a backup and check that nothing is in its way; nothing is touched.

        Args:
            backup: the backup to restore.
            deep: read everything. Otherwise files that this store has verified before are read again only if they have
                changed.

        Raises:
            CorruptBackupError: the backup is damaged.
            RestoreError: something outside the backup is in the way.
            EngineError, StoreError: the engine or the store failed.
        """
        self._store.verify(backup.id, deep=deep)
        if self._intruders == "refuse":
            Surroundings(self._engine, backup).refresh().refuse()

    def put_back(
        self,
        backup: Backup,
        *,
        others: QuiescedContainers | None = None,
        detached: DetachedContainers | None = None,
        before_resume: Callable[[Sequence[Observed]], None] | None = None,
        restore_tags: bool = True,
        note: Note = lambda _: None,
    ) -> Sequence[Observed]:
        """Do the part of `restore` between `check` and `clean_up`; containers in the way stay renamed and stopped.

        Args:
            backup: the backup to restore.
            others: stops containers outside the backup that existed at the capture, for the time of the restore.
            detached: detaches such containers from networks that are recreated, and attaches them again.
            before_resume: called with the containers once all data is back, before the first one starts; not called if
                a step failed.
            restore_tags: move image names back.
            note: called with each image name that was moved back, and with a sentence for each inexact result.

        Returns:
            The containers as they were after the last start; none if `others` were started since.
        """
        others = others or QuiescedContainers(
            self._engine, "hold", after_errors=False, reporter=self._reporter, timer=self._timer
        )
        work = _Restoration(
            backup,
            others,
            detached or DetachedContainers(self._engine),
            Surroundings(self._engine, backup),
            DataWatch(self._engine),
            note,
        )
        work.slots.update(self._slots(backup, work.ids))
        failures = work.failures
        with work.others, work.held:
            steps = self.plan(backup, restore_tags=restore_tags)
            for image in (step for step in steps if isinstance(step, ProvideImage)):
                self._try_step(image, work)
            # Loading images may have taken long. From here on, containers are stopped.
            work.surroundings.refresh()
            for group in at_once(steps):
                if not isinstance(group[0], ProvideImage | Resume | Compare | RemoveRenamed | RemoveAdded):
                    self._try_steps(group, work)
                if isinstance(group[0], RenameAway) and work.surroundings.has_namesakes():
                    # The stops take long. Whoever supervises a container by its name may create another one meanwhile.
                    self._try_steps(group, work)
            if before_resume is not None and not failures:
                before_resume(list(work.named.values()))
            self._resume([step for step in steps if isinstance(step, Resume)], work)
            for comparison in (step for step in steps if isinstance(step, Compare)):
                self._try_step(comparison, work)
            if not failures:
                # A container that was renamed away may have been started since by its id.
                work.watch.check(work.data, ours=[slot.standing_id for slot in work.slots.values()])
            # Raised within the block, which then leaves other containers stopped: their data may be half restored.
            if len(failures) == 1:
                raise failures[0]
            if failures:
                names = work.failed or {container.name for container in backup.containers}
                raise RestoreError(", ".join(sorted(names)), "several steps failed:", failures=failures)
        return () if work.others.containers else work.compared

    def unexpected(self, backup: Backup) -> list[str]:
        """Return a sentence for each container and network that appeared since the backup and is in its way."""
        return Surroundings(self._engine, backup).refresh().unexpected()

    def bound_paths(self) -> BoundPaths:
        """Return the check for missing bind sources that runs before a container starts."""
        return BoundPaths(self._archiver.missing)

    def ensure_running(self, backup: Backup, seen: Iterable[Observed] = ()) -> None:
        """Start restored containers again that have ended since, as with their engine; every one is checked.

        `seen` has those that were inspected after the last start.

        Raises:
            RestoreError: a container is not in its previous state.
            EngineError: the engine does not answer.
        """
        ensure_all_run(self._slots(backup), seen, timer=self._timer)

    def _resume(self, steps: Sequence[Resume], work: _Restoration) -> None:
        """Start the containers; retry each that fails after the others, which it may need."""

        def attempt(step: Resume) -> None:
            self._reporter.announce("restore", str(step))
            self._apply_step(step, work)

        ready = [step for step in steps if step.container.name not in work.failed]
        for step, error in in_rounds(ready, attempt, after=work.comes_after, sleep=self._timer.sleep):
            error.add_note(f"while trying to {step}")
            work.failures.append(error)
            work.failed.add(step.container.name)

    def resume_rest(self, backup: Backup, before: Mapping[str, str]) -> None:
        """Start and compare the containers that `put_back` restored but had not started yet.

        Args:
            backup: the backup that was restored.
            before: the last start of each container before any was started, by its id, as `started_at` returns it.

        Raises:
            RestoreError: a container that was started now differs from its snapshot.
            EngineError: the engine refused or failed.
        """
        standings = {one.name: find_container(self._engine, one.name) for one in backup.containers}
        ids = {one.id: found.id for one in backup.containers if (found := standings[one.name]) is not None}
        ids |= {network.id: str(self._engine.inspect_network(network.name)["Id"]) for network in backup.networks}
        ids = {old: new for old, new in ids.items() if old != new}
        slots = self._slots(backup, ids)
        starting: list[_Starting] = []
        for container in backup.containers:
            standing, slot = standings[container.name], slots[container.name]
            if standing is None:
                logger.warning("%s: it was restored, and somebody removed it since", container.name)
            elif started_at(standing.inspection) == before.get(standing.id):
                slot.stands(standing)
                slot.image_id = provide_image(self._engine, self._store, container)
                starting.append((container, slot))
            elif restart_policy(standing.inspection) == HELD:
                # Somebody else started it, so it still has the policy with which it was held.
                slot.restore_policy()

        def attempt(one: _Starting) -> None:
            self._reporter.announce("restore", str(Resume(one[0])))
            self._start(*one, volumes, backup)

        volumes = VolumeRestorer(
            self._engine, self._archiver, backup, [slot for _, slot in starting], Surroundings(self._engine, backup)
        )
        order = StartOrder.of(backup.containers)

        def after(one: _Starting, other: _Starting) -> bool:
            return order.starts_after(one[0], other[0])

        for _, error in in_rounds(starting, attempt, after=after, sleep=self._timer.sleep):
            raise error
        for container, slot in starting:
            self._reporter.announce("restore", str(Compare(container)))
            slot.compare(slot.look())

    def clean_up(
        self,
        backup: Backup,
        *,
        spare_volumes: bool = True,
        only: Project | None = None,
        back: Collection[str] = (),
    ) -> None:
        """Remove containers that a restore renamed away, and additions to the backup's project since the capture.

        A failed removal is logged, and stops nothing else.

        Args:
            backup: the backup that was restored.
            spare_volumes: keep volumes that were added to the project. Unless an update made them, nobody knows whose
                data they hold.
            only: the added containers, networks and volumes that may be removed; None for all.
            back: the ids of the containers that stand in place. The anonymous volumes of originals among them stay.
        """
        surroundings = Surroundings(self._engine, backup)
        try:
            surroundings.refresh(but=back)
        except EngineError as error:
            logger.warning("could not look up renamed and added containers, so some may stay: %s", error)
        slots = self._slots(backup)

        def remove(container: ContainerSnapshot) -> None:
            self._reporter.announce("restore", str(RemoveRenamed(container)))
            for one in surroundings.renamed_away_from(container.name):
                try:
                    slots[container.name].remove_renamed(one)
                except EngineError as error:
                    logger.warning(
                        "%s: could not remove %s, which was renamed away: %s", container.name, one.name, error
                    )

        # A container cannot be removed while another one uses its namespaces.
        raise_first(each_at_once(backup.containers, remove, StartOrder.of(backup.containers).stops_after))
        in_place = {
            mount.source for container in backup.containers if container.id in back for mount in container.mounts
        }
        for volume in backup.volumes:
            if volume.anonymous and volume.name not in in_place:
                remove_orphan(self._engine, volume)
        if backup.project is not None:
            self._reporter.announce("restore", str(RemoveAdded(backup.project)))
            surroundings.remove_added(spare_volumes=spare_volumes, only=only)

    def remove_originals(self, backup: Backup) -> None:
        """Remove the containers of a backup that were renamed away for their successors, once the update is final."""
        slots = self._slots(backup)
        for container in reversed(backup.containers):
            try:
                slots[container.name].remove_original()
            except EngineError as error:
                logger.warning("%s: could not remove the container from before the update: %s", container.name, error)

    def _slots(self, backup: Backup, ids: dict[str, str] | None = None) -> dict[str, ContainerSlot]:
        """Return the slot of each container of a backup, by its name; `ids` are new ids by the old ones."""
        # Removing an anonymous volume would also delete the data excluded from its archive, or mounted in it.
        archived = {volume.name for volume in backup.volumes if not (volume.anonymous and volume.is_partial)}
        ids = {} if ids is None else ids
        return {
            container.name: ContainerSlot(
                self._engine,
                self._snapshotter,
                container,
                ids,
                has_archives={mount.source for mount in container.mounts if mount.kind == "volume"} <= archived,
                captured_on=backup.engine,
                needs_name=needs_name(container, backup.containers),
            )
            for container in backup.containers
        }

    def _try_step(self, step: Step, work: _Restoration) -> None:
        self._try_steps((step,), work)

    def _try_steps(self, steps: Sequence[Step], work: _Restoration) -> None:
        """Apply steps at once, except those that only failed containers need; who needs one that fails has failed."""
        found = [(step, concerned(step, work.backup.containers)) for step in steps]
        left = [(step, names) for step, names in found if not names or not names <= work.failed]
        for step, _ in left:
            self._reporter.announce("restore", str(step))
        errors = each_at_once(
            left,
            lambda one: self._apply_step(one[0], work),
            lambda one, other: work.comes_after(one[0], other[0]),
            most=_STEPS,
        )
        for (step, _), error in zip(left, errors, strict=True):
            if error is not None:
                error.add_note(f"while trying to {step}")
        ending = [error for (step, _), error in zip(left, errors, strict=True) if _ends_it(step, error)]
        if ending:
            raise_first([*ending, *(error for error in errors if error not in ending)])
        for (step, names), error in zip(left, errors, strict=True):
            if not isinstance(error, DockerRollbackError):
                continue
            if not work.failures and isinstance(step, RestoreVolume | RestoreContainer | FillVolume):
                # If somebody started a stopped container, that is the cause.
                work.watch.refuse_running(work.data)
            work.failures.append(error)
            work.failed.update(names)

    def _apply_step(self, step: Step, work: _Restoration) -> None:
        match step:
            case RestoreContainer(container):
                with self._volumes(work).creating(container, work.creating):
                    work.slots[container.name].restore()
            case FillVolume():
                self._fill(step, work)
            case TakeName(container):
                if not work.named:
                    work.watch.check(work.data)
                work.named[container.name] = work.slots[container.name].take_name()
            case Resume(container):
                self._start(container, work.slots[container.name], self._volumes(work), work.backup)
                self._reporter.up(container.name)
            case Compare(container):
                standing = work.slots[container.name].look()
                for sentence in work.slots[container.name].compare(standing):
                    work.note(sentence)
                work.compared.append(standing)
            case _:
                self._prepare(step, work)

    def _prepare(self, step: Step, work: _Restoration) -> None:
        """Apply a step that comes before the containers are created."""
        match step:
            case ProvideImage(container):
                work.slots[container.name].image_id = provide_image(self._engine, self._store, container)
            case HoldAdded():
                work.surroundings.hold_added(work.others)
            case RenameAway(container):
                if container.state.alive:
                    self._reporter.down(container.name)
                work.surroundings.stop_conflicting(container, work.others)
                work.slots[container.name].rename_away(work.surroundings.in_place_of(container))
            case RestoreNetwork(network):
                restorer = NetworkRestorer(
                    self._engine,
                    work.backup,
                    work.surroundings,
                    work.detached,
                    remove_others=self._intruders == "stop",
                )
                work.ids[network.id] = restorer.restore(network)
            case RestoreVolume(volume):
                self._volumes(work).restore(volume)
            case RestoreImageName(container):
                image = container.image
                of_the_same = (image.name, image.name_id, image.original_id, image.clean)
                # The name of several containers is moved once.
                if of_the_same not in work.led:
                    if (moved := work.slots[container.name].restore_image_name()) is not None:
                        work.note(moved)
                    work.led.add(of_the_same)

    def _fill(self, step: FillVolume, work: _Restoration) -> None:
        work.watch.begin(work.data)
        volume, name = step.volume, step.volume.name
        if step.container is not None and step.destination is not None:
            name = work.slots[step.container.name].volume_at(step.destination)
        self._archiver.provide(name, is_file=volume.is_file)
        # A volume in memory loses its content unless something mounts it until its container runs.
        work.held.enter_context(self._archiver.holding([name]))
        self._reporter.expect(name, volume.size)
        self._archiver.extract(volume, name, verify=False)

    def _start(
        self, container: ContainerSnapshot, slot: ContainerSlot, volumes: VolumeRestorer, backup: Backup
    ) -> None:
        await_needed(self._engine, container, backup.containers, timer=self._timer)
        volumes.check_before_start(container)
        slot.resume()

    def _volumes(self, work: _Restoration) -> VolumeRestorer:
        return VolumeRestorer(self._engine, self._archiver, work.backup, work.slots.values(), work.surroundings)


def _ends_it(step: Step, error: Exception | None) -> bool:
    """Return True if an error ends the whole restore, and not only that of the containers that need the step."""
    # Images are provided before anything is touched. A restore that was disturbed is repeated by the caller.
    expected = isinstance(error, DockerRollbackError) and not isinstance(error, DisturbedError)
    return error is not None and (isinstance(step, ProvideImage) or not expected)


@frozen
class _Restoration:
    """A restore in progress."""

    backup: Backup
    others: QuiescedContainers  # outside the backup, stopped while the volumes that they share are filled
    detached: DetachedContainers
    surroundings: Surroundings
    watch: DataWatch
    note: Note
    slots: dict[str, ContainerSlot] = field(factory=dict)
    ids: dict[str, str] = field(factory=dict)  # the new ids of recreated containers and networks, by the old ones
    named: dict[str, Observed] = field(factory=dict)  # the containers that have their names again, as they were then
    compared: list[Observed] = field(factory=list)  # the containers, as they were after the last start
    led: set[tuple[object, ...]] = field(factory=set)  # the images whose names lead to them again
    failures: list[Exception] = field(factory=list)
    failed: set[str] = field(factory=set)  # the containers that a failed step concerns
    held: ExitStack = field(factory=ExitStack)  # keeps filled volumes mounted
    creating: threading.Lock = field(factory=threading.Lock)  # see `VolumeRestorer.creating`

    @cached_property
    def _order(self) -> StartOrder:
        return StartOrder.of(self.backup.containers)

    def comes_after(self, one: Step, other: Step) -> bool:
        """Return True if one of two steps that are applied at once waits for the other."""
        match one, other:
            case (RestoreContainer(first), RestoreContainer(second)) | (Resume(first), Resume(second)):
                return self._order.starts_after(first, second)
            case RenameAway(first), RenameAway(second):
                return self._order.stops_after(first, second)
            case _:
                return False

    @property
    def data(self) -> frozenset[str]:
        """The volumes and folders to fill, as far as their names are known now."""
        known = {volume.name for volume in self.backup.volumes}
        return frozenset(known.union(*(slot.volumes for slot in self.slots.values())))
