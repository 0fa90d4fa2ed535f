"""Endpoints and EndpointSlices against an oracle that does what Kubernetes' controllers do, one thing after another."""

from __future__ import annotations

import itertools
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.services import endpoints, facts_of
from overlay.services.facts import Pod, Service
from overlay.services.objects.document import Object, encode


def service_document(**spec: Any) -> Object:
    spec = {"selector": {"app": "web"}, "clusterIP": "10.96.0.9", "ports": [{"port": 80}]} | spec
    metadata = {"name": "web", "namespace": "default", "uid": "su", "labels": {"team": "a"}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def pod_document(number: int = 1, *, ready: bool = True, **more: Any) -> Object:
    metadata: dict[str, Any] = {"name": f"p{number}", "namespace": "default", "uid": f"u{number}"}
    metadata["labels"] = {"app": "web"}
    if more.pop("terminating", False):
        metadata["deletionTimestamp"] = "2026-11-28T09:00:00Z"
    status: dict[str, Any] = {
        "phase": more.pop("phase", "Running"),
        "conditions": [{"type": "Ready", "status": str(ready)}],
    }
    addresses = more.pop("addresses", [f"10.0.{number // 250}.{number % 250 + 1}"])
    if addresses:
        status |= {"podIP": addresses[0], "podIPs": [{"ip": each} for each in addresses]}
    ports = more.pop("ports", [])
    spec = {"nodeName": "n1", "containers": [{"name": "c", "ports": ports}], **more}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


def pods_of(documents: list[Object]) -> list[Pod]:
    return [facts_of.pod(f"/overlay/pods/n1/{number}", encode(document)) for number, document in enumerate(documents)]


def service_of(**spec: Any) -> Service:
    return facts_of.service(service_document(**spec))


# --- the oracle: straight from documents, no grouping but by comparing everything with everything ---------------------


def oracle_ports(service: Object, pod: Object) -> list[tuple[str, int, str, str]]:
    found = []
    for port in service["spec"].get("ports", []):
        target = port.get("targetPort") or port["port"]
        protocol = port.get("protocol") or "TCP"
        candidates = [target]
        if isinstance(target, str):
            candidates = [
                each["containerPort"]
                for container in pod["spec"]["containers"]
                for each in container["ports"]
                if each.get("name") == target and (each.get("protocol") or "TCP") == protocol
            ]
        if candidates:
            found.append((port.get("name", ""), candidates[0], protocol, port.get("appProtocol", "")))
    return found


def oracle_addresses(service: Object, pods: list[Object], family: str) -> list[tuple[Object, str]]:
    found = []
    for pod in pods:
        if pod["status"]["phase"] in ("Succeeded", "Failed"):
            continue
        mine = [e["ip"] for e in pod["status"].get("podIPs", []) if (":" in e["ip"]) == (family == "IPv6")]
        if mine:
            found.append((pod, mine[0]))
    return found


def oracle_is_ready(service: Object, pod: Object) -> bool:
    if service["spec"].get("publishNotReadyAddresses"):
        return True
    return pod["status"]["conditions"][0]["status"] == "True" and "deletionTimestamp" not in pod["metadata"]


Seen = set[tuple[str, str, bool, str, int, str, str]]


def oracle_endpoints(service: Object, pods: list[Object]) -> Seen:
    """Every pair of an address and a port: pod, address, ready, and the port (number 0 for none at all)."""
    seen: Seen = set()
    family = service["spec"].get("ipFamilies", ["IPv4"])[0]
    for pod, address in oracle_addresses(service, pods, family):
        if "deletionTimestamp" in pod["metadata"] and not service["spec"].get("publishNotReadyAddresses"):
            continue
        ports = oracle_ports(service, pod)
        if not service["spec"].get("ports") and service["spec"]["clusterIP"] == "None":
            ports = [("", 0, "", "")]
        for port in ports:
            seen.add((pod["metadata"]["uid"], address, oracle_is_ready(service, pod), *port))
    return seen


def oracle_slices(service: Object, pods: list[Object]) -> dict[tuple[str, str], tuple[Any, ...]]:
    """What each pod's address is in slices: ready, serving, terminating, and all of its ports."""
    return {
        (pod["metadata"]["uid"], address): (
            oracle_is_ready(service, pod),
            pod["status"]["conditions"][0]["status"] == "True",
            "deletionTimestamp" in pod["metadata"],
            tuple(sorted(oracle_ports(service, pod))),
        )
        for family in service["spec"].get("ipFamilies", ["IPv4"])
        for pod, address in oracle_addresses(service, pods, family)
    }


def seen_in_endpoints(document: Object) -> Seen:
    seen: Seen = set()
    for subset in document.get("subsets", []):
        for port in subset.get("ports", [{"port": 0, "protocol": ""}]):
            told = (port.get("name", ""), port["port"], port["protocol"], port.get("appProtocol", ""))
            for name, ready in (("addresses", True), ("notReadyAddresses", False)):
                for each in subset.get(name, []):
                    entry = (each["targetRef"]["uid"], each["ip"], ready, *told)
                    assert entry not in seen, "once only"
                    seen.add(entry)
    return seen


def seen_in_slices(documents: list[Object]) -> dict[tuple[str, str], tuple[Any, ...]]:
    seen: dict[tuple[str, str], tuple[Any, ...]] = {}
    for document in documents:
        ports = tuple(
            sorted((p["name"], p["port"], p["protocol"], p.get("appProtocol", "")) for p in document["ports"])
        )
        for each in document["endpoints"]:
            (address,) = each["addresses"]
            assert (":" in address) == (document["addressType"] == "IPv6")
            key = (each["targetRef"]["uid"], address)
            assert key not in seen, "once only"
            conditions = each["conditions"]
            seen[key] = (conditions["ready"], conditions["serving"], conditions["terminating"], ports)
    return seen


names = st.sampled_from(["http", "dns", "x"])
service_ports = st.fixed_dictionaries(
    {"port": st.integers(1, 3)},
    optional={
        "name": names,
        "protocol": st.sampled_from(["TCP", "UDP"]),
        "targetPort": names | st.integers(1, 3),
        "appProtocol": st.just("http"),
    },
)
services = st.builds(
    service_document,
    ports=st.lists(service_ports, max_size=3, unique_by=lambda port: port.get("name", "")),
    clusterIP=st.sampled_from(["None", "10.96.0.9"]),
    publishNotReadyAddresses=st.booleans(),
    ipFamilies=st.sampled_from([["IPv4"], ["IPv6"], ["IPv4", "IPv6"], ["IPv6", "IPv4"]]),
)
container_ports = st.fixed_dictionaries(
    {"containerPort": st.integers(1, 4)}, optional={"name": names, "protocol": st.sampled_from(["TCP", "UDP"])}
)


@st.composite
def pod_lists(draw: st.DrawFn) -> list[Object]:
    return [
        pod_document(
            number,
            ready=draw(st.booleans()),
            terminating=draw(st.integers(0, 4)) == 0,
            phase=draw(st.sampled_from(["Running", "Running", "Pending", "Failed", "Succeeded"])),
            addresses=draw(
                st.sampled_from(
                    [[], [f"10.0.0.{number + 1}"], [f"10.0.0.{number + 1}", f"fd00::{number + 1}"], ["10.9.9.9"]]
                )
            ),
            ports=draw(st.lists(container_ports, max_size=2)),
        )
        for number in range(draw(st.integers(0, 8)))
    ]


@given(services, pod_lists())
def test_they_are_what_kubernetes_controllers_make(service: Object, pods: list[Object]) -> None:
    known = facts_of.service(service)
    made = endpoints.endpoints(known, pods_of(pods))
    slices = endpoints.slices(known, pods_of(pods))
    assert seen_in_endpoints(made) == oracle_endpoints(service, pods)
    assert seen_in_slices(slices) == oracle_slices(service, pods)
    assert slices
    assert [each["metadata"]["name"] for each in slices] == sorted({each["metadata"]["name"] for each in slices})
    for one, other in itertools.combinations(made.get("subsets", []), 2):
        assert {repr(one.get(n)) for n in ("addresses",)} != {repr(other.get(n)) for n in ("addresses",)} or one.get(
            "notReadyAddresses"
        ) != other.get("notReadyAddresses"), "addresses that are alike are one subset"


@given(services, pod_lists(), st.randoms())
def test_the_order_in_which_pods_are_known_does_not_matter(service: Object, pods: list[Object], rng: Any) -> None:
    known, listed = facts_of.service(service), pods_of(pods)
    shuffled = list(listed)
    rng.shuffle(shuffled)
    assert endpoints.endpoints(known, listed) == endpoints.endpoints(known, shuffled)
    assert endpoints.slices(known, listed) == endpoints.slices(known, shuffled)


# --- cases by hand ----------------------------------------------------------------------------------------------------


def test_a_plain_service_word_for_word() -> None:
    pods = pods_of([pod_document(2), pod_document(1), pod_document(3, ready=False)])
    reference = {"kind": "Pod", "namespace": "default"}
    assert endpoints.endpoints(service_of(), pods) == {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "web", "namespace": "default", "labels": {"team": "a"}},
        "subsets": [
            {
                "addresses": [
                    {"ip": "10.0.0.2", "nodeName": "n1", "targetRef": {**reference, "name": "p1", "uid": "u1"}},
                    {"ip": "10.0.0.3", "nodeName": "n1", "targetRef": {**reference, "name": "p2", "uid": "u2"}},
                ],
                "notReadyAddresses": [
                    {"ip": "10.0.0.4", "nodeName": "n1", "targetRef": {**reference, "name": "p3", "uid": "u3"}}
                ],
                "ports": [{"port": 80, "protocol": "TCP"}],
            }
        ],
    }
    (made,) = endpoints.slices(service_of(), pods)
    assert made["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
    assert made["metadata"]["ownerReferences"][0]["uid"] == "su"
    assert [each["addresses"][0] for each in made["endpoints"]] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    assert made["ports"] == [{"name": "", "port": 80, "protocol": "TCP"}]


def test_a_named_port_may_be_another_in_each_pod() -> None:
    pods = pods_of(
        [
            pod_document(1, ports=[{"name": "http", "containerPort": 8080}]),
            pod_document(2, ports=[{"name": "http", "containerPort": 9090}]),
            pod_document(3),
        ]
    )
    service = service_of(ports=[{"name": "web", "port": 80, "targetPort": "http"}])
    subsets = endpoints.endpoints(service, pods)["subsets"]
    assert [(each["ports"][0]["port"], [a["ip"] for a in each["addresses"]]) for each in subsets] == [
        (8080, ["10.0.0.2"]),
        (9090, ["10.0.0.3"]),
    ]
    assert sorted(each["ports"][0]["port"] if each["ports"] else 0 for each in endpoints.slices(service, pods)) == [
        0,
        8080,
        9090,
    ]


def test_headless_without_ports_has_addresses_all_the_same() -> None:
    service = service_of(clusterIP="None", ports=[])
    made = endpoints.endpoints(service, pods_of([pod_document(1)]))
    assert [a["ip"] for a in made["subsets"][0]["addresses"]] == ["10.0.0.2"]
    assert "ports" not in made["subsets"][0]
    assert made["metadata"]["labels"][endpoints.HEADLESS] == ""


def test_host_names_are_those_of_pods_whose_subdomain_is_the_service() -> None:
    pods = pods_of([pod_document(1, hostname="db-0", subdomain="web"), pod_document(2, hostname="db-1", subdomain="x")])
    addresses = endpoints.endpoints(service_of(clusterIP="None"), pods)["subsets"][0]["addresses"]
    assert [each.get("hostname") for each in addresses] == ["db-0", None]
    assert [each.get("hostname") for each in endpoints.slices(service_of(), pods)[0]["endpoints"]] == ["db-0", None]


def test_without_endpoints_there_is_an_empty_slice_and_no_subset() -> None:
    (made,) = endpoints.slices(service_of(), [])
    assert (made["endpoints"], made["ports"], made["addressType"]) == ([], [], "IPv4")
    assert "subsets" not in endpoints.endpoints(service_of(), [])


def test_v1_endpoints_have_a_limit_and_say_so() -> None:
    pods = pods_of([pod_document(number, ready=number % 2 == 0) for number in range(1500)])
    made = endpoints.endpoints(service_of(), pods)
    assert made["metadata"]["annotations"] == {endpoints.OVER_CAPACITY: "truncated"}
    (subset,) = made["subsets"]
    assert (len(subset["addresses"]), len(subset["notReadyAddresses"])) == (750, 250)
    assert sum(len(each["endpoints"]) for each in endpoints.slices(service_of(), pods)) == 1500


@pytest.mark.parametrize("count", [99, 100, 101, 1000, 5000])
def test_slices_are_small_and_one_pod_more_changes_few_of_them(count: int) -> None:
    pods = pods_of([pod_document(number) for number in range(count + 1)])
    without = pods[: count // 3] + pods[count // 3 + 1 :]
    before = {each["metadata"]["name"]: each for each in endpoints.slices(service_of(), without)}
    after = {each["metadata"]["name"]: each for each in endpoints.slices(service_of(), pods)}
    assert max(len(each["endpoints"]) for each in after.values()) <= endpoints.MAX_IN_SLICE
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    assert len(changed) <= 3, "its own, or the one that is split and its halves"
    assert len(after) <= max(1, 4 * count // endpoints.MAX_IN_SLICE)
    for each in after.values():
        listed = [ip_address(e["addresses"][0]) for e in each["endpoints"]]
        assert listed == sorted(listed)


def test_pods_of_one_address_and_uid_without_end_are_cut_all_the_same() -> None:
    """Hostile keys: nothing tells them apart, and still no slice is too large."""
    pods = pods_of([pod_document(1) for _ in range(250)])
    made = endpoints.slices(service_of(), pods)
    assert [len(each["endpoints"]) for each in made].count(100) == 2
    assert len({each["metadata"]["name"] for each in made}) == 3


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "x", "10.0.0.1", "True", "Ready", "Failed"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["ip", "type", "status", "name", "ports", "containerPort", "a"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
members = st.dictionaries(
    st.sampled_from(
        ["labels", "uid", "namespace", "deletionTimestamp", "nodeName", "hostname", "containers", "phase", "podIP",
         "podIPs", "conditions", "selector", "ports", "ipFamilies", "clusterIP"]
    ),
    junk,
    max_size=6,
)  # fmt: skip


@given(members, members | junk, members | junk)
def test_documents_of_another_form_break_nothing_and_are_read_alike(metadata: Any, spec: Any, status: Any) -> None:
    document = {"metadata": {"name": "x", **metadata}, "spec": spec, "status": status}
    service, pod = facts_of.service(document), facts_of.pod("k", encode(document))
    assert pod == facts_of._pod_of_another_form("k", document), "quickly or slowly"
    assert endpoints.slices(service, [pod])
    assert endpoints.endpoints(service, [pod])
