"""Which places of the array of backends are whose: runs of places, given out, given back, and left alone for a while.

A program reads a Service's entry first and one of its backends then. Between the two the entry may be replaced; so the
places that it named keep what is in them for :data:`REST` seconds. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from overlay.errors import NodeError

REST = 1.0
"""Seconds; between two lines of a program pass microseconds, or milliseconds on a virtual machine that is paused."""


class Slots:
    """Runs of places, of lengths that are powers of two, so that what one leaves fits another.

    Args:
        places: how many there are.
        taken: runs that are in use already, as first place and length wanted.
    """

    def __init__(self, places: int, taken: Iterable[tuple[int, int]] = ()) -> None:
        self._places = places
        self._free: dict[int, list[int]] = {}
        self._resting: deque[tuple[float, int, int]] = deque()
        self._fresh = 0
        end = 0
        for first, length in sorted(taken):
            self._give_away(end, first)
            end = max(end, first + _rounded(length))
        self._fresh = end

    def take(self, length: int, now: float) -> int:
        """The first of ``length`` places that nobody reads.

        Raises:
            NodeError: there is no such run.
        """
        self._wake(now)
        size = wanted = _rounded(length)
        if self._fresh + size <= self._places and not self._free.get(size):
            self._fresh += size
            return self._fresh - size
        while not self._free.get(size):
            size *= 2
            if size > self._places:
                raise NodeError(
                    f"there is no room for {length} more backends; {self._places} is the most in all",
                    about="Services by eBPF", remedy="use --proxy-mode nftables",
                )  # fmt: skip
        first = self._free[size].pop()
        self._give_away(first + wanted, first + size)
        return first

    def give_back(self, first: int, length: int, now: float) -> None:
        """Nobody reads these any more, from ``now`` on."""
        self._resting.append((now, first, _rounded(length)))

    def _wake(self, now: float) -> None:
        while self._resting and now - self._resting[0][0] >= REST:
            _, first, size = self._resting.popleft()
            self._give_away(first, first + size)

    def _give_away(self, start: int, end: int) -> None:
        """Makes free runs of the places from ``start`` to before ``end``."""
        while start < end:
            size = 1 << (end - start).bit_length() - 1
            self._free.setdefault(size, []).append(start)
            start += size


def _rounded(length: int) -> int:
    return 1 << max(length - 1, 0).bit_length()
