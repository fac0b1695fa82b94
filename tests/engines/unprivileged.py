"""Tests as a user without root, who may use an engine's socket and nothing else: a pytest plugin.

    pytest -p tests.engines.unprivileged --without-root

It gives root up before the tests begin: the process has no capability and no group but the socket's, and what it starts
can never have one again. What stays is the saved user id, by which the tests' own eyes (`as_root`) look into files that
the user must not see. The library never does.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.engines import namespaces

USER = 64990
"""The user id, and the id of the group that may use the socket: one that no system gives to anybody."""


def is_unprivileged() -> bool:
    """Say whether root was given up here."""
    return os.getresuid() == (USER, os.geteuid(), 0)


def can_be_root() -> bool:
    """Say whether `as_root` gives root."""
    return os.geteuid() == 0 or is_unprivileged()


@contextmanager
def as_root() -> Iterator[None]:
    """Be root for a block, where root was given up; elsewhere nothing changes."""
    with _being(0):
        yield


@contextmanager
def as_user() -> Iterator[None]:
    """Be the user again for a block within `as_root`; elsewhere nothing changes."""
    with _being(USER):
        yield


@contextmanager
def _being(wanted: int) -> Iterator[None]:
    before = os.geteuid()
    if not is_unprivileged() or before == wanted:
        yield
        return
    _become(wanted)
    try:
        yield
    finally:
        _become(before)


def _become(wanted: int) -> None:
    # A group can be changed by root alone, so root comes first and goes last.
    os.seteuid(0)
    os.setegid(wanted)
    os.seteuid(wanted)
    namespaces.own_oneself()


class ByUser:
    """Something whose methods are called as the user.

    Args:
        thing: which.
    """

    def __init__(self, thing: object) -> None:
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        return _called_by_user(found) if callable(found) else found


def _called_by_user(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        with as_user():
            return function(*args, **options)

    return call


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--without-root", action="store_true", help="give root up, and use the engine as any user may")


def pytest_configure(config: pytest.Config) -> None:
    """Give root up."""
    if config.getoption("--without-root"):
        os.setgroups([])
        os.setresgid(USER, USER, 0)
        os.setresuid(USER, USER, 0)
        namespaces.own_oneself()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about the direct way to volumes: it takes root, and the library says so."""
    if config.getoption("--without-root"):
        left_out = [item for item in items if item.get_closest_marker("direct")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
