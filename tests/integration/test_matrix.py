"""Every weird container, made again from what its engine says of it, and by a backup: an equal, and it works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest

from docker_rollback import BackupStore, backup, compare, restore
from docker_rollback._inspection.compare import compare_networks
from docker_rollback._inspection.recreate import create_request, observe
from tests.integration.matrix import Case, Fate, Lab, Row, rows, rows_with_fates


@pytest.fixture
def lab(docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> Iterator[Lab]:
    """An engine with names that belong to one row alone."""
    lab = Lab(docker_client, busybox_image, test_labels)
    yield lab
    lab.clear()


@pytest.mark.parametrize("row", rows())
def test_an_equal_container_is_made(row: Row, lab: Lab) -> None:
    """Nothing differs between a container and the one made from its inspection; both do their work."""
    case = row(lab)
    lab.stand(case)
    before = lab.inspect()
    lab.engine.remove_container(lab.name, force=True, volumes=True)
    _make_again(lab, case, before)
    assert _differences(case, before, lab.inspect()) == []
    case.works()
    kept = {mount.destination for mount in observe(before).mounts if mount.kind == "volume" and not mount.anonymous}
    for path, content in case.data.items():
        if path.rpartition("/")[0] in kept:
            assert lab.run(f"cat {path}") == content


@pytest.mark.parametrize(("row", "fate"), rows_with_fates())
def test_a_backup_puts_it_back(row: Row, fate: Fate, lab: Lab, tmp_path: Path) -> None:
    """A backup changes nothing; it brings back a container whose volumes, networks and image went with it."""
    lab.own_image()
    case = row(lab)
    lab.stand(case)
    before, networks = lab.inspect(), lab.networks()
    store = BackupStore(tmp_path / "store")
    taken = backup(lab.name, client=lab.client, store=store, shared="stop")
    assert _differences(case, before, lab.inspect()) == []
    lab.forget(fate)
    assert restore(taken, client=lab.client, store=store) == [lab.name]
    for name, found in lab.networks().items():
        assert [str(one) for one in compare_networks(networks[name], found)] == []
    allowed = {"Image", "Config.Image"} if lab.podman and case.written else set()
    if fate != "moved tag" and "@" in before["Config"]["Image"]:
        # Only a registry gives an image the digest by which it was named.
        allowed.add("Config.Image")
    assert {found.partition(":")[0] for found in _differences(case, before, lab.inspect())} <= allowed
    case.works()
    for path, content in case.data.items():
        assert lab.run(f"cat {path}") == content


def _make_again(lab: Lab, case: Case, before: Mapping[str, Any]) -> None:
    image = str(before["Config"]["Image"])
    config = lab.engine.inspect_image(image).get("Config") or {}
    request = create_request(before, image=image, image_config=config)
    # One that was stopped would have to run for that; it comes back as it was created.
    lab.make(request.name, request.body, request.networks, "created" if case.state == "exited" else case.state)


def _differences(case: Case, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what differs, but for the state of one that was stopped: made anew, it has not run."""
    found = compare(before, after)
    return [str(one) for one in found if not (case.state == "exited" and one.path.startswith("State."))]
