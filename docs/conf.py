"""How the documentation is built: ``sphinx-build -W -n -b html docs docs/_build/html``."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import docker_rollback
from docker_rollback import parts, reports, testing, types

project = "docker-rollback"
author = "The docker-rollback authors"
project_copyright = author
version = release = version_of("docker-rollback")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "house"]
exclude_patterns = ["_build", "_ext"]

html_theme = "furo"
html_title = f"docker-rollback {release}"

myst_heading_anchors = 3
smartquotes = False  # it would make a dash of the two of an option

# A docstring says `name` for whatever is code, as Python's own tools show it.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

nitpick_ignore_regex = [
    # Nothing is fetched while the pages are built, so names of Python itself and of docker-py lead nowhere.
    (r"py:.*", r"(collections|contextlib|datetime|docker|enum|os|pathlib|threading|types|typing)\..*"),
    # Types in signatures that nobody has to import, and names in the signatures that attrs writes.
    (r"py:class", r"docker_rollback\.(testing\.)?_.*|docker_rollback\.types\..*|\w+"),
]

# The public names live in private modules; the pages show them where people import them from.
for _package in (parts, reports, types, testing, docker_rollback):
    for _name in _package.__all__:
        _found = getattr(_package, _name)
        if getattr(_found, "__module__", "").startswith("docker_rollback."):
            _found.__module__ = _package.__name__
