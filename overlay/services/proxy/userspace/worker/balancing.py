"""Which endpoint a client gets: each in its turn, the client's own first. Pure, and takes ``now``.

As kube-proxy's userspace mode did (kubernetes ``pkg/proxy/userspace/roundrobin.go``, to version 1.25).
"""

from __future__ import annotations

from collections import OrderedDict
from random import Random

from overlay.services.proxy.userspace.messages import Endpoint

MOST_CLIENTS = 65536
"""That one port remembers; whoever was away longest is forgotten first."""


class Balancer:
    """The endpoints of one port.

    Args:
        rng: shuffles them, so that not every node begins with the same one.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._endpoints: list[Endpoint] = []
        self._next = 0
        self._affinity = 0
        self._clients: OrderedDict[str, tuple[Endpoint, float]] = OrderedDict()

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        return frozenset(self._endpoints)

    def change(self, endpoints: tuple[Endpoint, ...], affinity: int) -> None:
        """Clients of endpoints that stay keep them."""
        stay = [each for each in self._endpoints if each in endpoints]
        fresh = [each for each in endpoints if each not in stay]
        self._rng.shuffle(fresh)
        self._endpoints = stay + fresh
        self._affinity = affinity
        if not affinity:
            self._clients.clear()

    def order(self, client: str, now: float) -> list[Endpoint]:
        """Whom to try, one after the other; all, each once."""
        if not self._endpoints:
            return []
        start = self._next % len(self._endpoints)
        self._next = start + 1
        order = self._endpoints[start:] + self._endpoints[:start]
        if (own := self._own(client, now)) is not None:
            self._next = start  # it was not anybody's turn
            order.remove(own)
            order.insert(0, own)
        return order

    def taken(self, client: str, endpoint: Endpoint, now: float) -> None:
        """The client has got ``endpoint``."""
        if not self._affinity or endpoint not in self._endpoints:
            return
        self._clients[client] = (endpoint, now)
        self._clients.move_to_end(client)
        while len(self._clients) > MOST_CLIENTS:
            self._clients.popitem(last=False)

    def _own(self, client: str, now: float) -> Endpoint | None:
        endpoint, used = self._clients.get(client, (None, 0.0))
        if endpoint is None or now - used > self._affinity or endpoint not in self._endpoints:
            self._clients.pop(client, None)
            return None
        return endpoint
