"""What a worker counts. Every packet that is not forwarded is in exactly one ``drop_`` counter, by cause."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields


@dataclass(slots=True)
class Counters:
    """Counts since the worker's start. ``tx`` is TUN to peers, ``rx`` peers to TUN; bytes are of inner packets."""

    tx_packets: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    rx_bytes: int = 0

    drop_tx_not_ipv4: int = 0
    """From the TUN: IPv6, or no valid IPv4 header."""
    drop_tx_no_peer: int = 0
    """No peer's subnet holds the destination."""
    drop_tx_ttl: int = 0
    drop_tx_too_big: int = 0
    """Larger than the path to the peer carries, and not to be fragmented."""
    drop_tx_send: int = 0
    """The underlay refused it: no route, no buffer, a firewall."""
    drop_tx_nested: int = 0
    """The tunnel's own datagram: a peer's address is reached through the tunnel itself."""

    drop_outer_source: int = 0
    """From an address that is no peer's."""
    drop_malformed: int = 0
    """Version, header length, total length or length of the datagram do not agree."""
    drop_checksum: int = 0
    """The inner header's checksum is wrong."""
    drop_inner_source: int = 0
    """The inner source belongs to another peer, to nobody, or to ourselves."""
    drop_inner_destination: int = 0
    """Not an address of our subnet."""
    drop_rx_ttl: int = 0
    drop_tun_write: int = 0
    """The TUN refused it: down, or no memory."""

    icmp_sent: int = 0
    icmp_limited: int = 0
    """Answers that were due, and not sent because of the rate limit."""
    tx_fragmented: int = 0
    """Packets that were fragmented because the path to the peer carries less; their fragments are in tx_packets."""
    offloads_refused: int = 0
    """Offloads that the kernel offered and then did not do; each is off from then on."""
    control_malformed: int = 0


COUNTER_NAMES = tuple(field.name for field in fields(Counters))


def add(total: dict[str, int], values: Iterable[int]) -> None:
    """Adds ``values``, in the order of :data:`COUNTER_NAMES`, to ``total`` in place.

    Raises:
        ValueError: more values than names, or fewer; a Status that decoded has neither.
    """
    for name, value in zip(COUNTER_NAMES, values, strict=True):
        total[name] = total.get(name, 0) + value


def snapshot(counters: Counters) -> tuple[int, ...]:
    """The values in the order of :data:`COUNTER_NAMES`."""
    return astuple(counters)
