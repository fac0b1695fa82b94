"""Programs that tests run in containers, with all that they print.

docker-py reads below the reader that has parsed the answer's head. What came together with the head is lost there: all
of it, where a program ends at once and this process has to wait for its turn.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import docker


def run_in(client: docker.DockerClient, container: str, command: Sequence[str], *, user: str = "") -> tuple[int, str]:
    """Run a program in a container; return its exit code, and what it prints on both its outputs."""
    api = client.api
    made = api.exec_create(container, list(command), user=user)["Id"]
    url = f"{api.base_url}/v{api.api_version}/exec/{made}/start"
    # Not asked to take the connection over, the engine sends a plain answer, which ends with the program's output.
    answer = api.post(url, json={"Detach": False, "Tty": False}, stream=True, timeout=api.timeout)
    answer.raise_for_status()
    rest, printed = answer.raw.read(), b""
    while rest:
        _, size = struct.unpack(">BxxxL", rest[:8])
        printed, rest = printed + rest[8 : 8 + size], rest[8 + size :]
    return int(api.exec_inspect(made)["ExitCode"]), printed.decode()
