"""What is known of the underlay's path MTU to each peer (RFC 1191)."""

from __future__ import annotations

from collections.abc import Mapping

from overlay.packet.mtu import PATH_MINIMUM, UDP_ENCAPSULATION

LIFETIME = 600.0
"""Seconds that a learnt MTU holds: Linux's ``net.ipv4.route.mtu_expires`` and RFC 1191's ten minutes."""
MAX_INNER = 0xFFFF
MIN_INNER = PATH_MINIMUM - UDP_ENCAPSULATION


class PathMtus:
    """The largest inner packet that reaches each peer for which less is known than the interface allows.

    Two can say so: the underlay, which is learnt and holds for a while, and the node's own routes, which hold until
    they are changed.

    Attributes:
        limits: bytes of inner packet by the peer's underlay address; no entry, no known limit. Read it directly where
            speed matters; an entry may have expired (see :meth:`limit`).
    """

    def __init__(self) -> None:
        self.limits: dict[str, int] = {}
        self._expiry: dict[str, float] = {}
        self._routed: Mapping[str, int] = {}

    def learn(self, peer: str, path_mtu: int, now: float) -> None:
        """The underlay told that packets to ``peer`` may have ``path_mtu`` bytes, outer headers included."""
        learnt = _inner(path_mtu)
        self.limits[peer] = min(learnt, self._routed.get(peer, learnt))
        self._expiry[peer] = now + LIFETIME

    def limit(self, peer: str, now: float) -> int | None:
        """Bytes of the largest inner packet to ``peer``; None if no limit is known (any more)."""
        if peer in self._expiry and now >= self._expiry[peer]:
            self.forget(peer)
        return self.limits.get(peer)

    def known(self, now: float) -> dict[str, int]:
        """All limits that have not expired."""
        for peer in list(self._expiry):
            self.limit(peer, now)
        return self.limits

    def forget(self, peer: str) -> None:
        """Forgets what was learnt of ``peer``, which may be unknown."""
        self.limits.pop(peer, None)
        self._expiry.pop(peer, None)
        if peer in self._routed:
            self.limits[peer] = self._routed[peer]

    def forget_all(self) -> None:
        """Forgets all that was learnt, as when our own interface's MTU has changed."""
        for peer in list(self._expiry):
            self.forget(peer)

    def keep(self, peers: Mapping[str, int]) -> None:
        """Forgets all that was learnt of others than ``peers``."""
        for peer in self._expiry.keys() - peers.keys():
            self.forget(peer)

    def follow_routes(self, path_mtus: Mapping[str, int]) -> None:
        """The MTUs of the routes to peers that have one: bytes of outer packets. In place of those from before."""
        former, self._routed = self._routed, {peer: _inner(path_mtu) for peer, path_mtu in path_mtus.items()}
        for peer in former.keys() | self._routed.keys():
            if former.get(peer) != self._routed.get(peer):
                self.forget(peer)


def _inner(path_mtu: int) -> int:
    return min(max(MIN_INNER, path_mtu - UDP_ENCAPSULATION), MAX_INNER)
