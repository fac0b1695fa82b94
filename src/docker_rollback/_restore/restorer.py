"""Backups put back: a plan that asks nothing of anyone, then its steps applied to an engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Literal, TypeAlias

from attrs import evolve, field, frozen

from docker_rollback._containers import (
    AtRest,
    BoundPaths,
    ContainerSnapshotter,
    DataWatch,
    DisturbedError,
    await_needed,
    in_rounds,
    look_at,
    provide_image,
)
from docker_rollback._engine import Engine
from docker_rollback._host import Timer
from docker_rollback._inspection import HELD, needs_name, restart_policy, started_at
from docker_rollback._model import Backup, ContainerSnapshot, LedBack, NetworkRecord, Project
from docker_rollback._reporting import Reporter
from docker_rollback._restore.container_slot import Place, ensure_all_run
from docker_rollback._restore.network_restorer import NetworkRestorer
from docker_rollback._restore.plan import (
    ClearAside,
    ClearNewcomers,
    Compare,
    FillVolume,
    HoldNewcomers,
    ProvideImage,
    PutAside,
    RestoreContainer,
    RestoreImageName,
    RestoreNetwork,
    RestoreVolume,
    Resume,
    Step,
    TakeName,
    concerned,
    plan_restore,
)
from docker_rollback._restore.surroundings import OffNetworks, Surroundings, drop_orphan
from docker_rollback._restore.volume_restorer import VolumeRestorer
from docker_rollback._store import BackupStore
from docker_rollback._volumes import VolumeArchiver
from docker_rollback.errors import DockerRollbackError, EngineError, RestoreError

logger = logging.getLogger("docker_rollback")

Intruders: TypeAlias = Literal["refuse", "stop"]
"""What happens to a running container outside the backup that has a volume, a port or an address of one in it."""

Note: TypeAlias = Callable[[LedBack | str], None]
"""Told each image's name that was led back, and in a sentence what could not be put back exactly."""


class Restorer:
    """Puts backups back.

    Args:
        engine: where the containers are to stand.
        store: where the backups are.
        archiver: what fills the volumes; by default one on the same engine and store.
        intruders: "refuse" leaves everything untouched where a running container outside the backup has a volume, a
            port or an address of one in it; "stop" stops it, for a rollback, where only the failed update can have
            made it. Likewise a network outside that has addresses of one that is to be made: it is refused, or removed.
        reporter: is told what is done.
        timer: measures the time and waits.

    Example:
        >>> restorer = Restorer(DockerEngine.from_env(), store)
        >>> for step in restorer.plan(store.get(backup_id)):
        ...     print(step)
        >>> restorer.restore(store.get(backup_id))
        ['web']
    """

    def __init__(
        self,
        engine: Engine,
        store: BackupStore,
        *,
        archiver: VolumeArchiver | None = None,
        intruders: Intruders = "refuse",
        reporter: Reporter | None = None,
        timer: Timer = time,
    ) -> None:
        self._engine = engine
        self._store = store
        self._archiver = archiver or VolumeArchiver(engine, store)
        self._snapshotter = ContainerSnapshotter(engine, store)
        self._intruders = intruders
        self._reporter = reporter or Reporter()
        self._timer = timer

    def plan(self, backup: Backup, *, restore_tags: bool = True) -> tuple[Step, ...]:
        """Return what a restore of `backup` would do, in order; nothing is asked of the engine."""
        return plan_restore(backup, restore_tags=restore_tags)

    def restore(self, backup: Backup, *, restore_tags: bool = True) -> list[str]:
        """Put a backup back and return the names of the containers that stand again.

        Everything in the backup is read and verified before anything is touched. A restore that broke off can be run
        again from its start. It takes no lock: `docker_rollback.restore` does.

        Args:
            backup: what to put back.
            restore_tags: whether the names that the containers were made from lead again to the images that they led to
                at the capture.

        Raises:
            CorruptBackupError: the backup is damaged; nothing was touched.
            RestoreError: something outside the backup is in the way, and nothing was touched; or what stands now
                differs from what was captured; or several steps failed, and it has their `failures`. Every container
                was tried.
            EngineError, VolumeError, StoreError: a step failed, and it was the only one.
        """
        # Whoever prunes or deletes meanwhile leaves it alone.
        with self._store.using(backup.id):
            self.check(backup)
            self.put_back(backup, restore_tags=restore_tags)
        self.clear_aside(backup)
        return [container.name for container in backup.containers]

    def check(self, backup: Backup, *, anew: bool = True) -> None:
        """Read and verify everything in a backup, and look for what is in its way; nothing is touched.

        Args:
            backup: what is to be put back.
            anew: without, what this store has read and found right is not read again, unless its files have changed.

        Raises:
            CorruptBackupError: the backup is damaged.
            RestoreError: something outside the backup is in the way.
            EngineError, StoreError: what they say.
        """
        self._store.verify(backup.id, deep=anew)
        if self._intruders == "refuse":
            Surroundings(self._engine, backup).refuse()

    def put_back(
        self,
        backup: Backup,
        *,
        guests: AtRest | None = None,
        off: OffNetworks | None = None,
        before_resume: Callable[[], None] | None = None,
        restore_tags: bool = True,
        note: Note = lambda _: None,
    ) -> None:
        """Do all of `restore` between `check` and `clear_aside`: what stood in the way stays aside, stopped.

        Args:
            backup: what to put back.
            guests: brings to rest what was there before, and is in the way for the time of this.
            off: takes what was there before off networks that have to be made again, and puts it back.
            before_resume: called once all is back, before the first container is started; not where a step failed.
            restore_tags: whether names of images are led back.
            note: told each name that was led back, and in a sentence what could not be put back exactly.
        """
        guests = guests or AtRest(
            self._engine, "stop", held=True, after_errors=False, reporter=self._reporter, timer=self._timer
        )
        work = _Restoration(backup, guests, off or OffNetworks(self._engine), DataWatch(self._engine), note)
        for container in backup.containers:
            work.places[container.name] = self._place(container, backup, work.ids)
        failures: list[Exception] = []
        failed: set[str] = set()
        with work.guests, ExitStack() as held:
            steps = self.plan(backup, restore_tags=restore_tags)
            for step in steps:
                if not isinstance(step, Resume | Compare | ClearAside | ClearNewcomers):
                    self._try_step(step, work, held, failures, failed)
            if before_resume is not None and not failures:
                before_resume()
            self._resume([step for step in steps if isinstance(step, Resume)], work, held, failures, failed)
            for step in (step for step in steps if isinstance(step, Compare)):
                self._try_step(step, work, held, failures, failed)
            if not failures:
                # What was renamed away may have been started since by its id.
                work.watch.check(work.data, ours=[place.standing_id for place in work.places.values()])
            # Within the block: what the guests share may be half back.
            if len(failures) == 1:
                raise failures[0]
            if failures:
                names = failed or {container.name for container in backup.containers}
                raise RestoreError(", ".join(sorted(names)), "several steps failed:", failures=failures)

    def strangers(self, backup: Backup) -> list[str]:
        """Return what came since the backup and is in its way, a sentence each."""
        return Surroundings(self._engine, backup).strangers()

    def bound_paths(self) -> BoundPaths:
        """Return what looks for paths that containers bind before they start."""
        return BoundPaths(self._archiver.missing)

    def ensure_running(self, backup: Backup) -> None:
        """Start again what was restored and has ended since, as with its engine; every container is looked at.

        Raises:
            RestoreError: a container does not do what it did.
            EngineError: the engine does not answer.
        """
        places = (self._place(container, backup, {}) for container in backup.containers)
        ensure_all_run(places, timer=self._timer)

    def _resume(
        self,
        steps: Sequence[Resume],
        work: _Restoration,
        held: ExitStack,
        failures: list[Exception],
        failed: set[str],
    ) -> None:
        """Start the containers; one that fails to start is tried again after the others, which it may need."""

        def attempt(step: Resume) -> None:
            self._reporter.announce("restore", str(step))
            self._apply_step(step, work, held)

        ready = (step for step in steps if step.container.name not in failed)
        for step, error in in_rounds(list(ready), attempt, sleep=self._timer.sleep):
            error.add_note(f"while it was to {step}")
            failures.append(error)
            failed.add(step.container.name)

    def set_going(self, backup: Backup, before: Mapping[str, str]) -> None:
        """Do what is left of `put_back` once all is back: start what was not started yet, and compare that.

        Args:
            backup: what was put back.
            before: when each container was started last before that began, by its id, as `started_at` has it.

        Raises:
            RestoreError: something that was started now differs from what was captured.
            EngineError: the engine refused or failed.
        """
        standings = {one.name: look_at(self._engine, one.name) for one in backup.containers}
        ids = {one.id: found.id for one in backup.containers if (found := standings[one.name]) is not None}
        ids |= {network.id: str(self._engine.inspect_network(network.name)["Id"]) for network in backup.networks}
        ids = {old: new for old, new in ids.items() if old != new}
        going: list[tuple[ContainerSnapshot, Place]] = []
        for container in backup.containers:
            standing = standings[container.name]
            if standing is None:
                logger.warning("%s: it was restored, and somebody removed it since", container.name)
                continue
            if started_at(standing.inspection) == before.get(standing.id):
                place = self._place(container, backup, ids)
                place.image_id = provide_image(self._engine, self._store, container)
                going.append((container, place))
            elif restart_policy(standing.inspection) == HELD:
                # Somebody else started it before it had its own policy again.
                self._place(container, backup, ids).give_policy_back()

        def attempt(one: tuple[ContainerSnapshot, Place]) -> None:
            self._reporter.announce("restore", str(Resume(one[0])))
            self._start(*one, volumes, backup)

        volumes = VolumeRestorer(self._engine, self._archiver, backup, [place for _, place in going])
        for _, error in in_rounds(going, attempt, sleep=self._timer.sleep):
            raise error
        for container, place in going:
            self._reporter.announce("restore", str(Compare(container)))
            place.compare()

    def clear_aside(
        self,
        backup: Backup,
        *,
        spare_volumes: bool = True,
        only: Project | None = None,
        back: Collection[str] = (),
    ) -> None:
        """Remove what a restore put aside, and what came to the project of the backup since.

        What cannot be removed is named in the log, and everything else stands.

        Args:
            backup: what was put back.
            spare_volumes: whether the volumes that came to the project stay: without an update that made them, nobody
                knows whose data is in them.
            only: what may go of what came to the project; all of it where None.
            back: the ids of containers that had their places again; their anonymous volumes are no left-overs.
        """
        # The last first: one that others live in cannot go before them.
        for container in reversed(backup.containers):
            self._reporter.announce("restore", str(ClearAside(container)))
            try:
                self._place(container, backup, {}).clear_aside()
            except EngineError as error:
                logger.warning("%s: what was put aside could not be removed: %s", container.name, error)
        in_place = {
            mount.source for container in backup.containers if container.id in back for mount in container.mounts
        }
        for volume in backup.volumes:
            if volume.anonymous and volume.name not in in_place:
                drop_orphan(self._engine, volume)
        if backup.project is not None:
            self._reporter.announce("restore", str(ClearNewcomers(backup.project)))
            try:
                Surroundings(self._engine, backup).clear_newcomers(spare_volumes=spare_volumes, only=only)
            except EngineError as error:
                logger.warning("project %s: what came to it could not be looked at: %s", backup.project.name, error)

    def clear_parked(self, backup: Backup) -> None:
        """Remove the containers of a backup that stand aside for their successors: the update is there to stay."""
        for container in reversed(backup.containers):
            try:
                self._place(container, backup, {}).clear_parked()
            except EngineError as error:
                logger.warning("%s: what it was before could not be removed: %s", container.name, error)

    def _place(self, container: ContainerSnapshot, backup: Backup, ids: dict[str, str]) -> Place:
        # Of an anonymous volume that goes, what was excluded, or is mounted in it, would be nowhere.
        archived = {volume.name for volume in backup.volumes if not (volume.anonymous and volume.is_partial)}
        mounted = {mount.source for mount in container.mounts if mount.kind == "volume"}
        here = self._engine.info().record()
        # An engine was not always told from others of its kind.
        moved = backup.engine != (here if backup.engine.identity else evolve(here, identity=""))
        return Place(
            self._engine,
            self._snapshotter,
            container,
            ids,
            has_archives=mounted <= archived,
            moved=moved,
            needs_name=needs_name(container, backup.containers),
        )

    def _try_step(
        self, step: Step, work: _Restoration, held: ExitStack, failures: list[Exception], failed: set[str]
    ) -> None:
        """Apply a step unless all that it is for has failed; its own failure fails them, and no others."""
        names = concerned(step, work.backup.containers)
        if names and names <= failed:
            return
        self._reporter.announce("restore", str(step))
        try:
            self._apply_step(step, work, held)
        except DockerRollbackError as error:
            error.add_note(f"while it was to {step}")
            if isinstance(step, ProvideImage) or isinstance(error, DisturbedError):
                # Nothing has been touched yet; or all of it is put back again.
                raise
            if not failures and isinstance(step, RestoreVolume | RestoreContainer | FillVolume):
                # If something runs that was stopped before, that is why.
                work.watch.refuse_running(work.data)
            failures.append(error)
            failed |= names

    def _apply_step(self, step: Step, work: _Restoration, held: ExitStack) -> None:
        places = work.places
        match step:
            case ProvideImage(container):
                places[container.name].image_id = provide_image(self._engine, self._store, container)
            case HoldNewcomers():
                Surroundings(self._engine, work.backup).hold_newcomers(work.guests)
            case RestoreImageName(container):
                if (moved := places[container.name].restore_image_name()) is not None:
                    work.note(moved)
            case PutAside(container):
                if container.state.alive:
                    self._reporter.down(container.name)
                Surroundings(self._engine, work.backup).make_way(container, work.guests)
                places[container.name].put_aside()
            case RestoreNetwork(network):
                work.ids[network.id] = self._restored_network(network, work)
            case RestoreVolume(volume):
                self._volumes(work).restore(volume)
            case RestoreContainer(container):
                with self._volumes(work).creating(container):
                    places[container.name].restore()
            case FillVolume(volume, container, destination):
                work.watch.begin(work.data)
                name = volume.name
                if container is not None and destination is not None:
                    name = places[container.name].volume_at(destination)
                self._archiver.provide(name, is_file=volume.is_file)
                # One that lives in memory is empty again unless somebody has it until its container runs.
                held.enter_context(self._archiver.holding([name]))
                self._reporter.expect(name, volume.size)
                self._archiver.extract(volume, name, verify=False)
            case TakeName(container):
                work.watch.check(work.data)
                places[container.name].take_name()
            case Resume(container):
                self._start(container, places[container.name], self._volumes(work), work.backup)
                self._reporter.up(container.name)
            case Compare(container):
                for sentence in places[container.name].compare():
                    work.note(sentence)

    def _start(self, container: ContainerSnapshot, place: Place, volumes: VolumeRestorer, backup: Backup) -> None:
        await_needed(self._engine, container, backup.containers, timer=self._timer)
        volumes.check_before_start(container)
        place.resume()

    def _volumes(self, work: _Restoration) -> VolumeRestorer:
        return VolumeRestorer(self._engine, self._archiver, work.backup, work.places.values())

    def _restored_network(self, network: NetworkRecord, work: _Restoration) -> str:
        removes = self._intruders == "stop"
        return NetworkRestorer(self._engine, work.backup, work.off, remove_others=removes).restore(network)


@frozen
class _Restoration:
    """One restore at work.

    Attributes:
        backup: what is put back.
        guests: the containers that rest while the volumes that they share are filled.
        off: the containers that are off a network until that is made again.
        watch: sees whether anything runs on the data meanwhile.
        note: told what was changed beyond the containers, and what is not exact.
        places: the places of its containers, by name.
        ids: the new ids of what was made anew, by the old ones.
    """

    backup: Backup
    guests: AtRest
    off: OffNetworks
    watch: DataWatch
    note: Note
    places: dict[str, Place] = field(factory=dict)
    ids: dict[str, str] = field(factory=dict)

    @property
    def data(self) -> frozenset[str]:
        """The volumes and folders that are filled, as far as they have their names now."""
        known = {volume.name for volume in self.backup.volumes}
        return frozenset(known.union(*(place.volumes() for place in self.places.values())))
