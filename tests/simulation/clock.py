"""The simulation's time: a number, and a queue of what is to happen when."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Clock:
    """The world's time in seconds; of things to happen at one moment, what was asked for first comes first."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Has ``what`` called at ``when``, or now if that is past."""
        self._count += 1
        heapq.heappush(self._queue, (max(when, self.now), self._count, what))

    def after(self, delay: float, what: Callable[[], None]) -> None:
        """Has ``what`` called ``delay`` seconds from now."""
        self.at(self.now + delay, what)

    def run(self, until: float) -> None:
        """Lets time pass."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, what = heapq.heappop(self._queue)
            what()
        self.now = until
