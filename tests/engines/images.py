"""Images made on the spot, for engines that cannot pull."""

from __future__ import annotations

import io
import subprocess
import tarfile

from tests.engines import debian

FOLDERS = ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "var")
USERS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
GROUPS = "root:x:0:\nnogroup:x:65534:\n"


def busybox_tar() -> bytes:
    """Return the tar of a small file system: Debian's static busybox with a link for each of its commands."""
    busybox = debian.busybox()
    commands = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for folder in FOLDERS:
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        for name, content, mode in (
            ("bin/busybox", busybox.read_bytes(), 0o755),
            ("etc/passwd", USERS.encode(), 0o644),
            ("etc/group", GROUPS.encode(), 0o644),
        ):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
        for command in commands:
            entry = tarfile.TarInfo(f"bin/{command}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            if command != "busybox":
                archive.addfile(entry)
    return whole.getvalue()
