"""What a container has of its image, and by which name it knows it."""

from __future__ import annotations

from typing import Any

import pytest

from docker_rollback import ImageNotFoundError
from tests.integration.matrix.lab import SERVICE, Case, Lab, table

ROWS, row = table()

_FULL: dict[str, Any] = {
    "Entrypoint": ["sh", "-c"],
    "Cmd": [SERVICE[2]],
    "Env": ["FROM_IMAGE=1", "PATH=/bin"],
    "ExposedPorts": {"80/tcp": {}},
    "Labels": {"from.image": "yes"},
    "Volumes": {"/kept": {}},
    "WorkingDir": "/var",
    "User": "nobody",
    "StopSignal": "SIGTERM",
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 300_000_000, "Retries": 7},
    "Shell": ["/bin/sh", "-ec"],
    "OnBuild": ["RUN true"],
}
"""Everything that an image can set."""


def _entry(lab: Lab, path: str = "Config.Entrypoint") -> list[str]:
    return list(lab.shown(path) or [])


@row
def everything_from_the_image(lab: Lab) -> Case:
    """A container that takes every setting from its image."""
    lab.image_with(**_FULL)

    def works() -> None:
        assert _entry(lab) == ["sh", "-c"]
        assert _entry(lab, "Config.Cmd") == [SERVICE[2]]
        assert lab.run("readlink /proc/1/cwd") == "/var"

    return Case(body={"Image": lab.image}, works=works)


@row
def everything_against_the_image(lab: Lab) -> Case:
    """A container that overrides every setting of its image."""
    lab.image_with(**_FULL)

    def works() -> None:
        assert _entry(lab) == ["sh"]
        assert lab.run("readlink /proc/1/cwd") == "/tmp"
        assert "FROM_IMAGE=2|" in lab.run("cat /proc/1/environ | tr '\\0' '|'")

    return Case(
        body={
            "Image": lab.image,
            "Entrypoint": ["sh"],
            "Cmd": SERVICE[1:],
            "Env": ["FROM_IMAGE=2"],
            "Labels": {"from.image": "no"},
            "WorkingDir": "/tmp",
            "User": "root",
            "StopSignal": "SIGKILL",
            "Healthcheck": {"Test": ["NONE"]},
        },
        works=works,
    )


@row
def cleared_entrypoint(lab: Lab) -> Case:
    """An entrypoint of the image that was cleared stays cleared; null would inherit it again."""
    lab.image_with(Entrypoint=["false"])

    def works() -> None:
        assert _entry(lab) in ([], [""])
        assert lab.run("tr '\\0' ' ' < /proc/1/cmdline").startswith("sh -c trap")

    return Case(body=lab.body(Entrypoint=[""]), works=works)


@row
def own_entrypoint_without_command(lab: Lab) -> Case:
    """An entrypoint of the user: the image's command does not apply any more."""
    lab.image_with(Cmd=["false"])

    def works() -> None:
        assert _entry(lab, "Config.Cmd") == []

    return Case(body={"Image": lab.image, "Entrypoint": SERVICE}, works=works)


@row
def own_command(lab: Lab) -> Case:
    """The image's entrypoint with a command of the user."""
    lab.image_with(Entrypoint=["sh"], Cmd=["-c", "false"])

    def works() -> None:
        assert _entry(lab) == ["sh"]
        assert _entry(lab, "Config.Cmd") == SERVICE[1:]

    return Case(body=lab.body(Cmd=SERVICE[1:]), works=works)


@row
def by_id(lab: Lab) -> Case:
    """A container made from an image's id says that id."""
    found = str(lab.engine.inspect_image(lab.image)["Id"])
    return Case(
        body=lab.body(Image=found),
        shows={"Config.Image": found},
        limit="it shows a name of an image for its id",
    )


@row
def by_short_id(lab: Lab) -> Case:
    """A container made from a short id says that short id."""
    found = str(lab.engine.inspect_image(lab.image)["Id"]).removeprefix("sha256:")[:12]
    return Case(
        body=lab.body(Image=found),
        shows={"Config.Image": found},
        limit="it shows a name of an image for its id",
    )


@row
def by_whole_name(lab: Lab) -> Case:
    """A container made from a name with its registry says it with the registry."""
    whole = f"docker.io/library/{lab.image}"
    return Case(body=lab.body(Image=whole), shows={"Config.Image": whole})


@row
def by_bare_name(lab: Lab) -> Case:
    """A container made from a name without registry says it without."""
    return Case(
        body=lab.body(),
        shows={"Config.Image": lab.image},
        limit="it shows the whole name of an image for a short one",
    )


@row
def by_digest(lab: Lab) -> Case:
    """A container made from a digest says that digest."""
    digests = lab.engine.inspect_image(lab.image).get("RepoDigests") or []
    if not digests:
        lab.cannot("it gives an image a digest only when a registry does, and no registry can be reached")
    try:
        lab.engine.inspect_image(digests[0])
    except ImageNotFoundError as error:
        pytest.fail(f"the engine does not know its own digest: {error}")
    return Case(
        body=lab.body(Image=digests[0]),
        shows={"Config.Image": digests[0]},
        limit="it shows a name of an image for its digest",
    )
