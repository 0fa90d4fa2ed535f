"""Objects as JSON documents."""

from __future__ import annotations

import pytest

from overlay.services.objects import document

_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web", "tier": "front"}},
    "spec": {"nodeName": "n1"},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "False"}]},
}


def test_what_is_stored_is_read_again_with_the_revision_of_its_key() -> None:
    read = document.decode(document.encode(_POD), 17)
    assert read["metadata"].pop("resourceVersion") == "17"
    assert read == _POD


def test_the_revision_is_not_stored_and_the_bytes_have_one_order() -> None:
    reordered = dict(reversed(_POD.items()))
    reordered["metadata"] = {"resourceVersion": "9", **dict(reversed(_POD["metadata"].items()))}  # type: ignore[attr-defined]
    assert document.encode(reordered) == document.encode(_POD)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[]", "no object with metadata"),
        (b'{"metadata":[]}', "no object with metadata"),
        (b'{"metadata":{}}', "no metadata.name"),
        (b'{"metadata":{"name":7}}', "no metadata.name"),
    ],
)
def test_what_is_no_object_is_told_by_its_key(value: bytes, told: str) -> None:
    with pytest.raises(document.ObjectFormatError, match=told) as raised:
        document.decode(value, 1, about="/overlay/objects/services/a/b")
    assert "/overlay/objects/services/a/b" in str(raised.value)


@pytest.mark.parametrize("absent", [{}, {"metadata": None, "spec": None, "status": None}, {"metadata": 3, "spec": []}])
def test_what_is_absent_is_empty(absent: document.Object) -> None:
    assert document.metadata_of(absent) == document.spec_of(absent) == document.status_of(absent) == {}
    assert document.labels_of(absent) == document.annotations_of(absent) == {}
    assert document.name_of(absent) == document.namespace_of(absent) == ""
    assert not document.condition(absent, "Ready")


def test_conditions() -> None:
    assert document.condition(_POD, "Ready")
    assert not document.condition(_POD, "Initialized")
    assert not document.condition(_POD, "ContainersReady")


@pytest.mark.parametrize(
    ("selector", "taken"),
    [({}, False), ({"app": "web"}, True), ({"app": "web", "tier": "back"}, False), ({"other": ""}, False)],
)
def test_a_services_selector(selector: dict[str, str], taken: bool) -> None:
    assert document.selects(selector, document.labels_of(_POD)) is taken
