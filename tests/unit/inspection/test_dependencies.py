"""Who breaks with whom, and who starts before whom."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._inspection.dependencies import bound_to, hash_gap, start_order, started_before, with_ids
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


def before(*containers: Observed) -> dict[str, set[str]]:
    """Return the names of the containers that start before each."""
    names = {one.id: one.name for one in containers}
    return {names[one]: {names[other] for other in others} for one, others in started_before(containers).items()}


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20), st.permutations(range(8)))
def test_all_that_a_container_needs_starts_before_it(edges: list[tuple[int, int]], given_order: list[int]) -> None:
    """That is all that it needs directly, all that these need, and nothing else; each is in the order once."""
    needs = {one: {other for number, other in edges if number == one and other < one} for one in range(8)}
    wanted: dict[int, set[int]] = {}
    for one in range(8):
        wanted[one] = needs[one].union(*(wanted[other] for other in needs[one]))
    links = {one: [f"/c{other}:/c{one}/x" for other in sorted(others)] for one, others in needs.items()}
    containers = [container(f"c{number}", Links=links[number] or None) for number in given_order]
    assert before(*containers) == {f"c{one}": {f"c{other}" for other in others} for one, others in wanted.items()}
    order = [int(one.name[1:]) for one in start_order(containers)]
    assert sorted(order) == list(range(8))
    for at, one in enumerate(order):
        assert wanted[one] <= set(order[:at])
    assert order == sorted(given_order, key=lambda one: len(wanted[one])), "the given order stays where it can"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20))
def test_circles_end(edges: list[tuple[int, int]]) -> None:
    """Whatever refers to what, no container starts before itself, and a dependency counts in one direction at least."""
    links: dict[int, list[str]] = {}
    for one, other in edges:
        links.setdefault(one, []).append(f"/c{other}:/c{one}/x")
    found = before(*(container(f"c{number}", Links=links.get(number)) for number in range(6)))
    for name, others in found.items():
        assert name not in others
        assert all(found[other] < others for other in others)
    for one, other in edges:
        assert one == other or f"c{other}" in found[f"c{one}"] or f"c{one}" in found[f"c{other}"]


def test_without_dependencies_compose_started_services_as_it_created_them() -> None:
    """As before version 2, which writes none; the replicas of a service start at once."""

    def of(service: str, created: str, **labels: str) -> Observed:
        project = {"com.docker.compose.project": "shop", "com.docker.compose.service": service}
        one = container(f"{service}-{created}", {**project, **labels})
        return evolve(one, inspection={**one.inspection, "Created": f"2026-01-01T00:00:0{created}Z"})

    db, web, again, other = of("db", "1"), of("web", "2"), of("web", "3"), container("other", {})
    assert before(web, again, db, other) == {
        web.name: {db.name},
        again.name: {db.name},
        db.name: set(),
        "other": set(),
    }
    newer = {"com.docker.compose.depends_on": ""}
    assert not any(before(of("web", "2", **newer), of("db", "1", **newer)).values())


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


def of_compose(service: str, created: str, *, depends: str | None = None, **host_config: Any) -> Observed:
    """Return a service of a project as compose creates it; without `depends`, as version 1 does."""
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": service}
    labels |= {} if depends is None else {"com.docker.compose.depends_on": f"{depends}:service_started:true"}
    one = container(service, labels, **host_config)
    return evolve(one, inspection={**one.inspection, "Created": f"2026-01-01T00:00:{created}Z"})


@pytest.mark.parametrize("host_config", [{"VolumesFrom": ["db"]}, {"Links": ["/db:/web/db"]}])
def test_what_a_container_needs_counts_more_than_when_it_was_created(host_config: dict[str, Any]) -> None:
    """A rollback recreates one of two containers, so the one that it needs is then the later one."""
    db, web = of_compose("db", "09"), of_compose("web", "01", **host_config)
    assert before(web, db) == {"db": set(), "web": {"db"}}
    later = of_compose("cron", "05")
    assert before(later, web, db) == {"cron": set(), "db": {"cron"}, "web": {"db", "cron"}}


def test_what_a_container_needs_counts_more_than_what_compose_says() -> None:
    """A label is an order, and the other one a need."""
    db, web = of_compose("db", "01", depends="web"), of_compose("web", "02", depends="cron", PidMode="container:db")
    assert before(web, db) == {"db": set(), "web": {"db"}}


def test_one_that_only_needs_a_circle_is_not_part_of_it() -> None:
    """It starts after both, whatever the given order."""
    one, two = of_compose("one", "01", depends="two"), of_compose("two", "01", depends="one")
    outside = of_compose("outside", "01", depends="one")
    assert before(two, outside, one) == {"two": set(), "one": {"two"}, "outside": {"one", "two"}}
    assert before(outside, one, two) == {"one": set(), "two": {"one"}, "outside": {"one"}}


@pytest.mark.parametrize(("earlier", "later"), [("01.1", "01.12"), ("01", "01.000001"), ("09.99", "10")])
def test_moments_of_creation_are_compared_as_moments(earlier: str, later: str) -> None:
    """Engines leave out zeros at the end of a fraction, so the texts sort in another order."""
    db, web = of_compose("db", earlier), of_compose("web", later)
    assert before(web, db) == {"db": set(), "web": {"db"}}


def test_one_without_a_moment_of_creation_starts_with_the_first() -> None:
    """Nothing is known of it."""
    db, web = of_compose("db", "01"), of_compose("web", "no number")
    assert before(web, db) == {"db": set(), "web": set()}
