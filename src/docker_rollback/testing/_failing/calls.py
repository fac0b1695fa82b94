"""The calls that a `FailingEngine` counts and records."""

from __future__ import annotations

from typing import Final, Literal

from attrs import define

CHANGING: Final = frozenset(
    {
        "commit_container",
        "connect_network",
        "create_container",
        "create_network",
        "create_volume",
        "disconnect_network",
        "exec",
        "import_image",
        "kill_container",
        "load_image",
        "pause_container",
        "pull_image",
        "put_archive",
        "remove_container",
        "remove_image",
        "remove_network",
        "remove_volume",
        "rename_container",
        "start_container",
        "stop_container",
        "tag_image",
        "unpause_container",
        "update_container",
    }
)
"""The verbs of an engine that change something."""

READING: Final = frozenset(
    {
        "container_changes",
        "container_logs",
        "forbidden",
        "get_archive",
        "info",
        "inspect_container",
        "inspect_image",
        "inspect_network",
        "inspect_volume",
        "list_containers",
        "list_images",
        "list_networks",
        "list_volumes",
        "now",
        "save_image",
    }
)
"""The verbs of an engine that only read."""

FEEDING: Final = frozenset({"process.read", "process.write", "process.close_input", "process.finish"})
"""The verbs of a program that `exec` has begun; a program with input works when its input is closed."""


class Killed(BaseException):
    """Stands for the death of the process that used the engine, as by SIGKILL. Only the test may catch it."""


@define(eq=False)
class EngineCall:
    """One engine call that a `FailingEngine` has recorded.

    Attributes:
        verb: the method's name ("start_container", "process.write").
        arguments: its references and names; for `exec`, the command too; for `process.write`, the number of bytes.
        number: its number among the counted calls, from 1; None if it is not counted.
        outcome: "begun" while it runs; "done"; "failed" if it had no effect; "lost" if it took effect but its answer
            did not arrive; "refused" if the engine itself raised an error.
    """

    verb: str
    arguments: tuple[object, ...] = ()
    number: int | None = None
    outcome: Literal["begun", "done", "failed", "lost", "refused"] = "begun"

    def __str__(self) -> str:
        number = "-" if self.number is None else str(self.number)
        return f"{number} {self.verb}({', '.join(repr(one) for one in self.arguments)}) {self.outcome}"
