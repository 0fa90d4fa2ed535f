"""How often something may happen that costs others: ICMP answers, lines in the log."""

from __future__ import annotations


class TokenBucket:
    """Allows ``rate`` events a second on average and ``burst`` at once; takes ``now`` in seconds, owns no clock."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._last = 0.0

    def allow(self, now: float) -> bool:
        """Whether one more event is allowed at ``now``; if so it is taken."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._last) * self._rate)
        self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
