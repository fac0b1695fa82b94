"""The house keeps its order: imports run down, each outside library has one door, no module grows without end."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

PACKAGE = "docker_rollback"
SOURCE = Path(__file__).parent.parent / "src" / PACKAGE
LONGEST_MODULE = 600

LAYERS = (
    ("what people import or call", ("__init__", "__main__", "parts", "reports", "types", "testing")),
    ("builds the parts from arguments, and makes one call", ("_api",)),
    ("makes an update transactional: block, checks, outcome", ("_rollback",)),
    ("rolls back under the journal, and finishes what was cut off", ("_recovery",)),
    ("takes a backup; restores one", ("_capture", "_restore")),
    ("containers: found, snapshotted, quiesced, resumed", ("_containers",)),
    ("the data of volumes, out and in", ("_volumes",)),
    ("the one door to container engines", ("_engine",)),
    ("decisions on an engine's JSON, without I/O; durable storage", ("_inspection", "_store")),
    ("facts of this machine; a display for terminals", ("_host", "progress_rich")),
    ("every error", ("errors",)),
    (
        "values, names of ours, small tools without effects",
        ("_model", "_reporting", "_names", "_arguments", "_threads", "_zstd"),
    ),
)
"""From the roof to the ground: a sentence, and the rooms. A room is a module or a folder right below the package; it
imports only from below itself, and a folder only by its face, the names in its ``__init__``."""

ONE_DOOR = {"docker": ("_engine.docker", "_engine.client"), "tenacity": ("_engine.retry",), "rich": ("progress_rich",)}
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
    for depth, (_, parts) in enumerate(LAYERS):
        if part in parts:
            return depth
    raise LookupError(f"{part} has no layer: give it one in {Path(__file__).name}, on purpose")


def _wrong_way(found: Import) -> bool:
    """Say whether an import runs up or sideways."""
    importer, imported = found.importer.split(".")[0], _part(found.imported)
    if imported is None or imported == importer:
        return False
    return _layer(importer) >= _layer(imported)


def _past_the_face(found: Import) -> bool:
    """Say whether an import reaches into another room past its `__init__`."""
    importer, imported = found.importer.split(".")[0], _part(found.imported)
    deep = found.imported.count(".") > 1
    if found.imported == f"{PACKAGE}._engine.docker":
        return False  # a face of its own, since importing it imports docker-py
    return deep and imported is not None and imported != importer and imported != "testing"


def _forbidden_door(found: Import) -> bool:
    """Say whether an outside library is imported past its one door."""
    doors = ONE_DOOR.get(found.imported.split(".")[0])
    return doors is not None and not found.importer.startswith(doors)


MODULES = sorted(SOURCE.rglob("*.py"))
PARTS = {part for _, parts in LAYERS for part in parts} | {_name(path).split(".")[0] for path in MODULES}
IMPORTS = [found for path in MODULES for found in _imports(ast.parse(path.read_text()), _name(path))]


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_every_module_has_a_layer(path: Path) -> None:
    """A new part of the package is given its place on purpose."""
    assert _layer(_name(path).split(".")[0]) < len(LAYERS)


def test_imports_run_down() -> None:
    """No part imports from above itself, nor a service its neighbour."""
    assert [str(found) for found in IMPORTS if _wrong_way(found)] == []


def test_rooms_are_entered_by_their_face() -> None:
    """No room imports from a module of another one, only from its `__init__`."""
    assert [str(found) for found in IMPORTS if _past_the_face(found)] == []


def test_no_import_hides_in_a_function() -> None:
    """Circles are solved by the design, not by an import inside a function; docker-py alone is imported late."""
    late = {found.importer for found in IMPORTS if found.in_function}
    assert late == {"_engine.client"}


def test_outside_libraries_have_one_door() -> None:
    """The docker SDK and tenacity each are imported in their one place."""
    assert [str(found) for found in IMPORTS if _forbidden_door(found)] == []


def test_volumes_know_the_protocol_of_an_engine_and_no_engine() -> None:
    """The volumes' room takes nothing from the engine's room but its port and the removal of images."""
    taken = {
        alias.name
        for path in MODULES
        if _name(path).split(".")[0] == "_volumes"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == f"{PACKAGE}._engine"
        for alias in node.names
    }
    port = ast.parse((SOURCE / "_engine" / "port.py").read_text())
    defined = {node.name for node in port.body if isinstance(node, ast.ClassDef)}
    constants = {
        target.id
        for node in port.body
        if isinstance(node, ast.AnnAssign) and isinstance(target := node.target, ast.Name)
    }
    assert taken <= defined | constants | {"remove_named", "removal_error"}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_module_grows_without_end(path: Path) -> None:
    """A module that has outgrown its measure is two modules."""
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize(
    ("importer", "statement", "wrong"),
    [
        ("_store.layout", "from docker_rollback._restore import Restorer", True),
        ("_containers.find", "import docker_rollback._capture", True),
        ("errors", "from docker_rollback import rollback", True),
        ("_capture.capture", "from docker_rollback import _restore", True),
        ("_restore.restorer", "from docker_rollback._volumes import VolumeArchiver", False),
        ("_engine.docker.engine", "from docker_rollback._engine.port import Engine", False),
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
        ("_engine.retry", "from docker.errors import NotFound", True),
        ("_engine.docker.http", "import docker.errors", False),
        ("_engine.docker.engine", "import tenacity", True),
        ("_engine.retry", "from tenacity import Retrying", False),
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
