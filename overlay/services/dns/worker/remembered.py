"""What upstreams said: for how long it holds, and for how long it is better than nothing. Pure: takes ``now``.

Positive answers hold for the shortest of their TTLs, negative ones for what their SOA says (RFC 2308 section 5), both
within bounds. When no upstream answers, what held until not too long ago is answered still (RFC 8767).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

LONGEST = 3600
LONGEST_NEGATIVE = 1800
"""Seconds; CoreDNS' ``cache``."""

WITHOUT_SOA = 5
"""Seconds that a negative answer holds which does not say for how long."""

STALE_FOR = 86400.0
"""Seconds after its end for which an answer is better than none (RFC 8767 section 5: one to three days)."""

STALE_TTL = 30
"""Seconds for which it is to be believed (RFC 8767 section 4)."""

RECHECK = 5.0
"""Seconds after a failure in which upstreams are not asked the same again (RFC 9520 section 3.2: five at most, at
first)."""

MOST = 10_000
MOST_BYTES = 16 << 20


@dataclass(slots=True)
class Said:
    """One answer of an upstream.

    Attributes:
        wire: the message, as it is encoded.
        at: when it came. ends: until when it holds.
    """

    wire: bytes
    at: float
    ends: float

    def age(self, now: float) -> int:
        """Whole seconds."""
        return int(max(0.0, now - self.at))


class Remembered:
    """Answers by their questions; the one that was not asked for the longest goes first."""

    def __init__(self) -> None:
        self._said: OrderedDict[Hashable, Said] = OrderedDict()
        self._failed: OrderedDict[Hashable, float] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._said)

    def put(self, question: Hashable, wire: bytes, seconds: int, now: float) -> None:
        """An upstream has said so, and that it holds for ``seconds``; 0 is not remembered."""
        self._failed.pop(question, None)
        self._forget(question)
        if seconds <= 0:
            return
        self._said[question] = Said(wire, now, now + seconds)
        self._bytes += len(wire)
        while len(self._said) > MOST or self._bytes > MOST_BYTES:
            self._forget(next(iter(self._said)))

    def holds(self, question: Hashable, now: float) -> Said | None:
        """What is known and holds."""
        said = self._said.get(question)
        if said is None or now >= said.ends:
            return None
        self._said.move_to_end(question)
        return said

    def stale(self, question: Hashable, now: float) -> Said | None:
        """What held, and is better than nothing."""
        said = self._said.get(question)
        if said is not None and now >= said.ends + STALE_FOR:
            self._forget(question)
            return None
        return said

    def failed(self, question: Hashable, now: float) -> None:
        """No upstream could tell."""
        self._failed[question] = now
        while len(self._failed) > MOST:
            self._failed.popitem(last=False)

    def just_failed(self, question: Hashable, now: float) -> bool:
        """Whether asking again so soon would be of no use."""
        at = self._failed.get(question)
        if at is None:
            return False
        if now - at < RECHECK:
            return True
        del self._failed[question]
        return False

    def clear(self) -> None:
        """Forgets everything: other upstreams may say other things."""
        self._said.clear()
        self._failed.clear()
        self._bytes = 0

    def _forget(self, question: Hashable) -> None:
        if (said := self._said.pop(question, None)) is not None:
            self._bytes -= len(said.wire)
