"""Packets on their way out, gathered into trains until it is time to send."""

from __future__ import annotations

import numpy as np

from overlay.packet import ip

CAPACITY = 4 << 16
"""Bytes gathered before they are sent anyway: a few of the kernel's largest packets; more would only add delay."""
SLACK = ip.MAX_LEN + 1
"""Bytes behind CAPACITY: the one segment that segmentation may write behind the last one."""
ALIGNMENT = 8

Departing = tuple[memoryview, int, str]
"""A train, the bytes of each of its packets but the last, which may be shorter, and the peer it goes to."""


class Departures:
    """One buffer, and the trains in it.

    Attributes:
        array, view: the buffer, as numpy and as bytes.
    """

    def __init__(self) -> None:
        buffer = bytearray(CAPACITY + SLACK)
        self.array, self.view = np.frombuffer(buffer, np.uint8), memoryview(buffer)
        self._gathered: list[Departing] = []
        self._peer = ""
        self._size = 0
        self._service = 0
        self._start = 0
        self._end = 0
        self._open = False

    def has_room(self, length: int) -> bool:
        """Whether as many bytes may be reserved before what is there has been taken."""
        return self._end + length <= CAPACITY

    def reserve(self, peer: str, size: int, length: int, service: int) -> int:
        """Takes ``length`` bytes, for which there must be room: packets of ``size`` bytes, the last perhaps shorter.

        Args:
            service: what outer headers say of the class of service, one and the same for a train.

        Returns:
            Where in the buffer the caller has to put them, before anything else is called here.
        """
        if (
            not self._open
            or peer != self._peer
            or service != self._service
            or size > self._size
            or (size < self._size and length != size)
        ):
            self._close()
            self._start = self._end = -(-self._end // ALIGNMENT) * ALIGNMENT
            self._peer, self._size, self._service, self._open = peer, size, service, True
        at = self._end
        self._end += length
        self._open = (self._end - self._start) % self._size == 0
        return at

    def take(self) -> list[Departing]:
        """All trains, in the order in which they began; their bytes stand in the buffer until more are reserved."""
        self._close()
        gathered, self._gathered = self._gathered, []
        self._start = self._end = 0
        self._open = False
        return gathered

    def _close(self) -> None:
        if self._end > self._start:
            self._gathered.append((self.view[self._start : self._end], self._size, self._peer))
