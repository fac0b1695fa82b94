"""What a container does, when it is started again, and how its health is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from docker_rollback import EngineError
from tests.integration.matrix.lab import Case, Lab, eventually, table

ROWS, row = table()

_SECOND = 1_000_000_000


def _healthy(lab: Lab) -> None:
    assert lab.shown("State.Health.Status") == "healthy"


def _turns_healthy(lab: Lab) -> None:
    if lab.podman and not Path("/run/systemd/system").exists():
        # Podman has systemd's timers ask for the health; where there is no systemd nobody asks. So it is asked here.
        answer = lab.client.api.get(f"{lab.client.api.base_url}/v5.0.0/libpod/containers/{lab.name}/healthcheck")
        assert answer.json()["Status"] == "healthy", answer.text
        _healthy(lab)
    else:
        # Far longer than any probe here takes where there is nothing else to do.
        eventually(lambda: _healthy(lab), timeout=60)


@row
def running(lab: Lab) -> Case:
    """A container that runs, runs again."""
    return Case(body=lab.body(), works=lambda: _does(lab, "running"))


@row
def paused(lab: Lab) -> Case:
    """A container that was paused is paused again."""
    return Case(body=lab.body(), state="paused", works=lambda: _does(lab, "paused"))


@row
def stopped(lab: Lab) -> Case:
    """A container that was stopped does not run, whatever its restart policy says of running ones."""
    return Case(
        body=lab.body(host={"RestartPolicy": {"Name": "unless-stopped"}}),
        state="exited",
        works=lambda: _does(lab, "created", "exited"),
    )


@row
def never_started(lab: Lab) -> Case:
    """A container that was created and never started is not started."""
    return Case(body=lab.body(Hostname="fresh"), state="created", works=lambda: _does(lab, "created"))


def _does(lab: Lab, *states: str) -> None:
    assert lab.shown("State.Status") in states


@row
def restart_on_failure(lab: Lab) -> Case:
    """A policy that counts its tries keeps the count."""
    wanted = {"Name": "on-failure", "MaximumRetryCount": 3}
    return Case(body=lab.body(host={"RestartPolicy": wanted}), shows={"HostConfig.RestartPolicy": wanted})


@row
def restart_unless_stopped(lab: Lab) -> Case:
    """A policy that remembers a stop; no other policy may have a count."""
    wanted = {"Name": "unless-stopped", "MaximumRetryCount": 0}
    return Case(body=lab.body(host={"RestartPolicy": wanted}), shows={"HostConfig.RestartPolicy": wanted})


@row
def restart_always(lab: Lab) -> Case:
    """A policy that starts a container again whatever happens."""
    wanted = {"Name": "always", "MaximumRetryCount": 0}
    return Case(body=lab.body(host={"RestartPolicy": wanted}), shows={"HostConfig.RestartPolicy": wanted})


@row
def removes_itself(lab: Lab) -> Case:
    """A container that is removed when it ends, with an anonymous volume that goes with it."""

    def works() -> None:
        assert lab.shown("HostConfig.AutoRemove") is True

    return Case(
        body=lab.body(Volumes={"/cache": {}}, host={"AutoRemove": True}),
        data={"/cache/x": "x"},
        works=works,
    )


@row
def health_off(lab: Lab) -> Case:
    """A health check of the image that the container switched off stays off."""
    lab.image_with(Healthcheck={"Test": ["CMD", "false"], "Interval": _SECOND // 3})

    def works() -> None:
        assert lab.shown("Config.Healthcheck.Test") == ["NONE"]
        assert lab.shown("State.Health.Status") in (None, "none", "starting")

    return Case(body=lab.body(Healthcheck={"Test": ["NONE"]}), works=works)


@row
def health_in_part(lab: Lab) -> Case:
    """A health check whose command is the image's and whose times are the container's."""
    lab.image_with(Healthcheck={"Test": ["CMD", "true"], "Interval": 3600 * _SECOND, "Retries": 5})

    def works() -> None:
        assert lab.shown("Config.Healthcheck.Interval") == _SECOND // 2
        assert lab.shown("Config.Healthcheck.Test") == ["CMD", "true"]
        _turns_healthy(lab)

    return Case(
        body=lab.body(Healthcheck={"Interval": _SECOND // 2}),
        works=works,
        refused="healthcheck",
        shows={"Config.Healthcheck.Test": ["CMD", "true"]},
        limit="it takes a health check without a command for none",
    )


@row
def health_by_shell(lab: Lab) -> Case:
    """A health check of the container's own, by a shell, some times given and some not."""

    def works() -> None:
        assert lab.shown("Config.Healthcheck.Interval") == _SECOND // 2
        _turns_healthy(lab)

    return Case(
        body=lab.body(Healthcheck={"Test": ["CMD-SHELL", "test -e /etc/passwd"], "Interval": _SECOND // 2}), works=works
    )


@row
def health_in_full(lab: Lab) -> Case:
    """A health check with every time given, the one for the start too."""
    lab.needs_api(1, 44, what="StartInterval")
    whole = {
        "Test": ["CMD", "true"],
        "Interval": 3600 * _SECOND,
        "Timeout": 2 * _SECOND,
        "StartPeriod": 60 * _SECOND,
        "StartInterval": _SECOND // 2,
        "Retries": 7,
    }
    return Case(
        body=lab.body(Healthcheck=whole),
        shows={"Config.Healthcheck": whole},
        limit="it does not show the interval of the start",
        works=lambda: _turns_healthy(lab),
    )


@row
def stop_signal(lab: Lab) -> Case:
    """The signal and the patience of a stop are the container's own."""

    def works() -> None:
        lab.run("rm -f /seen/signal; true")
        lab.engine.stop_container(lab.name)
        lab.engine.start_container(lab.name)
        assert lab.run("cat /seen/signal") == "interrupted"

    seen = lab.volume("seen")
    script = "trap 'echo interrupted > /seen/signal; exit 0' INT; sleep 1000 & wait"
    return Case(
        body=lab.body(Cmd=["sh", "-c", script], StopSignal="SIGINT", StopTimeout=7, host={"Binds": [f"{seen}:/seen"]}),
        shows={"Config.StopTimeout": 7},
        works=works,
    )


@row
def log_options(lab: Lab) -> Case:
    """A log with a limit to its size."""
    wanted = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2", "labels": "role"}}
    return Case(
        body=lab.body(host={"LogConfig": wanted}),
        shows={"HostConfig.LogConfig": wanted},
        limit="it does not show the options of a log",
    )


@row
def log_local(lab: Lab) -> Case:
    """A log in the engine's own form."""
    wanted = {"Type": "local", "Config": {"compress": "false"}}
    return Case(
        body=lab.body(host={"LogConfig": wanted}),
        shows={"HostConfig.LogConfig": wanted},
        refused="invalid log type|log driver|conmon failed|not a valid log",
    )


@row
def log_none(lab: Lab) -> Case:
    """No log at all."""
    return Case(body=lab.body(host={"LogConfig": {"Type": "none"}}), shows={"HostConfig.LogConfig.Type": "none"})


@row
def own_init(lab: Lab) -> Case:
    """The engine's own init as the first process; null would mean the engine's habit."""

    def works() -> None:
        assert "init" in lab.run("cat /proc/1/comm")

    return Case(
        body=lab.body(host={"Init": True}),
        shows={"HostConfig.Init": True},
        refused="lookup init binary",
        works=works,
    )


@row
def no_init(lab: Lab) -> Case:
    """No init, expressly."""
    return Case(
        body=lab.body(host={"Init": False}),
        shows={"HostConfig.Init": False},
        limit="it does not show an init that was refused",
    )


@row
def processes_of_another(lab: Lab) -> Case:
    """The processes and the memory of another container, seen from this one."""
    target = lab.other("target", host={"IpcMode": "shareable"})
    shared = f"container:{target}"

    def works() -> None:
        for kind in ("pid", "ipc"):
            found = lab.run(f"readlink /proc/self/ns/{kind}")
            assert found == lab.run(f"readlink /proc/self/ns/{kind}", name=target)

    return Case(body=lab.body(host={"PidMode": shared, "IpcMode": shared}, StopTimeout=0), works=works)


@row
def memory_that_others_may_share(lab: Lab) -> Case:
    """Memory that another container may share, with that container beside."""

    def works() -> None:
        borrower = lab.other("borrower", host={"IpcMode": f"container:{lab.name}"})
        assert lab.run("readlink /proc/self/ns/ipc", name=borrower) == lab.run("readlink /proc/self/ns/ipc")
        lab.dismiss(borrower)

    return Case(body=lab.body(host={"IpcMode": "shareable"}), shows={"HostConfig.IpcMode": "shareable"}, works=works)


@row
def hosts_processes(lab: Lab) -> Case:
    """The host's processes and the host's memory."""
    modes = {"PidMode": "host", "IpcMode": "host"}
    eyes = lab.other("eyes", host=modes)

    def works() -> None:
        assert lab.run("readlink /proc/self/ns/pid") == lab.run("readlink /proc/self/ns/pid", name=eyes)
        assert lab.run("readlink /proc/self/ns/ipc") == lab.run("readlink /proc/self/ns/ipc", name=eyes)

    return Case(
        body=lab.body(host=modes), shows={f"HostConfig.{key}": value for key, value in modes.items()}, works=works
    )


@row
def no_shared_memory(lab: Lab) -> Case:
    """No memory to share at all."""
    return Case(body=lab.body(host={"IpcMode": "none"}), shows={"HostConfig.IpcMode": "none"})


@row
def graphics(lab: Lab) -> Case:
    """Devices that a driver hands out, all of one kind and some by their ids; no such driver is needed to keep them."""
    wanted = [
        {"Driver": "nvidia", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}},
        {
            "Driver": "",
            "Count": 0,
            "DeviceIDs": ["0", "GPU-3a"],
            "Capabilities": [["gpu", "utility"]],
            "Options": {"a": "b"},
        },
    ]
    return Case(
        body=lab.body(host={"DeviceRequests": wanted}),
        state="created",
        shows={"HostConfig.DeviceRequests": wanted},
        limit="it takes requests for devices and does not show them",
    )


@row
def command_that_fails(lab: Lab) -> Case:
    """A container whose command ended with an error, as it was found."""

    def works() -> None:
        with pytest.raises((AssertionError, EngineError, Exception)):
            lab.run("true")

    return Case(body=lab.body(Cmd=["sh", "-c", "exit 3"]), state="exited", works=works)
