"""How much a node asks of the store and says in its log, against what is reasonable."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable

from tests.simulation.server import Request

WINDOW = 10.0
"""Seconds over which a node's calls and lines are counted."""

MOST_CALLS = {Request.READ: 60, Request.WRITE: 20, Request.LEASE: 40, Request.WATCH: 60}
"""Calls of each kind that a node may make in WINDOW seconds, whatever happens around it."""

MOST_LINES = 120
"""Lines that a node may log in WINDOW seconds."""

LONGEST_LINE = 1000
"""Characters of one."""


class TooMuchError(AssertionError):
    """A node asks or says more than is reasonable."""


class Meter:
    """Counts what one node does, in a sliding window.

    Attributes:
        most: the greatest number of anything in one window so far, by name.
    """

    def __init__(self, name: str, now: Callable[[], float]) -> None:
        self.most: Counter[str] = Counter()
        self._name, self._now = name, now
        self._times: dict[str, deque[float]] = {}

    def called(self, request: Request) -> None:
        """The node has made a call."""
        self._count(request.value, MOST_CALLS[request])

    def said(self, text: str) -> None:
        """The node has logged a line."""
        if len(text) > LONGEST_LINE or "\n" in text:
            raise TooMuchError(f"{self._name} logs a line of {len(text)} characters: {text[:80]!r}…")
        self._count("line", MOST_LINES)

    def since(self, what: Request, when: float) -> int:
        """How many calls of a kind there were in the last WINDOW seconds, after ``when``."""
        return sum(time > when for time in self._times.get(what.value, ()))

    def _count(self, what: str, most: int) -> None:
        times = self._times.setdefault(what, deque())
        now = self._now()
        times.append(now)
        while times[0] <= now - WINDOW:
            times.popleft()
        self.most[what] = max(self.most[what], len(times))
        if len(times) > most:
            raise TooMuchError(f"{self._name}: {len(times)} times {what} in {WINDOW} s")


class LogMeter(logging.Handler):
    """Tells each process's meter of its lines: whose they are, the running loop says."""

    def __init__(self, meter_of: Callable[[asyncio.AbstractEventLoop], Meter | None]) -> None:
        super().__init__(logging.INFO)
        self._meter_of = meter_of
        self._logger = logging.getLogger("overlay.control")

    def __enter__(self) -> None:
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(self)

    def __exit__(self, *exc_info: object) -> None:
        self._logger.removeHandler(self)
        self._logger.level, self._logger.propagate = self._before

    def emit(self, record: logging.LogRecord) -> None:
        """One line of a process."""
        meter = self._meter_of(asyncio.get_running_loop())
        if meter is not None:
            meter.said(record.getMessage())
