"""Replaces a container by one of another image, along with the containers that depend on it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from attrs import evolve

from docker_rollback._containers import body_for, create_on, find_containers, find_image, find_origin, join, name_of
from docker_rollback._engine import ContainerFilter, Engine, Inspection
from docker_rollback._inspection import (
    HELD,
    Changes,
    CreateRequest,
    StartOrder,
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
from docker_rollback._threads import each_at_once, raise_first
from docker_rollback.errors import (
    ContainerNotFoundError,
    EngineError,
    UnsupportedContainerError,
    UpdateRejectedError,
)

logger = logging.getLogger("docker_rollback")


class Replacer:
    """Replaces containers of one backup, and no others."""

    def __init__(self, engine: Engine, backup: Backup, *, reporter: Reporter | None = None) -> None:
        self._engine = engine
        self._reporter = reporter or Reporter()
        self._captured = {container.name: container for container in backup.containers}
        self._half_replaced: dict[str, BaseException] = {}

    def replace(self, reference: str, image: UpdateImage, changes: Changes) -> str:
        """Replace a container as `Rollback.replace` does; the new one has its name and its previous state.

        The new container is created under a temporary name. It gets its own once the old one is stopped and renamed.
        Containers that depend on the old one stop before it and start after the new one; those that refer to it by id
        are recreated. If a dependent container cannot start because the new one has ended, the update is rejected.
        """
        old = observe(self._engine.inspect_container(reference))
        dependents = start_order(self._dependents(old))
        asked = asked_as_captured(old.inspection, self._captured_as(old).inspection)
        wanted = image.reference or self._made_from(old)
        found = image.find(self._engine, wanted, reporter=self._reporter)
        check_platform(self._engine, old, wanted, found)
        request = update_request(
            evolve(old, inspection=asked),
            image=wanted,
            image_id=str(found["Id"]),
            defaults=self._defaults_of(old, asked["Config"]),
            changes=changes,
        )
        self._reporter.announce("replace", old.name)
        made: list[Observed] = []
        try:
            ids = {old.id: self._create(old, request, made, platform=image.platform)}
            self._create_dependents(dependents, ids, made)
        except BaseException:
            self._discard(made)
            raise
        try:
            self._switch((old, *dependents), ids, made)
        except BaseException as error:
            self._half_replaced[old.name] = error
            raise
        self._half_replaced.pop(old.name, None)
        return ids[old.id]

    def check(self) -> None:
        """Raise `UpdateRejectedError` if a replacement failed half way, even if the block caught its error."""
        for name, error in self._half_replaced.items():
            raise UpdateRejectedError(name, f"its replacement failed half way ({type(error).__name__})") from error

    def _dependents(self, old: Observed) -> tuple[Observed, ...]:
        """Return the containers that depend on the old one. Raises an error if one is not part of the backup."""
        others = find_containers(self._engine, ContainerFilter(), but={old.id})
        bound = bound_to([old], [other for other in others if not is_aside(other.name)])
        unknown = [other.name for other in bound if other.name not in self._captured]
        if unknown:
            names = ", ".join(repr(name) for name in unknown)
            raise UnsupportedContainerError(old.name, [f"{names}, created since the backup, depends on it"])
        return bound

    def _captured_as(self, container: Observed) -> ContainerSnapshot:
        if container.name not in self._captured:
            raise ValueError(f"container {container.name!r} is not part of this rollback")
        return self._captured[container.name]

    # The image

    def _made_from(self, old: Observed) -> str:
        reference, image_id = str(old.inspection["Config"]["Image"]), str(old.inspection["Image"])
        # If an earlier rollback recreated the container without that name, only the backup knows it.
        captured = self._captured_as(old).image
        if name_of(reference, image_id) is not None or captured.reference != reference:
            return reference
        return made_from(self._engine, old, known=captured.name)

    def _defaults_of(self, old: Observed, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the part of a configuration that comes from the image that the container was first created from."""
        origin = find_origin(self._engine, old)
        if origin.defaults is not None:
            return origin.defaults.among(config)
        image = find_image(self._engine, origin.image)
        if image is None:
            logger.warning("%s: the defaults of its image are unknown, so its configuration is kept as it is", old.name)
            return {}
        return _config(image)

    # The containers

    def _equal(self, one: Observed, inspection: Mapping[str, Any]) -> CreateRequest:
        """Return the request for an equal container from the same image, with new references to other containers."""
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
        """Create the successor of a container under a temporary name, and return its id.

        With `image_id` it is created from exactly that image, even if the request's name names another one.
        """
        # Added before the call: if its answer is lost, the container may exist nevertheless.
        made.append(one)
        body = body_for(self._engine, request)
        if image_id is None:
            created = self._engine.create_container(_next_name(one), body, platform=platform)
        else:
            tag = self._captured_as(one).image.tag
            created = create_on(self._engine, _next_name(one), body, image_id, tag=tag).id
        join(self._engine, created, request)
        return created

    def _create_dependents(self, dependents: Sequence[Observed], ids: dict[str, str], made: list[Observed]) -> None:
        """Create the successors of dependents that refer to a replaced container by its id; add them to `ids`."""
        for one in dependents:
            inspection, config = with_ids(one.inspection, ids), one.inspection["HostConfig"]
            # An engine stores the id of a link's target, so even a link by name needs a new container.
            if inspection["HostConfig"] != config or config.get("Links"):
                equal = self._equal(one, _linked_to(inspection, made, ids))
                ids[one.id] = self._create(one, equal, made, image_id=str(one.inspection["Image"]))

    def _discard(self, made: Sequence[Observed]) -> None:
        """Remove the successors, before anything has been stopped or renamed."""
        for one in reversed(made):
            try:
                self._engine.remove_container(_next_name(one), force=True, volumes=True)
            except EngineError as error:
                logger.warning("%s: could not remove its successor %s: %s", one.name, _next_name(one), error)

    def _switch(self, containers: Sequence[Observed], ids: Mapping[str, str], made: Sequence[Observed]) -> None:
        """Stop `containers`, give the names of those in `made` to their successors, and start what ran before."""
        states = {one.name: self._captured_as(one).state for one in containers}
        order = StartOrder.of(containers)

        def start(one: Observed) -> None:
            current = ids.get(one.id, one.id)
            if states[one.name].alive:
                self._start(containers[0], one, current)
            if states[one.name].status == "paused":
                self._engine.pause_container(current)

        raise_first(
            each_at_once(
                containers,
                lambda one: self._stop(one, replaced=one.id in ids),
                order.stops_after,
                after_error=False,
            )
        )
        # No running container is renamed. An engine refuses that on an overlay network, and on any network the name
        # would not resolve until the new container runs.
        for one in made:
            self._swap_names(one, ids[one.id])
        raise_first(each_at_once(containers, start, order.starts_after, after_error=False))
        for one in reversed(containers):
            self._remove_intermediate(one, ids.get(one.id, one.id))

    def _swap_names(self, one: Observed, successor: str) -> None:
        with suppress(ContainerNotFoundError):  # a --rm container was removed by its stop
            self._engine.rename_container(one.id, aside_name(one.name, one.id))
        self._engine.rename_container(successor, one.name)

    def _stop(self, one: Observed, *, replaced: bool) -> None:
        """Stop a container; one that is replaced must not start again, even after a reboot."""
        if replaced and restarts(one.inspection["HostConfig"]):
            self._engine.update_container(one.id, {"RestartPolicy": dict(HELD)})
        if one.state.status == "paused":
            self._engine.unpause_container(one.id)
        if one.state.alive:
            self._reporter.down(one.name)
            self._engine.stop_container(one.id)

    def _start(self, old: Observed, one: Observed, current: str) -> None:
        """Start a container. Raises `UpdateRejectedError` if it cannot start because the new container has ended."""
        try:
            self._engine.start_container(current)
            self._reporter.up(one.name)
        except EngineError as error:
            new = self._engine.inspect_container(old.name)
            if one is old or (observe(new).state.status == "running" and not new.get("RestartCount")):
                raise
            raise CheckedContainer.of(self._engine, old).reject(f"it ended before {one.name!r} could start") from error

    def _remove_intermediate(self, one: Observed, current: str) -> None:
        """Remove a container of an earlier `replace`: neither the captured one nor its last successor."""
        if one.id not in (current, self._captured_as(one).id):
            self._engine.remove_container(one.id, force=True)


def _next_name(one: Observed) -> str:
    """Return the temporary name of a container's successor; a rollback removes a container of that name."""
    return f"{aside_name(one.name, one.id)}-next"


def _linked_to(inspection: Inspection, made: Sequence[Observed], ids: Mapping[str, str]) -> dict[str, Any]:
    """Return an inspection whose links name the successors by id, because these do not have their names yet."""
    successors = {one.name: ids[one.id] for one in made if one.id in ids}
    links = []
    for link in inspection["HostConfig"].get("Links") or ():
        target, _, alias = str(link).partition(":")
        # An engine reports an alias as a path below the container's name, which the successor does not have yet.
        links.append(f"{successors.get(target.removeprefix('/'), target)}:{alias.rpartition('/')[2]}")
    return {**inspection, "HostConfig": {**inspection["HostConfig"], "Links": links or None}}


def _config(image: Inspection) -> Mapping[str, Any]:
    config: Mapping[str, Any] = image.get("Config") or {}
    return config
