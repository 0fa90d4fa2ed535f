"""The services' mirror: who selects whom, kept up to date, against looking at all with all."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.services import endpoints, facts_of
from overlay.services.keys import Keys
from overlay.services.mirror import ServicesFollower, ServicesMirror
from overlay.store.contract import Delete, KeyRange, KeyValue, Put, Recollection, Snapshot
from overlay.store.follower import Read
from tests.support.memory_store import MemoryCore

KEYS = Keys()
ALL = KeyRange(KEYS.root)

labels = st.dictionaries(st.sampled_from("abc"), st.sampled_from("12"), max_size=3)


def pod(namespace: str, name: str, own: dict[str, str]) -> bytes:
    return msgspec.json.encode(
        {
            "metadata": {"name": name, "namespace": namespace, "uid": name, "labels": own},
            "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
        }
    )


def service(namespace: str, name: str, selector: dict[str, str]) -> bytes:
    return msgspec.json.encode(
        {"metadata": {"name": name, "namespace": namespace}, "spec": {"selector": selector, "ports": [{"port": 80}]}}
    )


namespaces = st.sampled_from(["default", "shop"])
writes = st.one_of(
    st.tuples(st.just("pod"), namespaces, st.sampled_from("pqrs"), st.none() | labels),
    st.tuples(st.just("service"), namespaces, st.sampled_from("xyz"), st.none() | labels),
)


def key_of(kind: str, namespace: str, name: str) -> str:
    return KEYS.pod("n1", name) if kind == "pod" else KEYS.object("services", namespace, name)


@given(st.lists(st.tuples(st.lists(writes, max_size=4), st.booleans()), max_size=15))
def test_what_is_selected_is_what_a_look_at_all_finds(
    steps: list[tuple[list[tuple[str, str, str, dict[str, str] | None]], bool]],
) -> None:
    core, mirror = MemoryCore(), ServicesMirror(KEYS)
    mirror.load(core.read(ALL, 0.0), 0.0)
    for written, whole in steps:
        for kind, namespace, name, content in written:
            make = pod if kind == "pod" else service
            key = key_of(kind, namespace, name)
            operation = Delete(key) if content is None else Put(key, make(namespace, name, content))
            core.commit([], [operation], 0.0)
        before = {name: mirror.endpoints(name) for name in mirror.services}
        if whole:
            mirror.load(core.read(ALL, 0.0), 0.0)
        else:
            mirror.apply(core.events(ALL, mirror.revision))
        held = core.read(ALL, 0.0).items
        documents = {item.key: msgspec.json.decode(item.value) for item in held}
        pods = [facts_of.pod(item.key, item.value) for item in held if "/pods/" in item.key]
        expected = {}
        for key, document in documents.items():
            if "/services/" in key:
                known = facts_of.service(document)
                chosen = [p for p in pods if p.namespace == known.namespace and known.selects(p.labels)]
                expected[known.full_name] = sorted(p.key for p in chosen)
        assert {name: [p.key for p in mirror.selected(name)] for name in mirror.services} == expected
        for full_name, known in mirror.services.items():
            assert {p.key for p in mirror.pods.values() if full_name in mirror.selecting(p)} == set(expected[full_name])
            now = mirror.endpoints(full_name)
            if now != before.get(full_name) and known.selector:
                assert full_name in mirror.touched, "whoever watches is told"
                assert now is not None
                assert now["metadata"]["resourceVersion"] == str(mirror.revision)


def test_what_changes_touches_only_the_services_it_concerns() -> None:
    mirror = ServicesMirror(KEYS)
    items = [KeyValue(KEYS.object("services", "default", f"s{n}"), service("default", f"s{n}", {"app": str(n)}), n + 1)
             for n in range(50)]  # fmt: skip
    items += [KeyValue(KEYS.pod("n1", f"p{n}"), pod("default", f"p{n}", {"app": str(n)}), n + 100) for n in range(50)]
    mirror.load(Snapshot(200, tuple(items)), 0.0)
    changed = [item for item in items if item.key != KEYS.pod("n1", "p7")]
    mirror.load(Snapshot(201, tuple(changed)), 0.0)
    assert mirror.touched == {("default", "s7")}
    assert mirror.selected(("default", "s7")) == []
    assert len(mirror.selected(("default", "s8"))) == 1


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("/overlay/pods/n1", b"{}", "none of our keys"),
        ("/overlay/wrong/x", b"{}", "none of our keys"),
        ("/overlay/pods/n1/x", b"", "is no JSON"),
        ("/overlay/pods/n1/x", b'{"metadata":{}}', "no metadata.name"),
        ("/overlay/objects/services/default/x", b"[]", "no object"),
        ("/overlay/objects/services/default/x", b'{"metadata":{"name":"y","namespace":"default"}}', "of the key"),
    ],
)
def test_what_is_malformed_is_passed_over_and_named(key: str, value: bytes, told: str) -> None:
    mirror = ServicesMirror(KEYS)
    good = KeyValue(KEYS.pod("n1", "good"), pod("default", "good", {}), 5)
    mirror.load(Snapshot(9, (good, KeyValue(key, value, 6))), 0.0)
    assert told in str(mirror.malformed[key])
    assert key in str(mirror.malformed[key])
    assert list(mirror.pods) == [good.key]
    assert mirror.document(key) is None
    mirror.load(Snapshot(10, (good,)), 0.0)
    assert not mirror.malformed


def test_endpoints_of_a_service_without_selector_are_those_that_were_written() -> None:
    mirror = ServicesMirror(KEYS)
    written = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db", "namespace": "default"}}
    items = (
        KeyValue(KEYS.object("services", "default", "db"), service("default", "db", {}), 3),
        KeyValue(KEYS.object("endpoints", "default", "db"), msgspec.json.encode(written), 4),
    )
    mirror.load(Snapshot(9, items), 0.0)
    found = mirror.endpoints(("default", "db"))
    assert found is not None
    assert found["metadata"] == {"name": "db", "namespace": "default", "resourceVersion": "4"}
    assert mirror.slices(("default", "db")) == []
    assert mirror.endpoints(("default", "nobody")) is None


def test_a_node_is_ready_while_its_lease_lives() -> None:
    mirror = ServicesMirror(KEYS)
    record: dict[str, Any] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "status": {}}
    node = KeyValue(KEYS.node("n1"), msgspec.json.encode(record), 3)
    mirror.load(Snapshot(9, (node, KeyValue(KEYS.alive("n1"), b"id", 7, 5))), 0.0)
    (ready,) = mirror.nodes()
    assert ready["status"]["conditions"][0]["status"] == "True"
    assert ready["metadata"]["resourceVersion"] == "7"
    mirror.load(Snapshot(10, (node,)), 0.0)
    (gone,) = mirror.nodes()
    assert gone["status"]["conditions"][0]["status"] == "Unknown"
    assert mirror.node("n2") is None


def test_slices_are_those_of_its_pods() -> None:
    mirror = ServicesMirror(KEYS)
    items = (
        KeyValue(KEYS.object("services", "default", "web"), service("default", "web", {"app": "w"}), 3),
        KeyValue(KEYS.pod("n1", "p"), pod("default", "p", {"app": "w"}), 4),
    )
    mirror.load(Snapshot(9, items), 0.0)
    (made,) = mirror.slices(("default", "web"))
    assert made["metadata"].pop("resourceVersion") == "9"
    assert [made] == endpoints.slices(mirror.services["default", "web"], list(mirror.pods.values()))


def test_of_other_nodes_pods_only_the_facts_are_kept() -> None:
    mirror = ServicesMirror(KEYS, "n1")
    own, other = (
        KeyValue(KEYS.pod("n1", "p"), pod("default", "p", {}), 3),
        KeyValue(KEYS.pod("n2", "q"), pod("default", "q", {"app": "w"}), 4),
    )
    assert mirror.load(Snapshot(9, (own, other)), 0.0) == {own.key, other.key}
    assert mirror.items[own.key] == own
    assert len(mirror.items[other.key].value) == 16
    assert mirror.pods[other.key].labels == {"app": "w"}
    assert mirror.document(own.key) is not None
    assert mirror.document(other.key) is None
    assert mirror.load(Snapshot(10, (own, other)), 0.0) == set(), "and still nothing has changed"
    changed = KeyValue(other.key, pod("default", "q", {"app": "x"}), 4)
    assert mirror.load(Snapshot(11, (own, changed)), 0.0) == {other.key}


def test_a_store_that_remembers_the_same_is_followed_on_although_not_all_of_it_was_kept() -> None:
    """After an interruption the store has to prove its past; of other nodes' pods only a digest is there to compare."""
    core, follower = MemoryCore(), ServicesFollower(KEYS, Random(1), "n1")
    keys = [KEYS.pod("n1", "p"), KEYS.pod("n2", "q"), KEYS.object("services", "default", "s")]
    core.commit([], [Put(key, pod("default", "p", {})) for key in keys[:2]], 0.0)
    core.commit([], [Put(keys[2], service("default", "s", {"app": "w"}))], 0.0)
    assert isinstance(follower.next_step(0.0), Read)
    follower.loaded(core.read(ALL, 0.0), 0.1)
    follower.next_step(0.1)
    recall = follower.recall()
    assert recall is not None
    assert set(recall.keys) == set(keys)
    remembered = core.read(ALL, 0.0).items
    assert recall.agrees(Recollection(3, remembered))
    other = tuple(replace(each, value=each.value + b" ") if each.key == keys[1] else each for each in remembered)
    assert not recall.agrees(Recollection(3, other))
    assert not recall.agrees(Recollection(4, remembered))
    follower.proved(0.2)
    assert follower.recall() is None
