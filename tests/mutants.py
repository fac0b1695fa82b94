"""Change the sources a little, one change at a time, and say what no unit test notices: ``python -m tests.mutants``.

The changes are a sample of all that can be made inside functions. For each one, those tests run that execute its line,
the fastest first, in a copy of the project. Which those are is measured once and kept in ``.mutants``. Where sources
have changed since, lines are found by their text, and a newer test runs for every change.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import fnmatch
import functools
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from attrs import frozen
from coverage import CoverageData

PROJECT = Path(__file__).resolve().parent.parent
SOURCE = "src/docker_rollback"
MEASURED = PROJECT / ".mutants"
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "_build")

PAIRS = ((ast.Eq, ast.NotEq), (ast.Lt, ast.GtE), (ast.Gt, ast.LtE), (ast.Is, ast.IsNot), (ast.In, ast.NotIn))
FLIPPED = dict([*PAIRS, *(pair[::-1] for pair in PAIRS)])


@frozen
class Mutant:
    """One small change to the file at a path below the project: a text in the place of the bytes from start to end.

    It is within a statement of some lines, and that is within a function of some lines.
    """

    path: str
    kind: str
    lines: range
    function: range
    start: int
    end: int
    text: str

    def apply(self, source: bytes) -> bytes:
        """Return the file with the change."""
        return source[: self.start] + self.text.encode() + source[self.end :]


def find(path: str, source: bytes) -> Iterator[Mutant]:
    """Yield every change that can be made to a file."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def within(node: ast.AST, statement: ast.stmt, function: range) -> Iterator[Mutant]:
        words = isinstance(node, ast.Expr) and ast.unparse(node).startswith(("'", '"', "logger."))
        if words or isinstance(node, ast.JoinedStr | ast.FunctionDef | ast.ClassDef | ast.Lambda):
            return
        statement = node if isinstance(node, ast.stmt) else statement
        for kind, text in _changes(node):
            if isinstance(node, ast.stmt | ast.expr):
                last = node.items[-1].context_expr if isinstance(node, ast.With) else node
                start = starts[node.lineno - 1] + node.col_offset
                end = starts[(last.end_lineno or 1) - 1] + (last.end_col_offset or 0)
                lines = range(statement.lineno, (last.end_lineno or 1) + 1)
                yield Mutant(path, kind, lines, function, start, end, text)
        for name, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and name != "annotation":
                    yield from within(child, statement, function)

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            for statement in node.body:
                yield from within(statement, statement, range(node.lineno, (node.end_lineno or 0) + 1))


def _changes(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the changes that can be made to a node itself: what they are, and the text that takes its place."""
    match node:
        case ast.Compare(left, [operator, *others], values):
            flipped = ast.Compare(left, [FLIPPED[type(operator)](), *others], values)
            yield "comparison flipped", f"({ast.unparse(flipped)})"
        case ast.BoolOp(operator, values):
            swapped = ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
            yield "and/or swapped", f"({ast.unparse(swapped)})"
            for left_out in range(len(values)):
                rest = values[:left_out] + values[left_out + 1 :]
                kept = rest[0] if len(rest) == 1 else ast.BoolOp(operator, rest)
                yield "operand dropped", f"({ast.unparse(kept)})"
        case ast.UnaryOp(ast.Not(), operand):
            yield "not removed", f"({ast.unparse(operand)})"
        case ast.IfExp(test, body, otherwise):
            yield "branches swapped", f"({ast.unparse(ast.IfExp(test, otherwise, body))})"
        case ast.Constant(bool() as value):
            yield "constant changed", repr(not value)
        case ast.Constant(int() | float() as value):
            yield "constant changed", repr(value + 1)
        case ast.Constant(str() as value) if value.isidentifier():
            yield "constant changed", repr(f"{value}x")
        case ast.Call(ast.Name("max" | "min")):
            pass  # the order means nothing
        case ast.Call(function, [first, second, *rest], keywords) if ast.dump(first) != ast.dump(second):
            yield "arguments swapped", f"({ast.unparse(ast.Call(function, [second, first, *rest], keywords))})"
        case ast.Expr(ast.Call()) if not ast.unparse(node).startswith("super().__init__"):
            yield "call dropped", "pass"
        case ast.Raise():
            yield "raise dropped", "pass"
        case ast.With(items) if all(item.optional_vars is None for item in items):
            yield "with dropped", "if True"
        case ast.Return(ast.expr() as value) if not isinstance(value, ast.Constant):
            yield "return value changed", "return None"


class Tests:
    """Which tests execute which lines, and how long each one takes, as it was measured."""

    def __init__(self, folder: Path, known: Sequence[str]) -> None:
        self._folder = folder
        cases = list(ElementTree.parse(MEASURED / "junit.xml").iter("testcase"))
        self._seconds = {_title(case): float(case.get("time", "1")) for case in cases}
        failed = {_title(case) for case in cases if case.find("failure") is not None or case.find("error") is not None}
        self._known = frozenset(test for test in known if _key(test) not in failed)
        self._data = CoverageData(str(MEASURED / "coverage"))
        self._data.read()
        self._newer = sorted(test for test in self._known if _key(test) not in self._seconds)

    def seconds(self, *tests: str) -> float:
        """Say how long some tests take."""
        return sum(self._seconds.get(_key(test), 1.0) for test in tests)

    def of(self, mutant: Mutant, budget: float) -> list[str]:
        """Return the tests that may notice a change, the fastest first, and no more than take so many seconds."""
        then, contexts = self._file(mutant.path)
        lines = mutant.lines if all(line in then for line in mutant.lines) else mutant.function
        found = {context.partition("|")[0] for line in lines for context in contexts.get(then.get(line, 0), ())}
        chosen = sorted({*found, *self._newer} & self._known, key=self.seconds)
        spent = itertools.accumulate(map(self.seconds, chosen))
        return [test for test, seconds in zip(chosen, spent, strict=True) if seconds <= budget or test == chosen[0]]

    @functools.cache  # noqa: B019  # there is one object
    def _file(self, path: str) -> tuple[dict[int, int], dict[int, list[str]]]:
        """Return where the lines of a file were when it was measured, and which tests executed those."""
        if not (MEASURED / path).exists():
            return {}, {}
        new, old = ((root / path).read_text().splitlines() for root in (self._folder, MEASURED))
        blocks = difflib.SequenceMatcher(a=new, b=old, autojunk=False).get_matching_blocks()
        then = {block.a + k + 1: block.b + k + 1 for block in blocks for k in range(block.size)}
        (measured,) = (one for one in self._data.measured_files() if one.endswith("/" + path))
        return then, self._data.contexts_by_lineno(measured)


def _title(case: ElementTree.Element) -> str:
    return f"{case.get('classname')}.{case.get('name')}"


def _key(test: str) -> str:
    """Return how pytest's results call a test."""
    name, bracket, parameters = test.partition("[")
    return name.replace(".py::", ".").replace("::", ".").replace("/", ".") + bracket + parameters


def _pytest(folder: Path, *arguments: str, quiet: bool = False, **variables: str) -> subprocess.Popen[str]:
    options = ("-q", "-m", "not engine", "-p", "no:cacheprovider", "--hypothesis-seed=0", *arguments)
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "TMPDIR": str(folder.parent), **variables}
    command = [sys.executable, "-m", "pytest", *options]
    output = subprocess.PIPE if quiet else None
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, text=True, start_new_session=True)


def measure(folder: Path) -> None:
    """Run the unit tests of a copy once, and keep what each one executes; what fails here is left out later."""
    shutil.rmtree(MEASURED, ignore_errors=True)
    shutil.copytree(folder / SOURCE, MEASURED / SOURCE, ignore=NOT_COPIED)
    options = ("--cov", "--cov-context=test", "--cov-report=", f"--junitxml={MEASURED / 'junit.xml'}")
    _pytest(folder, "tests/unit", *options, COVERAGE_FILE=str(MEASURED / "coverage")).wait()


def collected(folder: Path) -> list[str]:
    """Return the ids of the unit tests of a copy; raise if pytest does not find each of them by its id.

    pytest runs no test at all if it misses one of those named, and fails, as if a test had noticed the change.
    """
    known, _ = _pytest(folder, "--collect-only", "tests/unit", quiet=True).communicate()
    tests = [line for line in known.splitlines() if "::" in line]
    listed = folder.parent / "tests.txt"
    listed.write_text("\n".join(tests))
    process = _pytest(folder, "--collect-only", f"@{listed}", quiet=True)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"pytest does not find its own tests by their ids:\n{output[-2000:]}")
    return tests


def notice(folder: Path, mutant: Mutant, tests: Sequence[str], limit: float) -> str:
    """Make a change to a copy, run tests, undo it; return what they made of it."""
    if not tests:
        return "not executed"
    path, listed = folder / mutant.path, folder.parent / "tests.txt"
    source = path.read_bytes()
    listed.write_text("\n".join(tests))
    # Bytecode is recognised by time and size alone, and a change may keep both.
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()
    path.write_bytes(mutant.apply(source))
    process = _pytest(folder, "-x", "--tb=no", f"@{listed}", quiet=True, PYTHONDONTWRITEBYTECODE="1")
    try:
        process.communicate(timeout=limit)
        return "survived" if process.returncode == 0 else "noticed"
    except subprocess.TimeoutExpired:
        return "time limit"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        path.write_bytes(source)


def main() -> int:
    """Draw a sample, try each change, print what nobody noticed; return the exit code."""
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=60, metavar="N", help="how many changes (60)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=["*"], metavar="PATTERN", help=f"files below {SOURCE}: _store/*")
    parser.add_argument("--measure", action="store_true", help="run all unit tests first, and keep what they execute")
    parser.add_argument("--budget", type=float, default=60.0, metavar="S", help="seconds of tests for each (60)")
    options = parser.parse_args()
    everything: list[Mutant] = []
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="mutants-") as where:
        folder = Path(where) / "project"
        # Some tests are another user for a moment.
        folder.parent.chmod(0o755)
        shutil.copytree(PROJECT, folder, ignore=NOT_COPIED)
        for path in sorted((folder / SOURCE).rglob("*.py")):
            inside = path.relative_to(folder / SOURCE).as_posix()
            if not inside.startswith("testing/") and any(fnmatch.fnmatch(inside, one) for one in options.only):
                everything += find(path.relative_to(folder).as_posix(), path.read_bytes())
        sample = random.Random(options.seed).sample(everything, min(options.sample, len(everything)))
        print(f"{len(sample)} of {len(everything)} changes, seed {options.seed}", flush=True)
        if options.measure or not MEASURED.exists():
            measure(folder)
        tests = Tests(folder, collected(folder))
        for mutant in sample:
            chosen, begun = tests.of(mutant, options.budget), time.monotonic()
            outcome = notice(folder, mutant, chosen, 30 + 4 * tests.seconds(*chosen))
            counts[outcome] += 1
            took = f"({len(chosen)} tests, {time.monotonic() - begun:.0f} s)"
            print(f"{outcome}: {mutant.path}:{mutant.lines[0]} {mutant.kind} {took}")
            source = (folder / mutant.path).read_bytes()
            before, after = (one.decode().splitlines() for one in (source, mutant.apply(source)))
            changed = list(difflib.unified_diff(before, after, lineterm="", n=0))[3:]
            print("\n    ".join(["", *changed])[1:], flush=True)
    print(", ".join(f"{outcome} {count}" for outcome, count in counts.most_common()))
    return 1 if counts["survived"] + counts["not executed"] else 0


if __name__ == "__main__":
    sys.exit(main())
