"""Names of images on a real engine: many rollbacks at once, processes that die, and somebody who uses the name."""

from __future__ import annotations

import random
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import docker
import pytest
from docker.errors import ImageNotFound

from docker_rollback import (
    BackupStore,
    DockerEngine,
    RollbackRequested,
    Status,
    UnfinishedElsewhereError,
    compare,
    recover,
    rollback,
)
from tests.engines.images import busybox_tar
from tests.integration.registry import digest_of, registry_of
from tests.programs import run_in
from tests.removal import remove_container

pytestmark = pytest.mark.engine

CHILD = """
import os, signal, sys
import docker
from docker_rollback import DockerEngine, RollbackRequested, UnfinishedElsewhereError, recover, rollback
from docker_rollback.testing import FailingEngine
url, store, name, tag, built, dies, mode = sys.argv[1:]
client = docker.DockerClient(base_url=url, timeout=120)
class Engine(FailingEngine):
    def pass_on(self, verb, work, *arguments):
        answer = super().pass_on(verb, work, *arguments)
        if self.count == int(dies):
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
engine = Engine(DockerEngine(client))
if mode == "recover":
    try:
        recover(client=engine, store=store)
    except UnfinishedElsewhereError:
        pass
    sys.exit()
with rollback(name, client=engine, store=store, verify=None):
    if built:
        client.api.tag(built, *tag.rsplit(":", 1))
    client.api.remove_container(name, force=True, v=True)
    raise RollbackRequested
"""

PASSER_BY = """
import sys
import docker
from docker.errors import NotFound
url, tag, name, *images = sys.argv[1:]
client = docker.DockerClient(base_url=url, timeout=120)
print("begun", flush=True)
while True:
    made = client.api.create_container(tag, ["true"], name=name)["Id"]
    image = client.api.inspect_container(made)["Image"]
    try:
        _, found = client.api.get_archive(made, "/tmp/dirty")
        print("another container's file", flush=True)
    except NotFound:
        pass
    if "sha256:" + image.removeprefix("sha256:") not in images:
        print("another container's image", image, flush=True)
    client.api.remove_container(made, v=True)
    print("round", flush=True)
"""

SERVICE = 'trap "exit 0" TERM; mkdir -p /tmp; test -z "$OWN" || echo "$OWN" > /tmp/dirty; while :; do sleep 0.2; done'


class Street:
    """Containers that were made from one name, and processes that update them."""

    def __init__(self, url: str, client: docker.DockerClient, image: str, folder: Path) -> None:
        self.url, self.client, self.folder = url, client, folder
        self.engine = DockerEngine(client)
        self.token = secrets.token_hex(4)
        self.tag = f"names-{self.token}:1"
        # An image of its own: another name would hold it.
        made = client.api.create_container(image, ["sh"], name=f"names-{self.token}")["Id"]
        client.api.commit(made, f"names-{self.token}", "1", changes=f"LABEL names={self.token}")
        client.api.remove_container(made)
        self.first = self.id_of(self.tag)
        self.ended = ExitStack()

    def id_of(self, reference: str) -> str:
        """Return the id of the image that a reference leads to."""
        return str(self.engine.inspect_image(reference)["Id"])

    def build(self) -> str:
        """Make an image as an update builds one; return its id."""
        made = self.client.api.create_container(self.tag, ["sh"], name=f"build-{secrets.token_hex(4)}")["Id"]
        changes = f"LABEL built={secrets.token_hex(4)}"
        found = self.client.api.commit(made, f"names-built-{secrets.token_hex(4)}", "1", changes=changes)["Id"]
        self.client.api.remove_container(made)
        return self.id_of(found)

    def stand(self, name: str, own: str) -> str:
        """Run a container that writes into its own layer, unless `own` is empty; return its name."""
        whole = f"{name}-{self.token}"
        self.client.containers.run(
            self.tag, ["sh", "-c", SERVICE], name=whole, detach=True, environment={"OWN": own} if own else {}
        )
        while own and self.read(whole) != own:
            pass
        return whole

    def read(self, name: str) -> str:
        """Return what a container has written into its own layer."""
        code, output = run_in(self.client, name, ["cat", "/tmp/dirty"])
        return "" if code else output.strip()

    def child(
        self, name: str, store: Path, *, built: str = "", dies: int = -1, mode: str = ""
    ) -> subprocess.Popen[str]:
        """Begin a process that rolls an update of one container back, or recovers a store."""
        command = [sys.executable, "-c", CHILD, self.url, str(store), name, self.tag, built, str(dies), mode]
        return self.begin(command)

    def begin(self, command: list[str]) -> subprocess.Popen[str]:
        """Begin a process that ends with the test at the latest."""
        begun = self.ended.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        self.ended.callback(begun.kill)
        return begun

    def made_from(self, name: str) -> tuple[str, str]:
        """Return what a container says it was created from, and its image."""
        found = self.engine.inspect_container(name)
        return str(found["Config"]["Image"]), str(found["Image"])


@pytest.fixture
def street(engine_url: str, docker_client: docker.DockerClient, busybox_image: str, tmp_path: Path) -> Iterator[Street]:
    """Give a name of an image, and remove what was made of it."""
    street = Street(engine_url, docker_client, busybox_image, tmp_path)
    with street.ended:
        yield street
    for store in tmp_path.glob("store*"):
        with suppress(UnfinishedElsewhereError):
            recover(client=docker_client, store=store, keep_found=False)


@pytest.mark.parametrize(("count", "kills"), [(2, False), (2, True), (10, True)])
def test_rollbacks_at_once_move_no_name(street: Street, *, count: int, kills: bool) -> None:
    """Nobody ever gets another container by the name, and it leads to an image of the user's, whoever dies when."""
    chance = random.Random(f"{count} {kills}")
    builds = [street.build() if number % 2 and kills else "" for number in range(count)]
    images = {street.first, *filter(None, builds)}
    dirt = {street.stand(f"web{number}", f"own-{number}" if number % 3 < 2 else ""): number for number in range(count)}
    stores = [street.folder / f"store{number}" for number in range(2)]
    command = [sys.executable, "-c", PASSER_BY, street.url, street.tag, f"passer-by-{street.token}", *images]
    passer_by = street.begin(command)
    assert passer_by.stdout is not None
    assert passer_by.stdout.readline() == "begun\n"
    children = {
        name: street.child(
            name,
            stores[number % 2],
            built=builds[number],
            dies=chance.randint(1, 30) if kills and number % 5 < 4 else -1,
        )
        for name, number in dirt.items()
    }
    said = {name: (child.communicate(timeout=300)[0], child.returncode) for name, child in children.items()}
    codes = [code for _, code in said.values()]
    assert set(codes) <= {0, -signal.SIGKILL}, said
    assert (-signal.SIGKILL in codes) == kills, said
    for child in [street.child("", store, mode="recover") for store in stores if store.exists()]:
        told, _ = child.communicate(timeout=300)
        assert child.returncode == 0, told
    passer_by.kill()
    seen = passer_by.stdout.read().splitlines()
    assert set(seen) == {"round"}, seen
    for name, number in dirt.items():
        own = f"own-{number}" if number % 3 < 2 else ""
        assert street.read(name) == own
        reference, image = street.made_from(name)
        assert own or image == street.first
        assert reference.endswith(street.tag) or street.id_of(reference) == image
    assert street.id_of(street.tag) in images
    assert kills or street.id_of(street.tag) == street.first
    assert all(BackupStore(store).journal.names() == [] for store in stores)
    tags = [tag for image in street.client.api.images() for tag in image["RepoTags"] or ()]
    assert [tag for tag in tags if "docker-rollback:" in tag and tag.endswith(("-before", "-again"))] == []


@pytest.mark.parametrize("own", ["", "own"])
def test_the_name_leads_back(street: Street, own: str) -> None:
    """The failed image stays without the name; a clean container is exact, a changed one says the id of its image."""
    name, built = street.stand("web", own), street.build()
    before = street.engine.inspect_container(name)
    with rollback(name, client=street.client, store=street.folder / "store", verify=None) as tx:
        street.engine.tag_image(built, street.tag)
        street.client.api.remove_container(name, force=True, v=True)
        street.client.containers.run(street.tag, ["sh", "-c", SERVICE], name=name, detach=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert street.id_of(street.tag) == street.first
    assert street.read(name) == own
    (moved,) = tx.outcome.names
    assert (moved.image, moved.lost_by) == (street.first, built)
    assert moved.name.endswith(street.tag)
    assert street.id_of(built) == built
    paths = [difference.path for difference in compare(before, street.engine.inspect_container(name))]
    assert paths == (["Config.Image", "Image"] if own else [])
    assert len(tx.outcome.not_exact) == (1 if own else 0)
    listed = [gap.what for gap in tx.backup.not_covered if gap.what.startswith("Config.Image")]
    assert listed == ([f"Config.Image of {name}"] if own else [])


def test_the_name_leads_back_after_a_rollback_by_id(street: Street) -> None:
    """The second rollback of a changed container knows the name from the first one's backup; so does an update."""
    name, built, store = street.stand("web", "own"), street.build(), street.folder / "store"
    for _ in range(2):
        with rollback(name, client=street.client, store=store, verify=None, keep=1) as tx:
            street.engine.tag_image(built, street.tag)
            street.client.api.remove_container(name, force=True, v=True)
            raise RollbackRequested
        assert tx.status is Status.ROLLED_BACK
        assert street.id_of(street.tag) == street.first
        assert street.read(name) == "own"
    with rollback(name, client=street.client, store=store, verify=None) as tx:
        tx.replace(name)
    assert tx.status is Status.COMMITTED
    assert street.made_from(name)[1] == street.first


def test_an_update_that_prunes_leaves_the_image_of_the_name(
    street: Street, test_labels: dict[str, str], docker_client: docker.DockerClient
) -> None:
    """The image of a changed container is in no store; a name of ours holds it against a prune of the nameless."""
    name, built = street.stand("web", "own"), street.build()
    labels = [f"{key}={value}" for key, value in test_labels.items()]
    with rollback(name, client=docker_client, store=street.folder / "store", verify=None) as tx:
        street.engine.tag_image(built, street.tag)
        street.client.api.remove_container(name, force=True, v=True)
        docker_client.images.prune(filters={"dangling": True, "label": labels})
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert street.id_of(street.tag) == street.first
    assert street.read(name) == "own"


def test_names_are_left_alone_on_request(street: Street) -> None:
    """The name stays with the update's image; the container stands on its own one."""
    name, built = street.stand("web", ""), street.build()
    with rollback(name, client=street.client, store=street.folder / "store", verify=None, restore_tags=False) as tx:
        street.engine.tag_image(built, street.tag)
        street.client.api.remove_container(name, force=True, v=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert street.id_of(street.tag) == built
    reference, image = street.made_from(name)
    assert image == street.first == street.id_of(reference)
    assert tx.outcome.names == ()


def test_what_two_containers_of_an_image_show_leads_to_it(street: Street) -> None:
    """The name leads elsewhere when they are recreated; what each shows instead stays, and goes with the container."""
    built, store = street.build(), street.folder / "store"
    names = [street.stand(f"web{number}", "") for number in range(2)]
    street.engine.tag_image(street.first, f"names-held-{street.token}:1")
    for name in [*names, *names]:
        with rollback(name, client=street.client, store=store, verify=None, restore_tags=False, keep=1) as tx:
            street.engine.tag_image(built, street.tag)
            street.client.api.remove_container(name, force=True, v=True)
            raise RollbackRequested
        assert tx.status is Status.ROLLED_BACK
        recover(client=street.client, store=store)
        made = [street.made_from(one) for one in names]
        assert {image for _, image in made} == {street.first}
        recreated = [reference for reference, _ in made if not reference.endswith(street.tag)]
        assert recreated
        assert {street.id_of(reference) for reference in recreated} == {street.first}
    for name in names:
        with rollback(name, client=street.client, store=store, verify=None) as tx:
            tx.replace(name)
        assert tx.status is Status.COMMITTED
        reference, image = street.made_from(name)
        assert reference.endswith(street.tag)
        assert image == built
    left = street.engine.inspect_image(street.first)["RepoTags"]
    assert [tag for tag in left if not tag.endswith(f"names-held-{street.token}:1")] == []


def test_a_failed_image_stays_where_its_state_is_kept(street: Street) -> None:
    """It has no name any more but ours, and that goes without it."""
    name, built = street.stand("web", ""), street.build()
    for tag in street.engine.inspect_image(built)["RepoTags"]:
        street.engine.tag_image(built, street.tag)
        street.engine.remove_image(str(tag))
    street.engine.tag_image(street.first, street.tag)
    with rollback(name, client=street.client, store=street.folder / "store", verify=None, keep_failed=True) as tx:
        street.engine.tag_image(built, street.tag)
        street.client.api.remove_container(name, force=True, v=True)
        street.client.containers.run(street.tag, ["sh", "-c", SERVICE], name=name, detach=True)
        raise RollbackRequested
    assert tx.outcome.kept is not None
    assert street.id_of(street.tag) == street.first
    assert street.engine.inspect_image(built)["RepoTags"] == []


@pytest.fixture
def pinned(
    docker_client: docker.DockerClient, engine_url: str, test_labels: dict[str, str], tmp_path: Path
) -> Iterator[str]:
    """Give the reference of an image that the engine knows by its digest alone."""
    client, changes = docker_client.api, [f"LABEL {key}={value}" for key, value in test_labels.items()]
    with registry_of(docker_client, engine_url, tmp_path).running() as address:
        repository = f"{address}/names-{secrets.token_hex(4)}"
        client.import_image_from_data(busybox_tar(), repository=repository, tag="1", changes=changes)
        try:
            client.push(repository, "1")
        finally:
            client.remove_image(f"{repository}:1")
        reference = f"{repository}@{digest_of(repository, '1')}"
        client.pull(reference)
        yield reference
    with suppress(ImageNotFound):
        client.remove_image(reference, force=True)


@pytest.mark.parametrize("fails", [False, True])
def test_an_image_that_is_known_by_its_digest_alone_stays(
    pinned: str,
    docker_client: docker.DockerClient,
    test_labels: dict[str, str],
    busybox_image: str,
    tmp_path: Path,
    *,
    fails: bool,
) -> None:
    """Neither a commit, a rollback nor a pruned backup removes it, also if no container uses it any more."""
    engine, name, store = DockerEngine(docker_client), f"names-{secrets.token_hex(4)}", tmp_path / "store"
    image = engine.inspect_image(pinned)
    assert [tag for tag in image["RepoTags"] or () if "@" not in tag] == []

    def start(reference: str) -> None:
        docker_client.containers.run(reference, ["sh", "-c", SERVICE], name=name, detach=True, labels=test_labels)

    start(pinned)
    try:
        for update in (pinned, busybox_image):
            with rollback(name, client=docker_client, store=store, verify=None, keep=1) as tx:
                assert [container.image.clean for container in tx.backup.containers] == [True]
                remove_container(docker_client, name)
                if fails:
                    raise RollbackRequested
                start(update)
            assert tx.status is (Status.ROLLED_BACK if fails else Status.COMMITTED)
            assert engine.inspect_image(pinned)["Id"] == image["Id"]
    finally:
        remove_container(docker_client, name)
    assert engine.inspect_image(pinned)["Id"] == image["Id"]
