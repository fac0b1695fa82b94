"""Containers in the shapes of well-known programs: many settings at once, as their compose files have them."""

from __future__ import annotations

from collections.abc import Mapping

from tests.integration.matrix.lab import PORT, SERVICE, Case, Lab, eventually, table

ROWS, row = table()

_SECOND = 1_000_000_000
_SERVE = "exec httpd -f -p {port} -h /etc"


def _compose(lab: Lab, service: str, **more: str) -> dict[str, str]:
    """Return the labels by which compose knows a container."""
    return {
        "com.docker.compose.config-hash": "5e0d1fa7c1b4" * 5,
        "com.docker.compose.container-number": "1",
        "com.docker.compose.oneoff": "False",
        "com.docker.compose.project": lab.name,
        "com.docker.compose.project.config_files": "/srv/it's here/compose.yaml",
        "com.docker.compose.service": service,
        **more,
    }


def _published(lab: Lab, *ports: str) -> dict[str, list[dict[str, str]]]:
    """Return bindings of ports to free ones of this machine; "53/udp+tcp" publishes both protocols on one."""
    found: dict[str, list[dict[str, str]]] = {}
    free_ports: set[int] = set()
    while len(free_ports) < len(ports):
        # One that is free may be named again.
        free_ports.add(lab.free_port())
    for port, free in zip(ports, map(str, free_ports), strict=True):
        number, _, protocols = port.partition("/")
        for protocol in (protocols or "tcp").split("+"):
            found[f"{number}/{protocol}"] = [{"HostIp": "127.0.0.1", "HostPort": free}]
    return found


def _exposed(bindings: Mapping[str, object]) -> dict[str, dict[str, str]]:
    return {port: {} for port in bindings}


@row
def reverse_proxy(lab: Lab) -> Case:
    """Like traefik: rules in labels, flags as the command, a file of the host, one alias on two networks."""
    front, back = lab.network("front"), lab.network("back")
    ports = _published(lab, f"{PORT}", "443/tcp+udp")
    labels = {
        "traefik.enable": "true",
        "traefik.http.routers.api.rule": "Host(`proxy.example`) && (PathPrefix(`/api`) || PathPrefix(`/dashboard`))",
        "traefik.http.middlewares.auth.basicauth.users": "admin:$$apr1$$x$$y",
    }
    lab.image_with({"entry.sh": 'echo "$@" > /tmp/flags; ' + _SERVE.format(port=PORT)}, Entrypoint=["sh", "/entry.sh"])

    def works() -> None:
        assert lab.answers("127.0.0.1", int(ports[f"{PORT}/tcp"][0]["HostPort"])) == lab.hostname()
        assert lab.run("cat /tmp/flags") == "--providers.docker=true --entrypoints.web.address=:80 --log.level=INFO"

    return Case(
        body=lab.body(
            Cmd=["--providers.docker=true", "--entrypoints.web.address=:80", "--log.level=INFO"],
            Labels={**lab.labels, **_compose(lab, "proxy"), **labels},
            ExposedPorts=_exposed(ports),
            StopSignal="SIGKILL",
            host={
                "Binds": ["/proc/version:/var/run/docker.sock:ro"],
                "Tmpfs": {"/tmp": ""},
                "PortBindings": ports,
                "NetworkMode": front,
                "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
                "SecurityOpt": ["no-new-privileges:true"],
            },
            **lab.on(front, {"Aliases": ["proxy"]}),
        ),
        networks={back: {"Aliases": ["proxy", "traefik"]}},
        works=lambda: eventually(works),
    )


@row
def database(lab: Lab) -> Case:
    """Like postgres: a volume of the image under a named one, memory to share, a stop signal and a check of its own."""
    lab.image_with(
        {"entry.sh": f"trap 'exit 0' INT; httpd -p {PORT} -h /etc; sleep 86400 & wait"},
        Entrypoint=["sh", "/entry.sh"],
        Cmd=["postgres"],
        Env=["PGDATA=/var/lib/postgresql/data", "PG_MAJOR=17"],
        Volumes={"/var/lib/postgresql/data": {}},
        StopSignal="SIGINT",
        ExposedPorts={"5432/tcp": {}},
    )
    data = lab.volume("data")
    check = {"Test": ["CMD-SHELL", "test -e /etc/passwd || exit $$?"], "Interval": 5 * _SECOND, "Retries": 5}

    def works() -> None:
        assert lab.run("echo $PGDATA:$POSTGRES_DB") == "/var/lib/postgresql/data:app=main"
        assert "131072k" in lab.run("grep ' /dev/shm ' /proc/mounts")

    return Case(
        body=lab.body(
            Cmd=["postgres", "-c", "shared_buffers=64MB", "-c", "log_line_prefix=%m [%p] "],
            Env=["POSTGRES_PASSWORD=p=w'd\"", "POSTGRES_DB=app=main", "POSTGRES_INITDB_ARGS="],
            Labels={**lab.labels, **_compose(lab, "db")},
            Healthcheck=check,
            StopTimeout=90,
            host={
                "Binds": [f"{data}:/var/lib/postgresql/data:rw"],
                "ShmSize": 128 << 20,
                "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
            },
        ),
        data={"/var/lib/postgresql/data/PG_VERSION": "17"},
        works=lambda: eventually(works),
    )


@row
def cache(lab: Lab) -> Case:
    """Like redis: a user of its own on a root for reading alone, few capabilities, limits, and an empty argument."""
    lab.image_with({"entry.sh": 'printf "%s," "$@" > /tmp/args; ' + _SERVE.format(port=PORT)}, Volumes={"/data": {}})

    def works() -> None:
        assert lab.run("cat /tmp/args; echo; id -u; cat /proc/sys/net/core/somaxconn").split() == [
            "--save,,--appendonly,yes,",
            "999",
            "511",
        ]

    return Case(
        body=lab.body(
            Entrypoint=["sh", "/entry.sh"],
            Cmd=["--save", "", "--appendonly", "yes"],
            User="999:1000",
            StopSignal="SIGKILL",
            host={
                "ReadonlyRootfs": True,
                "Tmpfs": {"/tmp": "mode=1777,size=1m"},
                "CapDrop": ["ALL"],
                "CapAdd": ["SETGID", "SETUID"],
                "Sysctls": {"net.core.somaxconn": "511"},
                "Ulimits": [{"Name": "nofile", "Soft": 1000, "Hard": 1000}],
                "Memory": 64 << 20,
                "MemorySwap": 64 << 20,
            },
        ),
        shows={"HostConfig.Sysctls": {"net.core.somaxconn": "511"}},
        limit="it takes settings of the kernel and does not show them",
        works=lambda: eventually(works),
    )


@row
def web_server(lab: Lab) -> Case:
    """Like nginx: a folder of the host for reading, places in memory, a bounded log, the host's gateway by its word."""
    ports = _published(lab, f"{PORT}")

    def works() -> None:
        assert lab.answers("127.0.0.1", int(ports[f"{PORT}/tcp"][0]["HostPort"])) == lab.hostname()
        assert "gateway.example" in lab.run("cat /etc/hosts")

    return Case(
        body=lab.body(
            StopSignal="SIGQUIT",
            StopTimeout=0,
            ExposedPorts=_exposed(ports),
            host={
                "Binds": ["/proc/bus:/usr/share/html:ro"],
                "Tmpfs": {"/var/cache/nginx": "uid=101,gid=101,mode=0755", "/var/run": "rw,noexec"},
                "NetworkMode": lab.network("front"),
                "PortBindings": ports,
                "ExtraHosts": ["gateway.example:host-gateway", "six.example:2001:db8::1"],
                "LogConfig": {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}},
            },
        ),
        refused="unknown mount option",
        limit="it has logs of other kinds",
        works=lambda: eventually(works),
    )


@row
def many_ports(lab: Lab) -> Case:
    """Like gitlab: many ports, a range among them, several volumes, a host name, a setting of many lines."""
    ports = _published(lab, f"{PORT}", "22", "443", *(str(number) for number in range(5000, 5010)))
    volumes = [f"{lab.volume(name)}:/srv/{name}" for name in ("config", "logs", "data")]
    settings = "external_url 'https://git.example'\nrails['shell_port'] = 2222\n\n# a = \"b\"\n"

    def works() -> None:
        assert lab.hostname() == "git"
        assert lab.answers("127.0.0.1", int(ports[f"{PORT}/tcp"][0]["HostPort"])) == "git"
        assert lab.run('printf "%s" "$OMNIBUS_CONFIG" | wc -l') == "4"
        for port, (binding,) in ports.items():
            assert str(lab.published(port)) == binding["HostPort"]

    return Case(
        body=lab.body(
            Hostname="git",
            Domainname="example",
            Env=[f"OMNIBUS_CONFIG={settings}"],
            ExposedPorts={**_exposed(ports), "80/tcp": {}},
            host={
                "Binds": volumes,
                "NetworkMode": lab.network("front"),
                "PortBindings": ports,
                "ShmSize": 256 << 20,
            },
        ),
        data={"/srv/config/gitlab.rb": "x", "/srv/logs/log": "y", "/srv/data/deep/repo": "z"},
        works=lambda: eventually(works),
    )


@row
def monitoring(lab: Lab) -> Case:
    """Like prometheus: nobody as the user, an entrypoint of the image with flags, the host's files for reading."""
    lab.image_with(
        {"entry.sh": 'echo "$#" > /tmp/count; ' + _SERVE.format(port=PORT), "prometheus/.keep": ""},
        Entrypoint=["sh", "/entry.sh"],
        Cmd=["--config.file=/etc/prometheus/prometheus.yml"],
        User="nobody",
        WorkingDir="/prometheus",
        Volumes={"/prometheus": {}},
    )
    flags = ["--config.file=/etc/p.yml", "--storage.tsdb.path=/prometheus", "--web.enable-lifecycle", "--web.cors=.*"]

    def works() -> None:
        assert lab.run("cat /tmp/count; id -u; pwd; ls -d /host/proc/self").split() == [
            "4",
            "65534",
            "/prometheus",
            "/host/proc/self",
        ]

    return Case(
        body=lab.body(
            Cmd=flags,
            User="65534:65534",
            StopSignal="SIGKILL",
            host={
                "Binds": [f"{lab.volume('tsdb')}:/prometheus", "/proc:/host/proc:ro", "/sys:/host/sys:ro"],
                "Tmpfs": {"/tmp": "mode=1777"},
                "PidsLimit": 200,
            },
        ),
        works=lambda: eventually(works),
    )


@row
def name_server(lab: Lab) -> Case:
    """Like a filtering name server: one port by two protocols, a right over the network, an address of its own."""
    subnet = lab.subnet(8)
    network = lab.network("lan", f"{subnet}.0/24")
    ports = _published(lab, "53/tcp+udp", f"{PORT}/tcp")

    def works() -> None:
        assert lab.published("53/tcp") == lab.published("53/udp") == int(ports["53/udp"][0]["HostPort"])
        assert lab.shown("NetworkSettings.Networks")[network]["IPAddress"] == f"{subnet}.53"
        assert lab.answers("127.0.0.1", int(ports[f"{PORT}/tcp"][0]["HostPort"])) == "filter"

    return Case(
        body=lab.body(
            Hostname="filter",
            Env=["TZ=Europe/Berlin", "WEBPASSWORD=", "DNS1=9.9.9.9#53"],
            ExposedPorts={**_exposed(ports), "67/udp": {}},
            host={
                "NetworkMode": network,
                "PortBindings": ports,
                "CapAdd": ["NET_ADMIN", "NET_BIND_SERVICE", "SYS_NICE"],
                "Dns": ["127.0.0.1", "9.9.9.9"],
            },
            **lab.on(network, {"IPAMConfig": {"IPv4Address": f"{subnet}.53"}, "Aliases": ["dns"]}),
        ),
        shows={f"NetworkSettings.Networks.{network}.IPAMConfig.IPv4Address": f"{subnet}.53"},
        limit="it does not tell an address that was asked for from one that it chose",
        works=lambda: eventually(works),
    )


@row
def tunnel(lab: Lab) -> Case:
    """Like a VPN: settings of the kernel's network, a device, rights over the network, a port of UDP."""
    ports = _published(lab, "51820/udp")
    sysctls = {"net.ipv4.conf.all.src_valid_mark": "1", "net.ipv4.ip_forward": "1"}

    def works() -> None:
        assert lab.run("cat /proc/sys/net/ipv4/conf/all/src_valid_mark; stat -c %F /dev/net/tun") == (
            "1\ncharacter special file"
        )
        assert lab.published("51820/udp") == int(ports["51820/udp"][0]["HostPort"])

    return Case(
        body=lab.body(
            ExposedPorts=_exposed(ports),
            host={
                "CapAdd": ["NET_ADMIN", "SYS_MODULE"],
                "Sysctls": sysctls,
                "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/net/tun", "CgroupPermissions": "rwm"}],
                "PortBindings": ports,
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 5},
            },
        ),
        shows={"HostConfig.Sysctls": sysctls},
        limit="it takes settings of the kernel and does not show them",
        works=works,
    )


@row
def one_shot(lab: Lab) -> Case:
    """Like a migration that has run: ended well, kept for its log, behind the service that it waits for."""
    labels = _compose(lab, "migrate", **{"com.docker.compose.depends_on": "db:service_healthy:false"})
    return Case(
        body=lab.body(Cmd=[*SERVICE[:2], "sleep 600"], Labels={**lab.labels, **labels}, OpenStdin=True),
        state="exited",
    )
