"""Programs in containers of the in-memory engine: what `exec` runs, tar above all."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from docker_rollback._engine.port import Finished
from docker_rollback.testing import FakeClock, FakeEngine, Files, Run
from docker_rollback.testing._fake.gnu_tar import Snapshot

CREATE = (
    "tar",
    "--create",
    "--format=pax",
    "--xattrs",
    "--xattrs-include=*",
    "--acls",
    "--selinux",
    "--sparse",
    "--numeric-owner",
    "--listed-incremental=/snapshot",
    "--directory=/data",
    "--file=-",
    ".",
)
EXTRACT = (
    "tar",
    "--extract",
    "--xattrs",
    "--xattrs-include=*",
    "--acls",
    "--selinux",
    "--numeric-owner",
    "--listed-incremental=/dev/null",
    "--directory=/data",
    "--file=-",
)


@pytest.fixture
def data(fake: FakeEngine) -> Files:
    """Give the files of a volume with something of every kind, which a running container has at /data."""
    fake.run("shop", image="shop:1", volumes={"orders": "/data"})
    files = fake.volume("orders")
    files.delete("seed")
    files.write("a/one", "1", mode=0o4755, uid=3_000_000, gid=7, mtime=-1_500_000_000, xattrs={"user.x": b"\xff\0=\n"})
    files.write("a/nanoseconds", "", mtime=1_700_000_000_123_456_789)
    files.write("caf\udce9\n'", b"\x00\xff" * 600)
    files.write("x" * 255, "long")
    files.link("a/one", "second")
    files.symlink("out", "../../..")
    files.special("pipe", "fifo", mode=0o600)
    files.special("null", "character", device=(1, 3))
    files.special("disk", "block", device=(8, 0))
    files.mkdir("empty", mode=0o1777)
    return files


def run(fake: FakeEngine, *command: str, stdin: bytes | None = None) -> tuple[bytes, Finished]:
    """Run a program and return what it printed and how it ended."""
    with fake.exec("shop", command, stdin=stdin is not None) as process:
        process.write(stdin or b"")
        process.close_input()
        output = b"".join(iter(lambda: process.read(1000), b""))
        return output, process.finish()


def archive(fake: FakeEngine) -> bytes:
    """Return the volume's archive; the second one is an increment."""
    output, finished = run(fake, *CREATE)
    assert finished.exit_code == 0
    return output


@pytest.mark.usefixtures("data")
def test_the_simple_programs_work(fake: FakeEngine) -> None:
    """They read, write, succeed, fail and copy as their namesakes do."""
    assert run(fake, "cat", "/etc/shop.conf") == (b"a=1", Finished(0, ""))
    assert run(fake, "cat", stdin=b"in")[0] == b"in"
    assert run(fake, "tee", "/etc/copy", stdin=b"in") == (b"in", Finished(0, ""))
    assert fake.container("shop").read("/etc/copy") == b"in"
    assert run(fake, "touch", "/etc/new")[1].exit_code == 0
    assert run(fake, "touch", "/etc/new/x")[1].exit_code == 2
    assert run(fake, "false")[1].exit_code == 1
    assert run(fake, "sync")[1].exit_code == 0
    output, finished = run(fake, "cat", "/nosuch", "/etc/copy")
    assert (output, finished.exit_code) == (b"in", 1)
    assert "/nosuch: No such file or directory" in finished.stderr


def test_a_file_is_described_and_removed(fake: FakeEngine, data: Files) -> None:
    """Stat prints what its format asks for, rm removes what is there."""
    number = data.node("a/one").number
    assert (
        run(fake, "stat", "-c", "%d:%i %a %u:%g %s", "/data/a/one")[0] == f"2049:{number} 4755 3000000:7 1\n".encode()
    )
    assert run(fake, "rm", "-rf", "/data/a", "/data/nosuch")[1].exit_code == 0
    assert not data.exists("a")


@pytest.mark.usefixtures("data")
def test_a_program_is_found_by_its_path_only_where_it_is(fake: FakeEngine) -> None:
    """A path has to lead to a file; a loader before the program is looked past; a shell's last command counts."""
    shop = fake.container("shop")
    assert run(fake, "/opt/tar", "--version")[1].exit_code == 127
    shop.write("/opt/tar", "a program")
    shop.write("/opt/ld-linux.so.2", "a loader")
    assert run(fake, "/opt/tar", "--version")[0].startswith(b"tar (GNU tar)")
    loaded = ("/opt/ld-linux.so.2", "--inhibit-cache", "--library-path", "/opt/lib", "/opt/tar", "--version")
    assert run(fake, *loaded)[0].startswith(b"tar (GNU tar)")
    assert run(fake, "sh", "-c", "test -e /x; true && exec cat /etc/shop.conf")[0] == b"a=1"
    assert run(fake, "sh", "-c", "")[1].exit_code == 127


@pytest.mark.usefixtures("data")
def test_a_program_of_ones_own_may_be_given(fake: FakeEngine) -> None:
    """A test supplies a program, or puts another in the place of one that there is."""

    def broken(run: Run) -> int:
        run.stdout += run.arguments[1].encode()
        run.stderr.append("broken pipe\n")
        return 2

    fake.program("tar", broken)
    assert run(fake, "tar", "half") == (b"half", Finished(2, "broken pipe\n"))


@pytest.mark.usefixtures("data")
def test_reading_waits_for_the_program(fake: FakeEngine) -> None:
    """A thread that reads a program's output sees all of it, however late the input ends."""
    process = fake.exec("shop", ["cat"], stdin=True)
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.extend(iter(lambda: process.read(10), b"")))
    thread.start()
    process.write(b"late")
    process.close_input()
    thread.join()
    assert read == [b"late"]


def test_a_program_that_is_read_by_nobody_ends(fake: FakeEngine) -> None:
    """The end of a container ends its programs; a sleeping main program ends by the clock."""
    fake.run("shop", image="shop:1", command=["sleep", "5"])
    process = fake.exec("shop", ["sleep", "600"])
    fake.kill_container("shop")
    assert process.finish().exit_code == 137


def test_a_known_program_is_run_as_the_main_one(fake: FakeEngine, clock: FakeClock) -> None:
    """What a container runs prints into its log and ends with its own code; sleep ends when its time is over."""
    fake.run("cat", image="shop:1", command=["cat", "/etc/shop.conf", "/nosuch"])
    assert fake.container_logs("cat", tail=5) == "a=1\ncat: /nosuch: No such file or directory\n"
    assert (fake.container("cat").status, fake.container("cat").exit_code) == ("exited", 1)
    fake.run("sleep", image="shop:1", command=["sleep", "1.5"])
    fake.run("forever", image="shop:1", command=["sleep", "infinity"])
    clock.advance(2)
    assert fake.container("sleep").status == "exited"
    assert fake.container("forever").status == "running"


@pytest.mark.parametrize("main", [["cat", "/line"], ["sh", "-c", "mkfifo -m 600 /line && exec cat /line"]])
def test_a_reader_ends_with_its_last_writer(fake: FakeEngine, main: list[str]) -> None:
    """A main program that reads a FIFO goes on while anyone holds it open for writing, and ends with the last one."""
    fake.add_image("reader:1", fill=lambda files: files.special("/line", "fifo") if main[0] == "cat" else None)
    fake.run("shop", image="reader:1", command=main, auto_remove=True)
    shop = fake.container("shop")
    first, second = (fake.exec("shop", ["tee", "/line"], stdin=True) for _ in range(2))
    first.kill()
    assert shop.status == "running"
    second.close_input()
    assert shop.status == "removed"


def test_an_archive_holds_everything(fake: FakeEngine, data: Files) -> None:
    """What is extracted into a changed volume is what was archived: strays gone, kinds restored, nothing forgotten."""
    before = data.facts()
    whole = archive(fake)
    data.delete("a")
    data.symlink("a", "/etc")
    data.delete("out")
    data.write("out/side", "stray")
    data.write("stray", "x")
    data.set("empty", mode=0o700, xattrs={"system.posix_acl_access": b"stray"})
    data.write("second", "changed")
    assert run(fake, *EXTRACT, stdin=whole)[1] == Finished(0, "")
    assert data.facts() == before
    assert not fake.container("shop").exists("/etc/one")


def test_a_folder_that_is_there_keeps_attributes_of_its_own(fake: FakeEngine, data: Files) -> None:
    """As GNU tar does: an attribute that the archive does not know stays on a folder, and goes from a file."""
    whole = archive(fake)
    for path in ("empty", "a/one"):
        data.set(path, xattrs={"user.stray": b""})
    assert run(fake, *EXTRACT, stdin=whole)[1].exit_code == 0
    assert data.node("empty").xattrs == {"user.stray": b""}
    assert data.node("a/one").xattrs.keys() == {"user.x"}
    assert run(fake, "setfattr", "--remove=user.stray", "/data/empty")[1].exit_code == 0
    assert run(fake, "setfattr", "--remove=user.stray", "/data/empty")[1].exit_code == 1
    assert data.node("empty").xattrs == {}


def test_an_increment_holds_what_changed(fake: FakeEngine, data: Files, clock: FakeClock) -> None:
    """The second archive has the files that are newer than the first, and every folder's list; both make the whole."""
    base = archive(fake)
    clock.advance(10)
    data.write("a/new", "new")
    data.write("fresh/deep/file", "new")
    data.rename("second", "third")
    data.delete("x" * 255)
    after = data.facts()
    increment = archive(fake)
    with tarfile.open(fileobj=io.BytesIO(increment)) as tar:
        files = {entry.name for entry in tar if not entry.isdir()}
    assert files == {"./a/new", "./fresh/deep/file", "./a/one", "./third"}
    data.write("scratch", "x")
    for part in (base, increment):
        assert run(fake, *EXTRACT, stdin=part)[1].exit_code == 0
    assert data.facts() == after


def test_a_level_begins_anew(fake: FakeEngine, data: Files) -> None:
    """With level 0 the snapshot file is not looked at, and an unreadable one is an error without."""
    archive(fake)
    whole = len(data.facts())
    output, _ = run(fake, "tar", "--level=0", *CREATE[1:])
    with tarfile.open(fileobj=io.BytesIO(output)) as tar:
        assert len(tar.getmembers()) == whole
    for damage in (b"nonsense", b"GNU tar-1.35-2\n1\0", b"GNU tar-1.35-2\n1\0" + b"2\0" + b"0\0"):
        fake.container("shop").write("/snapshot", damage)
        assert run(fake, *CREATE)[1].exit_code == 2


@pytest.mark.usefixtures("data")
def test_the_snapshot_file_is_tars_own(fake: FakeEngine) -> None:
    """A snapshot file that is read and written again is the same, byte for byte."""
    archive(fake)
    written = fake.container("shop").read("/snapshot")
    found = Snapshot.parse(written)
    assert found.written() == written
    assert sorted(found.records) == [b".", b"./a", b"./empty"]
    assert found.records[b"./a"].entries == [b"Ynanoseconds", b"Yone"]


def test_a_socket_is_left_out_with_a_word(fake: FakeEngine, data: Files) -> None:
    """No archive holds a socket, though its directory lists it; tar says so and succeeds."""
    data.special("socket", "socket")
    output, finished = run(fake, *CREATE)
    assert finished == Finished(0, "tar: ./socket: socket ignored\n")
    assert b"\0Ysocket\0" in output or b"=Ysocket\0" in output
    assert b"./socket" not in output


@pytest.mark.usefixtures("data")
def test_an_unknown_option_fails_loudly(fake: FakeEngine) -> None:
    """Any option that the fake does not do ends with 64 and names it."""
    for command in (("tar", "--create", "--exotic", "."), ("tar", "-z"), ("tar", "."), ("tar", "--create")):
        _, finished = run(fake, *command)
        assert finished.exit_code == 64
        assert finished.stderr


def test_a_broken_archive_is_an_error(fake: FakeEngine, data: Files) -> None:
    """Cut or damaged input ends with 2; none at all is an empty archive."""
    whole = archive(fake)
    for damage in (whole[:700], whole[:1500], b"nonsense" * 200):
        assert run(fake, *EXTRACT, stdin=damage)[1].exit_code == 2
    before = data.facts()
    assert run(fake, *EXTRACT, stdin=b"")[1].exit_code == 0
    assert data.facts() == before


def test_a_link_to_nothing_is_an_error(fake: FakeEngine, data: Files) -> None:
    """A hard link whose file the archive does not hold fails the extraction."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("./link")
        entry.type, entry.linkname = tarfile.LNKTYPE, "./nosuch"
        tar.addfile(entry)
    assert run(fake, *EXTRACT, stdin=buffer.getvalue())[1].exit_code == 2
    assert not data.exists("link")


def test_an_archive_of_another_make_is_extracted(fake: FakeEngine, data: Files) -> None:
    """Folders that an archive does not name are made, and what it does not list a folder to hold stays."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folder = tarfile.TarInfo("empty")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        tar.addfile(tarfile.TarInfo("new/deep/file"))
    data.write("empty/mine", "x")
    assert run(fake, *EXTRACT, stdin=buffer.getvalue())[1].exit_code == 0
    assert data.exists("new/deep/file")
    assert data.exists("empty/mine")


def test_what_was_fed_before_a_kill_has_had_its_effect(fake: FakeEngine, data: Files) -> None:
    """A tar that is killed half way has put in what had come until then."""
    whole = archive(fake)
    for name in data.list():
        data.delete(name)
    with fake.exec("shop", EXTRACT, stdin=True) as process:
        process.write(whole[: len(whole) // 2])
    assert process.finish().exit_code == 137
    assert 0 < len(data.facts()) < 13


@pytest.mark.usefixtures("data")
def test_members_are_listed_and_chosen(fake: FakeEngine) -> None:
    """Tar lists an archive, and takes out what is named; without recursion it takes a folder alone."""
    whole = archive(fake)
    alone, _ = run(fake, "tar", "--create", "--no-recursion", "--format=pax", "--file=-", "--directory=/data", "a")
    with tarfile.open(fileobj=io.BytesIO(alone)) as tar:
        assert tar.getnames() == ["a"]
    listed, _ = run(fake, "tar", "--list", "--file=-", stdin=whole)
    assert b"./a/one\n" in listed
    fake.container("shop").mkdir("/tmp")
    assert run(fake, "tar", "-x", "-f", "-", "-C", "/tmp", "./a", stdin=whole)[1].exit_code == 0
    assert fake.container("shop").list("/tmp") == ["a"]


@pytest.mark.skipif(shutil.which("tar") is None, reason="compares with this machine's tar, and it has none")
def test_real_tar_reads_the_archives(fake: FakeEngine, data: Files, tmp_path: Path, clock: FakeClock) -> None:
    """GNU tar lists base and increment of the fake's as its own."""
    data.delete("disk")
    data.delete("null")
    base = archive(fake)
    clock.advance(10)
    data.write("a/new", "new")
    increment = archive(fake)
    for part, expected in ((base, "./second"), (increment, "./a/new")):
        (tmp_path / "archive").write_bytes(part)
        listed = subprocess.run(
            ["tar", "--list", "--listed-incremental=/dev/null", f"--file={tmp_path / 'archive'}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert expected in listed.stdout.splitlines()
