"""Who breaks with whom, and who starts before whom."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._inspection.dependencies import bound_to, hash_gap, start_order, with_ids
from docker_rollback._model.backup import ContainerState, Observed


def container(name: str, labels: dict[str, str] | None = None, **host_config: Any) -> Observed:
    """Return a running container whose id is made from its name."""
    inspection = {"HostConfig": {"NetworkMode": "bridge", **host_config}, "Config": {"Labels": labels}}
    return Observed(name, (name.encode().hex() * 64)[:64], inspection, ContainerState("running"), ())


DB = container("db")


@pytest.mark.parametrize(
    "host_config",
    [
        {"NetworkMode": "container:db"},
        {"NetworkMode": f"container:{DB.id}"},
        {"PidMode": f"container:{DB.id[:12]}"},
        {"IpcMode": "container:db"},
        {"VolumesFrom": [f"{DB.id}:ro"]},
        {"Links": ["/db:/web/store"]},
    ],
)
def test_what_lives_in_or_off_another_is_bound_to_it(host_config: dict[str, Any]) -> None:
    """Whether it names it by name, by id or by the beginning of the id."""
    web = container("web", **host_config)
    assert bound_to([DB], [DB, web, container("other")]) == (web,)
    assert start_order([web, DB]) == (DB, web)


@pytest.mark.parametrize(
    "host_config",
    [{"NetworkMode": "db"}, {"NetworkMode": "container:d"}, {"Links": ["/dbx:/web/db"]}, {"PidMode": "host"}],
)
def test_likeness_of_names_binds_nothing(host_config: dict[str, Any]) -> None:
    """A network called like a container, or the beginning of a name, is something else."""
    assert bound_to([DB], [DB, container("web", **host_config)]) == ()


@pytest.mark.parametrize("digits", [64, 12])
def test_references_by_id_follow_what_was_made_anew(digits: int) -> None:
    """By a whole id or its beginning; what is a name, or the id of something that stands, stays."""
    old, new = "ab" * 32, "cd" * 32
    host_config = {"NetworkMode": old[:digits], "PidMode": f"container:{old}", "VolumesFrom": [f"{old[:digits]}:ro"]}
    endpoints = {"front": {"NetworkID": old}, "back": {"NetworkID": "ef" * 32}, "host": None}
    found = with_ids({"HostConfig": host_config, "NetworkSettings": {"Networks": endpoints}}, {old: new})
    assert found["HostConfig"] == {
        "NetworkMode": new[:digits],
        "PidMode": f"container:{new}",
        "VolumesFrom": [f"{new[:digits]}:ro"],
    }
    assert found["NetworkSettings"]["Networks"] == {**endpoints, "front": {"NetworkID": new}}
    named = {"HostConfig": {"NetworkMode": "ab"}, "NetworkSettings": {}}
    assert with_ids(named, {old: new})["HostConfig"] == named["HostConfig"]


def test_binding_goes_on() -> None:
    """What is bound to something bound breaks as well."""
    web = container("web", NetworkMode="container:db")
    probe = container("probe", PidMode="container:web")
    assert bound_to([DB], [probe, web, DB]) == (web, probe)
    assert start_order([probe, web, DB]) == (DB, web, probe)


def test_compose_says_who_starts_first() -> None:
    """Its label is an order among the services of one project, and binds nothing."""

    def of(project: str, service: str, depends: str = "") -> Observed:
        labels = {"com.docker.compose.project": project, "com.docker.compose.service": service}
        return container(f"{project}-{service}", {**labels, "com.docker.compose.depends_on": depends})

    web = of("shop", "web", "db:service_started:false,cache:service_healthy:true")
    db, cache, other = of("shop", "db"), of("shop", "cache"), of("blog", "db")
    assert start_order([web, other, cache, db]) == (other, cache, db, web)
    assert bound_to([db], [web, cache, other]) == ()


def test_a_circle_is_no_dead_end() -> None:
    """The order given decides where containers depend on each other."""
    one, two = container("one", Links=["/two:/one/x"]), container("two", Links=["/one:/two/x"])
    assert start_order([one, two]) == (one, two)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_whatever_depends_comes_later(edges: list[tuple[int, int]]) -> None:
    """Of containers that refer only to lower numbers, each stands behind all that it refers to."""
    links: dict[int, list[str]] = {}
    for one, other in edges:
        if one > other:
            links.setdefault(one, []).append(f"/c{other}:/c{one}/x")
    containers = [container(f"c{number}", Links=links.get(number)) for number in reversed(range(8))]
    order = [found.name for found in start_order(containers)]
    assert sorted(order) == sorted(found.name for found in containers)
    for one, targets in links.items():
        for target in targets:
            assert order.index(target[1:3]) < order.index(f"c{one}")


def test_references_by_id_follow_the_new_ids() -> None:
    """A container that was made anew has another id; those bound to it refer to that from then on."""
    web = container(
        "web",
        NetworkMode=f"container:{DB.id}",
        PidMode="container:db",
        IpcMode="private",
        VolumesFrom=[f"{DB.id}:ro", "db"],
    )
    found = with_ids(web.inspection, {DB.id: "new", "n1": "n2"})["HostConfig"]
    assert found["NetworkMode"] == "container:new"
    assert found["PidMode"] == "container:db"
    assert found["IpcMode"] == "private"
    assert found["VolumesFrom"] == ["new:ro", "db"]
    assert with_ids(container("x", NetworkMode="n1").inspection, {"n1": "n2"})["HostConfig"]["NetworkMode"] == "n2"


COMPOSE = {
    "com.docker.compose.config-hash": "ab" * 32,
    "com.docker.compose.depends_on": "db:service_started:true",
    "com.docker.compose.version": "2.40.3",
}
"""The labels of a service with ``network_mode: service:db``."""


@pytest.mark.parametrize(
    "host_config", [{"NetworkMode": f"container:{DB.id}"}, {"IpcMode": f"container:{DB.id}"}, {"VolumesFrom": [DB.id]}]
)
def test_a_hash_of_compose_over_the_id_of_another_container_is_a_gap(host_config: dict[str, Any]) -> None:
    """The label would no longer be true if the other one got another id."""
    gap = hash_gap(container("web", COMPOSE, **host_config))
    assert gap is not None
    assert gap.what == "com.docker.compose.config-hash of web"
    assert next(iter(host_config)) in gap.reason


@pytest.mark.parametrize(
    ("labels", "host_config"),
    [
        (COMPOSE, {}),
        (COMPOSE, {"Links": ["/db:/web/store"]}),
        ({**COMPOSE, "com.docker.compose.version": "1.29.2"}, {"NetworkMode": f"container:{DB.id}"}),
        ({**COMPOSE, "com.docker.compose.depends_on": ""}, {"NetworkMode": "container:other"}),
        (None, {"NetworkMode": f"container:{DB.id}"}),
    ],
)
def test_any_other_hash_stays_true(labels: dict[str, str] | None, host_config: dict[str, Any]) -> None:
    """Compose 1 hashes the service's name, and a link is by name; a container of nobody's service is as in the file."""
    assert hash_gap(container("web", labels, **host_config)) is None
