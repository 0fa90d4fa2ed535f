"""What is known of the underlay's path MTU to each peer (RFC 1191)."""

from __future__ import annotations

from overlay.packet.mtu import PATH_MINIMUM, UDP_ENCAPSULATION

LIFETIME = 600.0
"""Seconds that a learnt MTU holds: Linux's ``net.ipv4.route.mtu_expires`` and RFC 1191's ten minutes."""
MAX_INNER = 0xFFFF
MIN_INNER = PATH_MINIMUM - UDP_ENCAPSULATION


class PathMtus:
    """The largest inner packet that reaches each peer for which less is known than the interface allows.

    Attributes:
        limits: bytes of inner packet by the peer's underlay address; no entry, no known limit. Read it directly where
            speed matters; an entry may have expired (see :meth:`limit`).
    """

    def __init__(self) -> None:
        self.limits: dict[str, int] = {}
        self._expiry: dict[str, float] = {}

    def learn(self, peer: str, path_mtu: int, now: float) -> None:
        """The underlay told that packets to ``peer`` may have ``path_mtu`` bytes, outer headers included."""
        self.limits[peer] = min(max(MIN_INNER, path_mtu - UDP_ENCAPSULATION), MAX_INNER)
        self._expiry[peer] = now + LIFETIME

    def limit(self, peer: str, now: float) -> int | None:
        """Bytes of the largest inner packet to ``peer``; None if no limit is known (any more)."""
        if peer in self.limits and now >= self._expiry[peer]:
            self.forget(peer)
        return self.limits.get(peer)

    def forget(self, peer: str) -> None:
        """Forgets ``peer``, which may be unknown."""
        self.limits.pop(peer, None)
        self._expiry.pop(peer, None)

    def forget_all(self) -> None:
        """Forgets everything, as when our own interface's MTU has changed."""
        self.limits.clear()
        self._expiry.clear()

    def keep(self, peers: dict[str, int]) -> None:
        """Forgets all that are not among ``peers``."""
        for peer in self.limits.keys() - peers.keys():
            self.forget(peer)
