"""How often something may happen that costs others: ICMP answers, lines in the log, requests that fail."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


class TokenBucket:
    """Allows ``rate`` events a second on average and ``burst`` at once; takes ``now`` in seconds, owns no clock."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._last = 0.0

    def allow(self, now: float) -> bool:
        """Whether one more event is allowed at ``now``; if so it is taken."""
        if self.wait(now) > 0:
            return False
        self._tokens -= 1
        return True

    def left(self, now: float) -> int:
        """How many events are allowed at ``now``; none is taken."""
        self.wait(now)
        return max(0, int(self._tokens))

    def take(self, count: int) -> None:
        """So many have happened."""
        self._tokens -= count

    def wait(self, now: float) -> float:
        """Seconds from ``now`` until one more event is allowed, 0 where one is; none is taken."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._last) * self._rate)
        self._last = now
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._rate


@dataclass(slots=True)
class Patience:
    """How long to wait for an answer: ``least`` seconds, up to ``most``.

    Twice as long after each that did not come, and at least twice what the last one took: a limit that an overloaded
    server cannot keep would throw away what it has nearly done, have it done again, and so keep it overloaded.
    """

    least: float
    most: float
    limit: float = 0.0

    def __post_init__(self) -> None:
        self.limit = self.least

    def answered(self, took: float) -> None:
        """An answer came after ``took`` seconds."""
        self.limit = min(self.most, max(self.least, 2.0 * took))

    def gave_up(self) -> None:
        """None came in time."""
        self.limit = min(self.most, 2.0 * self.limit)


@dataclass(slots=True)
class Backoff:
    """Waiting times that double from ``first`` up to ``limit`` seconds, each shortened by up to a half at random."""

    first: float
    limit: float
    rng: Random
    failures: int = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        self.failures += 1
        full = min(self.limit, self.first * 2.0 ** min(self.failures - 1, 16))
        return full * (0.5 + 0.5 * self.rng.random())

    def reset(self) -> None:
        """After a success: the next failure waits ``first`` again."""
        self.failures = 0
