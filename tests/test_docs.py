"""The documentation is true: every page with code is run on a real engine, block by block, and its output compared.

Of a page's fenced blocks, ``python`` and ``sh`` are run, in order, in an empty folder: the Python blocks in one
namespace, the shell blocks with one environment. A ``text`` block is what the block before it prints, with ``...`` for
what varies. A ``console`` block is only shown. Beside that, a page says in a comment what it makes in the engine and
which programs it needs::

    <!-- run: containers=web; volumes=web-data; networks=web-net; images=web:1; packages=jq; reaches=http://... -->

``engines=docker`` says that what the page shows is Docker's answer, word for word.

A page for people who have a container already says in another comment, beginning with ``setup``, what stands before
its first block, in Python; `make_image` and a client of the engine are there for it.

A page that makes something under a name that the engine knows already is not run: that thing is somebody's.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import textwrap
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest
from attrs import frozen
from docker.errors import NotFound
from docker.models.containers import Container, ExecResult

import docker_rollback
import docker_rollback.testing
from docker_rollback import errors, parts, reports, types
from docker_rollback.__main__ import _parser
from tests.engines import debian
from tests.programs import run_in

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "docker_rollback"

SHOWN = {"console", "ini", "text", "yaml"}
RUN = {"python", "sh"}
BLOCK = re.compile(r"^(?P<indent> *)```(?P<kind>\S*)\n(?P<source>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
SETUP = re.compile(r"^<!-- setup\n(?P<source>.*?)^-->$", re.MULTILINE | re.DOTALL)
MAKES = re.compile(r"<!-- run:(?P<what>[^>]*)-->")
NOT_IN_AN_ENGINE = {"docker-rollback-archive", "docker-rollback-copies", "docker-rollback-copy", "docker-rollback.json"}
"""Names of ours that no engine sees: those of threads, and that of a file in an exported backup."""

PATIENCE = 120.0

PROGRAM = """#!/bin/sh
trap 'exit 0' TERM
echo "ready"
while true; do sleep 1 & wait $!; done
"""
"""What the container of a page does that does not say what it does: nothing, until it is told to end."""


@frozen
class Block:
    """One fenced block of a page.

    Attributes:
        kind: its language.
        source: what is in it.
        line: of the page, where it begins.
        prints: what the page says that it prints, None where it does not say.
    """

    kind: str
    source: str
    line: int
    prints: str | None


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page that are run."""
    text = page.read_text()
    found = list(BLOCK.finditer(text))
    following = [block["source"] if block["kind"] == "text" else None for block in found[1:]]
    return [
        Block(
            block["kind"],
            textwrap.dedent(block["source"]),
            text[: block.start()].count("\n") + 1,
            textwrap.dedent(after) if after is not None else None,
        )
        for block, after in zip(found, [*following, None][: len(found)], strict=True)
        if block["kind"] in RUN
    ]


def makes(page: Path) -> dict[str, list[str]]:
    """Return what a page says that it makes and needs, by kind."""
    found = MAKES.search(page.read_text())
    pairs = (part.split("=", 1) for part in found["what"].split(";") if part.strip()) if found else ()
    return {kind.strip(): [name.strip() for name in names.split(",")] for kind, names in pairs}


def make_image(client: docker.DockerClient, name: str, program: str = PROGRAM) -> None:
    """Make an image of busybox and one program, for a page that does not make its own."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for path in ("bin/busybox", "bin/sh"):
            archive.add(debian.busybox(), path)
        script = tarfile.TarInfo("bin/program")
        script.size, script.mode = len(program.encode()), 0o755
        archive.addfile(script, io.BytesIO(program.encode()))
    repository, _, tag = name.partition(":")
    client.api.import_image_from_data(
        whole.getvalue(), repository=repository, tag=tag, changes=['CMD ["/bin/program"]']
    )


PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
WITH_CODE = [page for page in PAGES if blocks(page) and page != DOCS / "how-to" / "test-your-code.md"]
"""The pages that are run here; the one left out holds tests, which the tests of the in-memory engine run."""


def name_of(page: Path) -> str:
    """Return a page's place in the documentation."""
    return str(page.relative_to(DOCS))


class Reader:
    """Somebody who types in what a page says.

    Args:
        folder: where they sit.
    """

    def __init__(self, page: Path, folder: Path) -> None:
        self._page = page
        self._namespace: dict[str, Any] = {"__name__": "__main__"}
        self._environment = folder / ".environment"
        self._folder = folder / ".folder"

    def run(self, block: Block) -> str:
        """Run one block and return what it prints."""
        return self._python(block) if block.kind == "python" else self._shell(block)

    def close(self) -> None:
        """Close the clients that the page opened."""
        for value in self._namespace.values():
            if isinstance(value, docker.DockerClient):
                value.close()

    def _python(self, block: Block) -> str:
        # Lines before it, so that a traceback names the page's own line.
        code = compile("\n" * block.line + block.source, str(self._page), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, self._namespace)
        return printed.getvalue()

    def _shell(self, block: Block) -> str:
        before = f'set -a; test ! -e {self._environment} || {{ . {self._environment}; cd "$(cat {self._folder})"; }}'
        after = f"pwd > {self._folder}; {{ export -p; declare -f; }} > {self._environment}"
        done = subprocess.run(
            ["bash", "-e", "-u", "-o", "pipefail", "-c", f"{before}\n{block.source}\n{after}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode != 0:
            pytest.fail(f"{self._page}:{block.line} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout


def exec_run(self: Container, command: list[str]) -> ExecResult:
    """Run a program in a container, as docker-py's method of that name does, and lose nothing that it prints."""
    assert self.client is not None
    code, output = run_in(self.client, str(self.id), command)
    return ExecResult(code, output.encode())


@pytest.fixture
def reader(
    request: pytest.FixtureRequest,
    engine_url: str,
    docker_client: docker.DockerClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Reader]:
    """Seat a reader of the page before the engine, and clear away what the page made."""
    page: Path = request.param
    things = makes(page)
    if "docker" in things.get("engines", ()) and is_podman(docker_client):
        pytest.skip("the page shows what Docker answers, and this is Podman")
    try:
        debian.need(*things.get("packages", ()))
    except debian.DistributionError as error:
        pytest.fail(f"what the page needs is not here: {error}")
    taken = [f"{kind} {name}" for kind, name in named(things) if find(docker_client, kind, name)]
    if taken:
        pytest.fail(f"the engine has {', '.join(taken)} already, and a page wants to make them")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", engine_url)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / ".data"))
    # What a page calls python is the one that has the library.
    folders = (str(debian.busybox().parent), str(Path(sys.executable).parent), os.environ["PATH"])
    monkeypatch.setenv("PATH", ":".join(folders))
    # On a busy machine docker-py's own loses what a page is to print (see tests.programs).
    monkeypatch.setattr(Container, "exec_run", exec_run)
    sitting = Reader(page, tmp_path)
    try:
        if setup := SETUP.search(page.read_text()):
            exec(setup["source"], {"client": docker_client, "make_image": functools.partial(make_image, docker_client)})
        for url in things.get("reaches", ()):
            if not answers(url):
                pytest.skip(f"{url}, which a container publishes, cannot be reached from here")
        yield sitting
    finally:
        sitting.close()
        for container in things.get("containers", ()):
            # What a rollback put aside that failed.
            for aside in docker_client.api.containers(all=True, filters={"name": f"{container}-docker-rollback-aside"}):
                docker_client.api.remove_container(aside["Id"], force=True, v=True)
            remove(docker_client, "volumes", f"docker-rollback-busy-{container}")
        for kind, name in named(things):
            remove(docker_client, kind, name)
        for tag in images_of_ours(docker_client, things):
            remove(docker_client, "images", tag)


def is_podman(client: docker.DockerClient) -> bool:
    """Say which of the two kinds of engines this is."""
    return any("Podman" in component["Name"] for component in client.version()["Components"])


def answers(url: str) -> bool:
    """Say whether a URL answers within a few seconds; on some machines no published port does."""
    end = time.monotonic() + 5.0
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5.0) as answer:
            return bool(answer.status < 400)
        time.sleep(0.1)
    return False


def named(things: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    """Return the things that an engine has, each with its kind, in the order in which they can be removed."""
    kinds = ("containers", "volumes", "networks", "images")
    return [(kind, name) for kind in kinds for name in things.get(kind, ())]


def find(client: docker.DockerClient, kind: str, name: str) -> Any:
    """Return one thing of an engine; None where there is none of that very name."""
    try:
        return getattr(client, kind).get(name)
    except NotFound:
        return None


def remove(client: docker.DockerClient, kind: str, name: str) -> None:
    """Remove what a page left."""
    if kind == "images":
        with contextlib.suppress(NotFound):
            client.images.remove(name, force=True)
    elif (thing := find(client, kind, name)) is not None:
        with contextlib.suppress(NotFound):
            thing.remove(**({"force": True, "v": True} if kind == "containers" else {}))


def ours(client: docker.DockerClient, things: Mapping[str, list[str]]) -> list[str]:
    """Return what the library left in the engine for the containers and volumes of a page, and nothing stands on."""
    containers = client.api.containers(all=True)
    used = {container["ImageID"] for container in containers}
    marks = [f"docker-rollback-busy-{container}" for container in things.get("containers", ())]
    left = [tag for tag, image in images_of_ours(client, things).items() if image not in used]
    left += [mark for mark in marks if find(client, "volumes", mark)]
    return left + [
        container["Names"][0]
        for container in containers
        if "docker-rollback.role" in container["Labels"]
        and any(mount.get("Name") in things.get("volumes", ()) for mount in container["Mounts"])
    ]


def images_of_ours(client: docker.DockerClient, things: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the tags, each with its image, that the library gave to images of a page's containers."""
    images = client.api.images(name="docker-rollback")
    tags = {str(tag): str(image["Id"]) for image in images for tag in image["RepoTags"] or ()}
    return {
        tag: image for tag, image in tags.items() if any(f"-{name}-" in tag for name in things.get("containers", ()))
    }


def matches(said: str, printed: str) -> bool:
    """Say whether a block printed what the page says, ``...`` for anything in a line, its end for any blanks."""
    pattern = r"[^\n]*?".join(re.escape(part) for part in said.rstrip("\n").split("..."))
    return re.fullmatch(pattern, re.sub(r"[ \t]+$", "", printed, flags=re.MULTILINE).rstrip("\n")) is not None


@pytest.mark.usefixtures("test_labels")
@pytest.mark.parametrize(("page", "reader"), [(page, page) for page in WITH_CODE], ids=name_of, indirect=["reader"])
def test_a_page_does_what_it_says(page: Path, reader: Reader, docker_client: docker.DockerClient) -> None:
    """Every block of a page runs, prints what the page says, and the library leaves nothing that is not named there."""
    for block in blocks(page):
        printed = reader.run(block)
        if block.prints is not None:
            assert matches(block.prints, printed), f"{page}:{block.line} printed\n{printed}\nand not\n{block.prints}"
    assert ours(docker_client, makes(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_block_escapes_its_run(page: Path) -> None:
    """A block is in a language that is run, or in one that is only ever shown."""
    kinds = {block["kind"] for block in BLOCK.finditer(page.read_text()) if not block["kind"].startswith("{")}
    assert kinds <= RUN | SHOWN
    assert len(re.findall(r"^ *```", page.read_text(), re.MULTILINE)) == 2 * len(BLOCK.findall(page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_link_leads_somewhere(page: Path) -> None:
    """A link to another page of the documentation names a file that is there."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_service_for_the_boot_is_one(tmp_path: Path) -> None:
    """The unit on the page of recovery is one that systemd takes, and calls what there is."""
    page = (DOCS / "how-to" / "recover.md").read_text()
    (unit,) = (block["source"] for block in BLOCK.finditer(page) if block["kind"] == "ini")
    command = re.search(r"^ExecStart=(\S+) -m docker_rollback (.*)$", unit, re.MULTILINE)
    assert command is not None
    assert _parser().parse_args(shlex.split(command[2])).command == "recover"
    store = re.search(r"--store (\S+)", command[2])
    assert store is not None
    assert f"RequiresMountsFor={store[1]}\n" in unit
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    file = tmp_path / "docker-rollback-recover.service"
    file.write_text(unit.replace(command[1], sys.executable))
    said = subprocess.run(
        ["systemd-analyze", "verify", str(file)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    # It says there what it does not know, and ends well all the same; other units of the machine are not ours.
    assert [line for line in said.stderr.splitlines() if file.name in line] == []


def test_the_answers_to_where_is_what_are_true() -> None:
    """Each file that the page names is there, and defines the name beside it."""
    page = (DOCS / "explanation" / "where-is-what.md").read_text()
    answers = re.findall(r"^\| .+\? \| `(\S+)` \| `(\S+)` \|$", page, re.MULTILINE)
    assert len(answers) >= 15
    assert len(answers) == page.count("\n| ") - 2, "a row is not: question | `file` | `name`"
    assert [f"{file}: {name}" for file, name in answers if not _defines(SOURCE / file, name)] == []


def test_the_tests_of_the_traps_are_there() -> None:
    """Each test, or row of the matrix, that the page of traps names exists."""
    rows = re.findall(r"^\| \d+ \|.*\| ([^|]+) \|$", (DOCS / "explanation" / "traps.md").read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    defined = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"^ *def (\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert len(named) > 100
    assert named - defined == set()


def _defines(file: Path, name: str) -> bool:
    """Say whether a module, or for a dotted name a class in it, has a definition of that name."""
    body = ast.parse(file.read_text()).body if file.exists() else []
    for part in name.split("."):
        found = {str(getattr(node, "name", "")): node for node in body}
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = node
        if part not in found:
            return False
        body = getattr(found[part], "body", [])
    return True


def test_the_house_is_drawn_whole() -> None:
    """The picture has every room in its layer, and fits a screen."""
    sys.path.insert(0, str(DOCS / "_ext"))
    house = pytest.importorskip("house", exc_type=ImportError)
    rooms, layers = house.rooms(), house.layers()
    assert sorted(rooms) == sorted(name for layer in layers for name in layer.rooms)
    picture = house.picture(rooms, layers)
    _, _, width, height = re.search(r'viewBox="(\d+) (\d+) (\d+) (\d+)"', picture).groups()  # type: ignore[union-attr]
    assert int(width) <= 1200
    assert int(height) <= 700


def test_the_reference_has_every_public_name() -> None:
    """Every public name is in the reference, under its module; an error is where most programs import it from."""
    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    listed = re.findall(r"^\.\. auto\w+:: docker_rollback\.(\S+)$", text, re.MULTILINE)
    _, table = (DOCS / "reference" / "api.md").read_text().split("## `docker_rollback.types`\n")
    listed += [f"types.{name}" for name in re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)]
    public = {name for name in docker_rollback.__all__ if name != "__version__"}
    public |= {f"errors.{name}" for name in errors.__all__ if name not in public}
    for module in (parts, reports, types, docker_rollback.testing):
        public |= {f"{module.__name__.removeprefix('docker_rollback.')}.{name}" for name in module.__all__}
    assert sorted(listed) == sorted(public)


def test_the_reference_draws_the_tree_of_errors() -> None:
    """The page of errors shows each below the one that it is a kind of, as the classes are."""
    drawn = re.findall(r"^( *)(\w+)$", (DOCS / "reference" / "errors.md").read_text(), re.MULTILINE)
    parents: dict[str, str | None] = {}
    line: list[str] = []
    for indent, name in drawn:
        line = [*line[: len(indent) // 4], name]
        parents[name] = line[-2] if len(line) > 1 else None
    kinds = {name: getattr(errors, name) for name in errors.__all__ if name.endswith("Error")}
    assert parents == {
        name: kind.__base__.__name__ if kind.__base__ is not Exception else None for name, kind in kinds.items()
    }


def test_every_label_and_name_of_ours_is_documented() -> None:
    """Whoever finds something of ours in an engine finds it in the reference too."""
    labels = (DOCS / "reference" / "labels-and-names.md").read_text()
    store = (DOCS / "reference" / "store-format.md").read_text()
    source = "".join(path.read_text() for path in SOURCE.rglob("*.py") if "testing" not in path.parts)
    keys = set(re.findall(r'"(io\.docker-rollback\.[a-z-]+)"', source))
    names = set(re.findall(r'"(-?docker-rollback[-.][a-z-]+)', source)) - NOT_IN_AN_ENGINE
    assert keys
    assert names
    assert {key for key in keys if key not in store} == set()
    assert {name for name in names if name.rstrip("-") not in labels} == set()
