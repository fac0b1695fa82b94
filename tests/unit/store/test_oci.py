"""The JSON of the OCI layout: read into values, or refused with the place of what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from cattrs import BaseValidationError

from docker_rollback._model import Descriptor
from docker_rollback._store import oci
from docker_rollback._store.strict_json import MalformedError
from tests.unit.store.making import digest

BLOB = {"mediaType": "a/b", "digest": digest(b"x"), "size": 1}


def refused(parse: Callable[[bytes], object], **fields: object) -> MalformedError:
    """Return the error for a document of version 2 with these fields."""
    with pytest.raises(MalformedError) as caught:
        parse(json.dumps({"schemaVersion": 2, **fields}).encode())
    return caught.value


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"layers": []}, "its config is missing"),
        ({"config": BLOB, "layers": {}}, "its layers is not a list"),
        ({"config": 7, "layers": []}, "its config is not a JSON object"),
        ({"config": BLOB, "layers": [BLOB, {**BLOB, "size": "1"}]}, "its layers[1].size is not a whole number"),
        ({"config": {**BLOB, "size": -1}, "layers": []}, "its config.size is negative"),
        ({"config": {**BLOB, "mediaType": None}, "layers": []}, "its config.mediaType is not a string"),
        ({"config": {**BLOB, "digest": "x"}, "layers": []}, "its config.digest is 'x', not a sha256 digest"),
        ({"config": BLOB, "layers": [], "artifactType": 7}, "its artifactType is not a string"),
    ],
)
def test_an_error_names_the_place(fields: dict[str, Any], reason: str) -> None:
    """The place is spelled as in the document, and cattrs' error is the cause."""
    error = refused(oci.parse_manifest, **fields)
    assert str(error) == reason
    assert isinstance(error.__cause__, BaseValidationError)


def test_an_error_names_an_entry_of_an_index() -> None:
    """The blob of an entry is the entry itself, so its fields are named without more."""
    assert (
        str(refused(oci.parse_index, manifests=[{**BLOB, "size": 0.5}]))
        == "its manifests[0].size is not a whole number"
    )


def test_an_error_names_a_layer_of_a_config() -> None:
    """What is not a digest among the layers of a config is named by its number."""
    error = refused(oci.diff_ids, rootfs={"diff_ids": [digest(b"x"), 7]})
    assert str(error) == "its rootfs.diff_ids[1] is 7, not a sha256 digest"


def test_unknown_keys_are_kept_in_an_index() -> None:
    """An index that is written again loses nothing of what other tools added."""
    entry = {**BLOB, "annotations": None, "platform": {"os": "linux"}}
    index = oci.parse_index(json.dumps({"schemaVersion": 2, "manifests": [entry], "subject": BLOB}).encode())
    assert index.raw["subject"] == BLOB
    assert index.children[0].raw == entry
    assert index.children[0].blob == Descriptor("a/b", digest(b"x"), 1)


def test_a_blob_may_be_empty() -> None:
    """A size of 0 is a size."""
    manifest = oci.parse_manifest(
        json.dumps({"schemaVersion": 2, "config": {**BLOB, "size": 0}, "layers": []}).encode()
    )
    assert manifest.config.size == 0


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"manifests": []}, oci.INDEX),
        ({"config": BLOB, "layers": []}, oci.MANIFEST),
        ({"mediaType": oci.INDEX}, oci.INDEX),
        ({"mediaType": oci.MANIFEST, "manifests": []}, oci.MANIFEST),
        ({"mediaType": "text/plain", "manifests": []}, oci.INDEX),
    ],
)
def test_a_manifest_says_what_it_is_or_is_known_by_what_it_has(fields: dict[str, Any], kind: str) -> None:
    """The media type is optional in both."""
    assert oci.manifest_type(json.dumps({"schemaVersion": 2, **fields}).encode()) == kind
