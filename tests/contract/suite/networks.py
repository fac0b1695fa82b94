"""The contract's rules about networks and volumes."""

from __future__ import annotations

from typing import Any

import pytest

from docker_rollback._engine import Engine
from docker_rollback.errors import (
    ContainerNotFoundError,
    EngineConflictError,
    NetworkNotFoundError,
    VolumeNotFoundError,
)
from tests.contract.suite.lab import Contract, Eyes, Lab


def _endpoints(engine: Engine, container: str) -> dict[str, dict[str, Any]]:
    return dict(engine.inspect_container(container)["NetworkSettings"]["Networks"])


class NetworkContract(Contract):
    """How networks are made, joined, left and removed."""

    def test_a_network_is_created_as_asked(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A network is found by its name and by its id, with what was asked for."""
        name = lab.name()
        made = lab.network(name, Internal=True, Labels={**lab.labels, "contract.a": "1"})
        assert eyes.network(name)
        for ref in (name, made, made[:12]):
            found = engine.inspect_network(ref)
            assert (found["Id"], found["Name"], found["Internal"]) == (made, name, True)
            assert found["Labels"]["contract.a"] == "1"

    def test_an_unknown_network_is_not_found(self, engine: Engine, lab: Lab) -> None:
        """Whatever is asked of a network that is not there, the error says so and names it; removal is harmless."""
        name, made = lab.name(), lab.created()
        for ref in (name, "ab" * 32):
            for ask in (
                lambda ref=ref: engine.inspect_network(ref),
                lambda ref=ref: engine.connect_network(ref, made, {}),
                lambda ref=ref: engine.disconnect_network(ref, made),
            ):
                with pytest.raises(NetworkNotFoundError) as caught:
                    ask()
                assert caught.value.name == ref
            engine.remove_network(ref)

    def test_the_beginning_of_a_network_id_is_no_name(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A few digits that an id begins with name no network, and remove none."""
        name = lab.name()
        made = lab.network(name)
        with pytest.raises(NetworkNotFoundError):
            engine.inspect_network(made[:6])
        for ref in (made[:6], "", ".."):
            engine.remove_network(ref)
        assert eyes.network(name)

    def test_a_taken_network_name_is_a_conflict(self, engine: Engine, lab: Lab) -> None:
        """A second network of the same name is a conflict."""
        name = lab.name()
        made = lab.network(name)
        with pytest.raises(EngineConflictError):
            lab.network(name)
        assert engine.inspect_network(name)["Id"] == made

    def test_networks_are_found_by_labels(self, engine: Engine, lab: Lab) -> None:
        """Labels find the networks that bear all of them, with these very values."""
        made = lab.network(Labels={**lab.labels, "contract.a": "x*"})
        lab.network(Labels={**lab.labels, "contract.a": "xy"})
        assert engine.list_networks(labels={**lab.labels, "contract.a": "x*"}) == [made]
        assert len(engine.list_networks(labels=lab.labels)) == 2
        assert made in engine.list_networks()

    @pytest.mark.parametrize("running", [True, False])
    def test_a_container_joins_and_leaves(self, lab: Lab, *, running: bool) -> None:
        """A container is attached with its aliases and detached again; to leave what it is not in is harmless."""
        name = lab.name()
        network, made = lab.network(name), lab.running() if running else lab.stopped()
        lab.engine.connect_network(name, made, {"Aliases": ["contract-alias"]})
        assert "contract-alias" in (_endpoints(lab.engine, made)[name]["Aliases"] or ())
        for _ in range(2):
            lab.engine.disconnect_network(network, made)
            assert name not in _endpoints(lab.engine, made)

    def test_a_container_is_created_on_the_networks_that_are_named(self, lab: Lab) -> None:
        """A create that names another network than the mode's does not attach the container to the mode's."""
        mode, other = lab.network(lab.name()), lab.name()
        lab.network(other)
        made = lab.created(host={"NetworkMode": mode}, NetworkingConfig={"EndpointsConfig": {other: {}}})
        assert list(_endpoints(lab.engine, made)) == [other]
        lab.engine.start_container(made)
        assert list(_endpoints(lab.engine, made)) == [other]

    def test_a_container_that_has_left_its_network_starts_on_none(self, lab: Lab) -> None:
        """A container that leaves the network of its mode before its first start is never on it."""
        name = lab.name()
        lab.network(name)
        made = lab.created(host={"NetworkMode": name})
        assert list(_endpoints(lab.engine, made)) == [name]
        lab.engine.disconnect_network(name, made, force=True)
        assert list(_endpoints(lab.engine, made)) == []
        lab.engine.start_container(made)
        assert list(_endpoints(lab.engine, made)) == []

    @pytest.mark.parametrize("running", [True, False])
    def test_joining_twice_is_a_conflict(self, lab: Lab, *, running: bool) -> None:
        """A container that is attached is not attached otherwise without a word."""
        name = lab.name()
        network, made = lab.network(name), lab.running() if running else lab.stopped()
        lab.engine.connect_network(network, made, {"Aliases": ["contract-alias"]})
        with pytest.raises(EngineConflictError):
            lab.engine.connect_network(network, made, {})
        assert "contract-alias" in (_endpoints(lab.engine, made)[name]["Aliases"] or ())

    def test_an_unknown_container_cannot_join(self, engine: Engine, lab: Lab) -> None:
        """Where the container is missing and not the network, the error says so."""
        network, name = lab.network(), lab.name()
        with pytest.raises(ContainerNotFoundError):
            engine.connect_network(network, name, {})
        with pytest.raises(ContainerNotFoundError):
            engine.disconnect_network(network, name)

    def test_a_network_in_use_is_not_removed(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A network that a running container uses stays; once it is left it goes, and again is harmless."""
        name = lab.name()
        network, made = lab.network(name), lab.running()
        engine.connect_network(network, made, {})
        with pytest.raises(EngineConflictError):
            engine.remove_network(name)
        assert eyes.network(name)
        engine.disconnect_network(network, made, force=True)
        for ref in (network, network, name):
            engine.remove_network(ref)
        assert not eyes.network(name)


class VolumeContract(Contract):
    """How volumes are made, found and removed."""

    def test_a_volume_is_created_as_asked(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A volume has the name and the labels that were asked for, and the usual driver."""
        name = lab.name()
        assert lab.volume(name) == name
        found = engine.inspect_volume(name)
        assert (found["Name"], found["Driver"]) == (name, "local")
        assert found["Labels"].items() >= lab.labels.items()
        assert eyes.volume(name)

    def test_a_volume_without_a_name_gets_one(self, engine: Engine, lab: Lab) -> None:
        """Each request without a name makes a volume of its own."""
        one, two = (engine.create_volume({"Labels": lab.labels}) for _ in range(2))
        assert one != two
        assert engine.inspect_volume(one)["Name"] == one

    def test_an_equal_volume_is_no_conflict(self, engine: Engine, lab: Lab) -> None:
        """To create what is there is harmless where it is equal, and a conflict where it is not."""
        name = lab.name()
        lab.volume(name)
        assert lab.volume(name) == name
        for other in (
            {"Labels": {**lab.labels, "contract.a": "1"}},
            {"DriverOpts": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}},
        ):
            with pytest.raises(EngineConflictError):
                lab.volume(name, **other)
        assert engine.inspect_volume(name)["Labels"].items() >= lab.labels.items()

    def test_options_are_kept(self, engine: Engine, lab: Lab) -> None:
        """The options of a volume are those of its request, and an equal request is harmless."""
        options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
        name = lab.volume(DriverOpts=options)
        assert engine.inspect_volume(name)["Options"].items() >= options.items()
        assert lab.volume(name, DriverOpts=options) == name

    def test_an_unknown_volume_is_not_found(self, engine: Engine, lab: Lab) -> None:
        """A volume that is not there is not found; to remove it is harmless."""
        for name in (lab.name(), "", "..", "../info"):
            with pytest.raises(VolumeNotFoundError) as caught:
                engine.inspect_volume(name)
            assert caught.value.name == name
            engine.remove_volume(name)

    def test_the_beginning_of_a_volume_name_is_no_name(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """To remove what another volume's name begins with leaves that volume alone."""
        name = f"{lab.name()}-precious"
        lab.volume(name)
        engine.remove_volume(name.removesuffix("-precious"))
        engine.remove_volume(name[:-1])
        assert eyes.volume(name)

    def test_volumes_are_found_by_labels(self, engine: Engine, lab: Lab) -> None:
        """Labels find the volumes that bear all of them, with these very values."""
        made = lab.volume(Labels={**lab.labels, "contract.a": "x*"})
        lab.volume(Labels={**lab.labels, "contract.a": "xy"})
        assert engine.list_volumes(labels={**lab.labels, "contract.a": "x*"}) == [made]
        assert len(engine.list_volumes(labels=lab.labels)) == 2
        assert made in engine.list_volumes()

    @pytest.mark.parametrize("state", ["created", "running", "exited"])
    def test_a_volume_in_use_is_not_removed(self, engine: Engine, lab: Lab, eyes: Eyes, state: str) -> None:
        """A volume that a container mounts stays, whatever the container does; then it goes, and again is harmless."""
        name = lab.volume()
        made = lab.created(host={"Binds": [f"{name}:/data"]})
        if state != "created":
            engine.start_container(made)
        if state == "exited":
            engine.stop_container(made)
        with pytest.raises(EngineConflictError):
            engine.remove_volume(name)
        assert eyes.volume(name)
        engine.remove_container(made, force=True)
        for _ in range(2):
            engine.remove_volume(name)
        assert not eyes.volume(name)
