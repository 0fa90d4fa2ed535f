"""Datagrams that have come in, gathered into trains until they are looked at."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from overlay.packet import ip

CAPACITY = 4 << 16
"""Bytes received before they are handed on anyway."""
SLACK = 2 * (ip.MAX_LEN + 1)
"""Bytes behind CAPACITY: one receive more, and the padding of its last datagram to the size of the others."""
ALIGNMENT = 8


class Train(NamedTuple):
    """Datagrams of one sender, each of ``size`` bytes but the last, which ends at ``end`` in the buffer."""

    sender: str
    size: int
    start: int
    end: int

    @property
    def packets(self) -> int:
        """How many datagrams."""
        return -(-(self.end - self.start) // self.size)


class Arrivals:
    """One buffer, and the trains in it; both are valid from :meth:`take` until the next :meth:`add`.

    A receive that goes on where the one before ended, with the same sender and the same size, prolongs its train. A
    shorter datagram ends it; behind that there is room to pad it to the size of the others.

    Attributes:
        array, view: the buffer, as numpy and as bytes.
    """

    def __init__(self) -> None:
        buffer = bytearray(CAPACITY + SLACK)
        self.array, self.view = np.frombuffer(buffer, np.uint8), memoryview(buffer)
        self._done: list[Train] = []
        self._last: Train | None = None
        self._at = 0

    def room(self) -> memoryview | None:
        """Where the next receive goes, at least 65,535 bytes; None if enough is here."""
        return self.view[self._at :] if self._at <= CAPACITY else None

    def add(self, length: int, size: int, sender: str) -> None:
        """``length`` bytes (not 0) are in the room now: datagrams of ``size`` bytes, the last may be shorter."""
        last, end = self._last, self._at + length
        if last is not None and sender == last.sender and (size == last.size or length == size < last.size):
            train = Train(sender, last.size, last.start, end)
        else:
            if last is not None:
                self._done.append(last)
            train = Train(sender, size, self._at, end)
        if (end - train.start) % train.size:
            self._done.append(train)
            self._last = None
            self._at = _aligned(train.start + train.packets * train.size)
        else:
            self._last = train
            self._at = end

    def take(self) -> list[Train]:
        """The trains, in the order of their arrival; the buffer is empty then."""
        trains, self._done = self._done, []
        if self._last is not None:
            trains.append(self._last)
            self._last = None
        self._at = 0
        return trains


def _aligned(at: int) -> int:
    return -(-at // ALIGNMENT) * ALIGNMENT
