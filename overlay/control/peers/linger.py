"""Peers that have just left are kept for a moment: a lease that is deleted by hand, or lost with a store that was
restored empty, is put back by its owner within that, and no packet between the two notices.

Nobody else's packets are let in by it: the subnet was that peer's a moment ago, and once anybody leases any part of it
the peer that left is forgotten at once.
"""

from __future__ import annotations

from ipaddress import IPv4Network
from types import MappingProxyType

from overlay.model import Peer, PeerTable

LINGER_SECONDS = 3.0
"""How long a peer outlives its lease; its owner, if it lives, needs some milliseconds, or a watch's longest retry."""


class Lingering:
    """The peer table as the datapath should have it, of tables that follow one another."""

    def __init__(self) -> None:
        self._last: PeerTable | None = None
        self._departed: dict[Peer, float] = {}

    def update(self, table: PeerTable, now: float) -> PeerTable:
        """``table`` with the peers that left less than LINGER_SECONDS ago; the same object where there are none."""
        if self._last is not None and self._last is not table:
            for subnet, peer in self._last.peers.items():
                if subnet not in table.peers:
                    self._departed.setdefault(peer, now + LINGER_SECONDS)
        self._last = table
        if not self._departed:
            return table
        longer = _by_length(table)
        self._departed = {
            peer: until for peer, until in self._departed.items() if now < until and not _taken(peer, table, longer)
        }
        if not self._departed:
            return table
        kept = {peer.subnet: peer for peer in self._departed}
        return PeerTable(table.own, MappingProxyType(kept | dict(table.peers)))

    @property
    def due(self) -> float | None:
        """When the next of them is to be forgotten; None if there are none."""
        return min(self._departed.values(), default=None)


def _by_length(table: PeerTable) -> dict[int, list[IPv4Network]]:
    lengths: dict[int, list[IPv4Network]] = {}
    for subnet in table.peers:
        lengths.setdefault(subnet.prefixlen, []).append(subnet)
    return lengths


def _taken(peer: Peer, table: PeerTable, by_length: dict[int, list[IPv4Network]]) -> bool:
    """Whether any part of the subnet is somebody's now. As a rule all have one length, and no list is walked."""
    if table.own is not None and peer.subnet.overlaps(table.own):
        return True
    if table.lookup(peer.subnet.network_address) is not None:
        return True
    return any(
        peer.subnet.overlaps(inner)
        for length, subnets in by_length.items()
        if length > peer.subnet.prefixlen
        for inner in subnets
    )
