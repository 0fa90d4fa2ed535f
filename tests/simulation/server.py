"""The store's server and the lines between it and the nodes, with what can go wrong there."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from overlay.errors import CompactedError, LeaseNotFoundError, StoreDeniedError, StoreError, StoreUnavailableError
from overlay.store.contract import Committed, Events, KeyRange, Recollection, Snapshot
from tests.simulation.clock import Clock
from tests.support.memory_store import MemoryCore

CALL_TIMEOUT = 5.0
"""Seconds after which a store gives up a call."""

WATCH_TIMEOUT = 15.0
"""Seconds after which a silent server is noticed by its watchers."""


class Request(Enum):
    """Kinds of calls; permission may be denied for each alone."""

    READ = "read"
    WRITE = "write"
    LEASE = "lease"
    WATCH = "watch"


Answer = Snapshot | Recollection | Committed | bool | int | None
Operation = Callable[[float], Answer]
Reply = Callable[[Answer | StoreError], None]


@dataclass
class Line:
    """The way between one agent and the store.

    Attributes:
        up: whether anything passes; what is sent meanwhile is lost, or held up until it does.
        loss, slow, twice: probabilities that a message is lost, delayed by seconds, or carried out twice.
        denied: what the server refuses to whoever is at the other end.
    """

    up: bool = True
    loss: float = 0.0
    slow: float = 0.0
    twice: float = 0.0
    denied: set[Request] = field(default_factory=set)
    held_up: list[Callable[[], None]] = field(default_factory=list)


class Stream:
    """One watch, seen from the server: what it has been sent, and when that arrives."""

    def __init__(
        self, span: KeyRange, after: int, line: Line, hear: Callable[[Events], None], end: Callable[[StoreError], None]
    ) -> None:
        self.span, self.sent, self.line, self.hear, self.end = span, after, line, hear, end
        self.arrives = 0.0
        self.open = True
        self.stalled = False
        self.silent = False


class Server:
    """The store behind unreliable lines.

    Attributes:
        core: what it holds.
        up: False refuses everything.
        faults: how many of each kind were injected.
    """

    def __init__(self, clock: Clock, rng: Random) -> None:
        self.core = MemoryCore()
        self.up = True
        self.faults: Counter[str] = Counter()
        self._clock = clock
        self._rng = rng
        self._streams: list[Stream] = []
        self._backup: MemoryCore | None = None
        self._watched = 0
        self._expiry_at = float("inf")

    # --- calls ---

    def call(self, line: Line, request: Request, operation: Operation, reply: Reply) -> None:
        """Carries ``operation`` to the server and its answer back, or not."""
        rng, clock = self._rng, self._clock
        open_calls = [True]

        def answer(result: Answer | StoreError) -> None:
            if open_calls:
                open_calls.clear()
                reply(result)

        def back(result: Answer | StoreError) -> None:
            if not line.up or rng.random() < line.loss:
                self.faults["answer lost"] += 1
                return
            clock.at(clock.now + self._latency(line), lambda: answer(result))

        def arrive() -> None:
            if not self.up:
                clock.at(clock.now + 0.001, lambda: answer(StoreUnavailableError("connection refused")))
                return
            if request in line.denied:
                self.faults["permission denied"] += 1
                back(_denied(request))
                return
            if not open_calls:
                self.faults["call carried out after its timeout"] += 1
            back(self.perform(operation))

        clock.at(clock.now + CALL_TIMEOUT, lambda: answer(StoreUnavailableError("no answer in time")))
        if not line.up:
            if rng.random() < 0.5:
                line.held_up.append(arrive)
            return
        if rng.random() < line.loss:
            self.faults["call lost"] += 1
            return

        def again() -> None:
            if self.up and request not in line.denied:
                self.perform(operation)

        clock.at(clock.now + self._latency(line), arrive)
        if rng.random() < line.twice:
            self.faults["call carried out twice"] += 1
            clock.at(clock.now + rng.uniform(0.1, 20), again)

    def perform(self, operation: Operation) -> Answer | StoreError:
        """Carries out an operation now and tells the watchers."""
        try:
            result: Answer | StoreError = operation(self._clock.now)
        except (LeaseNotFoundError, CompactedError) as error:
            result = error
        self.tell()
        return result

    def _latency(self, line: Line) -> float:
        if self._rng.random() < line.slow:
            self.faults["message delayed"] += 1
            return self._rng.uniform(0.5, 12)
        return self._rng.uniform(0.0005, 0.02)

    # --- watches ---

    def watch(self, stream: Stream) -> None:
        """Opens a watch."""
        if not self.up or not stream.line.up:
            delay = 0.001 if not self.up else CALL_TIMEOUT
            self._clock.at(self._clock.now + delay, lambda: self._end(stream, StoreUnavailableError("no endpoint")))
            return
        if Request.WATCH in stream.line.denied:
            self.faults["permission denied"] += 1
            self._clock.after(self._latency(stream.line), lambda: self._end(stream, _denied(Request.WATCH)))
            return
        self._streams.append(stream)
        stream.arrives = self._clock.now + self._latency(stream.line)
        stands = Events(stream.sent, ())
        self._clock.at(stream.arrives, lambda: stream.hear(stands) if stream.open else None)
        self._send(stream)

    def tell(self) -> None:
        """Sends every watcher what is new, and comes back when the next etcd lease expires."""
        if self.core.revision != self._watched:
            self._watched = self.core.revision
            for stream in list(self._streams):
                self._send(stream)
        expiry = self.core.next_expiry()
        if expiry is not None and (expiry < self._expiry_at or self._expiry_at <= self._clock.now):
            self._expiry_at = expiry
            self._clock.at(expiry, self.expire)

    def expire(self) -> None:
        """Ends the etcd leases whose time is up, unless the server is down."""
        self._expiry_at = float("inf")
        if self.up:
            self.core.expire(self._clock.now)
            self.tell()

    def _send(self, stream: Stream) -> None:
        if not stream.open:
            self._streams.remove(stream)
            return
        if not stream.line.up or stream.silent:
            if not stream.stalled:
                stream.stalled = True
                self._clock.at(self._clock.now + WATCH_TIMEOUT, lambda: self._give_up(stream))
            return
        stream.stalled = False
        try:
            batch = self.core.events(stream.span, stream.sent)
        except CompactedError as error:
            self._end(stream, error)
            return
        if batch.revision <= stream.sent:
            return
        stream.sent = batch.revision
        if not batch.events:
            return
        stream.arrives = max(stream.arrives, self._clock.now + self._latency(stream.line))
        self._clock.at(stream.arrives, lambda: stream.hear(batch) if stream.open else None)

    def _give_up(self, stream: Stream) -> None:
        if stream.stalled:
            self._end(stream, StoreUnavailableError("the server is silent"))

    def _end(self, stream: Stream, error: StoreError) -> None:
        if stream in self._streams:
            self._streams.remove(stream)
        if stream.open:
            stream.open = False
            stream.end(error)

    def mend(self, line: Line) -> None:
        """What a line held up arrives, and its watches go on."""
        line.up = True
        held_up, line.held_up = line.held_up, []
        for arrive in held_up:
            self._clock.at(self._clock.now + self._rng.uniform(0, 2), arrive)
        for stream in list(self._streams):
            if stream.line is line:
                self._send(stream)

    # --- what happens to the server ---

    def break_watches(self) -> None:
        """Every connection is cut."""
        for stream in list(self._streams):
            self._end(stream, StoreUnavailableError("connection reset"))

    def break_one_watch(self, line: Line, silently: bool) -> None:
        """One watch of a node dies, while all else goes on: with an error, or by hearing of nothing any more."""
        streams = [stream for stream in self._streams if stream.line is line and stream.open and not stream.silent]
        if streams:
            stream = self._rng.choice(streams)
            if silently:
                stream.silent = stream.stalled = True
                self._clock.after(WATCH_TIMEOUT, lambda: self._give_up(stream))
            else:
                self._end(stream, StoreUnavailableError("stream reset"))

    def deny(self, line: Line, requests: set[Request]) -> None:
        """Takes permissions from one node. etcd ends a watch that is not allowed any more with its token's."""
        line.denied |= requests
        if Request.WATCH in requests:
            for stream in [stream for stream in self._streams if stream.line is line]:
                self._end(stream, _denied(Request.WATCH))

    def stop(self) -> None:
        """The server goes away."""
        self.up = False
        self.break_watches()

    def start(self) -> None:
        """The server is back; what expired meanwhile expires now."""
        self.up = True
        self.expire()

    def back_up(self) -> None:
        """Takes a copy that :meth:`restore` goes back to."""
        self._backup = copy.deepcopy(self.core)

    def restore(self, empty: bool) -> None:
        """The store goes back to its backup, or to nothing. Its etcd leases live their full TTL again."""
        if empty or self._backup is None:
            self.core.wipe()
        else:
            self.core = copy.deepcopy(self._backup)
            self.core.renew_all(self._clock.now)
        self._watched = 0
        self._expiry_at = float("inf")
        self.break_watches()
        self.tell()


def _denied(request: Request) -> StoreError:
    return StoreDeniedError(f"permission denied: {request.value}", about="simulated etcd", remedy="grant it")
