"""Which ClusterIP and which node ports a Service gets, out of those that are free. Pure.

Both ranges begin with a static band that people choose from and that is used for others only when the rest is taken
(KEP-3070, KEP-3668). Where the search begins is told by the Service's name, so that a dry run and a diff show twice
the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from overlay.services.configuration import Configuration
from overlay.services.objects.document import Object, name_of, namespace_of, spec_of
from overlay.services.objects.kinds import SERVICE
from overlay.services.objects.status import Fault, StatusError, invalid, unprocessable
from overlay.services.objects.validation.service import HEADLESS, address_fault


@dataclass(frozen=True, slots=True)
class Claims:
    """What a Service holds for itself alone."""

    addresses: frozenset[str] = frozenset()
    ports: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Taken:
    """What all Services hold, by what holds it (``NAMESPACE/NAME``)."""

    addresses: dict[str, str] = field(default_factory=dict)
    ports: dict[int, str] = field(default_factory=dict)


def owner(service: Object) -> str:
    """What is written at the keys that a Service holds."""
    return f"{namespace_of(service)}/{name_of(service)}"


def claims(service: Object | None) -> Claims:
    """What a stored Service holds; nothing for None."""
    if service is None:
        return Claims()
    spec = spec_of(service)
    addresses = [each for each in spec.get("clusterIPs") or () if each != HEADLESS]
    if spec.get("type") == "ExternalName":
        addresses = []
    ports = {port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")}
    if number := spec.get("healthCheckNodePort"):
        ports.add(number)
    return Claims(frozenset(addresses), frozenset(ports))


def needs_allocation(service: Object) -> bool:
    """Whether a Service holds something, or has to be given something."""
    return spec_of(service).get("type") != "ExternalName" and spec_of(service).get("clusterIP") != HEADLESS


def assign(service: Object, config: Configuration, taken: Taken) -> None:
    """Gives a valid Service what it needs and does not have; what it asks for must be free.

    Args:
        service: is changed.
        taken: by all, this Service too where it is there already.

    Raises:
        StatusError: (422) what it asks for is taken or out of range, or nothing is free.
    """
    spec = spec_of(service)
    me = owner(service)
    others = {address for address, who in taken.addresses.items() if who != me}
    if spec.get("type") != "ExternalName" and not spec.get("clusterIP"):
        address = _free_address(config.service_cidr, others, me)
        if address is None:
            why = f"failed to allocate a serviceIP: range {config.service_cidr} is full"
            raise _full(service, "spec.clusterIPs", [], why)
        spec["clusterIP"], spec["clusterIPs"] = address, [address]
    elif (asked := spec.get("clusterIPs")) and asked[0] != HEADLESS:
        mine = taken.addresses.get(asked[0]) == me
        fault = None if mine else address_fault(asked, config.service_cidr, asked[0] in others)
        if fault is not None:
            raise unprocessable(SERVICE, name_of(service), [fault])
    _assign_ports(service, config, taken)


def _assign_ports(service: Object, config: Configuration, taken: Taken) -> None:
    spec, me = spec_of(service), owner(service)
    others = {port for port, who in taken.ports.items() if who != me}
    wanted = spec.get("type") == "NodePort" or (
        spec.get("type") == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts", True)
    )
    ports: list[dict[str, Any]] = spec.get("ports") or []
    asked = [(f"spec.ports[{index}].nodePort", port.get("nodePort", 0)) for index, port in enumerate(ports)]
    own = {number for _, number in asked}
    asked.append(("spec.healthCheckNodePort", spec.get("healthCheckNodePort", 0)))
    faults = [
        fault
        for path, number in asked
        if number and taken.ports.get(number) != me and (fault := _port_fault(path, number, config, others))
    ]
    if asked[-1][1] in own - {0}:
        faults.append(invalid(*asked[-1], _ALLOCATED))
    if faults:
        raise unprocessable(SERVICE, name_of(service), faults)
    if not wanted:
        return
    used = others | claims(service).ports
    for index, port in enumerate(ports):
        if port.get("nodePort"):
            continue
        # One number serves TCP and UDP of one Service port, as in Kubernetes.
        twin = next((each["nodePort"] for each in ports if each.get("nodePort") and each["port"] == port["port"]), None)
        number = twin or _free_port(config, used, f"{me}:{port['port']}")
        if number is None:
            raise _full(service, f"spec.ports[{index}].nodePort", 0,
                        f"failed to allocate a nodePort: range {config.node_ports} is full")  # fmt: skip
        port["nodePort"] = number
        used.add(number)


_ALLOCATED = "provided port is already allocated"


def _port_fault(path: str, number: int, config: Configuration, others: Collection[int]) -> Fault | None:
    if number not in config.node_ports:
        told = f"provided port is not in the valid range. The range of valid ports is {config.node_ports}"
        return invalid(path, number, told)
    return invalid(path, number, _ALLOCATED) if number in others else None


def _full(service: Object, path: str, value: Any, why: str) -> StatusError:
    return unprocessable(SERVICE, name_of(service), [invalid(path, value, why)])


def static_addresses(network: IPv4Network) -> int:
    """How many addresses at the beginning of a service CIDR are for people to choose (KEP-3070)."""
    usable = network.num_addresses - 2
    size = min(max(16, usable // 16), 256)
    return 0 if usable < size else size


def static_ports(count: int) -> int:
    """How many ports at the beginning of the range are for people to choose (KEP-3668)."""
    size = min(max(16, count // 32), 128)
    return 0 if count < size else size


def _free_address(network: IPv4Network, taken: Collection[str], seed: str) -> str | None:
    first = int(network.network_address) + 1
    band, usable = static_addresses(network), network.num_addresses - 2
    used = {int(IPv4Address(each)) - first for each in taken if ":" not in each}
    offset = _free(band, usable, used, seed)
    return None if offset is None else str(IPv4Address(first + offset))


def _free_port(config: Configuration, taken: Collection[int], seed: str) -> int | None:
    first, count = config.node_ports.first, len(config.node_ports)
    offset = _free(static_ports(count), count, {port - first for port in taken}, seed)
    return None if offset is None else first + offset


def _free(band: int, size: int, used: Collection[int], seed: str) -> int | None:
    """An offset below ``size`` that is not used, from ``band`` on if there is one, searched from a place of its own."""
    start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8])
    for low, high in ((band, size), (0, band)):
        span = high - low
        for step in range(min(span, len(used) + 1)):
            if (offset := low + (start + step) % span) not in used:
                return offset
    return None
