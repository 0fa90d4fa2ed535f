"""The values of fields that people leave out, as Kubernetes' API fills them in (pkg/apis/*/v1/defaults.go).

They change the document that they are given. What needs to know other objects (a ClusterIP, a node port) is not a
default: see ``allocation``.
"""

from __future__ import annotations

from typing import Any

from overlay.services.objects.document import Object, metadata_of, name_of, spec_of
from overlay.services.objects.kinds import Kind

CLIENT_IP_SECONDS = 10800
"""How long a client keeps its endpoint (core/v1: DefaultClientIPServiceAffinitySeconds)."""

NAMESPACE_LABEL = "kubernetes.io/metadata.name"


def fill_in(kind: Kind, obj: Object) -> None:
    """Fills in the defaults of a decoded document."""
    match kind.resource:
        case "services":
            _service(obj)
        case "namespaces":
            metadata_of(obj).setdefault("labels", {})[NAMESPACE_LABEL] = name_of(obj)
            obj["spec"] = {"finalizers": ["kubernetes"]}
            obj.setdefault("status", {}).setdefault("phase", "Active")
        case "endpoints":
            for subset in obj.get("subsets") or ():
                _protocols(subset.get("ports"))
        case "endpointslices":
            for port in obj.get("ports") or ():
                port.setdefault("name", "")
            _protocols(obj.get("ports"))
        case "events":
            obj.setdefault("type", "Normal")
        case "networkpolicies":
            _network_policy(spec_of(obj))


def _service(service: Object) -> None:
    spec = service.setdefault("spec", {})
    kind = spec.setdefault("type", "ClusterIP")
    if spec.setdefault("sessionAffinity", "None") == "ClientIP":
        client = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        client.setdefault("timeoutSeconds", CLIENT_IP_SECONDS)
    elif spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    _protocols(spec.get("ports"))
    for port in spec.get("ports") or ():
        if port.get("targetPort") in (None, 0, "") and "port" in port:
            port["targetPort"] = port["port"]
    if kind in ("NodePort", "LoadBalancer") or spec.get("externalIPs"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    _join_addresses(spec)
    service.setdefault("status", {}).setdefault("loadBalancer", {})


def _join_addresses(spec: dict[str, Any]) -> None:
    """``clusterIP`` and ``clusterIPs`` say the same; whoever gives one gives both."""
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    elif spec.get("clusterIPs") and not spec.get("clusterIP"):
        spec["clusterIP"] = spec["clusterIPs"][0]


def _protocols(ports: list[Object] | None) -> None:
    for port in ports or ():
        if not port.get("protocol"):
            port["protocol"] = "TCP"


def _network_policy(spec: dict[str, Any]) -> None:
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for direction in ("ingress", "egress"):
        for rule in spec.get(direction) or ():
            _protocols(rule.get("ports"))
