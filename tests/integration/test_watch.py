"""`watch=` on a real engine: updates that end on probation, one that stays, and a death."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from attrs import define

from docker_rollback import (
    BackupStore,
    DockerEngine,
    Outcome,
    Progress,
    Status,
    UpdateRejectedError,
    healthy,
    recover,
    replace,
)
from docker_rollback.testing import FailingEngine, Killed
from tests.removal import remove_container

pytestmark = pytest.mark.engine

SERVICE = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
LONG = 120.0
"""Seconds that no probation here may last."""


class Looking(FailingEngine):
    """An engine on which something happens right after a look at a container."""

    after_the_next: Callable[[], None] | None = None

    def pass_on(self, verb: str, work: Callable[[], Any], *arguments: object) -> Any:
        """Do one call."""
        answer = super().pass_on(verb, work, *arguments)
        if verb == "inspect_container" and (happens := self.after_the_next) is not None:
            self.after_the_next = None
            happens()
        return answer


@define
class Service:
    """A container that runs a script, and its updates to other scripts."""

    client: docker.DockerClient
    name: str
    store: BackupStore

    def update(self, script: str, *, watch: float, client: Any = None, **options: Any) -> Outcome:
        """Have it run another script, on probation."""
        chosen: dict[str, Any] = {"verify": healthy(stable_for=0.2), "watch": watch, **options}
        return replace(
            self.name, client=client or self.client, store=self.store, command=["sh", "-c", script], **chosen
        )

    def script(self) -> str:
        """Return the script that it runs."""
        found = DockerEngine(self.client).inspect_container(self.name)
        assert found["State"]["Status"] == "running"
        return str(found["Config"]["Cmd"][2])

    def id(self) -> str:
        """Return its id."""
        return str(DockerEngine(self.client).inspect_container(self.name)["Id"])


@pytest.fixture
def service(
    docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str], tmp_path: Path
) -> Iterator[Service]:
    """A service at work."""
    name = f"watched-{secrets.token_hex(4)}"
    docker_client.containers.run(
        busybox_image, ["sh", "-c", SERVICE], name=name, labels=test_labels, detach=True, stop_signal="SIGTERM"
    )
    yield Service(docker_client, name, BackupStore(tmp_path / "store"))
    remove_container(docker_client, name)


@pytest.mark.parametrize("policy", ["no", "always"])
def test_an_update_that_ends_on_probation_is_rolled_back(service: Service, policy: str) -> None:
    """It passed its checks; the very same container is back long before the probation is over."""
    before, told = service.id(), list[Outcome]()
    with pytest.raises(UpdateRejectedError) as rejected:
        service.update(
            "echo out of luck; sleep 3; exit 3",
            watch=LONG,
            host_config={"RestartPolicy": {"Name": policy}},
            on_outcome=told.append,
        )
    assert "out of luck" in rejected.value.log
    seconds = {step.step: step.seconds for step in told[0].steps}
    assert (told[0].status, seconds["watch"] < LONG) == (Status.ROLLED_BACK, True)
    assert (service.id(), service.script()) == (before, SERVICE)


def test_an_update_that_is_started_again_is_rolled_back(service: Service) -> None:
    """By somebody else, while it is on probation."""
    before, looks = service.id(), Looking(DockerEngine(service.client))

    def restart() -> None:
        service.client.api.restart(service.name, timeout=1)

    def begin(news: Progress) -> None:
        if news.step == "watch":
            looks.after_the_next = restart

    with pytest.raises(UpdateRejectedError, match="it was restarted"):
        service.update(f"{SERVICE} # 2", watch=LONG, client=looks, progress=begin)
    assert service.id() == before


def test_a_good_update_is_committed(service: Service) -> None:
    """After its probation."""
    script = f"{SERVICE} # 2"
    outcome = service.update(script, watch=2.0)
    seconds = {step.step: step.seconds for step in outcome.steps}
    assert (outcome.status, seconds["watch"] >= 2.0) == (Status.COMMITTED, True)
    assert service.script() == script


def test_a_job_may_end_on_probation(service: Service) -> None:
    """It ends with 0, and its policy does not start it again."""
    outcome = service.update("sleep 2", watch=LONG)
    seconds = {step.step: step.seconds for step in outcome.steps}
    assert (outcome.status, seconds["watch"] < LONG) == (Status.COMMITTED, True)


class Mortal(FailingEngine):
    """An engine as a process sees it that dies on probation."""

    dying = False

    def pass_on(self, verb: str, work: Callable[[], Any], *arguments: object) -> Any:
        """Do one call, or be dead."""
        if self.dying:
            raise Killed(f"dead before {verb}")
        return super().pass_on(verb, work, *arguments)


def test_a_death_on_probation_is_rolled_back_by_recovery(service: Service) -> None:
    """The update was not committed; what it had is kept as a backup."""
    before, mortal = service.id(), Mortal(DockerEngine(service.client))

    def die(news: Progress) -> None:
        mortal.dying = news.step == "watch"

    with pytest.raises(Killed):
        service.update(f"{SERVICE} # 2", watch=LONG, client=mortal, progress=die)
    assert service.id() != before
    (recovered,) = recover(client=service.client, store=service.store)
    assert (recovered.outcome, recovered.kept is not None) == ("rolled back", True)
    assert (service.id(), service.script()) == (before, SERVICE)
