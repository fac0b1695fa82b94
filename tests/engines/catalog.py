"""Which engines there are, and with which words each is started. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from attrs import frozen

REGISTRY = "127.0.0.1:5000"
"""Where a private Podman asks a registry by HTTP. Its network has nothing else at this address."""

LOCAL = "local"
"""The Docker of this machine's own distribution, whatever its version."""


@frozen
class Recipe:
    """How to come by one engine.

    Attributes:
        name: what it is called here.
        suite: the Debian suite whose packages have it; None for this machine's own.
        kind: which program it is.
        containerd_store: whether its images live in containerd's store.
    """

    name: str
    suite: str | None
    kind: Literal["docker", "podman"] = "docker"
    containerd_store: bool = False


@frozen
class Places:
    """Where one private engine has what is its own.

    Attributes:
        run: short-lived files: socket, log, configuration.
        data: images, containers, volumes.
    """

    run: Path
    data: Path

    @property
    def socket(self) -> Path:
        """Where it answers."""
        return self.run / "docker.sock"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.run / "log"

    @property
    def network(self) -> Path:
        """A handle on its network that its threads, which wander between networks, do not move."""
        return self.run / "net"

    @property
    def config(self) -> Path:
        """The daemon's configuration file."""
        return self.run / "daemon.json"

    @property
    def registries(self) -> Path:
        """What Podman is told of registries."""
        return self.run / "registries.conf"


RECIPES = (
    Recipe(LOCAL, None),
    Recipe("docker-20.10", "bookworm"),
    Recipe("docker-26.1", "trixie"),
    Recipe("docker-28.5", "forky"),
    Recipe("docker-28.5-containerd", "forky", containerd_store=True),
    Recipe("podman-5.8", "forky", kind="podman"),
)
NAMES = tuple(recipe.name for recipe in RECIPES)

PACKAGES = ("docker.io", "iptables")
"""What an engine needs of this machine's distribution."""

ENGINE_PACKAGES = {
    "docker": (*PACKAGES, "ca-certificates"),
    # Volumes with options are mounted by the program `mount`; catatonit is the first process where `Init` is asked for.
    "podman": ("podman", "netavark", "aardvark-dns", "nftables", "runc", "catatonit", "mount"),
}
"""What each kind of engine needs of another suite."""


def root_packages(suite: str) -> tuple[str, ...]:
    """Return what a root file system gets that holds the engines of one suite."""
    kinds = sorted({known.kind for known in RECIPES if known.suite == suite})
    return tuple(package for kind in kinds for package in ENGINE_PACKAGES[kind])


def recipe(name: str) -> Recipe:
    """Return the recipe of one engine; raises `LookupError` with all names for a name that is none."""
    for known in RECIPES:
        if known.name == name:
            return known
    raise LookupError(f"no engine is called {name!r}; there are: {', '.join(NAMES)}")


def command(wanted: Recipe, places: Places, *, overlay: bool) -> list[str]:
    """Return the command that starts an engine in the foreground.

    Args:
        wanted: which engine.
        places: what is its own.
        overlay: whether its data folder can bear overlay mounts; layers are kept as plain copies where not.
    """
    address = f"unix://{places.socket}"
    if wanted.kind == "podman":
        driver = [] if overlay else ["--storage-driver", "vfs"]
        # crun refuses the hybrid cgroups that some machines have; runc takes both.
        own = {"root": places.data, "runroot": places.run / "run", "tmpdir": places.run / "tmp"}
        own["network-config-dir"] = places.data / "networks"
        folders = [word for option, folder in own.items() for word in (f"--{option}", str(folder))]
        runtime = ["--runtime", "runc", "--cgroup-manager", "cgroupfs"]
        return ["podman", *folders, *driver, *runtime, "system", "service", "--time=0", address]
    own = {"data-root": places.data, "exec-root": places.run / "exec", "pidfile": places.run / "pid"}
    own["config-file"] = places.config
    folders = [word for option, folder in own.items() for word in (f"--{option}", str(folder))]
    return ["dockerd", *folders, "--host", address]


def configuration(wanted: Recipe, *, overlay: bool) -> dict[str, Any]:
    """Return what stands in the daemon's configuration file; Podman has none."""
    settings: dict[str, Any] = {"exec-opts": ["native.cgroupdriver=cgroupfs"], "shutdown-timeout": 2}
    if wanted.containerd_store:
        settings["features"] = {"containerd-snapshotter": True}
    if not overlay:
        settings["storage-driver"] = "native" if wanted.containerd_store else "vfs"
    return settings
