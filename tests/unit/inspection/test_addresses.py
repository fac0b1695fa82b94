"""Addresses that were asked for, told from those that an engine chose, where it says neither."""

from __future__ import annotations

from typing import Any

import pytest

from docker_rollback import compare
from docker_rollback._inspection.addresses import with_asked, with_asked_macs
from docker_rollback._inspection.recreate import create_request, user_endpoints
from docker_rollback.testing import FakeEngine


def inspection(started: str = "1", *, running: bool = True, **endpoints: dict[str, Any]) -> dict[str, Any]:
    """Return as much of an inspection by Podman as is needed, of a container on a network or several."""
    engine = FakeEngine()
    engine.add_image("shop:1")
    engine.run("shop", image="shop:1", networks=list(endpoints))
    found = dict(engine.inspect_container("shop"))
    networks = {name: {"IPAMConfig": None, **endpoint} for name, endpoint in endpoints.items()}
    state = {**found["State"], "Running": running, "StartedAt": started}
    return {**found, "State": state, "NetworkSettings": {"Networks": networks}}


FIXED = {"IPAddress": "10.0.0.7", "GlobalIPv6Address": "fd00::7", "MacAddress": "02:00:00:00:00:07"}


def test_what_a_start_leaves_as_it_was_was_asked_for() -> None:
    """Two addresses and the MAC address are asked for again; what has changed is left to the engine again."""
    before = inspection(front=FIXED, back={"IPAddress": "10.1.0.2", "MacAddress": "aa"})
    after = inspection("2", front=FIXED, back={"IPAddress": "10.1.0.3", "MacAddress": "bb"})
    told, unknown = with_asked(before, after)
    assert unknown == ()
    endpoints = user_endpoints(told)
    assert endpoints["front"]["IPAMConfig"] == {"IPv4Address": "10.0.0.7", "IPv6Address": "fd00::7"}
    assert endpoints["front"]["MacAddress"] == "02:00:00:00:00:07"
    assert not {"IPAMConfig", "MacAddress"} & endpoints["back"].keys()
    request = create_request(told, image="shop:1", image_config={})
    sent = {**request.body["NetworkingConfig"]["EndpointsConfig"], **request.networks}
    assert sent["front"]["IPAMConfig"]["IPv4Address"] == "10.0.0.7"
    assert compare(told, after) == []


@pytest.mark.parametrize(
    "after",
    [
        None,
        inspection(front=FIXED),
        inspection("2", running=False, front=FIXED),
        inspection("2", back=FIXED),
    ],
    ids=["gone", "not started again", "at rest", "off the network"],
)
def test_what_cannot_be_told_is_said(after: dict[str, Any] | None) -> None:
    """Nothing is asked for by chance, and the backup says what it does not know."""
    told, unknown = with_asked(inspection(front=FIXED), after)
    assert "IPAMConfig" not in user_endpoints(told)["front"]
    assert [gap.what for gap in unknown] == ["address on network front"]


def test_one_that_did_not_run_tells_nothing() -> None:
    """It had no address before, and its first start is no second one."""
    _, unknown = with_asked(inspection("", running=False, front={"IPAddress": ""}), inspection("2", front=FIXED))
    assert [gap.what for gap in unknown] == ["address on network front"]


def test_what_its_engine_tells_is_taken_as_it_is() -> None:
    """An endpoint that says what was asked for needs no second look."""
    before = inspection(front={**FIXED, "IPAMConfig": {"IPv4Address": "10.0.0.7"}})
    told, unknown = with_asked(before, None)
    assert (unknown, user_endpoints(told)["front"]["IPAMConfig"]) == ((), {"IPv4Address": "10.0.0.7"})


def test_docker_tells_a_mac_address_on_a_second_network_by_a_start() -> None:
    """What a start leaves as it was was asked for, unless Docker made it from the address; what is random was not."""
    made = {"IPAddress": "172.18.0.2", "MacAddress": "02:42:ac:12:00:02"}
    before = inspection(front=FIXED, back=FIXED, made=made, drawn={"MacAddress": "aa"})
    after = inspection("2", front=FIXED, back=FIXED, made=made, drawn={"MacAddress": "bb"})
    told, unknown = with_asked_macs(before, after)
    assert unknown == ()
    asked = {name: endpoint.get("MacAddress") for name, endpoint in user_endpoints(told).items()}
    assert asked == {"front": None, "back": FIXED["MacAddress"], "made": None, "drawn": None}
    _, unknown = with_asked_macs(before, None)
    assert [gap.what for gap in unknown] == ["MAC address on network back", "MAC address on network drawn"]
    told, unknown = with_asked_macs(inspection("", running=False, front={}, back={"MacAddress": "aa"}), None)
    assert (unknown, user_endpoints(told)["back"]["MacAddress"]) == ((), "aa")
