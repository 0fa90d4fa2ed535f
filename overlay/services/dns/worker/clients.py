"""Who may ask, and how much: this node's containers and itself, each with a bound of its own. Pure: takes ``now``."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

MOST = 4096
"""Clients that are remembered; more than a node has containers."""

UNBOUNDED = 1 << 30


class _Client:
    """What one may still ask: ``tokens`` as of ``at``."""

    __slots__ = ("at", "tokens")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens = tokens
        self.at = at


class Clients:
    """Who is known to ask, by the four bytes of the address."""

    def __init__(self) -> None:
        self._networks: tuple[tuple[int, int], ...] = ()
        self._rate = 0
        self._known: dict[bytes, _Client | None] = {}

    def admit(self, networks: Iterable[IPv4Network], rate: int) -> None:
        """From now on only these, each with ``rate`` questions a second and as many at once; 0 is no bound."""
        self._networks = tuple({(int(each.network_address), int(each.netmask)) for each in networks})
        self._rate = rate
        self._known.clear()

    def allowance(self, address: bytes, now: float) -> int:
        """How many questions it may ask now; -1 for one that may ask none, ever."""
        client = self._known.get(address, self)
        if client is self:
            client = self._meet(address, now)
        if client is None:
            return -1
        assert isinstance(client, _Client)
        if not self._rate:
            return UNBOUNDED
        client.tokens = min(float(self._rate), client.tokens + max(0.0, now - client.at) * self._rate)
        client.at = now
        return int(client.tokens)

    def spend(self, address: bytes, count: int) -> None:
        """It has asked so many."""
        if (client := self._known.get(address)) is not None:
            client.tokens -= count

    def _meet(self, address: bytes, now: float) -> _Client | None:
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        number = int(IPv4Address(address))
        may = any(number & mask == base for base, mask in self._networks)
        client = self._known[address] = _Client(float(self._rate), now) if may else None
        return client
