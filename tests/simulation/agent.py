"""One simulated node: the real engine, driven as plane.py drives it, over a faulty line and with a clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address
from random import Random

from overlay.control.allocator import Identity, Memory
from overlay.control.engine import ControlSettings, Engine, Span
from overlay.control.follower import Read, Watch
from overlay.control.keeper import Commit, Held, Phase, ReadAgain, Revoke
from overlay.control.schema import LeaseRecord, parse_lease
from overlay.control.session import Grant, Refresh
from overlay.control.store import Committed, Events, KeyValue, Snapshot
from overlay.errors import StoreError
from tests.simulation.world import Answer, Clock, Line, Operation, Server, Stream

TTL = 40
"""Seconds that leases live in the simulation."""

MARGIN = 20.0
PREFIX = "/coreos.com/network"

parse_cached: Callable[[KeyValue], LeaseRecord] = lru_cache(4096)(parse_lease)
"""All agents of a simulation read the same leases; parsing each once makes it several times as fast."""


class Agent:
    """A node, of which at most one process lives at a time.

    Attributes:
        engine: of the living process; None between a crash and a restart.
        memory: what its state directory holds.
        offset: its clock less the world's, negative after its machine stood still without counting.
        life: how many processes it has had, and their ends.
        frozen: whether the process is stopped; what arrives waits.
        on_change: told after everything that the process did.
        on_commit: told before the server carries out one of its transactions.
    """

    def __init__(
        self,
        name: str,
        public_ip: IPv4Address,
        clock: Clock,
        server: Server,
        rng: Random,
        make_engine: Callable[[ControlSettings, Identity, Memory, Random], Engine],
    ) -> None:
        self.name = name
        self.node_id = name
        self.public_ip = public_ip
        self.line = Line()
        self.memory = Memory()
        self.engine: Engine | None = None
        self.offset = 0.0
        self.frozen = False
        self.started_at = 0.0
        self.on_change: Callable[[Agent], None] = lambda agent: None
        self.on_commit: Callable[[Agent, Commit], None] = lambda agent, commit: None
        self._clock, self._server, self._rng, self._make_engine = clock, server, rng, make_engine
        self.life = 0
        self._waiting: list[Callable[[], None]] = []
        self._timers: dict[str, float] = {}
        self._streams: dict[Span, Stream] = {}

    # --- its life ---

    @property
    def now(self) -> float:
        """The time by this node's clock."""
        return self._clock.now + self.offset

    @property
    def held(self) -> Held | None:
        """The lease that its process thinks it has."""
        return self.engine.keeper.held if self.engine else None

    def start(self) -> None:
        """Starts the process with what the state directory remembers."""
        assert self.engine is None
        self.life += 1
        self._timers.clear()
        self.started_at = self._clock.now
        identity = Identity(self.node_id, self.public_ip)
        self.engine = self._make_engine(ControlSettings(PREFIX, TTL, MARGIN), identity, self.memory, self._rng)
        for span in Span:
            self._follow(span)
        self._keep()

    def crash(self) -> None:
        """Ends the process as SIGKILL does. What it has sent may still arrive."""
        self.life += 1
        self.engine = None
        self.frozen = False
        self._waiting.clear()
        for stream in self._streams.values():
            stream.open = False
        self._streams.clear()

    def change_address(self, public_ip: IPv4Address) -> None:
        """The node's address becomes another one; a running process is told."""
        self.public_ip = public_ip

        def tell() -> None:
            assert self.engine
            self.engine.keeper.identify(Identity(self.node_id, public_ip))
            self._input()

        if self.engine:
            self._soon(tell)

    def release(self) -> None:
        """What SIGTERM does with --release-on-exit."""

        def tell() -> None:
            assert self.engine
            self.engine.keeper.release()
            self._input()

        self._soon(tell)

    def freeze(self, seconds: float, counted: bool) -> None:
        """The process does nothing for a while; ``counted``: by its own clock the time passes."""
        self.frozen = True
        life = self.life

        def thaw() -> None:
            if life != self.life:
                return
            self.frozen = False
            if not counted:
                self.offset -= seconds
            waiting, self._waiting = self._waiting, []
            for what in waiting:
                self._soon(what)
            self._soon(self._input)

        self._clock.at(self._clock.now + seconds, thaw)

    def _soon(self, what: Callable[[], None]) -> None:
        """Lets the process handle something, now or when it thaws; never after its end."""
        life = self.life

        def run() -> None:
            if life != self.life:
                return
            if self.frozen:
                self._waiting.append(what)
            else:
                what()

        self._clock.at(self._clock.now, run)

    def _later(self, name: str, when: float, what: Callable[[], None]) -> None:
        """Has ``what`` called at ``when`` of the node's clock; of several wishes of one name the earliest counts."""
        if when == float("inf") or self._timers.get(name, float("inf")) <= when:
            return
        self._timers[name] = when
        life = self.life

        def run() -> None:
            if life == self.life and self._timers.get(name) == when:
                del self._timers[name]
                self._soon(what)

        self._clock.at(when - self.offset + 1e-6, run)  # rounding must not make it early

    # --- what plane.py does ---

    def _follow(self, span: Span) -> None:
        engine = self.engine
        assert engine
        step = engine.next_step(span, self.now)
        if isinstance(step, float):
            self._later(span.value, step, lambda: self._follow(span))
        elif isinstance(step, Read):
            keys = engine.keys[span]
            self._call(lambda now: self._server.core.read(keys, now), lambda answer: self._read(span, answer))
        else:
            self._watch(span, step)

    def _read(self, span: Span, answer: Answer | StoreError) -> None:
        assert self.engine
        if isinstance(answer, Snapshot):
            self.engine.loaded(span, answer, self.now)
        else:
            assert isinstance(answer, StoreError)
            self.engine.lost(span, answer, self.now)
        self._input()
        self._follow(span)

    def _watch(self, span: Span, step: Watch) -> None:
        def hear(batch: Events) -> None:
            self._soon(lambda: heard(batch))

        def heard(batch: Events) -> None:
            if self._streams.get(span) is not stream or not stream.open:
                return
            assert self.engine
            if not self.engine.heard(span, batch, self.now):
                stream.open = False
                del self._streams[span]
                self._follow(span)
            self._input()

        def end(error: StoreError) -> None:
            self._soon(lambda: ended(error))

        def ended(error: StoreError) -> None:
            if self._streams.get(span) is not stream:
                return
            assert self.engine
            del self._streams[span]
            self.engine.lost(span, error, self.now)
            self._input()
            self._follow(span)

        assert self.engine
        stream = Stream(self.engine.keys[span], step.after, self.line, hear, end)
        self._streams[span] = stream
        self._server.watch(stream)

    def _keep(self) -> None:
        if self.engine is None:
            return
        action = self.engine.next_action(self.now)
        while isinstance(action, float) and action <= self.now:
            action = self.engine.next_action(self.now)
        again = self._settle()
        if isinstance(action, ReadAgain):
            stream = self._streams.pop(Span.LEASES, None)
            if stream is not None:
                stream.open = False
                self._follow(Span.LEASES)
            self._soon(self._keep)
        elif isinstance(action, float):
            self._later("keep", action, self._keep)
            if again:
                self._soon(self._keep)
        else:
            self._carry_out(action)

    def _carry_out(self, action: Grant | Refresh | Commit | Revoke) -> None:
        server = self._server  # its core is replaced when it is restored, so it is looked up when the call arrives

        def operation(now: float) -> Committed | int | None:
            match action:
                case Grant(lease_id, ttl):
                    server.core.grant(lease_id, ttl, now)
                case Refresh(lease_id):
                    return server.core.refresh(lease_id, now)
                case Revoke(lease_id):
                    server.core.revoke(lease_id, now)
                case Commit(_, compares, operations):
                    server.core.expire(now)
                    self.on_commit(self, action)
                    return server.core.commit(compares, operations, now)
            return None

        self._call(operation, self._answered)

    def _answered(self, answer: Answer | StoreError) -> None:
        assert self.engine
        if isinstance(answer, StoreError):
            self.engine.failed(answer, self.now)
        else:
            assert not isinstance(answer, Snapshot)
            self.engine.completed(answer, self.now)
        self._input()

    def _call(self, operation: Operation, reply: Callable[[Answer | StoreError], None]) -> None:
        life = self.life

        def answered(answer: Answer | StoreError) -> None:
            if life == self.life:
                self._soon(lambda: reply(answer))

        self._server.call(self.line, operation, answered)

    def _input(self) -> None:
        self._settle()
        self._keep()

    def _settle(self) -> bool:
        assert self.engine
        reconfigured = self.engine.settle()
        self.memory = self.engine.state.memory
        self.on_change(self)
        if self.engine.state.phase is Phase.RELEASED:
            self.crash()
        return reconfigured
