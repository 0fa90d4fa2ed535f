"""Where keys are found again: by a value that they share, or by the addresses that they take.

As a rule one key has a value to itself, and there are thousands: one alone is kept as it is, for a set is four times as
large as what it would hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Generic, TypeVar

V = TypeVar("V")
Subnet = IPv4Network | IPv6Network


class Index(Generic[V]):
    """Keys by a value."""

    def __init__(self) -> None:
        self._keys: dict[V, str | set[str]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[V]:
        return iter(self._keys)

    def add(self, value: V, key: str) -> None:
        """Notes that ``key`` has ``value``."""
        present = self._keys.setdefault(value, key)
        if isinstance(present, set):
            present.add(key)
        elif present != key:
            self._keys[value] = {present, key}

    def discard(self, value: V, key: str) -> None:
        """Forgets what :meth:`add` noted."""
        present = self._keys[value]
        if isinstance(present, set):
            present.discard(key)
        if not present or present == key:
            del self._keys[value]

    def get(self, value: V) -> Collection[str]:
        """The keys that have ``value``."""
        present = self._keys.get(value)
        if present is None:
            return ()
        return present if isinstance(present, set) else (present,)


class SubnetIndex:
    """Networks of one family with the keys that name them; answers whether a range overlaps any.

    The cost of a question depends on the number of distinct prefix lengths, as a rule one, not of networks.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._by_length: dict[int, Index[int]] = {}

    def add(self, subnet: Subnet, key: str) -> None:
        """Notes that ``key`` names ``subnet``."""
        self._by_length.setdefault(subnet.prefixlen, Index()).add(int(subnet.network_address), key)

    def discard(self, subnet: Subnet, key: str) -> None:
        """Forgets what :meth:`add` noted."""
        bases = self._by_length[subnet.prefixlen]
        bases.discard(int(subnet.network_address), key)
        if not bases:
            del self._by_length[subnet.prefixlen]

    def overlaps(self, base: int, length: int) -> bool:
        """Whether any network shares an address with the one at ``base`` of prefix length ``length``."""
        return next(self.overlapping(base, length), None) is not None

    def overlapping(self, base: int, length: int) -> Iterator[str]:
        """The keys of all networks that share an address with the one at ``base``."""
        end = base + (1 << (self._bits - length))
        for other, bases in self._by_length.items():
            step = 1 << (self._bits - other)
            if other <= length:
                yield from bases.get(base - base % step)
            elif (end - base) // step <= len(bases):
                for inner in range(base, end, step):
                    yield from bases.get(inner)
            else:
                for inner in bases:
                    if base <= inner < end:
                        yield from bases.get(inner)
