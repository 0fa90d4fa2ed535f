"""How the worker waits for the next packet: awake for a moment while packets come closely, else asleep.

Waking a sleeping process costs more than moving a small packet, and a request and its answer are waited for four times
on their way there and back. So after a short pause the worker looks again and again, giving its core to whoever else
wants it each time (sched_yield(2)), and goes to sleep only when nothing has come for a while. Packets that come further
apart than BRISK never keep it awake: a node with little traffic uses no more of its cores than before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

AWAKE = 100e-6
"""Seconds of looking before it sleeps; a round trip through two nodes takes some 70 µs."""

BRISK = 200e-6
"""Seconds. A pause shorter than this is expected to be followed by another short one; being woken is part of it."""

EVENTS = 4
"""TUN, two UDP sockets and the control socket: more cannot be ready at once."""

Ready = list[tuple[int, int]]


class Poll(Protocol):
    """What is used of ``select.epoll``."""

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> Ready: ...


class Waiting:
    """Waits on one epoll object."""

    def __init__(
        self,
        poll: Poll,
        clock: Callable[[], float] = time.perf_counter,
        rest: Callable[[], None] = os.sched_yield,
    ) -> None:
        self._poll = poll.poll
        self._clock = clock
        self._rest = rest
        self._brisk = False

    def next(self) -> Ready:
        """The descriptors that are ready, and their events; waits until there are any."""
        since = self._clock()
        ready = self._look_until(since + AWAKE) if self._brisk else self._poll(None, EVENTS)
        self._brisk = self._clock() - since < BRISK
        return ready

    def _look_until(self, until: float) -> Ready:
        while not (ready := self._poll(0, EVENTS)):
            if self._clock() >= until:
                return self._poll(None, EVENTS)
            self._rest()
        return ready
