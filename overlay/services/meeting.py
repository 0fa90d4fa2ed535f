"""What a connection from A to B:port meets on a node, by its table. Pure.

It says in plain words, one case after another, what a node does with a new connection; every proxy mode is held against
it. Rules: kubernetes ``pkg/proxy/nftables/proxier.go``.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from overlay.services.table import Answer, Backend, Entry, Kind, Place, Table


@dataclass(frozen=True, slots=True)
class Meeting:
    """What becomes of a connection.

    Attributes:
        backends: which it may be given.
        masqueraded: those of them that see an address of this node instead of the client's.
        entry: whose address it was; None where it is no Service's.
    """

    answer: Answer
    backends: frozenset[Backend] = frozenset()
    masqueraded: frozenset[Backend] = frozenset()
    entry: Entry | None = None


def meets(table: Table, source: IPv4Address, destination: IPv4Address, port: int, protocol: str = "TCP") -> Meeting:
    """What a new connection meets that this node sends or forwards.

    Args:
        source: the client's address; one of the node's own for what the node itself sends.
    """
    found = _found(table, str(destination), port, protocol)
    if found is None:
        return Meeting(_nobodys(table, destination))
    entry, kind = found
    place = table.place
    if kind is Kind.LOAD_BALANCER and entry.source_ranges and not any(source in each for each in entry.source_ranges):
        return Meeting(Answer.DROP, entry=entry)
    inside = is_pod(place, source)
    if kind.external and entry.external_local and entry.cluster and (inside or is_own(place, source)):
        # Whoever is inside the cluster needs no node that has an endpoint: as if it had asked at the ClusterIP.
        return _given(entry, place, source, entry.cluster, masqueraded=not inside)
    answer = entry.answer(kind)
    if answer is not Answer.BALANCE:
        return Meeting(answer, entry=entry)
    masqueraded = not entry.external_local if kind.external else not inside and bool(place.networks)
    return _given(entry, place, source, entry.backends(kind), masqueraded=masqueraded)


def _given(
    entry: Entry, place: Place, source: IPv4Address, backends: tuple[Backend, ...], *, masqueraded: bool
) -> Meeting:
    seen = frozenset(each for each in backends if masqueraded or _must_not_see(place, source, each))
    return Meeting(Answer.BALANCE, frozenset(backends), seen, entry)


def _must_not_see(place: Place, source: IPv4Address, backend: Backend) -> bool:
    """Whether a backend that saw the client would answer it directly: itself, or a neighbour on a bridge."""
    neighbours = any(source in each and IPv4Address(backend.address) in each for each in place.bridged)
    return neighbours or backend.address == str(source)


def is_pod(place: Place, source: IPv4Address) -> bool:
    """Whether an address is of the overlay, so that any node knows the way back to it."""
    return any(source in network for network in place.networks)


def is_own(place: Place, address: IPv4Address) -> bool:
    """Whether it is the node itself that sends."""
    return address.is_loopback or str(address) in place.addresses


def _found(table: Table, address: str, port: int, protocol: str) -> tuple[Entry, Kind] | None:
    """The entry that an address is met at: an address of its own goes before a node port."""
    for wanted in (address, "" if address in table.place.addresses else None):
        for entry in table.entries.values():
            for frontend in entry.frontends:
                if (entry.protocol, frontend.address, frontend.port) == (protocol, wanted, port):
                    return entry, frontend.kind
    return None


def _nobodys(table: Table, destination: IPv4Address) -> Answer:
    """At a ClusterIP only its ports answer; an address that could be one and is none answers nobody."""
    addresses = {each.address for entry in table.entries.values() for each in entry.frontends
                 if each.kind is Kind.CLUSTER_IP}  # fmt: skip
    if str(destination) in addresses:
        return Answer.REJECT
    cidr = table.place.service_cidr
    return Answer.DROP if cidr is not None and destination in cidr else Answer.PASS
