"""A backup's record: written and read back the same, or refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, fields
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._model.backup import (
    Backup,
    Clock,
    ContainerSnapshot,
    ContainerState,
    Descriptor,
    EngineRecord,
    ImageSnapshot,
    Mount,
    NetworkRecord,
    NotCovered,
    Project,
    VolumeArchive,
)
from docker_rollback._store.codec import NewerFormatError, dump_backup, load_backup
from docker_rollback._store.strict_json import MalformedError
from tests.unit.store import making

# Every text that an engine's JSON can hold, lone surrogates included.
texts = st.text(st.characters(), max_size=8)
numbers = st.integers(-(2**70), 2**70)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
inspections = st.dictionaries(texts, json_values, max_size=4)
descriptors = st.builds(
    Descriptor,
    st.just("application/x"),
    st.just(making.digest(b"x")),
    st.integers(0, 2**63),
    st.dictionaries(texts, texts, max_size=2),
)
few = st.lists(texts, max_size=3).map(tuple)
images = st.builds(ImageSnapshot, texts, texts, texts, few, few, st.booleans(), texts, st.none() | descriptors)
gaps = st.lists(st.builds(NotCovered, texts, texts), max_size=2).map(tuple)
states = st.builds(
    ContainerState,
    st.sampled_from(["created", "running", "paused", "exited", "dead"]),
    numbers,
    st.none() | texts,
    looping=st.booleans(),
)
containers = st.builds(
    ContainerSnapshot,
    texts,
    texts,
    inspections,
    states,
    images,
    st.lists(st.builds(Mount, texts, texts, texts, st.booleans(), st.booleans()), max_size=2).map(tuple),
    gaps,
)
volumes = st.builds(
    VolumeArchive,
    texts,
    inspections,
    st.booleans(),
    st.sampled_from(["direct", "helper"]),
    descriptors,
    st.none() | descriptors,
    st.integers(0, 2**63),
    gaps,
    st.none() | descriptors,
    st.none() | st.builds(Clock, texts, st.integers(-(2**63), 2**63)),
)
zones = st.integers(-12 * 60, 12 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
backups = st.builds(
    Backup,
    texts,
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=zones),  # noqa: DTZ001  (bounds have none)
    st.builds(EngineRecord, texts, texts, texts, texts, st.booleans(), texts, texts),
    st.sampled_from(["stop", "pause", "none"]),
    st.lists(containers, max_size=2).map(tuple),
    st.lists(volumes, max_size=2).map(tuple),
    st.lists(st.builds(NetworkRecord, texts, texts, inspections), max_size=2).map(tuple),
    few,
    few,
    st.none() | st.builds(Project, texts, few, few, few),
    other_networks=few,
)


@given(backups)
def test_every_backup_comes_back_equal(backup: Backup) -> None:
    """A record that was written reads as the same backup: JSON of engines to the letter, the moment in UTC."""
    data = dump_backup(backup)
    assert data.isascii()
    again = load_backup(data)
    assert again == backup
    assert again.created.tzinfo is UTC
    assert dump_backup(again) == data


@given(inspections)
def test_inspections_keep_types_and_order(inspection: dict[str, object]) -> None:
    """An inspection comes back with the same keys in the same order and values of the same types."""
    snapshot = evolve(making.snapshot("web", making.small_image(), None), inspection=inspection)
    (again,) = load_backup(dump_backup(making.backup_of("b1", [snapshot]))).containers
    assert json.dumps(again.inspection) == json.dumps(inspection)


def test_the_reference_has_every_field() -> None:
    """Each field of a record is named in the page on the store's format."""
    page = (Path(__file__).parents[3] / "docs" / "reference" / "store-format.md").read_text()
    values = (
        Backup,
        Clock,
        ContainerSnapshot,
        ContainerState,
        EngineRecord,
        ImageSnapshot,
        Mount,
        NetworkRecord,
        NotCovered,
        Project,
        VolumeArchive,
    )
    names = {field.name for value in values for field in fields(value)}
    assert {name for name in names if f"`{name}" not in page and f".{name}" not in page} == set()


def raw() -> dict[str, object]:
    """Return a record as JSON."""
    record = json.loads(dump_backup(making.backup_of("b1", [making.snapshot("web", making.small_image(), None)])))
    assert isinstance(record, dict)
    return record


def test_an_older_record_is_of_no_project() -> None:
    """It was written before there were any."""
    record: Any = raw()
    del record["backup"]["project"]
    assert load_backup(json.dumps(record).encode()).project is None


@pytest.mark.parametrize(
    "record",
    [
        [],
        {},
        {**raw(), "format": "1"},
        {**raw(), "format": True},
        {**raw(), "format": 0},
        {**raw(), "backup": None},
        {**raw(), "backup": []},
        {**raw(), "backup": {}},
    ],
)
def test_what_is_no_record_is_refused(record: object) -> None:
    """A document without a format, or without a backup in it, is malformed."""
    with pytest.raises(MalformedError):
        load_backup(json.dumps(record).encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"stop"', '"nap"'),
        ('"running"', '"jogging"'),
        ("2026-01-02T03:04:05+00:00", "yesterday"),
        ("2026-01-02T03:04:05+00:00", "2026-01-02T03:04:05"),
        ('"clean": true', '"clean": 1'),
        ('"clean": true', '"clean": "true"'),
        ('"exit_code": 0', '"exit_code": "0"'),
        ('"exit_code": 0', '"exit_code": false'),
        ('"name": "web"', '"name": 7'),
        ('"mounts": []', '"mounts": "ab"'),
        ('"mounts": []', '"mounts": {}'),
        ('"committed_layers": []', '"committed_layers": "ab"'),
        ('"IPAM": {"Config": []}}', '"IPAM": 1}, "inspection": 3'),
    ],
)
def test_fields_of_another_type_are_refused(old: str, new: str) -> None:
    """No field is bent into shape: what has another type or an unknown word is malformed."""
    text = json.dumps(raw())
    assert old in text
    with pytest.raises(MalformedError):
        load_backup(text.replace(old, new).encode())


def test_a_field_that_is_not_known_is_passed_over() -> None:
    """Fields that a later version of the same format adds do not make a record unreadable."""
    text = json.dumps(raw()).replace('"name": "web"', '"name": "web", "mood": "fine"')
    assert load_backup(text.encode()).containers[0].name == "web"


def test_a_newer_format_is_told() -> None:
    """A record of a newer format is told from one that is malformed, whatever else it holds."""
    with pytest.raises(NewerFormatError):
        load_backup(b'{"format": 4, "backup": "whatever"}')


OLDEST = {
    "format": 1,
    "writer": "docker-rollback 0.1.0",
    "backup": {
        "id": "b1",
        "created": "2026-01-02T03:04:05+00:00",
        "engine": {
            "flavour": "docker",
            "version": "28.5.2",
            "api_version": "1.51",
            "architecture": "x86_64",
            "containerd_store": False,
            "default_runtime": "runc",
        },
        "quiesce": "stop",
        "containers": [
            {
                "name": "web",
                "id": "c0ffee",
                "inspection": {"Name": "/web"},
                "state": {"status": "running"},
                "image": {
                    "reference": "app:1",
                    "original_id": "sha256:1",
                    "id": "sha256:2",
                    "layers": ["sha256:3"],
                    "committed_layers": ["sha256:3"],
                    "clean": True,
                    "tag": "docker-rollback:b1",
                },
            }
        ],
        "volumes": [
            {
                "name": "data",
                "inspection": {"Name": "data"},
                "anonymous": False,
                "way": "direct",
                "base": {"mediaType": "a/b", "digest": making.digest(b""), "size": 0},
            }
        ],
        "networks": [{"name": "net", "id": "n1", "inspection": {}}],
    },
}
"""What format 1 has had from its beginning; fields that come later have defaults, or the format's number rises."""


def test_the_oldest_record_is_read() -> None:
    """A record with nothing but what format 1 began with is a backup."""
    backup = load_backup(json.dumps(OLDEST).encode())
    assert (backup.id, backup.containers[0].name, backup.volumes[0].name, backup.networks[0].name) == (
        "b1",
        "web",
        "data",
        "net",
    )


def test_what_json_does_not_have_is_not_written() -> None:
    """A number that JSON does not have is refused when writing, not found out when reading."""
    snapshot = evolve(making.snapshot("web", making.small_image(), None), inspection={"x": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        dump_backup(making.backup_of("b1", [snapshot]))
