"""The helper's image, made of this machine's own programs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from docker_rollback._volumes.access import helper_image, host_programs
from docker_rollback.errors import EngineConflictError, EngineUnavailableError
from docker_rollback.testing import FailingEngine, FakeEngine


@pytest.fixture(scope="module")
def kit() -> helper_image.Kit:
    """Give the image of this machine."""
    return helper_image.pack_kit()


def helper_images(fake: FakeEngine, kit: helper_image.Kit) -> bool:
    """Say whether an engine has the helper's image."""
    return fake.has_image(kit.tag)


def test_the_same_programs_make_the_same_image(kit: helper_image.Kit) -> None:
    """Made twice, it has the same bytes, and so the same name."""
    again = helper_image.pack_kit()
    assert (again.archive == kit.archive, again.tag) == (True, kit.tag)
    assert kit.tag.startswith("docker-rollback-helper:")


def test_other_programs_make_another_image(kit: helper_image.Kit) -> None:
    """Its name tells its content."""
    assert helper_image.Kit(kit.archive + b"\0", kit.prefixes).tag != kit.tag


def test_it_holds_nothing_that_tells_of_this_machine(kit: helper_image.Kit) -> None:
    """Owners, times and names are the same whoever makes it."""
    with tarfile.open(fileobj=io.BytesIO(kit.archive)) as archive:
        members = archive.getmembers()
    assert {(member.mtime, member.uid, member.gid, member.uname, member.gname) for member in members} == {
        (0, 0, 0, "", "")
    }
    kinds = {member.name: member.type for member in members}
    assert kinds[helper_image.LIFELINE.lstrip("/")] == tarfile.FIFOTYPE
    ours = [name for name in kinds if not name.startswith(helper_image.HOME.lstrip("/"))]
    assert sorted(ours) == ["dev", "etc", "proc", "sys"]


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the root takes root")
@pytest.mark.parametrize("tool", ["tar", *helper_image.TOOLS])
def test_its_programs_run_where_nothing_else_is(kit: helper_image.Kit, tmp_path: Path, tool: str) -> None:
    """Each program of it says its version in a root that holds the image alone."""
    with tarfile.open(fileobj=io.BytesIO(kit.archive)) as archive:
        # Python 3.11 knows of filters from 3.11.4 on; Debian 12 has 3.11.2.
        archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        archive.extractall(tmp_path)
    script = "import os, sys; os.chroot(sys.argv[1]); os.chdir('/'); os.execv(sys.argv[2], sys.argv[2:])"
    command = kit.toolbox("id").command((tool, "--version"))
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), *command], capture_output=True, check=False)
    assert (done.returncode, done.stdout[:1] != b"") == (0, True), done.stderr
    if tool == "tar":
        assert host_programs.is_gnu_tar(done.stdout)


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of the programs there is no image, and the error says which."""
    monkeypatch.setattr(helper_image, "TOOLS", ("cat", "no-such-tool"))
    with pytest.raises(host_programs.ToolError, match="this machine has no no-such-tool"):
        helper_image.pack_kit()


def test_only_programs_can_be_taken_along(tmp_path: Path) -> None:
    """A script, and a file too short to be anything, are refused by name."""
    for content in (b"#!/bin/sh\necho 1\n" * 10, b"\x7fELF"):
        script = tmp_path / "tool"
        script.write_bytes(content)
        with pytest.raises(host_programs.ToolError, match=f"{script} is not a program"):
            host_programs.needs(script)


@pytest.mark.parametrize(
    ("said", "good"),
    [
        (b"tar (GNU tar) 1.34\nCopyright", True),
        (b"tar (GNU tar) 1.27\n", True),
        (b"tar (GNU tar) 2.0\n", True),
        (b"tar (GNU tar) 1.26\n", False),
        (b"tar (busybox) 1.35.0", False),
        (b"bsdtar 3.6.2 - libarchive", False),
        (b"", False),
    ],
)
def test_gnu_tar_is_told_by_what_it_says(said: bytes, *, good: bool) -> None:
    """Only GNU tar from the version on that knows attributes will do."""
    assert host_programs.is_gnu_tar(said) is good


def test_the_image_is_there_while_somebody_uses_it(kit: helper_image.Kit) -> None:
    """It is imported once, used again while there, and removed when the last user leaves."""
    fake = FakeEngine()
    counting = FailingEngine(fake)
    own = helper_image.OwnImage(counting)
    with own.lease():
        with own.lease():
            first = own.provide()
        assert helper_images(fake, kit)
        assert own.provide() == first
    assert not helper_images(fake, kit)
    assert [call.verb for call in counting.calls].count("import_image") == 1


def test_an_image_in_use_elsewhere_is_left_there(kit: helper_image.Kit) -> None:
    """Where another process's helper stands on it, it stays, and that is no error."""
    fake = FakeEngine()
    own = helper_image.OwnImage(fake)
    with own.lease():
        toolbox = own.provide()
        other = fake.create_container("other-helper", {"Image": toolbox.image, "Cmd": ["x"]})
    assert helper_images(fake, kit)
    fake.remove_container(other)
    with own.lease():
        own.provide()
    assert not helper_images(fake, kit)


def test_an_image_that_cannot_be_removed_is_no_error(kit: helper_image.Kit, caplog: pytest.LogCaptureFixture) -> None:
    """What was done with its help stands, and a warning names what is left."""
    fake = FakeEngine()
    gone = EngineUnavailableError("remove", "gone")
    # The second try fails as well.
    failing = FailingEngine(fake, at=1, verbs={"remove_image"}, error=gone)
    own = helper_image.OwnImage(FailingEngine(failing, at=1, verbs={"remove_image"}, error=gone))
    with own.lease():
        own.provide()
    assert f"the helper image {kit.tag} is left over" in caplog.text
    assert not isinstance(failing.struck, EngineConflictError)


def test_an_image_that_could_not_be_removed_once_is_removed(kit: helper_image.Kit) -> None:
    """One failure leaves nothing behind."""
    fake = FakeEngine()
    own = helper_image.OwnImage(FailingEngine(fake, at=1, verbs={"remove_image"}))
    with own.lease():
        own.provide()
    assert not helper_images(fake, kit)


def test_our_programs_are_not_for_another_architecture() -> None:
    """An engine on another kind of machine gets no image of ours."""
    own = helper_image.OwnImage(FakeEngine(architecture="s390x"))
    with own.lease(), pytest.raises(host_programs.ToolError, match="the engine's host is s390x"):
        own.provide()


@pytest.mark.parametrize("late", ["main", "lifeline"])
def test_a_helper_of_a_foreign_image_lives_as_long_as_its_lifeline(tmp_path: Path, late: str) -> None:
    """Run here, its two programs find each other in either order, and the main one ends with the other's input."""
    toolbox = helper_image.foreign("sha256:1", {})

    def start(words: Sequence[str]) -> subprocess.Popen[bytes]:
        here = [word.replace(helper_image.HOME, str(tmp_path)) for word in words]
        return subprocess.Popen(here, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    order = (toolbox.lifeline, toolbox.main) if late == "main" else (toolbox.main, toolbox.lifeline)
    with start(order[0]) as first, start(order[1]) as second:
        lifeline, main = (first, second) if late == "main" else (second, first)
        assert lifeline.stdin is not None
        assert main.stdout is not None
        lifeline.stdin.write(b"alive")
        lifeline.stdin.flush()
        assert main.stdout.read(5) == b"alive"
        assert main.poll() is None
        lifeline.stdin.close()
        assert (main.wait(30), lifeline.wait(30)) == (0, 0)


def test_a_foreign_image_is_called_by_bare_names() -> None:
    """Its own programs are looked up by the image; its volumes and labels are known, to be masked."""
    toolbox = helper_image.foreign("sha256:1", {"Volumes": {"/var/lib/x": {}}, "Labels": {"proxy": "on"}})
    assert toolbox.command(("tar", "--version")) == ("tar", "--version")
    assert (toolbox.ours, toolbox.masked, toolbox.labels) == (False, ("/var/lib/x",), ("proxy",))
    assert helper_image.foreign("sha256:1", {"Volumes": None, "Labels": None}).masked == ()
