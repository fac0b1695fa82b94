"""The fixtures that every test on a real engine stands on."""

from __future__ import annotations

import docker


def test_busybox_runs(docker_client: docker.DockerClient, busybox_image: str) -> None:
    """The image that the tests make is enough to run a command and to keep a volume."""
    said = docker_client.containers.run(busybox_image, ["sh", "-c", "echo hi > /x/a; cat /x/a"], volumes=["/x"])
    assert said == b"hi\n"


def test_the_test_before_left_nothing(
    docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]
) -> None:
    """A container that a test leaves behind is gone when the next one starts."""
    (label,) = (f"{key}={value}" for key, value in test_labels.items())
    assert busybox_image.endswith(label.rpartition("=")[2])
    assert docker_client.containers.list(all=True, filters={"label": label}) == []
