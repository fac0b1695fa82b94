"""Every error: it can be copied, and sent from one process to another, with all that it says and has."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import pytest

from docker_rollback import errors

CLASSES = sorted(
    (found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, BaseException)),
    key=lambda found: found.__name__,
)
ID = "ab" * 32
FAILURES = [errors.VolumeError("data", "gone"), ValueError("odd")]
VALUES: dict[str, Any] = {
    "allowed": 5.0,
    "containers": ["web", "db"],
    "differences": ["A: 1 became 2"],
    "failures": FAILURES,
    "reasons": ["one", "two"],
    "free": 1_000_000,
    "needed": 2_000_000,
    "status": 503,
}


def example(kind: type[BaseException]) -> BaseException:
    """Return an error of a kind, with a value for each of its parameters."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    plain: list[Any] = []
    named: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            plain.append("some words")
        elif parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = VALUES.get(parameter.name, f"the {parameter.name}")
        elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            plain.append(VALUES.get(parameter.name, f"the {parameter.name}"))
    return kind(*plain, **named)


# What another store has to finish comes as sentences, each with its store.
OF_ITS_REASON = {"UnfinishedElsewhereError"}
SUBJECTS = ("container", "containers", "volume", "path", "name", "backup_id", "image", "blob", "store", "action")
"""Fields that say what an error is about."""
NEXT = {
    "BackupNotFoundError": "BackupStore.list()",
    "ContainerBusyError": "then try again",
    "CorruptBackupError": "take another backup",
    "ImagePlatformError": "name an image",
    "ProjectNotFoundError": "Bring it up first",
    "RecoveryFailedError": "docker_rollback.recover(",
    "ResumeError": "by hand",
    "RollbackFailedError": "docker_rollback.restore(",
    "StoreFullError": "remove old backups",
    "UnfinishedRollbackError": "docker_rollback.recover(",
    "UnsupportedFormatError": "a newer version",
}
"""What each says to do next, where that does not depend on its reason."""


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_says_what_it_is_about(kind: type[BaseException]) -> None:
    """Each field that names a thing is in its words, with what to do next; a status stands behind a sentence."""
    error = example(kind)
    text = str(error)
    for field in SUBJECTS if kind.__name__ not in OF_ITS_REASON else ():
        value = getattr(error, field, None)
        for name in value if isinstance(value, tuple) else [value]:
            assert not isinstance(name, str) or name in text, (field, text)
    assert NEXT.get(kind.__name__, "") in text
    assert not re.search(r"(^|: )\(?HTTP", text), text
    assert not re.search(r"\b[0-9a-f]{64}\b", text), text


def shown(error: BaseException) -> tuple[str, str, dict[str, str]]:
    """Return all that is to be seen of an error."""
    return type(error).__name__, str(error), {key: repr(value) for key, value in vars(error).items()}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_is_pickled_and_copied_whole(kind: type[BaseException]) -> None:
    """Its words, its fields and its notes come through, for each class there is."""
    error = example(kind)
    error.add_note("while it was to do something")
    assert shown(pickle.loads(pickle.dumps(error))) == shown(error)
    assert shown(copy.copy(error)) == shown(error)
    assert shown(copy.deepcopy(error)) == shown(error)


@pytest.mark.parametrize(
    ("action", "reason", "words"),
    [
        (f"stop container '{ID}'", "busy", "could not stop container 'abababababab': busy"),
        ("start it", f"No such container: {ID}", "could not start it: No such container: abababababab"),
        ("ask", f"no container with ID {ID} found", "could not ask: no container with ID abababababab found"),
        ("ask", f"container {ID}: busy", "could not ask: container abababababab: busy"),
        (f"remove volume '{ID}'", "busy", f"could not remove volume '{ID}': busy"),
        ("ask", f"image sha256:{ID}", f"could not ask: image sha256:{ID}"),
    ],
)
def test_an_id_of_a_container_is_short_in_a_sentence(action: str, reason: str, words: str) -> None:
    """Twelve digits say as much as sixty-four; names of volumes and digests of images stay, and so do the fields."""
    error = errors.EngineError(action, reason)
    assert str(error) == words
    assert (error.action, error.reason) == (action, reason)


def test_an_error_in_an_error_comes_through() -> None:
    """What another error carries is of its own kind again, fields and all."""
    inner = errors.EngineConflictError("start container 'web'", "busy", status=409)
    error = pickle.loads(pickle.dumps(errors.RollbackFailedError("id", ["web"], [inner], store="/backups")))
    (found,) = error.failures.exceptions
    assert shown(found) == shown(inner)
    assert found.status == 409


def test_the_drawn_tree_is_the_real_one() -> None:
    """The module's docstring draws every class below its base; siblings share lines."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in filter(None, inspect.cleandoc(errors.__doc__ or "").splitlines()[1:]):
        names, depth = line.strip().split(", "), (len(line) - len(line.lstrip())) // 4
        parents |= dict.fromkeys(names, path[depth - 1] if depth else "Exception")
        path[depth:] = names[-1:]
    assert parents == {kind.__name__: kind.__base__.__name__ for kind in CLASSES if kind.__base__}
