"""The worker's peer table: which underlay address a packet goes to, and whose packets may come from it."""

from __future__ import annotations

import socket

NO_SUBNET = 0xFFFFFFFF
"""As ``own_base`` with an all-ones mask: before the first configuration no address but 255.255.255.255 is ours."""


class Routes:
    """Longest-prefix lookup by dictionaries, one for each prefix length in use, longest first.

    A lookup costs one dictionary access for each *length*, whatever the number of peers: flannel's leases have one
    length. Addresses are integers, underlay addresses the text that the socket module speaks.

    Attributes:
        own_base, own_mask: this node's subnet.
        senders: underlay addresses of peers, with the number of subnets behind each.
    """

    def __init__(self) -> None:
        self.own_base = NO_SUBNET
        self.own_mask = NO_SUBNET
        self.senders: dict[str, int] = {}
        self._by_length: dict[int, dict[int, str]] = {}
        self._levels: tuple[tuple[int, dict[int, str]], ...] = ()

    def own(self, base: int, length: int) -> None:
        """Sets this node's own subnet."""
        self.own_base, self.own_mask = base, mask_of(length)

    def next_hop(self, address: int) -> str | None:
        """Underlay address of the peer with the longest prefix that holds ``address``; None if there is none."""
        for mask, bases in self._levels:
            if (peer := bases.get(address & mask)) is not None:
                return peer
        return None

    def add(self, base: int, length: int, public_ip: int) -> None:
        """Adds the subnet ``base``/``length`` (host bits zero), or moves it to ``public_ip``."""
        self.remove(base, length)
        text = socket.inet_ntoa(public_ip.to_bytes(4, "big"))
        self._by_length.setdefault(length, {})[base] = text
        self.senders[text] = self.senders.get(text, 0) + 1
        self._relevel()

    def remove(self, base: int, length: int) -> None:
        """Removes a subnet; one that is not there is no error."""
        bases = self._by_length.get(length)
        if bases is None or (text := bases.pop(base, None)) is None:
            return
        self.senders[text] -= 1
        if not self.senders[text]:
            del self.senders[text]
        if not bases:
            del self._by_length[length]
            self._relevel()

    def address_behind(self, peer: str) -> int | None:
        """The first address of a subnet that ``peer`` has, which is its tunnel address; None if it has none."""
        for _, bases in self._levels:
            for base, text in bases.items():
                if text == peer:
                    return base
        return None

    def __len__(self) -> int:
        return sum(map(len, self._by_length.values()))

    def _relevel(self) -> None:
        if len(self._levels) != len(self._by_length):
            self._levels = tuple(
                (mask_of(length), self._by_length[length]) for length in sorted(self._by_length, reverse=True)
            )


def mask_of(length: int) -> int:
    """The netmask of a prefix of ``length`` bits, as an integer."""
    return 0xFFFFFFFF << (32 - length) & 0xFFFFFFFF
