"""Whether FOU does what it is there for, judged by the programs' counters: pure, with the caller's clock."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

WINDOW = 1.0
"""Seconds that counters are compared over."""
_ENOUGH = 64
"""Packets left to FOU in a window that say something by getting lost."""
_BULK = 10_000
"""Large packets in a window, some 120 Mbit/s, that a working GRO stage joins."""
_FEW = 100
"""One of so many is as good as none."""
_EPISODE = 9.0
"""Seconds in which all that the programs refuse may come from one loss: they forget it after eight."""
_ROW = 60.0
"""Seconds after which another refusal is one more chance loss, if anything has come out of FOU meanwhile."""
_MOMENT = 0.2
"""Seconds that packets may pass by our program, as on an interface that is just made, before it is attached."""
_SAMPLES = ("rx_sampled", "rx_sampled_marked")
NAMES = (
    *("rx_fou_left", "rx_fou_trains", "rx_fou", "rx_fou_refused", "rx_joined", "rx_unjoined", *_SAMPLES),
    "rx_fou_unseen",
)
"""Of the counters that it judges by."""


class Verdict(Enum):
    """What to do about it."""

    KEEP = "keep"
    TAKE_BACK = "take back"
    """What is left to FOU does not come out of it: something between takes it, as a firewall does."""
    UNSEEN = "unseen"
    """The same, for packets from peers come to it without having met our program, and it lets none of them in."""
    ALL_TCP = "all TCP"
    """Neither the underlay nor the GRO pair joins anything on this machine; FOU's device does."""
    JOINED = "joined"
    """The kernel would cut again what the GRO pair has joined, but for FOU."""
    TRAINS = "trains"
    """The underlay joins most of it: FOU needs no more than trains, and single packets cost less without it."""


class Watch:
    """Compares what the programs have counted at one time with another."""

    def __init__(self) -> None:
        self._since = 0.0
        self._before: Mapping[str, int] | None = None
        self._refused: tuple[float, int] | None = None  # when one was first seen, and what had come out by then
        self._unseen = 0  # by the last look
        self._unseen_since: float | None = None

    def judge(self, counters: Mapping[str, int], now: float) -> Verdict:
        """What the counters say at ``now``, seconds of any clock that does not jump; to be asked often."""
        before = self._before
        if before is None or any(counters[name] < before[name] for name in NAMES):
            self._begin(counters, now)
            return Verdict.KEEP
        left, trains, came, refused, joined, unjoined, _, marked, _ = (counters[n] - before[n] for n in NAMES)
        if self._passed_by(counters["rx_fou_unseen"], now):
            return Verdict.UNSEEN
        lost = left >= _ENOUGH and came < left // 2
        if refused and (lost or self._again(now, counters["rx_fou"])):
            return Verdict.TAKE_BACK  # the programs have waited for long enough
        if now - self._since < WINDOW:
            return Verdict.KEEP
        self._begin(counters, now)
        if lost:
            return Verdict.TAKE_BACK
        if unjoined >= _BULK and _FEW * (joined + left) < unjoined:
            return Verdict.ALL_TCP
        if marked and 2 * counters["rx_sampled_marked"] > counters["rx_sampled"]:
            return Verdict.JOINED  # from most nodes; what comes from others takes no harm
        if trains >= _BULK and 2 * trains > left:
            return Verdict.TRAINS
        return Verdict.KEEP

    def _again(self, now: float, came: int) -> bool:
        """Whether a refusal is another one than the first, which a single packet lost by chance can bring about."""
        first, came_by_then = self._refused or (now, came)
        if now - first > _ROW and came > came_by_then:
            first, came_by_then = now, came
        self._refused = first, came_by_then
        return now - first > _EPISODE

    def _passed_by(self, unseen: int, now: float) -> bool:
        """Whether packets have passed by our program for more than a moment."""
        grown, self._unseen = unseen > self._unseen, unseen
        if not grown:
            return False
        if self._unseen_since is None or now - self._unseen_since > _ROW:
            self._unseen_since = now
        return now - self._unseen_since > _MOMENT

    def _begin(self, counters: Mapping[str, int], now: float) -> None:
        self._since, self._before = now, {name: counters[name] for name in NAMES}
        self._unseen = counters["rx_fou_unseen"]
