"""Whether to look for another packet after the first, or to go back to sleep."""

from __future__ import annotations

import time
from collections.abc import Callable

QUIET = 50e-6
"""Seconds. Packets that come further apart come alone: a single request and its answer take twice as long."""
SMALL = 4096
"""Bytes. Larger ones are many packets, put together by the kernel."""


class Pace:
    """One direction's rhythm.

    Looking in vain costs a system call and an exception, which whoever waits for the next packet pays for; not looking
    costs a wake-up for each packet, which a stream pays for. So a small packet is taken alone after a pause; all that
    are there are taken without one, and after a large packet, which belongs to a stream.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended = 0.0

    def begin(self) -> bool:
        """Whether there was a pause, so that a packet below SMALL is to be taken alone."""
        return self._clock() - self._ended >= QUIET

    def end(self) -> None:
        """The packets that were taken are on their way."""
        self._ended = self._clock()
