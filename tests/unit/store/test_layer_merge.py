"""Layers merged into one: it does what they did one after the other, whatever they hold."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docker_rollback._store.layer_merge import merged
from docker_rollback.testing._fake.layers import apply, pack
from docker_rollback.testing._fake.tar_members import entries
from docker_rollback.testing._fake.tree import Node, directory

Entry = tuple[str, str]
"""A path, and what is there: "/" for a folder, "=path" for a further name of a file, "->" a link, else content."""


def layer(*found: Entry) -> bytes:
    """Return a layer's tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for name, what in found:
            info = tarfile.TarInfo(name)
            info.mtime = len(what)
            if what == "/":
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif what.startswith("="):
                info.type, info.linkname = tarfile.LNKTYPE, what[1:]
            elif what.startswith("->"):
                info.type, info.linkname = tarfile.SYMTYPE, what[2:]
            else:
                info.size = len(what)
                info.pax_headers = {"SCHILY.xattr.security.capability": f"cap {what}\udcff"}
            tar.addfile(info, io.BytesIO(what.encode()) if info.isreg() else None)
    return buffer.getvalue()


def merge(*layers: bytes) -> bytes:
    """Return several layers as one."""
    return b"".join(merged([io.BytesIO(one) for one in layers]))


def names(tar: bytes) -> list[str]:
    """Return the names in a tar, in order."""
    return [info.name for info, _ in entries(tar)]


def shape(node: Node) -> object:
    """Return all of a tree that can be compared, with which files are one."""
    seen: dict[int, str] = {}

    def of(node: Node, path: str) -> object:
        first = seen.setdefault(id(node), path) if node.kind == "file" else path
        inside = {name: of(child, f"{path}/{name}") for name, child in sorted(node.children.items())}
        return (node.kind, node.mode, node.content, node.target, node.mtime, sorted(node.xattrs.items()), first, inside)

    return of(node, "")


def after(base: bytes, *layers: bytes) -> Node:
    """Return the tree that layers make together."""
    root = directory()
    for one in (base, *layers):
        apply(root, one)
    return root


BASE = layer(
    ("a", "/"), ("a/file", "old"), ("a/inner", "/"), ("a/inner/x", "1"), ("b", "/"), ("b/y", "2"), ("top", "t"),
    ("hard", "h"), ("soft", "->a"),
)  # fmt: skip

CASES: dict[str, tuple[bytes, ...]] = {
    "a file replaced twice": (layer(("a", "/"), ("a/file", "one")), layer(("a", "/"), ("a/file", "two"))),
    "a file made and deleted": (layer(("new", "n")), layer((".wh.new", ""))),
    "a file deleted and made": (layer((".wh.top", "")), layer(("top", "again"))),
    "a folder deleted and made": (layer((".wh.a", "")), layer(("a", "/"), ("a/only", "o"))),
    "a folder deleted and made by an engine that marks it": (
        layer((".wh.a", "")),
        layer(("a", "/"), ("a/.wh..wh..opq", ""), ("a/only", "o")),
    ),
    "an opaque folder, and more in it": (
        layer(("a", "/"), ("a/.wh..wh..opq", ""), ("a/one", "1")),
        layer(("a", "/"), ("a/two", "2"), ("a/.wh.one", "")),
    ),
    "a folder opaque above another": (
        layer(("a", "/"), ("a/one", "1"), ("a/.wh.file", "")),
        layer(("a", "/"), ("a/.wh..wh..opq", ""), ("a/two", "2")),
    ),
    "a folder to a file, and deleted": (layer(("a", "file")), layer((".wh.a", ""))),
    "a folder to a file, and to a folder": (layer(("a", "file")), layer(("a", "/"), ("a/z", "z"))),
    "a file to a folder, and more": (
        layer(("top", "/"), ("top/1", "1")),
        layer(("top", "/"), ("top/2", "2"), ("top/.wh.1", "")),
    ),
    "a file to a folder to a link": (layer(("top", "/"), ("top/1", "1")), layer(("top", "->b"))),
    "two names, the first deleted": (layer(("one", "x"), ("two", "=one"), ("zwei", "=one")), layer((".wh.one", ""))),
    "two names, the first replaced": (layer(("one", "x"), ("two", "=one")), layer(("one", "y"))),
    "two names, the second replaced": (layer(("one", "x"), ("two", "=one")), layer(("two", "y"))),
    "two names, the first a folder now": (layer(("one", "x"), ("two", "=one")), layer(("one", "/"), ("one/q", "q"))),
    "names below deleted folders": (
        layer(("d", "/"), ("d/one", "x"), ("e", "/"), ("e/two", "=d/one")),
        layer((".wh.d", ""), ("e", "/"), ("e/three", "3")),
    ),
    "the link before the file": (layer(("zz", "x"), ("aa", "=zz")), layer(("mm", "m"))),
    "a link to a name of the layer below": (layer(("one", "x")), layer(("two", "=one"))),
    "names that are no UTF-8": (layer(("caf\udce9", "x"), ("l\udcff", "=caf\udce9")), layer((".wh.caf\udce9", ""))),
    "long names": (layer(("d" * 200 + "/" + "e" * 200, "x")), layer(("d" * 200 + "/.wh." + "e" * 200, ""))),
    "nothing": (b"", layer(("one", "1"))),
    "three": (layer(("a", "/"), ("a/1", "1")), layer((".wh.a", "")), layer(("a", "/"), ("a/3", "3"))),
}


@pytest.mark.parametrize("case", CASES)
def test_one_layer_does_what_several_do(case: str) -> None:
    """Deleted, replaced, opaque, of several names: above a base with the same paths, and above nothing."""
    one = merge(*CASES[case])
    for base in (BASE, b""):
        assert shape(after(base, one)) == shape(after(base, *CASES[case]))
    assert len(set(names(one))) == len(names(one))
    assert merge(one) == one


def test_what_nobody_sees_is_left_out() -> None:
    """No marks in what hides everything below it, and no names that engines keep for themselves."""
    one = merge(
        layer(("a", "/"), ("a/.wh..wh..opq", ""), ("a/1", "1"), ("a/b", "/"), ("a/b/2", "2"), (".wh..wh.plnk", "/")),
        layer(("a", "/"), ("a/.wh.1", ""), ("a/b", "/"), ("a/b/.wh.2", "")),
    )
    assert names(one) == ["a", "a/.wh..wh..opq", "a/b"]


def test_members_are_kept_to_the_byte() -> None:
    """Attributes, times below a second and owners of any size are not read and written again."""
    info = tarfile.TarInfo("f")
    info.pax_headers = {"mtime": "1700000000.123456789", "SCHILY.xattr.user.a": "b\udcff\n=", "uid": "9999999999"}
    raw = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    assert merge(raw + bytes(1024), layer(("g", "g"))).startswith(raw)


def test_what_is_no_layer_is_an_error() -> None:
    """It is told apart from an empty one."""
    with pytest.raises(tarfile.TarError):
        merge(b"x" * 1024)


def member(name: str, **pax: str) -> bytes:
    """Return the headers of an empty file."""
    info = tarfile.TarInfo(name)
    info.pax_headers = dict(pax)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


BROKEN: dict[str, bytes] = {
    "a checksum that is wrong": member("b")[:-1] + b"x",
    "no header": b"x" * 512,
    "a header that is cut off": member("b")[:300],
    "an extended header and nothing after it": member("b", comment="c")[:1024],
    "an extended header that is wrong": member("b", comment="c").replace(b"13 comment", b"00 comment"),
    "a size below zero": member("b", size="-1024"),
    "a member after an empty block": bytes(512),
    "an empty block that is cut off": bytes(300),
}


@pytest.mark.parametrize("first", [b"", member("a")])
@pytest.mark.parametrize("case", BROKEN)
def test_a_layer_that_breaks_off_is_an_error(case: str, first: bytes) -> None:
    """No member after a header that nobody can read is left out silently."""
    rest = b"" if "cut off" in case or "nothing after" in case else member("c") + bytes(1024)
    with pytest.raises(tarfile.TarError):
        merge(first + BROKEN[case] + rest, layer(("g", "g")))


@pytest.mark.parametrize("end", [0, 512, 1024, 10240])
def test_a_layer_may_end_in_any_number_of_empty_blocks(end: int) -> None:
    """Tools write none, two, or as many as fill a record."""
    assert names(merge(member("a") + bytes(end), layer(("g", "g")))) == ["a", "g"]


def test_what_follows_the_end_of_a_layer_means_nothing() -> None:
    """Tar ends at two empty blocks."""
    assert names(merge(member("a") + bytes(1024) + b"x" * 512, layer(("g", "g")))) == ["a", "g"]


def test_a_further_name_and_a_mark_have_no_content() -> None:
    """Readers differ in what they do with a size that a link states."""
    one = merge(layer(("one", "content"), ("two", "=one")), layer((".wh.gone", "")))
    found = {info.name: info for info, _ in entries(one)}
    assert (found["two"].linkname, found["two"].size) == ("one", 0)
    assert (found[".wh.gone"].mode, found[".wh.gone"].size) == (0o600, 0)


NAMES = st.sampled_from("abc")
PATHS = st.lists(NAMES, min_size=1, max_size=3)
CHANGES = st.lists(st.tuples(PATHS, st.sampled_from(["file", "folder", "delete", "link", "soft"]), PATHS), max_size=8)


def change(root: Node, what: Iterable[tuple[list[str], str, list[str]]], number: int) -> None:
    """Change a tree as a program might."""
    for path, kind, other in what:
        *above, name = path
        parent = root
        for part in above:
            below = parent.children.get(part)
            if below is None or below.kind != "directory":
                below = parent.children[part] = directory()
            parent = below
        if kind == "delete":
            parent.children.pop(name, None)
        elif kind == "folder":
            parent.children[name] = directory()
        elif kind == "soft":
            parent.children[name] = Node("symlink", target="/".join(other))
        elif kind == "link":
            found: Node | None = root
            for part in other:
                found = found.children.get(part) if found is not None else None
            if found is not None and found.kind == "file":
                parent.children[name] = found
        else:
            parent.children[name] = Node("file", content=f"{number} {'/'.join(path)}".encode())


@settings(max_examples=300, deadline=None)
@given(CHANGES, st.lists(CHANGES, min_size=2, max_size=4))
def test_one_layer_does_what_any_layers_do(below: list[Any], above: list[list[Any]]) -> None:
    """Of any tree, any changes, in any number of layers."""
    root = directory()
    change(root, below, 0)
    base = pack(directory(), root) or b""
    layers: list[bytes] = []
    for number, changes in enumerate(above, start=1):
        before = after(base, *layers)
        changed = after(base, *layers)
        change(changed, changes, number)
        layers.append(pack(before, changed) or b"")
    assert shape(after(base, merge(*layers))) == shape(after(base, *layers))
