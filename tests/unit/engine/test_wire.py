"""Requests and answers of `DockerEngine`, with an engine that answers what it is told to."""

from __future__ import annotations

import base64
import gc
import json
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from docker_rollback._engine.docker.containers import _time_to_stop
from docker_rollback._engine.docker.engine import DockerEngine, identity_of
from docker_rollback._engine.docker.http import Wire
from docker_rollback._threads import each_at_once
from docker_rollback.errors import (
    ContainerNotFoundError,
    EngineConflictError,
    EngineError,
    EngineForbiddenError,
    EngineTimeoutError,
    EngineUnavailableError,
    ImageNotFoundError,
    NetworkNotFoundError,
    VolumeNotFoundError,
)
from tests.unit.engine.scripted import CONTAINER, ID, VERSION, ScriptedEngine, answer, chunked, hanging, refusal
from tests.unit.gauge import Gauge

NETWORK = {"Id": "cd" * 32, "Name": "net", "Labels": {}}


@pytest.mark.parametrize(
    ("newest", "oldest", "spoken"),
    [("1.41", "1.12", "1.41"), ("1.51", "1.24", "1.51"), ("1.60", "1.44", "1.51"), ("1.60", "1.53", "1.53")],
)
def test_the_version_hides_nothing(script: ScriptedEngine, newest: str, oldest: str, spoken: str) -> None:
    """The engine's own version is spoken, but none above 1.51 as long as the engine speaks an older one."""
    script.says("GET", "/version", answer({**VERSION, "ApiVersion": newest, "MinAPIVersion": oldest}))
    script.engine().inspect_container("web")
    assert script.asked[-1].path == f"/v{spoken}/containers/web/json"


def test_the_version_is_asked_once(script: ScriptedEngine) -> None:
    """Several threads that begin at once ask for the version once, and nothing is asked before."""
    engine = script.engine()
    assert script.asked == []
    threads = [threading.Thread(target=engine.inspect_container, args=("web",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [asked.path for asked in script.asked].count("/version") == 1
    assert len(script.asked) == 9


IMAGE = {"Id": "sha256:" + "12" * 32, "RepoTags": ["web:2"]}


@pytest.mark.parametrize(
    ("ref", "query"),
    [
        ("web", "fromImage=web&tag=latest"),
        ("web:2", "fromImage=web&tag=2"),
        ("host:5000/a/web", "fromImage=host%3A5000%2Fa%2Fweb&tag=latest"),
        ("web@sha256:" + "12" * 32, "fromImage=web&tag=sha256%3A" + "12" * 32),
    ],
)
def test_one_image_is_pulled(script: ScriptedEngine, ref: str, query: str) -> None:
    """Never all tags of a repository; the id is asked for afterwards."""
    script.says("POST", "/images/create.*", chunked(b'{"status": "Pulling"}{"status":', b' "Done"}'))
    script.says("GET", "/images/.*/json", answer(IMAGE))
    assert script.engine().pull_image(ref) == IMAGE["Id"]
    (asked,) = (asked for asked in script.asked if asked.method == "POST")
    assert asked.path.partition("?")[2] == query
    assert "x-registry-auth" not in asked.headers


def test_an_image_is_pulled_for_a_platform_and_with_the_right_to_it(script: ScriptedEngine) -> None:
    """The right is the one that the client knows for the registry of the image, and for no other."""
    script.says("POST", "/images/create.*", chunked(b"{}"))
    script.says("GET", "/images/.*/json", answer(IMAGE))
    client = docker.APIClient(f"unix://{script.path}", version="1.30")
    login = {"username": "me", "password": "word"}
    client._auth_configs.add_auth("host:5000", login)  # type: ignore[attr-defined]  # `login` would ask a registry
    engine = DockerEngine(client)
    engine.pull_image("host:5000/web:2", platform="linux/arm64")
    engine.pull_image("host:6000/web:2")
    first, second = (asked for asked in script.asked if asked.method == "POST")
    assert first.path.endswith("&platform=linux%2Farm64")
    assert json.loads(base64.urlsafe_b64decode(first.headers["x-registry-auth"]))["username"] == "me"
    assert "x-registry-auth" not in second.headers


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (refusal(404, "pull access denied for web, repository does not exist"), ImageNotFoundError),
        (chunked(b'{"status":"Pulling"}', b'{"errorDetail":{"message":"no space left on device"}}'), EngineError),
        (chunked(b'{"status":"Pulling"}', b'{"error":"unexpected EOF"}', end=False), EngineError),
    ],
)
def test_a_pull_that_fails_is_an_error(script: ScriptedEngine, said: bytes, error: type[EngineError]) -> None:
    """Also where the engine began its answer well."""
    script.says("POST", "/images/create.*", said)
    script.says("GET", "/images/.*/json", answer(IMAGE))
    with pytest.raises(error):
        script.engine().pull_image("web:2")


def test_a_request_is_sent_as_it_is(script: ScriptedEngine) -> None:
    """Nulls and empty lists of a request are sent, the uppermost ones too."""
    script.says("POST", "/containers/create.*", answer({"Id": ID}, 201))
    request: dict[str, object] = {
        "Image": "i",
        "Cmd": None,
        "Env": [],
        "HostConfig": {"MaskedPaths": [], "ReadonlyPaths": None},
    }
    assert script.engine().create_container("web", request, platform="linux/amd64") == ID
    assert script.asked[-1].json == request
    assert script.asked[-1].path.endswith("/containers/create?name=web&platform=linux%2Famd64")


def test_a_commit_has_a_body_and_does_not_pause(script: ScriptedEngine) -> None:
    """A commit sends an empty object, without which some engines fail, and asks not to pause."""
    script.says("POST", "/commit.*", answer({"Id": "ef" * 32}, 201))
    assert script.engine().commit_container("web", "localhost:5000/repo:tag") == "sha256:" + "ef" * 32
    asked = script.asked[-1]
    assert asked.json == {}
    assert "pause=false" in asked.path
    assert "repo=localhost%3A5000%2Frepo&tag=tag" in asked.path


def test_configured_headers_are_sent(script: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers of the Docker configuration, which a proxy may ask for, are sent."""
    (tmp_path / "config.json").write_text(json.dumps({"HttpHeaders": {"X-Meta": "told"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    script.engine().inspect_container("web")
    assert {asked.headers.get("x-meta") for asked in script.asked} == {"told"}


@pytest.mark.parametrize(
    ("status", "message", "error", "permanent"),
    [
        (400, "bad parameter", EngineError, True),
        (401, "who are you", EngineForbiddenError, True),
        (403, "not allowed here", EngineForbiddenError, True),
        (404, "No such container: web", ContainerNotFoundError, True),
        (408, "too slow", EngineTimeoutError, False),
        (409, "name is taken", EngineConflictError, True),
        (500, "something broke", EngineError, False),
        (500, "container state improper", EngineConflictError, True),
        (500, "no container with ID x found in database: no such container", ContainerNotFoundError, True),
        (500, "write /var/lib/x: no space left on device", EngineError, True),
        (502, "bad gateway", EngineUnavailableError, False),
        (503, "starting", EngineUnavailableError, False),
        (504, "gateway timed out", EngineTimeoutError, False),
        (301, "moved", ContainerNotFoundError, True),
    ],
)
def test_a_refusal_says_what_it_is(
    script: ScriptedEngine, status: int, message: str, error: type[EngineError], *, permanent: bool
) -> None:
    """Each refusal is the error that says what it means, with the engine's words, and whether to try again."""
    script.says("POST", f"/containers/{ID}/start", refusal(status, message))
    with pytest.raises(EngineError) as caught:
        script.engine().start_container("web")
    assert type(caught.value) is error
    assert caught.value.permanent is permanent
    assert caught.value.action == "start container 'web'"
    if error is not ContainerNotFoundError:
        assert message in str(caught.value)
        assert caught.value.status == status


def test_a_full_disk_is_told_as_such(script: ScriptedEngine) -> None:
    """That the engine has no room left is said first."""
    script.says("POST", "/commit.*", refusal(500, "mkdir: no space left on device"))
    with pytest.raises(EngineError, match="the engine's disk is full"):
        script.engine().commit_container("web", "repo:tag")


def test_what_is_missing_is_named(script: ScriptedEngine) -> None:
    """Of two things that a request names, the error is about the one that is missing."""
    engine = script.engine()
    script.says("GET", "/networks/net", answer(NETWORK))
    script.says("GET", "/networks/none", refusal(404, "network none not found"))
    script.says("GET", "/containers/gone/json", refusal(404, "No such container: gone"))
    script.says("POST", "/networks/cd.*/connect", refusal(404, f"No such container: {ID}"))
    script.says("POST", "/containers/create.*", refusal(404, "No such image: none:1"))
    script.says("GET", "/volumes/none", refusal(404, "get none: no such volume"))
    script.says("POST", "/containers/.*/start", refusal(404, f"network {ID} not found"))
    asks: list[tuple[Callable[[], object], type[EngineError]]] = [
        (lambda: engine.connect_network("none", "web", {}), NetworkNotFoundError),
        (lambda: engine.connect_network("net", "gone", {}), ContainerNotFoundError),
        (lambda: engine.connect_network("net", "web", {}), ContainerNotFoundError),
        (lambda: engine.create_container("new", {"Image": "none:1"}), ImageNotFoundError),
        (lambda: engine.inspect_volume("none"), VolumeNotFoundError),
        (lambda: engine.start_container("web"), NetworkNotFoundError),
    ]
    for ask, error in asks:
        with pytest.raises(error):
            ask()


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"[1, 2", b"\xff\xfe"])
def test_an_answer_that_is_none_is_an_error(script: ScriptedEngine, body: bytes) -> None:
    """What is no JSON did not come from an engine, and is told as such."""
    script.says("GET", "/containers/web/json", answer(body, kind="text/html"))
    with pytest.raises(EngineError, match="not an engine's"):
        script.engine().inspect_container("web")


def test_what_is_no_engine_is_told(script: ScriptedEngine) -> None:
    """Something else that answers at the address is no engine."""
    script.says("GET", "/version", answer({"hello": "world"}))
    with pytest.raises(EngineError, match="ApiVersion"):
        script.engine().info()


def test_words_of_a_proxy_are_told(script: ScriptedEngine) -> None:
    """A proxy's refusal is told in its words, though they are no JSON."""
    script.says("GET", "/containers/web/json", answer(b"<h1>403 Forbidden</h1>\n  by rule", 403, kind="text/html"))
    with pytest.raises(EngineForbiddenError, match="403 Forbidden by rule"):
        script.engine().inspect_container("web")


def test_a_container_is_called_by_its_name_whatever_it_was_asked_for_by(script: ScriptedEngine) -> None:
    """By its full id or the beginning of it: once it was seen, an error about it has its name, its new one too."""
    engine = script.engine()
    script.says("POST", f"/containers/{ID}/start", refusal(500, f"cannot start container {ID}: no such device"))
    with pytest.raises(EngineError, match=rf"could not start container '{ID[:12]}': cannot start"):
        engine.start_container(ID)
    engine.inspect_container("web")
    for ref, called in (("web", "'web'"), (ID, rf"'web' \({ID[:12]}\)")):
        script.says("POST", f"/containers/{ID}/start", refusal(500, "no such device"))
        with pytest.raises(EngineError, match=rf"could not start container {called}: no such device"):
            engine.start_container(ref)
    script.says("GET", "/containers/web-aside/json", answer({**CONTAINER, "Name": "/web-aside"}))
    engine.inspect_container("web-aside")
    script.says("POST", f"/containers/{ID}/start", refusal(500, "no such device"))
    with pytest.raises(EngineError, match=rf"could not start container 'web-aside' \({ID[:12]}\)"):
        engine.start_container(ID)
    # The beginning of it is looked for first.
    with pytest.raises(ContainerNotFoundError, match=rf"could not start container 'web-aside' \({ID[:12]}\)"):
        engine.start_container(ID[:12])


def test_no_secret_is_repeated(script: ScriptedEngine) -> None:
    """The values of environment variables are in no error's text, even where the engine repeats them."""
    secret = "hunt" + "er2"  # in two parts, since a traceback shows the lines of this file too
    script.says("POST", "/containers/create.*", refusal(400, f"invalid: PASSWORD={secret}, also '{secret * 2}'"))
    environment = [f"PASSWORD={secret}", f"A={secret * 2}", "B=x", "C"]
    with pytest.raises(EngineError) as caught:
        script.engine().create_container("new", {"Image": "i", "Env": environment})
    assert secret not in "".join(traceback.format_exception(caught.value))
    assert "PASSWORD=***, also '***'" in str(caught.value)


@pytest.fixture
def _unclosed() -> Iterator[None]:
    """Let docker-py leave the socket unclosed by which it could not connect."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.usefixtures("_unclosed")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nobody_at_the_address(tmp_path: Path) -> None:
    """Where nothing is, or nobody listens, nobody is available, and trying again makes sense."""
    deserted = socket.socket(socket.AF_UNIX)
    deserted.bind(str(tmp_path / "deserted.sock"))
    deserted.close()
    for name in ("nothing.sock", "deserted.sock"):
        engine = DockerEngine(docker.APIClient(f"unix://{tmp_path / name}", version="1.41"))
        with pytest.raises(EngineUnavailableError) as caught:
            engine.info()
        assert not caught.value.permanent
        assert f"no engine answers at unix://{tmp_path / name}: " in str(caught.value)


@pytest.mark.usefixtures("_unclosed")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nobody_at_the_address_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That nobody answers where the environment points is told when the engine is made."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'nothing.sock'}")
    with pytest.raises(EngineUnavailableError, match=f"no engine answers at unix://{tmp_path / 'nothing.sock'}: "):
        DockerEngine.from_env()


def test_the_engine_of_the_environment(script: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine that DOCKER_HOST names is used, and known by that address."""
    script.says("GET", "/info", answer({"Architecture": "arm64", "ServerVersion": "1.2.3", "DockerRootDir": "/d"}))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{script.path}")
    info = DockerEngine.from_env().info()
    assert (info.address, info.architecture, info.version) == (f"unix://{script.path}", "aarch64", "1.2.3")


@pytest.mark.parametrize(
    ("flavour", "info", "identity"),
    [
        ("docker", {"ID": "NBER:G3HE", "Name": "host", "DockerRootDir": "/d"}, "NBER:G3HE"),
        ("docker", {"ID": "", "Name": "host", "DockerRootDir": "/d"}, "host:/d"),
        ("podman", {"ID": "made up for this answer", "Name": "host", "DockerRootDir": "/d"}, "host:/d"),
    ],
)
def test_an_engine_is_told_from_others(flavour: str, info: dict[str, str], identity: str) -> None:
    """An engine is known by the id that it keeps; where it keeps none, by its host and the folder of its data."""
    assert identity_of(flavour, info) == identity


def test_a_silent_engine_is_waited_for_no_longer_than_the_timeout(script: ScriptedEngine) -> None:
    """An answer that does not come in time may have been meant all the same: a time-out, not a refusal."""
    done = threading.Event()

    def silently(_: socket.socket) -> None:
        done.wait(10)

    script.says("POST", f"/containers/{ID}/start", silently)
    try:
        with pytest.raises(EngineTimeoutError, match="within the time-out"):
            script.engine(timeout=0.2).start_container("web")
    finally:
        done.set()


def test_a_stop_is_waited_for(script: ScriptedEngine) -> None:
    """However long a container takes to stop, no time-out of ours ends the wait."""

    def slowly(connection: socket.socket) -> None:
        time.sleep(0.6)
        connection.sendall(answer(b"", 204))

    script.says("POST", f"/containers/{ID}/stop.*", slowly)
    script.engine(timeout=0.2).stop_container("web", timeout=1.2)
    assert script.asked[-1].path.endswith("/stop?t=2")


def test_a_connection_that_ends_leaves_it_open_what_was_done(script: ScriptedEngine) -> None:
    """Where the engine hangs up before or in the midst of its answer, it may have done what was asked."""
    script.says("POST", f"/containers/{ID}/start", lambda connection: connection.shutdown(socket.SHUT_RDWR))
    script.says("GET", "/info", answer({"a": "b" * 100})[:-20])
    for ask in (lambda: script.engine().start_container("web"), lambda: script.engine().info()):
        with pytest.raises(EngineTimeoutError, match="connection was lost") as caught:
            ask()
        assert not caught.value.permanent


TAR = b"x" * 5000 + bytes(1024)


def test_a_saved_image_comes_in_large_blocks(script: ScriptedEngine) -> None:
    """However small the engine's chunks are, the blocks of an image are large, and it is asked for uncompressed."""
    parts = [bytes([number % 7 + 1]) * 30_000 for number in range(200)] + [bytes(1024)]
    script.says("GET", "/images/i:1/get", chunked(*parts))
    blocks = list(script.engine().save_image("i:1"))
    assert b"".join(blocks) == b"".join(parts)
    assert len(blocks) < 20
    assert script.asked[-1].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (chunked(TAR, end=False), EngineTimeoutError, "connection was lost"),
        (chunked(TAR, TAR)[:-3000], EngineTimeoutError, "connection was lost"),
        (chunked(TAR[:5000]), EngineError, "truncated"),
        (chunked(), EngineError, "truncated"),
        (
            chunked(TAR[:3000], bytes(96), b'{"errorDetail":{"message":"disk on fire"},"error":"x"}'),
            EngineError,
            "on fire",
        ),
        (chunked(TAR[:3000], b'{"error":"no space left on device"}\r\n'), EngineError, "disk is full"),
    ],
)
def test_a_saved_image_that_ends_early_is_an_error(
    script: ScriptedEngine, given: bytes, error: type[EngineError], words: str
) -> None:
    """An archive that is cut, or ends in words of the engine's, is an error while it is read."""
    script.says("GET", "/images/i:1/get", given)
    stream = script.engine().save_image("i:1")
    with pytest.raises(error, match=words):
        list(stream)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (b'{"status":"Loading"}\n{"errorDetail":{"message":"bad layer"},"error":"other"}', "bad layer"),
        (b'{"error":"bad header"}', "bad header"),
        (b'{"stream":"a"}{"stream":"b"}<html>', "not an engine's"),
    ],
)
def test_a_failure_inside_the_answer_to_a_load_is_an_error(script: ScriptedEngine, told: bytes, words: str) -> None:
    """An engine that said yes and then tells of a failure has failed, for good."""
    script.says("POST", "/images/load.*", chunked(told[:9], told[9:]))
    with pytest.raises(EngineError, match=words) as caught:
        script.engine().load_image([b"tar"])
    assert caught.value.permanent
    assert caught.value.status is None


def test_an_archive_is_sent_as_it_is_made(script: ScriptedEngine) -> None:
    """The blocks of an archive arrive in order, empty ones between them notwithstanding."""
    script.says("POST", "/images/load.*", chunked(b'{"stream":"Loaded"}'))
    script.engine().load_image(iter([b"one", b"", b"two"]))
    assert script.asked[-1].body == b"onetwo"


def test_an_engine_that_refuses_an_archive_early_is_heard(script: ScriptedEngine) -> None:
    """A refusal that comes before the archive was sent is the error, not the connection that ends with it."""
    script.deaf = True
    script.says("POST", "/images/load.*", refusal(403, "no loading here"))

    def archive() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 20)

    with pytest.raises(EngineForbiddenError, match="no loading here"):
        script.engine().load_image(archive())


def test_the_same_name_is_no_second_container(script: ScriptedEngine) -> None:
    """A container that the engine finds by the beginning of its id is not the one that was named."""
    script.says("GET", "/containers/ab/json", answer(CONTAINER))
    with pytest.raises(ContainerNotFoundError):
        script.engine().inspect_container("ab")


@pytest.mark.parametrize(
    ("own", "seconds"),
    [(None, 10.0), (540, 540.0), (0, 0.0), (-1, 7 * 86400.0)],
    ids=["default", "long", "none", "ever"],
)
def test_a_stop_has_the_time_that_its_container_asks_for(own: int | None, seconds: float) -> None:
    """However long that is, it is no time-out of ours."""
    assert _time_to_stop({"Config": {"StopTimeout": own}}, None) == seconds
    assert _time_to_stop({"Config": {"StopTimeout": own}}, 3.0) == 3.0


def test_every_answer_has_a_limit(script: ScriptedEngine) -> None:
    """Work that grows with data has a longer one, and a stop as long as its container needs."""
    with hanging() as hang:
        script.says("POST", r"/commit.*", hang)
        script.says("GET", "/containers/json.*", hang)
        engine = script.engine(timeout=0.2, patience=0.4)
        for ask in (lambda: engine.commit_container("web", "kept:1"), engine.list_containers):
            with pytest.raises(EngineTimeoutError):
                ask()


def test_a_removal_that_is_under_way_is_waited_for(script: ScriptedEngine) -> None:
    """The engine says so before the container's state does, when one is removed at its end."""
    looks = iter([answer(CONTAINER), answer(CONTAINER), refusal(404, "No such container: web")])
    script.says("GET", f"/containers/(web|{ID})/json", lambda connection: connection.sendall(next(looks)))
    script.says(
        "DELETE", rf"/containers/{ID}\?.*", refusal(409, f"removal of container {ID[:12]} is already in progress")
    )
    script.engine().remove_container("web", force=True)
    assert next(looks, None) is None


def test_a_removal_that_is_refused_is_not_waited_for(script: ScriptedEngine) -> None:
    """Any other conflict comes out at once."""
    script.says("DELETE", rf"/containers/{ID}\?.*", refusal(409, "You cannot remove a running container"))
    with pytest.raises(EngineConflictError, match="running container"):
        script.engine().remove_container("web")


@pytest.mark.parametrize(("address", "most"), [("ssh://root@far", 4), ("unix:///run/docker.sock", 12)])
def test_few_requests_at_once_over_ssh(
    script: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, address: str, most: int
) -> None:
    """A server of ssh refuses more than ten channels of a connection."""
    monkeypatch.setattr(Wire, "address", address)
    gauge = Gauge()

    def stop(connection: socket.socket) -> None:
        with gauge:
            time.sleep(0.2)
        connection.sendall(answer(b"", 204))

    script.says("POST", "/containers/.*/stop.*", stop)
    engine = script.engine()
    assert each_at_once(range(12), lambda _: engine.stop_container("web")) == [None] * 12
    assert gauge.highest == most


def test_an_upload_waits_for_no_other_request(script: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its source may send requests of its own: four uploads that each wait for one would wait for ever."""
    monkeypatch.setattr(Wire, "address", "ssh://root@far")
    script.says("POST", "/images/load.*", answer({}))
    engine = script.engine()

    def blocks() -> Iterator[bytes]:
        engine.inspect_container("web")
        yield b"tar"

    assert each_at_once(range(6), lambda _: engine.load_image(blocks())) == [None] * 6
