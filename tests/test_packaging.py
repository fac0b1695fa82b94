"""What is installed is the package, whole, and nothing else."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
SOURCE = PROJECT / "src"


ALSO_THERE = {
    "_typeshed",  # a type checker's own
    "compression",  # Python 3.14's own
    "requests",  # docker-py depends on these two, and its interface shows them
    "urllib3",
}


def _imported(module: ast.Module) -> Iterator[str]:
    """Name each module that an import statement names."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, by the backend itself: nothing is fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Every module, the mark of its types and the license are in the wheel; no test and no tool is."""
    packed = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py")}
    about = {name for name in packed if name.startswith("docker_rollback-")}
    assert packed - about == modules | {"docker_rollback/py.typed"}
    assert {Path(name).name for name in about} == {"METADATA", "WHEEL", "RECORD", "LICENSE"}


def test_the_wheel_imports_what_its_users_install(wheel: Path) -> None:
    """No module in the wheel imports pytest, nor any other library that neither Python nor a dependency brings."""
    imported = set()
    with zipfile.ZipFile(wheel) as packed:
        for name in packed.namelist():
            if name.endswith(".py"):
                imported |= {module.split(".")[0] for module in _imported(ast.parse(packed.read(name)))}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    required = sum(project["optional-dependencies"].values(), project["dependencies"])
    installed = {re.split(r"[^A-Za-z0-9_]", name)[0] for name in required} | ALSO_THERE
    assert imported - sys.stdlib_module_names - {"docker_rollback"} <= installed


def test_the_source_distribution_holds_what_its_tests_need(tmp_path: Path) -> None:
    """Whoever unpacks it can lint, check and test it: every folder that a tool of the project names is in it."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]
    named = {*settings["mypy"]["files"], *settings["pytest"]["ini_options"]["testpaths"], "docs", "CHANGELOG.md"}
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as packed:
        tops = {name.split("/")[1] for name in packed.getnames()}
    assert named <= tops


def test_the_wheel_works_without_the_sources(wheel: Path, tmp_path: Path) -> None:
    """Unpacked somewhere else, the package imports from there and has all its public names."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = "from docker_rollback import *; import docker_rollback.testing; print(docker_rollback.__file__)"
    command = [sys.executable, "-W", "error", "-c", program]
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.strip() == str(tmp_path / "docker_rollback" / "__init__.py")


def test_the_version_stands_in_one_place(wheel: Path) -> None:
    """The version that pyproject.toml says is the installed one, and the newest that the changelog knows."""
    stated = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert wheel.name.split("-")[1] == stated
    assert version("docker-rollback") == stated
    newest, *_ = re.findall(r"^## \[(.+?)\]", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest in ("Unreleased", stated)
