"""Implements the image methods of `DockerEngine`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

from docker import auth
from docker.utils import parse_repository_tag

from docker_rollback._engine.docker.errors import Asking
from docker_rollback._engine.docker.http import IDENTITY, Params, Upload, events, failure_in
from docker_rollback._engine.docker.references import FULL_ID, HEX, SHORTEST_ID, Referring
from docker_rollback._engine.port import Inspection
from docker_rollback.errors import EngineError, ImageNotFoundError

logger = logging.getLogger("docker_rollback")

_TAR_END: Final = bytes(1024)
_KEPT_END: Final = 8192


class DockerImages(Referring):
    """The image methods of `DockerEngine`."""

    def inspect_image(self, ref: str) -> Inspection:
        asking = Asking(f"inspect image {ref!r}", ImageNotFoundError, ref)
        found: Inspection = self._wire.json("GET", f"/images/{_path(ref, asking)}/json", asking)
        if not _is_meant(ref, found):
            raise ImageNotFoundError(ref, action=asking.action)
        return found

    def list_images(self, repository: str) -> list[str]:
        asking = Asking(f"list images of {repository!r}")
        # Podman adds its own registry to a name without one, and a pattern has to include it.
        patterns = [f"{repository}:*", f"localhost/{repository}:*"] if self._wire.podman else [f"{repository}:*"]
        params = {"filters": json.dumps({"reference": patterns})}
        found = self._wire.json("GET", "/images/json", asking, params=params) or []
        names = {str(name) for image in found for name in image.get("RepoTags") or []}
        bare = {name.removeprefix("localhost/").removeprefix("docker.io/library/") for name in names}
        return sorted(name for name in bare if name.rpartition(":")[0] == repository)

    def tag_image(self, ref: str, tag: str) -> None:
        asking = Asking(f"tag image {ref!r} as {tag!r}", ImageNotFoundError, ref)
        repository, version = split_tag(tag, asking)
        params = {"repo": repository, "tag": version}
        self._wire.json("POST", f"/images/{self._image(ref, asking)}/tag", asking, params=params)

    def remove_image(self, ref: str) -> None:
        asking = Asking(f"remove image {ref!r}", ImageNotFoundError, ref)
        # noprune: else the engine would also remove untagged parent images, which another backup may need.
        params = {"force": 0, "noprune": 1}
        with suppress(ImageNotFoundError):
            # Podman may have a short name as "localhost/..." and as "docker.io/library/...", and removes one at a time.
            for _ in range(2 if self._wire.podman and not ref.startswith("sha256:") else 1):
                self._wire.json("DELETE", f"/images/{self._image(ref, asking)}", asking, params=params, patient=True)

    def save_image(self, ref: str) -> Iterator[bytes]:
        """Stream the image. The call raises if the image is missing; other errors may come while streaming."""
        asking = Asking(f"save image {ref!r}", ImageNotFoundError, ref)
        path = f"/images/{self._image(ref, asking)}/get"
        response = self._wire.answer("GET", path, asking, headers=IDENTITY, patient=True)
        return _until_its_end(self._wire.blocks(response, asking), asking)

    def load_image(self, archive: Iterable[bytes]) -> None:
        self._upload("/images/load", {"quiet": 1}, archive, Asking("load an image"))

    def import_image(self, archive: Iterable[bytes], tag: str) -> str:
        asking = Asking(f"import image {tag!r}")
        repository, version = split_tag(tag, asking)
        before = self._id_of(tag)
        try:
            self._upload("/images/create", {"fromSrc": "-", "repo": repository, "tag": version}, archive, asking)
        except EngineError:
            self._take_back(tag, before)
            raise
        return str(self.inspect_image(tag)["Id"])

    def pull_image(self, ref: str, *, platform: str | None = None) -> str:
        asking = Asking(f"pull image {ref!r}", ImageNotFoundError, ref)
        _path(ref, asking)
        repository, version = parse_repository_tag(ref)
        with asking.translated():
            header = auth.get_config_header(self._wire.api, auth.resolve_repository_name(repository)[0])
        params = {"fromImage": repository, "tag": version or "latest"}
        if platform is not None:
            params["platform"] = platform
        answer = self._wire.answer(
            "POST",
            "/images/create",
            asking,
            params=params,
            # The registry credentials that the docker command would send.
            headers=IDENTITY | ({"X-Registry-Auth": header.decode()} if header else {}),
            patient=True,
        )
        for event in events(self._wire.blocks(answer, asking), asking):
            logger.debug("pull image %r: %s", ref, event.get("status"))
        return str(self.inspect_image(ref)["Id"])

    def _upload(self, path: str, params: Params, archive: Iterable[bytes], asking: Asking) -> None:
        answer = self._wire.answer(
            "POST", path, asking, params=params, body=Upload(archive), headers=IDENTITY, patient=True
        )
        for _ in events(self._wire.blocks(answer, asking), asking):
            # Progress is ignored; `events` raises a reported failure.
            pass

    def _id_of(self, tag: str) -> str | None:
        with suppress(ImageNotFoundError):
            return str(self.inspect_image(tag)["Id"])
        return None

    def _take_back(self, tag: str, before: str | None) -> None:
        # The containerd store tags an image before it finds that it cannot unpack it.
        with suppress(EngineError):
            if self._id_of(tag) == before:
                return
            if before is None:
                self.remove_image(tag)
            else:
                self.tag_image(before, tag)

    def _image(self, ref: str, asking: Asking) -> str:
        if HEX.fullmatch(ref):
            self.inspect_image(ref)
        return _path(ref, asking)


def image_id(digest: str) -> str:
    """Return an image's id in the form of an inspection; Podman sometimes omits the algorithm."""
    return digest if digest.startswith("sha256:") else f"sha256:{digest}"


def split_tag(tag: str, asking: Asking) -> tuple[str, str]:
    """Return the repository and the tag of ``repository:tag``."""
    repository, colon, version = tag.rpartition(":")
    if not colon or "/" in version or not repository or not version:
        raise EngineError(asking.action, f"{tag!r} is not of the form repository:tag")
    return repository, version


def _path(ref: str, asking: Asking) -> str:
    if not ref or ".." in ref or "//" in ref or ref.startswith("/") or ref.endswith("/"):
        raise ImageNotFoundError(ref, action=asking.action)
    return quote(f"sha256:{ref}" if FULL_ID.fullmatch(ref) else ref, safe="/:@")


def _is_meant(ref: str, image: Inspection) -> bool:
    """Return False for an image that was found only because its id starts with the name."""
    if HEX.fullmatch(ref) is None or len(ref) >= SHORTEST_ID:
        return True
    return any(str(tag).rpartition("/")[2] == f"{ref}:latest" for tag in image.get("RepoTags") or [])


def _until_its_end(blocks: Iterator[bytes], asking: Asking) -> Iterator[bytes]:
    """Pass on the blocks of a tar, and check that it is complete.

    If an engine fails half way, it has already sent a good status. It ends the stream regularly, with an error message
    in place of the end of the tar.
    """
    end = b""
    for block in blocks:
        end = (end + block)[-_KEPT_END:] if len(block) < _KEPT_END else block[-_KEPT_END:]
        yield block
    if not end.endswith(_TAR_END):
        raise asking.failed(_words(end.rpartition(b"\0")[2].decode("utf-8", "replace")) or "the archive is truncated")


def _words(text: str) -> str:
    """Return the engine's error message at the end of a truncated tar; empty if the text is file content."""
    start = text.find('{"')
    if start < 0:
        return ""
    try:
        answer: Mapping[str, Any] = json.loads(text[start:])
    except ValueError:
        return ""
    return failure_in(answer) or str(answer)
