#!/usr/bin/env python3
"""Try docker-rollback from a plain checkout: ``python3 try.py demo`` or ``python3 try.py tests``.

It creates a virtual environment in .venv, installs nox there, and runs ``nox -s NAME``, which installs the rest into
.nox. If no container engine answers, root on Debian gets a private one for the time of the session. NAME can be any
session that ``nox -l`` lists; the words after it go to nox.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
NOX = VENV / "bin" / "nox"
OLDEST_PYTHON = (3, 11)


def main() -> None:
    """Do the set-up, then become nox."""
    if sys.version_info < OLDEST_PYTHON:
        refuse(f"Python {'.'.join(map(str, OLDEST_PYTHON))} or later is needed, this is {sys.version.split()[0]}")
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    try:
        if not works(NOX):
            set_up()
    except subprocess.CalledProcessError as error:
        refuse(f"{' '.join(map(str, error.cmd))} failed (exit code {error.returncode}); what it said is above")
    os.chdir(HERE)
    os.execv(NOX, [str(NOX), "-s", *sys.argv[1:]])


def works(program: Path) -> bool:
    """Say whether a program is there and starts; a checkout that was moved has an environment that does not."""
    try:
        return subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def set_up() -> None:
    """Make the virtual environment and install nox in it."""
    if importlib.util.find_spec("ensurepip") is None:
        get_venv()
    say(f"making a virtual environment in {VENV}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    say("installing nox in it")
    subprocess.run([str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "nox>=2025.2.9"], check=True)


def get_venv() -> None:
    """Install what Debian leaves out of its python3 and a virtual environment needs."""
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", "python3-venv"]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        refuse(f"this Python cannot make virtual environments; as root, run: {' '.join(install)}")
    say("installing python3-venv from the distribution")
    for command in (["apt-get", "update", "-qq"], install):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment)


def say(message: str) -> None:
    """Print a step that takes time."""
    print(f"try.py: {message}", flush=True)


def refuse(reason: str) -> NoReturn:
    """Exit with the reason."""
    sys.exit(f"try.py: {reason}")


if __name__ == "__main__":
    main()
