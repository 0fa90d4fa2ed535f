"""The ICMP errors that a worker answers with, built and rate limited."""

from __future__ import annotations

import time

from overlay.datapath.userspace.counters import Counters
from overlay.packet import Bytes, icmp
from overlay.rates import TokenBucket

RATE = 1000.0
"""Answers a second, and BURST at once: Linux's ``icmp_msgs_per_sec`` and ``icmp_msgs_burst``."""
BURST = 50


class Answers:
    """Builds the answer to a packet that cannot be forwarded, if one is allowed and due.

    Attributes:
        address: the source of the answers: the TUN device's address, as an integer.
    """

    def __init__(self, counters: Counters) -> None:
        self.address = 0
        self._counters = counters
        self._bucket = TokenBucket(RATE, BURST)

    def about(self, packet: Bytes, kind: icmp.Error, next_hop_mtu: int = 0) -> bytearray | None:
        """The answer to ``packet``, a valid IPv4 packet; None where none may be sent, or too many were."""
        if not icmp.may_answer(packet):
            return None
        if not self._bucket.allow(time.monotonic()):
            self._counters.icmp_limited += 1
            return None
        self._counters.icmp_sent += 1
        return icmp.error(kind, packet, self.address, next_hop_mtu)
