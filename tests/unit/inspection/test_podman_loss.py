"""What is lost of a container on Podman by Docker's API, held on an inspection recorded from Podman 5.8.6."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from docker_rollback import BackupStore, RollbackRequested, Status, UnsupportedContainerError, compare
from docker_rollback._inspection.podman.command import hidden_settings
from docker_rollback._inspection.podman.fields import EMPTY, RULES, SHOWN
from docker_rollback._inspection.podman.loss import Loss, loss_of, requires
from tests.unit.shop import Shop

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("podman_native.json").read_text())
"""Of `podman run -d --name web busybox:1 sleep 1000`."""

ID: str = RECORDED["Id"]


def native(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the recorded inspection, changed at some paths."""
    found = copy.deepcopy(RECORDED)
    for path, value in (changes or {}).items():
        block, _, name = path.rpartition(".")
        (found[block] if block else found)[name] = value
    return found


def loss(changes: dict[str, Any] | None = None) -> Loss:
    """Return what is lost of the recorded container, changed at some paths."""
    return loss_of(native(changes), runtime="runc")


def refused(changes: dict[str, Any]) -> str:
    """Return what is refused of it, in words."""
    return "; ".join(loss(changes).refused)


def mount(**changes: Any) -> dict[str, Any]:
    """Return an inspection with one mount, by default of a volume."""
    plain = {"Type": "volume", "Name": "data", "Source": "/v/data/_data", "Destination": "/m", "Options": ["rbind"]}
    return {"Mounts": [plain | changes]}


def hidden(*options: str) -> tuple[str, ...]:
    """Return what of a command with these options no inspection shows."""
    return hidden_settings(["podman", "run", "-d", *options, "busybox:1", "--sysctl", "of=the-program"])


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Give the service that is updated."""
    return Shop(BackupStore(tmp_path / "store"))


def test_a_plain_container_loses_what_does_no_harm() -> None:
    """Of a container without any option nothing is refused; the four harmless losses are listed with their values."""
    found = loss()
    assert found.refused == ()
    assert found.refusal() is None
    assert [(gap.what, gap.reason) for gap in found.not_covered("web")] == [
        ("Config.Umask of web", "if the container has to be recreated, it becomes '0000', was '0022'"),
        ("Config.sdNotifyMode of web", "if the container has to be recreated, it is gone, was 'container'"),
        ("HostConfig.HostsFile of web", "if the container has to be recreated, it becomes 'none', was ''"),
        (
            "Config.CreateCommand of web",
            "if the container has to be recreated, it is gone, so that Podman does not know how it was created",
        ),
    ]


def test_every_field_of_the_inspection_has_its_place() -> None:
    """The tables know each field that Podman 5.8 shows, and none stands in both."""
    fields = {name for name in RECORDED if name not in ("Config", "HostConfig")}
    fields |= {f"{block}.{name}" for block in ("Config", "HostConfig") for name in RECORDED[block]}
    assert fields - SHOWN - RULES.keys() == set()
    assert SHOWN & RULES.keys() == set()


@pytest.mark.parametrize("path", ["NewThing", "Config.NewThing", "HostConfig.NewThing"])
def test_a_field_that_is_not_known_is_listed(path: str) -> None:
    """What a newer Podman shows is listed by its name where it is set, and no matter where it is not."""
    found = loss({path: {"some": "thing"}})
    assert "this version does not know it" in found.lost[path]
    assert found.refused == ()
    for empty in EMPTY:
        assert path not in loss({path: empty}).lost


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Pod": "ab" * 32}, "membership of a pod"),
        ({"IsInfra": True}, "the infra container of a pod"),
        ({"IsService": True}, "a service container"),
        ({"Rootfs": "/srv/root"}, "--rootfs"),
        ({"Namespace": "other"}, "a libpod namespace"),
        ({"UseImageHosts": True}, "--no-hosts"),
        ({"UseImageHostname": True}, "--no-hostname"),
        ({"KubeExitCodePropagation": "all"}, "kube play"),
        ({"OCIRuntime": "crun"}, "the runtime crun, where runc is the engine's default"),
        ({"State": {"Checkpointed": True}}, "its checkpoint"),
        ({"PidFile": "/run/web.pid"}, "a place for its PidFile"),
        ({"ConmonPidFile": "/run/web.pid"}, "a place for its ConmonPidFile"),
        ({"Config.Secrets": [{"Name": "key"}]}, "secrets (--secret)"),
        ({"Config.Env": ["PATH=/bin", "key=*******"]}, "the secret key as a variable"),
        ({"Config.Umask": "0077"}, "a umask"),
        ({"Config.Timezone": "Europe/Paris"}, "a time zone"),
        ({"Config.Timeout": 900}, "a time limit"),
        ({"Config.Passwd": False}, "--passwd=false"),
        ({"Config.ChrootDirs": ["/c"]}, "--chrootdirs"),
        ({"Config.SystemdMode": True}, "its systemd mode"),
        ({"Config.sdNotifyMode": "conmon"}, "--sdnotify"),
        ({"Config.sdNotifyMode": "healthy"}, "--sdnotify"),
        ({"Config.sdNotifySocket": "/run/systemd/notify"}, "NOTIFY_SOCKET"),
        ({"Config.StartupHealthCheck": {"Test": ["CMD", "true"]}}, "a startup health check"),
        ({"Config.HealthcheckOnFailureAction": "kill"}, "--health-on-failure"),
        ({"Config.HealthLogDestination": "/log"}, "the log of health checks"),
        ({"Config.HealthcheckMaxLogCount": 9}, "the log of health checks"),
        ({"Config.HealthcheckMaxLogSize": 9}, "the log of health checks"),
        ({"Config.Healthcheck": {"Test": ["CMD", "true"], "Timeout": 30}}, "never runs by itself"),
        (
            {"Config.Healthcheck": {"Test": ["CMD", "true"], "Interval": 9, "StartInterval": 5}},
            "the setting StartInterval",
        ),
        ({"HostConfig.UsernsMode": "private"}, "a user namespace"),
        ({"HostConfig.IDMappings": {"UidMap": ["0:100000:65536"], "GidMap": ["0:100000:65536"]}}, "--uidmap"),
        ({"HostConfig.HostsFile": "image"}, "--hosts-file"),
        ({"HostConfig.Cgroups": "disabled"}, "--cgroups"),
        ({"HostConfig.CgroupConf": {"memory.high": "1"}}, "--cgroup-conf"),
        ({"HostConfig.IntelRdtClosID": "x"}, "--rdt-class"),
        ({"HostConfig.AutoRemoveImage": True}, "--rmi"),
        ({"HostConfig.Tmpfs": {"/m": "U,rprivate"}}, "a tmpfs that belongs to the container's user (U) at /m"),
        ({"HostConfig.Tmpfs": {"/m": "uid=33,gid=33"}}, "a tmpfs that belongs to the container's user (U) at /m"),
        ({"Dependencies": ["cd" * 32]}, "--requires"),
        (mount(Type="image", Source="busybox:1"), "a mount of type image at /m"),
        (mount(Type="bind", Source="devpts"), "a mount of type devpts at /m"),
        (mount(Type="bind", Source="ramfs"), "a mount of type ramfs at /m"),
        (mount(Type="bind", Source="/x/overlay-containers/a/userdata/overlay/1/merge"), "an overlay mount at /m"),
        (mount(Options=["O", "rbind"]), "an overlay mount at /m"),
        (mount(SubPath="/s"), "a subpath of a volume at /m"),
        (mount(Options=["idmap", "rbind"]), "the mount option idmap at /m"),
        (mount(Type="artifact"), "a mount of type artifact at /m"),
        ({"Config.CreateCommand": ["podman", "run", "--sysctl", "a=b", "i"]}, "the option --sysctl"),
    ],
)
def test_what_cannot_come_back_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    """A setting that a recreated container would not have is in the refusal, which says what to do."""
    found = loss(changes)
    assert words in "; ".join(found.refused)
    assert words in (found.refusal() or "")
    assert "create it without them, or leave it out of the rollback" in (found.refusal() or "")


@pytest.mark.parametrize(
    "changes",
    [
        {"Config.Umask": "0000"},
        {"Config.Umask": None},
        {"Config.sdNotifyMode": "ignore"},
        {"Config.sdNotifyMode": ""},
        {"HostConfig.HostsFile": "none"},
        {"HostConfig.UsernsMode": "host"},
        {"HostConfig.NetworkMode": f"container:{'cd' * 32}", "Dependencies": ["cd" * 32]},
        {"HostConfig.CgroupMode": f"container:{'cd' * 32}", "Dependencies": ["cd" * 32]},
        {"OCIRuntime": "/usr/bin/runc"},
        {"HostConfig.PidMode": f"container:{'cd' * 32}", "Dependencies": ["cd" * 32]},
        {"HostConfig.VolumesFrom": [f"{'cd' * 32}:ro"], "Dependencies": ["cd" * 32]},
        {"Config.SystemdMode": True, "Path": "/sbin/init", "Args": []},
        {"Config.SystemdMode": True, "Path": "/bin/sh", "Args": ["-c", "/usr/lib/systemd/systemd"]},
        {"Config.Healthcheck": {"Test": ["NONE"]}},
        {"Config.Healthcheck": {"Test": ["CMD", "true"], "Interval": 30}},
        mount(Options=["nosuid", "nodev", "rbind", "U"], Mode="z"),
        mount(Type="bind", Source="/srv/app", Options=["bind"], Propagation="rslave"),
        {"HostConfig.Tmpfs": {"/m": "size=1m,mode=1770,exec,rprivate,nosuid,nodev,tmpcopyup"}},
        {"Config.CreateCommand": None},
    ],
)
def test_what_comes_back_is_not_refused(changes: dict[str, Any]) -> None:
    """Settings that Docker's API shows and takes, or whose loss does no harm, stand against nothing."""
    assert loss(changes).refused == ()


def test_the_systemd_mode_of_an_init_that_was_told_not_to_have_it_is_refused() -> None:
    """Podman would run /sbin/init in systemd mode unless it is told otherwise, which Docker's API cannot."""
    assert "its systemd mode" in refused({"Path": "/sbin/init", "Args": []})


@pytest.mark.parametrize(("size", "rounded"), [("-1B", False), ("10MB", False), ("1.5GB", False), ("1.235MB", True)])
def test_a_size_of_the_log_that_podman_rounds_is_listed(size: str, *, rounded: bool) -> None:
    """Podman shows four digits of a size; with fewer of them it is what was asked for."""
    found = loss({"HostConfig.LogConfig": {"Type": "k8s-file", "Size": size}})
    assert ("HostConfig.LogConfig.Size" in found.lost) is rounded


@pytest.mark.parametrize(("limit", "noted", "listed"), [(77, False, True), (77, True, False), (2048, False, False)])
def test_a_limit_that_is_not_noted_is_noted_when_it_is_asked_for(limit: int, *, noted: bool, listed: bool) -> None:
    """A limit of processes from Podman's configuration comes back, with an annotation that it did not have."""
    note = "io.podman.annotations.pids-limit"
    found = loss({"HostConfig.PidsLimit": limit, "Config.Annotations": {note: str(limit)} if noted else {}})
    assert (f"annotation {note}" in found.lost) is listed


def test_a_health_check_that_is_switched_off_stays_so() -> None:
    """It gains times that mean nothing, which is listed; one that was recreated before has them already."""
    assert "Config.Healthcheck" in loss({"Config.Healthcheck": {"Test": ["NONE"]}}).lost
    assert "Config.Healthcheck" not in loss({"Config.Healthcheck": {"Test": ["NONE"], "Interval": 30}}).lost


def test_annotations_of_podman_are_listed_unless_they_follow_from_what_comes_back() -> None:
    """The annotation of a limit comes with the limit; one that nothing brings back is listed."""
    own = "io.podman.annotations."
    found = loss({"Config.Annotations": {f"{own}pids-limit": "9", f"{own}userns": "host", "mine": "x"}})
    assert {what for what in found.lost if what.startswith("annotation")} == {f"annotation {own}userns"}


def test_what_no_inspection_shows_is_listed_where_no_command_tells() -> None:
    """A container that was created through an API may have sysctls that nobody can see."""
    assert "sysctls" in loss({"Config.CreateCommand": None}).lost["settings that Podman shows nowhere"]
    assert "settings that Podman shows nowhere" not in loss().lost


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sysctl", "net.a=1"], "--sysctl"),
        (["--sysctl=net.a=1"], "--sysctl"),
        (["--secret", "key,type=env,target=PW"], "--secret"),
        (["--requires=db"], "--requires"),
        (["--personality=LINUX32"], "--personality"),
        (["--device-cgroup-rule", "c 1:3 mr"], "--device-cgroup-rule"),
        (["--device=/dev/null:/dev/x:r"], "--device with the rights 'r' alone"),
        (["--device", "/dev/null:rm"], "--device with the rights 'rm' alone"),
        (["--device", "nvidia.com/gpu=all"], "--device=nvidia.com/gpu=all"),
        (["--gpus", "all"], "--gpus"),
        (["--dns", "none"], "--dns=none"),
        (["--read-only", "--read-only-tmpfs=false"], "--read-only-tmpfs=false"),
        (["--cgroups=split"], "--cgroups=split"),
        (["--cgroups=no-conmon"], "--cgroups=no-conmon"),
        (["--image-volume=ignore"], "--image-volume=ignore"),
        (["--seccomp-policy=image"], "--seccomp-policy=image"),
        (["--memory-swap", "-1"], "--memory-swap=-1"),
        (["--health-max-log-count=0"], "--health-max-log-count=0"),
        (["--umask=0000"], "--umask=0000"),
        (["--unsetenv", "A"], "--unsetenv"),
        (["--unsetenv-all"], "--unsetenv-all"),
        (["--security-opt", "mask=/proc/cpuinfo"], "--security-opt mask=/proc/cpuinfo"),
        (["--security-opt", "unmask=/proc/kcore"], "--security-opt unmask=/proc/kcore"),
        (["--security-opt", "proc-opts=hidepid=2"], "--security-opt proc-opts=hidepid=2"),
        (["--network", "pasta:--map-gw"], "--network pasta with --map-gw"),
        (["--net=slirp4netns:allow_host_loopback=true"], "--network slirp4netns with allow_host_loopback"),
        (["--network", "front:ip=10.1.2.3,interface_name=e"], "--network front with interface_name"),
        (["--log-opt", "label=a"], "--log-opt label"),
        (["-v", "/srv:/b:O"], "--volume with an overlay (O)"),
        (["-itv/srv:/b:ro,O"], "--volume with an overlay (O)"),
        (["-v", "/srv:/b:O,upperdir=/u,workdir=/w"], "--volume with an overlay (O)"),
        (["-v", "/srv:/b:ro,idmap"], "--volume with idmap"),
        (["--mount", "type=bind,src=/srv,dst=/b,idmap=uids=0-1-2"], "--mount with idmap"),
        (["--mount", "type=image,src=i,dst=/m"], "--mount type=image"),
        (["--mount", "type=artifact,src=i,dst=/m"], "--mount type=artifact"),
        (["--mount", "type=bind,src=/a,dst=/m,brand-new=1"], "--mount with brand-new"),
        (["--passwd-entry", "x"], "--passwd-entry"),
        (["--group-entry", "x"], "--group-entry"),
        (["--hostuser=me"], "--hostuser"),
        (["--init", "--init-path=/i"], "--init-path"),
        (["--shm-size-systemd=1m"], "--shm-size-systemd"),
        (["--brand-new", "value"], "--brand-new (an option that is not known here)"),
        (["-Z"], "-Z (an option that is not known here)"),
        (["-tZ"], "-Z (an option that is not known here)"),
    ],
)
def test_an_option_that_no_inspection_shows_is_named(options: list[str], words: str) -> None:
    """The command that made a container tells what its inspection does not; an unknown option is named as such."""
    assert hidden(*options) == (words,)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-it", "-p80:80", "-p=81:81", "-v", "data:/data:ro", "-e", "A=--sysctl", "--name", "web"],
        ["--rm", "--replace", "--cidfile=/run/web.cid", "--label", "PODMAN_SYSTEMD_UNIT=web.service"],
        ["--device=/dev/null:/dev/x", "--device", "/dev/null:/dev/x:rwm", "--dns", "1.2.3.4"],
        ["--read-only", "--read-only-tmpfs", "--cgroups=enabled", "--image-volume", "bind"],
        ["--security-opt", "label=disable", "--security-opt=no-new-privileges", "--security-opt", "unmask=ALL"],
        ["--security-opt", "seccomp=/srv/mask=profile.json", "--security-opt", "label:disable"],
        ["--network", "front:ip=10.1.2.3,mac=92:d0:c6:0a:29:33,alias=till", "--net", "host"],
        ["--mount", "type=volume,src=data,dst=/m,ro=true", "--mount", "type=tmpfs,dst=/t,tmpfs-size=1m"],
        ["--mount", "type=glob,src=/srv/*,dst=/g", "--tmpfs", "/x:size=1m", "--log-opt", "max-size=10m"],
        ["--health-cmd", "true", "--health-interval=7s", "--env-file", "/srv/env", "--tls-verify=false"],
        [
            "--memory=64m",
            "--memory-swap=128m",
            "--pids-limit",
            "-1",
            "--userns=host",
            "--ulimit",
            "host",
            "--umask=0022",
        ],
    ],
)
def test_options_that_come_back_are_not_named(options: list[str]) -> None:
    """What an inspection shows is left to the table of its fields, whatever way it was written on the command line."""
    assert hidden(*options) == ()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["podman", "--root", "/r", "--runtime=runc", "--cgroup-manager", "cgroupfs", "create", "i"], ()),
        (["/usr/bin/podman", "--remote", "-c", "box", "container", "run", "--sysctl", "a=b", "i"], ("--sysctl",)),
        (["podman", "--module", "m.conf", "run", "i"], ("podman --module",)),
        (["podman", "--runtime-flag", "debug", "run", "--secret=s", "i"], ("podman --runtime-flag", "--secret")),
        (["podman", "--brand-new", "x", "run", "i"], ("podman --brand-new (an option that is not known here)",)),
        (["podman", "kube", "play", "x.yaml"], ()),
        (["podman"], ()),
        ([], ()),
    ],
)
def test_the_command_is_found_behind_options_of_podman(command: list[str], words: tuple[str, ...]) -> None:
    """Options before the command say where its engine is; those that change a container are named."""
    assert hidden_settings(command) == words


def test_no_value_that_may_be_a_secret_is_repeated() -> None:
    """A refusal names the option of a secret and not its value."""
    changes = {
        "Config.CreateCommand": ["podman", "run", "--secret", "hunter2", "-e", "PW=hunter2", "--creds=me:hunter2", "i"],
        "Config.Env": ["PW=hunter2"],
    }
    assert refused(changes) == "the option --secret"
    assert "hunter2" not in str(loss(changes))


@pytest.mark.parametrize(
    ("options", "lost"),
    [
        (["-v", "/srv:/b:ro,z"], ["mount option z at /b"]),
        (["--volume=./srv:/b:Z"], ["mount option Z at /b"]),
        (["-v", "/srv:/b:U", "-v", "/srv:/c:z"], ["mount option U at /b", "mount option z at /c"]),
        (["--mount", "type=bind,src=/srv,dst=/b,relabel=private"], ["mount option Z at /b"]),
        (
            ["--mount", "type=bind,src=/srv,target=/b,relabel=shared,U=true"],
            ["mount option U at /b", "mount option z at /b"],
        ),
        (["--mount", "type=bind,src=/srv,target=/b,chown=true"], ["mount option U at /b"]),
        (["--mount", "type=bind,src=/srv,target=/b,U=false"], []),
        (["--mount", "type=volume,src=data,target=/b,U=true"], []),
        (["-v", "data:/b:Z,U", "-v", "/b", "-v", "/srv:/b"], []),
    ],
)
def test_options_of_binds_that_fade_are_listed(options: list[str], lost: list[str]) -> None:
    """Podman shows z, Z and U of a bind until the container runs; those of a volume it shows always."""
    command = {"Config.CreateCommand": ["podman", "run", *options, "i"]}
    assert sorted(what for what in loss(command).lost if what.startswith("mount")) == lost
    assert loss(command).refused == ()


def test_a_private_label_is_refused_where_there_are_labels() -> None:
    """Where SELinux gives each container a label, the next container could not read the folder."""
    changes = {"Config.CreateCommand": ["podman", "run", "-v", "/srv:/b:Z", "i"], "ProcessLabel": "system_u:c1,c2"}
    assert refused(changes) == "the mount option Z at /b"
    assert refused({**changes, "Config.CreateCommand": ["podman", "run", "-v", "/srv:/b:z", "i"]}) == ""


def test_only_a_requirement_is_one() -> None:
    """A container whose namespace is shared is known by the mode; any other dependency was asked for."""
    shared, asked = "cd" * 32, "ef" * 32
    found = native({"HostConfig.NetworkMode": f"container:{shared}", "Dependencies": [shared, asked]})
    assert requires(found) == {asked}


def test_a_loss_is_refused_before_anything_is_touched(shop: Shop) -> None:
    """A container with a secret is refused by `check` and on entry; it goes on running and nothing is stored."""
    shop.engine.container("shop").shows_natively(native({"Config.Secrets": [{"Name": "key"}]}))
    begun = shop.engine.inspect_container("shop")["State"]["StartedAt"]
    reasons = shop.rollback().check().refused["shop"]
    assert len(reasons) == 1
    assert "secrets (--secret)" in reasons[0]
    with pytest.raises(UnsupportedContainerError, match=r"'shop'.*secrets \(--secret\)"):
        shop.rollback().__enter__()
    assert shop.engine.inspect_container("shop")["State"]["StartedAt"] == begun
    assert shop.store.list() == []
    shop.check_nothing_left()


def test_a_harmless_loss_is_listed_by_check_and_in_the_backup(shop: Shop) -> None:
    """What a recreated container has otherwise is told before the rollback, and kept in its backup."""
    shop.engine.container("shop").shows_natively(native())
    told = {gap.what for gap in shop.rollback().check().not_covered}
    with shop.rollback(verify=None) as tx:
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    kept = {gap.what for gap in tx.backup.not_covered}
    assert {"Config.Umask of shop", "Config.CreateCommand of shop"} <= told & kept


def test_who_requires_a_container_stands_against_its_rollback(shop: Shop) -> None:
    """Podman does not let a container go while another one was created to run after it."""
    shop.engine.run("after", image="shop:1")
    shop.engine.container("after").shows_natively(native({"Dependencies": [shop.id]}))
    shop.engine.container("shop").shows_natively(native())
    assert shop.rollback().check().refused == {
        "shop": ("container 'after' was created to run after it (--requires); remove that one first",)
    }


def test_a_state_that_is_only_kept_may_have_what_cannot_come_back(shop: Shop) -> None:
    """The failed update is kept although it has a secret; the backup of it lists that."""
    with shop.rollback(verify=None, keep_failed=True) as tx:
        shop.break_it()
        shop.engine.container("shop").shows_natively(native({"Config.Secrets": [{"Name": "key"}]}))
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    kept = next(found for found in shop.store.list() if found.id != tx.backup.id)
    assert "secrets (--secret) of shop" in {gap.what for gap in kept.not_covered}


def test_a_backup_has_what_docker_shows_alone(shop: Shop) -> None:
    """Podman's own inspection says it all again, secrets too; a backup has it no more than a comparison has."""
    shop.engine.container("shop").shows_natively(native())
    with shop.rollback(verify=None) as tx:
        shop.break_it()
        shop.engine.container("shop").shows_natively(native({"Name": "changed"}))
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    kept = tx.backup.containers[0].inspection
    assert kept == {key: value for key, value in shop.before.items() if key != "Native"}
    assert compare(kept, {**kept, "Native": native()}) == []
