"""Endpoints and EndpointSlices of Services with selectors: pure functions of a Service and its pods.

Nobody stores them; all who compute them from the same revision have the same. Rules: Kubernetes' own controllers
(kubernetes ``pkg/controller/endpoint/endpoints_controller.go``, ``staging/src/k8s.io/endpointslice/reconciler.go``,
``pkg/apis/core/pods/helpers.go`` ``FindPort``).

A pod is an endpoint where it has an address of the Service's family and has not ended. It is *serving* while it is
ready, and *ready* unless it terminates, too. Its ports are those of the Service that it has: a ``targetPort`` that is a
name may be another number in each pod, so pods are grouped by what their ports are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, TypeAlias

from overlay.services.facts import SERVICE_NAME, Pod, Service, ServicePort
from overlay.services.objects.document import Object

MAX_IN_SLICE = 100
"""Endpoints of one EndpointSlice (``--max-endpoints-per-slice``)."""

MAX_IN_ENDPOINTS = 1000
"""Addresses of one Endpoints; more are left out and said so (``maxCapacity``)."""

MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
HEADLESS = "service.kubernetes.io/headless"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"

MANAGER = "endpointslice-controller.overlay.io"


@dataclass(frozen=True, slots=True)
class Port:
    """A port at which endpoints are reached, by the name of the Service's port."""

    name: str
    number: int
    protocol: str
    app_protocol: str


Ports: TypeAlias = tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of one pod."""

    pod: Pod
    address: str
    ports: Ports
    ready: bool
    hostname: str

    @property
    def order(self) -> tuple[int, str]:
        return int(ip_address(self.address)), self.pod.uid


def endpoints_of(service: Service, pods: Iterable[Pod], family: str) -> list[Endpoint]:
    """A Service's endpoints of one family, by address.

    Args:
        pods: those that it selects.
        family: ``IPv4`` or ``IPv6``.
    """
    found = []
    for pod in pods:
        address = _address(pod, family)
        if address is None or pod.ended:
            continue
        ready = service.publish_not_ready or (pod.serving and not pod.terminating)
        named = bool(pod.hostname) and pod.subdomain == service.name and pod.namespace == service.namespace
        ports = tuple(_found_ports(service.ports, pod))
        found.append(Endpoint(pod, address, ports, ready, pod.hostname if named else ""))
    return sorted(found, key=lambda endpoint: endpoint.order)


def _address(pod: Pod, family: str) -> str | None:
    return next((each for each in pod.addresses if (":" in each) == (family == "IPv6")), None)


def _found_ports(ports: Sequence[ServicePort], pod: Pod) -> Iterator[Port]:
    for port in ports:
        number = port.target if isinstance(port.target, int) else _named(pod, port.target, port.protocol)
        if number is not None:
            yield Port(port.name, number, port.protocol, port.app_protocol)


def _named(pod: Pod, name: str, protocol: str) -> int | None:
    return next((port.number for port in pod.ports if (port.name, port.protocol) == (name, protocol)), None)


# --- v1 Endpoints ---------------------------------------------------------------------------------------------------


def endpoints(service: Service, pods: Iterable[Pod]) -> Object:
    """A Service's v1 Endpoints; only those of its first family.

    Ports that the same addresses have, and are as ready at, are one subset. Ready ones come first where there are too
    many.
    """
    listed = [each for each in endpoints_of(service, pods, service.families[0]) if _is_listed(service, each)]
    kept, left_out = _within_capacity(listed)
    offered: dict[Port | None, list[Endpoint]] = {}
    for endpoint in kept:
        for port in endpoint.ports or ((None,) if service.headless and not service.ports else ()):
            offered.setdefault(port, []).append(endpoint)
    subsets: dict[tuple[int, ...], tuple[list[Endpoint], list[Port]]] = {}
    for offered_port, members in offered.items():
        _, ports = subsets.setdefault(tuple(map(id, members)), (members, []))
        if offered_port is not None:
            ports.append(offered_port)
    described = [(members, _port_order(ports)) for members, ports in subsets.values()]
    described.sort(key=lambda subset: (list(map(_port_key, subset[1])), subset[0][0].order))
    metadata = _metadata(service, service.name, {})
    if left_out:
        metadata["annotations"] = {OVER_CAPACITY: "truncated"}
    result: Object = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata}
    if described:
        result["subsets"] = [_subset(members, ports) for members, ports in described]
    return result


def _is_listed(service: Service, endpoint: Endpoint) -> bool:
    """v1 Endpoints have no place for pods that terminate, unless the Service wants all."""
    return service.publish_not_ready or not endpoint.pod.terminating


def _within_capacity(listed: list[Endpoint]) -> tuple[list[Endpoint], int]:
    if len(listed) <= MAX_IN_ENDPOINTS:
        return listed, 0
    chosen = sorted(listed, key=lambda endpoint: not endpoint.ready)[:MAX_IN_ENDPOINTS]
    return sorted(chosen, key=lambda endpoint: endpoint.order), len(listed) - MAX_IN_ENDPOINTS


def _port_order(ports: Iterable[Port]) -> Ports:
    return tuple(sorted(ports, key=_port_key))


def _port_key(port: Port) -> tuple[str, str, int, str]:
    return port.name, port.protocol, port.number, port.app_protocol


def _subset(members: list[Endpoint], ports: Ports) -> dict[str, Any]:
    subset: dict[str, Any] = {}
    for name, wanted in (("addresses", True), ("notReadyAddresses", False)):
        if found := [_endpoint_address(each) for each in members if each.ready == wanted]:
            subset[name] = found
    if ports:
        subset["ports"] = [{key: value for key, value in _port(each).items() if value != ""} for each in ports]
    return subset


def _endpoint_address(endpoint: Endpoint) -> dict[str, Any]:
    described: dict[str, Any] = {"ip": endpoint.address}
    if endpoint.hostname:
        described["hostname"] = endpoint.hostname
    if endpoint.pod.node:
        described["nodeName"] = endpoint.pod.node
    return {**described, "targetRef": _reference(endpoint.pod)}


# --- discovery.k8s.io/v1 EndpointSlice ------------------------------------------------------------------------------


def slices(service: Service, pods: Iterable[Pod]) -> list[Object]:
    """A Service's EndpointSlices, in the order of their names. One without endpoints has one slice, an empty one.

    For every family and every set of ports, endpoints are dealt out by a hash of their pods' uids: a slice that would
    be too large is split in two by one more bit. So a slice depends on its own pods alone, and where one changes, the
    others stay as they are, with their names.
    """
    pods = list(pods)
    dealt: list[tuple[str, Ports, str, list[Endpoint]]] = []
    for family in service.families:
        groups: dict[Ports, list[Endpoint]] = {}
        for endpoint in endpoints_of(service, pods, family):
            groups.setdefault(_port_order(endpoint.ports), []).append(endpoint)
        for ports in sorted(groups, key=lambda each: list(map(_port_key, each))):
            dealt += [(family, ports, bits, members) for bits, members in _dealt(groups[ports])]
    described: dict[str, Object] = {}
    for family, ports, bits, members in dealt or [(service.families[0], (), "", [])]:
        length = _SUFFIX_LENGTH
        while (name := f"{service.name}-{_suffix(family, ports, bits, length)}") in described:
            length += 1
        described[name] = _slice(service, name, family, ports, members)
    return [described[name] for name in sorted(described)]


def _dealt(members: list[Endpoint], bits: str = "") -> Iterator[tuple[str, list[Endpoint]]]:
    if len(members) <= MAX_IN_SLICE or len(bits) == 64:
        for start in range(0, len(members), MAX_IN_SLICE):
            yield f"{bits}{f'+{start}' if start else ''}", members[start : start + MAX_IN_SLICE]
        return
    halves: tuple[list[Endpoint], list[Endpoint]] = ([], [])
    for endpoint in members:
        halves[_bit(endpoint.pod.uid, len(bits))].append(endpoint)
    for digit, half in zip("01", halves, strict=True):
        yield from _dealt(half, bits + digit)


def _bit(uid: str, number: int) -> int:
    digest = hashlib.blake2b(uid.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (63 - number) & 1


_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
"""Characters of names that a machine chooses (apimachinery ``pkg/util/rand``): no words come of them."""


_SUFFIX_LENGTH = 5


def _slice(service: Service, name: str, family: str, ports: Ports, members: list[Endpoint]) -> Object:
    labels = {SERVICE_NAME: service.name, MANAGED_BY: MANAGER}
    owner = {"apiVersion": "v1", "kind": "Service", "name": service.name, "uid": service.uid}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            **_metadata(service, name, labels),
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "addressType": family,
        "endpoints": [_slice_endpoint(service, each) for each in members],
        "ports": [_port(each) for each in ports],
    }


def _suffix(family: str, ports: Ports, bits: str, length: int) -> str:
    text = repr((family, [_port_key(each) for each in ports], bits))
    number = int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big")
    digits = ""
    for _ in range(length):
        number, digit = divmod(number, len(_SUFFIX))
        digits += _SUFFIX[digit]
    return digits


def _slice_endpoint(service: Service, endpoint: Endpoint) -> dict[str, Any]:
    pod = endpoint.pod
    described: dict[str, Any] = {
        "addresses": [endpoint.address],
        "conditions": {"ready": endpoint.ready, "serving": pod.serving, "terminating": pod.terminating},
    }
    if endpoint.hostname:
        described["hostname"] = endpoint.hostname
    if pod.node:
        described["nodeName"] = pod.node
    return {**described, "targetRef": _reference(pod)}


# --- both -----------------------------------------------------------------------------------------------------------


def _metadata(service: Service, name: str, labels: dict[str, str]) -> dict[str, Any]:
    own = {key: value for key, value in service.labels.items() if key != HEADLESS}
    headless = {HEADLESS: ""} if service.headless else {}
    return {"name": name, "namespace": service.namespace, "labels": {**own, **headless, **labels}}


def _port(port: Port) -> dict[str, Any]:
    described: dict[str, Any] = {"name": port.name, "port": port.number, "protocol": port.protocol}
    if port.app_protocol:
        described["appProtocol"] = port.app_protocol
    return described


def _reference(pod: Pod) -> dict[str, str]:
    return {"kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid}
