"""Update a compose project by its own means, and have all of it back where that fails, its settings included.

The project's folder has a `docker-compose.yml`, and `settings.env` with what changes from version to version.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import field, frozen

from docker_rollback import BackupStore, Outcome, Status, healthy, rollback


@frozen
class Project:
    """A compose project.

    Attributes:
        folder: where its files are.
        name: its name.
        command: compose itself: ``docker compose``, or ``docker-compose`` where it is a program of its own.
    """

    folder: Path
    name: str
    command: Sequence[str] = field(default=("docker", "compose"))

    @property
    def settings(self) -> dict[str, str]:
        """What is in its file of settings."""
        lines = (self.folder / "settings.env").read_text().splitlines()
        return dict(line.partition("=")[::2] for line in lines if "=" in line)

    def write(self, settings: Mapping[str, str]) -> None:
        """Replace its settings."""
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        (self.folder / "settings.env").write_text(text)

    def compose(self, *words: str) -> str:
        """Run compose on it and return what it prints; raises `CalledProcessError` where it fails."""
        command = [
            *self.command,
            "--file",
            str(self.folder / "docker-compose.yml"),
            "--project-name",
            self.name,
            *words,
        ]
        environment = {**os.environ, **self.settings}
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def update(project: Project, changes: Mapping[str, str], store: BackupStore) -> Outcome:
    """Bring a project up with changed settings; where that fails, all is as it was, and so are the settings."""
    before = project.settings
    tx = rollback(project=project.name, store=store, verify=healthy(stable_for=2.0), keep_failed=True)
    try:
        with tx:
            project.write({**before, **changes})
            # Compose 1.29 cannot make a container anew on newer engines; 2 can, and this costs nothing.
            project.compose("rm", "--stop", "--force")
            project.compose("up", "--detach")
    except Exception as error:
        project.write(before)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return tx.outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 where the project runs with the changed settings."""
    parser = argparse.ArgumentParser(prog="python -m examples.compose.update", description=__doc__)
    parser.add_argument("folder", type=Path, help="the project's folder")
    parser.add_argument("changes", nargs="+", metavar="NAME=VALUE", help="settings that change")
    parser.add_argument("--name", help="the project's name; by default that of its folder")
    parser.add_argument("--store", type=Path, required=True, help="where the backups are")
    parser.add_argument("--compose", default="docker compose", help="the command of compose")
    options = parser.parse_args(arguments)
    project = Project(options.folder, options.name or options.folder.resolve().name, options.compose.split())
    changes = dict(pair.partition("=")[::2] for pair in options.changes)
    outcome = update(project, changes, BackupStore(options.store))
    print(f"{project.name}: {outcome.status.value}")
    return 0 if outcome.status is Status.COMMITTED else 1


if __name__ == "__main__":
    sys.exit(main())
