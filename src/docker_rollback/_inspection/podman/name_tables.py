"""Writes sets of names as text."""

from __future__ import annotations


def names(text: str) -> frozenset[str]:
    """Return the names in a text, separated by white space."""
    return frozenset(text.split())
