"""A real PostgreSQL in a container: made, filled with customers, and looked at."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
from attrs import frozen
from docker.errors import NotFound
from docker.models.containers import Container

from demo.prober import answers
from tests.engines import debian
from tests.programs import run_in

NAME = "docker-rollback-demo"
ROWS = 200_000
FOLDER = "/var/lib/postgresql/data"
OFFICIAL_IMAGE = "postgres:17"

# Prepares the data folder where it is empty, then becomes the server. Debian keeps the programs out of the way.
START = f"""
PATH="$PATH:$(echo /usr/lib/postgresql/*/bin)"; export PGDATA={FOLDER}/db
if ! test -s $PGDATA/PG_VERSION; then
    initdb --auth=trust >/dev/null && echo 'host all all all trust' >> $PGDATA/pg_hba.conf
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp
"""

FILL = f"""
CREATE TABLE customers AS
    SELECT id, md5(id::text) AS name, timestamptz '2026-01-01' + id * interval '1 minute' AS since
    FROM generate_series(1, {ROWS}) AS id;
ALTER TABLE customers ADD PRIMARY KEY (id);
"""

CHECKSUM = "SELECT md5(string_agg(id || name || since, ',' ORDER BY id)) FROM customers"


class SqlError(Exception):
    """PostgreSQL refused a statement."""


@frozen
class Facts:
    """What the container is at one moment.

    Attributes:
        id: the first digits of its id.
        version: which version of the application it says it is.
        configuration: its configuration and host configuration, as the engine shows them.
        networks: its networks, each with its aliases.
        ports: its published ports.
        health: what its health check says.
        rows: how many customers it has.
        checksum: one over all customers.
    """

    id: str
    version: str
    configuration: dict[str, Any]
    networks: str
    ports: str
    health: str
    rows: str
    checksum: str


class Database:
    """The container, and what it needs around it."""

    def __init__(self, client: docker.DockerClient, image: str) -> None:
        self._client = client
        self._image = image
        self.port = free_port()

    @property
    def container(self) -> Container:
        """The container that has the name now, whichever that is."""
        return self._client.containers.get(NAME)

    def create(self, version: str) -> None:
        """Create and start the application at a version, on the volume and the network, and wait until it answers."""
        container = self._client.containers.create(
            self._image,
            ["sh", "-c", START],
            entrypoint=[],
            name=NAME,
            hostname="db",
            user="postgres",
            environment={"VERSION": version},
            labels={NAME: version},
            ports={"5432/tcp": ("127.0.0.1", self.port)},
            volumes={NAME: {"bind": FOLDER, "mode": "rw"}},
            mem_limit="512m" if version == "1" else "768m",
            restart_policy={"Name": "on-failure", "MaximumRetryCount": 3},
            stop_signal="SIGINT",
            healthcheck={
                "test": ["CMD", "pg_isready", "-h", "127.0.0.1"],
                "interval": 10**9,
                "timeout": 5 * 10**9,
                "retries": 20,
            },
            networking_config={NAME: self._client.api.create_endpoint_config(aliases=["db"])},
            network=NAME,
        )
        container.start()
        end = time.monotonic() + 60
        while not (answers(self.port) and self.health == "healthy"):
            if time.monotonic() > end:
                raise SqlError(f"PostgreSQL did not start in a minute; it said:\n{container.logs(tail=20)!r}")
            time.sleep(0.05)

    @property
    def health(self) -> str:
        """What its health check says."""
        return str(self.container.attrs["State"]["Health"]["Status"])

    def remove(self) -> None:
        """Stop and remove the container; its volume stays."""
        container = self.container
        container.stop()
        container.remove()

    def sql(self, statement: str) -> str:
        """Run SQL in it and return what it prints; raises `SqlError` with what it complains about."""
        command = ["psql", "-h", "127.0.0.1", "-v", "ON_ERROR_STOP=1", "--quiet", "-At", "-c", statement]
        code, said = run_in(self._client, NAME, command)
        if code != 0:
            raise SqlError(said.strip())
        return said.strip()

    def facts(self) -> Facts:
        """Look at it."""
        container = self.container
        seen = container.attrs

        def ask(question: str) -> str:
            try:
                return self.sql(question)
            except SqlError as error:
                return str(error).splitlines()[0]

        networks = seen["NetworkSettings"]["Networks"]
        ports = seen["NetworkSettings"]["Ports"]
        return Facts(
            id=seen["Id"][:12],
            version=container.labels[NAME],
            configuration={
                f"{part}.{name}": value for part in ("Config", "HostConfig") for name, value in seen[part].items()
            },
            networks="; ".join(f"{name} as db" for name, end in networks.items() if "db" in end["Aliases"]),
            ports="; ".join(f"{port} at {b['HostIp']}:{b['HostPort']}" for port, at in ports.items() for b in at or ()),
            health=self.health,
            rows=ask("SELECT count(*) FROM customers"),
            checksum=ask(CHECKSUM),
        )


@contextmanager
def surroundings(client: docker.DockerClient) -> Iterator[None]:
    """Make the network and the volume; remove them afterwards, and the container before them."""
    labels = {NAME: ""}
    _remove_all(client)
    try:
        client.networks.create(NAME, driver="bridge", labels=labels)
        client.volumes.create(NAME, labels=labels)
        yield
    finally:
        _remove_all(client)


@contextmanager
def image(client: docker.DockerClient) -> Iterator[str]:
    """Give an image of PostgreSQL: from this system's packages or, where that cannot be, pulled."""
    with tempfile.TemporaryDirectory(prefix=NAME, dir="/var/tmp") as scratch:
        packed = Path(scratch, "postgresql.tar")
        try:
            # The mount point belongs to the server's user, so that a new volume does too.
            own = f"chroot $1 install -d -o postgres -g postgres -m 700 {FOLDER}"
            debian.make_root(debian.suite(), packed, packages=["postgresql"], hooks=[own])
        except debian.DistributionError as error:
            print(f"  It cannot be made here ({str(error).splitlines()[0]}), so it is pulled: {OFFICIAL_IMAGE}")
            client.images.pull(OFFICIAL_IMAGE)
            yield OFFICIAL_IMAGE
            return
        client.api.import_image_from_file(str(packed), repository=NAME, tag="1")
    try:
        yield f"{NAME}:1"
    finally:
        client.images.remove(f"{NAME}:1", force=True)


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as any_socket:
        any_socket.bind(("127.0.0.1", 0))
        port: int = any_socket.getsockname()[1]
        return port


def _remove_all(client: docker.DockerClient) -> None:
    """Remove what the demonstration makes, an earlier one's remains included."""
    for container in client.containers.list(all=True, filters={"label": NAME}):
        with suppress(NotFound):
            container.remove(force=True)
    for network in client.networks.list(filters={"label": NAME}):
        network.remove()
    for volume in client.volumes.list(filters={"label": NAME}):
        volume.remove()
