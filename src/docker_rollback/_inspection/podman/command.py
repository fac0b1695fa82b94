"""Parses the command line that created a Podman container, from `Config.CreateCommand` of its inspection. Pure.

No inspection shows some settings (sysctls, secrets as variables, permissions of devices); only the command has them. An
option that is in no table here is reported, so that no option of a newer Podman is lost silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from attrs import frozen

from docker_rollback._inspection.podman.mounts import faded, mount_words, names, volume_words


@frozen
class Option:
    """One option of a command."""

    name: str  # its long name, without dashes; its letter if that is unknown
    value: str = ""  # its value; empty if it takes none
    known: bool = True  # True if a table has it, so that the words after it can be parsed


_LETTERS: Final[Mapping[str, str]] = {
    "a": "attach",
    "c": "cpu-shares",
    "d": "detach",
    "e": "env",
    "h": "hostname",
    "i": "interactive",
    "l": "label",
    "m": "memory",
    "p": "publish",
    "P": "publish-all",
    "q": "quiet",
    "t": "tty",
    "u": "user",
    "v": "volume",
    "w": "workdir",
}

_ALIASES: Final[Mapping[str, str]] = {
    "dns-opt": "dns-option",
    "dns-opts": "dns-option",
    "healthcheck-command": "health-cmd",
    "healthcheck-interval": "health-interval",
    "healthcheck-retries": "health-retries",
    "healthcheck-start-period": "health-start-period",
    "healthcheck-timeout": "health-timeout",
    "net": "network",
    "override-arch": "arch",
    "override-os": "os",
    "override-variant": "variant",
}

# Options that take no value, or only one after an equals sign.
_FLAGS: Final = names(
    """
    detach disable-content-trust env-host help http-proxy init interactive no-healthcheck no-hostname no-hosts
    oom-kill-disable passwd privileged publish-all quiet read-only read-only-tmpfs replace rm rmi rootfs sig-proxy
    tls-verify tty unsetenv-all volatile
    """
)

# Options whose effect an inspection shows, so that the rules for its fields apply, or that affect only the command.
_SHOWN: Final = names(
    """
    add-host annotation arch attach authfile blkio-weight blkio-weight-device cap-add cap-drop cert-dir cgroup-conf
    cgroup-parent cgroupns chrootdirs cidfile conmon-pidfile cpu-period cpu-quota cpu-rt-period cpu-rt-runtime
    cpu-shares cpus cpuset-cpus cpuset-mems creds decryption-key detach-keys device-read-bps device-read-iops
    device-write-bps device-write-iops dns-option dns-search entrypoint env env-file env-merge expose gidmap
    group-add health-cmd health-interval health-log-destination
    health-on-failure health-retries health-start-period health-startup-cmd health-startup-interval
    health-startup-retries health-startup-success health-startup-timeout health-timeout hostname hosts-file ip ip6
    ipc label label-file log-driver mac-address memory memory-reservation memory-swappiness name
    network-alias oom-score-adj os pid pidfile pids-limit platform pod pod-id-file publish pull rdt-class restart
    retry retry-delay sdnotify shm-size stop-signal stop-timeout systemd timeout tmpfs tz uidmap ulimit user
    userns uts variant volumes-from workdir
    """
) | (_FLAGS - {"unsetenv-all", "volatile", "read-only-tmpfs"})

# Options whose effect no inspection shows, or that Docker's API cannot request.
_HIDDEN: Final = names(
    """
    device-cgroup-rule gpus group-entry hostuser init-ctr init-path passwd-entry personality preserve-fd preserve-fds
    requires secret shm-size-systemd storage-opt subgidname subuidname sysctl unsetenv unsetenv-all volatile
    """
)

_GLOBAL_FLAGS: Final = frozenset(["noout", "remote", "syslog", "trace", "transient-store"])
# Options before the command that select or configure the engine; the inspection shows `runtime`.
_GLOBAL: Final = names(
    """
    cgroup-manager conmon connection config context cpu-profile db-backend events-backend host identity imagestore
    log-level max-workers memory-profile network-backend network-config-dir out pull-option registries-conf root
    runroot runtime ssh storage-driver storage-opt tls-ca tls-cert tls-key tmpdir url volumepath
    """
)

_GLOBAL_LETTERS: Final[Mapping[str, str]] = {"c": "connection", "H": "host", "r": "remote"}
_GLOBAL_HIDDEN: Final = frozenset(
    ["cdi-spec-dir", "default-mounts-file", "hooks-dir", "module", "namespace", "network-cmd-path", "runtime-flag"]
)


def hidden_settings(command: Sequence[str]) -> tuple[str, ...]:
    """Return the options that would be lost if the container were recreated through Docker's API, without duplicates.

    The command from the inspection is empty if the container was created in another way.
    """
    words = [words for option in _options(command) if (words := _hidden(option)) is not None]
    return tuple(dict.fromkeys(words))


def faded_options(command: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the options of binds that an inspection of a running container omits, each with its destination."""
    return tuple(found for option in _options(command) for found in faded(option.name, option.value))


def _options(command: Sequence[str]) -> Iterator[Option]:
    """Yield the options in order; parsing ends after an unknown one."""
    rest = list(command[1:])
    for known, flags, letters in (
        (_GLOBAL | _GLOBAL_HIDDEN, _GLOBAL_FLAGS, _GLOBAL_LETTERS),
        (_SHOWN | _HIDDEN | _VALUES.keys(), _FLAGS, _LETTERS),
    ):
        for option in _leading(rest, known, flags, letters):
            whole = option if letters is _LETTERS else Option(f"podman {option.name}", option.value, option.known)
            yield whole
            if not option.known:
                return
        if letters is _GLOBAL_LETTERS:
            words = rest[:2] if rest[:1] == ["container"] else rest[:1]
            del rest[: len(words)]
            if words[-1:] not in (["run"], ["create"]):
                return


def _leading(
    rest: list[str], known: frozenset[str], flags: frozenset[str], letters: Mapping[str, str]
) -> Iterator[Option]:
    """Remove and yield the options at the start of `rest`."""
    while rest and rest[0].startswith("-") and rest[0] not in ("-", "--"):
        word = rest.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = _ALIASES.get(name, name)
            if name in flags:
                yield Option(name, value)
            elif name not in known:
                yield Option(name, known=False)
            else:
                yield Option(name, value if equals else _next(rest))
        else:
            yield from _of_letters(word[1:], rest, flags, letters)


def _of_letters(word: str, rest: list[str], flags: frozenset[str], letters: Mapping[str, str]) -> Iterator[Option]:
    """Yield the options of a word of letters: "it", "p80:80", "p=80:80", "itv" with its value in the next word."""
    while word:
        letter, word = word[0], word[1:]
        name = letters.get(letter)
        if name is None:
            yield Option(letter, known=False)
            return
        if name in flags:
            value, word = (word[1:], "") if word.startswith("=") else ("", word)
            yield Option(name, value)
        else:
            yield Option(name, word.removeprefix("=") or _next(rest))
            return


def _next(rest: list[str]) -> str:
    return rest.pop(0) if rest else ""


def _hidden(option: Option) -> str | None:
    """Return an option in words if it would be lost, without a value that may be secret; else None."""
    if not option.known:
        return f"{_dashed(option.name)} (an option that is not known here)"
    if option.name.startswith("podman "):
        return _dashed(option.name) if option.name.removeprefix("podman ") in _GLOBAL_HIDDEN else None
    judge = _VALUES.get(option.name)
    if judge is not None:
        return judge(option.value)
    return _dashed(option.name) if option.name in _HIDDEN else None


def _dashed(name: str) -> str:
    *before, last = name.split(" ")
    return " ".join([*before, f"--{last}" if len(last) > 1 else f"-{last}"])


def _only(name: str, *values: str) -> Callable[[str], str | None]:
    """Return a function that reports every value but these as lost."""
    return lambda value: None if value in values else f"--{name}={value}"


def _dns(value: str) -> str | None:
    return "--dns=none" if value == "none" else None


def _device(value: str) -> str | None:
    if not value.startswith("/"):
        return f"--device={value}"
    rights = value.split(":")[1:][-1:]
    few = [right for right in rights if right and set(right) <= set("rwm") and set(right) != set("rwm")]
    return f"--device with the rights {few[0]!r} alone" if few else None


def _log_option(value: str) -> str | None:
    key = value.partition("=")[0]
    return None if key in ("path", "tag", "max-size") else f"--log-opt {key}"


def _security(value: str) -> str | None:
    key, _, said = value.replace(":", "=", 1).partition("=")
    if (key, said.lower()) == ("unmask", "all") or key in ("no-new-privileges", "seccomp", "apparmor", "label"):
        return None
    return f"--security-opt {value}"


def _log_of_checks(name: str) -> Callable[[str], str | None]:
    """Return a function that reports "no limit" as lost, the only value that an inspection does not show."""
    return lambda value: f"--{name}=0" if value == "0" else None


def _umask(value: str) -> str | None:
    # An inspection also shows 0000 if none was requested, and then it is the runtime's default.
    return f"--umask={value}" if not value.strip("0") else None


def _swap(value: str) -> str | None:
    return "--memory-swap=-1" if value.startswith("-") else None


_ENDPOINT: Final = frozenset(["ip", "ip6", "mac", "alias"])


def _network(value: str) -> str | None:
    mode, _, options = value.partition(":")
    if mode in ("container", "ns"):
        return None
    keys = [option.partition("=")[0] for option in options.split(",") if option]
    few = [key for key in keys if key not in _ENDPOINT or mode in ("pasta", "slirp4netns")]
    return f"--network {mode} with {', '.join(few)}" if few else None


# Options that lose only some values, with functions that return a lost value in words, or None.
_VALUES: Final[Mapping[str, Callable[[str], str | None]]] = {
    "cgroups": _only("cgroups", "enabled"),
    "device": _device,
    "dns": _dns,
    "health-max-log-count": _log_of_checks("health-max-log-count"),
    "health-max-log-size": _log_of_checks("health-max-log-size"),
    "image-volume": _only("image-volume", "", "anonymous", "bind"),
    "log-opt": _log_option,
    "memory-swap": _swap,
    "mount": mount_words,
    "network": _network,
    "read-only-tmpfs": _only("read-only-tmpfs", "", "true"),
    "seccomp-policy": _only("seccomp-policy", "", "default"),
    "security-opt": _security,
    "umask": _umask,
    "volume": volume_words,
}
