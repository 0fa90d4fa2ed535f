"""The three patches, as tables: what is there, what is sent, what becomes of it."""

# ruff: noqa: E501  (one row a line, with the sentence as it is)

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from overlay.services.objects import patches
from overlay.services.objects.kinds import INGRESS, NETWORK_POLICY, POD, SERVICE, Kind
from overlay.services.objects.status import StatusError

HTTP, DNS = {"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}


def _ports(*ports: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"ports": list(ports)}}


@pytest.mark.parametrize(
    ("kind", "old", "patch", "new"),
    [
        (SERVICE, {"spec": {"type": "A"}}, {"spec": {"type": "B"}}, {"spec": {"type": "B"}}),
        (SERVICE, {"spec": {"type": "A", "x": 1}}, {"spec": {"x": None}}, {"spec": {"type": "A"}}),
        (SERVICE, {}, {"metadata": {"labels": {"a": "b"}}}, {"metadata": {"labels": {"a": "b"}}}),
        (SERVICE, {"metadata": {"labels": {"a": "b"}}}, {"metadata": {"labels": {"c": "d"}}},
         {"metadata": {"labels": {"a": "b", "c": "d"}}}),
        # lists with a merge key
        (SERVICE, _ports(HTTP), _ports({"port": 80, "name": "web"}), _ports({**HTTP, "name": "web"})),
        (SERVICE, _ports(HTTP), _ports(DNS), _ports(HTTP, DNS)),
        (SERVICE, _ports(HTTP, DNS), _ports({"$patch": "delete", "port": 80}), _ports(DNS)),
        (SERVICE, _ports(HTTP), _ports({"$patch": "replace"}, DNS), _ports(DNS)),
        (SERVICE, _ports(HTTP, DNS), {"spec": {"$setElementOrder/ports": [{"port": 53}, {"port": 80}]}}, _ports(DNS, HTTP)),
        (SERVICE, _ports(HTTP, DNS), {"spec": {"$setElementOrder/ports": [{"port": 53}]}}, _ports(DNS, HTTP)),
        (SERVICE, _ports(HTTP), {"spec": {"$setElementOrder/ports": [{"port": 53}, {"port": 80}], "ports": [DNS]}},
         _ports(DNS, HTTP)),
        # directives of maps
        (SERVICE, {"spec": {"selector": {"a": "b"}}}, {"spec": {"selector": {"$patch": "replace", "c": "d"}}},
         {"spec": {"selector": {"c": "d"}}}),
        (SERVICE, {"spec": {"selector": {"a": "b"}}}, {"spec": {"selector": {"$patch": "delete"}}}, {"spec": {"selector": {}}}),
        (SERVICE, {"spec": {"a": 1, "b": 2}}, {"spec": {"$retainKeys": ["b", "c"], "c": 3}}, {"spec": {"b": 2, "c": 3}}),
        # lists of scalars: merged, or replaced whole
        (SERVICE, {"metadata": {"finalizers": ["a"]}}, {"metadata": {"finalizers": ["a", "b"]}},
         {"metadata": {"finalizers": ["a", "b"]}}),
        (SERVICE, {"metadata": {"finalizers": ["a", "b"]}}, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}},
         {"metadata": {"finalizers": ["b"]}}),
        (SERVICE, {"spec": {"externalIPs": ["a"]}}, {"spec": {"externalIPs": ["b"]}}, {"spec": {"externalIPs": ["b"]}}),
        (INGRESS, {"spec": {"rules": [{"host": "a"}]}}, {"spec": {"rules": [{"host": "b"}]}}, {"spec": {"rules": [{"host": "b"}]}}),
        (NETWORK_POLICY, {"spec": {"ingress": [{}]}}, {"spec": {"ingress": []}}, {"spec": {"ingress": []}}),
        (POD, {"spec": {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 1}]}]}},
         {"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 2}]}]}},
         {"spec": {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 1}, {"containerPort": 2}]}]}}),
    ],
)  # fmt: skip
def test_a_strategic_merge_patch(kind: Kind, old: Any, patch: Any, new: Any) -> None:
    before = deepcopy(old), deepcopy(patch)
    assert patches.apply(patches.STRATEGIC, kind.schema, old, patch) == new
    assert (old, patch) == before


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7386, appendix A, with a document in and a document out
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch(target: Any, patch: Any, result: Any) -> None:
    assert patches.apply(patches.MERGE, SERVICE.schema, target, patch) == result


@pytest.mark.parametrize(
    ("patch", "code", "told"),
    [
        ([{"op": "replace", "path": "/a", "value": 2}], 0, ""),
        ([{"op": "test", "path": "/a", "value": 2}], 422, "due to an error in our request"),
        ([{"op": "remove", "path": "/b"}], 422, "due to an error in our request"),
        ([{"op": "fly", "path": "/a"}], 400, "error decoding patch"),
        ([{"path": "/a"}], 400, "error decoding patch"),
        (["x"], 400, "error decoding patch"),
        ({"a": 1}, 400, "a JSON patch is a list of operations"),
        ([{"op": "replace", "path": "", "value": 3}], 400, "the patch leaves no object"),
        ([{"op": "test", "path": "/a", "value": 1}] * 10_001, 413, "maximum operations"),
        (
            [{"op": "add", "path": "/b", "value": {}}]
            + [{"op": "copy", "from": "/b", "path": f"/b/{n}"} for n in range(40)],
            422,
            "its copies are of more than",
        ),
        ([{"op": "copy", "path": "/b"}], 400, "error decoding patch"),
        ([{"op": "copy", "from": 1, "path": "/b"}], 400, "error decoding patch"),
        ([{"op": "copy", "from": "/c", "path": "/b"}], 422, "due to an error in our request"),
    ],
)
def test_a_json_patch(patch: Any, code: int, told: str) -> None:
    if not code:
        assert patches.apply(patches.JSON, SERVICE.schema, {"a": 1}, patch) == {"a": 2}
        return
    with pytest.raises(StatusError) as raised:
        patches.apply(patches.JSON, SERVICE.schema, {"a": 1}, patch)
    assert raised.value.code == code
    assert told in raised.value.message


@pytest.mark.parametrize(
    "patch",
    [
        [], "x", None,
        {"spec": {"$patch": "burn"}},
        {"spec": {"ports": [1]}},
        {"spec": {"ports": [{"name": "a"}]}},
        {"spec": {"$setElementOrder/ports": 3}},
        {"spec": {"$retainKeys": 3}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}},
    ],
)  # fmt: skip
def test_a_strategic_merge_patch_that_makes_no_sense(patch: Any) -> None:
    old = {"metadata": {"finalizers": ["a"]}, **_ports(HTTP)}
    with pytest.raises(StatusError) as raised:
        patches.apply(patches.STRATEGIC, SERVICE.schema, old, patch)
    assert raised.value.code == 400
