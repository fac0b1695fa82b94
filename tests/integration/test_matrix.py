"""Every weird container, made again from what its engine says of it: an equal, and it works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import docker
import pytest

from docker_rollback import compare
from docker_rollback._spec import create_request, observe
from tests.integration.matrix import Case, Lab, Row, rows


@pytest.fixture
def lab(docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> Iterator[Lab]:
    """An engine with names that belong to one row alone."""
    lab = Lab(docker_client, busybox_image, test_labels)
    yield lab
    lab.clear()


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.__module__.rpartition('.')[2]}-{row.__name__}")
def test_an_equal_container_is_made(row: Row, lab: Lab) -> None:
    """Nothing differs between a container and the one made from its inspection; both do their work."""
    case = row(lab)
    lab.stand(case)
    before = lab.inspect()
    lab.engine.remove_container(lab.name, force=True, volumes=True)
    _make_again(lab, case, before)
    assert [str(found) for found in compare(before, lab.inspect()) if _counts(case, found.path)] == []
    case.works()
    kept = {mount.destination for mount in observe(before).mounts if mount.kind == "volume" and not mount.anonymous}
    for path, content in case.data.items():
        if path.rpartition("/")[0] in kept:
            assert lab.run(f"cat {path}") == content


def _make_again(lab: Lab, case: Case, before: Mapping[str, Any]) -> None:
    image = str(before["Config"]["Image"])
    config = lab.engine.inspect_image(image).get("Config") or {}
    request = create_request(before, image=image, image_config=config)
    # One that was stopped would have to run for that; it comes back as it was created.
    lab.make(request.name, request.body, request.networks, "created" if case.state == "exited" else case.state)


def _counts(case: Case, path: str) -> bool:
    return not (case.state == "exited" and path.startswith("State."))
