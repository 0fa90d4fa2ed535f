"""The rules of a Service (pkg/apis/core/validation/validation.go: ValidateService, ValidateServiceUpdate)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from overlay.services.objects import names
from overlay.services.objects.document import Object, spec_of, status_of
from overlay.services.objects.status import Fault, duplicate, forbidden, invalid, not_supported, required
from overlay.services.objects.validation.common import PROTOCOLS, by, labels, one_of, port_number_or_name

TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
HEADLESS = "None"

_MAX_AFFINITY_SECONDS = 86400
_POLICIES = ("Cluster", "Local")
_IP_MODES = ("Proxy", "VIP")
_DISTRIBUTIONS = ("PreferClose", "PreferSameNode", "PreferSameZone")


def faults(service: Object) -> Iterator[Fault]:
    """What is wrong with a Service's spec."""
    spec = spec_of(service)
    kind = spec.get("type", "")
    yield from one_of("spec.type", kind, TYPES)
    yield from _ports(spec, kind)
    yield from labels("spec.selector", spec.get("selector") or {})
    yield from _affinity(spec)
    yield from _addresses(spec, kind)
    yield from _families(spec, kind)
    yield from _policies(spec, kind)
    if kind == "ExternalName":
        name = (spec.get("externalName") or "").removesuffix(".")
        yield from by(names.dns_subdomain, "spec.externalName", name) if name else [required("spec.externalName")]
    if kind == "LoadBalancer":
        yield from _load_balancer(spec)


def faults_of_change(old: Object, new: Object) -> Iterator[Fault]:
    """What may not change: an address, once it is there."""
    before, after = spec_of(old), spec_of(new)
    if before.get("type") == "ExternalName" or after.get("type") == "ExternalName":
        return
    if before.get("clusterIP") and after.get("clusterIP") != before["clusterIP"]:
        yield invalid("spec.clusterIPs[0]", after.get("clusterIPs") or [], "may not change once set")


def faults_of_status(service: Object) -> Iterator[Fault]:
    """What is wrong with where a load balancer is reached (ValidateLoadBalancerStatus)."""
    balancer = status_of(service).get("loadBalancer") or {}
    for index, each in enumerate(balancer.get("ingress") or ()):
        path = f"status.loadBalancer.ingress[{index}]"
        mode, name = each.get("ipMode"), each.get("hostname")
        if each.get("ip"):
            yield from by(names.address, f"{path}.ip", each["ip"])
        elif mode is not None:
            yield forbidden(f"{path}.ipMode", "may not be specified when `ip` is not set")
        if mode is not None and mode not in _IP_MODES:
            yield not_supported(f"{path}.ipMode", mode, _IP_MODES)
        if name:
            yield from by(names.dns_subdomain, f"{path}.hostname", name)
            if not names.address(name):
                yield invalid(f"{path}.hostname", name, "must be a DNS name, not an IP address")


def _ports(spec: dict[str, Any], kind: str) -> Iterator[Fault]:
    ports: list[dict[str, Any]] = spec.get("ports") or []
    if not ports and spec.get("clusterIP") != HEADLESS and kind != "ExternalName":
        yield required("spec.ports")
    seen_names, seen, seen_node_ports = set[str](), set[tuple[str, int]](), set[tuple[str, int]]()
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        name, protocol, number = port.get("name", ""), port.get("protocol", ""), port["port"]
        if not name and len(ports) > 1:
            yield required(f"{path}.name")
        elif name:
            yield from by(names.dns_label, f"{path}.name", name)
            if name in seen_names:
                yield duplicate(f"{path}.name", name)
            seen_names.add(name)
        yield from by(names.port_number, f"{path}.port", number)
        yield from one_of(f"{path}.protocol", protocol, PROTOCOLS)
        yield from port_number_or_name(f"{path}.targetPort", port["targetPort"])
        if "appProtocol" in port:
            yield from by(names.qualified_name, f"{path}.appProtocol", port["appProtocol"])
        if (protocol, number) in seen:
            yield duplicate(path, {"port": number, "protocol": protocol})
        seen.add((protocol, number))
        yield from _node_port(path, port, kind, seen_node_ports)


def _node_port(path: str, port: dict[str, Any], kind: str, seen: set[tuple[str, int]]) -> Iterator[Fault]:
    number = port.get("nodePort", 0)
    if not number:
        return
    if kind not in ("NodePort", "LoadBalancer"):
        yield forbidden(f"{path}.nodePort", f"may not be used when `type` is '{kind}'")
    key = (port.get("protocol", ""), number)
    if key in seen:
        yield duplicate(f"{path}.nodePort", number)
    seen.add(key)


def _affinity(spec: dict[str, Any]) -> Iterator[Fault]:
    affinity = spec.get("sessionAffinity", "")
    yield from one_of("spec.sessionAffinity", affinity, ("ClientIP", "None"))
    if affinity == "ClientIP":
        seconds = spec.get("sessionAffinityConfig", {}).get("clientIP", {}).get("timeoutSeconds", 0)
        if not 0 < seconds <= _MAX_AFFINITY_SECONDS:
            yield invalid(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds,
                f"must be greater than 0 and less than {_MAX_AFFINITY_SECONDS}",
            )  # fmt: skip


def _addresses(spec: dict[str, Any], kind: str) -> Iterator[Fault]:
    addresses: Sequence[str] = spec.get("clusterIPs") or []
    if kind == "ExternalName":
        if addresses:
            yield forbidden("spec.clusterIPs", "may not be set for ExternalName services")
    else:
        if addresses and spec.get("clusterIP") != addresses[0]:
            yield invalid("spec.clusterIPs[0]", addresses, "first value must match `clusterIP`")
        if len(addresses) > 1:
            yield invalid("spec.clusterIPs", addresses, "may only hold up to 1 value: this cluster has IPv4 alone")
        for index, address in enumerate(addresses[:1]):
            if address == HEADLESS:
                if kind in ("NodePort", "LoadBalancer"):
                    yield invalid(f"spec.clusterIPs[{index}]", address,
                                  f"may not be set to 'None' for {kind} services")  # fmt: skip
            else:
                yield from by(names.address, f"spec.clusterIPs[{index}]", address)
    for index, address in enumerate(spec.get("externalIPs") or ()):
        yield from by(names.usable_address, f"spec.externalIPs[{index}]", address)


def _families(spec: dict[str, Any], kind: str) -> Iterator[Fault]:
    families = spec.get("ipFamilies") or []
    if kind == "ExternalName":
        for field in ("ipFamilies", "ipFamilyPolicy"):
            if spec.get(field):
                yield forbidden(f"spec.{field}", "may not be set for ExternalName services")
        return
    for index, family in enumerate(families):
        if family not in ("IPv4", "IPv6"):
            yield not_supported(f"spec.ipFamilies[{index}]", family, ("IPv4", "IPv6"))
        elif family == "IPv6":
            yield invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")
    if len(families) != len(set(families)):
        yield duplicate("spec.ipFamilies", families)
    policy = spec.get("ipFamilyPolicy", "")
    yield from one_of("spec.ipFamilyPolicy", policy, ("PreferDualStack", "RequireDualStack", "SingleStack"))
    if policy == "RequireDualStack":
        yield invalid("spec.ipFamilyPolicy", policy, "this cluster is not configured for dual-stack services")


def _policies(spec: dict[str, Any], kind: str) -> Iterator[Fault]:
    if (policy := spec.get("externalTrafficPolicy")) is not None:
        if kind not in ("NodePort", "LoadBalancer") and not spec.get("externalIPs"):
            yield invalid("spec.externalTrafficPolicy", policy, "may only be set for externally-accessible services")
        else:
            yield from one_of("spec.externalTrafficPolicy", policy, _POLICIES)
    if (policy := spec.get("internalTrafficPolicy")) is not None:
        yield from one_of("spec.internalTrafficPolicy", policy, _POLICIES)
    if (distribution := spec.get("trafficDistribution")) is not None:
        yield from one_of("spec.trafficDistribution", distribution, _DISTRIBUTIONS)
    local = kind == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"
    if (number := spec.get("healthCheckNodePort", 0)) and not local:
        told = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield invalid("spec.healthCheckNodePort", number, told)
    if kind != "LoadBalancer":
        if spec.get("loadBalancerSourceRanges"):
            yield forbidden("spec.LoadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'")
        if "allocateLoadBalancerNodePorts" in spec:
            yield forbidden("spec.allocateLoadBalancerNodePorts", "may only be used when `type` is 'LoadBalancer'")
        if spec.get("loadBalancerClass"):
            yield forbidden("spec.loadBalancerClass", "may only be used when `type` is 'LoadBalancer'")


def _load_balancer(spec: dict[str, Any]) -> Iterator[Fault]:
    for index, text in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        yield from by(names.cidr, f"spec.loadBalancerSourceRanges[{index}]", text.strip())
    if spec.get("loadBalancerClass"):
        yield from by(names.qualified_name, "spec.loadBalancerClass", spec["loadBalancerClass"])


def address_fault(addresses: Sequence[str], network: IPv4Network, taken: bool) -> Fault | None:
    """Why a Service cannot have the address that it asks for, if so."""
    (text,) = addresses
    ends = network.network_address, network.broadcast_address  # nobody's, as in Kubernetes
    if ":" in text or IPv4Address(text) not in network or IPv4Address(text) in ends:
        why = f"the provided IP ({text}) is not in the valid range. The range of valid IPs is {network}"
    elif taken:
        why = "provided IP is already allocated"
    else:
        return None
    return invalid("spec.clusterIPs", list(addresses), f"failed to allocate IP {text}: {why}")
