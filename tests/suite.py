"""Run the integration and contract tests on every engine, and once more without root: ``python -m tests.suite``.

As root on Debian; the engines are private (`tests.engines`). After a whole run without a failure, docs/engines.json and
the tables made from it (`tests.table`) are written. With ``--sample N``, each engine runs the contract and no more than
N integration tests, drawn by ``--seed`` and printed; nothing is written then. What is not known here goes to pytest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from attrs import frozen

from tests import table
from tests.engines import EngineStartError, PrivateEngine, debian, namespaces, unprivileged

PROJECT = Path(__file__).resolve().parent.parent
ENGINES = ("docker-20.10", "docker-26.1", "docker-28.5", "docker-28.5-containerd", "podman-5.8")
WITHOUT_ROOT = "docker-28.5"
"""The engine on which the tests run once more without root."""

FOLDERS = ("tests/contract", "tests/integration")
LIKENESS = "tests/contract/test_likeness.py"
LIKE_THE_FAKE = "docker-28.5"
"""The engine that the one in memory takes after; compared with any other, it would differ."""

WORDS = {
    "passed": "passed",
    "limits": "left out for a limit of the engine",
    "failed": "failed",
    "ours": "skipped by us",
}
"""How what is in the results is called."""

PACKAGES = ("docker-compose", "docker-registry", "openssl")
"""Programs that tests want; a test that misses its program would be skipped, and that is a failure here."""


@frozen
class Run:
    """One run of the tests.

    Attributes:
        engine: on which engine.
        root: whether as root.
    """

    engine: str
    root: bool = True

    @property
    def name(self) -> str:
        """What it is called in the results."""
        return self.engine if self.root else table.WITHOUT_ROOT

    @property
    def peer(self) -> str:
        """The engine with which it exchanges images."""
        return ENGINES[(ENGINES.index(self.engine) + 1) % len(ENGINES)]

    @property
    def short(self) -> str:
        """What tells its engines from those of another run; short, since it becomes part of a socket's path."""
        return f"{ENGINES.index(self.engine)}{'' if self.root else 'u'}"


def main() -> int:
    """Do what the arguments say; return the exit code."""
    given, options = _parser().parse_known_args()
    if os.geteuid() != 0:
        sys.exit("suite: only root can start private engines")
    runs = [Run(name) for name in given.only or ENGINES if name != table.WITHOUT_ROOT]
    if not given.only or table.WITHOUT_ROOT in given.only:
        runs.append(Run(WITHOUT_ROOT, root=False))
    try:
        debian.need(*PACKAGES)
        # A run without root can fetch nothing.
        debian.busybox()
        debian.compose()
        for run in runs:
            PrivateEngine(run.engine).fetch()
    except debian.DistributionError as error:
        sys.exit(f"suite: {error}")
    if given.keep is not None:
        given.keep.mkdir(parents=True)
    if given.sample is not None:
        options += ["--sample", str(given.sample), "--seed", given.seed]
    with tempfile.TemporaryDirectory(prefix="docker-rollback-suite-") as folder:
        Path(folder).chmod(0o755)
        suite = Suite(Path(folder), options, given.keep)
        # A termination passes through here as an exception, so that engines are ended.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        results = suite.carry_out(runs, at_once=given.at_once)
    failed = [run.name for run in runs if not _is_good(results.get(run.name))]
    if failed:
        say(f"failed: {', '.join(failed)}")
    elif not options and not given.only:
        table.write(PROJECT, results)
        say(f"{table.RESULTS} and the tables of {table.README} and {table.PAGE} are written")
    return int(bool(failed))


class Suite:
    """The tests, and the folder in which their runs have what is their own.

    Args:
        folder: empty, and to be passed through by everybody.
        options: for pytest.
        keep: where the log and the results of each run stay, where they do.
    """

    def __init__(self, folder: Path, options: Sequence[str], keep: Path | None = None) -> None:
        self._folder = folder
        self._options = options
        self._keep = keep
        self._at_work: set[subprocess.Popen[bytes]] = set()

    def carry_out(self, runs: Sequence[Run], *, at_once: int) -> dict[str, Any]:
        """Carry all runs out, so many at once; return what each showed, by its name, as far as it came to that."""
        with ThreadPoolExecutor(at_once) as pool:
            try:
                found = pool.map(self._one, runs)
                return {run.name: shown for run, shown in zip(runs, found, strict=True) if shown is not None}
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(self._at_work):
                    process.terminate()

    def _one(self, run: Run) -> dict[str, Any] | None:
        shown, ended = self._attempt(run, self._folder / run.name)
        if ended:
            # The tests after that tell nothing; a second time would be a finding.
            say(f"{run.name}: once more, from the beginning")
            shown, _ = self._attempt(run, self._folder / f"{run.name}-again")
        return shown

    def _attempt(self, run: Run, home: Path) -> tuple[dict[str, Any] | None, bool]:
        """Return what a run showed, and whether an engine ended by itself meanwhile."""
        begun = time.monotonic()
        home.mkdir()
        if not run.root:
            os.chown(home, unprivileged.USER, unprivileged.USER)
        try:
            with (
                PrivateEngine(run.engine, instance=f"{run.short}-{os.getpid()}") as engine,
                PrivateEngine(run.peer, instance=f"{run.short}p-{os.getpid()}") as peer,
            ):
                if not run.root:
                    engine.admit(unprivileged.USER)
                    peer.admit(unprivileged.USER)
                self._test(run, engine, peer, home)
                ended = [one for one in (engine, peer) if one.pid is None]
                for one in ended:
                    say(f"{run.name}: {one.name} ended by itself; the end of its log:\n{one.last_words()}")
        except EngineStartError as error:
            say(f"{run.name}: {error}")
            return None, False
        try:
            shown: dict[str, Any] = json.loads((home / "results").read_text())
        except (OSError, ValueError):
            shown = {}
        if self._keep is not None:
            shutil.copy(home / "log", self._keep / f"{run.name}.log")
            (self._keep / f"{run.name}.json").write_text(json.dumps(shown))
        counted = ", ".join(f"{len(shown.get(key, ()))} {word}" for key, word in WORDS.items())
        say(f"{run.name}: {counted}; {time.monotonic() - begun:.0f} s")
        said = (home / "log").read_text(errors="replace")
        # Of a good run the end tells enough: what was slow and what was left out.
        print(said[-40_000:] if not _is_good(shown) else said[-3_000:], flush=True)
        return shown, bool(ended)

    def _test(self, run: Run, engine: PrivateEngine, peer: PrivateEngine, home: Path) -> None:
        into = []
        if not run.root:
            # Checkout and interpreter may lie where only root can go.
            needed = [f"--open-up={folder}" for folder in (PROJECT, sys.prefix, sys.base_prefix)]
            into = [sys.executable, "-I", namespaces.__file__, f"--join={engine.places.network}", *needed, "--"]
        own = ["-q", "-m", "engine", "-p", "no:cacheprovider", f"--basetemp={home}/tmp"]
        own += ["-p", "tests.engines.results", "--results", str(home / "results")]
        own += [] if run.root else ["-p", "tests.engines.unprivileged", "--without-root"]
        own += [] if run.engine == LIKE_THE_FAKE and run.root else [f"--ignore={LIKENESS}"]
        words = [*into, sys.executable, "-m", "pytest", *own, *self._options]
        environment = {
            **os.environ,
            "DOCKER_HOST": engine.address,
            "DOCKER_ROLLBACK_TEST_ENGINE": engine.address,
            "DOCKER_ROLLBACK_TEST_PEERS": peer.address,
            "HOME": str(home),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        environment.pop("DOCKER_CONTEXT", None)  # it would win over DOCKER_HOST
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                [*words, *FOLDERS], cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            self._at_work.add(process)
            process.wait()
            self._at_work.discard(process)


def say(message: str) -> None:
    """Tell what was done, in line with what pytest prints."""
    print(f"suite: {message}", flush=True)


def _is_good(shown: dict[str, Any] | None) -> bool:
    return bool(shown) and shown is not None and shown["passed"] and not (shown["failed"] or shown["ours"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.suite", description=__doc__)
    names = (*ENGINES, table.WITHOUT_ROOT)
    parser.add_argument("--only", nargs="+", choices=names, help="these runs alone, and nothing is written")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="how many runs at a time")
    parser.add_argument("--sample", type=int, metavar="N", help="no more than N integration tests on each engine")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the log and the results of each run stay")
    parser.add_argument("--seed", default="", help="by which they are drawn")
    return parser


if __name__ == "__main__":
    sys.exit(main())
