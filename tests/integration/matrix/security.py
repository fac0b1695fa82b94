"""What a container may do, and what is hidden from it."""

from __future__ import annotations

import json

from tests.integration.matrix.lab import Case, Lab, table

ROWS, row = table()

_MASKED = "it takes no paths to mask and shows none"


def _capabilities(lab: Lab) -> int:
    return int(lab.run("sed -n 's/^CapBnd:\\t//p' /proc/1/status"), 16)


def _has(lab: Lab, number: int) -> bool:
    return bool(_capabilities(lab) >> number & 1)


@row
def capabilities(lab: Lab) -> Case:
    """Capabilities added and dropped, with and without the prefix that engines put before them."""
    before = {"CapAdd": ["SYS_TIME", "CAP_NET_ADMIN"], "CapDrop": ["MKNOD", "CHOWN"]}

    def works() -> None:
        assert _has(lab, 25), "SYS_TIME"
        assert _has(lab, 12), "NET_ADMIN"
        assert not _has(lab, 0), "CHOWN"

    return Case(body=lab.body(host=before), works=works)


@row
def all_but_some(lab: Lab) -> Case:
    """Every capability dropped but some."""

    def works() -> None:
        assert _capabilities(lab) == (1 << 0) | (1 << 10)

    return Case(body=lab.body(host={"CapDrop": ["ALL"], "CapAdd": ["CHOWN", "NET_BIND_SERVICE"]}), works=works)


@row
def privileged(lab: Lab) -> Case:
    """A privileged container: no list of paths to mask, no list of devices."""

    def works() -> None:
        assert _has(lab, 21), "SYS_ADMIN"
        assert lab.run("test -e /dev/kmsg && echo there") == "there"

    return Case(
        body=lab.body(host={"Privileged": True}),
        shows={"HostConfig.Privileged": True},
        refused="unable to apply caps",
        works=works,
    )


@row
def own_system_calls(lab: Lab) -> Case:
    """A filter for system calls, which an inspection shows as its content, not as a file's name."""
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}]}
    wanted = [f"seccomp={json.dumps(profile)}"]

    def works() -> None:
        assert lab.run("grep Seccomp: /proc/1/status").split()[1] == "2"

    return Case(
        body=lab.body(host={"SecurityOpt": wanted}),
        shows={"HostConfig.SecurityOpt": wanted},
        refused="opening seccomp profile failed",
        works=works,
    )


@row
def every_system_call(lab: Lab) -> Case:
    """No filter for system calls, no profile of AppArmor, no label of SELinux."""
    wanted = ["seccomp=unconfined", "apparmor=unconfined", "label=disable"]

    def works() -> None:
        assert lab.run("grep Seccomp: /proc/1/status").split()[1] == "0"

    return Case(body=lab.body(host={"SecurityOpt": wanted}), works=works)


@row
def no_new_privileges(lab: Lab) -> Case:
    """A process that gains no rights by what it runs."""

    def works() -> None:
        assert lab.run("grep NoNewPrivs /proc/1/status").split()[1] == "1"

    return Case(body=lab.body(host={"SecurityOpt": ["no-new-privileges"]}), works=works)


@row
def nothing_masked(lab: Lab) -> Case:
    """Empty lists of paths mean that nothing is masked; null would mask again."""
    wanted: dict[str, list[str]] = {"MaskedPaths": [], "ReadonlyPaths": []}

    def works() -> None:
        assert "/proc/sys" not in lab.run("cut -d ' ' -f 2 /proc/self/mounts").split()

    return Case(
        body=lab.body(host=wanted),
        shows={f"HostConfig.{key}": value for key, value in wanted.items()},
        limit=_MASKED,
        works=works,
    )


@row
def nothing_masked_by_its_word(lab: Lab) -> Case:
    """The same by the word that the command line has for it, where the engine itself takes it."""

    def works() -> None:
        assert "/proc/sys" not in lab.run("cut -d ' ' -f 2 /proc/self/mounts").split()

    return Case(
        body=lab.body(host={"SecurityOpt": ["systempaths=unconfined"]}),
        refused="invalid --security-opt|systempaths",
        works=works,
    )


@row
def some_masked(lab: Lab) -> Case:
    """Paths of the user, others than the engine's own."""
    wanted = {"MaskedPaths": ["/proc/version"], "ReadonlyPaths": ["/proc/sys"]}

    def works() -> None:
        assert lab.run("cat /proc/version") == ""

    return Case(
        body=lab.body(host=wanted),
        shows={f"HostConfig.{key}": value for key, value in wanted.items()},
        limit=_MASKED,
        works=works,
    )


@row
def hosts_users(lab: Lab) -> Case:
    """The host's user namespace, expressly."""
    return Case(
        body=lab.body(host={"UsernsMode": "host"}),
        shows={"HostConfig.UsernsMode": "host"},
        limit="it does not show that the host's users were asked for",
    )


@row
def own_runtime(lab: Lab) -> Case:
    """A runtime that is named, and is the engine's own."""
    return Case(
        body=lab.body(host={"Runtime": lab.info.default_runtime}),
        shows={"HostConfig.Runtime": lab.info.default_runtime},
        limit="it does not show which runtime was asked for",
    )


@row
def notes(lab: Lab) -> Case:
    """Annotations for the runtime."""
    lab.needs_api(1, 43, what="Annotations")
    return Case(
        body=lab.body(host={"Annotations": {"org.example.one": "1", "two": ""}}),
        shows={"HostConfig.Annotations": {"org.example.one": "1", "two": ""}},
    )
