"""Guards: what they are, what they run, and which of them go."""

from __future__ import annotations

import io
import platform
import signal
import struct
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from docker_rollback import BackupStore
from docker_rollback._capture.guards import Guards, guards_of, program, remove_guards, request
from docker_rollback._containers.snapshotter import ContainerSnapshotter
from docker_rollback._containers.store_identity import StoreIdentity
from docker_rollback._engine.port import Inspection
from docker_rollback._model.backup import Mount
from docker_rollback.testing import FailingEngine, FakeEngine
from tests.unit.values import snapshot

LABELS = {"docker-rollback.role": "guard", "docker-rollback.operation": "op", "docker-rollback.store": "/store"}


# The program


def file_of(architecture: str) -> bytes:
    """Return the program of an architecture, from the tar that a guard gets."""
    with tarfile.open(fileobj=io.BytesIO(program(architecture))) as archive:
        folder, file = archive.getmembers()
        assert (folder.name, folder.isdir(), folder.mode) == (".docker-rollback-guard", True, 0o755)
        assert (file.name, file.isfile(), file.mode) == (".docker-rollback-guard/wait", True, 0o755)
        content = archive.extractfile(file)
        assert content is not None
        return content.read()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="there is no program for this machine")
def test_the_program_of_a_guard_waits_until_it_is_killed(tmp_path: Path) -> None:
    """It runs on this machine as it is, sleeps, goes on sleeping after a stop, and takes no time."""
    file = tmp_path / "wait"
    file.write_bytes(file_of(platform.machine()))
    file.chmod(0o755)
    with subprocess.Popen([file], env={}) as process:
        stat = Path(f"/proc/{process.pid}/stat")

        def until(state: str) -> list[str]:
            deadline = time.monotonic() + 30
            while True:
                fields = stat.read_text().rpartition(")")[2].split()
                if fields[0] == state or time.monotonic() > deadline:
                    return fields
                time.sleep(0.01)

        assert until("S")[0] == "S"
        for number, state in ((signal.SIGSTOP, "T"), (signal.SIGCONT, "S")):
            process.send_signal(number)
            assert until(state)[0] == state
        assert sum(map(int, until("S")[11:13])) <= 1, "ticks of a processor"
        assert process.poll() is None
        process.kill()
        assert process.wait(30) == -9


@pytest.mark.parametrize(("architecture", "number"), [("x86_64", 62), ("aarch64", 183)])
def test_the_program_of_a_guard_is_an_elf_file_of_its_architecture(architecture: str, number: int) -> None:
    """One segment holds all of it, is loaded where the entry expects it, and can be read and executed."""
    file = file_of(architecture)
    assert file[:7] == b"\x7fELF\x02\x01\x01"
    kind, machine, version, entry, headers = struct.unpack_from("<HHIQQ", file, 16)
    assert (kind, machine, version, headers) == (2, number, 1, 64)
    assert struct.unpack_from("<HHH", file, 52) == (64, 56, 1)
    loaded, flags, offset, address, _, size, in_memory, align = struct.unpack_from("<IIQQQQQQ", file, 64)
    assert (loaded, flags, offset, size, in_memory) == (1, 5, 0, len(file), len(file))
    assert address % align == 0
    assert entry - address == 64 + 56


def test_the_program_for_aarch64_asks_to_wait_for_nothing_without_end() -> None:
    """It calls `ppoll` with no files, no time-out and no mask, and then again: read from its instructions."""
    words = struct.unpack("<8I", file_of("aarch64")[120:])
    # movz xN, #value
    registers = {word & 0x1F: word >> 5 & 0xFFFF for word in words[:6] if word >> 21 == 0b11010010100}
    assert registers == {0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 8: 73}
    # svc #0, then a branch back by seven instructions
    assert words[6] == 0xD4000001
    assert words[7] >> 26 == 0b000101
    assert (words[7] & 0x3FFFFFF) - (1 << 26) == -7


# Its container


def guarded(*mounts: Mount, **config: Any) -> dict[str, Any]:
    """Return the request for the guard of a container."""
    container = evolve(snapshot("web", *mounts), inspection={"Config": config})
    return request([container], "docker-rollback:x.web-live", LABELS)


def test_a_guard_holds_the_image_and_each_volume_and_can_do_nothing() -> None:
    """A volume that is mounted twice is mounted once, read-only and not filled; binds are not mounted."""
    made = guarded(
        Mount("volume", "/b", "orders", read_only=False),
        Mount("volume", "/a", "cache", read_only=False),
        Mount("volume", "/c", "orders", read_only=True),
        Mount("bind", "/etc/app", "/etc/app", read_only=False),
    )
    host = made["HostConfig"]
    assert made["Image"] == "docker-rollback:x.web-live"
    assert (made["Entrypoint"], made["Cmd"], made["User"]) == (["/.docker-rollback-guard/wait"], [], "0:0")
    assert [(mount["Source"], mount["Target"]) for mount in host["Mounts"]] == [
        ("cache", "/.docker-rollback-guard/volumes/0"),
        ("orders", "/.docker-rollback-guard/volumes/1"),
    ]
    for mount in host["Mounts"]:
        assert (mount["Type"], mount["ReadOnly"], mount["VolumeOptions"]) == ("volume", True, {"NoCopy": True})
    assert (host["NetworkMode"], host["CapDrop"], host["LogConfig"]["Type"]) == ("none", ["ALL"], "none")
    assert host["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert made["Healthcheck"] == {"Test": ["NONE"]}


def test_a_guard_has_neither_labels_nor_volumes_of_the_application() -> None:
    """Labels are emptied, as an image gives them to its containers; where it declares a volume, none is created."""
    made = guarded(Labels={"proxy.enable": "true", "docker-rollback.role": "app"}, Volumes={"/cache": {}})
    assert made["Labels"] == {"proxy.enable": "", **LABELS}
    assert made["HostConfig"]["Tmpfs"] == {"/cache": ""}
    for none in ({}, {"Labels": None, "Volumes": None}):
        made = guarded(**none)
        assert (made["Labels"], made["HostConfig"]["Tmpfs"]) == (LABELS, {})


# Its life


class Held:
    """A service on an engine, and the guards of one operation."""

    def __init__(self, store: BackupStore, engine: FakeEngine, **failing: Any) -> None:
        self.engine = engine
        engine.add_image("web:1")
        engine.run("web", image="web:1", volumes={"data": "/data"})
        used = FailingEngine(engine, **failing)
        self.snapshotter = ContainerSnapshotter(used, store)
        self.web = self.snapshotter.observe("web")
        self.guards = Guards(used, self.snapshotter, operation="op", store=store)

    def stand(self) -> Any:
        """Have a guard of the service; return its snapshot."""
        (held,) = self.guards.stand([(self.web, "docker-rollback:x.0.web")])
        return held

    def others(self) -> list[Inspection]:
        """Return the containers that are not the service."""
        return [self.engine.inspect_container(one) for one in self.engine.list_containers() if one != self.web.id]


def test_a_guard_runs_until_it_is_removed(store: BackupStore) -> None:
    """It holds the commit of the running container by a name of ours, which goes with it."""
    held = Held(store, FakeEngine())
    held.engine.container("web").write("/own", "x")
    with held.guards as guards:
        taken = held.stand()
        (guard,) = held.others()
        assert guard["State"]["Running"]
        assert guard["Config"]["Image"] == "docker-rollback:x.0.web-live"
        assert guard["Config"]["Labels"].items() >= (LABELS | {"docker-rollback.store": str(store.path)}).items()
        assert guards.live(held.web.id) == taken
        assert guards.live("another") is None
        assert taken.image.committed_layers != ()
        guards.remove()
        assert held.others() == []
        assert guards.live(held.web.id) is None
        assert not held.engine.has_image("docker-rollback:x.0.web-live")


def test_a_guard_outlives_a_block_that_fails(store: BackupStore) -> None:
    """Whoever brings the containers back needs it, and finds it by its operation."""
    held = Held(store, FakeEngine())
    with pytest.raises(KeyError), held.guards:
        held.stand()
        raise KeyError
    assert len(held.others()) == 1
    remove_guards(held.engine, of="another")
    assert len(held.others()) == 1
    remove_guards(held.engine, of="op")
    assert held.others() == []


def test_an_architecture_without_a_program_is_said_and_held_back_by_nothing(
    store: BackupStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The container is committed all the same."""
    held = Held(store, FakeEngine(architecture="riscv64"))
    with held.guards:
        assert held.stand().image.committed_layers != ()
        assert held.others() == []
        assert "web: no guard protects it, because guards do not run on riscv64" in caplog.text
        held.guards.remove()


def test_what_cannot_be_committed_while_it_runs_is_not_guarded(
    store: BackupStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Its snapshot says that nothing was committed; the operation goes on."""
    held = Held(store, FakeEngine(), at=1, verbs=["commit_container"])
    with held.guards as guards:
        taken = held.stand()
        # Nobody knows what its writable layer holds.
        assert (taken.name, taken.image.committed_layers, taken.image.clean) == ("web", (), False)
        assert guards.live(held.web.id) is None
        assert held.others() == []
        assert "web: could not commit it while it runs, so no guard protects it" in caplog.text


@pytest.mark.parametrize("verb", ["create_container", "put_archive", "start_container"])
def test_a_guard_that_cannot_be_had_is_said_and_removed(
    store: BackupStore, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    """Also where only its answer was lost and it is there."""
    held = Held(store, FakeEngine(), at=1, verbs=[verb], after=True)
    with held.guards as guards:
        assert held.stand().image.committed_layers != ()
        assert "web: could not start a guard, so a prune can remove it" in caplog.text
        assert len(held.others()) == 1
        guards.remove()
    assert held.others() == []


def test_a_container_that_was_written_to_since_gets_a_second_guard(store: BackupStore) -> None:
    """One whose layers are the same does not, nor one that was never committed while it ran."""
    held = Held(store, FakeEngine())
    with held.guards as guards:
        taken = held.stand()
        guards.renew(taken)
        guards.renew(evolve(taken, id="another"))
    assert len(held.others()) == 1
    held = Held(store, FakeEngine())
    with held.guards as guards:
        taken = held.stand()
        held.engine.container("web").write("/later", "x")
        later = held.snapshotter.capture(held.web, tag="docker-rollback:x.0.web")
        guards.renew(later)
    assert sorted(one["Config"]["Image"] for one in held.others()) == [
        "docker-rollback:x.0.web",
        taken.image.original_id,
    ]


class Row:
    """Four services of one image with a volume each, of which one has a file of its own, and their guards."""

    def __init__(self, store: BackupStore, **failing: Any) -> None:
        self.engine = FakeEngine()
        self.engine.add_image("web:1")
        used = FailingEngine(self.engine, **failing)
        snapshotter = ContainerSnapshotter(used, store)
        names = ["aa", "bb", "cc", "own"]
        for name in names:
            self.engine.run(name, image="web:1", volumes={f"data-{name}": "/data"}, labels={f"proxy.{name}": "on"})
        self.engine.container("own").write("/own", "x")
        self.exposed = [(snapshotter.observe(name), f"docker-rollback:x.0.{name}") for name in names]
        self.guards = Guards(used, snapshotter, operation="op", store=store)

    def running(self) -> list[tuple[str, list[str], set[str]]]:
        """Return the image, the volumes and the labels of the application of each guard that runs."""
        found = [self.engine.inspect_container(one) for one in self.engine.list_containers()]
        guards = [one for one in found if one["Name"].startswith("/docker-rollback-guard-") and one["State"]["Running"]]
        return sorted(
            (
                one["Config"]["Image"],
                sorted(mount["Name"] for mount in one["Mounts"]),
                {key for key, value in one["Config"]["Labels"].items() if value == "on"},
            )
            for one in guards
        )


def test_containers_that_changed_nothing_in_their_image_share_its_guard(store: BackupStore) -> None:
    """It mounts the volumes of all of them; the container that wrote a file has its own."""
    row = Row(store)
    with row.guards as guards:
        taken = guards.stand(row.exposed)
        assert [one.image.clean for one in taken] == [True, True, True, False]
        original = taken[0].image.original_id
        assert row.running() == [
            ("docker-rollback:x.0.own-live", ["data-own"], set()),
            (original, ["data-aa", "data-bb", "data-cc"], set()),
        ]
        guards.remove()
        assert row.running() == []


def test_each_container_gets_its_own_guard_if_they_cannot_share_one(store: BackupStore) -> None:
    """The volume of one of them may be out of reach, and a prune must not take the others."""
    row = Row(store, at=1, verbs=["start_container"])
    with row.guards as guards:
        taken = guards.stand(row.exposed[:3])
        original = taken[0].image.original_id
        assert row.running() == [(original, [f"data-{name}"], set()) for name in ("aa", "bb", "cc")]
        guards.remove()
    assert len(row.engine.list_containers()) == 4


# Left over


def test_the_guards_of_a_store_are_known_by_every_path_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link leads to the same store, a reboot too; a label or a name alone, another store, another machine do not."""
    monkeypatch.setattr("docker_rollback._containers.store_identity.machine_id", lambda: "/etc/machine-id")
    monkeypatch.setattr("docker_rollback._containers.store_identity.boot_id", lambda: "boot")
    (tmp_path / "link").symlink_to(tmp_path / "store")
    store, linked, other = (BackupStore(tmp_path / name) for name in ("store", "link", "other"))
    for one in (store, other):
        one.check()
    engine = FakeEngine()
    engine.add_image("app")
    named, labels = "docker-rollback-guard-", {"docker-rollback.role": "guard", "docker-rollback.operation": "op"}
    here = StoreIdentity(store).labels()
    for name, more in (
        (f"{named}1", here),
        (f"{named}2", StoreIdentity(linked).labels()),
        (f"{named}3", StoreIdentity(other).labels()),
        (f"{named}4", here | {"docker-rollback.role": "helper"}),
        (f"{named}5", here | {"docker-rollback.boot": "another", "docker-rollback.machine": "another"}),
        (f"{named}6", {"docker-rollback.store": str(store.path)}),
        (f"{named}7", here | {"docker-rollback.boot": "another", "docker-rollback.host": "clone"}),
        (f"{named}8", here | {"docker-rollback.boot": "another"}),
        ("app", here),
    ):
        engine.run(name, image="app", labels=labels | more)
    for one, known in ((store, "128"), (linked, "12")):
        found = guards_of(engine, one)
        assert {engine.inspect_container(guard)["Name"] for guard in found} == {f"/{named}{number}" for number in known}
        assert set(found.values()) == {"op"}
