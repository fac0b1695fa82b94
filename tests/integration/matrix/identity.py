"""Who a container says it is: host name, domain, user, labels, environment."""

from __future__ import annotations

from typing import Any

from docker_rollback._names import SHORT_ID
from tests.integration.matrix.lab import Case, Lab, is_subset, table

ROWS, row = table()


@row
def generated_hostname(lab: Lab) -> Case:
    """A host name that the engine made from the id follows the new id."""

    def works() -> None:
        found = lab.inspect()
        assert lab.hostname() == found["Id"][:SHORT_ID] == found["Config"]["Hostname"]

    return Case(body=lab.body(), works=works)


@row
def custom_hostname(lab: Lab) -> Case:
    """A host name and a domain of the user stay."""

    def works() -> None:
        assert lab.hostname() == "counter"

    return Case(body=lab.body(Hostname="counter"), shows={"Config.Hostname": "counter"}, works=works)


@row
def domain_name(lab: Lab) -> Case:
    """A domain name stays, beside a generated host name too."""

    def works() -> None:
        assert lab.run("cat /proc/sys/kernel/domainname") == "shop.example"

    return Case(
        body=lab.body(Domainname="shop.example"),
        shows={"Config.Domainname": "shop.example"},
        limit="it takes a domain name and does nothing with it",
        works=works,
    )


@row
def hostname_like_a_short_id(lab: Lab) -> Case:
    """A host name of the user that looks like a short id, and is none of this container's, stays."""

    def works() -> None:
        assert lab.hostname() == "0123456789ab"

    return Case(body=lab.body(Hostname="0123456789ab"), shows={"Config.Hostname": "0123456789ab"}, works=works)


@row
def hosts_own_names(lab: Lab) -> Case:
    """In the host's UTS namespace a container has the host's name, and takes none."""
    eyes = lab.other("eyes", host={"UTSMode": "host"})

    def works() -> None:
        assert lab.run("readlink /proc/1/ns/uts") == lab.run("readlink /proc/1/ns/uts", name=eyes)

    return Case(body=lab.body(host={"UTSMode": "host"}), shows={"HostConfig.UTSMode": "host"}, works=works)


@row
def user_and_folder(lab: Lab) -> Case:
    """User, group, further groups, working folder, signal and patience of a stop."""

    def works() -> None:
        said = dict(line.split(":", 1) for line in lab.run("cat /proc/1/status").splitlines())
        assert (said["Uid"].split()[0], said["Gid"].split()[0]) == ("65534", "1234")
        is_subset(["7", "65534"], said["Groups"].split())
        assert lab.run("readlink /proc/1/cwd") == "/tmp"

    return Case(
        body=lab.body(
            User="65534:1234",
            WorkingDir="/tmp",
            StopSignal="SIGTERM",
            StopTimeout=3,
            Cmd=["sh", "-c", "trap exit TERM; sleep 1000 & wait"],
            host={"GroupAdd": ["nogroup", "7"]},
        ),
        shows={"Config.User": "65534:1234", "Config.WorkingDir": "/tmp", "Config.StopTimeout": 3},
        written="it enters a user or a group that the image does not know into /etc/passwd and /etc/group",
        works=works,
    )


@row
def odd_labels(lab: Lab) -> Case:
    """Labels with odd characters, empty ones, and those by which compose knows its containers."""
    odd = {
        "a b": 'x=y "z"\n\ttab',
        "empty": "",
        "ümlaut": "€ 🐘",
        "com.docker.compose.project": "shop",
        "com.docker.compose.config-hash": "0f" * 32,
        "{{.ID}}": "$HOME \\ % {{json .}}",
    }
    return Case(body=lab.body(Labels=odd), shows={"Config.Labels": {**lab.labels, **odd}})


@row
def odd_environment(lab: Lab) -> Case:
    """Variables in an order of their own, with equals signs and line breaks in their values, empty, and a double."""
    odd = ["Z=1", "A=b=c=d", "EMPTY=", "LINES=one\ntwo", "DOUBLE=1", "DOUBLE=2", "ü=€"]

    def works() -> None:
        said = lab.run("cat /proc/1/environ | tr '\\0' '|'")
        for variable in ("Z=1", "A=b=c=d", "EMPTY=", "LINES=one\ntwo", "ü=€"):
            assert f"{variable}|" in said

    return Case(body=lab.body(Env=odd), works=works)


@row
def environment_without_a_value(lab: Lab) -> Case:
    """A variable without an equals sign takes one of the image away."""
    lab.image_with(Env=["TAKEN=away", "KEPT=yes"])

    def works() -> None:
        said = lab.run("cat /proc/1/environ | tr '\\0' '|'")
        assert "TAKEN" not in said
        assert "KEPT=yes|" in said

    return Case(
        body=lab.body(Env=["TAKEN", "OWN=1"]),
        limit="it leaves the image's variable where one without a value takes it away",
        works=works,
    )


@row
def terminal(lab: Lab) -> Case:
    """A terminal, an open input that closes after its first use, and what was attached."""
    flags: dict[str, Any] = {"Tty": True, "OpenStdin": True, "StdinOnce": True, "AttachStdin": True}

    def works() -> None:
        assert lab.run("readlink /proc/1/fd/0").startswith("/dev/")

    return Case(
        body=lab.body(Cmd=["sh"], StopSignal="SIGHUP", StopTimeout=1, **flags),
        shows={"Config.Tty": True, "Config.OpenStdin": True},
        works=works,
    )
