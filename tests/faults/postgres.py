"""A real PostgreSQL under load, its rollback killed at times that nobody chose: it must be sound, and miss no row.

As a command: ``python -m tests.faults.postgres --kills 4 --seed 7``.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from typing import Final, Self

import docker
from attrs import define, field, frozen

from demo.database import image
from docker_rollback import BackupStore, RollbackRequested, healthy, recover, rollback
from tests.engines import LOCAL, NAMES, PrivateEngine
from tests.programs import run_in

NAME: Final = "docker-rollback-faults-db"
FOLDER: Final = "/var/lib/postgresql/data"
LATER: Final = 10**9
"""From this id on, rows were written after the capture."""

PATIENCE: Final = 120.0
GOES_BACK: Final = "the update has failed"
"""What a victim says before it rolls back."""

START: Final = f"""
PATH="$PATH:$(echo /usr/lib/postgresql/*/bin)"; export PGDATA={FOLDER}/db
if ! test -s $PGDATA/PG_VERSION; then initdb --auth=trust --data-checksums >/dev/null; fi
exec postgres -c listen_addresses= -c unix_socket_directories=/tmp -c max_wal_size=64MB -c checkpoint_timeout=30s
"""

# One row, one commit; what it prints has been committed.
WRITE: Final = """
psql -h /tmp -qAt -v ON_ERROR_STOP=1 -c 'SELECT coalesce(max(id), 0) FROM log' postgres > /tmp/last
i=$(cat /tmp/last); while i=$((i+1)); do echo "INSERT INTO log VALUES ($i, repeat(md5('$i'), 20)) RETURNING id;"; done |
psql -h /tmp -qAt -v ON_ERROR_STOP=1 postgres
"""

CHECK: Final = (
    'PATH="$PATH:$(echo /usr/lib/postgresql/*/bin)"; '
    "pg_amcheck -h /tmp -d postgres --install-missing --heapallindexed --rootdescend --on-error-stop"
)


class DamagedError(Exception):
    """The database is not what it has to be."""


@define
class Database:
    """The container."""

    client: docker.DockerClient
    image: str

    def create(self) -> None:
        """Create and start it, with a table to write to."""
        self.client.volumes.create(NAME)
        self.client.containers.run(
            self.image,
            ["sh", "-c", START],
            entrypoint=[],
            name=NAME,
            user="postgres",
            volumes={NAME: {"bind": FOLDER, "mode": "rw"}},
            restart_policy={"Name": "always"},
            stop_signal="SIGINT",
            detach=True,
        )
        self.wait()
        self.sql("CREATE TABLE IF NOT EXISTS log (id bigint PRIMARY KEY, filler text)")

    def run(self, script: str) -> str:
        """Run a script in it, and return what it prints; raises `DamagedError` where it fails."""
        code, output = run_in(self.client, NAME, ["sh", "-c", script])
        if code != 0:
            raise DamagedError(f"exit code {code}: {output.strip()[-2000:]}")
        return output.strip()

    def sql(self, statement: str) -> str:
        """Run SQL in it."""
        return self.run(f'psql -h /tmp -qAt -v ON_ERROR_STOP=1 postgres -c "{statement}"')

    def wait(self) -> None:
        """Wait until it answers."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.sql("SELECT 1")
            except (DamagedError, docker.errors.APIError):
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
            else:
                return

    def check(self, committed: int) -> str:
        """Raise a `DamagedError` where it is unsound, or misses a row up to `committed`; return what it holds."""
        self.wait()
        count, last = map(int, self.sql("SELECT count(*), coalesce(max(id), 0) FROM log").split("|"))
        if last >= LATER:
            raise DamagedError("it holds a row that was written after the capture")
        if count != last or last < committed:
            raise DamagedError(f"{committed} rows were committed; it has {count} rows up to {last}")
        self.run(CHECK)
        return f"{count} rows, {committed} of them committed before the capture"


@define
class Writer:
    """Writes rows as fast as it can, until the database is stopped; remembers what was committed."""

    client: docker.DockerClient
    committed: int = field(default=0, init=False)
    _thread: threading.Thread = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        end = time.monotonic() + PATIENCE
        while not self.committed and time.monotonic() < end:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(PATIENCE)

    def _write(self) -> None:
        container = self.client.api.inspect_container(NAME)["Id"]
        begun = self.client.api.exec_create(container, ["sh", "-c", WRITE], stderr=False)
        rest = b""
        for piece in self.client.api.exec_start(begun["Id"], stream=True):
            *lines, rest = (rest + piece).split(b"\n")
            numbers = [int(line) for line in lines if line.isdigit()]
            self.committed = max([self.committed, *numbers])


@frozen
class Took:
    """How many seconds a victim took: to its failed update, and back from there."""

    there: float = 0.0
    back: float = 0.0


def victim(address: str, store: str) -> None:
    """Roll back, with an update that ruins everything; whoever started this kills it."""
    client = docker.DockerClient(address, timeout=60)
    database = Database(client, "")
    with rollback(NAME, client=client, store=store, verify=healthy(stable_for=0.1)):
        database.wait()
        database.sql(f"INSERT INTO log SELECT {LATER} + n, 'later' FROM generate_series(1, 20000) AS n")
        database.sql("DELETE FROM log WHERE id % 3 = 0")
        client.containers.get(NAME).kill()
        print(GOES_BACK, flush=True)
        raise RollbackRequested


def play(client: docker.DockerClient, address: str, database: Database, dice: random.Random, took: Took) -> Took:
    """Play one kill, at a time that chance chooses; say what came of it, and return how long the victim took.

    Args:
        client: a client of the engine.
        address: of the engine.
        database: what is updated.
        dice: chooses the time; every other time on the way there, and on the way back.
        took: how long one took that nobody killed; nothing yet for such a one.
    """
    with (
        tempfile.TemporaryDirectory(prefix="docker-rollback-faults-", dir="/var/tmp") as store,
        Writer(client) as writer,
    ):
        back = dice.random() < 0.5
        when = dice.random() * (took.back if back else took.there) if took.there else PATIENCE
        command = [sys.executable, "-m", "tests.faults.postgres", "--victim", address, store]
        began = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            turned = began if took.there and not back else _turn(process)
            try:
                process.wait(when)
            except subprocess.TimeoutExpired:
                process.kill()
        now = time.monotonic()
        done = recover(client=client, store=store)
        # Where it was killed before it had stopped anything, the writer is at work still.
        client.containers.get(NAME).restart()
        writer.__exit__()
        said = database.check(writer.committed)
        for backup in BackupStore(store).list():
            BackupStore(store).verify(backup.id)
    outcome = ", ".join(one.outcome for one in done) or "nothing to do"
    where = f"{now - turned:.1f} s into the {'way back' if back else 'way there'}"
    ended = "ended by itself" if process.returncode == 0 else f"killed {where}"
    print(f"ok     postgres: {ended}; recover: {outcome}; sound, {said}", flush=True)
    return Took(turned - began, now - turned)


def _turn(process: subprocess.Popen[bytes]) -> float:
    """Wait until a victim rolls back, or ends; return when that was."""
    if process.stdout is not None:
        process.stdout.readline()
    return time.monotonic()


def main() -> int:
    """Play as many kills as the arguments say; raises where the database is damaged."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.postgres", description=__doc__)
    parser.add_argument("--engine", choices=NAMES, default=LOCAL)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--victim", nargs=2, metavar=("ADDRESS", "STORE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.victim is not None:
        victim(*given.victim)
        return 0
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    print(f"postgres: {given.kills} kills, seed {seed}", flush=True)
    dice = random.Random(seed)
    with PrivateEngine(given.engine, instance=str(os.getpid())) as engine:
        client = docker.DockerClient(engine.address, timeout=300)
        with image(client) as made:
            database = Database(client, made)
            database.create()
            took = play(client, engine.address, database, dice, Took())
            for _ in range(given.kills):
                play(client, engine.address, database, dice, took)
            client.containers.get(NAME).remove(force=True)
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
