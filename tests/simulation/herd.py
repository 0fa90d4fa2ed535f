"""A herd: all agents of a large cluster come to a member of etcd at once. ``make herd`` tells how many follow again.

The followers are the real ones (:mod:`overlay.store.follower`), two for each agent, each with its own random numbers,
and so are the limits after which an answer is given up (:class:`overlay.rates.Patience`). The member is a model:

* It works at all requests at once and shares its capacity among them, and what it has done for one that is given up is
  lost. etcd does so: each request has its goroutine, and none looks at whether the client still waits.
* Its capacity is 200 reads of 5,000 leases a second. Measured with etcd 3.4.23, 5,000 leases of 168 bytes and eight
  clients, on two cores that the clients shared: 144 a second at 0.88 cores, 6.1 ms each, so 160 a core.
* Other requests cost what they cost there, in parts of such a read: see :class:`Cost`.
* Its link carries 1 Gbit/s, and what takes longer of processor and link is what a request takes.
* Refreshes, and what a hundred agents write anew, are left out: they are spread over minutes.
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
from dataclasses import dataclass
from enum import Enum
from random import Random

from overlay.errors import CompactedError, StoreError, StoreUnavailableError
from overlay.rates import Patience
from overlay.store.contract import KeyValue, Snapshot
from overlay.store.etcd.client import PAGE
from overlay.store.etcd.cluster import MOST_PATIENCE
from overlay.store.etcd.settings import CALL_TIMEOUT
from overlay.store.follower import Follower, FollowPhase, Read, Watch

REVISION = 10_000

STORIES = ("restarted", "compacted", "cold")
"""The member was away for a second; that, and the history since was compacted, or it was restored, so that nobody can
watch on; or all agents start at once, after a power cut, and know nothing."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request costs the member: ``share`` of a read of 5,000 leases in one piece, and ``size`` in bytes."""

    share: float
    size: int


class Request(Enum):
    """What is asked of the member; measured as above, in milliseconds of processor."""

    PAGE = Cost(1.40 / 6.14, 168_000)
    CONFIG = Cost(0.18 / 6.14, 200)
    WATCH = Cost(0.19 / 6.14, 100)
    PROOF = Cost(0.57 / 6.14, 5_800)
    CONFIG_PROOF = Cost(0.25 / 6.14, 250)


@dataclass(frozen=True, slots=True)
class Terms:
    """What is simulated.

    Attributes:
        followers: agents that watch the member, and leases.
        reads_per_second: of the whole range, that the member's processor answers if it does nothing else.
        bytes_per_second: that its link carries.
        down: seconds that it refuses connections.
        story: one of STORIES.
    """

    followers: int = 5000
    reads_per_second: float = 200.0
    bytes_per_second: float = 125e6
    down: float = 1.0
    story: str = "restarted"

    def work(self, request: Request) -> float:
        """Seconds that a request takes the member if it has nothing else to do."""
        scale = 1.0
        if request is Request.PAGE:
            scale = min(1.0, self.followers / PAGE)
        elif request is Request.PROOF:
            scale = self.followers / 5000  # most of it is counting
        return max(request.value.share / self.reads_per_second, request.value.size / self.bytes_per_second) * scale

    @property
    def pages(self) -> int:
        """That all leases take."""
        return math.ceil(self.followers / PAGE)


class Member:
    """A server that shares its time among the requests under way."""

    def __init__(self) -> None:
        self._under_way: set[int] = set()
        self._ends: list[tuple[float, int]] = []
        self._share = 0.0  # seconds of work that a request would have had which is under way since the beginning
        self._at = 0.0

    def ask(self, ticket: int, work: float, now: float) -> None:
        """A request arrives, which takes ``work`` seconds if it is alone."""
        self._advance(now)
        self._under_way.add(ticket)
        heapq.heappush(self._ends, (self._share + work, ticket))

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
        return self._at + max(0.0, self._ends[0][0] - self._share) * len(self._under_way)

    def answer(self, now: float) -> int:
        """Answers the request that was due; returns its ticket."""
        self._advance(now)
        ticket = heapq.heappop(self._ends)[1]
        self._under_way.remove(ticket)
        return ticket

    def _advance(self, now: float) -> None:
        if self._under_way:
            self._share += (now - self._at) / len(self._under_way)
        self._at = now


class Agent:
    """One follower of an agent, what it asks for just now, and the limits that it shares with the agent's other one."""

    def __init__(self, leases: int, patience: Patience, rng: Random) -> None:
        self.follower = Follower(rng)
        self.patience = patience
        self.leases = leases
        self.request: Request | None = None
        self.pages = 0
        self.asked_at = 0.0


class Herd:
    """What becomes of ``terms``, from 0 s on.

    Attributes:
        asked, answered, given_up: requests so far.
    """

    def __init__(self, terms: Terms, seed: int = 0) -> None:
        self.asked = self.answered = self.given_up = 0
        self._terms = terms
        self._member = Member()
        self._leases = tuple(KeyValue(f"{number}", b"", number) for number in range(1, terms.followers + 1))
        self._agents: list[Agent] = []
        self._asking: dict[int, int] = {}
        self._timers: list[tuple[float, int, int]] = []  # when, a ticket to give up or 0, whose
        for number in range(terms.followers):
            patience = Patience(CALL_TIMEOUT, MOST_PATIENCE)
            for leases in (terms.followers, 0):
                self._agents.append(Agent(leases, patience, Random(f"{seed} {number} {leases}")))
        for number, agent in enumerate(self._agents):
            if terms.story != "cold":
                self._had_watched(agent)
            self._step(number, 0.0)

    def _had_watched(self, agent: Agent) -> None:
        follower = agent.follower
        follower.next(0.0)
        follower.loaded(Snapshot(REVISION, self._leases[: agent.leases]), 0.0)
        follower.next(0.0)
        follower.proved(0.0)
        follower.failed(StoreUnavailableError("the connection is lost"), 0.0)

    @property
    def following(self) -> int:
        """How many agents hear of all changes again."""
        watching = [agent.follower.phase is FollowPhase.WATCHING for agent in self._agents]
        return sum(leases and config for leases, config in zip(watching[::2], watching[1::2], strict=True))

    def run(self, until: float) -> None:
        """Goes on until that time, in seconds."""
        while True:
            timer = self._timers[0][0] if self._timers else math.inf
            now = min(timer, answer := self._member.next_answer())
            if now > until:
                return
            if answer <= timer:
                self._answered(self._asking.pop(self._member.answer(now)), now)
                continue
            _, ticket, number = heapq.heappop(self._timers)
            if not ticket:
                self._step(number, now)
            elif self._member.give_up(ticket, now):
                self.given_up += 1
                del self._asking[ticket]
                self._agents[number].patience.gave_up()
                self._fail(number, StoreUnavailableError("no answer in time"), now)

    def _step(self, number: int, now: float) -> None:
        agent = self._agents[number]
        step = agent.follower.next(now)
        if isinstance(step, Watch):
            self._ask(number, Request.WATCH, now)
        elif isinstance(step, Read):
            agent.pages = 0
            self._ask(number, Request.PAGE if agent.leases else Request.CONFIG, now)
        else:
            heapq.heappush(self._timers, (step, 0, number))

    def _ask(self, number: int, request: Request, now: float) -> None:
        if now < self._terms.down and self._terms.story != "cold":
            self._fail(number, StoreUnavailableError("connection refused"), now)
            return
        agent = self._agents[number]
        agent.request, agent.asked_at = request, now
        self.asked += 1
        self._asking[self.asked] = number
        self._member.ask(self.asked, self._terms.work(request), now)
        heapq.heappush(self._timers, (now + agent.patience.limit, self.asked, number))

    def _answered(self, number: int, now: float) -> None:
        self.answered += 1
        agent = self._agents[number]
        follower, leases = agent.follower, agent.leases
        agent.patience.answered(now - agent.asked_at)
        match agent.request:
            case Request.PAGE if agent.pages + 1 < self._terms.pages:
                agent.pages += 1
                self._ask(number, Request.PAGE, now)
                return
            case Request.PAGE | Request.CONFIG:
                follower.loaded(Snapshot(REVISION + 1, self._leases[:leases]), now)
                self._step(number, now)
            case Request.WATCH if self._terms.story == "compacted" and follower.revision == REVISION:
                self._fail(number, CompactedError(REVISION + 1), now)
            case Request.WATCH:
                self._ask(number, Request.PROOF if leases else Request.CONFIG_PROOF, now)
            case _:
                follower.proved(now)

    def _fail(self, number: int, error: StoreError, now: float) -> None:
        self._agents[number].follower.failed(error, now)
        self._step(number, now)


def main() -> int:
    """The command line."""
    terms = Terms()
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.herd", description=__doc__)
    parser.add_argument("--followers", type=int, default=terms.followers, help="agents that watch the member")
    parser.add_argument("--reads-per-second", type=float, default=terms.reads_per_second, help="that it can answer")
    parser.add_argument("--bytes-per-second", type=float, default=terms.bytes_per_second, help="that it can send")
    given = parser.parse_args()
    for story in STORIES:
        herd = Herd(Terms(given.followers, given.reads_per_second, given.bytes_per_second, terms.down, story))
        for seconds in (2, 5, 10, 20, 30, 60, 120):
            herd.run(seconds)
            print(
                f"{story}, after {seconds:3} s: {herd.following:5} of {given.followers} follow; "
                f"{herd.asked:6} requests, {herd.answered:6} answered, {herd.given_up:6} given up",
                flush=True,
            )
            if herd.following == given.followers:
                break
    return 0


if __name__ == "__main__":
    sys.exit(main())
