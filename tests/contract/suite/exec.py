"""The contract's rules about programs that run in a container."""

from __future__ import annotations

import random
import threading

import pytest

from docker_rollback._engine import Engine
from docker_rollback.errors import EngineConflictError
from tests.contract.suite.lab import LINES, Contract, Lab

_MEBIBYTE = 1 << 20


def _bytes(size: int) -> bytes:
    """Return bytes of every value, in an order that no framing has; the same ones each time."""
    return random.Random(size).randbytes(size)


class ExecContract(Contract):
    """How programs run, are fed, read and ended."""

    def test_a_program_answers_and_ends(self, lab: Lab) -> None:
        """What a program prints and its exit code come back."""
        made = lab.running()
        assert lab.run(made, "cat", "/lines") == (LINES.encode(), 0)
        assert lab.run(made, "true") == (b"", 0)
        assert lab.run(made, "false") == (b"", 1)

    def test_errors_are_told_apart_from_output(self, engine: Engine, lab: Lab) -> None:
        """Standard error is no part of the output, and comes with the end of the program."""
        with engine.exec(lab.running(), ["cat", "/lines", "/missing"]) as process:
            output = b"".join(iter(lambda: process.read(_MEBIBYTE), b""))
            finished = process.finish()
        assert output == LINES.encode()
        assert finished.exit_code == 1
        assert "missing" in finished.stderr

    def test_input_comes_back_byte_for_byte(self, lab: Lab) -> None:
        """Megabytes of any bytes that are written before anything is read come back as they were."""
        data = _bytes(5 * _MEBIBYTE + 7)
        output, exit_code = lab.run(lab.running(), "cat", stdin=data)
        assert exit_code == 0
        assert output == data

    def test_input_and_output_flow_at_the_same_time(self, engine: Engine, lab: Lab) -> None:
        """One thread may write while another reads."""
        data = _bytes(8 * _MEBIBYTE)
        with engine.exec(lab.running(), ["cat"], stdin=True) as process:

            def feed() -> None:
                for start in range(0, len(data), 100_001):
                    process.write(memoryview(data)[start : start + 100_001])
                process.close_input()

            thread = threading.Thread(target=feed)
            thread.start()
            output = b"".join(iter(lambda: process.read(65_537), b""))
            thread.join()
            assert process.finish().exit_code == 0
        assert output == data

    def test_read_returns_no_more_than_asked(self, engine: Engine, lab: Lab) -> None:
        """A read returns at most what was asked for, and nothing once the output has ended."""
        with engine.exec(lab.running(), ["cat", "/lines"]) as process:
            pieces = list(iter(lambda: process.read(3), b""))
            assert max(len(piece) for piece in pieces) <= 3
            assert b"".join(pieces) == LINES.encode()
            assert process.read(3) == b""
            assert process.finish().exit_code == 0

    def test_finish_drops_what_was_not_read(self, engine: Engine, lab: Lab) -> None:
        """A program is finished without its output having been read, and stays as finished."""
        with engine.exec(lab.running(), ["cat"], stdin=True) as process:
            process.write(_bytes(_MEBIBYTE))
            finished = process.finish()
            assert finished.exit_code == 0
            assert process.finish() == finished

    def test_what_ended_early_shows_in_its_end(self, engine: Engine, lab: Lab) -> None:
        """Writing to a program that reads nothing is no error; its exit code tells."""
        with engine.exec(lab.running(), ["false"], stdin=True) as process:
            for _ in range(4):
                process.write(_bytes(_MEBIBYTE))
            process.close_input()
            assert process.finish().exit_code == 1

    def test_an_archive_goes_through(self, lab: Lab) -> None:
        """An archive that tar writes in one place is what tar reads in another."""
        made = lab.running()
        archive, exit_code = lab.run(made, "tar", "-c", "-f", "-", "-C", "/", "lines")
        assert exit_code == 0
        assert lab.run(made, "tar", "-x", "-f", "-", "-C", "/tmp", stdin=archive) == (b"", 0)
        assert lab.run(made, "cat", "/tmp/lines") == (LINES.encode(), 0)

    def test_a_broken_archive_fails_its_program(self, lab: Lab) -> None:
        """What is no archive ends tar with an exit code of its own."""
        _, exit_code = lab.run(lab.running(), "tar", "-x", "-f", "-", "-C", "/tmp", stdin=_bytes(10_240))
        assert exit_code != 0

    def test_a_missing_program_is_told(self, engine: Engine, lab: Lab) -> None:
        """A program that is not there ends with 127, says so, and puts nothing in the output."""
        with engine.exec(lab.running(), ["no-such-program"]) as process:
            assert process.read(_MEBIBYTE) == b""
            finished = process.finish()
        assert finished.exit_code == 127
        assert "no-such-program" in finished.stderr

    def test_programs_run_as_root(self, lab: Lab) -> None:
        """Whoever the container's own program runs as, this one runs as root."""
        assert lab.run(lab.running(User="65534:65534"), "touch", "/root/mine") == (b"", 0)

    def test_a_killed_program_has_ended(self, engine: Engine, lab: Lab) -> None:
        """A program that would run on is ended; its exit code says that it did not do its work."""
        process = engine.exec(lab.running(), ["sleep", "600"])
        process.kill()
        process.kill()
        assert process.read(1) == b""
        assert process.finish().exit_code == 137

    def test_killing_a_program_that_is_fed_is_no_success(self, engine: Engine, lab: Lab) -> None:
        """A program that the end of its input would end well has not ended well where it was killed."""
        process = engine.exec(lab.running(), ["cat"], stdin=True)
        process.write(b"half of it")
        process.kill()
        assert process.finish().exit_code == 137

    def test_leaving_the_block_ends_the_program(self, engine: Engine, lab: Lab) -> None:
        """Nothing runs on behind a block that was left."""
        with engine.exec(lab.running(), ["sleep", "600"]) as process:
            pass
        assert process.finish().exit_code == 137

    def test_killing_what_has_ended_is_harmless(self, engine: Engine, lab: Lab) -> None:
        """A program that has ended keeps its exit code."""
        with engine.exec(lab.running(), ["false"]) as process:
            finished = process.finish()
            process.kill()
        assert process.finish() == finished
        assert finished.exit_code == 1

    def test_the_end_of_the_container_ends_its_programs(self, engine: Engine, lab: Lab) -> None:
        """A program whose container is killed has ended, and not well."""
        made = lab.running()
        with engine.exec(made, ["cat"], stdin=True) as process:
            process.write(b"it runs")
            engine.kill_container(made)
            assert process.finish().exit_code != 0

    @pytest.mark.parametrize("state", ["created", "exited", "paused"])
    def test_programs_need_a_running_container(self, engine: Engine, lab: Lab, state: str) -> None:
        """In a container that does not run, or is paused, no program can be run: that is a conflict."""
        made = {"created": lab.created, "exited": lab.stopped, "paused": lab.running}[state]()
        if state == "paused":
            engine.pause_container(made)
        with pytest.raises(EngineConflictError):
            engine.exec(made, ["true"])
