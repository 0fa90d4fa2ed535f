"""A herd: all agents of a large cluster read the leases again at once, after the member they watched has restarted.

The followers are the real ones (:mod:`overlay.store.follower`), each with its own random numbers; the member is a
model. It works at all requests at once and shares its capacity among them, as etcd does, and what it has done for one
that is given up is lost. ``make herd`` tells how many follow again after 30 s.
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
from dataclasses import dataclass
from random import Random

from overlay.errors import StoreUnavailableError
from overlay.store.contract import Snapshot
from overlay.store.etcd.settings import CALL_TIMEOUT
from overlay.store.follower import Follower, FollowPhase, Read, Watch

REVISION = 10_000


@dataclass(frozen=True, slots=True)
class Terms:
    """What is simulated.

    Attributes:
        followers: agents that watch the member.
        reads_per_second: of the whole range, that the member answers if it does nothing else.
        down: seconds that it refuses connections.
        limit: seconds after which an agent gives a read up.
    """

    followers: int = 5000
    reads_per_second: float = 200.0
    down: float = 1.0
    limit: float = CALL_TIMEOUT


class Member:
    """A server that shares its capacity among the requests under way."""

    def __init__(self, reads_per_second: float) -> None:
        self._capacity = reads_per_second
        self._under_way: set[int] = set()
        self._ends: list[tuple[float, int]] = []
        self._share = 0.0  # work that a request would have had which is under way since the beginning
        self._at = 0.0

    def ask(self, ticket: int, now: float) -> None:
        """A request arrives."""
        self._advance(now)
        self._under_way.add(ticket)
        heapq.heappush(self._ends, (self._share + 1.0, ticket))

    def give_up(self, ticket: int, now: float) -> bool:
        """Whoever asked waits no longer; whether it was still under way."""
        self._advance(now)
        if ticket not in self._under_way:
            return False
        self._under_way.remove(ticket)
        return True

    def next_answer(self) -> float:
        """When the next request is answered, if none comes or goes; infinite without any."""
        while self._ends and self._ends[0][1] not in self._under_way:
            heapq.heappop(self._ends)
        if not self._ends:
            return math.inf
        return self._at + max(0.0, self._ends[0][0] - self._share) * len(self._under_way) / self._capacity

    def answer(self, now: float) -> int:
        """Answers the request that was due; returns its ticket."""
        self._advance(now)
        ticket = heapq.heappop(self._ends)[1]
        self._under_way.remove(ticket)
        return ticket

    def _advance(self, now: float) -> None:
        if self._under_way:
            self._share += (now - self._at) * self._capacity / len(self._under_way)
        self._at = now


class Herd:
    """Followers that all watched when the member went away, at 0 s.

    Attributes:
        asked, answered, given_up: reads so far.
    """

    def __init__(self, terms: Terms, seed: int = 0) -> None:
        self.asked = self.answered = self.given_up = 0
        self._terms = terms
        self._member = Member(terms.reads_per_second)
        self._followers = [Follower(Random(f"{seed} {number}")) for number in range(terms.followers)]
        self._asking: dict[int, int] = {}
        self._timers: list[tuple[float, int, int]] = []  # when, a ticket to give up or 0, whose
        for number, follower in enumerate(self._followers):
            follower.next(0.0)
            follower.loaded(Snapshot(REVISION, ()), 0.0)
            follower.next(0.0)
            follower.failed(StoreUnavailableError("the connection is lost"), 0.0)
            self._step(number, 0.0)

    @property
    def following(self) -> int:
        """How many have read the range and watch on from there."""
        return sum(follower.phase is FollowPhase.WATCHING for follower in self._followers)

    def run(self, until: float) -> None:
        """Goes on until that time, in seconds."""
        while True:
            timer = self._timers[0][0] if self._timers else math.inf
            now = min(timer, answer := self._member.next_answer())
            if now > until:
                return
            if answer <= timer:
                self.answered += 1
                number = self._asking.pop(self._member.answer(now))
                self._followers[number].loaded(Snapshot(REVISION, ()), now)
                self._step(number, now)
                continue
            _, ticket, number = heapq.heappop(self._timers)
            if not ticket:
                self._step(number, now)
            elif self._member.give_up(ticket, now):
                self.given_up += 1
                del self._asking[ticket]
                self._fail(number, "no answer in time", now)

    def _step(self, number: int, now: float) -> None:
        step = self._followers[number].next(now)
        if isinstance(step, Watch):
            return
        if not isinstance(step, Read):
            heapq.heappush(self._timers, (step, 0, number))
        elif now < self._terms.down:
            self._fail(number, "connection refused", now)
        else:
            self.asked += 1
            self._asking[self.asked] = number
            self._member.ask(self.asked, now)
            heapq.heappush(self._timers, (now + self._terms.limit, self.asked, number))

    def _fail(self, number: int, why: str, now: float) -> None:
        self._followers[number].failed(StoreUnavailableError(why), now)
        self._step(number, now)


def main() -> int:
    """The command line."""
    terms = Terms()
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.herd", description=__doc__)
    parser.add_argument("--followers", type=int, default=terms.followers, help="agents that watch the member")
    parser.add_argument("--reads-per-second", type=float, default=terms.reads_per_second, help="that it can answer")
    parser.add_argument("--limit", type=float, default=terms.limit, help="seconds until a read is given up")
    given = parser.parse_args()
    herd = Herd(Terms(given.followers, given.reads_per_second, terms.down, given.limit))
    for seconds in (5, 10, 20, 30, 60, 120):
        herd.run(seconds)
        print(
            f"after {seconds:3} s: {herd.following:5} of {given.followers} follow; "
            f"{herd.asked:6} reads asked for, {herd.answered:5} answered, {herd.given_up:6} given up"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
