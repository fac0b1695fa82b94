"""An attacker who swaps a folder for a link while somebody else works below it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

_HERE = -100
_EXCHANGE = 2
_LIBC = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> None:
    """Exchange two names in one step, as only the kernel can; raises `OSError`."""
    if _LIBC.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one))


_OWNER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
one, other, target = map(os.fsencode, sys.argv[1:4])
os.setgroups([]); os.setgid(int(sys.argv[4])); os.setuid(int(sys.argv[4]))
print(flush=True)
while True:
    if libc.renameat2(-100, one, -100, other, 2):
        try:
            os.symlink(target, other)
        except OSError:
            pass
"""


@contextmanager
def owner_swapping(one: Path, other: Path, *, target: Path, user: int) -> Iterator[None]:
    """Have a process of an unprivileged user exchange a folder and a link to `target`, for the time of a block."""
    words = [sys.executable, "-c", _OWNER, str(one), str(other), str(target), str(user)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()


class Swapping:
    """Exchanges two names for the time of a block, as often as it can; the first swap is done when it begins.

    Attributes:
        count: how often that was.
    """

    def __init__(self, one: Path, other: Path) -> None:
        self.count = 0
        self._names = (one, other)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._swap)

    def __enter__(self) -> Self:
        self._once()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._over.set()
        self._thread.join()

    def _swap(self) -> None:
        while not self._over.is_set():
            self._once()

    def _once(self) -> None:
        try:
            exchange(*self._names)
        except FileNotFoundError:
            # Whoever works below removed one of them; a link takes its place, as an attacker would have it.
            return
        self.count += 1
