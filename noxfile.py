"""The project's chores: ``nox -l`` lists them, ``nox -s NAME`` runs one. `try.py` installs nox if it is missing."""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = True

PROJECT = nox.project.load_toml("pyproject.toml")

# Runs a command with an engine: the one that answers on this machine, or else a private one, stopped afterwards.
WITH_ENGINE = ("python", "-m", "tests.engines", "run")


def install(session: nox.Session, *groups: str, package: bool = True) -> None:
    """Install dependency groups and, as its users would, the package: built, not linked to the sources."""
    session.install(*nox.project.dependency_groups(PROJECT, *groups), *(["."] if package else []))


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, also on a real engine; the words after -- go to pytest."""
    install(session, "tests")
    session.run(*WITH_ENGINE, "--", "python", "-m", "tests.halves", *session.posargs)


@nox.session
def unit(session: nox.Session) -> None:
    """Run the tests that need no engine."""
    install(session, "tests")
    session.run("python", "-m", "pytest", "-m", "not engine", *session.posargs)


@nox.session
def engines(session: nox.Session) -> None:
    """Run the integration and contract tests on each of five engines, and write the tables of engines."""
    install(session, "tests")
    session.run("python", "-m", "tests.suite", *session.posargs)


@nox.session
def exchange(session: nox.Session) -> None:
    """Restore backups of each of three kinds of engine on the other two."""
    install(session, "tests")
    peers = ("--peer", "podman-5.8", "--peer", "docker-28.5-containerd")
    tests = ("python", "-m", "pytest", "tests/integration/test_store_engines.py")
    session.run(*WITH_ENGINE, "docker-20.10", *peers, "--", *tests, *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Make random small changes to the sources, and print those that no unit test notices."""
    install(session, "tests")
    session.run("python", "-m", "tests.mutants", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and layout."""
    install(session, "lint", package=False)
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly, everywhere."""
    install(session, "types")
    session.run("mypy", *session.posargs)


@nox.session
def completeness(session: nox.Session) -> None:
    """Check with pyright that every public name has a complete type; needs Node."""
    session.install("pyright>=1.1.400", ".")
    session.run("pyright", "--ignoreexternal", "--verifytypes", "docker_rollback", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "-n", "--keep-going", "-b", "html", "docs", "docs/_build/html", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Break a rollback at every effect, and recover; -- --engine NAME --minutes N --seed S runs a sample."""
    install(session, "tests")
    session.run("python", "-m", "tests.faults", *session.posargs)
    if not {"--only", "--list"}.intersection(session.posargs):
        words = session.posargs
        engine = words[words.index("--engine") :][:2] if "--engine" in words else []
        session.run("python", "-m", "tests.faults.postgres", *engine)


@nox.session
def demo(session: nox.Session) -> None:
    """Show a failed update of a PostgreSQL container, and its rollback."""
    install(session, "tests")
    session.run(*WITH_ENGINE, "--", "python", "-m", "demo", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the cost of backups and rollbacks against other methods, and write docs/reference/benchmarks.md."""
    install(session, "tests")
    session.run("python", "-m", "bench", *session.posargs)


@nox.session
def fresh(session: nox.Session) -> None:
    """Run the two commands of the README in a new minimal Debian, as root."""
    install(session, "tests")
    session.run("python", "-m", "tests.fresh", *session.posargs)
