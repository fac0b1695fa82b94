"""A wrong argument is named before anything is touched, and never comes out as an error of the library's inside."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import docker_rollback
from docker_rollback import (
    DockerRollbackError,
    backup,
    healthy,
    replace,
    rollback,
)
from docker_rollback._inspection.successor import Changes
from docker_rollback.testing import FailingEngine
from tests.unit.shop import Shop

WRONG: list[tuple[Callable[..., object], dict[str, Any], type[Exception], str]] = [
    (rollback, {"max_downtime": "10"}, TypeError, "max_downtime is a number of seconds above 0, or None, not '10'"),
    (rollback, {"max_downtime": 0}, ValueError, "max_downtime is a number of seconds above 0, or None, not 0"),
    (rollback, {"max_downtime": True}, TypeError, "max_downtime is a number of seconds"),
    (rollback, {"max_downtime": math.nan}, ValueError, "max_downtime is a number of seconds"),
    (backup, {"max_downtime": -1}, ValueError, "max_downtime is a number of seconds"),
    (rollback, {"watch": "60"}, TypeError, "watch is a number of seconds above 0, or None, not '60'"),
    (rollback, {"watch": 0}, ValueError, "watch is a number of seconds above 0, or None, not 0"),
    (replace, {"watch": True}, TypeError, "watch is a number of seconds"),
    (replace, {"pull": "sometimes"}, ValueError, "pull is one of 'missing', 'always', 'never', not 'sometimes'"),
    (replace, {"image": 5}, TypeError, "image is the name or id of an image or None, not 5"),
    (replace, {"platform": ""}, ValueError, "platform is empty"),
    (replace, {"environment": {"A": 5}}, TypeError, "environment['A'] is a text or None, not of type int"),
    (replace, {"quiesce": "Stop"}, ValueError, "quiesce is one of"),
    (replace, {"colour": "red"}, TypeError, "colour"),
    (
        rollback,
        {"verify": "http://x"},
        TypeError,
        "verify is a check, such as healthy() or http_ok(url), several, or None, not 'http://x'",
    ),
    (rollback, {"verify": 5}, TypeError, "several, or None, not 5"),
    (rollback, {"verify": [5]}, TypeError, "a check is a callable, not 5"),
    (rollback, {"verify": healthy}, ValueError, "returns a check; call it"),
    (rollback, {"keep": "3"}, TypeError, "keep is a number of backups, a timedelta, a Keep or None, not '3'"),
    (rollback, {"keep": -1}, ValueError, "keep is not negative"),
    (rollback, {"keep": True}, TypeError, "keep is a number of backups"),
    (rollback, {"quiesce": "Stop"}, ValueError, "quiesce is one of 'stop', 'pause', 'none', not 'Stop'"),
    (backup, {"quiesce": ["stop"]}, ValueError, "quiesce is one of"),
    (rollback, {"shared": None}, ValueError, "shared is one of"),
    (rollback, {"way": "fast"}, ValueError, "way is one of None, 'direct', 'helper', not 'fast'"),
    (rollback, {"store": 5}, TypeError, "store is a BackupStore, a path or None, not 5"),
    (rollback, {"store": b"/x"}, TypeError, "store is a BackupStore, a path or None"),
    (rollback, {"store": ""}, ValueError, "store is an empty path"),
    (rollback, {"exclude": "x"}, TypeError, "exclude must be a list, not 'x'"),
    (rollback, {"exclude": None}, TypeError, "exclude must be a list"),
    (rollback, {"exclude": [5]}, TypeError, "'volume', 'volume:path' or an Exclude was expected, not 5"),
    (rollback, {"include_binds": "/srv"}, TypeError, "include_binds is a list of paths, not '/srv'"),
    (rollback, {"include_binds": [5]}, TypeError, "include_binds is a list of paths; 5 in it is none"),
    (rollback, {"include_binds": None}, TypeError, "include_binds is a list of paths, not None"),
    (rollback, {"include_files": "/srv"}, TypeError, "include_files is True, False or a list of paths, not '/srv'"),
    (rollback, {"include_files": Path("/srv")}, TypeError, "include_files is True, False or a list of paths"),
    (rollback, {"include_files": None}, TypeError, "include_files is True, False or a list of paths, not None"),
    (rollback, {"include_files": [5]}, TypeError, "include_files is a list of paths; 5 in it is none"),
    (rollback, {"progress": "yes"}, TypeError, "progress is a callable or None, not 'yes'"),
    (rollback, {"on_outcome": 5}, TypeError, "on_outcome is a callable or None, not 5"),
    (rollback, {"resume": "no"}, TypeError, "resume is True or False, not 'no'"),
    (rollback, {"keep_failed": 1}, TypeError, "keep_failed is True or False, not 1"),
    (rollback, {"export_image": None}, TypeError, "export_image is True or False, not None"),
    (rollback, {"helper_image": 5}, TypeError, "helper_image is the name or id of an image or None, not 5"),
    (rollback, {"before_quiesce": "sync"}, TypeError, "before_quiesce is a callable, a Call or an Exec, or several"),
    (
        backup,
        {"after_resume": [5]},
        TypeError,
        "after_resume is a callable, a Call or an Exec, or several of them, not 5",
    ),
    (rollback, {"after_rollback": 5}, TypeError, "after_rollback is a callable, a Call or an Exec, or several"),
    (rollback, {"project": 5}, TypeError, "project is the name of a compose project or None, not 5"),
    (rollback, {"project": ""}, ValueError, "project is empty"),
    (rollback, {"client": "unix:///run/docker.sock"}, TypeError, "client is a docker-py client, an Engine or None"),
]


def _label(value: object) -> str:
    # An address differs in each run, so a test could not be named by its id.
    return getattr(value, "__name__", re.sub(r" at 0x[0-9a-f]+", "", str(value)))


@pytest.mark.parametrize(("call", "arguments", "kind", "said"), WRONG, ids=_label)
def test_a_wrong_argument_is_named(
    shop: Shop, call: Callable[..., object], arguments: dict[str, Any], kind: type[Exception], said: str
) -> None:
    """With what it has to be; nothing has been asked of the engine by then, and no store is made."""
    engine = FailingEngine(shop.engine)
    with pytest.raises(kind, match=re.escape(said)):
        call("shop", **{"client": engine, "store": shop.store, **arguments})
    assert engine.calls == []
    assert not shop.store.path.exists()


def test_a_call_without_a_container_is_refused(shop: Shop) -> None:
    """By both, in the same words, and a list of containers is told from several."""
    calls: dict[str, Any] = {"rollback": rollback, "backup": backup}
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"{name} needs at least one container, or a compose project"):
            call(client=shop.engine, store=shop.store)
        with pytest.raises(TypeError, match=re.escape(f"of their own: {name}('web', 'db')")):
            call(["web", "db"], client=shop.engine, store=shop.store)
        for wrong in (5, None, SimpleNamespace(id=5), b"web"):
            with pytest.raises(TypeError, match="a name, an id or an object with an id was expected"):
                call(wrong, client=shop.engine, store=shop.store)
        for empty in ("", SimpleNamespace(id="")):
            with pytest.raises(ValueError, match="an empty name, or an object without an id"):
                call(empty, client=shop.engine, store=shop.store)


dr: Any = docker_rollback
any_changes: Any = Changes
MADE: list[tuple[Callable[[], object], str]] = [
    (lambda: dr.healthy(timeout=-1), "timeout is a number of seconds, 0 or more, or None, not -1"),
    (lambda: dr.healthy(stable_for="1"), "stable_for is a number of seconds, 0 or more, not '1'"),
    (lambda: dr.http_ok("x:80"), "url is an http or https address, not 'x:80'"),
    (lambda: dr.http_ok(5), "url is an http or https address, not 5"),
    (lambda: dr.http_ok("http://x", timeout="30"), "timeout is a number of seconds, 0 or more, not '30'"),
    (lambda: dr.http_ok("http://x", status="200"), "status is a whole number from 100 to 599, or None, not '200'"),
    (lambda: dr.tcp_open("x", "80"), "port is a whole number from 1 to 65535, not '80'"),
    (lambda: dr.tcp_open("x", 0), "port is a whole number from 1 to 65535, not 0"),
    (lambda: dr.tcp_open(None, 80), "host is a host's name or address, not None"),
    (lambda: dr.tcp_open("x", 80, timeout=None), "timeout is a number of seconds, 0 or more, not None"),
    (lambda: dr.eventually(dr.healthy(), timeout=math.inf), "timeout is a number of seconds, 0 or more, not inf"),
    (lambda: dr.eventually("x"), "a check is a callable, not 'x'"),
    (lambda: dr.Exec("db", "sync"), "the command of an Exec is a list"),
    (lambda: dr.Exec("db", [5]), "the command of an Exec is a list of the program and its arguments; 5 in it is none"),
    (lambda: dr.Exec(5, ["sync"]), "the container of an Exec is a name or an id, not 5"),
    (lambda: dr.Exec("db", ["sync"], timeout="1"), "timeout is a number of seconds above 0, or None, not '1'"),
    (lambda: dr.parts.Call("sync"), "the function of a Call is a callable, not 'sync'"),
    (lambda: dr.parts.Call(print, timeout=0), "timeout is a number of seconds above 0, or None, not 0"),
    (lambda: dr.Keep(count="3"), "keep is a number of backups"),
    (lambda: dr.Keep(age=3), "the age of a Keep is a timedelta or None, not 3"),
    (lambda: dr.Keep(age=timedelta(-1)), "keep is not negative"),
    (lambda: dr.Exclude(5), "the volume of an Exclude must be a name or a path, not 5"),
    (lambda: dr.Exclude("data", 5), "the path of an Exclude must be a str, not 5"),
    (lambda: any_changes(environment=["A=B"]), "environment is a mapping, not ['A=B']"),
    (lambda: any_changes(environment={"A": 5}), "environment['A'] is a text or None, not of type int"),
    (lambda: any_changes(command=5), "a command is a list of words, not 5"),
    (lambda: any_changes(labels={5: "x"}), "labels is a mapping of texts; the key 5 in it is none"),
    (lambda: dr.DockerEngine("unix://"), "client is a docker-py client, not 'unix://'"),
    (lambda: dr.restore(5), "backup is a Backup, or the id of one, not 5"),
    (lambda: dr.recover(keep_found="no"), "keep_found is True or False, not 'no'"),
    (lambda: dr.BackupStore(5), "store is a BackupStore, a path or None, not 5"),
    (lambda: dr.BackupStore("x").get(5), "backup_id is the id of a backup, not 5"),
    (lambda: dr.BackupStore("x").verify([]), "backup_id is the id of a backup, not []"),
    (lambda: dr.BackupStore("x").delete(None), "backup_id is the id of a backup, not None"),
    (lambda: dr.BackupStore("x").export("x", 5), "file is a path, or a binary file with a write method, not 5"),
    (lambda: dr.BackupStore("x").import_(5), "file is a path, or a binary file with a read method, not 5"),
    (
        lambda: dr.BackupStore("x").prune(keep=1, containers="web"),
        "a list of names of containers, not 'web'",
    ),
    (lambda: dr.BackupStore("x").prune(keep=1, protect="id"), "protect is a list of ids of backups, not 'id'"),
    (lambda: dr.BackupStore("x").prune(keep="1"), "keep is a number of backups"),
]


@pytest.mark.parametrize(("make", "said"), MADE, ids=lambda one: one if isinstance(one, str) else "")
def test_a_value_that_cannot_be_is_refused_where_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], object], said: str
) -> None:
    """By a `TypeError` or a `ValueError`, long before it would be used."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        make()
    assert list(tmp_path.iterdir()) == []


def test_what_replace_is_given_is_looked_at_before_anything(shop: Shop) -> None:
    """The container runs on, and the block with it."""
    wrong: list[dict[str, Any]] = [
        {"pull": "sometimes"},
        {"image": 5},
        {"image": ""},
        {"platform": 5},
        {"environment": ["A=B"]},
        {"healthcheck": "NONE"},
        {"ports": 80},
    ]
    with shop.rollback(verify=None) as tx:
        calls = len(shop.engine.list_containers())
        for arguments in wrong:
            with pytest.raises((TypeError, ValueError)):
                tx.replace("shop", **{"image": "shop:1", **arguments})
        for container in list[Any]([5, None, [], ""]):
            with pytest.raises((TypeError, ValueError)):
                tx.replace(container, image="shop:1")
        assert len(shop.engine.list_containers()) == calls
    shop.check_restored()


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
    st.just(object()),
    st.just(timedelta(-5)),
    st.sets(st.integers(), max_size=1),
)
OPTIONS = sorted(
    name
    for name, parameter in inspect.signature(rollback).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name not in ("client", "store")
)


WORDS = {"verify": "check", "exclude": "Exclude", "project": "container", "include_binds": "bind mount"}
"""What an error about an option may say in place of its name."""


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(OPTIONS), value=ODD)
def test_no_odd_value_gets_into_the_library(shop: Shop, name: str, value: Any) -> None:
    """Each option takes a value, or refuses it by an error of argument that says which; no other error comes."""
    for call in (rollback, backup):
        if name in inspect.signature(call).parameters and (error := refused(shop, call, name, value)) is not None:
            assert name in str(error) or WORDS.get(name, name) in str(error)
    shop.check_restored()


def refused(shop: Shop, call: Callable[..., object], name: str, value: Any) -> Exception | None:
    """Return the error of argument that a call raises; any other but the library's own comes out."""
    try:
        call("shop", client=shop.engine, store=shop.store, **{name: value})
    except (TypeError, ValueError) as error:
        return error
    except DockerRollbackError:
        # As for a project, or a volume to leave out, that the engine does not have.
        return None
    return None
