"""What a container has from its image is known from the image that it was really made from, after any history."""

from __future__ import annotations

import base64
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docker_rollback import BackupStore, RollbackRequested, rollback
from docker_rollback._containers.images import find_origin
from docker_rollback._inspection.image_origin import Origin, origin_of
from docker_rollback._inspection.recreate import observe
from docker_rollback._inspection.successor import Changes, update_request
from docker_rollback.testing import FakeEngine


def build(engine: FakeEngine, version: int, *, same_layers: bool = False) -> str:
    """Give the name app:1 to a new image, as a build or a pull does; return its id."""
    return engine.add_image(
        "app:1",
        files={"/app": "same" if same_layers else str(version)},
        env=[f"VERSION={version}"],
        labels={"version": str(version)},
        command=["serve", str(version)],
        user=f"user{version}",
        healthcheck={"Test": ["CMD", "probe", str(version)]},
    )


def run(engine: FakeEngine) -> None:
    """Run the container, with settings of the user's."""
    engine.run("app", image="app:1", env=["MODE=fast"], labels={"team": "x"})


def fail(engine: FakeEngine, store: BackupStore, *, by_hand: bool = True) -> None:
    """Roll back an update."""
    with rollback("app", client=engine, store=store, verify=None) as tx:
        if by_hand:
            engine.remove_container("app", force=True)
        else:
            tx.replace("app", "app:1")
            engine.container("app").write("/migrated", "half")
        raise RollbackRequested


def update(engine: FakeEngine, store: BackupStore, *image: str) -> None:
    """Replace the container by one of its name's image, or of the one that is given."""
    with rollback("app", client=engine, store=store, verify=None) as tx:
        tx.replace("app", *image)


def check(engine: FakeEngine, version: int) -> None:
    """Assert that the container has the user's settings, and all else from one version of the image."""
    config = engine.inspect_container("app")["Config"]
    assert sorted(config["Env"]) == ["MODE=fast", f"VERSION={version}"]
    assert config["Labels"] == {"team": "x", "version": str(version)}
    assert (config["Cmd"], config["User"]) == (["serve", str(version)], f"user{version}")
    assert config["Healthcheck"]["Test"] == ["CMD", "probe", str(version)]


@pytest.fixture
def engine() -> FakeEngine:
    """Give an engine with the first version, and a container of it."""
    engine = FakeEngine()
    build(engine, 1)
    run(engine)
    return engine


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("dirty", [True, False])
@pytest.mark.parametrize("same_layers", [True, False])
def test_a_failed_update_of_a_moved_name_leaves_no_defaults_behind(
    engine: FakeEngine, store: BackupStore, *, by_hand: bool, dirty: bool, same_layers: bool
) -> None:
    """The name went to a bad version, and then to a repaired one, whose defaults the successor has."""
    if dirty:
        engine.container("app").write("/own", "x")
    build(engine, 2, same_layers=same_layers)
    fail(engine, store, by_hand=by_hand)
    check(engine, 1)
    build(engine, 3, same_layers=same_layers)
    update(engine, store)
    check(engine, 3)


def test_the_image_itself_need_not_be_there(engine: FakeEngine, store: BackupStore, tmp_path: Path) -> None:
    """The committed image alone, on another engine and with another store, notes what the container was made from."""
    engine.container("app").write("/own", "x")
    fail(engine, store)
    committed = engine.inspect_container("app")["Image"]
    other = FakeEngine()
    other.load_image(engine.save_image(committed))
    build(other, 2)
    other.run("app", image=committed)
    check(other, 1)
    update(other, BackupStore(tmp_path / "other"), "app:1")
    check(other, 2)


def test_an_image_of_the_user_that_was_committed_by_us_is_the_users(engine: FakeEngine, store: BackupStore) -> None:
    """Whoever names it and runs it by that name has its settings from it."""
    engine.container("app").write("/own", "x")
    fail(engine, store)
    engine.tag_image(engine.inspect_container("app")["Image"], "mine:1")
    engine.remove_container("app", force=True)
    engine.run("app", image="mine:1")
    build(engine, 2)
    update(engine, store, "app:1")
    assert engine.inspect_container("app")["Config"]["Env"] == ["VERSION=2"]


def test_large_defaults_are_taken_from_the_image_as_long_as_it_is_there(
    engine: FakeEngine, store: BackupStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A note has no room for them; without the image they stay as they are, and the log says so."""
    noise = "".join(chr(33 + number * number * 31 % 89) for number in range(12_000))
    labels = {f"l{number}": noise[number * 7 : number * 7 + 600] + str(number) for number in range(900)}
    for name in ("big:1", "big:2"):
        engine.add_image(name, labels=labels, env=[f"V={name}"])
    engine.run("big", image="big:1")
    engine.container("big").write("/own", "x")
    with rollback("big", client=engine, store=store, verify=None):
        engine.remove_container("big", force=True)
        raise RollbackRequested
    assert len(engine.inspect_image(engine.inspect_container("big")["Image"])["Author"]) < 8001
    with rollback("big", client=engine, store=store, verify=None) as tx:
        tx.replace("big", "big:2")
        assert engine.inspect_container("big")["Config"]["Env"] == ["V=big:2"]
        raise RollbackRequested
    assert engine.inspect_container("big")["Config"]["Env"] == ["V=big:1"]
    assert "is not known" not in caplog.text


HEAD = "docker-rollback origin "
OWN, BELOW = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def defaults(origin: Origin) -> Any:
    """Return what a container with two settings has from its image."""
    assert origin.defaults is not None
    return origin.defaults.among({"Env": ["A=1", "B=2"]})


def content(note: str) -> str:
    """Return what a note says, unpacked."""
    return zlib.decompress(base64.urlsafe_b64decode(note.removeprefix(HEAD))).decode()


def test_a_note_tells_no_value(engine: FakeEngine, store: BackupStore) -> None:
    """A request's first line holds it, which programs log; two notes of one image do not show that they are equal."""
    secret = {"env": "Passw0rd-1", "label": "Passw0rd-2", "command": "Passw0rd-3", "probe": "Passw0rd-4"}
    engine.add_image(
        "app:1",
        env=[f"TOKEN={secret['env']}"],
        labels={"token": secret["label"]},
        command=["serve", secret["command"]],
        healthcheck={"Test": ["CMD", "probe", secret["probe"]]},
    )
    engine.remove_container("app", force=True)
    engine.run("app", image="app:1", env=["OWN=Passw0rd-5"])
    notes = []
    for number in range(2):
        engine.container("app").write(f"/own{number}", "x")
        fail(engine, store)
        notes.append(engine.inspect_image(engine.inspect_container("app")["Image"])["Author"])
    image = engine.inspect_image("app:1")
    notes.append(origin_of(image, named=True).note)
    assert all("Passw0rd" not in content(note) and "TOKEN" not in content(note) for note in notes)
    # The second tells of the same image what the first does, which alone was made from the image itself.
    assert content(notes[0]) == content(notes[1]) != content(notes[2])


TEXTS = st.sampled_from(["", "a", "b", "\udcff", "ü"])
VALUES = st.none() | st.dictionaries(TEXTS, TEXTS)
LISTS = st.none() | st.lists(TEXTS, max_size=2)
CONFIGS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"Env": LISTS},
    optional={
        "Labels": VALUES,
        "ExposedPorts": st.none() | st.dictionaries(TEXTS, st.just({})),
        "Volumes": st.none() | st.dictionaries(TEXTS, st.just({})),
        "Healthcheck": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "Test": st.sampled_from([None, ["NONE"], ["CMD", "a"], ["CMD", "b"]]),
                "Interval": st.integers(0, 2),
            },
        ),
        "Entrypoint": LISTS,
        "Cmd": LISTS,
        "Shell": LISTS,
        "User": TEXTS,
        "WorkingDir": TEXTS,
        "StopSignal": st.none() | TEXTS,
    },
)


@settings(deadline=None)
@given(own=CONFIGS, image=CONFIGS)
def test_a_note_serves_as_the_configuration_itself(own: dict[str, Any], image: dict[str, Any]) -> None:
    """Whatever a container and its image say, the successor's request is the same."""
    below = {"Id": BELOW, "Config": image, "RootFS": {"Layers": ["x"]}}
    note = origin_of(below, named=True).note
    committed = {"Id": OWN, "Author": note, "Config": own, "RootFS": {"Layers": ["x", "y"]}}
    origin = origin_of(committed, named=False)
    assert origin.defaults is not None
    assert (origin.image, origin.layers, origin.note) == (BELOW, 1, note)
    engine = FakeEngine()
    engine.add_image("app:1")
    found = engine.inspect_container(engine.run("app", image="app:1"))
    container = observe({**found, "Config": {**found["Config"], "Entrypoint": None, "Cmd": None, **own}})
    config = container.inspection["Config"]
    requests = [
        update_request(container, image="app:2", image_id=OWN, defaults=known, changes=Changes())
        for known in (image, origin.defaults.among(config))
    ]
    assert requests[0] == requests[1]


@pytest.mark.parametrize("author", ["", "buildkit", HEAD, HEAD + "####", HEAD + "é", HEAD + "eJyLjgUAARUAuQ=="])
def test_other_authors_are_no_notes(author: str) -> None:
    """Anybody may write anything there; then the image is what the container was made from."""
    image = {"Id": "sha256:1", "Author": author, "Config": {"Env": ["A=1"]}, "RootFS": {"Layers": ["x", "y"]}}
    origin = origin_of(image, named=False)
    assert (origin.image, origin.layers, defaults(origin)) == ("sha256:1", 2, {"Env": ["A=1"]})


def packed(text: bytes) -> str:
    """Return the author that holds a text as a note does."""
    return HEAD + base64.urlsafe_b64encode(zlib.compress(text)).decode()


def lie(image: str = BELOW, layers: str = "1", hashes: str = "{}", salt: str = "5a" * 16) -> bytes:
    """Return what a note says."""
    return f'["{image}",{layers},"{salt}",{hashes}]'.encode()


LIES: dict[str, bytes] = {
    "arrays without end": b"[" * 5000,
    "objects without end": b'{"a":' * 5000,
    "a deep configuration": lie(hashes='{"User":' + "[" * 500 + "1" + "]" * 500 + "}"),
    "a number of too many digits": lie(layers="1" * 5000),
    "too much": b" " * (1 << 20) + lie(),
    "no image": lie(image="app:1"),
    "another thing's path": lie(image="../containers/app"),
    "the image itself": lie(image=OWN),
    "layers below zero": lie(layers="-1"),
    "more layers than it has": lie(layers="3"),
    "a list as configuration": lie(hashes='["Env"]'),
    "a number as environment": lie(hashes='{"Env":5}'),
    "a text as environment": lie(hashes='{"Env":"A=1"}'),
    "numbers in the environment": lie(hashes='{"Env":[5]}'),
    "lists in the environment": lie(hashes='{"Env":[["A"]]}'),
    "a list as labels": lie(hashes='{"Labels":["a"]}'),
    "lists as labels": lie(hashes='{"Labels":{"a":["a"]}}'),
    "a text as health check": lie(hashes='{"Healthcheck":"x"}'),
    "numbers as volumes": lie(hashes='{"Volumes":7}'),
    "a list as user": lie(hashes='{"User":["x"]}'),
    "a mapping as command": lie(hashes='{"Cmd":{"a":"b"}}'),
    "no salt": lie(salt=""),
    "a salt that is none": lie(salt="x" * 32),
    "too few parts": b'["%s"]' % BELOW.encode(),
    "values in the clear": b'["%s",1,{"Env":["A=1"]}]' % BELOW.encode(),
}


def test_what_differs_from_a_lie_in_one_thing_is_believed() -> None:
    """The lies above are refused for what is wrong with them."""
    image = {"Id": OWN, "Author": packed(lie()), "Config": {"Env": ["A=1"]}, "RootFS": {"Layers": ["x", "y"]}}
    assert origin_of(image, named=False).image == BELOW
    image["Author"] = packed(b'["%s",2]' % BELOW.encode())
    assert origin_of(image, named=False) == Origin(BELOW, 2)


@pytest.mark.parametrize("case", LIES)
def test_a_note_that_cannot_be_ours_is_not_believed(case: str) -> None:
    """Anybody may make an image whose author looks like a note of ours."""
    image = {"Id": OWN, "Author": packed(LIES[case]), "Config": {"Env": ["A=1"]}, "RootFS": {"Layers": ["x", "y"]}}
    origin = origin_of(image, named=False)
    assert (origin.image, origin.layers, defaults(origin)) == (OWN, 2, {"Env": ["A=1"]})


@pytest.mark.parametrize("how", ["by digest", "by name"])
def test_a_note_in_an_image_of_the_users_is_not_believed(engine: FakeEngine, how: str) -> None:
    """A container that is pinned to a digest stands on the user's image as one that is created by its name does."""
    engine.container("app").write("/own", "x")
    image = engine.commit_container("app", "registry/evil:1", author=packed(lie()))
    reference = "registry/evil@" + image if how == "by digest" else "registry/evil:1"
    inspection = engine.inspect_container(engine.run("evil", image="registry/evil:1"))
    inspection = {**inspection, "Config": {**inspection["Config"], "Image": reference}}
    assert find_origin(engine, observe(inspection)).image == image


STEPS = st.sampled_from(["build", "build with same layers", "write", "fail", "fail by replace", "prune", "other store"])


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, max_size=12))
def test_defaults_are_right_after_any_history(history: list[str]) -> None:
    """However often the name moved, an update failed, a layer was written, images were pruned or the store changed."""
    folder = Path(tempfile.mkdtemp())
    engine = FakeEngine()
    try:
        store, version = BackupStore(folder / "0"), 1
        build(engine, version)
        run(engine)
        for number, step in enumerate(history, start=1):
            _do(engine, store, step, number)
            version += step.startswith("build")
            if step.startswith("build"):
                build(engine, version, same_layers="same" in step)
            if step == "other store":
                store = BackupStore(folder / str(number))
            check(engine, 1)
        build(engine, 99)
        update(engine, store, "app:1")
        check(engine, 99)
    finally:
        shutil.rmtree(folder)


def _do(engine: FakeEngine, store: BackupStore, step: str, number: int) -> Any:
    match step:
        case "write":
            engine.container("app").write(f"/own{number}", str(number))
        case "fail" | "fail by replace":
            fail(engine, store, by_hand=step == "fail")
        case "prune":
            engine.prune_images()
