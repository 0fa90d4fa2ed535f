"""What each virtual address means on this node: one table, which every proxy mode renders. Pure.

A Service's port is one :class:`Entry`: the addresses at which it is met (its *frontends*: ClusterIP, node port,
external and load balancer's addresses), and the endpoints that a connection may be given there (its *backends*), as of
any node (``cluster``) and of this one (``local``). What a connection meets is in :mod:`overlay.services.meeting`.

Which endpoints: ready ones; where there are none, those that serve while they terminate; found separately for both sets
(kubernetes ``pkg/proxy/topology.go``, ``CategorizeEndpoints``). IPv4 only.

:mod:`overlay.services.table_maker` makes tables, one from the other: an entry that did not change is the same object,
so that a renderer finds what did in the time of a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, ip_address
from typing import NamedTuple

from overlay.services.configuration import DEFAULT_SERVICE_CIDR


class PortName(NamedTuple):
    """A Service's port by its names: ``default/web:http``. ``port`` is empty where it has none."""

    namespace: str
    service: str
    port: str
    protocol: str

    def __str__(self) -> str:
        named = f":{self.port}" if self.port else ""
        return f"{self.namespace}/{self.service}{named}" + ("" if self.protocol == "TCP" else f"/{self.protocol}")


class Backend(NamedTuple):
    """Where a connection may end. ``local``: in a pod of this node."""

    address: str
    port: int
    local: bool

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


class Kind(Enum):
    """What an address is to its Service."""

    CLUSTER_IP = "cluster IP"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER = "load balancer's address"
    NODE_PORT = "node port"

    @property
    def external(self) -> bool:
        """Whether ``externalTrafficPolicy`` is its policy."""
        return self is not Kind.CLUSTER_IP


class Frontend(NamedTuple):
    """Where a Service is met. A node port's address is empty: it is at each of the node's own."""

    kind: Kind
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.kind.value} {self.address}:{self.port}" if self.address else f"{self.kind.value} {self.port}"


class Answer(Enum):
    """What becomes of a new connection."""

    BALANCE = "given a backend"
    REJECT = "refused"
    DROP = "dropped"
    PASS = "no Service's affair"


@dataclass(frozen=True, slots=True)
class Entry:
    """One port of one Service.

    Attributes:
        frontends: each in one entry of a table only.
        cluster, local: its backends of all nodes and of this one, by address and port.
        internal_local, external_local: whether only ``local`` ones may be chosen: at the ClusterIP, at all others.
        affinity_seconds: how long a client keeps its backend after its last connection; None: no affinity.
        source_ranges: which clients may come to the load balancer's addresses; empty: all.
        scheduler: what the Service asks for, as it is written; empty: what the mode does by default.
        draining: those that serve while they terminate, and are given no new connection: what they have goes on.
    """

    name: PortName
    frontends: tuple[Frontend, ...]
    cluster: tuple[Backend, ...] = ()
    local: tuple[Backend, ...] = ()
    internal_local: bool = False
    external_local: bool = False
    affinity_seconds: int | None = None
    source_ranges: tuple[IPv4Network, ...] = ()
    scheduler: str = ""
    draining: tuple[Backend, ...] = ()

    @property
    def protocol(self) -> str:
        """TCP, UDP or SCTP."""
        return self.name.protocol

    def backends(self, kind: Kind) -> tuple[Backend, ...]:
        """Which may be chosen at such an address, by its policy."""
        return self.local if self._only_local(kind) else self.cluster

    def answer(self, kind: Kind) -> Answer:
        """What a new connection to such an address meets, by its policy.

        Refused where no node has an endpoint; dropped where others have one, but this node must not use them: so
        clients try again, or another node.
        """
        if not self.cluster:
            return Answer.REJECT
        return Answer.BALANCE if self.backends(kind) else Answer.DROP

    def _only_local(self, kind: Kind) -> bool:
        return self.external_local if kind.external else self.internal_local

    @property
    def all_backends(self) -> tuple[Backend, ...]:
        """Of either set; ``local`` has others than ``cluster`` where only this node's all terminate."""
        return in_order({*self.cluster, *self.local})


@dataclass(frozen=True, slots=True)
class Place:
    """This node, as far as what addresses mean depends on it.

    Attributes:
        node: its name; pods of that node are local.
        networks: the overlay's: sources in them are pods, and are seen as they are.
        addresses: the node's own, without 127.0.0.0/8: node ports are at these.
        service_cidr: where ClusterIPs are from; what nobody has of it answers nobody. None: the machine reaches
            something else there, so that must pass.
        bridged: of its pods' subnets those within which packets pass a bridge alone (``br_netfilter`` is off).
            Answers would go to the client directly there, so it is hidden from its neighbours.
    """

    node: str
    networks: tuple[IPv4Network, ...] = ()
    addresses: frozenset[str] = frozenset()
    service_cidr: IPv4Network | None = DEFAULT_SERVICE_CIDR
    bridged: tuple[IPv4Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """What all addresses mean, by port. ``conflicts``: sentences about addresses that two Services claim."""

    place: Place
    entries: Mapping[PortName, Entry] = field(default_factory=dict)
    conflicts: tuple[str, ...] = ()

    def changed(self, before: Table | None) -> Iterator[tuple[PortName, Entry | None, Entry | None]]:
        """What is not as before: a port, its entry before and now; None where there is none."""
        old = {} if before is None else before.entries
        for name, entry in self.entries.items():
            if (was := old.get(name)) is not entry and was != entry:
                yield name, was, entry
        for name, was in old.items():
            if name not in self.entries:
                yield name, was, None


def in_order(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    """The order that backends have everywhere."""
    return tuple(sorted(backends, key=_order))


def _order(backend: Backend) -> tuple[int, int]:
    return int(ip_address(backend.address)), backend.port
