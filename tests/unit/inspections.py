"""Inspections as real engines give them, for tests of what only reads JSON."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

ID = "3e797ce084cb4f45ec5be2ce246d209e2a2848c63129b227fbd0124f2ff0e994"
OTHER_ID = "9467f95b1dbfb19915b75081006299bb4ec450898199c6660a886e73171450d3"
ANONYMOUS = "5654157a92650d1835b23c82e54d93aab96103308aa1467ccf71296bf7c6c6f1"


def inspection(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the inspection of a container with two networks and four mounts, changed at dotted paths."""
    found = copy.deepcopy(_CONTAINER)
    for path, value in (changes or {}).items():
        *parents, last = path.split("/")
        place = found
        for parent in parents:
            place = place[parent]
        place[last] = value
    return found


_CONTAINER: dict[str, Any] = {
    "Id": ID,
    "Created": "2026-01-02T03:04:05.436098893Z",
    "Path": "sleep",
    "Args": ["1000"],
    "State": {
        "Status": "running",
        "Running": True,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": False,
        "Dead": False,
        "Pid": 16906,
        "ExitCode": 0,
        "Error": "",
        "StartedAt": "2026-01-02T03:04:06.509306544Z",
        "FinishedAt": "0001-01-01T00:00:00Z",
        "Health": {"Status": "starting", "FailingStreak": 0, "Log": []},
    },
    "Image": "sha256:93307559cabbdc01b07f0e900eae6931174e7b6619adca55db5729582ca5b000",
    "ResolvConfPath": f"/var/lib/docker/containers/{ID}/resolv.conf",
    "HostnamePath": f"/var/lib/docker/containers/{ID}/hostname",
    "LogPath": f"/var/lib/docker/containers/{ID}/{ID}-json.log",
    "Name": "/web",
    "RestartCount": 0,
    "Driver": "overlay2",
    "Platform": "linux",
    "ExecIDs": None,
    "HostConfig": {
        "Binds": ["logs:/logs:ro", "data:/data", "/etc/app:/app/etc:z"],
        "Mounts": [{"Type": "volume", "Source": "media", "Target": "/media", "VolumeOptions": {"Subpath": "in/it"}}],
        "LogConfig": {"Type": "json-file", "Config": {}},
        "NetworkMode": "front",
        "PortBindings": {
            "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}],
            "53/udp": [{"HostIp": "", "HostPort": "53"}],
        },
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
        "AutoRemove": False,
        "CapAdd": ["CAP_NET_ADMIN", "CAP_SYS_TIME"],
        "CapDrop": None,
        "Dns": [],
        "ExtraHosts": None,
        "Links": None,
        "UTSMode": "",
        "Tmpfs": {"/run": "size=1m"},
        "Init": True,
        "Memory": 104857600,
        "Ulimits": [{"Name": "nofile", "Hard": 2000, "Soft": 1000}],
        "MaskedPaths": ["/proc/kcore"],
        "ReadonlyPaths": [],
        "FieldOfTomorrow": {"kept": None},
    },
    "GraphDriver": {"Name": "overlay2", "Data": {"UpperDir": f"/var/lib/docker/overlay2/{ID}/diff"}},
    "Mounts": [
        {
            "Type": "volume",
            "Name": "data",
            "Source": "/v/data/_data",
            "Destination": "/data",
            "Driver": "local",
            "RW": True,
        },
        {
            "Type": "volume",
            "Name": "logs",
            "Source": "/v/logs/_data",
            "Destination": "/logs",
            "Driver": "local",
            "RW": False,
        },
        {
            "Type": "volume",
            "Name": "media",
            "Source": "/v/media/_data",
            "Destination": "/media",
            "Driver": "local",
            "RW": True,
        },
        {
            "Type": "volume",
            "Name": ANONYMOUS,
            "Source": "/v/x/_data",
            "Destination": "/cache",
            "Driver": "local",
            "RW": True,
        },
        {"Type": "bind", "Source": "/etc/app", "Destination": "/app/etc", "Mode": "z", "RW": True},
    ],
    "Config": {
        "Hostname": "hosty",
        "Domainname": "",
        "User": "",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Env": ["B=c=d", "A=b", "NOVALUE"],
        "Cmd": ["sleep", "1000"],
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5000000000},
        "Image": "registry.example/app:1",
        "Volumes": {"/cache": {}},
        "WorkingDir": "/tmp",
        "Entrypoint": None,
        "OnBuild": None,
        "Labels": {"x": "y"},
        "StopSignal": "SIGINT",
        "StopTimeout": 3,
    },
    "NetworkSettings": {
        "SandboxID": "2b971d862d75c52f",
        "Ports": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "32770"}]},
        "Networks": {
            "front": {
                "IPAMConfig": {"IPv4Address": "10.99.1.50"},
                "Links": None,
                "Aliases": ["web", "w2"],
                "MacAddress": "22:77:9f:42:31:8f",
                "DriverOpts": None,
                "GwPriority": 7,
                "NetworkID": "b2a7aed14b4e6c8c10f6166c617eb10beb8bb99d7c588ceb30a23e896f7bb26c",
                "EndpointID": "f64da442356e",
                "IPAddress": "10.99.1.50",
                "DNSNames": ["web", "w2", ID[:12], "hosty"],
            },
            "back": {
                "IPAMConfig": {},
                "Links": None,
                "Aliases": ["second", ID[:12], "hosty"],
                "MacAddress": "b2:94:14:ee:21:df",
                "DriverOpts": {"com.example.option": "1"},
                "GwPriority": 0,
                "NetworkID": "f3771a881079bda059a51e3c3d0c6e5dffe9cc99c8385e263806bf3611d8dd3c",
                "IPAddress": "172.29.128.2",
            },
        },
    },
}
