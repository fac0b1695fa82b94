"""The command: list, up, down, run (see the package)."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from tests.engines import LOCAL, NAMES, EngineStartError, PrivateEngine, running_engine
from tests.engines.debian import DistributionError, say
from tests.engines.private import answers


def main() -> int:
    """Do what the arguments say; return the exit code."""
    words = sys.argv[1:]
    # What comes after the dashes is the command's own, options and all.
    split = words.index("--") if "--" in words else len(words)
    parser, command = _parser(), words[split + 1 :]
    given = parser.parse_args(words[:split])
    if (given.action == "run") != bool(command):
        parser.error("run wants a command after '--', and nothing else does")
    try:
        match given.action:
            case "list":
                for name in NAMES:
                    engine = PrivateEngine(name)
                    print(f"{name}: {'runs at ' + engine.address if answers(engine.address) else 'down'}")
            case "up":
                engine = PrivateEngine(given.name, with_parent=False)
                engine.start()
                print(f"DOCKER_HOST={engine.address}")
            case "down":
                PrivateEngine(given.name).stop()
            case "run":
                return run(given.name, command, peers=given.peer)
    except (DistributionError, EngineStartError) as error:
        print(f"engines: {error}", file=sys.stderr)
        return 1
    return 0


def run(name: str | None, command: Sequence[str], *, peers: Sequence[str] = ()) -> int:
    """Run a command with DOCKER_HOST set and return its exit code.

    Without a name it gets the engine that runs already or, where none answers, a private one. A private engine is
    ended afterwards, however the command ends. The tests between engines start the peers, and end them.
    """
    if peers:
        os.environ["DOCKER_ROLLBACK_TEST_PEERS"] = ",".join(peers)
    if name is None and (address := running_engine()) is not None:
        say(f"using the engine that runs at {address}")
        return _call(command, address)
    # A termination passes through here as an exception, so that the engine is ended.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    name = name or LOCAL
    say(f"starting a private engine ({name})")
    with PrivateEngine(name, instance=str(os.getpid())) as engine:
        return _call(command, engine.address)


def _call(command: Sequence[str], address: str) -> int:
    env = {**os.environ, "DOCKER_HOST": address, "DOCKER_ROLLBACK_TEST_ENGINE": address}
    env.pop("DOCKER_CONTEXT", None)  # it would win over DOCKER_HOST
    return subprocess.run(command, env=env, check=False).returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.engines", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="say which engines run")
    for action, does in (("up", "start one, and leave it running"), ("down", "end it and remove its data")):
        actions.add_parser(action, help=does).add_argument("name", choices=NAMES)
    runs = actions.add_parser("run", help="run a command with an engine of its own")
    runs.add_argument("name", nargs="?", choices=NAMES, help="without it: one that runs already, or else a private one")
    runs.add_argument(
        "--peer",
        action="append",
        default=[],
        choices=NAMES,
        help="one more, for tests between engines",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
