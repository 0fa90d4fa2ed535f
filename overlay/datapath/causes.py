"""Why packets are lost or take the slow path, for people; and when that is a problem.

Of the catalogue's counters those are judged that must not grow. Those of refused datagrams (``drop_outer_source`` and
its like) are not among them: whoever can reach the port makes them grow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from overlay.datapath.counters import Meaning, of_meaning
from overlay.problem import Problem

WINDOW = 60.0
"""Seconds over which shares are taken."""
_SAMPLES = 12
"""Snapshots kept of that time."""

TOO_MANY_LOST = 0.001
"""Share of all packets; TCP's rate suffers from here on (it falls with the root of the share)."""
TOO_MANY_SLOW = 0.01
"""Share of all packets; one on the slow path costs some thirty times one on the fast path."""
TOO_FEW_TO_TELL = 10
"""Packets lost, or on the slow path, that say nothing: one of a hundred is no share."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What a counter means: a phrase that follows its number, and what the operator can do."""

    phrase: str
    remedy: str


def _causes(meaning: Meaning) -> Mapping[str, Cause]:
    return MappingProxyType({each.name: Cause(each.phrase, each.remedy) for each in of_meaning(meaning)})


LOSSES = _causes(Meaning.LOSS)
"""Packets that were to be carried, and are lost."""

SLOW = _causes(Meaning.SLOW)
"""Packets on the slow path that should be on the fast one."""

USUAL: Mapping[str, str] = MappingProxyType(
    {
        "slow_rx_fragment": "outer fragments",
        "slow_rx_options": "IP options",
        "slow_rx_ttl": "a TTL that ends",
        "slow_tx_ttl": "a TTL that ends",
        "slow_tx_no_peer": "no peer",
        "slow_tx_too_big": "too big for the path",
        "slow_tx_not_ipv4": "not IPv4",
    }
)
"""What the slow path is for."""


class Minute:
    """How much each counter has grown lately; takes snapshots as they come, and keeps a few."""

    def __init__(self, window: float = WINDOW) -> None:
        self._window = window
        self._snapshots: deque[tuple[float, Mapping[str, int]]] = deque()

    def add(self, counters: Mapping[str, int], now: float) -> None:
        """``counters`` as they are at ``now``, in seconds of any steady clock."""
        if not self._snapshots or now - self._snapshots[-1][0] >= self._window / _SAMPLES:
            self._snapshots.append((now, dict(counters)))
        while len(self._snapshots) > 1 and now - self._snapshots[1][0] >= self._window:
            self._snapshots.popleft()

    def gained(self, counters: Mapping[str, int], now: float) -> Mapping[str, int]:
        """By how much each is above what it was a window ago; empty while that is not known.

        A counter that is less than it was has begun anew, and counts from 0.
        """
        if not self._snapshots or now - self._snapshots[0][0] < self._window:
            return {}
        before = self._snapshots[0][1]
        return {
            name: value - old if (old := before.get(name, 0)) <= value else value for name, value in counters.items()
        }


def judge(gained: Mapping[str, int], known: Mapping[str, Cause] = MappingProxyType({})) -> Iterator[Problem]:
    """What is wrong with a datapath whose counters have grown by ``gained`` within the window.

    Args:
        known: what is known of this machine, by counter: it says more than the catalogue does.
    """
    carried = gained.get("tx_packets", 0) + gained.get("rx_packets", 0)
    lost = _grown(gained, LOSSES)
    if _is_more(lost, TOO_MANY_LOST, carried + sum(lost.values())):
        yield _problem("drops", "dropped", lost, carried + sum(lost.values()), {**LOSSES, **known})
    slow = _grown(gained, SLOW)
    if _is_more(slow, TOO_MANY_SLOW, carried):
        yield _problem("slow-path", "carried on the slow path", slow, carried, {**SLOW, **known})


def slow_path_share(counters: Mapping[str, int], known: Mapping[str, Cause] = MappingProxyType({})) -> str:
    """Which share of all packets the slow path has carried, and why, as one line; empty where it carried none."""
    slow = counters.get("slow_tx_packets", 0) + counters.get("slow_rx_packets", 0)
    total = counters.get("tx_packets", 0) + counters.get("rx_packets", 0)
    if not slow or not total:
        return ""
    phrases = {name: known.get(name, cause).phrase for name, cause in SLOW.items()}
    phrases.update(USUAL)
    reasons = _grown(counters, phrases)
    words = ", ".join(f"{reasons[name]:,} {phrases[name]}" for name in sorted(reasons, key=lambda name: -reasons[name]))
    return f"{slow / total:.2%} of packets{f': {words}' if words else ''}"


def _grown(gained: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    return {name: gained[name] for name in names if gained.get(name, 0) > 0}


def _is_more(counted: Mapping[str, int], share: float, total: int) -> bool:
    number = sum(counted.values())
    return number >= TOO_FEW_TO_TELL and number > share * total


def _problem(code: str, verb: str, counted: Mapping[str, int], total: int, causes: Mapping[str, Cause]) -> Problem:
    most = sorted(counted, key=lambda name: -counted[name])
    share = min(1.0, sum(counted.values()) / total)
    phrases = ", ".join(f"{counted[name]:,} {causes[name].phrase}" for name in most)
    sentence = f"{share:.1%} of packets were {verb} within a minute: {phrases}"
    return Problem(code, sentence, causes[most[0]].remedy, measured=True)
