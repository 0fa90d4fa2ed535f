"""The API's own rules, as a table: what is changed in a good object, and what is said of it."""

# ruff: noqa: E501  (one row a line, with the sentence as it is)

from __future__ import annotations

from typing import Any

import pytest

from overlay.services.objects.document import Object
from overlay.services.objects.kinds import (
    ENDPOINT_SLICE,
    ENDPOINTS,
    INGRESS,
    INGRESS_CLASS,
    NAMESPACE,
    NETWORK_POLICY,
    SERVICE,
    Kind,
)
from tests.unit.services.support import refusal, service

_PORTS = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"type": "NodePrt"},
         'spec.type: Unsupported value: "NodePrt": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"'),
        ({"ports": None}, "spec.ports: Required value"),
        ({"ports": [{}]}, "spec.ports[0].port: Required value"),
        ({"ports": [{"port": 0}]}, "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
        ({"ports": [{"port": 65536}]}, "spec.ports[0].port: Invalid value: 65536: must be between 1 and 65535, inclusive"),
        ({"ports": [{"port": 80}, {"port": 81}]}, "spec.ports[0].name: Required value"),
        ({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]}, 'spec.ports[1].name: Duplicate value: "a"'),
        ({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]},
         'spec.ports[1]: Duplicate value: {"port":80,"protocol":"TCP"}'),
        ({"ports": [{"port": 80, "protocol": "ICMP"}]},
         'spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"'),
        ({"ports": [{"port": 80, "targetPort": 70000}]},
         "spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive"),
        ({"ports": [{"port": 80, "targetPort": "a--b"}]},
         'spec.ports[0].targetPort: Invalid value: "a--b": must not contain consecutive hyphens'),
        ({"ports": [{"port": 80, "targetPort": "much-too-long-a-name"}]},
         'spec.ports[0].targetPort: Invalid value: "much-too-long-a-name": must be no more than 15 characters'),
        ({"ports": [{"port": 80, "nodePort": 30000}]},
         "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"),
        ({"type": "NodePort", "ports": [{**_PORTS[0], "nodePort": 30001}, {**_PORTS[1], "nodePort": 30001}]},
         "spec.ports[1].nodePort: Duplicate value: 30001"),
        ({"type": "NodePort", "clusterIP": "None"},
         "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"),
        ({"clusterIP": "10.96.0.300"},
         'spec.clusterIPs[0]: Invalid value: "10.96.0.300": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)'),
        ({"clusterIP": "10.96.0.3", "clusterIPs": ["10.96.0.4"]},
         'spec.clusterIPs[0]: Invalid value: ["10.96.0.4"]: first value must match `clusterIP`'),
        ({"sessionAffinity": "Cookie"},
         'spec.sessionAffinity: Unsupported value: "Cookie": supported values: "ClientIP", "None"'),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}},
         "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400"),
        ({"type": "ExternalName", "ports": None, "selector": None}, "spec.externalName: Required value"),
        ({"type": "ExternalName", "externalName": "x.example", "clusterIP": "10.96.0.4"},
         "spec.clusterIPs: Forbidden: may not be set for ExternalName services"),
        ({"externalIPs": ["127.0.0.1"]},
         'spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)'),
        ({"externalTrafficPolicy": "Local"},
         'spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services'),
        ({"internalTrafficPolicy": "Near"},
         'spec.internalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"'),
        ({"loadBalancerSourceRanges": ["10.0.0.0/8"]},
         "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"),
        ({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0"]},
         'spec.loadBalancerSourceRanges[0]: Invalid value: "10.0.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)'),
        ({"ipFamilies": ["IPv6"]}, 'spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster'),
        ({"ipFamilyPolicy": "RequireDualStack"},
         'spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services'),
        ({"healthCheckNodePort": 30000},
         "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"),
    ],
)  # fmt: skip
def test_a_service_that_breaks_a_rule(spec: dict[str, Any], told: str) -> None:
    assert told in refusal(service(**spec))


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"clusterIP": "None"},
        {"clusterIP": "None", "ports": None},
        {"clusterIP": "10.96.0.10"},
        {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]},
        {"type": "NodePort", "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
            {"name": "dns-tcp", "port": 53, "nodePort": 30053}]},
        {"type": "ExternalName", "externalName": "x.example.", "ports": None, "selector": None},
        {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"], "externalTrafficPolicy": "Local"},
        {"sessionAffinity": "ClientIP"},
        {"ports": [{"port": 80, "targetPort": "http", "appProtocol": "kubernetes.io/h2c"}]},
        {"externalIPs": ["192.0.2.7"], "externalTrafficPolicy": "Local"},
        {"selector": None},
    ],
)  # fmt: skip
def test_a_service_that_is_right(spec: dict[str, Any]) -> None:
    assert refusal(service(**spec)) == []


@pytest.mark.parametrize(
    ("metadata", "field", "part"),
    [
        ({"name": "Redis"}, "metadata.name", "a DNS-1035 label must consist of"),
        ({"name": "1redis"}, "metadata.name", "a DNS-1035 label must consist of"),
        ({"name": "r" * 64}, "metadata.name", "must be no more than 63 characters"),
        ({}, "metadata.name", "Required value: name or generateName is required"),
        ({"name": "a", "labels": {"-x": "y"}}, "metadata.labels", "name part must consist of"),
        ({"name": "a", "labels": {"x": "y z"}}, "metadata.labels", "a valid label must be"),
        ({"name": "a", "labels": {"a/b/c": "y"}}, "metadata.labels", "prefix part a lowercase RFC 1123 subdomain"),
        ({"name": "a", "annotations": {"/x": "y"}}, "metadata.annotations", "prefix part must be non-empty"),
        ({"name": "a", "annotations": {"x": "y" * 300_000}}, "metadata.annotations", "may not be more than 262144"),
    ],
)
def test_metadata_that_breaks_a_rule(metadata: dict[str, Any], field: str, part: str) -> None:
    found = refusal({**service(), "metadata": metadata})
    assert any(each.startswith(f"{field}: ") and part in each for each in found), found


def _policy(**spec: Any) -> Object:
    return {"metadata": {"name": "p"}, "spec": {"podSelector": {}, **spec}}


def _ingress(path: dict[str, Any], **rule: Any) -> Object:
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend, **path}]
    return {"metadata": {"name": "i"}, "spec": {"rules": [{"host": "a.example", "http": {"paths": paths}, **rule}]}}


def _slice(**fields: Any) -> Object:
    return {"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], **fields}


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        (NAMESPACE, {"metadata": {"name": "a.b"}}, "metadata.name: Invalid value"),
        (ENDPOINTS, {"metadata": {"name": "e"}, "subsets": [{"ports": [{"port": 80}]}]},
         "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"),
        (ENDPOINTS, {"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": "169.254.1.1"}]}]},
         'subsets[0].addresses[0].ip: Invalid value: "169.254.1.1": may not be in the link-local range'),
        (ENDPOINT_SLICE, _slice(addressType=None), "addressType: Required value"),
        (ENDPOINT_SLICE, _slice(addressType="IPv5"), "addressType: Unsupported value"),
        (ENDPOINT_SLICE, _slice(endpoints=[{"addresses": []}]),
         "endpoints[0].addresses: Required value: must contain at least 1 address"),
        (ENDPOINT_SLICE, _slice(endpoints=[{"addresses": ["::2"]}]), "must be an IPv4 address"),
        (ENDPOINT_SLICE, _slice(ports=[{"port": 0}]), "ports[0].port: Invalid value: 0"),
        (INGRESS, {"metadata": {"name": "i"}, "spec": {}},
         "spec: Invalid value: []: either `defaultBackend` or `rules` must be specified"),
        (INGRESS, _ingress({"pathType": None}), "spec.rules[0].http.paths[0].pathType: Required value"),
        (INGRESS, _ingress({"pathType": "Regex"}), "spec.rules[0].http.paths[0].pathType: Unsupported value"),
        (INGRESS, _ingress({"path": "a"}),
         'spec.rules[0].http.paths[0].path: Invalid value: "a": must be an absolute path'),
        (INGRESS, _ingress({}, host="10.0.0.1"),
         'spec.rules[0].host: Invalid value: "10.0.0.1": must be a DNS name, not an IP address'),
        (INGRESS, _ingress({"backend": {"service": {"name": "web"}}}),
         "spec.rules[0].http.paths[0].backend: Required value: port name or number is required"),
        (INGRESS_CLASS, {"metadata": {"name": "c"}, "spec": {"controller": "x"}},
         'spec.controller: Invalid value: "x": must be a domain-prefixed path'),
        (NETWORK_POLICY, _policy(ingress=[{"from": [{}]}]), "spec.ingress[0].from[0]: Required value: must specify a peer"),
        (NETWORK_POLICY, _policy(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]),
         "must be a strict subset of `cidr` - 10.0.0.0/8"),
        (NETWORK_POLICY, _policy(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]),
         "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"),
        (NETWORK_POLICY, _policy(egress=[{"ports": [{"port": 80, "endPort": 79}]}]),
         "spec.egress[0].ports[0].endPort: Invalid value: 79: must be greater than or equal to `port`"),
        (NETWORK_POLICY, _policy(podSelector={"matchExpressions": [{"key": "a", "operator": "In"}]}),
         "spec.podSelector.matchExpressions[0].values: Required value"),
        (NETWORK_POLICY, _policy(policyTypes=["Sideways"]), "spec.policyTypes[0]: Unsupported value"),
    ],
)  # fmt: skip
def test_other_kinds_that_break_a_rule(kind: Kind, given: Object, told: str) -> None:
    found = refusal(given, kind)
    assert any(told in each for each in found), found


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (NAMESPACE, {"metadata": {"name": "team-a"}}),
        (ENDPOINTS, {"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}),
        (ENDPOINT_SLICE, _slice(ports=[{"port": 80}])),
        (ENDPOINT_SLICE, _slice(endpoints=None)),
        (INGRESS, _ingress({})),
        (INGRESS, _ingress({"path": None, "pathType": "ImplementationSpecific"}, host="*.a.example")),
        (INGRESS_CLASS, {"metadata": {"name": "c"}, "spec": {"controller": "a.example/x"}}),
        (NETWORK_POLICY, _policy(ingress=[{}], egress=[{"ports": [{"port": "dns", "protocol": "UDP"}]}])),
        (NETWORK_POLICY, _policy(ingress=[{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}]}])),
    ],
)  # fmt: skip
def test_other_kinds_that_are_right(kind: Kind, given: Object) -> None:
    assert refusal(given, kind) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "expected a JSON object, got array"),
        ({"kind": "Pod"}, "does not match v1, Kind=Service"),
        ({"spec": []}, "cannot unmarshal array into a field of type object: spec"),
        ({"spec": {"ports": {}}}, "cannot unmarshal object into a field of type array: spec.ports"),
        ({"spec": {"ports": [{"port": "80"}]}}, "cannot unmarshal string into a field of type int32: spec.ports[0].port"),
        ({"spec": {"ports": [{"port": True}]}}, "cannot unmarshal bool into a field of type int32: spec.ports[0].port"),
        ({"spec": {"ports": [{"port": 2**40}]}}, "cannot unmarshal number 1099511627776"),
        ({"spec": {"ports": [{"port": 1.5}]}}, "cannot unmarshal number into a field of type int32"),
        ({"spec": {"selector": {"a": 1}}}, "cannot unmarshal number into a field of type string: spec.selector.a"),
        ({"spec": {"publishNotReadyAddresses": "yes"}}, "cannot unmarshal string into a field of type bool"),
        ({"metadata": {"creationTimestamp": "noon"}}, 'parsing time "noon" as RFC 3339'),
        ({"metadata": {"labels": {"a": ["b"]}}}, "cannot unmarshal array into a field of type string: metadata.labels.a"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_told_with_its_path(given: Any, told: str) -> None:
    assert any(told in each for each in refusal(given, SERVICE)), refusal(given, SERVICE)
