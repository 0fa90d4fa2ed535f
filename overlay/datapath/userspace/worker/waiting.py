"""How the worker waits for the next packet: awake for a moment while packets come closely, else asleep.

Waking a sleeping process costs more than moving a small packet, and a request and its answer are waited for four times
on their way there and back. So after a short pause the worker looks again and again, giving its core to whoever else
wants it each time (sched_yield(2)), and goes to sleep only when nothing has come for a while. It does so where somebody
may be waiting for an answer, not after much data: whoever sends that does not wait for each packet, and the more of it
has come meanwhile, the less each costs. Packets that come further apart than BRISK never keep it awake: a node with
little traffic uses no more of its cores than before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

from overlay.datapath.userspace.worker.pace import SMALL

AWAKE = 200e-6
"""Seconds of looking before it sleeps. A round trip through two nodes takes 70 µs, on a slow machine twice as much."""

BRISK = 400e-6
"""Seconds. A pause shorter than this is expected to be followed by another short one. Being woken is part of it, so it
has to be longer than a round trip whose every packet finds a sleeper."""

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

    def next(self, moved: int) -> Ready:
        """Waits until descriptors are ready; returns them and their events.

        Args:
            moved: about how many bytes were moved since the last time.
        """
        since = self._clock()
        awake = self._brisk and moved < SMALL
        ready = self._look_until(since + AWAKE) if awake else self._poll(None, EVENTS)
        self._brisk = self._clock() - since < BRISK
        return ready

    def _look_until(self, until: float) -> Ready:
        while not (ready := self._poll(0, EVENTS)):
            if self._clock() >= until:
                return self._poll(None, EVENTS)
            self._rest()
        return ready
