"""An update done right: a container replaced by one of another image, with all that belongs to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from attrs import evolve

from docker_rollback._containers import body_for, create_on, find_origin, join, look_at_all, name_of
from docker_rollback._engine import ContainerFilter, Engine, Inspection
from docker_rollback._inspection import (
    HELD,
    Changes,
    CreateRequest,
    asked_as_captured,
    bound_to,
    equal_request,
    observe,
    restarts,
    start_order,
    update_request,
    with_ids,
)
from docker_rollback._model import Backup, ContainerSnapshot, Observed
from docker_rollback._names import aside_name, is_aside
from docker_rollback._reporting import Reporter
from docker_rollback._rollback.checked_container import CheckedContainer
from docker_rollback._rollback.update_image import UpdateImage, check_platform, made_from
from docker_rollback.errors import (
    ContainerNotFoundError,
    EngineError,
    ImageNotFoundError,
    UnsupportedContainerError,
    UpdateRejectedError,
)

logger = logging.getLogger("docker_rollback")


class Replacer:
    """Replaces containers of one backup.

    Args:
        engine: where they are.
        backup: what they were before; only its containers are replaced.
        reporter: is told what is done.
    """

    def __init__(self, engine: Engine, backup: Backup, *, reporter: Reporter | None = None) -> None:
        self._engine = engine
        self._reporter = reporter or Reporter()
        self._captured = {container.name: container for container in backup.containers}
        self._half: dict[str, BaseException] = {}

    def replace(
        self,
        reference: str,
        image: UpdateImage,
        changes: Changes | None = None,
    ) -> str:
        """Replace a container and return the id of the new one, which bears its name and does what it did.

        All that can fail without touching the service comes first: the image is found or fetched, its platform
        checked, the new container created under a name of ours. Then the old one is stopped and gives its name to the
        new one, which starts; the old one is held from starting. No running container is renamed: engines refuse that
        on an overlay network, and on any network the name would lead nowhere until the new one runs. Containers bound
        to it stop before it, are recreated where they refer to it by its id, and start after it.

        Args:
            reference: its name or id.
            image: what the new one is made from; without a reference, what the old one was made from, by that name. If
                an earlier rollback created it by the id of its image, it is the name that the backup knows.
            changes: what else differs.

        Raises:
            ContainerNotFoundError, ImageNotFoundError, ImagePlatformError, UnsupportedContainerError: the service runs
                as before.
            ValueError: the container is not part of the backup, or no image is given and none can be known.
            EngineError: a step failed. Where it failed before anything was stopped, the service runs as before.
            UpdateRejectedError: the new one ended so soon that those bound to it could not start.
        """
        old = observe(self._engine.inspect_container(reference))
        bound = start_order(self._bound(old))
        states = {one.name: self._captured_as(one).state for one in (old, *bound)}
        asked = asked_as_captured(old.inspection, self._captured_as(old).inspection)
        wanted = image.reference or self._made_from(old)
        found = image.find(self._engine, wanted, reporter=self._reporter)
        check_platform(self._engine, old, wanted, found)
        request = update_request(
            evolve(old, inspection=asked),
            image=wanted,
            image_id=str(found["Id"]),
            defaults=self._defaults_of(old, asked["Config"]),
            changes=changes or Changes(),
        )
        self._reporter.announce("replace", old.name)
        made: list[Observed] = []
        try:
            ids = {old.id: self._create(old, request, made, platform=image.platform)}
            for one in bound:
                inspection, refers = with_ids(one.inspection, ids), one.inspection["HostConfig"]
                # An engine remembers the other end of a link by its id, whatever its name is.
                if inspection["HostConfig"] != refers or refers.get("Links"):
                    equal = self._equal(one, _linked_to(inspection, made, ids))
                    ids[one.id] = self._create(one, equal, made, image_id=str(one.inspection["Image"]))
        except BaseException:
            self._take_back(made)
            raise
        try:
            for one in (*reversed(bound), old):
                self._stop(one, aside=one.id in ids)
            for one in made:
                self._hand_over(one, ids[one.id])
            for one in (old, *bound):
                standing = ids.get(one.id, one.id)
                if states[one.name].alive:
                    self._start(old, one, standing)
                if states[one.name].status == "paused":
                    self._engine.pause_container(standing)
            for one in (*reversed(bound), old):
                self._drop_between(one, ids.get(one.id, one.id))
        except BaseException as error:
            self._half[old.name] = error
            raise
        self._half.pop(old.name, None)
        return ids[old.id]

    def check(self) -> None:
        """Raise an `UpdateRejectedError` where a container was replaced half way, and whoever did it went on."""
        for name, error in self._half.items():
            raise UpdateRejectedError(name, f"it was replaced half way only ({type(error).__name__})") from error

    def _bound(self, old: Observed) -> tuple[Observed, ...]:
        """Return the containers that would break; raise where one of them is not part of the backup."""
        others = look_at_all(self._engine, ContainerFilter(), but={old.id})
        bound = bound_to([old], [other for other in others if not is_aside(other.name)])
        strangers = [other.name for other in bound if other.name not in self._captured]
        if strangers:
            names = ", ".join(repr(name) for name in strangers)
            raise UnsupportedContainerError(old.name, [f"{names}, made since the backup, depends on it"])
        return bound

    def _captured_as(self, container: Observed) -> ContainerSnapshot:
        if container.name not in self._captured:
            raise ValueError(f"container {container.name!r} is not part of this rollback")
        return self._captured[container.name]

    # The image

    def _made_from(self, old: Observed) -> str:
        """Return what a container was made from, by name if there is one."""
        reference, image_id = str(old.inspection["Config"]["Image"]), str(old.inspection["Image"])
        captured = self._captured_as(old).image
        if name_of(reference, image_id) is not None or captured.reference != reference:
            return reference
        return made_from(self._engine, old, known=captured.name)

    def _defaults_of(self, old: Observed, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a container with this `Config` has from the image that it was really made from."""
        origin = find_origin(self._engine, old)
        if origin.defaults is not None:
            return origin.defaults.among(config)
        try:
            return _config(self._engine.inspect_image(origin.image))
        except ImageNotFoundError:
            logger.warning("%s: what it has from its image is not known, and is kept as it is", old.name)
            return {}

    # The containers

    def _equal(self, one: Observed, inspection: Mapping[str, Any]) -> CreateRequest:
        """Return the request for an equal of a container that refers to others anew, from the very same image."""
        image = self._engine.inspect_image(str(one.inspection["Image"]))
        asked = asked_as_captured(inspection, self._captured_as(one).inspection)
        return equal_request(one, asked, image_config=_config(image))

    def _create(
        self,
        one: Observed,
        request: CreateRequest,
        made: list[Observed],
        *,
        platform: str | None = None,
        image_id: str | None = None,
    ) -> str:
        """Create the successor of a container under a name of ours, and return its id.

        With `image_id` it stands on that very image, even if the name in the request leads to another one.
        """
        # Noted first: a call whose answer is lost may have created it all the same.
        made.append(one)
        body = body_for(self._engine, request)
        if image_id is None:
            created = self._engine.create_container(_next_name(one), body, platform=platform)
        else:
            created = create_on(self._engine, _next_name(one), body, image_id)
        join(self._engine, created, request)
        return created

    def _take_back(self, made: Sequence[Observed]) -> None:
        """Remove the successors; nothing has been stopped or renamed yet."""
        for one in reversed(made):
            try:
                self._engine.remove_container(_next_name(one), force=True, volumes=True)
            except EngineError as error:
                logger.warning("%s: %s is left over: %s", one.name, _next_name(one), error)

    def _hand_over(self, one: Observed, successor: str) -> None:
        """Give the name of a stopped container to its successor."""
        with suppress(ContainerNotFoundError):  # its stop removed it (--rm)
            self._engine.rename_container(one.id, aside_name(one.name, one.id))
        self._engine.rename_container(successor, one.name)

    def _stop(self, one: Observed, *, aside: bool) -> None:
        """Stop a container; one that stays aside is held from starting, also after a reboot."""
        if aside and restarts(one.inspection["HostConfig"]):
            self._engine.update_container(one.id, {"RestartPolicy": dict(HELD)})
        if one.state.status == "paused":
            self._engine.unpause_container(one.id)
        if one.state.alive:
            self._reporter.down(one.name)
            self._engine.stop_container(one.id)

    def _start(self, old: Observed, one: Observed, standing: str) -> None:
        """Start a container; where the new one has ended, and those bound to it cannot start, that is what is told."""
        try:
            self._engine.start_container(standing)
            self._reporter.up(one.name)
        except EngineError as error:
            new = self._engine.inspect_container(old.name)
            if one is old or (observe(new).state.status == "running" and not new.get("RestartCount")):
                raise
            raise CheckedContainer.of(self._engine, old).reject(f"it ended before {one.name!r} could start") from error

    def _drop_between(self, one: Observed, standing: str) -> None:
        """Remove a container that is neither the captured one nor its last successor."""
        if one.id not in (standing, self._captured_as(one).id):
            self._engine.remove_container(one.id, force=True)


def _next_name(one: Observed) -> str:
    """Return the name of a container's successor until the container is stopped; a rollback removes what has it."""
    return f"{aside_name(one.name, one.id)}-next"


def _linked_to(inspection: Inspection, made: Sequence[Observed], ids: Mapping[str, str]) -> dict[str, Any]:
    """Return an inspection whose links lead to successors by their ids: their names are not theirs yet."""
    successors = {one.name: ids[one.id] for one in made if one.id in ids}
    links = []
    for link in inspection["HostConfig"].get("Links") or ():
        target, _, alias = str(link).partition(":")
        # An engine takes an alias for a path below the name of its container, which is not this one yet.
        links.append(f"{successors.get(target.removeprefix('/'), target)}:{alias.rpartition('/')[2]}")
    return {**inspection, "HostConfig": {**inspection["HostConfig"], "Links": links or None}}


def _config(image: Inspection) -> Mapping[str, Any]:
    config: Mapping[str, Any] = image.get("Config") or {}
    return config
