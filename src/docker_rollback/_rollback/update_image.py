"""Finds or pulls the image of an update, checks its platform, and compares it with the running image."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias, get_args

from attrs import evolve, frozen

from docker_rollback._arguments import one_of, text
from docker_rollback._containers import earlier_name, find_origin, image_id_of, is_ours, name_of
from docker_rollback._engine import Engine, Inspection
from docker_rollback._inspection import Changes, CreateRequest, update_request
from docker_rollback._model import Observed
from docker_rollback._reporting import Reporter
from docker_rollback._store import BackupStore
from docker_rollback.errors import ImageNotFoundError, ImagePlatformError

Pull: TypeAlias = Literal["missing", "always", "never"]
"""When to pull an image from its registry: if the engine does not have it, always, or never."""

_GO_NAMES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386"}
"""Kernel architectures whose name in images differs."""

_ALSO_RUNS: Final = {"amd64": ("386",), "arm64": ("arm",)}
"""Other architectures that a kernel runs."""


@frozen
class UpdateImage:
    """The image for a container's replacement.

    Attributes:
        reference: its name, digest or id; None for the name that the container was created from.
        pull: when to pull it from its registry.
        platform: the platform of a multi-platform image; None for the engine's choice.
        id: the id of the image, if `find_ahead` has found it; None otherwise.
    """

    reference: str | None = None
    pull: Pull = "missing"
    platform: str | None = None
    id: str | None = None

    def __attrs_post_init__(self) -> None:
        one_of("pull", self.pull, get_args(Pull))
        text("image", self.reference, what="the name or id of an image", optional=True)
        text("platform", self.platform, what="a platform, such as 'linux/arm64'", optional=True)

    def find(self, engine: Engine, reference: str, *, reporter: Reporter) -> Inspection:
        """Return the image's inspection; pull the image if `pull` says so. Raises an `EngineError` if there is none."""
        if self.id is not None:
            # If the image that `find_ahead` found has been removed since, it is looked up, or pulled, again.
            with suppress(ImageNotFoundError):
                name = name_of(reference, self.id)
                if name is not None and image_id_of(engine, name) != self.id:
                    engine.tag_image(self.id, name)
                return engine.inspect_image(self.id)
        if self.pull != "always":
            try:
                found = engine.inspect_image(reference)
            except ImageNotFoundError:
                if self.pull == "never":
                    raise
            else:
                if self.pull == "never" or self._is_of_platform(found):
                    return found
        reporter.announce("pull", reference)
        return engine.inspect_image(engine.pull_image(reference, platform=self.platform))

    def find_ahead(
        self, engine: Engine, store: BackupStore, old: Observed, changes: Changes, *, reporter: Reporter
    ) -> UpdateImage | None:
        """Find the image before the backup, while the service still runs; return a copy of this with its id.

        Return None if the container already runs that image and nothing else differs. Backups in the store may know the
        name that the container was created from; raises `ValueError` if that is unknown and no image is given, and
        `EngineError` or `ImagePlatformError` if there is no such image for this engine.
        """
        known = earlier_name(store, old.name, str(old.inspection["Image"]))
        reference = self.reference or made_from(engine, old, known=known)
        before = image_id_of(engine, reference)
        found = self.find(engine, reference, reporter=reporter)
        image_id = str(found["Id"])
        name = name_of(reference, image_id)
        # The capture records the image that the name has, and a rollback restores that. So a name that the pull has
        # moved is moved back for now.
        if before not in (None, image_id) and name is not None:
            engine.tag_image(str(before), name)
        check_platform(engine, old, reference, found)
        if (
            _is_made_from(engine, old, reference, image_id)
            and self._is_of_platform(found)
            and _changes_nothing(old, found, changes)
        ):
            return None
        return evolve(self, reference=reference, id=image_id)

    def _is_of_platform(self, found: Inspection) -> bool:
        return self.platform is None or _platform(found).split("/") == self.platform.split("/")[:2]


def made_from(engine: Engine, container: Observed, *, known: str | None) -> str:
    """Return the reference that a container was created from, a name if possible.

    `known` is the name in a backup, if an earlier rollback recreated the container without that name. Raises
    `ValueError` if the name is unknown then.
    """
    reference, image_id = str(container.inspection["Config"]["Image"]), str(container.inspection["Image"])
    if name_of(reference, image_id) is not None:
        return reference
    if known is not None:
        return known
    if find_origin(engine, container).image != image_id:
        raise ValueError(
            f"an earlier rollback could not create container {container.name!r} by the name of its image, and no "
            "backup in the store knows that name: pass image="
        )
    # A name of ours may be gone.
    return image_id if is_ours(reference) else reference


def check_platform(engine: Engine, old: Observed, image: str, found: Inspection) -> None:
    """Raise `ImagePlatformError` if the engine cannot run an image, unless it runs that platform already."""
    wanted = _platform(found)
    if wanted == _platform(engine.inspect_image(str(old.inspection["Image"]))):
        return
    kernel = engine.info().architecture
    own = _GO_NAMES.get(kernel, kernel)
    system, _, architecture = wanted.partition("/")
    if system not in ("linux", "") or architecture.partition("/")[0] not in (own, *_ALSO_RUNS.get(own, ()), ""):
        raise ImagePlatformError(image, wanted, f"linux/{own}")


def _platform(image: Inspection) -> str:
    return f"{image.get('Os') or ''}/{image.get('Architecture') or ''}"


def _is_made_from(engine: Engine, container: Observed, reference: str, image_id: str) -> bool:
    """Return True if a container was created from this image, and by this name if `reference` is one."""
    if container.inspection["Image"] != image_id:
        return False
    name = name_of(reference, image_id)
    if (name is None and "@" not in reference) or engine.info().flavour == "podman":
        # An id is not a name, and Podman reports any of an image's names.
        return True
    used = str(container.inspection["Config"]["Image"])
    return reference == used or (name is not None and name == name_of(used, image_id))


def _changes_nothing(old: Observed, found: Inspection, changes: Changes) -> bool:
    defaults: Mapping[str, Any] = found.get("Config") or {}

    def request(chosen: Changes) -> CreateRequest:
        made = update_request(old, image="", image_id="", defaults=defaults, changes=chosen)
        return evolve(made, body={**made.body, "Env": sorted(made.body["Env"])})

    return request(changes) == request(Changes())
