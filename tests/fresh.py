"""Run the two commands of the README on a Debian just made, with Python and git: ``python -m tests.fresh``, as root.

What this machine needs to reach its mirrors (proxies, certificates, an index of packages) goes along, nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.engines import debian, namespaces

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("python3", "git", "ca-certificates")
CHECKOUT = "root/docker-rollback"
COMMAND = re.compile(r"^python3 try\.py (demo|tests)\b.*$", re.MULTILINE)
FENCED = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Of the environment only what says how to reach the outside.
PASSED = re.compile(r"PIP_.*|(https?|ftp|all|no)_proxy|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE", re.IGNORECASE)

NOTHING_LEFT = "if grep -qsx dockerd /proc/[0-9]*/comm; then echo 'an engine was left running' >&2; exit 1; fi"


def main() -> int:
    """Make the machine, run the commands, remove it; return the exit code."""
    if os.geteuid() != 0:
        sys.exit("fresh: only root can make a machine of its own and run an engine in it")
    commands = commands_of((PROJECT / "README.md").read_text())
    debian.need("mmdebstrap", "git")
    # A termination passes through here as an exception, so that the machine is removed.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    root = debian.data_folder() / f"fresh-{os.getpid()}"
    try:
        say(f"making a minimal Debian in {root}")
        debian.make_root(debian.suite(), root, packages=PACKAGES)
        furnish(root)
        return max(run(root, command) for command in commands)
    finally:
        debian.remove_tree(root)


def commands_of(readme: str) -> list[str]:
    """Return the two commands of a README as its fenced blocks have them; raises `ValueError` for fewer or more."""
    found = [line.group() for block in FENCED.findall(readme) for line in COMMAND.finditer(block)]
    if len(found) != 2:
        raise ValueError(f"the README should show two commands, it shows {len(found)}: {found}")
    return found


def furnish(root: Path) -> None:
    """Put the checkout in, and the way to the outside."""
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{PROJECT}", str(root / CHECKOUT)], check=True)
    transport = root / "etc/apt/apt.conf.d/90transport"
    transport.write_text("\n".join(debian.apt_transport()) + "\n")
    certificates = [value for name, value in passed().items() if "CERT" in name or "CA_BUNDLE" in name]
    for file in {"/etc/resolv.conf", "/etc/hosts", *certificates}:
        if Path(file).is_file():
            shutil.copy(file, root / file.lstrip("/"))


def run(root: Path, command: str) -> int:
    """Run one command there, with processes and mounts of its own, and return its exit code."""
    say(f"running in the new machine: {command}")
    begun = time.monotonic()
    environment = {"PATH": namespaces.PATH, "HOME": "/root", "LANG": "C.UTF-8", **passed()}
    # When the first process of its process namespace ends, the kernel ends all others.
    apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    into = [sys.executable, "-I", namespaces.__file__, "--share-network", "--root", str(root), "--"]
    script = f"cd /{CHECKOUT} && {command} && {NOTHING_LEFT}"
    done = subprocess.run([*apart, *into, "sh", "-c", script], env=environment, stdin=subprocess.DEVNULL, check=False)
    say(f"{command}: exit code {done.returncode} after {time.monotonic() - begun:.0f} s")
    return abs(done.returncode)


def passed() -> dict[str, str]:
    """Return what of this environment, and of pip's configuration files, says how to reach the outside."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings = dict(re.findall(r"^global\.([\w-]+)='(.*)'$", listed.stdout, re.MULTILINE))
    environment = {f"PIP_{name.upper().replace('-', '_')}": value for name, value in settings.items()}
    environment |= {name: value for name, value in os.environ.items() if PASSED.fullmatch(name)}
    # What names files of this machine is not there, and no way to the outside.
    for name in ("PIP_CONSTRAINT", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        remote = [place for place in environment.pop(name, "").split() if not place.startswith(("/", "file:"))]
        environment |= {name: " ".join(remote)} if remote else {}
    return environment


def say(message: str) -> None:
    """Tell what is being done, in line with what the commands print."""
    print(f"fresh: {message}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
