"""The cluster's configuration, one JSON document in etcd: which addresses, ports and names Services get.

``{"serviceCIDR": "10.96.0.0/12", "nodePorts": "30000-32767", "domain": "cluster.local"}``; each field has that default.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError
from typing import Any

import msgspec

from overlay.errors import ConfigError
from overlay.services.objects import names

MIN_PREFIX, MAX_PREFIX = 12, 30
"""Lengths that a service CIDR can have; more than a /12 Kubernetes does not take either."""


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports from ``first`` to ``last``, both included."""

    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


DEFAULT_SERVICE_CIDR = IPv4Network("10.96.0.0/12")
_NODE_PORTS = PortRange(30000, 32767)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the cluster's Services are given.

    Attributes:
        service_cidr: where ClusterIPs come from.
        node_ports: where node ports come from.
        domain: under which Services have names.
    """

    service_cidr: IPv4Network = DEFAULT_SERVICE_CIDR
    node_ports: PortRange = _NODE_PORTS
    domain: str = "cluster.local"


_NAMES = {"serviceCIDR": "service_cidr", "nodePorts": "node_ports", "domain": "domain"}
assert set(_NAMES.values()) == {each.name for each in fields(Configuration)}


def parse(value: bytes, about: str = "") -> Configuration:
    """Reads the document. Raises ConfigError for one that breaks a rule, with the field's name."""
    try:
        document = msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ConfigError(f"is no JSON: {error}", about=about) from None
    if not isinstance(document, dict):
        raise ConfigError("is no JSON object", about=about)
    if unknown := [name for name in document if name not in _NAMES]:
        raise ConfigError(f"has no field {unknown[0]!r}", about=about, remedy=f"there are {', '.join(_NAMES)}")
    values: dict[str, Any] = {}
    for name, field in _NAMES.items():
        if name in document:
            try:
                values[field] = _PARSERS[name](document[name])
            except ValueError as error:
                raise ConfigError(str(error), about=f"{about}: {name}" if about else name) from None
    return Configuration(**values)


def render(config: Configuration) -> bytes:
    """Undoes :func:`parse`, with every field written out."""
    return msgspec.json.encode({name: str(getattr(config, field)) for name, field in _NAMES.items()})


def _network(value: Any) -> IPv4Network:
    try:
        network = IPv4Network(value if isinstance(value, str) else "")
    except (AddressValueError, NetmaskValueError, ValueError):
        raise ValueError(f"{value!r} is no IPv4 network, such as 10.96.0.0/12") from None
    if not MIN_PREFIX <= network.prefixlen <= MAX_PREFIX:
        raise ValueError(f"{network} is no network between /{MIN_PREFIX} and /{MAX_PREFIX}")
    if network.is_loopback or network.is_multicast or network.is_link_local:
        raise ValueError(f"{network} is of a range that no packet is routed to")
    return network


def _ports(value: Any) -> PortRange:
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", value) if isinstance(value, str) else None
    if found is None or not 1 <= int(found[1]) <= int(found[2]) <= 65535:
        raise ValueError(f"{value!r} is no range of ports, such as 30000-32767")
    return PortRange(int(found[1]), int(found[2]))


def _domain(value: Any) -> str:
    text = value.rstrip(".") if isinstance(value, str) else ""
    if names.dns_subdomain(text):
        raise ValueError(f"{value!r} is no domain, such as cluster.local")
    return text


_PARSERS = {"serviceCIDR": _network, "nodePorts": _ports, "domain": _domain}
