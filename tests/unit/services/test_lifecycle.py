"""What becomes of a document when it is made or changed."""

from __future__ import annotations

from typing import Any

import pytest

from overlay.services.objects.document import Object, copy
from overlay.services.objects.kinds import ENDPOINT_SLICE, NAMESPACE, NETWORK_POLICY, SERVICE, Kind
from overlay.services.objects.lifecycle import for_create, for_update
from overlay.services.objects.status import StatusError
from tests.unit.services.support import NOW, UID, made, service


def test_defaults_of_a_service() -> None:
    assert made(service()) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "redis", "namespace": "default", "uid": UID, "creationTimestamp": "2026-03-01T12:00:00Z",
        },
        "spec": {
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "selector": {"app": "redis"},
            "ports": [{"port": 6379, "protocol": "TCP", "targetPort": 6379}],
        },
        "status": {"loadBalancer": {}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "path", "value"),
    [
        ({"sessionAffinity": "ClientIP"}, ("sessionAffinityConfig", "clientIP", "timeoutSeconds"), 10800),
        ({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}}}, ("sessionAffinityConfig",), None),
        ({"type": "NodePort"}, ("externalTrafficPolicy",), "Cluster"),
        ({"type": "LoadBalancer"}, ("allocateLoadBalancerNodePorts",), True),
        ({"externalIPs": ["192.0.2.1"]}, ("externalTrafficPolicy",), "Cluster"),
        ({"type": "ExternalName", "externalName": "a.b"}, ("internalTrafficPolicy",), None),
        ({"type": "ExternalName", "externalName": "a.b"}, ("ipFamilies",), None),
        ({"clusterIP": "None"}, ("clusterIPs",), ["None"]),
        ({"clusterIPs": ["10.96.0.9"]}, ("clusterIP",), "10.96.0.9"),
    ],
)
def test_more_defaults_of_a_service(spec: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    found: Any = made(service(**spec))["spec"]
    for part in path:
        found = found.get(part) if found else None
    assert found == value


def test_defaults_of_a_policy_say_which_directions_it_is_about() -> None:
    policy = {"metadata": {"name": "p"}, "spec": {"podSelector": {}}}
    assert made(policy, NETWORK_POLICY)["spec"]["policyTypes"] == ["Ingress"]
    policy["spec"] = {"podSelector": {}, "egress": [{"ports": [{"port": 53}]}]}
    spec = made(policy, NETWORK_POLICY)["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["egress"] == [{"ports": [{"port": 53, "protocol": "TCP"}]}]


def test_a_namespace_is_active_and_has_its_name_as_a_label() -> None:
    found = made({"metadata": {"name": "a", "labels": {"x": "y", "kubernetes.io/metadata.name": "z"}}}, NAMESPACE)
    assert found["metadata"]["labels"] == {"x": "y", "kubernetes.io/metadata.name": "a"}
    assert found["status"] == {"phase": "Active"}


def test_what_the_server_owns_cannot_be_sent() -> None:
    given = service()
    given["metadata"] |= {
        "uid": "mine",
        "resourceVersion": "7",
        "generation": 9,
        "managedFields": [{}],
        "selfLink": "/x",
    }
    given["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    assert made(given) == made(service())


def test_a_name_is_generated() -> None:
    given = {**service(), "metadata": {"generateName": "web-"}}
    name = made(given)["metadata"]["name"]
    assert name.startswith("web-")
    assert len(name) == 9


def test_the_namespace_of_the_url_counts() -> None:
    given = service()
    given["metadata"]["namespace"] = "other"
    with pytest.raises(StatusError, match="does not match the namespace sent on the request") as raised:
        for_create(SERVICE, given, "default", NOW, UID)
    assert raised.value.code == 400


def _addressed(**spec: Any) -> Object:
    return made(service(**{"clusterIP": "10.96.0.9", **spec}))


def _changed(old: Object, given: Object) -> dict[str, Any]:
    return dict(for_update(SERVICE, old, given)["spec"])


def test_a_manifest_without_an_address_keeps_it() -> None:
    """``kubectl replace`` sends what is in the file."""
    spec = _changed(_addressed(), service(sessionAffinity="ClientIP"))
    assert spec["clusterIPs"] == [spec["clusterIP"]] == ["10.96.0.9"]


def test_another_address_is_refused() -> None:
    with pytest.raises(StatusError) as raised:
        _changed(_addressed(), service(clusterIP="10.96.0.10"))
    assert 'spec.clusterIPs[0]: Invalid value: ["10.96.0.10"]: may not change once set' in raised.value.message


def test_a_patch_of_the_address_alone_is_refused_as_a_change() -> None:
    given = copy(_addressed())
    given["spec"]["clusterIP"] = "10.96.0.10"
    with pytest.raises(StatusError, match="may not change once set"):
        _changed(_addressed(), given)
    del given["spec"]["clusterIP"]
    assert _changed(_addressed(), given)["clusterIP"] == "10.96.0.9"


def test_node_ports_stay_and_go_with_the_type() -> None:
    node_ported = _addressed(type="NodePort", ports=[{"port": 6379, "nodePort": 30001}])
    assert _changed(node_ported, service(type="NodePort"))["ports"][0]["nodePort"] == 30001
    back = copy(node_ported)
    back["spec"]["type"] = "ClusterIP"
    spec = _changed(node_ported, back)
    assert "nodePort" not in spec["ports"][0]
    assert "externalTrafficPolicy" not in spec


def _ports(*ports: tuple[str, str, int, int]) -> list[dict[str, Any]]:
    return [
        {"name": name, "protocol": protocol, "port": port, **({"nodePort": number} if number else {})}
        for name, protocol, port, number in ports
    ]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (_ports(("http", "TCP", 8080, 0), ("dns", "UDP", 53, 0)), [30001, 30003]),  # another number, the same name
        (_ports(("web", "TCP", 80, 0), ("dns", "UDP", 53, 0)), [30001, 30003]),  # another name, the same number
        (_ports(("dns", "UDP", 80, 0), ("http", "TCP", 53, 0)), [30003, 30001]),  # names go before numbers
        (_ports(("http", "TCP", 80, 30003), ("dns", "UDP", 53, 0)), [30003, None]),  # what another has is its own
        (_ports(("new", "TCP", 90, 0), ("dns", "UDP", 53, 0)), [None, 30003]),
        (_ports(("http", "UDP", 80, 0), ("new", "TCP", 80, 0)), [30001, None]),
    ],
)
def test_a_node_port_stays_with_its_name(given: list[dict[str, Any]], kept: list[int | None]) -> None:
    """As in Kubernetes (pkg/registry/core/service: patchAllocatedValues); so that ``replace`` may change a number."""
    old = _addressed(type="NodePort", ports=_ports(("http", "TCP", 80, 30001), ("dns", "UDP", 53, 30003)))
    ports = _changed(old, service(type="NodePort", ports=given))["ports"]
    assert [port.get("nodePort") for port in ports] == kept


def test_where_a_load_balancer_is_reached_goes_with_the_type() -> None:
    old = _addressed(type="LoadBalancer")
    ingress = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    old = for_update(SERVICE, old, {**copy(old), "status": ingress}, status=True)
    assert for_update(SERVICE, old, copy(old))["status"] == ingress
    given = copy(old)
    given["spec"]["type"] = "ClusterIP"
    assert for_update(SERVICE, old, given)["status"] == {"loadBalancer": {}}


def test_a_service_becomes_a_name_and_an_address_again() -> None:
    old = _addressed()
    given = copy(old)
    given["spec"] |= {"type": "ExternalName", "externalName": "redis.example"}
    named = for_update(SERVICE, old, given)
    assert not {"clusterIP", "clusterIPs", "ipFamilies"} & named["spec"].keys()
    back = copy(named)
    back["spec"]["type"] = "ClusterIP"
    assert "clusterIP" not in for_update(SERVICE, named, back)["spec"]  # a new one is given


def test_status_is_changed_apart() -> None:
    old = _addressed()
    status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    given = {**copy(old), "status": status, "spec": {**old["spec"], "sessionAffinity": "ClientIP"}}
    assert for_update(SERVICE, old, given)["status"] == {"loadBalancer": {}}
    changed = for_update(SERVICE, old, given, status=True)
    assert changed["status"] == status
    assert changed["spec"] == old["spec"]


@pytest.mark.parametrize("field", ["name", "namespace", "uid"])
def test_who_an_object_is_does_not_change(field: str) -> None:
    given = service()
    given["metadata"][field] = "other"
    with pytest.raises(StatusError, match=f'metadata.{field}: Invalid value: "other": field is immutable'):
        for_update(SERVICE, _addressed(), given)


@pytest.mark.parametrize(("kind", "counts"), [(ENDPOINT_SLICE, True), (SERVICE, False)])
def test_generation_counts_changes_of_the_content(kind: Kind, counts: bool) -> None:
    given: Object = service(clusterIP="10.96.0.9")
    if counts:
        given = {"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]}
    old = made(given, kind)
    same = for_update(kind, old, {**copy(old), "metadata": {**old["metadata"], "labels": {"a": "b"}}})
    changed = copy(old)
    if counts:
        changed["endpoints"] = []
        generations = [each["metadata"]["generation"] for each in (old, same, for_update(kind, old, changed))]
        assert generations == [1, 1, 2]
    else:
        assert "generation" not in same["metadata"]
