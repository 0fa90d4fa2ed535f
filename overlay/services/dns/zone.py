"""What the cluster's names are made of, ready to be looked up: each Service as its names see it. Pure.

The daemon tells the server these facts, one Service at a time, and then only those that changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TypeAlias

import msgspec

from overlay.services.dns.names import Address
from overlay.services.dns.records import Labels, Tag, labels_of, lowered

Network: TypeAlias = IPv4Network | IPv6Network

ServiceName: TypeAlias = tuple[str, str]
"""Namespace and name."""

DEFAULT_ADDRESS = "169.254.20.10"
"""Where names are answered by default, as with NodeLocal DNSCache: link-local, so no network routes it."""

TTL = 5
"""Seconds; CoreDNS' default, of positive and negative answers alike."""


class Pods(Enum):
    """Whether pods have names by their addresses (CoreDNS' ``pods``)."""

    DISABLED = "disabled"
    INSECURE = "insecure"
    """Every address in a namespace that exists, as the specification wants."""
    VERIFIED = "verified"
    """Those of the namespace's pods."""


class Port(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A port with its name (or none); ``protocol`` in lower case."""

    name: str
    protocol: str
    number: int


class Endpoint(msgspec.Struct, frozen=True, array_like=True):
    """A ready endpoint; ``label`` is its host name, or its address with dashes."""

    address: str
    label: str
    ports: tuple[Port, ...]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A Service as its names see it.

    Attributes:
        addresses: its ClusterIPs; empty for a headless one.
        external: the name that an ExternalName Service stands for.
        endpoints: ready ones, or all where the Service publishes those that are not.
    """

    namespace: str
    name: str
    addresses: tuple[str, ...] = ()
    headless: bool = False
    external: str = ""
    ports: tuple[Port, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def full_name(self) -> ServiceName:
        return self.namespace, self.name


@dataclass(slots=True)
class Zone:
    """All that is known.

    Attributes:
        domain: the cluster's, in lower case.
        server: the address at which this server answers.
        reverse: networks whose addresses nobody else gives names to, so what has no name here has none.
        serial: of the SOA: the revision of etcd that this is of.
        pods: see :class:`Pods`; ``verified`` are those of it, namespace and address.
    """

    domain: Labels = ("cluster", "local")
    server: str = ""
    reverse: tuple[Network, ...] = ()
    serial: int = 0
    pods: Pods = Pods.INSECURE
    namespaces: set[str] = field(default_factory=set)
    verified: set[tuple[str, str]] = field(default_factory=set)
    _entries: dict[ServiceName, Entry] = field(default_factory=dict)
    _by_address: dict[str, dict[ServiceName, None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def domain_name(self) -> str:
        return ".".join(self.domain) + "."

    def entry(self, namespace: str, name: str) -> Entry | None:
        """The Service of that name."""
        return self._entries.get((namespace, name))

    def with_address(self, address: Address) -> list[Entry]:
        """The Services that have an address, themselves or by an endpoint, in the order of their names."""
        return [self._entries[name] for name in sorted(self._by_address.get(str(address), ()))]

    def put(self, entry: Entry) -> set[Tag]:
        """A Service is, from now on, as it says. Returns what answers this concerns."""
        concerned = self.remove(entry.full_name)
        self._entries[entry.full_name] = entry
        for address in _addresses(entry):
            self._by_address.setdefault(address, {})[entry.full_name] = None
            concerned.add(("address", address))
        return concerned

    def remove(self, name: ServiceName) -> set[Tag]:
        """A Service is gone, or never was. Returns what answers this concerns."""
        concerned: set[Tag] = {service_tag(*name)}
        if (entry := self._entries.pop(name, None)) is not None:
            for address in _addresses(entry):
                concerned.add(("address", address))
                names = self._by_address[address]
                names.pop(name, None)
                if not names:
                    del self._by_address[address]
        return concerned

    def set_namespaces(self, present: Iterable[str]) -> set[Tag]:
        """These namespaces exist. Returns what answers this concerns."""
        now = set(present)
        changed = self.namespaces ^ now
        self.namespaces = now
        return {("namespace", name) for name in changed}

    def is_reverse(self, address: Address) -> bool:
        """Whether nobody else gives a name to this address."""
        return any(address in network for network in self.reverse)


def service_tag(namespace: str, name: str) -> Tag:
    """What answers about a Service hang on."""
    return "service", f"{namespace}/{name}"


def _addresses(entry: Entry) -> set[str]:
    """Those whose reverse names are this Service's, in the one way of writing them."""
    return {str(ip_address(each)) for each in (*entry.addresses, *(end.address for end in entry.endpoints))}


def domain_labels(domain: str) -> Labels:
    """A cluster's domain as :attr:`Zone.domain` has it."""
    return lowered(labels_of(domain))
