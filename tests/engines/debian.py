"""What comes out of the distribution: its packages, minimal root file systems, a static busybox."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.engines import namespaces

DATA = Path("/var/tmp/docker-rollback-engines")
POLICY = Path("/usr/sbin/policy-rc.d")

# Some mirrors serve a testing suite whose Release file has run out; its signature is still checked.
EXPIRED_IS_FINE = 'Acquire::Check-Valid-Until "false"'


class DistributionError(Exception):
    """The distribution did not give what was asked of it."""


def data_folder() -> Path:
    """Return where large things are kept; DOCKER_ROLLBACK_ENGINES names another place."""
    return Path(os.environ.get("DOCKER_ROLLBACK_ENGINES", DATA))


def suite() -> str:
    """Return the name of this machine's Debian suite; raises `DistributionError` on another system."""
    try:
        return platform.freedesktop_os_release()["VERSION_CODENAME"]
    except (OSError, KeyError) as error:
        raise DistributionError("this is not a Debian system: /etc/os-release names no suite") from error


def need(*packages: str) -> None:
    """Install those of `packages` that are missing; no service of theirs is started.

    Raises:
        DistributionError: packages are missing, and this user may not install them, or apt could not.
    """
    missing = [package for package in packages if not _installed(package)]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise DistributionError(f"please install these packages, or run this as root on Debian: {' '.join(missing)}")
    say(f"installing from the distribution: {' '.join(missing)}")
    with _services_stay_down():
        _apt("update", "-qq")
        _apt("install", "-qq", "-y", "--no-install-recommends", *missing)


def busybox() -> Path:
    """Return the path of Debian's static busybox, fetched without installing it where it is not installed."""
    if _installed("busybox-static"):
        return Path("/bin/busybox")
    kept = data_folder() / "busybox-static" / "bin" / "busybox"
    if kept.exists():
        return kept
    with _one_at_a_time("busybox-static"):
        if not kept.exists():
            say("fetching busybox-static from the distribution")
            with tempfile.TemporaryDirectory(dir=data_folder()) as scratch:
                _download("busybox-static", Path(scratch))
                (package,) = Path(scratch).glob("*.deb")
                subprocess.run(["dpkg-deb", "-x", package, f"{scratch}/files"], check=True)
                shutil.rmtree(kept.parent.parent, ignore_errors=True)
                Path(f"{scratch}/files").rename(kept.parent.parent)
    return kept


def root_of(wanted: str, packages: Sequence[str]) -> Path:
    """Return a kept root file system of Debian suite `wanted` that has `packages`, made on first use."""
    root = data_folder() / f"root-{wanted}"
    made = data_folder() / f"root-{wanted}.packages"
    with _one_at_a_time(root.name):
        if not made.exists() or made.read_text().split() != list(packages):
            say(f"making a root file system of Debian {wanted} in {root} (a minute or two, once)")
            made.unlink(missing_ok=True)
            remove_tree(root)
            make_root(wanted, root, packages=packages, variant="apt")
            made.write_text(" ".join(packages))
    return root


def unpacked(wanted: str, package: str) -> Path:
    """Return the folder with the files of a package of Debian suite `wanted`, unpacked and not installed, once."""
    folder = data_folder() / f"{package}-{wanted}"
    if folder.exists():  # and whole; the lock is for those alone who may make it
        return folder
    with _one_at_a_time(folder.name):
        if not folder.exists():
            say(f"fetching {package} of Debian {wanted}")
            scratch = folder.with_suffix(".new")
            shutil.rmtree(scratch, ignore_errors=True)
            make_root(wanted, scratch, packages=[package], variant="extract")
            scratch.rename(folder)
    return folder


def compose() -> Path:
    """Return the path of compose 2.x, of Debian's testing suite, fetched on first use."""
    return unpacked("forky", "docker-compose") / "usr/libexec/docker/cli-plugins/docker-compose"


def make_root(
    wanted: str, target: Path, *, packages: Sequence[str] = (), variant: str = "minbase", hooks: Sequence[str] = ()
) -> None:
    """Make a root file system of a Debian suite.

    Args:
        wanted: the suite's name.
        target: a folder, or a tar where the name ends so.
        packages: what goes in beyond the variant's own.
        variant: how much that is, as mmdebstrap has it.
        hooks: shell commands to run at the end, with the root's folder as ``$1``.

    Raises:
        DistributionError: mmdebstrap is missing and cannot be installed, or it failed.
    """
    need("mmdebstrap")
    target.parent.mkdir(parents=True, exist_ok=True)
    include = [f"--include={','.join(packages)}"] if packages else []
    include += [f"--customize-hook={hook}" for hook in hooks]
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as options:
        options.write("\n".join([*apt_transport(), f"{EXPIRED_IS_FINE};"]))
        options.flush()
        words = ["mmdebstrap", "--quiet", f"--variant={variant}", f"--aptopt={options.name}", *include]
        _run([*words, wanted, str(target), *_mirror()])


def remove_tree(folder: Path) -> None:
    """Remove a folder and undo the mounts below it first; a mount is never entered.

    Raises:
        DistributionError: a mount could not be undone; nothing was removed.
    """
    for place in reversed(_mounts_below(folder)):
        subprocess.run(["umount", "-l", place], check=False)
    if left := _mounts_below(folder):
        raise DistributionError(f"{folder} is not removed, because of the mounts that are left in it: {left}")
    shutil.rmtree(folder, ignore_errors=True)


def _mounts_below(folder: Path) -> list[Path]:
    """List the mounts at a folder and below it, in the order in which they were made."""
    places = [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [place for place in places if place.is_relative_to(folder.resolve())]


def say(message: str) -> None:
    """Tell people what takes time; on standard error, where no program reads along."""
    print(f"engines: {message}", file=sys.stderr, flush=True)


def _run(command: Sequence[str], **settings: str) -> None:
    """Run a program quietly, where mirrors can be reached; what it said comes out when it fails."""
    done = subprocess.run(
        [*namespaces.outside(), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **settings},
        check=False,
    )
    if done.returncode != 0:
        raise DistributionError(f"{' '.join(command[:3])} ... ended with {done.returncode}:\n{done.stdout[-3000:]}")


def _apt(*arguments: str) -> None:
    _run(["apt-get", "-o", "Acquire::Retries=3", *arguments], DEBIAN_FRONTEND="noninteractive")


def _installed(package: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    if shutil.which(query[0]) is None:
        return False
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout == "installed"


def _download(package: str, folder: Path) -> None:
    command = [*namespaces.outside(), "apt-get", "download", "-qq", package]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    if done.returncode != 0 and os.geteuid() == 0:
        _apt("update", "-qq")  # a machine just made has no package lists yet
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    if done.returncode != 0:
        raise DistributionError(f"could not fetch {package}: {done.stderr.decode(errors='replace')}")


def _mirror() -> list[str]:
    """Return where this machine has Debian from, as one argument; none leaves it to mmdebstrap."""
    form = "$(ORIGIN) $(RELEASE) $(COMPONENT) $(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    wanted = ["Debian", suite(), "main"]
    return [words[3] for words in map(str.split, listed.splitlines()) if words[:3] == wanted][:1]


def apt_transport() -> list[str]:
    """Return this machine's settings for proxies and certificates, as lines of apt's configuration."""
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    ways = ("Acquire::http::", "Acquire::https::", "Acquire::Retries")
    return [line for line in dumped.splitlines() if line.startswith(ways)]


@contextmanager
def _services_stay_down() -> Iterator[None]:
    """Keep packages from starting their services while they are installed: what is wanted is private."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    try:
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink(missing_ok=True)


@contextmanager
def _one_at_a_time(what: str) -> Iterator[None]:
    """Hold a lock on something that is made once and kept."""
    data_folder().mkdir(parents=True, exist_ok=True)
    with (data_folder() / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
