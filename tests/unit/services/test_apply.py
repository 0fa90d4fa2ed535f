"""Server-side apply: sets of fields, who owns them, and what applying makes of an object."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.services.objects.apply import CLIENT_SIDE, LAST_APPLIED, applied, merged
from overlay.services.objects.decoding import decode_as
from overlay.services.objects.document import Object, copy
from overlay.services.objects.kinds import ENDPOINT_SLICE, NAMESPACE, SERVICE
from overlay.services.objects.lifecycle import for_update
from overlay.services.objects.managers import APPLY, MAX_UPDATERS, UPDATE, Manager, managers_of, record
from overlay.services.objects.ownership import difference, fields_of, from_v1, owned, shown, to_v1
from overlay.services.objects.status import StatusError
from tests.unit.services.support import made, service

LATER = "2026-03-01T13:00:00Z"


def sent(spec: dict[str, Any], **metadata: Any) -> Object:
    """A decoded document as people apply it: what they do not name, it has not."""
    given = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "redis", **metadata}, "spec": spec}
    return decode_as(SERVICE, given).document


def apply(live: Object | None, config: Object, name: str = "a", *, force: bool = False, now: str = LATER) -> Object:
    """What applying makes of an object, defaults filled in."""
    writer = Manager(name, APPLY, "v1")
    given = applied(SERVICE, live, config, writer, force=force)
    new = made(copy(given)) if live is None else for_update(SERVICE, live, given)
    record(SERVICE, live, given, new, writer=writer, now=now)
    return new


def update(live: Object, name: str = "u", now: str = LATER, **spec: Any) -> Object:
    """What a plain write of fields of ``spec`` makes of an object."""
    given = copy(live)
    given["spec"] |= spec
    new = for_update(SERVICE, live, given)
    record(SERVICE, live, given, new, writer=Manager(name, UPDATE, "v1"), now=now)
    return new


def fields(obj: Object, name: str) -> list[str]:
    """The fields that a manager owns, as people read them."""
    return sorted(shown(path) for who, owned in managers_of(obj).items() if who.name == name for path in owned)


def conflicts(live: Object, config: Object, name: str = "b") -> list[str]:
    try:
        apply(live, config, name)
    except StatusError as error:
        return [cause["field"] for cause in error.details["causes"] if cause["reason"] == "FieldManagerConflict"]
    return []


# --- the set of a document ---

SETS = [
    (SERVICE, {"spec": {"selector": {"app": "a"}, "type": "ClusterIP"}}, {"f:spec": {"f:selector": {}, "f:type": {}}}),
    (
        SERVICE, {"spec": {"ports": [{"port": 80, "name": "x"}, {"port": 80, "protocol": "UDP"}]}},
        {"f:spec": {"f:ports": {
            'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}, "f:name": {}},
            'k:{"port":80,"protocol":"UDP"}': {".": {}, "f:port": {}, "f:protocol": {}},
        }}},
    ),
    (SERVICE, {"metadata": {"labels": {"a": "b"}, "annotations": {}}},
     {"f:metadata": {"f:labels": {"f:a": {}}, "f:annotations": {}}}),
    (SERVICE, {"metadata": {"finalizers": ["x/y"], "ownerReferences": [{"uid": "1", "name": "n"}]}},
     {"f:metadata": {"f:finalizers": {'v:"x/y"': {}}, "f:ownerReferences": {'k:{"uid":"1"}': {}}}}),
    (SERVICE, {"spec": {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}}}},
     {"f:spec": {"f:sessionAffinityConfig": {"f:clientIP": {"f:timeoutSeconds": {}}}}}),
    (SERVICE, {"spec": {"externalIPs": ["192.0.2.1"]}, "status": {"loadBalancer": {}}},
     {"f:spec": {"f:externalIPs": {}}}),
    (SERVICE, {"metadata": {"name": "a", "namespace": "b", "uid": "c", "resourceVersion": "1", "generation": 1}}, {}),
    (ENDPOINT_SLICE, {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]},
     {"f:addressType": {}, "f:endpoints": {}}),
    (NAMESPACE, {"metadata": {"labels": {"a.b/c": "d"}}}, {"f:metadata": {"f:labels": {"f:a.b/c": {}}}}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "document", "tree"), SETS)
def test_the_set_of_a_document(kind: Any, document: Object, tree: dict[str, Any]) -> None:
    found = owned(kind, "", fields_of(kind.schema, document))
    assert to_v1(found) == tree
    assert from_v1(tree) == found


NAMES = st.sampled_from(["a", "b", "x/c"])
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "ports": st.lists(
            st.fixed_dictionaries(
                {"port": st.integers(1, 3), "name": NAMES.filter(lambda name: "/" not in name)},
                optional={"targetPort": st.integers(1, 3), "protocol": st.sampled_from(["TCP", "UDP"])},
            ),
            min_size=1,
            unique_by=lambda port: (port["port"], port.get("protocol", "TCP")),
        ),
        "selector": st.dictionaries(NAMES, st.sampled_from(["1", "2"])),
        "externalIPs": st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2"]), min_size=1),
        "publishNotReadyAddresses": st.booleans(),
        "sessionAffinityConfig": st.just({"clientIP": {"timeoutSeconds": 7}}),
    },
)
DOCUMENTS = st.builds(
    lambda spec, labels, finalizers: sent(spec, **{**labels, **finalizers}),
    SPECS,
    st.just({}) | st.builds(lambda found: {"labels": found}, st.dictionaries(NAMES, NAMES, min_size=1)),
    st.just({}) | st.builds(lambda found: {"finalizers": sorted(found)}, st.sets(NAMES, min_size=1)),
)


def leaves(value: Any, where: str = "") -> set[str]:
    """The scalars of a document, by a path of their own words: a slow twin that knows no schema."""
    if isinstance(value, dict) and value:
        return set().union(*(leaves(each, f"{where}.{key}") for key, each in value.items()))
    return {where}


ATOMIC = (".spec.selector", ".spec.externalIPs")


@given(DOCUMENTS)
def test_the_set_covers_exactly_the_leaves(document: Object) -> None:
    document = {"metadata": document["metadata"], "spec": {**document["spec"], "ports": []}}
    del document["spec"]["ports"]
    finalizers = document["metadata"].pop("finalizers", None)
    expected = {next((each for each in ATOMIC if leaf.startswith(each)), leaf) for leaf in leaves(document)}
    found = owned(SERVICE, "", fields_of(SERVICE.schema, document))
    assert {shown(path) for path in found} == expected - {".metadata.name", ".spec", ""}
    document["metadata"] |= {"finalizers": finalizers} if finalizers else {}
    assert len(owned(SERVICE, "", fields_of(SERVICE.schema, document))) == len(found) + len(finalizers or ())


@given(DOCUMENTS)
def test_a_set_is_read_as_it_was_written(document: Object) -> None:
    found = fields_of(SERVICE.schema, document)
    assert from_v1(to_v1(found)) == found


@pytest.mark.parametrize("tree", [None, [], {"x": {}}, {"f:a": 1}, {"f:a": {".": {}, "b": {}}}])
def test_what_is_no_set_is_refused(tree: Any) -> None:
    with pytest.raises(ValueError, match=r"fieldsV1|no set"):
        from_v1(tree)


@given(DOCUMENTS, DOCUMENTS)
def test_a_difference_is_what_changed_and_what_went(one: Object, other: Object) -> None:
    there, back = difference(SERVICE, "", one, other), difference(SERVICE, "", other, one)
    assert not there.set & there.removed
    assert there.removed <= back.set  # what went comes on the way back
    assert (not there.set and not there.removed) == (one == other or not (back.set or back.removed))


@pytest.mark.parametrize("word", ["v:" + "[" * 100_000, "k:[]", "k:", "v:\x00", "f:", "i:0"])
def test_words_that_somebody_made_up_are_shown(word: str) -> None:
    assert shown((word,))


# --- applying ---


@settings(deadline=None, max_examples=50)
@given(DOCUMENTS, DOCUMENTS)
def test_applied_twice_nothing_changes(one: Object, other: Object) -> None:
    once = applied(SERVICE, None, one, Manager("a", APPLY, "v1"), force=False)
    for config in (other, one):
        once = applied(SERVICE, once, config, Manager("a", APPLY, "v1"), force=False)
        assert applied(SERVICE, once, config, Manager("a", APPLY, "v1"), force=False) == once


@settings(deadline=None, max_examples=50)
@given(DOCUMENTS, DOCUMENTS)
def test_an_only_owner_gets_what_it_says_and_nothing_else(one: Object, other: Object) -> None:
    writer = Manager("a", APPLY, "v1")
    live = applied(SERVICE, applied(SERVICE, None, one, writer, force=False), other, writer, force=False)
    live["metadata"].pop("managedFields", None)
    left = difference(SERVICE, "", other, live)
    assert not {path for path in left.set if path[-1] != "f:protocol"}  # a key, which goes with its element
    assert not left.removed


@settings(deadline=None, max_examples=50)
@given(DOCUMENTS, DOCUMENTS)
def test_conflicts_are_symmetrical(one: Object, other: Object) -> None:
    found: list[list[str]] = []
    for first, second in itertools.permutations([one, other]):
        live = applied(SERVICE, None, first, Manager("a", APPLY, "v1"), force=False)
        try:
            applied(SERVICE, live, second, Manager("b", APPLY, "v1"), force=False)
            found.append([])
        except StatusError as error:
            found.append(sorted(cause["field"] for cause in error.details["causes"]))
    assert found[0] == found[1]


@settings(deadline=None, max_examples=50)
@given(DOCUMENTS, DOCUMENTS)
def test_forced_the_last_one_has_its_way_and_every_field_has_the_owners_that_agree(one: Object, other: Object) -> None:
    live = applied(SERVICE, None, one, Manager("a", APPLY, "v1"), force=False)
    live = applied(SERVICE, live, other, Manager("b", APPLY, "v1"), force=True)
    assert not difference(SERVICE, "", live, merged(SERVICE.schema, live, other)).set
    managers = managers_of(live)
    mine = owned(SERVICE, "", fields_of(SERVICE.schema, other))
    assert managers.get(Manager("b", APPLY, "v1"), frozenset()) == mine
    changed = difference(SERVICE, "", one, merged(SERVICE.schema, one, other)).set
    assert not managers.get(Manager("a", APPLY, "v1"), frozenset()) & changed


def test_what_an_applier_has_no_more_goes() -> None:
    live = apply(None, sent({"ports": [{"port": 80, "name": "x"}, {"port": 81, "name": "y"}]}, labels={"a": "b"}))
    assert fields(live, "a") == [
        ".metadata.labels.a",
        '.spec.ports[port=80,protocol="TCP"]', '.spec.ports[port=80,protocol="TCP"].name',
        '.spec.ports[port=80,protocol="TCP"].port',
        '.spec.ports[port=81,protocol="TCP"]', '.spec.ports[port=81,protocol="TCP"].name',
        '.spec.ports[port=81,protocol="TCP"].port',
    ]  # fmt: skip
    live = apply(live, sent({"ports": [{"port": 81}]}))
    assert live["spec"]["ports"] == [{"port": 81, "protocol": "TCP", "targetPort": 81}]
    assert "labels" not in live["metadata"]


def test_ports_of_one_number_are_told_apart_by_their_protocol() -> None:
    """What client-side apply cannot."""
    ports = [{"port": 53, "name": "tcp"}, {"port": 53, "name": "udp", "protocol": "UDP"}]
    live = apply(None, sent({"ports": ports}))
    live = apply(live, sent({"ports": [ports[0], {**ports[1], "name": "dns"}]}))
    assert [(port["protocol"], port["name"]) for port in live["spec"]["ports"]] == [("TCP", "tcp"), ("UDP", "dns")]


def test_the_key_of_an_element_goes_with_it_alone() -> None:
    a, b = (Manager(name, APPLY, "v1") for name in "ab")
    live = applied(SERVICE, None, sent({"ports": [{"port": 80, "protocol": "TCP"}]}), a, force=False)
    live = applied(SERVICE, live, sent({"ports": [{"port": 80, "name": "x"}]}), b, force=False)
    live = applied(SERVICE, live, sent({}), a, force=False)
    assert live["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "name": "x"}]
    assert "ports" not in applied(SERVICE, live, sent({}), b, force=False)["spec"]


def test_what_another_owns_too_stays() -> None:
    config = sent({"ports": [{"port": 80}], "selector": {"app": "x"}})
    live = apply(apply(None, config), config, "b")
    live = apply(live, sent({"ports": [{"port": 80}]}))
    assert live["spec"]["selector"] == {"app": "x"}
    assert ".spec.selector" not in fields(live, "a")
    assert "selector" not in apply(live, sent({"ports": [{"port": 80}]}), "b")["spec"]


def test_another_value_is_a_conflict_until_it_is_forced() -> None:
    live = apply(None, sent({"ports": [{"port": 80, "name": "x"}], "selector": {"app": "x"}}))
    other = sent({"ports": [{"port": 80, "name": "y"}], "selector": {"app": "y"}})
    assert conflicts(live, other) == ['.spec.ports[port=80,protocol="TCP"].name', ".spec.selector"]
    with pytest.raises(StatusError) as raised:
        apply(live, other, "b")
    assert raised.value.message == (
        'Apply failed with 2 conflicts: conflicts with "a":\n'
        '- .spec.ports[port=80,protocol="TCP"].name\n- .spec.selector'
    )
    live = apply(live, other, "b", force=True)
    assert live["spec"]["selector"] == {"app": "y"}
    assert ".spec.selector" not in fields(live, "a")
    assert ".spec.selector" in fields(live, "b")
    with pytest.raises(StatusError, match=r'1 conflict: conflict with "b": .spec.selector'):
        apply(live, sent({"selector": {"app": "x"}}))


def test_a_plain_write_takes_what_it_changes() -> None:
    live = apply(None, sent({"ports": [{"port": 80}], "selector": {"app": "x"}}))
    live = update(live, selector={"app": "y"})
    assert fields(live, "u") == [".spec.selector"]
    assert ".spec.selector" not in fields(live, "a")
    with pytest.raises(StatusError, match=r'conflict with "u" using v1: .spec.selector'):
        apply(live, sent({"ports": [{"port": 80}], "selector": {"app": "x"}}))
    assert conflicts(live, sent({"ports": [{"port": 80}], "selector": {"app": "y"}}), "a") == []


def test_a_plain_write_that_removes_leaves_no_owner() -> None:
    live = apply(None, sent({"ports": [{"port": 80}], "selector": {"app": "x"}}))
    given_ = copy(live)
    del given_["spec"]["selector"]
    new = for_update(SERVICE, live, given_)
    record(SERVICE, live, given_, new, writer=Manager("u", UPDATE, "v1"), now=LATER)
    assert ".spec.selector" not in fields(new, "a")
    assert fields(new, "u") == []


def test_what_nobody_changes_keeps_its_time_and_its_bytes() -> None:
    live = apply(None, sent({"ports": [{"port": 80}]}), now="2026-03-01T12:00:00Z")
    assert apply(live, sent({"ports": [{"port": 80}]}), now=LATER) == live
    assert update(live, now=LATER) == live
    changed = update(live, now=LATER, selector={"a": "b"})
    assert [entry["time"] for entry in changed["metadata"]["managedFields"]] == ["2026-03-01T12:00:00Z", LATER]


def test_an_object_without_owners_has_one_before_the_first_apply() -> None:
    old = made(service())
    assert "managedFields" not in update(old, selector={"a": "b"})["metadata"]
    with pytest.raises(StatusError, match=r'conflict with "before-first-apply" using v1: .spec.selector'):
        apply(old, sent({"ports": [{"port": 6379}], "selector": {"app": "x"}}))
    assert ".spec.selector" in fields(apply(old, sent({"selector": {"app": "redis"}})), "a")


def test_kubectl_takes_over_what_it_applied_itself_before() -> None:
    old = made(service())
    old["metadata"]["annotations"] = {LAST_APPLIED: "{}"}
    writer = Manager(CLIENT_SIDE, UPDATE, "v1")
    record(SERVICE, None, old, old, writer=writer, now=LATER)
    config = sent({"selector": {"app": "other"}})
    assert conflicts(old, config) == [".spec.selector"]
    live = apply(old, config, "kubectl")
    assert live["spec"]["selector"] == {"app": "other"}
    assert ".spec.selector" not in fields(live, CLIENT_SIDE)
    told = json.loads(live["metadata"]["annotations"][LAST_APPLIED])  # for who goes back to the client's side
    assert told["spec"] == {"selector": {"app": "other"}}
    assert apply(old, sent({}), "other")["metadata"]["annotations"] == {LAST_APPLIED: "{}"}


def test_whoever_writes_the_status_owns_that_alone() -> None:
    live = apply(None, sent({"ports": [{"port": 80}]}))
    given_ = {**copy(live), "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
    given_["spec"]["type"] = "LoadBalancer"
    new = for_update(SERVICE, live, given_, status=True)
    record(SERVICE, live, given_, new, writer=Manager("lb", UPDATE, "v1", "status"), now=LATER)
    assert fields(new, "lb") == [".status.loadBalancer.ingress"]
    assert new["metadata"]["managedFields"][-1]["subresource"] == "status"


def test_owners_may_be_set_by_hand_and_taken_away() -> None:
    live = apply(None, sent({"ports": [{"port": 80}]}))
    entry = {**live["metadata"]["managedFields"][0], "manager": "renamed"}
    for entries, names in (([entry], ["renamed"]), ([{}], []), ([], ["a"]), ([{"operation": "x"}], ["a"])):
        given_ = copy(live)
        given_["metadata"]["managedFields"] = entries
        new = for_update(SERVICE, live, given_)
        record(SERVICE, live, given_, new, writer=Manager("u", UPDATE, "v1"), now=LATER)
        assert [each.name for each in managers_of(new)] == names


def test_the_owners_that_an_object_can_have_are_bounded() -> None:
    live = apply(None, sent({"ports": [{"port": 80}]}))
    for number in range(3 * MAX_UPDATERS):
        given_ = copy(live)
        given_["metadata"].setdefault("labels", {})[f"l{number}"] = "x"
        new = for_update(SERVICE, live, given_)
        now = f"2026-03-01T12:00:{number:02}Z"
        record(SERVICE, live, given_, new, writer=Manager(f"u{number}", UPDATE, "v1"), now=now)
        live = new
    assert len(live["metadata"]["managedFields"]) == 1 + MAX_UPDATERS
    assert ".metadata.labels.l0" in fields(live, "ancient-changes")
    assert sum(len(each) for each in managers_of(live).values()) == 2 + 1 + 3 * MAX_UPDATERS


@pytest.mark.parametrize(
    ("ports", "told"),
    [
        ([{"name": "x"}], 'has no "port"'),
        ([{"port": 80}, {"port": 80}], r'duplicate entries.*\[port=80,protocol="TCP"\]'),
    ],
)
def test_elements_that_are_not_to_be_told_apart_are_refused(ports: list[Any], told: str) -> None:
    with pytest.raises(StatusError, match=told) as raised:
        apply(None, sent({"ports": ports}))
    assert raised.value.code == 400


def test_what_is_stored_may_have_elements_that_are_not_to_be_told_apart() -> None:
    """Nobody was refused them before; a plain write is not, now."""
    references = [{"uid": "1", "name": name, "apiVersion": "v1", "kind": "Service"} for name in "ab"]
    old = apply(None, sent({"ports": [{"port": 80}]}))
    old["metadata"] |= {"finalizers": ["x/y", "x/y"], "ownerReferences": references}
    assert fields(update(old, selector={"a": "b"}), "u") == [".spec.selector"]
    live = apply(old, sent({"ports": [{"port": 80}], "selector": {"a": "b"}}))
    assert live["metadata"]["ownerReferences"] == references


@pytest.mark.parametrize(
    ("live", "config", "wanted"),
    [("abc", "", "abc"), ("abc", "ca", "cab"), ("ab", "xb", "axb"), ("", "ba", "ba"), ("abc", "cdb", "acdb")],
)
def test_a_list_keeps_the_order_of_who_applies(live: str, config: str, wanted: str) -> None:
    schema = SERVICE.schema.field("metadata")
    assert schema is not None
    result = merged(schema, {"finalizers": list(live)}, {"finalizers": list(config)})
    assert "".join(result["finalizers"]) == wanted
