"""The table against an oracle that reads documents, and what a connection meets against the table's own words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.services import facts, facts_of
from overlay.services.facts import Pod, Service, ServiceName, WrittenEndpoint
from overlay.services.keys import Keys
from overlay.services.meeting import meets
from overlay.services.mirror import ServicesMirror
from overlay.services.objects.document import Object, encode
from overlay.services.table import Answer, Backend, Entry, Frontend, Kind, Place, PortName, Table
from overlay.services.table_maker import TableMaker
from overlay.store.contract import Delete, KeyRange, Put
from tests.support.memory_store import MemoryCore

KEYS = Keys()
ALL = KeyRange(KEYS.root)
PLACE = Place("n1", (IPv4Network("10.0.0.0/16"),), frozenset({"172.31.0.1", "10.0.1.0"}))
CLIENT, POD, OWN = map(IPv4Address, ("203.0.113.9", "10.0.7.7", "172.31.0.1"))


def service(name: str = "web", created: str = "2026-01-01T00:00:00Z", **spec: Any) -> Object:
    spec = {
        "type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": [spec.get("clusterIP", "10.96.0.9")],
        "selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}],
    } | spec  # fmt: skip
    metadata = {"name": name, "namespace": "default", "creationTimestamp": created}
    return {"metadata": metadata, "spec": spec}


def pod(number: int, node: str = "n1", app: str = "web", **more: Any) -> Object:
    metadata = {"name": f"p{number}", "namespace": "default", "uid": f"u{number}", "labels": {"app": app}}
    if more.get("terminating"):
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    address = more.get("address", f"10.0.{node[1:]}.{number}")
    ready = [{"type": "Ready", "status": str(more.get("ready", True))}]
    return {
        "metadata": metadata,
        "spec": {"nodeName": node},
        "status": {"podIP": address, "conditions": ready, "phase": more.get("phase", "Running")},
    }


@dataclass
class Held:
    """A mirror's worth of documents."""

    services: Mapping[ServiceName, Service] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)
    by_hand: Mapping[ServiceName, list[WrittenEndpoint]] = field(default_factory=dict)

    def selected(self, name: ServiceName) -> list[Pod]:
        if name not in self.services:
            return []
        return [each for each in self.pods if self.services[name].selects(each.labels)]

    def written(self, name: ServiceName) -> list[WrittenEndpoint]:
        return self.by_hand.get(name, [])


def held(services: list[Object], pods: list[Object] = [], **by_hand: Any) -> Held:  # noqa: B006 (is not changed)
    known = [facts_of.service(each) for each in services]
    found = [facts_of.pod(f"/overlay/pods/{each['spec']['nodeName']}/{number}", encode(each))
             for number, each in enumerate(pods)]  # fmt: skip
    return Held({each.full_name: each for each in known}, found, {("default", k): v for k, v in by_hand.items()})


def table_of(services: list[Object], pods: list[Object] = [], **by_hand: Any) -> Table:  # noqa: B006 (is not changed)
    return TableMaker().make(held(services, pods, **by_hand), PLACE)


def only(table: Table) -> Entry:
    (entry,) = table.entries.values()
    return entry


# --- which endpoints ------------------------------------------------------------------------------------------------

states = st.sampled_from(["ready", "unready", "draining", "dying", "ended"])
crowds = st.lists(st.tuples(states, st.sampled_from(["n1", "n2"])), max_size=6)


def of_state(number: int, state: str, node: str) -> Object:
    ready, terminating = state in ("ready", "draining", "ended"), state in ("draining", "dying")
    phase = "Succeeded" if state == "ended" else "Running"
    return pod(number, node, ready=ready, terminating=terminating, phase=phase)


def expected_backends(crowd: list[tuple[str, str]], *, publish: bool, only_node: str | None) -> set[str]:
    """Kubernetes' words: ready ones, else those that serve and terminate (topology.go)."""
    within = [(number, state, node) for number, (state, node) in enumerate(crowd, 1) if only_node in (None, node)]
    for wanted in ({"ready", "unready", "draining", "dying"} if publish else {"ready"}, {"draining"}):
        if found := {f"10.0.{node[1:]}.{number}" for number, state, node in within if state in wanted}:
            return found
    return set()


@given(crowds, st.booleans())
def test_ready_endpoints_are_used_and_where_none_is_those_that_serve_while_they_terminate(
    crowd: list[tuple[str, str]], publish: bool
) -> None:
    pods = [of_state(number, *each) for number, each in enumerate(crowd, 1)]
    entry = only(table_of([service(publishNotReadyAddresses=publish)], pods))
    assert {each.address for each in entry.cluster} == expected_backends(crowd, publish=publish, only_node=None)
    assert {each.address for each in entry.local} == expected_backends(crowd, publish=publish, only_node="n1")
    assert all(each.local == each.address.startswith("10.0.1.") for each in entry.all_backends)
    serving = {f"10.0.{node[1:]}.{number}" for number, (state, node) in enumerate(crowd, 1) if state == "draining"}
    assert {each.address for each in entry.draining} == serving - {each.address for each in entry.all_backends}
    assert {each.port for each in entry.all_backends} <= {8080}


def test_endpoints_that_people_wrote_count_where_the_service_selects_none() -> None:
    port = facts.ContainerPort("", 5432, "TCP")
    db = [
        WrittenEndpoint("192.0.2.7", "", (port,), True, True, False),
        WrittenEndpoint("192.0.2.8", "n1", (port,), False, True, True),
    ]
    assert only(table_of([service(selector={})], [], web=db)).cluster == (Backend("192.0.2.7", 5432, False),)
    assert only(table_of([service(selector={})], [], web=db)).local == (Backend("192.0.2.8", 5432, True),)
    assert only(table_of([service()], [], web=db)).cluster == ()


@pytest.mark.parametrize(
    "spec",
    [
        {"clusterIP": "None", "clusterIPs": ["None"]},
        {"clusterIP": "", "clusterIPs": []},
        {"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]},
        {"type": "ExternalName", "externalName": "example.org"},
    ],
)
def test_a_service_without_an_ipv4_cluster_ip_is_in_no_table(spec: dict[str, Any]) -> None:
    assert table_of([service(**spec)], [pod(1)]).entries == {}


# --- which addresses ------------------------------------------------------------------------------------------------


def test_every_address_of_a_service_is_a_frontend() -> None:
    document = service(
        type="LoadBalancer", externalIPs=["198.51.100.7", "10.96.0.9", "fd00::7", "nonsense"],
        loadBalancerSourceRanges=["203.0.113.0/24", " 192.0.2.1/24 ", "fd00::/8", "nonsense"],
        ports=[{"port": 80, "nodePort": 30080, "name": "http"}, {"port": 53, "protocol": "UDP", "name": "dns"}],
        sessionAffinity="ClientIP", externalTrafficPolicy="Local", internalTrafficPolicy="Local",
    )  # fmt: skip
    ingress = [{"ip": "198.51.100.9"}, {"ip": "198.51.100.8", "ipMode": "Proxy"}, {"hostname": "lb.example.org"}]
    document["status"] = {"loadBalancer": {"ingress": ingress}}
    document["metadata"]["annotations"] = {"overlay.io/scheduler": "lc"}
    http, dns = table_of([document]).entries.values()
    assert http.name == PortName("default", "web", "http", "TCP")
    assert (str(http.name), str(dns.name)) == ("default/web:http", "default/web:dns/UDP")
    assert http.frontends == (
        Frontend(Kind.CLUSTER_IP, "10.96.0.9", 80),
        Frontend(Kind.LOAD_BALANCER, "198.51.100.9", 80),
        Frontend(Kind.EXTERNAL_IP, "198.51.100.7", 80),
        Frontend(Kind.NODE_PORT, "", 30080),
    )
    assert [each.kind for each in dns.frontends] == [Kind.CLUSTER_IP, Kind.LOAD_BALANCER, Kind.EXTERNAL_IP]
    assert http.source_ranges == (IPv4Network("203.0.113.0/24"), IPv4Network("192.0.2.0/24"))
    assert (http.affinity_seconds, http.scheduler, http.internal_local, http.external_local) == (
        10800, "lc", True, True,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["ClusterIP", "NodePort"])
def test_addresses_of_another_type_that_a_service_had_are_none(kind: str) -> None:
    document = service(type=kind, ports=[{"port": 80, "nodePort": 30080}])
    document["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.9"}]}}
    kinds = {each.kind for each in only(table_of([document])).frontends}
    assert kinds == {Kind.CLUSTER_IP} | ({Kind.NODE_PORT} if kind == "NodePort" else set())


@pytest.mark.parametrize(
    ("config", "seconds"),
    [({}, 10800), ({"clientIP": {"timeoutSeconds": 7}}, 7), ({"clientIP": {"timeoutSeconds": 0}}, 10800), ([], 10800)],
)
def test_affinity_lasts_as_long_as_the_service_says(config: Any, seconds: int) -> None:
    document = service(sessionAffinity="ClientIP", sessionAffinityConfig=config)
    assert only(table_of([document])).affinity_seconds == seconds


def test_of_two_services_that_claim_an_address_the_older_one_has_it_until_it_is_gone() -> None:
    old = service("z", "2025-01-01T00:00:00Z", externalIPs=["198.51.100.7"], clusterIP="10.96.0.1")
    new = service("a", externalIPs=["198.51.100.7"], clusterIP="10.96.0.2")
    maker = TableMaker()
    both = maker.make(held([old, new]), PLACE)
    owned = {f.address: name.service for name, entry in both.entries.items() for f in entry.frontends}
    assert owned == {"10.96.0.1": "z", "10.96.0.2": "a", "198.51.100.7": "z"}
    assert both.conflicts == ("198.51.100.7:80/TCP is default/z's, and claimed by default/a too",)
    one = maker.make(held([new]), PLACE, {("default", "z")})
    assert one == table_of([new])
    assert one.conflicts == ()


# --- made one from the other ----------------------------------------------------------------------------------------

numbers = st.integers(1, 3)
service_writes = st.fixed_dictionaries(
    {
        "clusterIP": st.sampled_from(["10.96.0.1", "10.96.0.2", "None"]),
        "externalIPs": st.sampled_from([[], ["198.51.100.7"], ["198.51.100.7", "10.96.0.1"]]),
        "selector": st.sampled_from([{}, {"app": "a"}, {"app": "b"}]),
        "type": st.sampled_from(["ClusterIP", "NodePort"]),
        "ports": st.sampled_from([[{"port": 80, "nodePort": 30001}], [{"port": 81, "name": "x", "nodePort": 30002}]]),
    }
)
writes = st.one_of(
    st.tuples(st.just("services"), numbers, st.none() | service_writes),
    st.tuples(st.just("pods"), numbers, st.none() | st.sampled_from("ab")),
    st.tuples(st.just("endpoints"), numbers, st.none() | st.sampled_from(["192.0.2.1", "192.0.2.2"])),
    st.tuples(st.just("endpointslices"), numbers, st.none() | st.sampled_from(["192.0.2.3", "192.0.2.4"])),
)


def operation(kind: str, number: int, content: Any) -> Put | Delete:
    key = KEYS.pod("n1", str(number)) if kind == "pods" else KEYS.object(kind, "default", f"s{number}")
    if content is None:
        return Delete(key)
    document: Object = {"metadata": {"name": f"s{number}", "namespace": "default"}}
    if kind == "services":
        document = service(f"s{number}", **content)
    elif kind == "pods":
        document = pod(number, app=content)
    elif kind == "endpoints":
        document["subsets"] = [{"addresses": [{"ip": content}], "ports": [{"port": 8080}]}]
    else:
        document["metadata"]["labels"] = {"kubernetes.io/service-name": "s1"}
        document |= {
            "addressType": "IPv4",
            "endpoints": [{"addresses": [content]}],
            "ports": [{"port": 1, "name": "x"}],
        }
    return Put(key, encode(document))


@given(st.lists(st.lists(writes, max_size=3), max_size=10))
def test_a_table_made_from_the_last_one_is_the_one_made_from_nothing(
    steps: list[list[tuple[str, int, Any]]],
) -> None:
    core, mirror, maker = MemoryCore(), ServicesMirror(KEYS), TableMaker()
    mirror.load(core.read(ALL, 0.0), 0.0)
    before: Table | None = None
    for step in steps:
        for each in step:
            core.commit([], [operation(*each)], 0.0)
        mirror.apply(core.events(ALL, mirror.revision))
        table = maker.make(mirror, PLACE, mirror.touched)
        assert table == TableMaker().make(mirror, PLACE)
        changed = {name: (was, now) for name, was, now in table.changed(before)}
        old = {} if before is None else dict(before.entries)
        assert changed == {
            name: (old.get(name), table.entries.get(name))
            for name in {*old, *table.entries}
            if old.get(name) != table.entries.get(name)
        }
        claimed = [(e.protocol, f.address, f.port) for e in table.entries.values() for f in e.frontends]
        assert len(claimed) == len(set(claimed)), "an address is in one entry"
        before = table


# --- what a connection meets ----------------------------------------------------------------------------------------

NODE_PORT: dict[str, Any] = {"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]}
BOTH, HERE, THERE = [pod(1, "n1"), pod(2, "n2")], [pod(1, "n1")], [pod(2, "n2")]
ONE, TWO = "10.0.1.1", "10.0.2.2"
VIP, NODE = ("10.96.0.9", 80), ("172.31.0.1", 30080)

MEETINGS = [
    # spec, pods, source, destination → answer, backends, those that see the node's address
    ("a pod, a ClusterIP", {}, BOTH, POD, VIP, Answer.BALANCE, {ONE, TWO}, set()),
    ("the node, a ClusterIP", {}, BOTH, OWN, VIP, Answer.BALANCE, {ONE, TWO}, {ONE, TWO}),
    ("from outside, a ClusterIP", {}, BOTH, CLIENT, VIP, Answer.BALANCE, {ONE, TWO}, {ONE, TWO}),
    ("a pod itself", {}, BOTH, IPv4Address(ONE), VIP, Answer.BALANCE, {ONE, TWO}, {ONE}),
    ("no endpoints", {}, [], POD, VIP, Answer.REJECT, set(), set()),
    ("another port", {}, BOTH, POD, ("10.96.0.9", 81), Answer.REJECT, set(), set()),
    ("nobody's", {}, BOTH, POD, ("10.96.0.10", 80), Answer.DROP, set(), set()),
    ("no Service's", {}, BOTH, POD, ("192.0.2.1", 80), Answer.PASS, set(), set()),
    ("internal Local", {"internalTrafficPolicy": "Local"}, BOTH, POD, VIP, Answer.BALANCE, {ONE}, set()),
    ("internal Local, elsewhere", {"internalTrafficPolicy": "Local"}, THERE, POD, VIP, Answer.DROP, set(), set()),
    ("internal Local, none", {"internalTrafficPolicy": "Local"}, [], POD, VIP, Answer.REJECT, set(), set()),
    ("node port", NODE_PORT, BOTH, CLIENT, NODE, Answer.BALANCE, {ONE, TWO}, {ONE, TWO}),
    ("node port, from a pod", NODE_PORT, BOTH, POD, NODE, Answer.BALANCE, {ONE, TWO}, {ONE, TWO}),
    ("node port, loopback", NODE_PORT, BOTH, OWN, ("127.0.0.1", 30080), Answer.PASS, set(), set()),
    ("node port, another's address", NODE_PORT, BOTH, CLIENT, ("172.31.0.2", 30080), Answer.PASS, set(), set()),
    ("node port, none", NODE_PORT, [], CLIENT, NODE, Answer.REJECT, set(), set()),
]
LOCAL = {**NODE_PORT, "externalTrafficPolicy": "Local"}
MEETINGS += [
    ("external Local", LOCAL, BOTH, CLIENT, NODE, Answer.BALANCE, {ONE}, set()),
    ("external Local, elsewhere", LOCAL, THERE, CLIENT, NODE, Answer.DROP, set(), set()),
    ("external Local, from a pod", LOCAL, THERE, POD, NODE, Answer.BALANCE, {TWO}, set()),
    ("external Local, from the node", LOCAL, BOTH, OWN, NODE, Answer.BALANCE, {ONE, TWO}, {ONE, TWO}),
    ("external Local, at the ClusterIP", LOCAL, BOTH, POD, VIP, Answer.BALANCE, {ONE, TWO}, set()),
    ("external Local, none", LOCAL, [], POD, NODE, Answer.REJECT, set(), set()),
]


@pytest.mark.parametrize(
    ("spec", "pods", "source", "where", "answer", "backends", "masqueraded"),
    [each[1:] for each in MEETINGS],
    ids=[each[0] for each in MEETINGS],
)
def test_what_a_connection_meets(
    spec: dict[str, Any], pods: list[Object], source: IPv4Address, where: tuple[str, int],
    answer: Answer, backends: set[str], masqueraded: set[str],
) -> None:  # fmt: skip
    found = meets(table_of([service(**spec)], pods), source, IPv4Address(where[0]), where[1])
    assert found.answer is answer
    assert {each.address for each in found.backends} == backends
    assert {each.address for each in found.masqueraded} == masqueraded


def test_source_ranges_are_of_the_load_balancers_addresses_alone() -> None:
    document = service(**{**NODE_PORT, "type": "LoadBalancer"}, loadBalancerSourceRanges=["203.0.113.0/24"])
    document["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.9"}]}}
    table = table_of([document], HERE)
    stranger = IPv4Address("192.0.2.50")
    balancer = IPv4Address("198.51.100.9")
    assert meets(table, CLIENT, balancer, 80).answer is Answer.BALANCE
    assert meets(table, stranger, balancer, 80).answer is Answer.DROP
    assert meets(table, stranger, OWN, 30080).answer is Answer.BALANCE
    assert meets(table, CLIENT, balancer, 80, "UDP").answer is Answer.PASS


@given(crowds, st.sampled_from([CLIENT, POD, OWN, IPv4Address("10.0.1.1")]), st.booleans(), st.booleans())
def test_whoever_is_given_a_backend_is_given_one_that_may_be_used(
    crowd: list[tuple[str, str]], source: IPv4Address, internal: bool, external: bool
) -> None:
    policies = {"internalTrafficPolicy": "Local" if internal else "Cluster",
                "externalTrafficPolicy": "Local" if external else "Cluster"}  # fmt: skip
    pods = [of_state(number, *each) for number, each in enumerate(crowd, 1)]
    table = table_of([service(**NODE_PORT, **policies)], pods)
    everywhere = expected_backends(crowd, publish=False, only_node=None)
    for where in (VIP, NODE):
        found = meets(table, source, IPv4Address(where[0]), where[1])
        assert {each.address for each in found.backends} <= everywhere | expected_backends(
            crowd, publish=False, only_node="n1"
        )
        assert found.masqueraded <= found.backends
        assert (found.answer is Answer.REJECT) == (not everywhere)
        assert (found.answer is Answer.BALANCE) == bool(found.backends)
