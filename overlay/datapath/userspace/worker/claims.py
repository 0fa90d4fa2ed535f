"""What claims to come from a router, and what of it is believed.

A router that cannot pass a datagram on says so, names the MTU that it can, and quotes the datagram (RFC 1191). Anybody
can send such a message, and what it quotes, addresses and ports, can be guessed. So a claim only makes us ask: with a
datagram of full size to the peer that has 48 random bits in it. A router on the way that cannot pass that on quotes it,
and is believed (RFC 8899, 4.6.1, in spirit). Nobody can who does not see what we send.

The *challenge* is an inner packet, so that a peer that gets it, flanneld too, has no use for it and no harm from it::

    IPv4 20: identification random | ICMP echo reply 8: identifier and sequence random | zeros

It must be quoted to the 28th byte; RFC 1812 (4.3.2.3) asks routers for 576 bytes of quote in all.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from overlay.datapath.userspace.counters import Counters
from overlay.datapath.userspace.worker.paths import PathMtus
from overlay.packet import Bytes, ip
from overlay.packet.checksum import checksum
from overlay.packet.mtu import PATH_MINIMUM, UDP_ENCAPSULATION
from overlay.rates import TokenBucket

QUOTED = ip.HEADER_LEN + 8
"""Bytes of the inner packet that a claim must quote."""
PAUSE = 1.0
"""Seconds between two challenges to one peer at least."""
PATIENCE = 10.0
"""Seconds for which a challenge's random bits are good."""
RATE = 100
"""Challenges a second, and at once, to all peers together: each is a datagram of full size, for one of 56 bytes."""

_TTL = 64
_ECHO_REPLY = 0
_PING = struct.Struct("!BBHHH")


@dataclass(slots=True)
class _Challenge:
    nonce: bytes
    made: float
    sent: float


class Claims:
    """Which claims about paths are believed; decides, and sends nothing."""

    def __init__(
        self, paths: PathMtus, counters: Counters | None = None, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._paths = paths
        self._counters = counters or Counters()
        self._random = random
        self._open: dict[str, _Challenge] = {}
        self._bucket = TokenBucket(RATE, RATE)

    def hear(self, peer: str, path_mtu: int, quoted: Bytes, now: float) -> bytes | None:
        """Somebody claims that packets to ``peer`` may have ``path_mtu`` bytes, outer headers included.

        What is believed, ``paths`` has learnt. What is no news, or less than any path has, is passed over.

        Args:
            quoted: the payload of the datagram that the claim is about, as far as it is quoted.

        Returns:
            The random bits of a challenge that should be sent to the peer; None if none should be.
        """
        challenge = self._open.get(peer)
        proves = challenge is not None and now - challenge.made <= PATIENCE and _quotes(quoted, challenge.nonce)
        self._counters.icmp_unproven += not proves
        limit = self._paths.limit(peer, now)
        if path_mtu < PATH_MINIMUM or (limit is not None and path_mtu - UDP_ENCAPSULATION >= limit):
            return None
        if proves:
            self._paths.learn(peer, path_mtu, now)
            return None
        if challenge is None or now - challenge.made > PATIENCE:
            challenge = self._open[peer] = _Challenge(self._random(6), now, now - PAUSE)
        if now - challenge.sent < PAUSE or not self._bucket.allow(now):
            return None
        challenge.sent = now
        return challenge.nonce

    def keep(self, peers: Mapping[str, int]) -> None:
        """Forgets challenges to others than ``peers``."""
        for peer in self._open.keys() - peers.keys():
            del self._open[peer]


def challenge(own: int, peer: int, nonce: bytes, length: int) -> bytes:
    """An inner packet of ``length`` bytes from tunnel address to tunnel address that holds ``nonce``."""
    identification, identifier, sequence = struct.unpack("!HHH", nonce)
    ping = _PING.pack(_ECHO_REPLY, 0, 0, identifier, sequence)
    ping = _PING.pack(_ECHO_REPLY, 0, checksum(ping), identifier, sequence)
    header = ip.Header(
        version_ihl=0x45,
        traffic_class=0,
        total_length=length,
        identification=identification,
        fragment=ip.DONT_FRAGMENT,
        ttl=_TTL,
        protocol=ip.ICMP,
        checksum=0,
        source=own,
        destination=peer,
    )
    head = ip.with_checksum(bytearray(ip.encode(header))) + ping
    return bytes(head.ljust(length, b"\0"))


def _quotes(packet: Bytes, nonce: bytes) -> bool:
    """Whether that is the beginning of the challenge: identification, and the ping's identifier and sequence."""
    return len(packet) >= QUOTED and bytes(packet[4:6]) + bytes(packet[ip.HEADER_LEN + 4 : QUOTED]) == nonce
