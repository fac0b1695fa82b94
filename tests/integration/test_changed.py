"""What the layers tell of a container's changes, beside what its engine tells."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import docker
import pytest

from docker_rollback import BackupStore, backup
from docker_rollback._containers.overlay_changes import changes
from docker_rollback._engine.docker.engine import DockerEngine

pytestmark = pytest.mark.engine

BUILD = r"""
mkdir -p /lab/kept/deep /lab/emptied /lab/remade /lab/to-file /lab/moved /lab/replaced
for name in same touched longer gone linked mode owner opened kept/deep/file emptied/file remade/file replaced/file; do
    echo "$name" > "/lab/$name"
done
echo file > /lab/to-folder
ln -s /etc /lab/link
mkfifo /lab/pipe
"""
WORK = r"""
cd /lab
touch -d 2001-02-03 touched
echo more >> longer
rm gone
ln linked again
chmod 700 mode
chown 12:34 owner
exec 3<> opened; exec 3>&-
touch kept/deep/new
rm emptied/file
rm -r remade; mkdir remade; touch remade/other
rm -r to-file; touch to-file
rm link; ln -s /tmp link
rm pipe
mv moved moved-away
rm -r replaced
mknod device c 1 7
chmod 711 /srv-of-the-engine 2>/dev/null
mkdir -p /made/by/hand
"""
BEYOND_PODMAN = "rm to-folder; mkdir to-folder; touch to-folder/file"
"""Podman 5.8 fails when it is asked for the changes after that."""
TOLD_OTHERWISE = {
    # A link that leads elsewhere, by as many letters, within the same second.
    "docker": {"/lab/link"},
    # What was copied up and is the same as before; and a folder that was made anew, as one that is gone.
    "podman": {"/lab/linked", "/lab/opened", "/lab/remade", "/lab/remade/file"},
}


@pytest.mark.parametrize("work", ["", WORK], ids=["nothing", "much"])
def test_the_layers_tell_what_the_engine_tells(
    docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str], work: str
) -> None:
    """Every kind of change, also of an image of several layers, and with places for mounts."""
    engine = DockerEngine(docker_client)
    if work and engine.info().flavour != "podman":
        work += BEYOND_PODMAN
    made = docker_client.containers.create(busybox_image, ["sh", "-ec", BUILD], labels=test_labels)
    made.start()
    assert made.wait()["StatusCode"] == 0, made.logs()
    image = made.commit()
    try:
        container = docker_client.containers.create(
            image,
            ["sh", "-c", work or "true"],
            labels=test_labels,
            volumes=["/var/lib/place/below"],
        )
        container.start()
        container.wait()
        inspection = engine.inspect_container(str(container.id))
        told = {change.path: change.kind for change in engine.container_changes(str(container.id))}
        seen = changes(inspection, most=1000)
        if os.geteuid() == 0 and (inspection.get("GraphDriver") or {}).get("Data"):
            assert seen is not None
            odd = {path for path, _ in seen.items() ^ told.items()}
            assert odd <= TOLD_OTHERWISE[engine.info().flavour]
        else:
            assert seen is None
        container.remove(v=True, force=True)
    finally:
        docker_client.images.remove(str(image.id), force=True)


def test_a_folder_in_the_place_of_a_file_is_backed_up(
    docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str], tmp_path: Path
) -> None:
    """Podman 5.8 fails when it is asked what has changed then; that it has is enough to know."""
    container = docker_client.containers.create(
        busybox_image,
        ["sh", "-c", "rm /etc/passwd; mkdir /etc/passwd; touch /etc/passwd/file"],
        name=f"replaced-{secrets.token_hex(4)}",
        labels=test_labels,
    )
    container.start()
    container.wait()
    taken = backup(str(container.name), client=docker_client, store=BackupStore(tmp_path / "store"))
    assert not taken.containers[0].image.clean
