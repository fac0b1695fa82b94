"""Values of a container's environment, kept out of what is printed. Pure.

A service that fails often prints what it was given: an address with a password in it, a token that was refused. Its
last lines help whoever has to understand the failure, and an error's text ends in logs and tickets. So what stands in
the environment is replaced by the name under which it stands there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote

_TELLING_NAME: Final = re.compile(
    r"pass|pwd|secret|token|key|cred|auth|priv|salt|cert|cookie|session|signature|dsn|license|pin\b", re.IGNORECASE
)
"""Names of variables whose values are secrets, as people choose them."""

_IN_ADDRESS: Final = re.compile(r"://[^/@\s:]*:([^/@\s]+)@")
"""The password in an address."""

_LONG: Final = 8
_SHORTEST: Final = 3
"""A shorter value would be found everywhere by chance; one that is long may be a secret whatever its name."""


def hide(text: str, environment: Iterable[str], *, known: Iterable[str] = ()) -> str:
    """Return a text in which the values of an environment are replaced by ``${NAME}``.

    Replaced are values of at least eight characters, those of three and more whose name tells that they are secrets,
    each line of them where they have several, and passwords in addresses.

    Args:
        text: what is to be printed.
        environment: what may not be in it, each as "NAME=value".
        known: those of them that are no secret, such as the ones of an image.

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
