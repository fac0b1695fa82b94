"""A program's connection: frames, ends and what is mistaken for one. The other end is this test."""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._engine.docker.errors import Asking
from docker_rollback._engine.docker.exec import Demultiplexer, DockerProcess
from docker_rollback._engine.docker.kill import Killer
from docker_rollback._engine.docker.socket import PipeDuplex, SocketDuplex
from docker_rollback._engine.port import Finished
from docker_rollback.errors import ContainerNotFoundError, EngineError, EngineTimeoutError

RUNNING = {"Running": True, "ExitCode": None}
KEPT = 64 << 10


def frame(data: bytes, stream: int = 1) -> bytes:
    """Return data as an engine sends it."""
    return struct.pack(">BxxxL", stream, len(data)) + data


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40))), st.integers(1, 20))
def test_frames_may_be_cut_anywhere(frames: Sequence[tuple[int, bytes]], size: int) -> None:
    """However a stream is cut into pieces, output and errors come apart as they were."""
    stream = b"".join(frame(data, number) for number, data in frames)
    taken = Demultiplexer()
    output = b"".join(taken.feed(memoryview(stream)[at : at + size]) for at in range(0, len(stream), size))
    assert output == b"".join(data for number, data in frames if number == 1)
    assert taken.stderr == b"".join(data for number, data in frames if number == 2)
    assert taken.complete


def test_of_errors_the_end_is_kept() -> None:
    """Whatever a program says, no more than the last 64 KiB of it is held."""
    taken = Demultiplexer()
    for number in range(300):
        taken.feed(memoryview(frame(b"%06d" % number * 500, 2)))
    assert len(taken.stderr) == KEPT
    assert taken.stderr.endswith(b"000299")


@define
class Clock:
    """A clock that goes on by waiting alone."""

    now: float = 0.0

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self.now += seconds

    def monotonic(self) -> float:
        """Tell the time."""
        return self.now


@define
class Weapon:
    """Stands for the ways to end a program that a test allows."""

    by_signal: bool = False
    by_search: bool = False
    state: dict[str, Any] = field(factory=dict)
    asked: list[str] = field(factory=list)

    def signal(self, state: Mapping[str, Any]) -> bool:
        """End it from here, where that is allowed."""
        assert state == RUNNING
        self.asked.append("signal")
        return self._end(possible=self.by_signal)

    def search(self) -> bool:
        """End it from inside its container, where that is allowed."""
        self.asked.append("search")
        return self._end(possible=self.by_search)

    def _end(self, *, possible: bool) -> bool:
        if possible:
            self.state.update(Running=False, ExitCode=137)
        return possible


@define
class Bench:
    """A process with both ends of its connection."""

    far: socket.socket
    near: socket.socket
    state: dict[str, Any]
    clock: Clock = field(factory=Clock)

    def process(self, *, stdin: bool = False, weapon: Weapon | None = None) -> DockerProcess:
        """Return a process whose engine says of it what `state` holds."""

        def inspect() -> Mapping[str, Any]:
            if not self.state:
                raise ContainerNotFoundError("web")
            return self.state

        killer: Any = weapon or Killer
        return DockerProcess(
            SocketDuplex(self.near, b"", None),
            inspect,
            killer,
            Asking("run 'it' in container 'web'"),
            stdin=stdin,
            timer=self.clock,
        )

    def says(self, *frames: bytes, end: bool = True) -> None:
        """Have the engine send, and hang up."""
        self.far.sendall(b"".join(frames))
        if end:
            self.far.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give a connection and what is at both ends of it."""
    far, near = socket.socketpair()
    near.settimeout(0)
    with far, near:
        yield Bench(far, near, dict(RUNNING))


def test_output_and_end(bench: Bench) -> None:
    """Output is read, its end is seen, and the exit code is what the engine says."""
    bench.says(frame(b"out"), frame(b"err", 2), frame(b"put"))
    bench.state = {"Running": False, "ExitCode": 3}
    process = bench.process()
    assert b"".join(iter(lambda: process.read(100), b"")) == b"output"
    assert process.finish() == Finished(3, "err")


def test_the_end_of_output_is_no_success(bench: Bench) -> None:
    """Where the output has ended and the engine has it running still, the connection was cut."""
    bench.says(frame(b"half of it"))
    process = bench.process()
    assert process.read(100) == b"half of it"
    assert process.read(100) == b""
    with pytest.raises(EngineTimeoutError, match="the connection was lost"):
        process.finish()
    assert bench.clock.now > 5


def test_an_end_in_the_midst_of_a_frame_is_no_success(bench: Bench) -> None:
    """Where the output ends in the midst of a frame, some of it is lost, whatever the exit code."""
    bench.says(frame(b"a whole frame"), frame(b"a frame that is cut")[:-3])
    bench.state = {"Running": False, "ExitCode": 0}
    with pytest.raises(EngineTimeoutError, match="in the middle of the output"):
        bench.process().finish()


def test_an_exec_that_is_gone_has_not_ended_well(bench: Bench) -> None:
    """An engine that was started anew knows no exec of before, and its program did not do its work."""
    bench.says(frame(b"some"))
    bench.state = {}
    assert bench.process().finish().exit_code == 137


@pytest.mark.parametrize("stdin", [True, False])
def test_a_connection_that_is_reset(bench: Bench, *, stdin: bool) -> None:
    """A reset is how a program that ended before its input may leave, and a loss where it had no input."""
    bench.near.sendall(b"nobody reads this")
    bench.says(frame(b"out"))
    bench.state = {"Running": False, "ExitCode": 1}
    process = bench.process(stdin=stdin)
    assert process.read(100) == b"out"
    if stdin:
        assert process.finish().exit_code == 1
    else:
        with pytest.raises(EngineTimeoutError, match="connection was lost"):
            process.finish()


def test_a_reset_is_no_success(bench: Bench) -> None:
    """A program that ends well where its input ends may have had only some of it, if the connection was reset."""
    bench.near.sendall(b"nobody reads this")
    bench.says(frame(b"out"))
    bench.state = {"Running": False, "ExitCode": 0}
    with pytest.raises(EngineTimeoutError, match="part of the input"):
        bench.process(stdin=True).finish()


def test_what_ended_is_not_written_to_for_ever(bench: Bench) -> None:
    """Where a program has ended and nobody takes its input, writing ends too."""
    bench.state = {"Running": False, "ExitCode": 2}
    process = bench.process(stdin=True)
    process.write(bytes(8 << 20))
    bench.says(end=False)
    bench.clock.now += 60
    assert process.finish().exit_code == 2


@pytest.mark.parametrize(
    ("said", "exit_code", "expected"),
    [
        (b'OCI runtime exec failed: exec: "x": executable file not found in $PATH\r\n', 126, 127),
        (b"OCI runtime exec failed: procReady not received\r\n", 128, 126),
        (b"cannot exec in a stopped state\r\n", 128, 126),
    ],
)
def test_a_refusal_is_no_output(bench: Bench, said: bytes, exit_code: int, expected: int) -> None:
    """What an engine says that could not start a program is told as an error, not as the program's output."""
    bench.says(frame(said))
    bench.state = {"Running": False, "ExitCode": exit_code}
    process = bench.process()
    assert process.read(1000) == b""
    assert process.finish() == Finished(expected, said.decode().strip())


@pytest.mark.parametrize("more", [b"", b"x" * 20_000])
def test_what_reads_like_a_refusal_may_be_output(bench: Bench, more: bytes) -> None:
    """A program that prints what an engine might say, and ends otherwise, has printed it."""
    said = b"OCI runtime exec failed: so they say\n"
    bench.says(frame(said), *([frame(more)] if more else []))
    bench.state = {"Running": False, "ExitCode": 0}
    process = bench.process()
    assert b"".join(iter(lambda: process.read(100_000), b"")) == said + more
    assert process.finish() == Finished(0, "")


@pytest.mark.parametrize("way", ["by_signal", "by_search"])
def test_a_program_is_ended_by_any_way_there_is(bench: Bench, way: str) -> None:
    """A signal from here, or a search from inside: either ends it, and it did not end well."""
    weapon = Weapon(by_signal=way == "by_signal", by_search=way == "by_search", state=bench.state)
    process = bench.process(stdin=True, weapon=weapon)
    process.write(b"half")
    process.kill()
    assert process.finish().exit_code == 137
    assert process.read(10) == b""
    assert weapon.asked == (["signal"] if way == "by_signal" else ["signal", "search"])
    bench.far.settimeout(5)
    assert bench.far.recv(100) + bench.far.recv(100) == b"half"


def test_what_cannot_be_ended_is_told(bench: Bench) -> None:
    """Where there is no way to end a program, it is said, without a long wait."""
    process = bench.process(weapon=Weapon(state=bench.state))
    with pytest.raises(EngineError, match="cannot be killed from here"):
        process.kill()
    assert bench.clock.now < 2


def test_leaving_the_block_loses_no_error(bench: Bench) -> None:
    """An error of the block comes out of it, with a note where the program could not be ended."""
    with (
        pytest.raises(ValueError, match="mine") as caught,
        bench.process(weapon=Weapon(state=bench.state)),
    ):
        raise ValueError("mine")
    assert "cannot be killed from here" in caught.value.__notes__[0]


def test_killing_what_has_ended_tells_how_it_ended(bench: Bench) -> None:
    """Its own exit code counts, and nobody is sent to end it."""
    bench.state = {"Running": False, "ExitCode": 3}
    process = bench.process(weapon=Weapon(state=bench.state))
    process.kill()
    process.kill()
    assert process.finish() == Finished(3, "")


def test_leaving_the_block_tells_that_a_program_goes_on(bench: Bench) -> None:
    """Where the block itself went well, that is the error."""
    with (
        pytest.raises(EngineError, match="cannot be killed from here"),
        bench.process(weapon=Weapon(state=bench.state)),
    ):
        pass


def test_a_connection_that_fails_while_it_is_written_to_is_an_error(bench: Bench) -> None:
    """Only one whose other end is gone says that the program has ended."""

    class Broken(Slow):
        def send(self, data: memoryview) -> int:
            del data
            raise OSError(errno.ENETDOWN, "Network is down")

    duplex: Any = Broken([])
    killer: Any = Killer
    process = DockerProcess(duplex, lambda: bench.state, killer, Asking("run it"), stdin=True)
    with pytest.raises(EngineError, match="Network is down"):
        process.write(b"x")


def test_a_reader_is_woken_by_the_end(bench: Bench) -> None:
    """A thread that waits for output is let go where another one ends the program."""
    process = bench.process(weapon=Weapon(by_signal=True, state=bench.state))
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.append(process.read(10)))
    thread.start()
    process.kill()
    thread.join(timeout=10)
    assert read == [b""]


@pytest.fixture
def cat() -> Iterator[PipeDuplex]:
    """Give a connection over the pipes of a program, as docker-py has one over ssh."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    duplex = PipeDuplex(process, None)
    yield duplex
    duplex.close()
    assert process.returncode is not None


def test_pipes_are_a_connection_too(cat: PipeDuplex) -> None:
    """Over pipes, as over a socket, both ways flow at a time, and one is closed before the other."""
    data = memoryview(bytes(range(256)) * 8192)
    sent, came, buffer = 0, b"", memoryview(bytearray(70_001))
    assert not cat.wait(reading=True, writing=False, timeout=0)
    while len(came) < len(data):
        if sent < len(data):
            sent += cat.send(data[sent:]) or 0
        assert cat.wait(reading=True, writing=sent < len(data), timeout=10)
        came += buffer[: cat.receive(buffer) or 0]
    assert came == data
    cat.close_write()
    assert cat.wait(reading=True, writing=False, timeout=10)
    assert cat.receive(buffer) == 0


def test_a_socket_that_is_closed_is_no_surprise() -> None:
    """After the end, reading finds the end and writing finds nobody."""
    far, near = socket.socketpair()
    with far, near:
        near.settimeout(0)
        duplex = SocketDuplex(near, b"early", None)
        buffer = memoryview(bytearray(3))
        early = [bytes(buffer[: duplex.receive(buffer) or 0]) for _ in range(2)]
        assert early == [b"ear", b"ly"]
        assert duplex.receive(buffer) is None
        for _ in range(2):
            duplex.close()
        assert duplex.receive(buffer) == 0
        assert duplex.wait(reading=True, writing=True, timeout=None)
        with pytest.raises(BrokenPipeError):
            duplex.send(memoryview(b"x"))


@define
class Slow:
    """A connection over which nothing comes at first, although each time it says that something may."""

    pieces: list[bytes | None]

    def receive(self, buffer: memoryview) -> int | None:
        """Give the next piece, or None where nothing is there."""
        piece = self.pieces.pop(0)
        if piece is not None:
            buffer[: len(piece)] = piece
        return None if piece is None else len(piece)

    def wait(self, **_: object) -> bool:
        """Say that something may have come."""
        return True

    def close(self) -> None:
        """Close it."""

    close_write = close


def test_the_engine_is_not_asked_while_output_may_come() -> None:
    """Only a wait that ends without anything is a reason to ask it whether the program has ended."""
    asked: list[int] = []

    def inspect() -> Mapping[str, Any]:
        asked.append(1)
        return {"Running": False, "ExitCode": 0}

    duplex: Any = Slow([None, None, None, frame(b"output"), b""])
    killer: Any = Killer
    process = DockerProcess(duplex, inspect, killer, Asking("run it"), stdin=True, timer=Clock())
    assert process.read(100) == b"output"
    assert process.read(100) == b""
    assert asked == []
    assert process.finish() == Finished(0, "")


def test_what_a_program_answers_is_taken_in_while_it_is_fed(bench: Bench) -> None:
    """One that prints as much as it reads takes no more before that is read: writing alone goes on all the same."""
    data = bytes(range(256)) * 40_000
    bench.state = {"Running": False, "ExitCode": 0}
    bench.far.settimeout(60)

    def echo() -> None:
        while piece := bench.far.recv(1 << 16):
            bench.far.sendall(frame(piece))
        bench.far.close()

    with bench.process(stdin=True) as process:
        thread = threading.Thread(target=echo)
        thread.start()
        process.write(data)
        process.close_input()
        assert b"".join(iter(lambda: process.read(1 << 20), b"")) == data
        thread.join()
        assert process.finish() == Finished(0, "")


@define
class Late(Slow):
    """A connection that says when nothing has come; each wait takes its time."""

    clock: Clock = field(factory=Clock)

    def wait(self, **wanted: Any) -> bool:
        """Let the time pass, and say whether something has come."""
        self.clock.now += wanted["timeout"] or 0
        return self.pieces[0] is not None


@pytest.mark.parametrize(("code", "whole"), [(0, True), (1, False)])
def test_the_output_of_one_that_ended_well_is_waited_for(code: int, *, whole: bool) -> None:
    """It may be on its way for some seconds after the engine knows the end; after another end it does not count."""
    duplex: Any = Late([*[None] * 4, frame(b"late"), *[None] * 400])
    killer: Any = Killer
    state = {"Running": False, "ExitCode": code}
    process = DockerProcess(duplex, lambda: state, killer, Asking("run it"), stdin=True, timer=duplex.clock)
    assert process.read(100) == (b"late" if whole else b"")
    assert process.read(100) == b""
    assert duplex.clock.now < 30
    assert process.finish() == Finished(code, "")


def test_a_frame_is_read_in_small_pieces(bench: Bench) -> None:
    """However little is asked for at a time, nothing is lost, doubled or out of order."""
    bench.says(frame(b"0123456789"), frame(b"abcdef"))
    bench.state = {"Running": False, "ExitCode": 0}
    process = bench.process()
    pieces = list(iter(lambda: process.read(3), b""))
    assert b"".join(pieces) == b"0123456789abcdef"
    assert all(len(piece) <= 3 for piece in pieces)
    assert process.finish() == Finished(0, "")
