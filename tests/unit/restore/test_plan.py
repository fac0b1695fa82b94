"""A backup becomes the steps that put it back, in the one order that is safe."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._model.backup import Mount, NetworkRecord, Project
from docker_rollback._restore.plan import (
    Compare,
    FillVolume,
    HoldAdded,
    ProvideImage,
    RemoveAdded,
    RemoveRenamed,
    RenameAway,
    RestoreContainer,
    RestoreNetwork,
    RestoreVolume,
    Resume,
    Step,
    TakeName,
    at_once,
    concerned,
    plan_restore,
)
from tests.unit.values import backup, snapshot, volume


def mount(name: str, destination: str, *, anonymous: bool = False) -> Mount:
    """Return the mount of a volume."""
    return Mount("volume", destination, name, read_only=False, anonymous=anonymous)


def test_a_plan_reads_as_what_will_be_done() -> None:
    """Its steps, printed, tell a person what a restore would do."""
    web = snapshot("web", mount("data", "/data"), mount("f" * 64, "/cache", anonymous=True))
    plan = plan_restore(
        backup(
            web, volumes=(volume("data"), volume("f" * 64, anonymous=True)), networks=(NetworkRecord("front", "1", {}),)
        )
    )
    assert [str(step) for step in plan] == [
        "provide the image of container 'web'",
        "rename away the container in the place of 'web'",
        "restore network 'front'",
        "restore volume 'data'",
        "restore container 'web'",
        "fill volume 'data'",
        f"fill volume {'f' * 64!r} at /cache",
        "give container 'web' its name",
        "bring container 'web' to the state 'running'",
        "compare container 'web' with its snapshot",
        "remove the container renamed away for 'web'",
    ]


def test_the_plan_of_a_project_has_what_came_to_it() -> None:
    """It is held before anything else is touched, and removed last of all."""
    web, alone = snapshot("web"), snapshot("alone")
    taken = evolve(backup(web, alone), project=Project("shop", (web.id,)))
    plan = [str(step) for step in plan_restore(taken)]
    assert plan.index("hold the containers added to project 'shop'") == 2
    assert plan[-1] == "remove the additions to project 'shop'"


def test_names_lead_back_before_containers_are_restored() -> None:
    """A container is created by its name, so that has to lead to its image by then; only known names are led back."""
    web, nameless = snapshot("web"), snapshot("nameless")
    named = evolve(web, image=evolve(web.image, name="web:1", name_id="sha256:11"))
    plan = [str(step) for step in plan_restore(backup(nameless, named))]
    names = [step for step in plan if "image name" in step]
    assert names == ["restore image name 'web:1' of container 'web'"]
    assert plan.index(names[0]) < plan.index("restore container 'nameless'") < plan.index("restore container 'web'")
    assert not [step for step in plan_restore(backup(named), restore_tags=False) if "image name" in str(step)]


def test_what_stands_is_put_aside_last_to_first() -> None:
    """Dependents come to rest before what they depend on, and start after it."""
    plan = plan_restore(backup(snapshot("db"), snapshot("web")))
    assert [step.container.name for step in plan if isinstance(step, RenameAway)] == ["web", "db"]
    assert [step.container.name for step in plan if isinstance(step, Resume)] == ["db", "web"]


def test_containers_are_renamed_away_and_restored_at_once() -> None:
    """In an order in which each could wait for the one before; all other steps are applied one after the other."""
    db, web, cache = snapshot("db"), snapshot("web"), snapshot("cache")
    web = evolve(web, inspection={"HostConfig": {"NetworkMode": "container:db"}, "Config": {}})
    taken = backup(web, db, cache)
    plan = plan_restore(taken)
    groups = list(at_once(plan))
    assert tuple(step for group in groups for step in group) == plan, "the plan's order is an order of the groups"
    several = [[str(step) for step in group] for group in groups if isinstance(group[0], RenameAway | RestoreContainer)]
    assert several == [
        [f"rename away the container in the place of {name!r}" for name in ("web", "cache", "db")],
        [f"restore container {name!r}" for name in ("db", "cache", "web")],
    ]
    assert all(len(group) == 1 for group in groups if not isinstance(group[0], RenameAway | RestoreContainer))


def test_a_shared_volume_is_filled_once() -> None:
    """Two containers mount it; its data is one."""
    plan = plan_restore(
        backup(snapshot("db", mount("data", "/a")), snapshot("web", mount("data", "/b")), volumes=(volume("data"),))
    )
    assert len([step for step in plan if isinstance(step, FillVolume)]) == 1


def test_a_volume_without_a_container_is_filled_by_its_name() -> None:
    """A backup may hold a volume alone."""
    (made, filled) = plan_restore(backup(volumes=(volume("data"),)))
    assert isinstance(made, RestoreVolume)
    assert filled == FillVolume(volume("data"), None, None)


_ORDER: tuple[type | tuple[type, ...], ...] = (
    ProvideImage,
    RenameAway,
    (RestoreNetwork, RestoreVolume),
    RestoreContainer,
    FillVolume,
    TakeName,
    Resume,
    Compare,
    RemoveRenamed,
)


def phase(step: Step) -> int:
    """Return how late in a restore a kind of step may come."""
    return next(number for number, kinds in enumerate(_ORDER) if isinstance(step, kinds))


@given(
    containers=st.lists(st.sampled_from("abcdef"), unique=True, max_size=6),
    mounted=st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["v1", "v2", "v3"])), max_size=8),
    networks=st.lists(st.sampled_from(["n1", "n2"]), unique=True),
)
def test_whatever_the_backup_the_order_is_kept(
    containers: list[str], mounted: list[tuple[str, str]], networks: list[str]
) -> None:
    """Nothing is touched before every image is there, nothing starts before every volume is full, nothing is lost."""
    snapshots = [
        snapshot(
            name, *(mount(source, f"/{number}") for number, (owner, source) in enumerate(mounted) if owner == name)
        )
        for name in containers
    ]
    volumes = tuple(volume(name) for name in dict.fromkeys(source for owner, source in mounted if owner in containers))
    plan = plan_restore(
        backup(*snapshots, volumes=volumes, networks=tuple(NetworkRecord(name, "1", {}) for name in networks))
    )
    phases = [phase(step) for step in plan]
    assert phases == sorted(phases)
    assert len(plan) == 7 * len(containers) + 2 * len(volumes) + len(networks)


def test_what_a_step_is_for_cannot_stand_where_it_fails() -> None:
    """Of a network those in it, of a volume those that mount it, of a project everybody, and of its end nobody."""
    web, alone = snapshot("web", mount("data", "/data")), snapshot("alone")
    web = evolve(web, inspection={**web.inspection, "NetworkSettings": {"Networks": {"front": None}}})
    alone = evolve(alone, inspection={**alone.inspection, "NetworkSettings": None})
    project = Project("shop")
    for step, names in (
        (RestoreNetwork(NetworkRecord("front", "1", {})), {"web"}),
        (RestoreVolume(volume("data")), {"web"}),
        (FillVolume(volume("data"), None, None), {"web"}),
        (Resume(alone), {"alone"}),
        (HoldAdded(project, (web, alone)), {"web", "alone"}),
        (RemoveAdded(project), set()),
    ):
        assert concerned(step, (web, alone)) == names
