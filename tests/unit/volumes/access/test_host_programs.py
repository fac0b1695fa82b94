"""This machine's programs: found, and what each needs to run elsewhere."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from docker_rollback._capture import guards
from docker_rollback._volumes.access import host_programs
from docker_rollback._volumes.access.host_programs import Program, ToolError


def test_a_program_needs_its_loader_and_its_libraries() -> None:
    """All of them are files of this machine, each under the name that it is looked for by."""
    path = host_programs.find_program("tar").resolve()
    found = host_programs.needs(path)
    assert found.path == path
    assert found.loader is not None
    assert found.loader.exists()
    assert any(name.startswith("libc.") for name in found.libraries)
    for name, file in found.libraries.items():
        assert "/" not in name
        assert file.is_file()
    assert found.loader.name not in found.libraries


def test_a_static_program_needs_nothing(tmp_path: Path) -> None:
    """It names no loader."""
    with tarfile.open(fileobj=io.BytesIO(guards.program("x86_64"))) as archive:
        content = archive.extractfile(archive.getmembers()[1])
        assert content is not None
        (tmp_path / "static").write_bytes(content.read())
    assert host_programs.needs(tmp_path / "static") == Program(tmp_path / "static", None, {})


def test_what_is_no_program_cannot_be_taken_along(tmp_path: Path) -> None:
    """A script, a file that is too short, and one that is not there."""
    for name, content in (("script", b"#!/bin/sh\n" + b"x" * 100), ("short", b"\x7fELF\x02\x01\x01")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ToolError, match=f"{name} is not a program that can be taken along"):
            host_programs.needs(tmp_path / name)
    with pytest.raises(ToolError, match="nothing cannot be read"):
        host_programs.needs(tmp_path / "nothing")
    with pytest.raises(ToolError, match="this machine has no such-program-is-nowhere"):
        host_programs.find_program("such-program-is-nowhere")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"\tlibc.so.6 => not found\n", "says of .*tar: libc.so.6 => not found"),
        (b"", "does not say which libraries"),
        (b"\tlinux-vdso.so.1 (0x00007ffc)\n", "does not say which libraries"),
    ],
)
def test_a_loader_that_tells_nothing_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: bytes, reason: str
) -> None:
    """Nothing is guessed about what a program needs."""
    copy = tmp_path / "tar"
    copy.write_bytes(host_programs.find_program("tar").read_bytes())
    monkeypatch.setattr(host_programs, "_output", lambda _: said)
    with pytest.raises(ToolError, match=reason):
        host_programs.needs(copy)


@pytest.mark.parametrize(
    ("version", "known"),
    [
        (b"tar (GNU tar) 1.35\nCopyright", True),
        (b"tar (GNU tar) 1.27", True),
        (b"tar (GNU tar) 1.26", False),
        (b"tar (GNU tar) 2.0", True),
        (b"bsdtar 3.7.2", False),
        (b"", False),
    ],
)
def test_a_tar_that_knows_attributes_is_known_by_its_version(version: bytes, *, known: bool) -> None:
    """GNU's, from 1.27 on."""
    assert host_programs.is_gnu_tar(version) is known


def test_a_program_that_fails_or_is_not_there_prints_nothing() -> None:
    """What it printed before it failed does not count."""
    assert host_programs._output(["/bin/sh", "-c", "echo words"]) == b"words\n"
    assert host_programs._output(["/bin/sh", "-c", "echo words; exit 1"]) == b""
    assert host_programs._output(["/such/program"]) == b""
