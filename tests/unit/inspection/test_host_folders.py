"""Which folders of the engine's host may be archived and filled: by their paths, and by what the kernel says."""

from __future__ import annotations

import pytest

from docker_rollback._host.mounts import Spot, folder_of, is_read_only, mounted_below, mounted_on, overlap, spot_of
from docker_rollback._inspection.host_folders import engine_spot, is_straight, uses, why_never, why_not_there
from docker_rollback._model.backup import Mount

CONTAINER = "ab" * 32
MOUNTS = f"""\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid shared:5 - proc proc rw
24 22 254:16 /@srv /srv rw,relatime shared:1 master:2 - btrfs /dev/vdb rw
25 24 254:16 /@srv/a\\040b /srv/a\\040b rw - btrfs /dev/vdb rw
26 24 8:1 / /srv/a\\040b/disk rw - xfs /dev/sda1 rw
27 24 0:99 / /over rw - tmpfs tmpfs rw
28 24 0:98 /later /over rw - tmpfs tmpfs rw
29 24 254:0 /data/engine/containers/{CONTAINER}/hosts /etc/hosts rw - ext4 /dev/vda rw
30 24 0:4 net:[4026532188] /run/netns/x rw - nsfs nsfs rw
"""


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/", "system folder of the"),
        ("/usr", "system folder of the"),
        ("/var", "system folder of the"),
        ("/etc", "system folder of the"),
        ("/proc", "kernel"),
        ("/proc/sys/net", "kernel"),
        ("/sys/fs/cgroup", "kernel"),
        ("/dev", "kernel"),
        ("/dev/shm", "kernel"),
        ("/var/lib", "/var/lib/containerd is a folder of the engine's own, and lies in it"),
        ("/var/lib/docker", "engine's own"),
        ("/var/lib/docker/volumes/x/_data", "engine's own"),
        ("/var/lib/containers/storage", "engine's own"),
        ("/run/docker", "engine's own"),
        ("/run/docker-shim/x", "engine's own"),
        ("/var/run/docker", "engine's own"),
        ("/run/podman", "engine's own"),
        ("/data", "/data/engine is a folder of the engine's own, and lies in it"),
        ("/data/engine", "engine's own"),
        ("/data/engine/overlay2", "engine's own"),
    ],
)
def test_some_folders_are_never_touched(path: str, words: str) -> None:
    """What the kernel, the host or the engine lives in is refused by its path alone, and what holds such a folder."""
    assert words in (why_never(path, engine_root="/data/engine") or "")


@pytest.mark.parametrize("path", ["/srv", "/srv/data", "/etc/nginx", "/home/me", "/data2", "/devices", "/var/www"])
def test_other_folders_may_be_archived(path: str) -> None:
    """A folder is not refused for a path that merely begins alike."""
    assert why_never(path, engine_root="/data/engine") is None


@pytest.mark.parametrize(
    ("path", "folder"),
    [("/srv/data/", "/srv/data"), ("//srv//data/.", "/srv/data"), ("/srv/x/../data", "/srv/data"), ("/", "/")],
)
def test_a_folder_has_one_name(path: str, folder: str) -> None:
    """Doubled slashes, dots and a slash at the end do not make another folder."""
    assert folder_of(path) == folder


def test_a_folder_is_named_by_an_absolute_path() -> None:
    """Whatever does not begin with a slash is the name of a volume, and no path."""
    with pytest.raises(ValueError, match="begins with a slash"):
        folder_of("srv/data")


def test_folders_overlap_by_whole_names() -> None:
    """One lies in the other only where the names of all folders on the way are the same."""
    assert overlap("/srv", "/srv/data")
    assert overlap("/srv/data", "/srv")
    assert overlap("/", "/srv")
    assert not overlap("/srv/data", "/srv/data2")


def test_a_mount_uses_what_it_shows_a_part_of() -> None:
    """A bind of a folder above or below uses the folder; a volume is used by its name alone."""
    assert uses(Mount("bind", "/a", "/srv", read_only=False), "/srv/data")
    assert uses(Mount("bind", "/a", "/srv/data/deep", read_only=False), "/srv/data")
    assert not uses(Mount("bind", "/a", "/srv/other", read_only=False), "/srv/data")
    assert uses(Mount("volume", "/a", "data", read_only=False), "data")
    assert not uses(Mount("bind", "/a", "/data", read_only=False), "data")


@pytest.mark.parametrize(
    ("path", "spot"),
    [
        ("/home/me", Spot("254:0", "/home/me", "ext4")),
        ("/srv", Spot("254:16", "/@srv", "btrfs")),
        ("/srv/x/y", Spot("254:16", "/@srv/x/y", "btrfs")),
        ("/srv/a b/c", Spot("254:16", "/@srv/a b/c", "btrfs")),
        ("/srv/a b/disk", Spot("8:1", "/", "xfs")),
        ("/srvx", Spot("254:0", "/srvx", "ext4")),
        ("/over/x", Spot("0:98", "/later/x", "tmpfs")),
        ("/proc/1", Spot("0:21", "/1", "proc")),
    ],
)
def test_a_path_leads_into_the_nearest_mount(path: str, spot: Spot) -> None:
    """The mount with the longest path counts, and of several at one place the last one."""
    assert spot_of(MOUNTS, path) == spot


def test_what_is_mounted_in_a_folder_is_seen() -> None:
    """Another file system in a folder is found; not the folder's own, and not what is mounted in the other one."""
    assert mounted_below(MOUNTS, "/srv/a b") == ["disk"]
    assert mounted_below(MOUNTS, "/srv") == ["a b"]
    assert mounted_below(MOUNTS, "/srv/a b/disk") == []


def test_a_mount_point_of_another_namespace_is_seen() -> None:
    """It counts which file of which file system is mounted on, whatever the path is in the other namespace."""
    other = (
        "40 1 254:0 / / rw - overlay overlay rw\n"
        "41 40 254:0 /srv/data /mnt/v rw - ext4 /dev/vda rw\n"
        "42 41 0:50 / /mnt/v/a\\040b/disk rw - tmpfs tmpfs rw\n"
        "43 42 0:51 / /mnt/v/a\\040b/disk/deeper rw - tmpfs tmpfs rw\n"
        "44 40 0:52 / /srv/data/more rw - tmpfs tmpfs rw\n"
        "45 41 0:52 / /mnt/v/a\\040b rw - tmpfs tmpfs rw\n"
        "46 99 0:53 / /lost rw - tmpfs tmpfs rw\n"
    )
    assert mounted_on(other, Spot("254:0", "/srv/data", "ext4")) == ["a b", "more"]
    assert mounted_on(other, Spot("254:0", "/srv/data/a b", "ext4")) == ["disk"]
    assert mounted_on(other, Spot("254:0", "/", "ext4")) == ["mnt/v", "srv/data/a b", "srv/data/more"]
    assert mounted_on(other, Spot("254:1", "/srv/data", "ext4")) == []
    assert mounted_on(other, Spot("254:0", "/srv/data", "ext4"), at="/srv/data") == ["more"]


@pytest.mark.parametrize(
    "line",
    [
        "22 1 254:0 / /v ro,relatime - ext4 /dev/vda rw",
        "22 1 254:0 / /v rw,relatime shared:1 - ext4 /dev/vda ro,discard",
    ],
)
def test_a_mount_or_a_file_system_can_be_read_only(line: str) -> None:
    """Both options are listed, and either keeps everybody from writing."""
    assert is_read_only(f"{line}\n", "/v/x")
    assert not is_read_only(f"{line}\n", "/w")
    assert not is_read_only("22 1 254:0 / /v rw,relatime - ext4 /dev/vda rw,errors=ro\n", "/v/x")


def test_a_container_tells_where_its_engine_lives() -> None:
    """The files that an engine mounts into a container come from a folder with its id, in the engine's own."""
    assert engine_spot(MOUNTS) == Spot("254:0", "/data/engine", "ext4")
    assert engine_spot("22 1 254:0 / / rw - ext4 /dev/vda rw\n") is None


@pytest.mark.parametrize(
    ("folder", "spot", "words"),
    [
        ("/srv/link", Spot("0:21", "/", "proc"), "file system of the kernel's (proc)"),
        ("/srv/link", Spot("254:0", "/data/engine/volumes", "ext4"), "the engine's own data"),
        ("/srv/link", Spot("254:0", "/data", "ext4"), "the engine's own data"),
        ("/srv/link", Spot("254:0", "/backups", "ext4"), "leads to the store"),
        ("/srv/link", Spot("254:0", "/", "ext4"), "the engine's own data"),
        ("/srv/link", Spot("254:0", "/etc", "ext4"), "leads to /etc: it is a system folder"),
        ("/srv/link", Spot("0:91", "/docker", "tmpfs"), "leads to /run/docker"),
        ("/srv/link", Spot("254:0", "/srv/real", "ext4"), None),
        ("/srv/dev", Spot("254:16", "/dev", "ext4"), None),
    ],
)
def test_a_link_into_what_is_never_touched_is_seen(folder: str, spot: Spot, words: str | None) -> None:
    """Whatever the path says, it counts where it leads; a disk of its own may have folders of any name."""
    own, kept = Spot("254:0", "/data/engine", "ext4"), {"the store": Spot("254:0", "/backups/all", "ext4")}
    found = why_not_there(folder, spot, engine_root="/data/engine", own=own, kept=kept)
    assert (words in (found or "")) if words else found is None


def test_a_path_without_links_is_straight() -> None:
    """A mount on the way shortens what the kernel says at its front; a link changes its end."""
    assert is_straight("/srv/data", Spot("254:0", "/srv/data", "ext4"))
    assert is_straight("/srv/data", Spot("254:16", "/data", "ext4"))
    assert is_straight("/srv/data", Spot("254:16", "/", "ext4"))
    assert not is_straight("/srv/data", Spot("254:0", "/srv/other", "ext4"))
