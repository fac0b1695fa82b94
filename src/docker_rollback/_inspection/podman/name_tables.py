"""Names in a table, as one text."""

from __future__ import annotations


def names(text: str) -> frozenset[str]:
    """Return the names in a text that white space separates."""
    return frozenset(text.split())
