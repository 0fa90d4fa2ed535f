"""Datagrams that have come in, gathered into trains until they are looked at."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from overlay.packet import ip

CAPACITY = 4 << 16
"""Bytes received before they are handed on anyway."""
PLACE = 2 * (ip.MAX_LEN + 1)
"""Bytes for one receive of any length, and the padding of its last datagram to the size of the others."""
ASIDE = 64
"""Places behind CAPACITY and the one that begins there, for what does not fit where it was expected; most are never
touched, so they cost no memory."""
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
        at: where the next receive goes.
    """

    def __init__(self) -> None:
        buffer = bytearray(CAPACITY + (1 + ASIDE) * PLACE)
        self.array, self.view = np.frombuffer(buffer, np.uint8), memoryview(buffer)
        self.at = 0
        self._done: list[Train] = []
        self._last: Train | None = None

    @property
    def full(self) -> bool:
        """Whether enough is here; else there is room for 65,535 bytes at least."""
        return self.at > CAPACITY

    def add(self, length: int, size: int, sender: str) -> None:
        """``length`` bytes (not 0) are at ``at`` now: datagrams of ``size`` bytes, the last may be shorter."""
        self.put(self.at, length, size, sender)
        self.at = self._last.end if self._last is not None else _aligned(self._padded_end(self._done[-1]))

    def put(self, at: int, length: int, size: int, sender: str) -> None:
        """As :meth:`add`, but the bytes are at a place of the caller's choice, and ``at`` stays."""
        last, end = self._last, at + length
        if (
            last is not None
            and at == last.end
            and sender == last.sender
            and (size == last.size or length == size < last.size)
        ):
            train = Train(sender, last.size, last.start, end)
        else:
            if last is not None:
                self._done.append(last)
            train = Train(sender, size, at, end)
        if (end - train.start) % train.size:
            self._done.append(train)
            self._last = None
        else:
            self._last = train

    def take(self) -> list[Train]:
        """The trains, in the order of their arrival; the buffer is empty then."""
        trains, self._done = self._done, []
        if self._last is not None:
            trains.append(self._last)
            self._last = None
        self.at = 0
        return trains

    def place(self, number: int) -> int:
        """Where the place ``number``, from 0, of those aside begins."""
        return CAPACITY + (1 + number) * PLACE

    @staticmethod
    def _padded_end(train: Train) -> int:
        return train.start + train.packets * train.size


def _aligned(at: int) -> int:
    return -(-at // ALIGNMENT) * ALIGNMENT
