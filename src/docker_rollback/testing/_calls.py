"""What a `FailingEngine` counts and writes down."""

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
"""The verbs of an engine that only look."""

FEEDING: Final = frozenset({"process.read", "process.write", "process.close_input", "process.finish"})
"""The verbs of a program that `exec` has begun; a program does its work when its input is closed."""


class Killed(BaseException):
    """The process that used the engine is dead at this point, as after SIGKILL: nothing may catch it but the test."""


@define(eq=False)
class EngineCall:
    """One call of an engine that a `FailingEngine` has seen.

    Attributes:
        verb: what was called ("start_container", "process.write").
        arguments: with what; the bytes of streams left out.
        number: which of the counted calls it is, from 1; None for one that is not counted.
        outcome: "done"; "failed" before it took effect; "lost" where it took effect and its answer did not arrive;
            "refused" where the engine itself raised; "begun" while it is under way.
    """

    verb: str
    arguments: tuple[object, ...] = ()
    number: int | None = None
    outcome: Literal["begun", "done", "failed", "lost", "refused"] = "begun"

    def __str__(self) -> str:
        number = "-" if self.number is None else str(self.number)
        return f"{number} {self.verb}({', '.join(repr(one) for one in self.arguments)}) {self.outcome}"
