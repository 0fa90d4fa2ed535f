"""Datagrams that have come in, gathered into trains until they are looked at.

One object decides where a datagram goes, how much room there is behind it, and until when it stands there: what the
kernel writes over another sender's datagram would be judged under that sender.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

import numpy as np

from overlay.packet import ip
from overlay.packet.arrays import Matrix

CAPACITY = 4 << 16
"""Bytes received before they are handed on anyway."""
PLACE = 2 * (ip.MAX_LEN + 1)
"""Bytes for one receive of any length, and the padding of its last datagram to the size of the others."""
MAX_SLOTS = 64
"""Slots open at once. Each has a place aside; most of those are never touched, so they cost no memory."""
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

    @property
    def padded_end(self) -> int:
        """Where the last datagram would end if it had the size of the others."""
        return self.start + self.packets * self.size


class Arrivals:
    """One buffer, and the trains in it; both are valid from :meth:`take` until the next :meth:`add` or :meth:`open`.

    ::

        0                    at                                CAPACITY + PLACE
        | trains             | slot | slot | … or one receive  | place aside | place aside | …

    One receive goes to ``at``. Many at once go to *slots*: side by side from ``at`` on, so that datagrams of the
    expected size are a train as they stand; what is longer than its slot continues in the slot's place aside. There is
    one place aside for each slot and not for each datagram, so once one is in use the arrivals are full.

    A receive that goes on where the one before ended, with the same sender and the same size, prolongs its train. A
    shorter datagram ends it. Behind every train is room to pad its last datagram to the size of the others.

    Attributes:
        array, view: the buffer, as numpy and as bytes.
        at: where the next receive goes.
    """

    def __init__(self) -> None:
        # Not a bytearray, which writes its zeros: of a mapping the kernel gives a page when something comes to it.
        buffer = mmap.mmap(-1, CAPACITY + (1 + MAX_SLOTS) * PLACE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.array, self.view = np.frombuffer(buffer, np.uint8), memoryview(buffer)
        self.at = 0
        self._slot_size = 0
        self._aside_in_use = False
        self._done: list[Train] = []
        self._last: Train | None = None

    @property
    def full(self) -> bool:
        """Whether enough is here; else there is room for 65,535 bytes at least, and for a slot."""
        return self.at > CAPACITY or self._aside_in_use

    def add(self, length: int, size: int, sender: str) -> None:
        """``length`` bytes (not 0) are at ``at`` now: datagrams of ``size`` bytes, the last may be shorter."""
        self._put(self.at, length, _sound(size, length), sender)
        self.at = self._last.end if self._last is not None else _aligned(self._done[-1].padded_end)

    def open(self, size: int) -> int:
        """Opens slots of ``size`` bytes each, side by side from ``at`` on, until :meth:`close`; returns how many.

        The arrivals must not be full. A train of longer datagrams ends here, since its padding would take two slots.
        """
        if self._last is not None and self._last.size != size:
            self._end_train()
        self._slot_size = size
        return min(MAX_SLOTS, (CAPACITY + PLACE - self.at) // size)

    @staticmethod
    def aside(slot: int) -> int:
        """Where in the buffer the place aside of a slot begins: room for one receive of any length."""
        return CAPACITY + (1 + slot) * PLACE

    def fill(self, first: int, stop: int, sender: str) -> None:
        """The slots ``first`` up to, not including, ``stop`` hold a datagram of the slots' size each."""
        size = self._slot_size
        self._put(self.at + first * size, (stop - first) * size, size, sender)

    def fill_one(self, slot: int, length: int, size: int, sender: str) -> None:
        """``length`` bytes (not 0) came to ``slot``: datagrams of ``size`` bytes, the last may be shorter.

        Those that the slot does not hold are in its place aside, as far behind the beginning as they are in the whole.
        """
        at, room, size = self.at + slot * self._slot_size, self._slot_size, _sound(size, length)
        if -(-length // size) * size > room:
            aside, held = self.aside(slot), min(length, room)
            self.view[aside : aside + held] = self.view[at : at + held]
            at, self._aside_in_use = aside, True
        self._put(at, length, size, sender)

    def close(self, count: int) -> None:
        """The first ``count`` slots have been filled, or their datagrams were empty."""
        self.at += count * self._slot_size

    def rows(self, train: Train) -> Matrix:
        """The datagrams of a train, one a row, the last one padded with zeros."""
        self.array[train.end : train.padded_end] = 0
        return self.array[train.start : train.padded_end].reshape(train.packets, train.size)

    def take(self) -> list[Train]:
        """The trains, in the order of their arrival; the buffer is empty then."""
        if self._last is not None:
            self._end_train()
        trains, self._done = self._done, []
        self.at, self._aside_in_use = 0, False
        return trains

    def _put(self, at: int, length: int, size: int, sender: str) -> None:
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

    def _end_train(self) -> None:
        assert self._last is not None
        self._done.append(self._last)
        self._last = None


def _sound(size: int, length: int) -> int:
    """The size of each of ``length`` bytes' datagrams, as the kernel told it."""
    return size if 0 < size < length else length


def _aligned(at: int) -> int:
    return -(-at // ALIGNMENT) * ALIGNMENT
