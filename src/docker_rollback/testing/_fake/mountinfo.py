"""A container's /proc/self/mountinfo in the in-memory engine, which lists its mounts."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping

from docker_rollback.testing._fake.containers import Container
from docker_rollback.testing._fake.tree import MountedAt, Node, View, directory

_LINKS_FOLLOWED = 40
_VIRTUAL: Mapping[str, tuple[str, str]] = {
    "/proc": ("0:21", "proc"),
    "/sys": ("0:22", "sysfs"),
    "/dev": ("0:6", "devtmpfs"),
}
_DISK = ("8:1", "ext4")


def with_proc(container: Container, host: Node, folder: str, mountpoint: Callable[[str], str]) -> View:
    """Return a container's file system as its programs see it, with its /proc.

    Args:
        container: the container.
        host: the file system of the engine's host.
        folder: the engine's data folder.
        mountpoint: returns a volume's path on the host.
    """
    lines = [_line(f"{folder}/containers/{container.id}/{name}", f"/etc/{name}") for name in ("resolv.conf", "hosts")]
    for mount in container.mounts:
        if mount.spec.kind == "bind":
            lines.append(_line(real_path(host, mount.spec.source), mount.spec.destination))
        elif mount.spec.kind == "volume":
            lines.append(_line(mountpoint(mount.name), mount.spec.destination))
    proc, own = directory(), directory()
    own.children["mountinfo"] = Node("file", content="".join(lines).encode())
    proc.children["self"] = own
    view = container.view()
    return View(view.root, {**view.mounts, "/proc": MountedAt(proc, read_only=True)}, view.read_only)


def real_path(root: Node, path: str) -> str:
    """Return a path with all its symlinks resolved."""
    view, here, links = View(root), "/", 0
    pending = path.split("/")
    while pending:
        name = pending.pop(0)
        step = posixpath.normpath(posixpath.join(here, name))
        node = view.look(step, follow=False)
        if node is not None and node.kind == "symlink" and links < _LINKS_FOLLOWED:
            links += 1
            pending = [*node.target.split("/"), *pending]
            step = "/" if node.target.startswith("/") else here
        here = step
    return here


def _line(path: str, target: str) -> str:
    """Return a line of mountinfo; its root field is relative to the file system, which matters for virtual ones."""
    top = "/" + path.split("/")[1]
    device, kind = _VIRTUAL.get(top, _DISK)
    inside = (path.removeprefix(top) or "/") if top in _VIRTUAL else path
    escaped = [text.replace("\\", "\\134").replace(" ", "\\040") for text in (inside, target)]
    return f"36 35 {device} {escaped[0]} {escaped[1]} rw,relatime - {kind} {kind} rw\n"
