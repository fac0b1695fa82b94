"""The image of an update: found or fetched, checked for its platform, and compared with the image that runs now."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias, get_args

from attrs import evolve, frozen

from docker_rollback._arguments import one_of, text
from docker_rollback._containers import earlier_name, find_origin, led_to, name_of
from docker_rollback._engine import Engine, Inspection
from docker_rollback._inspection import Changes, CreateRequest, update_request
from docker_rollback._model import Observed
from docker_rollback._reporting import Reporter
from docker_rollback._store import BackupStore
from docker_rollback.errors import ImageNotFoundError, ImagePlatformError

Pull: TypeAlias = Literal["missing", "always", "never"]
"""When an image is fetched from its registry: where the engine does not have it, in any case, or not at all."""

_GO_NAMES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386"}
"""The architectures of kernels, as images name them, where that differs."""

_ALSO_RUNS: Final = {"amd64": ("386",), "arm64": ("arm",)}
"""What a kernel of an architecture runs as well."""


@frozen
class UpdateImage:
    """The image that a container is to be replaced from.

    Attributes:
        reference: its name, digest or id; None for what the container was made from.
        pull: when it is fetched from its registry.
        platform: which of several platforms of it; None for the engine's choice.
        id: the id of the image that was found ahead of the block; None if nobody looked.
    """

    reference: str | None = None
    pull: Pull = "missing"
    platform: str | None = None
    id: str | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse an argument that is wrong."""
        one_of("pull", self.pull, get_args(Pull))
        text("image", self.reference, what="the name or id of an image", optional=True)
        text("platform", self.platform, what="a platform, such as 'linux/arm64'", optional=True)

    def find(self, engine: Engine, reference: str, *, reporter: Reporter) -> Inspection:
        """Return the image's inspection; fetch it if `pull` says so.

        An image that was found ahead is taken as it was found, and its name leads to it from now on. If somebody
        removed it meanwhile, it is fetched again.

        Args:
            engine: where it is.
            reference: its name, digest or id.
            reporter: is told of a fetch.

        Raises:
            ImageNotFoundError, EngineError: the engine does not have it and cannot fetch it.
        """
        if self.id is not None:
            with suppress(ImageNotFoundError):
                name = name_of(reference, self.id)
                if name is not None and led_to(engine, name) != self.id:
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
        """Find the image while the service still runs, before anything is captured; return this with its id.

        If a fetch moves the name, it is led back to the image that it led to: a capture records that, and a rollback
        leads the name there.

        Args:
            engine: where it is.
            store: whose backups may know what the container was made from.
            old: the container that is replaced.
            changes: what else shall differ.
            reporter: is told of a fetch.

        Returns:
            None if the container runs that very image and nothing else shall differ.

        Raises:
            ValueError: no image is given, and none can be known.
            ImageNotFoundError, ImagePlatformError, EngineError: there is no such image for this engine.
        """
        known = earlier_name(store, old.name, str(old.inspection["Image"]))
        reference = self.reference or made_from(engine, old, known=known)
        before = led_to(engine, reference)
        found = self.find(engine, reference, reporter=reporter)
        image_id = str(found["Id"])
        name = name_of(reference, image_id)
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
    """Return what a container was made from, by name if there is one.

    Args:
        engine: where it is.
        container: as it stands.
        known: the name that a backup knows, if an earlier rollback created the container by the id of its image.

    Raises:
        ValueError: an earlier rollback created it by an id, and nobody knows the name.
    """
    reference, image_id = str(container.inspection["Config"]["Image"]), str(container.inspection["Image"])
    if name_of(reference, image_id) is not None:
        return reference
    if known is not None:
        return known
    if find_origin(engine, container).image != image_id:
        raise ValueError(
            f"container {container.name!r} was created by the id of an image of an earlier rollback, and no backup in "
            "the store knows the name that it was made from before: say which image, by image="
        )
    return reference


def check_platform(engine: Engine, old: Observed, image: str, found: Inspection) -> None:
    """Raise if an image is for another platform than the engine's, unless the container's own was so as well.

    Raises:
        ImagePlatformError: the engine's kernel does not run it.
    """
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
    """Return True if a container was made from this image, and by this name if `reference` is one."""
    if container.inspection["Image"] != image_id:
        return False
    name = name_of(reference, image_id)
    if (name is None and "@" not in reference) or engine.info().flavour == "podman":
        # An id is no name, and of several names of one image Podman shows any.
        return True
    used = str(container.inspection["Config"]["Image"])
    return reference == used or (name is not None and name == name_of(used, image_id))


def _changes_nothing(old: Observed, found: Inspection, changes: Changes) -> bool:
    """Return True if a container has everything already that is to differ."""
    defaults: Mapping[str, Any] = found.get("Config") or {}

    def request(what: Changes) -> CreateRequest:
        made = update_request(old, image="", image_id="", defaults=defaults, changes=what)
        return evolve(made, body={**made.body, "Env": sorted(made.body["Env"])})

    return request(changes) == request(Changes())
