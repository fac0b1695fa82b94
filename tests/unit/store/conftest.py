"""Fixtures for the tests of the store."""

from tests.unit.store.making import store

__all__ = ["store"]
