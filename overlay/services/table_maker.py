"""Makes tables from what is known: each Service's entries, and of all of them those that no older one claims. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import replace
from ipaddress import IPv4Network
from types import MappingProxyType
from typing import NamedTuple, Protocol

from overlay.services import endpoints
from overlay.services.facts import Pod, Service, ServiceName, ServicePort, WrittenEndpoint, is_ipv4
from overlay.services.table import Backend, Entry, Frontend, Kind, Place, PortName, Table, in_order

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
                in_order(draining),
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
    return in_order(_backends([each for each in within if each.ready], node) or _backends(within, node))


def _backends(offered: Iterable[_Candidate], node: str) -> set[Backend]:
    """What may still answer. One address of two pods: one of them is gone, and not known to be yet."""
    found: dict[tuple[str, int], bool] = {}
    for each in offered:
        if each.ready or each.draining:
            found[each.address, each.port] = found.get((each.address, each.port), False) or each.node == node
    return {Backend(*where, local) for where, local in found.items()}


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
