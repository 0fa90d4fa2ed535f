"""What each virtual address means on this node: one table, which every proxy mode renders. Pure.

A Service's port is one :class:`Entry`: the addresses at which it is met (its *frontends*: ClusterIP, node port,
external and load balancer's addresses), and the endpoints that a connection may be given there (its *backends*), as of
any node (``cluster``) and of this one (``local``). What a connection meets is in :mod:`overlay.services.meeting`.

Which endpoints: ready ones; where there are none, those that serve while they terminate; found separately for both sets
(kubernetes ``pkg/proxy/topology.go``, ``CategorizeEndpoints``). IPv4 only.

:class:`TableMaker` makes tables one from the other: an entry that did not change is the same object, so that a
renderer finds what did in the time of a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv4Network, ip_address
from types import MappingProxyType
from typing import NamedTuple, Protocol

from overlay.services import endpoints
from overlay.services.configuration import DEFAULT_SERVICE_CIDR
from overlay.services.facts import Pod, Service, ServiceName, ServicePort, WrittenEndpoint, is_ipv4


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
        return _sorted({*self.cluster, *self.local})


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


# --- one Service ------------------------------------------------------------------------------------------------------


def entries_of(
    service: Service, pods: Iterable[Pod], written: Iterable[WrittenEndpoint], node: str
) -> tuple[Entry, ...]:
    """A Service's entries, one a port, in the order of the ports; with all frontends that it claims.

    None for one without a ClusterIP (headless, ExternalName, not given one yet).

    Args:
        pods: those that it selects.
        written: the endpoints that people wrote; they count where it selects none.
        node: whose pods are local.
    """
    address = next(filter(is_ipv4, service.cluster_ips), None)
    if address is None or service.headless or service.type == "ExternalName":
        return ()
    candidates = _selected(service, pods) if service.selector else _written(written)
    reached: dict[tuple[str, str], list[_Candidate]] = {}
    for candidate in candidates:
        reached.setdefault((candidate.port_name, candidate.protocol), []).append(candidate)
    made = []
    for port in service.ports:
        offered = reached.get((port.name, port.protocol), [])
        cluster, local = (_usable(offered, node, everywhere=each) for each in (True, False))
        draining = {each for each in _backends(offered, node) if each not in cluster and each not in local}
        made.append(
            Entry(
                PortName(service.namespace, service.name, port.name, port.protocol),
                tuple(_frontends(service, port, address)),
                cluster,
                local,
                service.internal_local,
                service.external_local and (service.type in _EXTERNAL_TYPES or bool(service.external_ips)),
                service.affinity_seconds,
                tuple(IPv4Network(each) for each in service.source_ranges if ":" not in each),
                service.scheduler,
                _sorted(draining),
            )
        )
    return tuple(made)


_EXTERNAL_TYPES = ("NodePort", "LoadBalancer")


class _Candidate(NamedTuple):
    """An endpoint at one of its ports."""

    address: str
    port: int
    port_name: str
    protocol: str
    node: str
    ready: bool
    draining: bool


def _selected(service: Service, pods: Iterable[Pod]) -> Iterator[_Candidate]:
    for each in endpoints.endpoints_of(service, pods, "IPv4"):
        draining = each.pod.serving and each.pod.terminating
        for port in each.ports:
            yield _Candidate(
                each.address, port.number, port.name, port.protocol, each.pod.node, each.ready, draining
            )  # fmt: skip


def _written(written: Iterable[WrittenEndpoint]) -> Iterator[_Candidate]:
    for each in written:
        draining = each.serving and each.terminating
        for port in each.ports:
            yield _Candidate(each.address, port.number, port.name, port.protocol, each.node, each.ready, draining)


def _usable(offered: list[_Candidate], node: str, *, everywhere: bool) -> tuple[Backend, ...]:
    within = [each for each in offered if everywhere or each.node == node]
    return _sorted(_backends([each for each in within if each.ready], node) or _backends(within, node))


def _backends(offered: Iterable[_Candidate], node: str) -> set[Backend]:
    """What may still answer. One address of two pods: one of them is gone, and not known to be yet."""
    found: dict[tuple[str, int], bool] = {}
    for each in offered:
        if each.ready or each.draining:
            found[each.address, each.port] = found.get((each.address, each.port), False) or each.node == node
    return {Backend(*where, local) for where, local in found.items()}


def _sorted(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    return tuple(sorted(backends, key=_order))


def _order(backend: Backend) -> tuple[int, int]:
    return int(ip_address(backend.address)), backend.port


def _frontends(service: Service, port: ServicePort, address: str) -> Iterator[Frontend]:
    taken = {address}
    yield Frontend(Kind.CLUSTER_IP, address, port.port)
    claimed = [(Kind.LOAD_BALANCER, each) for each in service.ingress_ips if service.type == "LoadBalancer"]
    claimed += [(Kind.EXTERNAL_IP, each) for each in service.external_ips]
    for kind, each in claimed:
        if is_ipv4(each) and each not in taken:
            taken.add(each)
            yield Frontend(kind, each, port.port)
    if port.node_port and service.type in _EXTERNAL_TYPES:
        yield Frontend(Kind.NODE_PORT, "", port.node_port)


# --- all of them ------------------------------------------------------------------------------------------------------


class Known(Protocol):
    """What a table is made from: :class:`~overlay.services.mirror.ServicesMirror` is one."""

    @property
    def services(self) -> Mapping[ServiceName, Service]: ...

    def selected(self, name: ServiceName) -> list[Pod]: ...

    def written(self, name: ServiceName) -> list[WrittenEndpoint]: ...


class _Claim(NamedTuple):
    """Who wants a frontend; the least has it: the oldest Service."""

    created: str
    name: PortName


class TableMaker:
    """Keeps what is wanted, and of two Services that want one address decides for the older one."""

    def __init__(self) -> None:
        self._node = ""
        self._wanted: dict[ServiceName, tuple[Entry, ...]] = {}
        self._claims: dict[tuple[str, str, int], list[_Claim]] = {}
        self._entries: dict[PortName, Entry] = {}
        self._contested: set[tuple[str, str, int]] = set()

    def make(self, known: Known, place: Place, touched: Set[ServiceName] | None = None) -> Table:
        """The table of now.

        Args:
            touched: Services that may have changed since the last time, with their endpoints; None: all.
        """
        if touched is None or place.node != self._node:
            touched = {*known.services, *self._wanted}
            self._node = place.node
        concerned = set[ServiceName]()
        for name in sorted(touched):
            concerned |= self._take(name, known)
        for name in concerned:
            self._settle(name)
        conflicts = tuple(map(self._conflict, sorted(self._contested)))
        return Table(place, MappingProxyType(dict(self._entries)), conflicts)

    def _take(self, name: ServiceName, known: Known) -> set[ServiceName]:
        """One Service as it is now; returns whose frontends this concerns."""
        service = known.services.get(name)
        now: tuple[Entry, ...] = ()
        if service is not None:
            now = entries_of(service, known.selected(name), known.written(name), self._node)
        before = self._wanted.get(name, ())
        if now == before:
            return set()
        concerned = {name}
        for entry in before:
            self._entries.pop(entry.name, None)
            for frontend in entry.frontends:
                concerned |= self._release(_key(entry, frontend), entry.name)
        for entry in now:
            for frontend in entry.frontends:
                concerned |= self._claim(_key(entry, frontend), _Claim(service.created if service else "", entry.name))
        if now:
            self._wanted[name] = now
        else:
            self._wanted.pop(name, None)
        return concerned

    def _claim(self, key: tuple[str, str, int], claim: _Claim) -> set[ServiceName]:
        claims = self._claims.setdefault(key, [])
        claims.append(claim)
        claims.sort()
        return self._rivals(key)

    def _release(self, key: tuple[str, str, int], name: PortName) -> set[ServiceName]:
        rivals = self._rivals(key)
        self._claims[key] = [each for each in self._claims[key] if each.name != name]
        if not self._claims[key]:
            del self._claims[key]
        self._rivals(key)
        return rivals

    def _rivals(self, key: tuple[str, str, int]) -> set[ServiceName]:
        claims = self._claims.get(key, [])
        if len(claims) < 2:
            self._contested.discard(key)
            return set()
        self._contested.add(key)
        return {(each.name.namespace, each.name.service) for each in claims}

    def _settle(self, name: ServiceName) -> None:
        """Leaves each of a Service's entries the frontends that are its own."""
        for entry in self._wanted.get(name, ()):
            own = tuple(each for each in entry.frontends if self._claims[_key(entry, each)][0].name == entry.name)
            settled = entry if len(own) == len(entry.frontends) else replace(entry, frontends=own)
            if self._entries.get(entry.name) != settled:
                self._entries[entry.name] = settled

    def _conflict(self, key: tuple[str, str, int]) -> str:
        winner, *losers = self._claims[key]
        protocol, address, port = key
        where = f"{address}:{port}" if address else f"node port {port}"
        named = ", ".join(str(each.name) for each in losers)
        return f"{where}/{protocol} is {winner.name}'s, and claimed by {named} too"


def _key(entry: Entry, frontend: Frontend) -> tuple[str, str, int]:
    return entry.protocol, frontend.address, frontend.port
