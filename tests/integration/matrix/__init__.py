"""Containers with everything that is known to go wrong when one is made again: one table of rows, for several tests.

A row is a function that prepares what its container needs and returns a `Case`; its name says what it is about, its
docstring what must hold. `rows()` gives all of them, each with an id ("network-two_networks").
"""

from itertools import cycle
from typing import Any, get_args

import pytest

from tests.integration.matrix import applications, identity, images, lifecycle, network, resources, security, storage
from tests.integration.matrix.lab import Case, Fate, Lab, Row

__all__ = ["Case", "Fate", "Lab", "Row", "rows", "rows_with_fates"]

_MODULES = (identity, images, lifecycle, network, resources, security, storage, applications)


def rows() -> list[Any]:
    """Return every row as a parameter of a test, in the order of the modules and of their lines."""
    return [
        pytest.param(found, id=f"{module.__name__.rpartition('.')[2]}-{found.__name__}")
        for module in _MODULES
        for found in module.ROWS
    ]


def rows_with_fates() -> list[Any]:
    """Return the same, each with what becomes of its image: the fates take turns."""
    return [
        pytest.param(*row.values, fate, id=f"{row.id}-{fate.replace(' ', '_')}")
        for row, fate in zip(rows(), cycle(get_args(Fate)), strict=False)
    ]
