"""The connection of a program: over a socket, under TLS and by ssh, and how it is taken out of an HTTP answer."""

from __future__ import annotations

import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import define, field

from docker_rollback._engine.docker.http import Wire
from docker_rollback._engine.docker.kill import MARK, Killer
from docker_rollback._engine.docker.socket import ChannelDuplex, Duplex, PipeDuplex, SocketDuplex, take_over
from docker_rollback.errors import EngineError
from tests.unit.engine.scripted import ID, ScriptedEngine, answer, refusal

BUFFER = memoryview(bytearray(1 << 20))


def came(duplex: Duplex, size: int = 1 << 20) -> bytes | None:
    """Return what is there now; None for nothing yet."""
    found = duplex.receive(BUFFER[:size])
    return None if found is None else bytes(BUFFER[:found])


def next_of(duplex: Duplex, size: int = 1 << 20) -> bytes:
    """Return what comes next."""
    while (found := came(duplex, size)) is None:
        assert duplex.wait(reading=True, writing=False, timeout=30)
    return found


# A plain socket


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, SocketDuplex]]:
    """Give the far end of a connection, and the near one."""
    far, near = socket.socketpair()
    with far, near:
        near.settimeout(0)
        far.settimeout(30)
        yield far, SocketDuplex(near, b"", None)


def test_each_way_is_waited_for_by_itself(pair: tuple[socket.socket, SocketDuplex]) -> None:
    """There is room at once, and nothing to read before the other end sends."""
    far, duplex = pair
    assert not duplex.wait(reading=True, writing=False, timeout=0)
    assert duplex.wait(reading=False, writing=True, timeout=0)
    assert duplex.wait(reading=True, writing=True, timeout=0)
    far.sendall(b"x")
    assert duplex.wait(reading=True, writing=False, timeout=0)
    assert next_of(duplex) == b"x"


def test_what_has_no_room_is_not_sent(pair: tuple[socket.socket, SocketDuplex]) -> None:
    """It is sent once the other end has read; to one that is gone nothing can be sent."""
    far, duplex = pair
    sent = 0
    while (more := duplex.send(memoryview(bytes(1 << 16)))) is not None:
        sent += more
    assert sent >= 1 << 16
    assert not duplex.wait(reading=False, writing=True, timeout=0)
    while sent:
        sent -= len(far.recv(1 << 20))
    assert duplex.wait(reading=False, writing=True, timeout=0)
    assert duplex.send(memoryview(b"abc")) == 3
    far.close()
    with pytest.raises(BrokenPipeError, match="the other end takes no more"):
        duplex.send(memoryview(b"x"))


def test_one_way_ends_before_the_other(pair: tuple[socket.socket, SocketDuplex]) -> None:
    """The other end hears that no more comes, and can still be heard."""
    far, duplex = pair
    duplex.close_write()
    assert far.recv(1) == b""
    far.sendall(b"still")
    assert next_of(duplex) == b"still"
    far.close()
    assert next_of(duplex) == b""
    duplex.close_write()


def test_the_end_is_told_to_the_other_end_and_to_what_was_kept() -> None:
    """Also where something else holds the descriptor open."""
    closed: list[str] = []
    near, other = socket.socketpair()
    with near, other, near.dup():
        duplex = SocketDuplex(near, b"", SimpleNamespace(close=lambda: closed.append("answer")))
        duplex.close()
        duplex.close()
        assert other.recv(1) == b""
    assert closed == ["answer"]


def test_a_distant_engine_is_looked_after() -> None:
    """The kernel asks after one that is silent, every quarter of a minute from the first minute on."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as near:
        SocketDuplex(near, b"", None)
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [near.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [60, 15, 4]


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a file with a key and a certificate by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*command, "-subj", "/CN=engine", "-keyout", "key", "-out", "cert"], cwd=folder, check=True)
    whole = folder / "whole"
    whole.write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return whole


@pytest.fixture
def secure(certificate: Path) -> Iterator[tuple[ssl.SSLSocket, SocketDuplex]]:
    """Give both ends of a connection under TLS."""
    serving, asking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    serving.load_cert_chain(certificate)
    asking.check_hostname, asking.verify_mode = False, ssl.CERT_NONE
    # Python before 3.11.4 sets it, and takes a connection that was cut for one that has ended (gh-95494).
    asking.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made: list[ssl.SSLSocket] = []

        def accept() -> None:
            plain, _ = listener.accept()
            made.append(serving.wrap_socket(plain, server_side=True))

        thread = threading.Thread(target=accept)
        thread.start()
        near = asking.wrap_socket(socket.create_connection(listener.getsockname()))
        thread.join()
    with near, made[0] as far:
        far.settimeout(30)
        near.settimeout(0)
        yield far, SocketDuplex(near, b"", None)


def test_a_secure_connection_flows_both_ways_and_ends_one_way_first(
    secure: tuple[ssl.SSLSocket, SocketDuplex],
) -> None:
    """The other end is told that no more comes, by the protocol's own word, and can still send and end as it should."""
    far, duplex = secure
    assert duplex.send(memoryview(b"hello")) == 5
    assert far.recv(100) == b"hello"
    assert came(duplex) is None
    duplex.close_write()
    assert far.recv(100) == b""
    far.sendall(b"still")
    assert next_of(duplex) == b"still"
    far.unwrap()
    assert next_of(duplex) == b""


def test_a_secure_connection_that_is_cut_is_no_end(secure: tuple[ssl.SSLSocket, SocketDuplex]) -> None:
    """Without the protocol's own word for it something is missing."""
    far, duplex = secure
    far.sendall(b"half")
    assert next_of(duplex) == b"half"
    with socket.socket(fileno=far.detach()):
        pass
    assert duplex.wait(reading=True, writing=False, timeout=30)
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        next_of(duplex)


def test_much_comes_at_once_over_a_secure_connection(secure: tuple[ssl.SSLSocket, SocketDuplex]) -> None:
    """More than the protocol's largest record; in no more than the room that there is."""
    far, duplex = secure
    data = bytes(range(256)) * 256
    far.sendall(data)
    whole, pieces = b"", 0
    while len(whole) < len(data):
        whole += next_of(duplex, 40_000)
        pieces += 1
    assert whole == data
    assert pieces < len(data) / 16_384


def test_what_was_decrypted_already_outlives_the_end_of_our_way(secure: tuple[ssl.SSLSocket, SocketDuplex]) -> None:
    """A record of which a part was read is there as a whole."""
    far, duplex = secure
    far.sendall(b"early")
    assert next_of(duplex, 2) == b"ea"
    duplex.close_write()
    assert next_of(duplex, 2) == b"rl"
    assert next_of(duplex) == b"y"
    assert far.recv(100) == b""
    far.sendall(b"later")
    assert next_of(duplex) == b"later"


# By ssh


@define
class Channel:
    """A channel as paramiko has it; what it gives and takes is told beforehand."""

    gives: list[bytes | BaseException] = field(factory=list)
    takes: list[int | BaseException] = field(factory=list)
    timeout: float | None = None
    sent: bytes = b""
    shut: bool = False
    closed: bool = False
    eof_received: bool = False

    def settimeout(self, seconds: float) -> None:
        """Note it."""
        self.timeout = seconds

    def recv(self, size: int) -> bytes:
        """Give the next piece."""
        piece = self.gives.pop(0)
        if isinstance(piece, BaseException):
            raise piece
        assert len(piece) <= size <= 1 << 16
        return piece

    def send(self, data: bytes) -> int:
        """Take some."""
        taken = self.takes.pop(0)
        if isinstance(taken, BaseException):
            raise taken
        self.sent += data[:taken]
        assert len(data) <= 1 << 15
        return taken

    def recv_ready(self) -> bool:
        """Say whether something is there."""
        return bool(self.gives)

    def send_ready(self) -> bool:
        """Say whether there is room."""
        return bool(self.takes)

    def shutdown_write(self) -> None:
        """End one way."""
        self.shut = True

    def close(self) -> None:
        """End both."""
        self.closed = True


def test_a_channel_is_a_connection_too() -> None:
    """What was read too early comes first; a time-out is nothing yet, and a channel that takes nothing is closed."""
    kept = Channel()
    channel = Channel(gives=[b"one", TimeoutError(), b""], takes=[3, TimeoutError(), 0, OSError("gone")])
    duplex = ChannelDuplex(channel, b"early", kept)
    assert channel.timeout == 0
    assert [came(duplex, 3), came(duplex), came(duplex), came(duplex), came(duplex)] == [
        b"ear",
        b"ly",
        b"one",
        None,
        b"",
    ]
    assert duplex.send(memoryview(b"abcd")) == 3
    assert duplex.send(memoryview(b"d")) is None
    for _ in range(2):
        with pytest.raises(BrokenPipeError, match="the channel is closed"):
            duplex.send(memoryview(b"d"))
    assert channel.sent == b"abc"
    duplex.close_write()
    assert (channel.shut, channel.closed, kept.closed) == (True, False, False)
    duplex.close()
    assert (channel.closed, kept.closed) == (True, True)


@pytest.mark.parametrize(
    ("channel", "reading", "writing"),
    [
        (Channel(), False, False),
        (Channel(gives=[b"x"]), True, False),
        (Channel(takes=[1]), False, True),
        (Channel(eof_received=True), True, False),
        (Channel(closed=True), True, True),
    ],
)
def test_a_channel_is_waited_for(channel: Channel, *, reading: bool, writing: bool) -> None:
    """Until the wanted way may go on, or it ends; a time-out is told."""
    duplex = ChannelDuplex(channel, b"", None)
    assert duplex.wait(reading=True, writing=False, timeout=0.0) is reading
    assert duplex.wait(reading=False, writing=True, timeout=0.0) is writing
    assert duplex.wait(reading=True, writing=True, timeout=0.0) is (reading or writing)


# Taken out of an answer


def response_of(reader: Any) -> Any:
    """Return an answer whose head was parsed by a reader."""
    return SimpleNamespace(raw=SimpleNamespace(_fp=SimpleNamespace(fp=reader)))


SSH: Any = SimpleNamespace(base_url="http+docker://ssh")
UNIX: Any = SimpleNamespace(base_url="http+docker://localunixsocket")


def test_the_ssh_program_is_taken_over_by_its_pipes() -> None:
    """What it has printed already comes first."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        duplex = take_over(SSH, response_of(SimpleNamespace(channel=SimpleNamespace(proc=process))))
        assert isinstance(duplex, PipeDuplex)
        assert duplex.send(memoryview(b"abc")) == 3
        assert next_of(duplex) == b"abc"
        duplex.close()
        assert process.returncode is not None


def test_a_channel_is_taken_over_with_what_was_read_of_it() -> None:
    """What paramiko's reader holds comes before what the channel gives."""
    channel = Channel(gives=[b"later"])
    duplex = take_over(SSH, response_of(SimpleNamespace(channel=channel, _rbuffer=b"early")))
    assert (came(duplex), came(duplex)) == (b"early", b"later")


def test_a_socket_is_taken_over_with_what_was_read_of_it() -> None:
    """And does not block from then on."""
    far, near = socket.socketpair()
    with far, near, near.makefile("rb") as reader:
        far.sendall(b"head\r\nearly")
        assert reader.readline() == b"head\r\n"
        duplex = take_over(UNIX, response_of(reader))
        assert (came(duplex), came(duplex)) == (b"early", None)
        duplex.close()


def test_another_kind_of_connection_is_refused_by_its_name() -> None:
    """A pipe of Windows is none of those."""
    with pytest.raises(OSError, match="connections of the kind SimpleNamespace cannot be taken over"):
        take_over(UNIX, response_of(SimpleNamespace(raw=SimpleNamespace())))


def frame(data: bytes, stream: int = 1) -> bytes:
    """Return data as an engine sends it."""
    return struct.pack(">BxxxL", stream, len(data)) + data


@pytest.mark.parametrize("stdin", [False, True])
def test_a_program_runs_over_the_connection_of_its_start(script: ScriptedEngine, *, stdin: bool) -> None:
    """As root, found again by a mark, with its first words behind the head of the answer, until its input ends."""

    def run(connection: socket.socket) -> None:
        head = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        connection.sendall(head + frame(b"early ") + frame(b"oops", 2))
        if stdin:
            while data := connection.recv(100):
                connection.sendall(frame(data.upper()))
        connection.shutdown(socket.SHUT_RDWR)

    script.says("POST", f"/containers/{ID}/exec", answer({"Id": "ex"}, 201))
    script.says("POST", "/exec/ex/start", run)
    script.says("GET", "/exec/ex/json", answer({"Running": False, "ExitCode": 3}))
    with script.engine().exec("web", ["tr", "a", "A"], stdin=stdin) as process:
        if stdin:
            process.write(b"input")
            process.close_input()
        assert b"".join(iter(lambda: process.read(100), b"")) == (b"early INPUT" if stdin else b"early ")
        finished = process.finish()
    assert (finished.exit_code, finished.stderr) == (3, "oops")
    created, started = (one for one in script.asked if one.method == "POST")
    (mark,) = created.json.pop("Env")
    name, _, value = mark.partition("=")
    assert (name, len(value)) == (MARK, 32)
    assert created.json | {"Env": None} == {
        "AttachStdin": stdin,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "User": "0:0",
        "Cmd": ["tr", "a", "A"],
        "Env": None,
    }
    assert started.json == {"Detach": False, "Tty": False}
    assert (started.headers["connection"], started.headers["upgrade"]) == ("Upgrade", "tcp")


def test_an_error_of_a_program_names_it_without_its_arguments(script: ScriptedEngine) -> None:
    """An argument may be a secret."""
    script.says("POST", f"/containers/{ID}/exec", refusal(409, "container is paused"))
    with pytest.raises(EngineError) as caught:
        script.engine().exec("web", ["psql", "secret"])
    assert str(caught.value).startswith("could not run 'psql' in container 'web': container is paused")


# Ended from here


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """Give a program that waits."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def killer(container: str) -> Killer:
    """Return what ends a program of a container, without an engine."""
    wire: Any = None
    return Killer(wire, container, "mark")


def test_a_program_is_killed_if_its_control_group_is_the_containers(child: subprocess.Popen[bytes]) -> None:
    """A number may be another process here than on the engine's machine: that one is left alone."""
    groups = Path(f"/proc/{child.pid}/cgroup").read_text().strip()
    assert not killer("ab" * 32).signal({"Pid": child.pid})
    assert child.poll() is None
    assert killer(groups).signal({"Pid": child.pid})
    assert child.wait(30) == -9
    assert not killer(groups).signal({"Pid": child.pid})


@pytest.mark.parametrize("pid", [None, 0, -1, "1", 1 << 30])
def test_what_is_no_process_here_is_not_killed(pid: object) -> None:
    """An engine in a virtual machine says zero, or a number that nobody has."""
    assert not killer("").signal({"Pid": pid})
    assert not killer("").signal({})


def test_a_shell_in_the_container_looks_for_the_mark(script: ScriptedEngine) -> None:
    """It is not waited for; where there is no shell, that is told."""
    killing = Killer(Wire(script.engine()._wire.api, timeout=5, patience=5), ID, "the-mark")
    assert not killing.search()
    script.says("POST", f"/containers/{ID}/exec", answer({"Id": "ex"}, 201))
    script.says("POST", "/exec/ex/start", answer(b""))
    assert killing.search()
    created, started = [one for one in script.asked if one.method == "POST"][-2:]
    assert created.json["Cmd"][:2] == ["sh", "-c"]
    assert created.json["Cmd"][3:] == ["sh", f"{MARK}=the-mark"]
    assert created.json["User"] == "0:0"
    assert started.json == {"Detach": True, "Tty": False}


def test_the_shell_ends_the_program_with_the_mark_and_no_other(script: ScriptedEngine) -> None:
    """Run here, the script that a container gets kills what has the mark in its environment."""
    killing = Killer(Wire(script.engine()._wire.api, timeout=5, patience=5), ID, "the-mark")
    killing.search()
    script_ = next(one for one in script.asked if one.method == "POST").json["Cmd"]
    marked = [subprocess.Popen(["sleep", "600"], env={MARK: mark}) for mark in ("the-mark-of-this-test", "another")]
    try:
        subprocess.run([*script_[:4], f"{MARK}=the-mark-of-this-test"], check=False)
        assert marked[0].wait(30) == -9
        assert marked[1].poll() is None
    finally:
        for process in marked:
            process.kill()
            process.wait()
