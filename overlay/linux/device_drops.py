"""What interfaces dropped, as ``/proc/net/dev`` has it: one read for all of them, and no netlink.

The file is that of the caller's network namespace (``/sys/class/net`` is that of whoever mounted it).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from overlay.text import lines_of

_DEVICES, _ROUTES = "/proc/thread-self/net/dev", "/proc/thread-self/net/route"
_HEADLINES = 2
_RX_DROPPED, _TX_DROPPED = 3, 11
"""Columns behind an interface's name (net/core/net-procfs.c, ``dev_seq_printf_stats``)."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Packets that an interface dropped since it exists, by direction."""

    rx: int
    tx: int


def dropped() -> dict[str, Dropped]:
    """By the interface's name."""
    found = {}
    for line in lines_of(Path(_DEVICES).read_bytes())[_HEADLINES:]:
        name, _, numbers = line.partition(":")
        columns = numbers.split()
        found[name.lstrip(" ")] = Dropped(int(columns[_RX_DROPPED]), int(columns[_TX_DROPPED]))
    return found


def device_of(subnet: IPv4Network) -> str | None:
    """The interface that the route to exactly ``subnet`` leaves by: the bridge of its containers; None if none does."""
    wanted = _hexadecimal(subnet.network_address.packed), _hexadecimal(subnet.netmask.packed)
    for line in lines_of(Path(_ROUTES).read_bytes())[1:]:
        columns = line.split("\t")
        if (columns[1], columns[7]) == wanted and columns[0] != "*":
            return columns[0]
    return None


def lost_between(one: Dropped | None, other: Dropped | None) -> int:
    """Packets that a pair of interfaces, each other's only way, has lost, both ways.

    As a rule the end that sends counts one, and the end that does not get it counts the same one; some reasons only one
    of them sees. None: that end is not there.
    """
    if one is None or other is None:
        return sum(end.rx + end.tx for end in (one, other) if end is not None)
    return max(one.tx, other.rx) + max(other.tx, one.rx)


class Growth:
    """How much numbers have grown since each was first seen here; one that shrinks has begun anew, from 0."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._total: dict[str, int] = {}

    @property
    def totals(self) -> dict[str, int]:
        """The growth of all, as of when each was seen last."""
        return dict(self._total)

    def add(self, name: str, value: int) -> int:
        """The growth of ``name``, which is at ``value`` now."""
        last = self._last.get(name, value)
        self._last[name] = value
        self._total[name] = self._total.get(name, 0) + (value - last if value >= last else value)
        return self._total[name]


def _hexadecimal(packed: bytes) -> str:
    """As the kernel prints an address: the 32-bit word in the machine's order."""
    return f"{struct.unpack('=I', packed)[0]:08X}"
