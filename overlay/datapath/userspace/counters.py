"""What a worker counts; what each counter says is in :mod:`overlay.datapath.counters`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields


@dataclass(slots=True)
class Counters:
    """Counts since the worker's start, in the order in which they are sent to the agent."""

    tx_packets: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    rx_bytes: int = 0

    drop_tx_not_ipv4: int = 0
    drop_tx_no_peer: int = 0
    drop_tx_ttl: int = 0
    drop_tx_too_big: int = 0
    drop_tx_send: int = 0
    drop_tx_nested: int = 0

    drop_outer_source: int = 0
    drop_malformed: int = 0
    drop_checksum: int = 0
    drop_inner_source: int = 0
    drop_inner_destination: int = 0
    drop_rx_ttl: int = 0
    drop_tun_write: int = 0

    icmp_sent: int = 0
    icmp_limited: int = 0
    icmp_unproven: int = 0
    tx_fragmented: int = 0
    offloads_refused: int = 0
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
