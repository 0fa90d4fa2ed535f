"""Packets on their way out, gathered into trains until it is time to send."""

from __future__ import annotations

import numpy as np

from overlay.datapath.userspace.worker.underlay import Underlay
from overlay.packet import Bytes, ip

CAPACITY = 4 << 16
"""Bytes gathered before they are sent anyway: a few of the kernel's largest packets; more would only add delay."""
SLACK = ip.MAX_LEN + 1
"""Bytes behind CAPACITY: the one segment that segmentation may write behind the last one."""
ALIGNMENT = 8


class Departures:
    """One buffer, and the trains in it. The buffer's content is valid until :meth:`flush`, which sends it.

    Attributes:
        array, view: the buffer, as numpy and as bytes.
    """

    def __init__(self, underlay: Underlay) -> None:
        buffer = bytearray(CAPACITY + SLACK)
        self.array, self.view = np.frombuffer(buffer, np.uint8), memoryview(buffer)
        self._underlay = underlay
        self._sent: list[tuple[str, int, int, int]] = []
        self._peer = ""
        self._size = 0
        self._dscp = 0
        self._start = 0
        self._end = 0
        self._open = False

    def add(self, packet: Bytes, peer: str) -> None:
        """Adds one packet by copying it."""
        length = len(packet)
        at = self.reserve(peer, length, length, packet[1])
        self.view[at : at + length] = packet

    def reserve(self, peer: str, size: int, length: int, tos: int) -> int:
        """Makes room for ``length`` bytes, at most CAPACITY: packets of ``size`` bytes each, the last perhaps shorter.

        ``tos`` is the second byte of their headers: packets of one train have outer headers of one class of service.

        Returns:
            Where in the buffer the caller has to put them, before anything else is called here.
        """
        if self._end + length > CAPACITY:
            self.flush()
        dscp = tos & self._underlay.dscp
        if (
            not self._open
            or peer != self._peer
            or dscp != self._dscp
            or size > self._size
            or (size < self._size and length != size)
        ):
            self._begin(peer, size, dscp)
        at = self._end
        self._end += length
        self._open = (self._end - self._start) % self._size == 0
        return at

    def flush(self) -> None:
        """Sends everything; the buffer is empty then."""
        if self._end == 0:
            return
        if self._end > self._start:
            self._sent.append((self._peer, self._size, self._start, self._end))
        waiting, self._sent = self._sent, []
        self._start = self._end = 0
        self._open = False
        for peer, size, start, end in waiting:
            self._underlay.send_train(self.view[start:end], size, peer)

    def _begin(self, peer: str, size: int, dscp: int) -> None:
        if self._end > self._start:
            self._sent.append((self._peer, self._size, self._start, self._end))
        self._start = self._end = -(-self._end // ALIGNMENT) * ALIGNMENT
        self._peer, self._size, self._dscp, self._open = peer, size, dscp, True
