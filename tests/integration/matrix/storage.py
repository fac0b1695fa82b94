"""Volumes, binds and memory that a container mounts."""

from __future__ import annotations

from typing import Any

from tests.integration.matrix.lab import Case, Lab, at, is_subset, table

ROWS, row = table()

_NOT_SHOWN = "it shows every mount as a bind, without what was asked for besides"


def _mount(lab: Lab, destination: str) -> dict[str, Any]:
    found = [dict(mount) for mount in lab.shown("Mounts") if mount["Destination"] == destination]
    assert len(found) == 1, f"{len(found)} mounts at {destination}"
    return found[0]


def _mounted(lab: Lab, path: str) -> list[str]:
    """Return the options by which a path is mounted, as the kernel knows them."""
    found = [line.split() for line in lab.run("cat /proc/self/mounts").splitlines()]
    options = [fields[3].split(",") for fields in found if fields[1] == path]
    assert options, f"nothing is mounted at {path}"
    return options[-1]


@row
def anonymous_volume(lab: Lab) -> Case:
    """A volume that the engine named stays anonymous: it goes with its container."""

    def works() -> None:
        assert len(_mount(lab, "/cache")["Name"]) == 64

    return Case(body=lab.body(Volumes={"/cache": {}}), data={"/cache/x": "x"}, works=works)


@row
def anonymous_volume_of_the_image(lab: Lab) -> Case:
    """A volume that the image asks for, with the image's files copied into it when it is new."""
    lab.image_with(Volumes={"/kept": {}}, files={"kept/one": "1", "kept/two": "2"})

    def works() -> None:
        assert lab.run("cat /kept/one") == "1"
        assert _mount(lab, "/kept")["Type"] == "volume"

    return Case(body=lab.body(), data={"/kept/three": "3"}, works=works)


@row
def anonymous_volume_by_mount(lab: Lab) -> Case:
    """A volume without a name in the list of mounts, with options of its own."""
    lab.image_with(files={"cache/from-image": "1"})
    mounts = [{"Type": "volume", "Target": "/cache", "VolumeOptions": {"Labels": dict(lab.labels), "NoCopy": True}}]

    def works() -> None:
        assert len(_mount(lab, "/cache")["Name"]) == 64
        assert "from-image" not in lab.run("ls /cache")
        is_subset(lab.labels.items(), at(lab.engine.inspect_volume(_mount(lab, "/cache")["Name"]), "Labels").items())

    return Case(body=lab.body(host={"Mounts": mounts}), data={"/cache/x": "x"}, limit=_NOT_SHOWN, works=works)


@row
def anonymous_volume_for_reading(lab: Lab) -> Case:
    """A volume without a name that may only be read."""

    def works() -> None:
        assert "ro" in _mounted(lab, "/fixed")

    return Case(
        body=lab.body(host={"Mounts": [{"Type": "volume", "Target": "/fixed", "ReadOnly": True}]}),
        refused="must not set ReadOnly mode when using anonymous volumes",
        works=works,
    )


@row
def named_volumes_by_bind(lab: Lab) -> Case:
    """Named volumes: one read and written, one for reading alone, one that is not filled from the image."""
    lab.image_with(files={"plain/from-image": "1", "empty/from-image": "1"})
    plain, fixed, empty = lab.volume("plain"), lab.volume("fixed"), lab.volume("empty")

    def works() -> None:
        assert lab.run("cat /plain/from-image") == "1"
        assert lab.run("ls /empty") == ""
        assert "ro" in _mounted(lab, "/fixed")
        assert _mount(lab, "/plain")["Name"] == plain

    return Case(
        body=lab.body(host={"Binds": [f"{plain}:/plain", f"{fixed}:/fixed:ro", f"{empty}:/empty:nocopy"]}),
        data={"/plain/x": "x"},
        works=works,
    )


@row
def named_volumes_by_mount(lab: Lab) -> Case:
    """The same by the list of mounts, which engines keep apart from the binds."""
    lab.image_with(files={"empty/from-image": "1"})
    plain, empty = lab.volume("plain"), lab.volume("empty")
    mounts = [
        {"Type": "volume", "Source": plain, "Target": "/plain"},
        {"Type": "volume", "Source": empty, "Target": "/empty", "ReadOnly": True, "VolumeOptions": {"NoCopy": True}},
    ]

    def works() -> None:
        assert lab.run("ls /empty") == ""
        assert "ro" in _mounted(lab, "/empty")

    return Case(
        body=lab.body(host={"Mounts": mounts}),
        data={"/plain/x": "x"},
        shows={"HostConfig.Mounts": mounts},
        limit=_NOT_SHOWN,
        works=works,
    )


@row
def volume_made_by_the_mount(lab: Lab) -> Case:
    """A volume that its mount describes: its driver's options and its labels."""
    options = {"Labels": {**lab.labels, "kind": "made"}, "DriverConfig": {"Name": "local"}}
    mounts = [{"Type": "volume", "Source": lab.own("made"), "Target": "/made", "VolumeOptions": options}]

    def works() -> None:
        assert at(lab.engine.inspect_volume(lab.own("made")), "Labels.kind") == "made"

    return Case(
        body=lab.body(host={"Mounts": mounts}),
        data={"/made/x": "x"},
        shows={"HostConfig.Mounts": mounts},
        limit=_NOT_SHOWN,
        works=works,
    )


@row
def part_of_a_volume(lab: Lab) -> Case:
    """A folder within a volume, mounted alone."""
    lab.needs_api(1, 45, what="Subpath")
    plain = lab.volume("plain")
    lab.run("mkdir -p /v/in/it; echo x > /v/in/it/file", name=lab.other("filler", host={"Binds": [f"{plain}:/v"]}))
    mounts = [{"Type": "volume", "Source": plain, "Target": "/part", "VolumeOptions": {"Subpath": "in/it"}}]

    def works() -> None:
        assert lab.run("ls /part") == "file"

    return Case(body=lab.body(host={"Mounts": mounts}), shows={"HostConfig.Mounts": mounts}, works=works)


@row
def volume_mounted_twice(lab: Lab) -> Case:
    """One volume at two places, one of them for reading alone."""
    plain = lab.volume("plain")

    def works() -> None:
        assert "ro" in _mounted(lab, "/two")
        assert lab.run("cat /two/x") == "x"

    return Case(body=lab.body(host={"Binds": [f"{plain}:/one", f"{plain}:/two:ro"]}), data={"/one/x": "x"}, works=works)


@row
def bind(lab: Lab) -> Case:
    """Binds: a folder for reading alone, relabelled, and a file; their content stays the host's."""

    def works() -> None:
        assert "ro" in _mounted(lab, "/host")
        assert lab.run("cat /the-file") == lab.run("cat /the-proc")

    binds = ["/etc:/host:ro", "/proc/version:/the-file:ro", "/proc/version:/the-proc:ro"]
    return Case(body=lab.body(host={"Binds": binds}), works=works)


@row
def relabelled_bind(lab: Lab) -> Case:
    """The letter that has a bind relabelled for this container alone is kept in its string."""
    volume = lab.volume("source", stays=True)
    source = str(lab.engine.inspect_volume(volume)["Mountpoint"])
    wanted = [f"{source}:/relabelled:Z", f"{source}:/shared:z,ro"]
    return Case(
        body=lab.body(host={"Binds": wanted}),
        shows={"HostConfig.Binds": wanted},
        limit="it does not show the letter that asks for a relabelling",
    )


@row
def bind_by_mount(lab: Lab) -> Case:
    """A bind in the list of mounts, with how mounts below it spread, and without those that are below it."""
    mounts = [
        {"Type": "bind", "Source": "/etc", "Target": "/a", "BindOptions": {"Propagation": "private"}},
        {"Type": "bind", "Source": "/etc", "Target": "/b", "ReadOnly": True, "BindOptions": {"NonRecursive": True}},
    ]

    def works() -> None:
        assert "ro" in _mounted(lab, "/b")

    return Case(
        body=lab.body(host={"Mounts": mounts}),
        shows={"HostConfig.Mounts": mounts},
        limit=_NOT_SHOWN,
        works=works,
    )


@row
def read_only_to_the_bottom(lab: Lab) -> Case:
    """A bind whose mounts below are for reading alone too, or expressly not."""
    lab.needs_api(1, 44, what="ReadOnlyForceRecursive")
    mounts = [
        {
            "Type": "bind",
            "Source": "/etc",
            "Target": "/a",
            "ReadOnly": True,
            "BindOptions": {"ReadOnlyNonRecursive": True},
        },
        {
            "Type": "bind",
            "Source": "/etc",
            "Target": "/b",
            "ReadOnly": True,
            "BindOptions": {"ReadOnlyForceRecursive": True, "Propagation": "rprivate", "CreateMountpoint": True},
        },
    ]
    return Case(
        body=lab.body(host={"Mounts": mounts}),
        shows={"HostConfig.Mounts": mounts},
        limit=_NOT_SHOWN,
        refused="ReadOnlyForceRecursive|rro",
    )


@row
def memory_file_systems(lab: Lab) -> Case:
    """File systems in memory, with size, mode and flags, and without any."""

    def works() -> None:
        assert "size=1024k" in _mounted(lab, "/small")
        assert "noexec" in _mounted(lab, "/small")
        assert lab.run("stat -c %a /small") == "700"
        assert _mounted(lab, "/any")

    wanted = {"/small": "size=1m,mode=700,noexec", "/any": ""}
    return Case(body=lab.body(host={"Tmpfs": wanted}), shows={"HostConfig.Tmpfs": wanted}, works=works)


@row
def memory_file_systems_by_mount(lab: Lab) -> Case:
    """The same by the list of mounts."""
    mounts = [{"Type": "tmpfs", "Target": "/small", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o700}}]

    def works() -> None:
        assert "size=1024k" in _mounted(lab, "/small")
        assert lab.run("stat -c %a /small") == "700"

    return Case(body=lab.body(host={"Mounts": mounts}), works=works)


@row
def one_place_asked_for_twice(lab: Lab) -> Case:
    """The image asks for a volume where the user mounts something else: one place is mounted once."""
    lab.image_with(Volumes={"/a": {}, "/b": {}, "/c/": {}})
    mine = lab.volume("mine")

    def works() -> None:
        assert _mount(lab, "/a")["Name"] == mine
        assert _mounted(lab, "/b")
        assert len(_mount(lab, "/c")["Name"]) == 64

    return Case(
        body=lab.body(Volumes={"/a": {}}, host={"Binds": [f"{mine}:/a"], "Tmpfs": {"/b": "size=1m"}}),
        data={"/a/x": "x"},
        works=works,
    )


@row
def everything_at_once(lab: Lab) -> Case:
    """Anonymous, named, memory and bind in one container, one below the other."""
    outer, inner = lab.volume("outer"), lab.volume("inner")

    def works() -> None:
        destinations = {str(mount["Destination"]) for mount in lab.shown("Mounts")}
        is_subset(["/outer", "/outer/inner", "/anonymous", "/host"], sorted(destinations))
        assert "ro" in _mounted(lab, "/outer/inner")

    return Case(
        body=lab.body(
            Volumes={"/anonymous": {}},
            host={
                "Binds": [f"{inner}:/outer/inner:ro", f"{outer}:/outer", "/etc:/host:ro"],
                "Tmpfs": {"/outer/memory": "size=1m"},
            },
        ),
        data={"/outer/x": "x", "/anonymous/y": "y"},
        works=works,
    )


@row
def volumes_from_another(lab: Lab) -> Case:
    """The volumes of another container, an anonymous one among them, for reading alone; they stay that one's."""
    named = lab.volume("named")
    source = lab.other("source", Volumes={"/anonymous": {}}, host={"Binds": [f"{named}:/named"]})
    lab.run("echo theirs > /anonymous/file; echo theirs > /named/file", name=source)

    def works() -> None:
        assert lab.run("cat /anonymous/file /named/file") == "theirs\ntheirs"
        assert "ro" in _mounted(lab, "/anonymous")
        assert "ro" in _mounted(lab, "/named")

    return Case(body=lab.body(host={"VolumesFrom": [f"{source}:ro"]}), works=works)


@row
def volumes_from_another_and_own(lab: Lab) -> Case:
    """The same beside a volume of its own."""
    mine = lab.volume("mine")
    source = lab.other("source", Volumes={"/anonymous": {}})
    lab.run("echo theirs > /anonymous/file", name=source)

    def works() -> None:
        assert lab.run("cat /anonymous/file") == "theirs"

    return Case(
        body=lab.body(host={"VolumesFrom": [source], "Binds": [f"{mine}:/mine"]}), data={"/mine/x": "x"}, works=works
    )


@row
def volumes_from_another_and_own_anonymous(lab: Lab) -> Case:
    """The same beside a volume of its own that nobody named."""
    source = lab.other("source", Volumes={"/anonymous": {}})
    lab.run("echo theirs > /anonymous/file", name=source)

    def works() -> None:
        assert lab.run("cat /anonymous/file") == "theirs"
        assert len(_mount(lab, "/mine")["Name"]) == 64
        assert _mount(lab, "/mine")["Name"] != _mount(lab, "/anonymous")["Name"]

    return Case(
        body=lab.body(Volumes={"/mine": {}}, host={"VolumesFrom": [source]}), data={"/mine/x": "x"}, works=works
    )


@row
def read_only_root(lab: Lab) -> Case:
    """A root file system for reading alone, with a place in memory to write to."""

    def works() -> None:
        assert lab.run("touch /tmp/x; ! touch /x 2>/dev/null && echo refused") == "refused"

    return Case(
        body=lab.body(host={"ReadonlyRootfs": True, "Tmpfs": {"/tmp": ""}}),
        shows={"HostConfig.ReadonlyRootfs": True},
        works=works,
    )


@row
def image_as_a_mount(lab: Lab) -> Case:
    """The files of an image, mounted."""
    lab.needs_api(1, 48, what="mounts of an image")
    mounts = [{"Type": "image", "Source": lab.base, "Target": "/image", "ReadOnly": True}]

    def works() -> None:
        assert "busybox" in lab.run("ls /image/bin")

    return Case(
        body=lab.body(host={"Mounts": mounts}),
        shows={"HostConfig.Mounts": mounts},
        refused="containerd|experimental|not supported",
        works=works,
    )


@row
def volume_of_a_folder(lab: Lab) -> Case:
    """A volume whose driver binds a folder of the host, as its options say."""
    folder = str(lab.engine.inspect_volume(lab.volume("folder", stays=True))["Mountpoint"])
    bound = lab.volume("bound", driver="local", driver_opts={"type": "none", "o": "bind", "device": folder})

    def works() -> None:
        assert at(lab.engine.inspect_volume(bound), "Options.device") == folder

    return Case(
        body=lab.body(host={"Binds": [f"{bound}:/bound"]}),
        data={"/bound/x": "x"},
        refused="locating 'mount' binary",
        works=works,
    )


@row
def storage_size(lab: Lab) -> Case:
    """A limit to the size of the writable layer."""
    return Case(
        body=lab.body(host={"StorageOpt": {"size": "1G"}}),
        shows={"HostConfig.StorageOpt": {"size": "1G"}},
        limit="it takes a size for the writable layer and does nothing with it",
        refused="pquota|storage-opt",
    )
