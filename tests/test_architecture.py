"""The house keeps its order: imports run down, each outside library has one door, no module grows without end."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

PACKAGE = "docker_rollback"
SOURCE = Path(__file__).parent.parent / "src" / PACKAGE
LONGEST_MODULE = 450

LAYERS = (
    ("__main__",),
    ("__init__",),
    ("_api",),
    ("_parts",),
    ("testing",),
    ("_rollback",),
    ("_recovery", "_replace"),
    ("_keeping", "_left_over", "_journalled_capture"),
    ("_removed",),
    ("_capture", "_restorer", "_checks", "_verdict", "_operations", "_preflight"),
    ("_network_restorer", "_volume_restorer"),
    ("_surroundings",),
    ("_project",),
    ("_place", "_guards", "_update_image"),
    ("_snapshotter", "_archiver", "_processes", "_own_container", "_surviving"),
    ("_depth", "_unkept", "_uncopied"),
    ("_volumes", "_quiesce", "_creation", "_images", "_checked", "_marker", "_hooks", "_locking", "_native"),
    ("_store_identity", "_readiness", "_undisturbed"),
    ("_running",),
    ("_look", "_image_removal"),
    ("_engine", "_store"),
    ("progress_rich", "_outcome", "_changed"),
    (
        "_plan",
        "_journal",
        "_compare",
        "_conflict",
        "_graph",
        "_progress",
        "_upper",
        "_secrets",
        "_removal",
        "_signals",
        "_labels",
        "_quiet_request",
        "_image_names",
        "_origin",
    ),
    ("_update_spec", "_timeline", "_timer", "_asked", "_bound_paths", "_patience", "_limit"),
    ("_spec", "_folders", "_report", "_podman"),
    ("_model",),
    ("_exclude", "_beneath", "_privileges"),
    ("_arguments",),
    ("errors",),
    ("_store_errors", "_recovered", "_exit_codes"),
    ("_engine_errors",),
)
"""From the roof to the ground. A part is a module or a folder right below the package; it imports only from below."""

ONE_DOOR = {"docker": ("_engine._docker",), "tenacity": ("_engine._retry",), "rich": ("progress_rich",)}
"""Which modules, by the head of their name, may import an outside library."""


@frozen
class Import:
    """One import statement: who, whom, where."""

    importer: str
    imported: str
    line: int
    in_function: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def _name(path: Path) -> str:
    """Return a module's name without the package's, "__init__" for the package itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def _targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Name what is imported as finely as the statement tells: `from package import name` may mean a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif node.module == PACKAGE:
        yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)
    else:
        yield node.module or "."


def _imports(tree: ast.Module, importer: str) -> Iterator[Import]:
    """Find every import in a module, those inside functions marked."""

    def walk(node: ast.AST, *, in_function: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for target in _targets(child):
                    yield Import(importer, target, child.lineno, in_function)
            inside = in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, in_function=inside)

    yield from walk(tree, in_function=False)


def _part(imported: str) -> str | None:
    """Return the part of this package that an import reaches, None for an outside library."""
    head, *rest = imported.split(".")
    if head != PACKAGE:
        return None
    return rest[0] if rest and rest[0] in PARTS else "__init__"


def _layer(part: str) -> int:
    for depth, parts in enumerate(LAYERS):
        if part in parts:
            return depth
    raise LookupError(f"{part} has no layer: give it one in {Path(__file__).name}, on purpose")


def _wrong_way(found: Import) -> bool:
    """Say whether an import runs up or sideways."""
    importer, imported = found.importer.split(".")[0], _part(found.imported)
    if imported is None or imported == importer:
        return False
    return _layer(importer) >= _layer(imported)


def _forbidden_door(found: Import) -> bool:
    """Say whether an outside library is imported past its one door."""
    doors = ONE_DOOR.get(found.imported.split(".")[0])
    return doors is not None and not found.importer.startswith(doors)


MODULES = sorted(SOURCE.rglob("*.py"))
PARTS = {part for layer in LAYERS for part in layer} | {_name(path).split(".")[0] for path in MODULES}
IMPORTS = [found for path in MODULES for found in _imports(ast.parse(path.read_text()), _name(path))]


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_every_module_has_a_layer(path: Path) -> None:
    """A new part of the package is given its place on purpose."""
    assert _layer(_name(path).split(".")[0]) < len(LAYERS)


def test_imports_run_down() -> None:
    """No part imports from above itself, nor a service its neighbour."""
    assert [str(found) for found in IMPORTS if _wrong_way(found)] == []


def test_no_import_hides_in_a_function() -> None:
    """Circles are solved by the design, not by an import inside a function."""
    assert [str(found) for found in IMPORTS if found.in_function] == []


def test_outside_libraries_have_one_door() -> None:
    """The docker SDK and tenacity each are imported in their one place."""
    assert [str(found) for found in IMPORTS if _forbidden_door(found)] == []


def test_volumes_know_the_protocol_of_an_engine_and_no_engine() -> None:
    """The volumes' part imports nothing of the engine's part but its port."""
    reached = {found.imported for found in IMPORTS if found.importer.split(".")[0] == "_volumes"}
    assert {name for name in reached if _part(name) == "_engine"} <= {f"{PACKAGE}._engine.port"}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_module_grows_without_end(path: Path) -> None:
    """A module that has outgrown its measure is two modules."""
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize(
    ("importer", "statement", "wrong"),
    [
        ("_store._layout", "from docker_rollback._restorer import Restorer", True),
        ("_checks", "import docker_rollback._capture", True),
        ("errors", "from docker_rollback import rollback", True),
        ("_archiver", "from docker_rollback import _snapshotter", True),
        ("_restorer", "from docker_rollback._volumes import VolumeArchiver", False),
        ("_engine._docker", "from docker_rollback._engine.port import Engine", False),
    ],
)
def test_an_import_that_runs_up_or_sideways_is_seen(importer: str, statement: str, *, wrong: bool) -> None:
    """The test itself knows up and sideways from down, for each way to write an import."""
    (found,) = _imports(ast.parse(statement), importer)
    assert _wrong_way(found) is wrong


@pytest.mark.parametrize(
    ("importer", "statement", "wrong"),
    [
        ("_api", "import docker", True),
        ("_engine._retrying", "from docker.errors import NotFound", True),
        ("_engine._docker_http", "import docker.errors", False),
        ("_engine._docker", "import tenacity", True),
        ("_engine._retry", "from tenacity import Retrying", False),
        ("_api", "import docker_rollback.errors", False),
    ],
)
def test_an_import_past_the_door_is_seen(importer: str, statement: str, *, wrong: bool) -> None:
    """The test itself knows a library's own door from any other."""
    (found,) = _imports(ast.parse(statement), importer)
    assert _forbidden_door(found) is wrong


def test_an_import_in_a_function_is_seen() -> None:
    """The test itself finds an import that a method hides."""
    (found,) = _imports(ast.parse("class A:\n    def b(self):\n        if self:\n            import os"), "_api")
    assert found.in_function
