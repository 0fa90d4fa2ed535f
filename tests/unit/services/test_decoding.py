"""Unknown fields, nulls, and depth, when a document is read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.services.objects.decoding import decode_as
from overlay.services.objects.document import Object
from overlay.services.objects.kinds import KINDS, NETWORK_POLICY, SERVICE, Kind
from overlay.services.objects.status import StatusError
from tests.unit.services.support import service


def test_unknown_fields_are_named_and_left_out() -> None:
    decoded = decode_as(SERVICE, {**service(slector={"a": "b"}), "extra": 1, "metadata": {"name": "a", "nam": "b"}})
    assert sorted(decoded.unknown) == ["extra", "metadata.nam", "spec.slector"]
    assert "slector" not in decoded.document["spec"]
    assert decoded.document["metadata"] == {"name": "a"}


def test_null_is_absent_everywhere() -> None:
    decoded = decode_as(SERVICE, {"metadata": {"name": "a", "creationTimestamp": None, "labels": None}, "spec": None})
    assert decoded.document == {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}


def test_an_empty_list_is_not_an_absent_one() -> None:
    """An empty list of rules denies everything, an absent one says nothing."""
    spec: Object = {"podSelector": {}, "ingress": [], "egress": [{"to": []}, {}]}
    assert decode_as(NETWORK_POLICY, {"spec": spec}).document["spec"] == spec


def test_whole_floats_are_integers() -> None:
    assert decode_as(SERVICE, service(ports=[{"port": 80.0}])).document["spec"]["ports"] == [{"port": 80}]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.resource)
def test_every_kind_has_a_schema_with_metadata(kind: Kind) -> None:
    assert kind.schema.type == "object"
    metadata = kind.schema.field("metadata")
    assert metadata is not None
    assert metadata.field("labels") is not None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(
        st.sampled_from(("metadata", "spec", "status", "ports", "port", "name", "labels", "subsets", "x")), below),
    max_leaves=20,
)  # fmt: skip


@given(st.sampled_from(KINDS), _JSON)
def test_whatever_is_sent_is_a_document_or_a_bad_request(kind: Kind, sent: Any) -> None:
    try:
        decoded = decode_as(kind, sent)
    except StatusError as error:
        refused = error
    else:
        assert decode_as(kind, decoded.document).document == decoded.document
        assert not decode_as(kind, decoded.document).unknown
        return
    assert refused.code == 400
