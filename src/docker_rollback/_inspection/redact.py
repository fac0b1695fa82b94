"""Removes the values of a container's environment from texts. Pure.

A failing service often prints its settings: an address with a password, a refused token. The last lines of its log
explain the failure, but the texts of errors end up in logs and tickets. So each value of the environment is replaced by
the name of its variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote

# Matches the names that people choose for variables with secrets.
_TELLING_NAME: Final = re.compile(
    r"pass|pwd|secret|token|key|cred|auth|priv|salt|cert|cookie|session|signature|dsn|license|pin\b", re.IGNORECASE
)

_IN_ADDRESS: Final = re.compile(r"://[^/@\s:]*:([^/@\s]+)@")  # matches the password in an address

_LONG: Final = 8
# Shorter values would match by chance. A value of `_LONG` characters counts as a secret under any name.
_SHORTEST: Final = 3


def hide(text: str, environment: Iterable[str], *, known: Iterable[str] = ()) -> str:
    """Replace the values of an environment ("NAME=value" each) in a text by ``${NAME}``.

    It replaces values of at least eight characters, values of at least three characters whose names suggest secrets,
    each line of a value with several, and passwords in addresses. Variables in `known`, such as those of the image, are
    not secret.

    Example:
        >>> hide("login failed for s3cret!", ["DB_PASSWORD=s3cret!"])
        'login failed for ${DB_PASSWORD}'
    """
    public = set(known)
    found: dict[str, str] = {}
    for entry in environment:
        if entry not in public:
            name, _, value = entry.partition("=")
            found |= dict.fromkeys(_secrets(name, value), name)
    for value in sorted(found, key=len, reverse=True):
        text = text.replace(value, f"${{{found[value]}}}")
    return text


def _secrets(name: str, value: str) -> Iterator[str]:
    shortest = _SHORTEST if _TELLING_NAME.search(name) else _LONG
    yield from (part for part in (value, *value.splitlines()) if len(part.strip()) >= shortest)
    for password in _IN_ADDRESS.findall(value):
        yield from (part for part in (password, unquote(password)) if len(part) >= _SHORTEST)
