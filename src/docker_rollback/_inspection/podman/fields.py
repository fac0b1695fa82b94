"""Lists all fields of Podman's own inspection of a container, with the effect of Docker's API on them. Data.

Docker's API on Podman shows and accepts only a part of a container's settings. Each field is either *shown* (Docker's
API shows and accepts it, or Podman assigns it), or has a `Rule`. A field in neither table is unknown, and is listed as
not covered unless it is empty. Seen with Podman 5.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from docker_rollback._inspection.podman.mounts import names

EMPTY: Final[tuple[Any, ...]] = (None, "", 0, False, [], {})  # the values of a field that nobody set


@frozen
class Rule:
    """The effect of Docker's API on a field that it does not show, or cannot request."""

    words: str  # the field's description, for an error
    back: tuple[Any, ...] = EMPTY  # the values that a recreated container has too
    becomes: Any = None  # the value that replaces any other one
    # The values whose loss changes no behaviour, so that they are listed and not refused.
    harmless: tuple[Any, ...] = ()


# Fields that Docker's API shows and accepts, or that Podman assigns; the `loss` module examines some of them.
SHOWN: Final = names(
    """
    Id Created Path Args State Image ImageDigest ImageName ResolvConfPath HostnamePath HostsPath StaticDir
    OCIConfigPath OCIRuntime ConmonPidFile PidFile Name RestartCount Driver MountLabel ProcessLabel AppArmorProfile
    EffectiveCaps BoundingCaps ExecIDs GraphDriver SizeRw SizeRootFs Mounts Dependencies NetworkSettings lockNumber

    Config.Hostname Config.User Config.AttachStdin Config.AttachStdout Config.AttachStderr Config.Tty
    Config.OpenStdin Config.StdinOnce Config.Env Config.Cmd Config.Image Config.Volumes Config.WorkingDir
    Config.Entrypoint Config.Labels Config.Annotations Config.StopSignal Config.Healthcheck Config.CreateCommand
    Config.SystemdMode Config.StopTimeout Config.ExposedPorts

    HostConfig.Binds HostConfig.CgroupManager HostConfig.CgroupMode HostConfig.ContainerIDFile HostConfig.LogConfig
    HostConfig.NetworkMode HostConfig.PortBindings HostConfig.RestartPolicy HostConfig.AutoRemove
    HostConfig.Annotations HostConfig.VolumesFrom HostConfig.CapAdd HostConfig.CapDrop HostConfig.Dns
    HostConfig.DnsOptions HostConfig.DnsSearch HostConfig.ExtraHosts HostConfig.GroupAdd HostConfig.IpcMode
    HostConfig.OomScoreAdj HostConfig.PidMode HostConfig.Privileged HostConfig.PublishAllPorts
    HostConfig.ReadonlyRootfs HostConfig.SecurityOpt HostConfig.Tmpfs HostConfig.UTSMode HostConfig.ShmSize
    HostConfig.Runtime HostConfig.ConsoleSize HostConfig.CpuShares HostConfig.Memory HostConfig.NanoCpus
    HostConfig.CgroupParent HostConfig.BlkioWeight HostConfig.BlkioWeightDevice HostConfig.BlkioDeviceReadBps
    HostConfig.BlkioDeviceWriteBps HostConfig.BlkioDeviceReadIOps HostConfig.BlkioDeviceWriteIOps
    HostConfig.CpuPeriod HostConfig.CpuQuota HostConfig.CpuRealtimePeriod HostConfig.CpuRealtimeRuntime
    HostConfig.CpusetCpus HostConfig.CpusetMems HostConfig.Devices HostConfig.MemoryReservation
    HostConfig.MemorySwap HostConfig.MemorySwappiness HostConfig.OomKillDisable HostConfig.Init
    HostConfig.PidsLimit HostConfig.Ulimits
    """
)

# Fields that Docker's API does not show, or cannot request.
RULES: Final[Mapping[str, Rule]] = {
    "Rootfs": Rule("a root file system from a folder (--rootfs)"),
    "Pod": Rule("membership of a pod"),
    "Namespace": Rule("a libpod namespace"),
    "IsInfra": Rule("being the infra container of a pod"),
    "IsService": Rule("being a service container of `podman kube play`"),
    "KubeExitCodePropagation": Rule("the exit code policy of `podman kube play`", (*EMPTY, "invalid")),
    "UseImageHosts": Rule("no hosts file of Podman's (--no-hosts)"),
    "UseImageHostname": Rule("no hostname file of Podman's (--no-hostname)"),
    "Config.Domainname": Rule("a domain name"),
    "Config.OnBuild": Rule("an ONBUILD instruction"),
    "Config.StartupHealthCheck": Rule("a startup health check (--health-startup-cmd)"),
    "Config.HealthcheckOnFailureAction": Rule(
        "an action for a failed health check (--health-on-failure)", (None, "", "none")
    ),
    "Config.HealthLogDestination": Rule("a place for the log of health checks", (None, "", "local")),
    "Config.HealthcheckMaxLogCount": Rule("a length of the log of health checks", (None, 5), becomes=5),
    "Config.HealthcheckMaxLogSize": Rule("a size of the log of health checks", (None, 500), becomes=500),
    "Config.Timezone": Rule("a time zone (--tz)"),
    "Config.Umask": Rule("a umask (--umask)", (None, "", "0000"), becomes="0000", harmless=("0022",)),
    "Config.Secrets": Rule("secrets (--secret)"),
    "Config.Timeout": Rule("a time limit (--timeout)"),
    "Config.Passwd": Rule("an unchanged /etc/passwd (--passwd=false)", (None, True), becomes=True),
    "Config.ChrootDirs": Rule("further root directories (--chrootdirs)"),
    "Config.sdNotifyMode": Rule("notification of systemd (--sdnotify)", harmless=("container", "ignore")),
    "Config.sdNotifySocket": Rule("a socket to notify systemd (NOTIFY_SOCKET)"),
    "HostConfig.AutoRemoveImage": Rule("removal of its image with it (--rmi)"),
    "HostConfig.VolumeDriver": Rule("a volume driver"),
    "HostConfig.HostsFile": Rule("a base of its hosts file (--hosts-file)", ("none",), "none", harmless=(None, "")),
    "HostConfig.Cgroup": Rule("another container's cgroup"),
    "HostConfig.Cgroups": Rule("no cgroup of its own (--cgroups)", (None, "", "default"), becomes="default"),
    "HostConfig.Links": Rule("links"),
    "HostConfig.UsernsMode": Rule("a user namespace (--userns, --uidmap)", (None, "", "host")),
    "HostConfig.IDMappings": Rule("a map of user and group ids (--uidmap, --gidmap, --userns)"),
    "HostConfig.Isolation": Rule("an isolation"),
    "HostConfig.DiskQuota": Rule("a disk quota"),
    "HostConfig.KernelMemory": Rule("a limit of kernel memory"),
    "HostConfig.CpuCount": Rule("a number of processors"),
    "HostConfig.CpuPercent": Rule("a share of the processors"),
    "HostConfig.IOMaximumIOps": Rule("a limit of I/O operations"),
    "HostConfig.IOMaximumBandwidth": Rule("a limit of I/O bandwidth"),
    "HostConfig.CgroupConf": Rule("raw cgroup settings (--cgroup-conf)"),
    "HostConfig.IntelRdtClosID": Rule("an Intel RDT class (--rdt-class)"),
}
