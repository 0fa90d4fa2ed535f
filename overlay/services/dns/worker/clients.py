"""Who may ask, and how much: this node's containers and itself, each with a bound of its own. Pure: takes ``now``."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from overlay.rates import TokenBucket

MOST = 4096
"""Clients that are remembered; more than a node has containers."""

UNBOUNDED = 1 << 30


class Clients:
    """Who is known to ask, by the four bytes of the address."""

    def __init__(self) -> None:
        self._networks: tuple[tuple[int, int], ...] = ()
        self._rate = 0
        self._known: dict[bytes, TokenBucket | None] = {}

    def admit(self, networks: Iterable[IPv4Network], rate: int) -> None:
        """From now on only these, each with ``rate`` questions a second and as many at once; 0 is no bound."""
        self._networks = tuple({(int(each.network_address), int(each.netmask)) for each in networks})
        self._rate = rate
        self._known.clear()

    def allowance(self, address: bytes, now: float) -> int:
        """How many questions it may ask now; -1 for one that may ask none, ever."""
        client = self._known[address] if address in self._known else self._meet(address)
        if client is None:
            return -1
        return client.left(now) if self._rate else UNBOUNDED

    def spend(self, address: bytes, count: int) -> None:
        """It has asked so many."""
        if (client := self._known.get(address)) is not None:
            client.take(count)

    def _meet(self, address: bytes) -> TokenBucket | None:
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        number = int(IPv4Address(address))
        may = any(number & mask == base for base, mask in self._networks)
        client = self._known[address] = TokenBucket(self._rate, self._rate) if may else None
        return client
