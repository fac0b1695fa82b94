"""The demonstration: ``python -m demo``, on the engine that DOCKER_HOST names.

It makes a PostgreSQL with 200,000 customers, updates it twice (once with a failure, once without), and compares.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import docker
from attrs import fields, frozen

from demo.database import FILL, ROWS, Database, Facts, SqlError, image, surroundings
from demo.prober import Prober
from docker_rollback import rollback
from tests.engines import join_network, running_engine

WIDTHS = (20, 34, 34)


@frozen
class Downtime:
    """For how long nobody could open a session, in seconds."""

    backup: float
    update: float


def main() -> int:
    """Run it; return the exit code, which is not zero where an outcome is not the promised one."""
    logging.basicConfig(format="    %(message)s", stream=sys.stdout)
    logging.getLogger("docker_rollback").setLevel(logging.INFO)
    address = running_engine()
    if address is None:
        sys.exit("no engine answers; 'python3 try.py demo' starts one for the demonstration")
    client = docker.from_env(timeout=300, environment={**os.environ, "DOCKER_HOST": address})
    try:
        return play(client, address)
    finally:
        client.close()


def play(client: docker.DockerClient, address: str) -> int:
    """Set the scene, play both acts, and clear the stage."""
    with tempfile.TemporaryDirectory(prefix="docker-rollback-demo-", dir="/var/tmp") as store:
        title("The scene: a database that people use")
        say("PostgreSQL's image is made from the distribution's packages; this takes half a minute.")
        with image(client) as made, surroundings(client):
            join_network(address)
            database = Database(client, made)
            say(f"Its container starts at version 1, with a port ({database.port}), a volume and a network of its own.")
            database.create("1")
            say(f"It gets {ROWS:,} customers.")
            database.sql(FILL)
            as_promised = [failing_update(database, client, Path(store)), good_update(database, client, Path(store))]
            title("The end")
            say("The container, its volume, network and image, and the backups are removed.")
    return 0 if all(as_promised) else 1


def failing_update(database: Database, client: docker.DockerClient, store: Path) -> bool:
    """Play the act in which all is lost and comes back."""
    title("Act one: the update fails")
    before = database.facts()
    with Prober(database.port) as prober:
        say("A backup is taken: the database stops for a moment, and runs again before the update starts.")
        backup_down = 0.0
        try:
            with rollback(database.container, client=client, store=store):
                backup_down = prober.take()
                say("The update removes the container, and starts version 2 on the same volume.")
                database.remove()
                database.create("2")
                say("Its migration drops the table of customers ...")
                database.sql("DROP TABLE customers")
                say("... and then fails on the next statement.")
                database.sql("INSERT INTO clients SELECT * FROM customers")
        except SqlError as error:
            say(f"The block ends with the update's own error: {str(error).splitlines()[0]}")
        downtime = Downtime(backup_down, prober.take())
    after = database.facts()
    compare(before, after, downtime)
    same = unlike(before, after) <= {"id"}
    say("Everything is as it was before the update." if same else "THIS IS NOT AS IT WAS: see above.")
    return same


def good_update(database: Database, client: docker.DockerClient, store: Path) -> bool:
    """Play the act in which nothing has to be put back."""
    title("Act two: the update succeeds")
    before = database.facts()
    with Prober(database.port) as prober:
        say("Again a backup is taken first.")
        with rollback(database.container, client=client, store=store) as update:
            backup_down = prober.take()
            say("The update removes the container, starts version 2, and its migration adds a column.")
            database.remove()
            database.create("2")
            database.sql("ALTER TABLE customers ADD COLUMN email text")
        downtime = Downtime(backup_down, prober.take())
    after = database.facts()
    compare(before, after, downtime)
    kept = after.version == "2" and not unlike(before, after) & {"rows", "checksum"}
    if kept:
        say(f"Version 2 stays, with all customers. The way back is kept as backup {update.backup.id}.")
    else:
        say("THIS IS NOT WHAT THE UPDATE MADE: see above.")
    return kept


def compare(before: Facts, after: Facts, downtime: Downtime) -> None:
    """Print what was and what is, side by side."""
    differing = unlike(before, after)
    print()
    row("", "before", "after", "")
    names = (field.name for field in fields(Facts))
    for name, was, now in zip(names, shown(before), shown(after), strict=True):
        row(name, was, now, "differs" if name in differing else "equal")
    print(f"\n  downtime: {downtime.backup:.1f} s for the backup, {downtime.update:.1f} s for all that followed")
    for line in settings_that_differ(before, after):
        print(f"  setting {line}")
    if "id" in differing:
        print("  (the id differs because the update had removed the container: this is another one)")
    print()


def shown(facts: Facts) -> Iterable[str]:
    """Return each fact as words; the configuration is too long to print, its differences follow."""
    for field in fields(Facts):
        value = getattr(facts, field.name)
        yield value if isinstance(value, str) else f"{len(value)} settings"


def unlike(before: Facts, after: Facts) -> set[str]:
    """Name the facts that differ."""
    return {field.name for field in fields(Facts) if getattr(before, field.name) != getattr(after, field.name)}


def settings_that_differ(before: Facts, after: Facts) -> list[str]:
    """Name them, each with both values."""
    was, now = before.configuration, after.configuration
    return [f"{name}: {was.get(name)} -> {now.get(name)}" for name in was | now if was.get(name) != now.get(name)]


def row(*cells: str) -> None:
    """Print one line of the table."""
    *padded, last = cells
    print("  " + " ".join(f"{cell:<{width}}" for cell, width in zip(padded, WIDTHS, strict=True)), last)


def title(words: str) -> None:
    """Print the head of a part."""
    print(f"\n{words}\n{'=' * len(words)}", flush=True)


def say(words: str) -> None:
    """Print what is being done."""
    print(f"  {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
