"""What only Podman's own API can ask for and show: refused by name, listed, or the same after a rollback."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
import pytest
from attrs import frozen

from docker_rollback import BackupStore, DockerEngine, RollbackRequested, Status, UnsupportedContainerError, rollback
from tests.engines.results import cannot
from tests.programs import run_in

pytestmark = pytest.mark.engine

SERVICE = ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]
MAPPED = [{"container_id": 0, "host_id": 100000, "size": 65536}]

OWN: tuple[str, ...] = (
    "Id",
    "Created",
    "State",
    "ResolvConfPath",
    "HostnamePath",
    "HostsPath",
    "StaticDir",
    "OCIConfigPath",
)
OWN += ("ConmonPidFile", "PidFile", "GraphDriver", "ExecIDs", "NetworkSettings", "lockNumber")
"""What Podman assigns to each container."""


WRITE_NAMES = r"""set -e
mkdir /names
cd /names
mkdir "$(printf 'd\351r')"
echo hi > "$(printf 'd\351r/caf\351')"
ln -s "$(printf '\377')" "$(printf 'l\376')"
ln "$(printf 'd\351r/caf\351')" "$(printf 'h\370')"
touch "$(printf 'new\nline')" '"q' 'b\s'
rm /bin/yes"""

READ_NAMES = r"""cd /names
for f in * d*/* /bin/ye*; do printf '%s ' "$f"; readlink "$f"; stat -c %h "$f"; done 2>&1 | od -c
cat h*"""


@frozen
class SetUp:
    """How a container is created.

    Attributes:
        spec: what is asked of Podman's own API.
        command: the options on Podman's command line that mean the same.
        words: what the refusal has to name; empty where nothing is refused.
    """

    spec: Mapping[str, Any]
    command: Sequence[str] = ()
    words: str = ""


REFUSED = {
    "secret": SetUp({"secrets": [{"Source": "{secret}"}]}, words="secrets (--secret)"),
    "secret as a variable": SetUp({"secret_env": {"PW": "{secret}"}}, words="as a variable (--secret)"),
    "map of ids": SetUp(
        {"userns": {"nsmode": "private"}, "idmappings": {"UIDMap": MAPPED, "GIDMap": MAPPED}},
        words="a map of user and group ids",
    ),
    "member of a pod": SetUp({"pod": "{pod}"}, words="membership of a pod"),
    "required container": SetUp({"dependencyContainers": ["{other}"]}, words="--requires"),
    "umask": SetUp({"umask": "0077"}, words="a umask"),
    "systemd": SetUp({"systemd": "always"}, words="its systemd mode"),
    "time limit": SetUp({"timeout": 900}, words="a time limit"),
    "no hosts": SetUp({"use_image_hosts": True}, words="--no-hosts"),
    "no host name": SetUp({"use_image_hostname": True}, words="--no-hostname"),
    "base of the hosts": SetUp({"base_hosts_file": "image"}, words="--hosts-file"),
    "unchanged users": SetUp({"manage_password": False}, words="--passwd=false"),
    "further roots": SetUp({"chroot_directories": ["/tmp"]}, words="--chrootdirs"),
    "notification": SetUp({"sdnotifyMode": "conmon"}, words="--sdnotify"),
    "failed check": SetUp(
        {"healthconfig": {"Test": ["CMD", "true"], "Interval": 30000000000}, "health_check_on_failure_action": 2},
        words="--health-on-failure",
    ),
    "image mount": SetUp(
        {"image_volumes": [{"Source": "{image}", "Destination": "/m"}]}, words="a mount of type image at /m"
    ),
    "overlay": SetUp({"overlay_volumes": [{"source": "/usr", "destination": "/m"}]}, words="an overlay mount at /m"),
    "ramfs": SetUp(
        {"mounts": [{"type": "ramfs", "source": "ramfs", "destination": "/m"}]}, words="a mount of type ramfs at /m"
    ),
    "devpts": SetUp(
        {"mounts": [{"type": "devpts", "source": "devpts", "destination": "/m"}]}, words="a mount of type devpts at /m"
    ),
    "sysctl": SetUp(
        {"sysctl": {"net.ipv4.ip_unprivileged_port_start": "80"}},
        ["--sysctl", "net.ipv4.ip_unprivileged_port_start=80"],
        "the option --sysctl",
    ),
    "rights to a device": SetUp(
        {"devices": [{"path": "/dev/null:/dev/case:r"}]},
        ["--device=/dev/null:/dev/case:r"],
        "--device with the rights 'r' alone",
    ),
    "personality": SetUp({"personality": {"domain": "LINUX32"}}, ["--personality=LINUX32"], "the option --personality"),
    "hidden path": SetUp(
        {"mask": ["/proc/cpuinfo"]}, ["--security-opt", "mask=/proc/cpuinfo"], "--security-opt mask=/proc/cpuinfo"
    ),
    "option of a later Podman": SetUp({}, ["--brand-new=1"], "--brand-new (an option that is not known here)"),
}

EXACT = {
    "plain": SetUp({}),
    "limit of processes": SetUp({"resource_limits": {"pids": {"limit": 77}}}),
    "log": SetUp({"log_configuration": {"driver": "k8s-file", "size": 10_000_000}}),
    "log in a place": SetUp({"log_configuration": {"driver": "json-file", "path": "{log}"}}),
    "no log": SetUp({"log_configuration": {"driver": "none"}}),
    "tmpfs": SetUp({"mounts": [{"type": "tmpfs", "destination": "/m", "options": ["nodev", "size=1m", "nosuid"]}]}),
    "tmpfs without a copy": SetUp({"mounts": [{"type": "tmpfs", "destination": "/m", "options": ["notmpcopyup"]}]}),
    "no health check": SetUp({"healthconfig": {"Test": ["NONE"]}}),
    "alias on the default network": SetUp(
        {"Networks": {"podman": {"aliases": ["till"]}}, "netns": {"nsmode": "bridge"}}
    ),
    "options of a bind": SetUp(
        {"mounts": [{"type": "bind", "source": "/usr", "destination": "/m", "options": ["nodev", "ro", "private"]}]}
    ),
}


class Native:
    """Podman by its own API.

    Attributes:
        client: the docker SDK's client of the same engine.
        image: an image with a shell.
        name: of the container under test.
    """

    def __init__(self, client: docker.DockerClient, image: str, labels: Mapping[str, str], folder: Path) -> None:
        self.client = client
        self.image = image
        self.name = f"native-{secrets.token_hex(4)}"
        self._labels = dict(labels)
        self._words = {
            "{secret}": f"{self.name}-secret",
            "{pod}": f"{self.name}-pod",
            "{other}": f"{self.name}-other",
            "{image}": image,
            "{log}": str(folder / "log"),
        }

    def make(self, set_up: SetUp) -> None:
        """Create and start the container, and what it needs."""
        if "{secret}" in str(set_up.spec):
            self.ask("POST", f"/secrets/create?name={self._words['{secret}']}", data=b"hunter2")
        if "{pod}" in str(set_up.spec):
            self.ask("POST", "/pods/create", json={"name": self._words["{pod}"], "no_infra": True})
        if "{other}" in str(set_up.spec):
            self.create(self._words["{other}"], {})
        command = ["podman", "run", "-d", *set_up.command, self.image, *SERVICE]
        self.create(self.name, {**self._filled(set_up.spec), "containerCreateCommand": command})

    def create(self, name: str, spec: Mapping[str, Any]) -> None:
        """Create and start a container."""
        body = {"name": name, "image": self.image, "command": SERVICE, "labels": self._labels, **spec}
        self.ask("POST", "/containers/create", json=body)
        self.ask("POST", f"/containers/{name}/start")

    def facts(self) -> dict[str, Any]:
        """Return the fields of the container's inspection that Podman does not assign, by their paths."""
        found = self.ask("GET", f"/containers/{self.name}/json").json()
        blocks = {
            f"{block}.{name}": value for block in ("Config", "HostConfig") for name, value in found[block].items()
        }
        facts = {name: value for name, value in found.items() if name not in (*OWN, "Config", "HostConfig")} | blocks
        facts["Config.Env"] = sorted(facts["Config.Env"])
        # They are shown twice.
        del facts["HostConfig.Annotations"]
        facts |= {f"annotation {name}": value for name, value in facts.pop("Config.Annotations").items()}
        facts["Aliases"] = {
            name: [alias for alias in endpoint.get("Aliases") or () if not found["Id"].startswith(alias)]
            for name, endpoint in found["NetworkSettings"]["Networks"].items()
        }
        return {
            path: str(value).replace(found["Id"], "ID").replace(found["Id"][:12], "ID")
            for path, value in facts.items()
            if value
        }

    def started(self) -> str:
        """Return when the container was started."""
        return str(self.client.api.inspect_container(self.name)["State"]["StartedAt"])

    def clear(self) -> None:
        """Remove what `conftest` does not find."""
        for path in (
            f"/containers/{self.name}?force=true&timeout=0&depend=true",
            f"/containers/{self._words['{other}']}?force=true&timeout=0&depend=true",
            f"/pods/{self._words['{pod}']}?force=true",
            f"/secrets/{self._words['{secret}']}",
        ):
            self.ask("DELETE", path, checked=False)

    def ask(self, method: str, path: str, *, checked: bool = True, **body: Any) -> Any:
        """Ask Podman's own API."""
        api: Any = self.client.api
        answer = api.request(method, f"{api.base_url}/v5.0.0/libpod{path}", timeout=60, **body)
        assert not checked or answer.ok, answer.text
        return answer

    def _filled(self, spec: Any) -> Any:
        if isinstance(spec, Mapping):
            return {key: self._filled(value) for key, value in spec.items()}
        if isinstance(spec, list):
            return [self._filled(value) for value in spec]
        return self._words.get(spec, spec) if isinstance(spec, str) else spec


@pytest.fixture
def native(
    docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str], tmp_path: Path
) -> Iterator[Native]:
    """Give Podman by its own API."""
    if DockerEngine(docker_client).info().flavour != "podman":
        cannot(docker_client, "it has no API but Docker's")
    native = Native(docker_client, busybox_image, test_labels, tmp_path)
    yield native
    native.clear()


@pytest.mark.parametrize("set_up", REFUSED.values(), ids=REFUSED)
def test_what_cannot_come_back_is_refused_by_name(native: Native, set_up: SetUp, tmp_path: Path) -> None:
    """`check` and the way in name the setting; the container runs on and nothing is stored."""
    native.make(set_up)
    begun, store = native.started(), BackupStore(tmp_path / "store")
    tx = rollback(native.name, client=native.client, store=store, verify=None)
    assert set_up.words in "; ".join(tx.check().refused[native.name])
    with pytest.raises(UnsupportedContainerError) as caught:
        tx.__enter__()
    assert set_up.words in str(caught.value)
    assert native.name in str(caught.value)
    assert native.started() == begun
    assert store.list() == []


@pytest.mark.parametrize("set_up", EXACT.values(), ids=EXACT)
def test_what_differs_by_the_own_inspection_is_listed(native: Native, set_up: SetUp, tmp_path: Path) -> None:
    """A container that was removed is the same by Podman's own inspection, but for what its backup lists."""
    native.make(set_up)
    before, store = native.facts(), BackupStore(tmp_path / "store")
    with rollback(native.name, client=native.client, store=store, verify=None) as tx:
        native.client.api.remove_container(native.name, force=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    after = native.facts()
    differs = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    listed = {gap.what.removesuffix(f" of {native.name}") for gap in tx.backup.not_covered}
    assert "Config.CreateCommand" in listed
    assert differs - listed == set()


def test_the_order_of_starts_is_kept_by_refusing_its_base(native: Native, tmp_path: Path) -> None:
    """A container that another one was created to run after is refused, and the other one is named."""
    native.make(SetUp({}))
    after = f"{native.name}-after"
    native.create(after, {"dependencyContainers": [native.name]})
    tx = rollback(native.name, client=native.client, store=BackupStore(tmp_path / "store"), verify=None)
    (reason,) = tx.check().refused[native.name]
    assert reason.startswith(f"container {after!r} was created to run after it")


def test_names_that_are_no_utf_8_come_back(native: Native, tmp_path: Path) -> None:
    """Files, folders, links and a hard link of any bytes are in the layer again, byte for byte."""
    native.make(SetUp({}))
    made, text = run_in(native.client, native.name, ["sh", "-c", WRITE_NAMES])
    assert made == 0, text
    before = run_in(native.client, native.name, ["sh", "-c", READ_NAMES])
    assert r"c   a   f 351" in before[1]
    with rollback(native.name, client=native.client, store=BackupStore(tmp_path / "store"), verify=None) as tx:
        native.client.api.remove_container(native.name, force=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert run_in(native.client, native.name, ["sh", "-c", READ_NAMES]) == before
