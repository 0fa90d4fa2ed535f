"""One seed's story: how many nodes, how bad the lines, and what happens when."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from random import Random

from overlay.control.allocator import Identity, Memory
from overlay.control.engine import ControlSettings, Engine
from overlay.control.keeper import Phase
from overlay.control.store import KeyRange, Put
from tests.simulation.agent import PREFIX, TTL, Agent, parse_cached
from tests.simulation.checker import QUIET, SUBNETS, Checker, owner_of
from tests.simulation.world import Clock, Server

TROUBLE = 150.0
"""Seconds during which things go wrong."""

CONFIG = f"{PREFIX}/config"
STRANGER = IPv4Address("172.31.9.9")
Trace = Callable[[str], None]
MakeEngine = Callable[[ControlSettings, Identity, Memory, Random], Engine]


def make_engine(settings: ControlSettings, identity: Identity, memory: Memory, rng: Random) -> Engine:
    """The real one."""
    return Engine(settings, identity, memory, rng, parse_cached)


@dataclass
class Result:
    """What a seed's run came to: faults and leases counted, seconds simulated."""

    faults: Counter[str] = field(default_factory=Counter)
    leases: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


class Scenario:
    """A seed, made into a run."""

    def __init__(self, seed: int, make: MakeEngine = make_engine, trace: Trace | None = None) -> None:
        self.rng = rng = Random(seed)
        self.clock = Clock()
        self.server = Server(self.clock, rng)
        self.trace = trace
        count = rng.randint(2, 6)
        self.pool_size = max(1, count + rng.choice([-1, 0, 0, 1, 2, 5]))
        self.subnet_len = 24
        self.agents = [
            Agent(f"n{i}", IPv4Address("172.31.0.1") + i, self.clock, self.server, rng, make) for i in range(count)
        ]
        if rng.random() < 0.1:  # two nodes behind one address
            self.agents[1].public_ip = self.agents[0].public_ip
        self.checker = Checker(self.clock, self.server, self.agents)
        self.reservations: dict[str, IPv4Address] = {}
        self._addresses = count
        self._stranger_keys: set[str] = set()

    def run(self) -> Result:
        """Plays the story; raises ViolationError."""
        self._configure()
        self._make_lines_bad()
        for agent in self.agents:
            self._at(self.rng.choice([0.0, 0.0, self.rng.uniform(0, 60)]), partial(self._start, agent))
        acts = list(ACTS)
        for _ in range(self.rng.randint(3, 12)):
            act = self.rng.choice(acts)
            self._at(self.rng.uniform(0, TROUBLE), partial(act, self))
        self.clock.run(self.clock.now + TROUBLE)
        self._heal()
        self.clock.run(self.clock.now + QUIET)
        self.checker.settled(self.reservations)
        return Result(self.server.faults, self.checker.counts, TROUBLE + QUIET)

    # --- around ---

    def _at(self, delay: float, what: Callable[[], None]) -> None:
        self.clock.at(self.clock.now + delay, what)

    def note(self, kind: str, about: str = "") -> None:
        """Counts a fault, and says so in a trace."""
        self.server.faults[kind] += 1
        if self.trace:
            self.trace(f"{self.clock.now:9.3f}  ### {kind} {about}")

    def _start(self, agent: Agent) -> None:
        if agent.engine is None:
            if self.trace:
                self.trace(f"{self.clock.now:9.3f}  {agent.name} starts with {agent.memory}")
            agent.start()

    def _configure(self, **more: object) -> None:
        first, last = IPv4Address("10.0.1.0"), IPv4Address("10.0.0.0") + self.pool_size * 256
        if self.subnet_len != 24:
            first, last = IPv4Address("10.0.2.0"), IPv4Address("10.0.6.0")
        pool = {"SubnetLen": self.subnet_len, "SubnetMin": str(first), "SubnetMax": str(last)}
        config = {"Network": "10.0.0.0/16", **pool, **more}
        self.put(CONFIG, json.dumps(config).encode())

    def put(self, key: str, value: bytes) -> None:
        """An operator writes a key without an etcd lease."""
        self.server.perform(lambda now: self.server.core.commit([], [Put(key, value)], now))

    def _make_lines_bad(self) -> None:
        for agent in self.agents:
            if self.rng.random() < 0.6:
                agent.line.loss = self.rng.choice([0.0, 0.02, 0.1, 0.3])
                agent.line.slow = self.rng.choice([0.0, 0.02, 0.2])
                agent.line.twice = self.rng.choice([0.0, 0.05, 0.2])

    def _heal(self) -> None:
        if self.trace:
            self.trace(f"{self.clock.now:9.3f}  ### the faults end")
        if not self.server.up:
            self.server.start()
        self._configure()
        for agent in self.agents:
            agent.line.loss = agent.line.slow = agent.line.twice = 0.0
            if not agent.line.up:
                self.server.mend(agent.line)
            self._start(agent)

    def someone(self) -> Agent:
        """A node."""
        return self.rng.choice(self.agents)

    def a_subnet(self) -> IPv4Network:
        """One of the pool's."""
        return IPv4Network((int(IPv4Address("10.0.1.0")) + 256 * self.rng.randrange(self.pool_size), 24))

    # --- what can happen ---

    def cut_line(self) -> None:
        """A node is cut off for a while, sometimes longer than its lease lives."""
        agent, seconds = self.someone(), self.rng.choice([1.0, 8.0, 30.0, TTL + 20.0])
        if agent.line.up:
            self.note("partition", f"{agent.name} for {seconds} s")
            agent.line.up = False
            self._at(seconds, lambda: self.server.mend(agent.line) if not agent.line.up else None)

    def stop_server(self) -> None:
        """The server is away for a while."""
        if self.server.up:
            seconds = self.rng.choice([0.5, 5.0, 20.0, TTL + 10.0])
            self.note("server down", f"for {seconds} s")
            self.server.stop()
            self._at(seconds, lambda: self.server.start() if not self.server.up else None)

    def break_watches(self) -> None:
        """All connections are cut."""
        self.note("connections cut")
        self.server.break_watches()

    def compact(self) -> None:
        """History is forgotten."""
        self.note("compaction")
        self.server.core.compact()

    def back_up(self) -> None:
        """The store's state is kept for later."""
        self.server.back_up()

    def restore(self) -> None:
        """The store goes back to its backup, or to nothing; somebody puts the config back."""
        empty = self.rng.random() < 0.6
        self.note("store restored empty" if empty else "store restored from a backup")
        self.checker.forgive(None, None)
        self.server.restore(empty)
        self.reservations.clear()
        self._stranger_keys.clear()
        for item in self.server.core.read(SUBNETS, self.clock.now).items:
            if item.lease_id == 0 and owner_of(item.value).address not in (None, STRANGER):
                self.reservations[item.key] = IPv4Address("0.0.0.0")
        self._at(self.rng.choice([0.0, 3.0, 20.0]), self._configure)

    def crash(self) -> None:
        """A process dies and comes back, with or without its memory."""
        agent = self.someone()
        if agent.engine is not None:
            forgets = self.rng.random() < 0.3
            self.note("crash without memory" if forgets else "crash", agent.name)
            self.checker.stopped(agent, remembers=not forgets)
            agent.crash()
            if forgets:
                agent.memory = Memory()
            self._at(self.rng.choice([0.1, 3.0, TTL * 1.5]), lambda: self._start(agent))

    def release(self) -> None:
        """A process ends as it should and gives its subnet back; it comes back later."""
        agent = self.someone()
        if agent.engine is not None and not agent.frozen:
            self.note("release", agent.name)
            agent.release()
            self._at(self.rng.uniform(5, 30), lambda: self._after_release(agent))

    def _after_release(self, agent: Agent, looks: int = 6) -> None:
        """Ends the process and starts it again; one that has to wait for an answer before it may release gets time."""
        if agent.engine is not None:
            if agent.engine.keeper.phase not in (Phase.RELEASING, Phase.RELEASED):
                if looks:
                    self._at(5.0, lambda: self._after_release(agent, looks - 1))
                return
            self.checker.stopped(agent, remembers=False)
            agent.crash()
        self._start(agent)

    def freeze(self) -> None:
        """A process stands still; its clock goes on, or does not."""
        agent = self.someone()
        if agent.engine is not None and not agent.frozen:
            seconds, counted = self.rng.choice([2.0, 20.0, TTL * 1.2]), self.rng.random() < 0.5
            self.note("process frozen" if counted else "machine paused, clock too", f"{agent.name} for {seconds} s")
            agent.freeze(seconds, counted)
            if not counted:
                self.checker.stood_still(agent)

    def change_address(self) -> None:
        """A node gets another address."""
        agent = self.someone()
        self._addresses += 1
        address = IPv4Address("172.31.0.1") + self._addresses
        self.note("public address changed", f"{agent.name} {agent.public_ip} to {address}")
        agent.change_address(address)
        self.checker.moved(agent)

    def delete_key(self) -> None:
        """An operator deletes somebody's lease."""
        items = self.server.core.read(SUBNETS, self.clock.now).items
        if items and self.server.up:
            item = self.rng.choice(items)
            self.note("lease deleted", item.key)
            self.reservations.pop(item.key, None)
            self.server.perform(lambda now: self.server.core.remove(item.key, now))
            self._taken_away(item.key)

    def steal(self) -> None:
        """Somebody, as flanneld does, puts a lease of its own without looking: free, or held by a node."""
        if self.server.up:
            subnet = self.a_subnet()
            self.note("lease overwritten by a stranger", str(subnet))
            self._write(subnet, json.dumps({"PublicIP": str(STRANGER), "PublicIPv6": None}).encode())
            key = f"{PREFIX}/subnets/{subnet.network_address}-24"
            self.reservations.pop(key, None)
            self._at(self.rng.uniform(5, 60), lambda: self._stranger_leaves(key))

    def _stranger_leaves(self, key: str) -> None:
        items = self.server.core.read(KeyRange(key, prefix=False), self.clock.now).items
        if items and owner_of(items[0].value).address == STRANGER:
            self.server.perform(lambda now: self.server.core.remove(key, now))

    def reserve(self) -> None:
        """An operator reserves a subnet for a node: one that is free, or the one that it holds."""
        if not self.server.up:
            return
        agent = self.someone()
        subnet = agent.held.subnet if agent.held and self.rng.random() < 0.5 else self.a_subnet()
        key = f"{PREFIX}/subnets/{subnet.network_address}-{subnet.prefixlen}"
        items = self.server.core.read(KeyRange(key, prefix=False), self.clock.now).items
        if items and owner_of(items[0].value).node != agent.node_id:
            return
        self.note("reservation", f"{subnet} for {agent.name}")
        self._write(subnet, json.dumps({"PublicIP": str(agent.public_ip), "PublicIPv6": None}).encode())
        self.reservations[key] = agent.public_ip

    def garbage(self) -> None:
        """Somebody writes nonsense among the leases, also over a lease."""
        if self.server.up:
            subnet = self.a_subnet()
            self.note("malformed value", str(subnet))
            value = self.rng.choice([b"", b"{", b'{"PublicIP":7}', b"\xff", b"null", b'{"PublicIP":"0.0.0.0"}'])
            key = f"{PREFIX}/subnets/{subnet.network_address}-24"
            self._write(subnet, value)
            self.reservations.pop(key, None)
            self.put(f"{PREFIX}/subnets/{self.rng.choice(['x', '10.0.0.0', '10.0.1.7-24', '1.2.3.4-99'])}", b"{}")
            self._at(self.rng.uniform(5, 60), lambda: self._clean(key, value))

    def _clean(self, key: str, value: bytes) -> None:
        items = self.server.core.read(KeyRange(key, prefix=False), self.clock.now).items
        if items and items[0].value == value:
            self.server.perform(lambda now: self.server.core.remove(key, now))

    def _write(self, subnet: IPv4Network, value: bytes) -> None:
        key = f"{PREFIX}/subnets/{subnet.network_address}-{subnet.prefixlen}"
        self.put(key, value)
        self._taken_away(key)

    def _taken_away(self, key: str) -> None:
        base, _, length = key.rpartition("/")[2].partition("-")
        try:
            subnet = IPv4Network((base, int(length)))
        except ValueError:
            return
        self.checker.forgive(subnet, self.server.core.revision)

    def change_config(self) -> None:
        """The config changes: a wider or narrower pool, another port, nonsense, or it goes away."""
        if not self.server.up:
            return
        kind = self.rng.choice(["wider", "port", "broken", "gone", "narrower"])
        self.note(f"config {kind}")
        if kind == "broken":
            self.put(CONFIG, b'{"Network":"10.0.0.0/33"}')
        elif kind == "gone":
            self.server.perform(lambda now: self.server.core.remove(CONFIG, now))
        elif kind == "port":
            self._configure(Backend={"Type": "udp", "Port": self.rng.randint(1, 65535)})
        else:
            self.pool_size = max(1, self.pool_size + (1 if kind == "wider" else -1))
            self._configure()

    def change_length(self) -> None:
        """The config gets another SubnetLen, which only nodes that start from now on may follow."""
        if self.server.up and self.rng.random() < 0.3:
            self.subnet_len = self.rng.choice([23, 25])
            self.note("config of another SubnetLen", str(self.subnet_len))
            self.checker.mixed_lengths = True
            self._configure()


ACTS: tuple[Callable[[Scenario], None], ...] = (
    Scenario.cut_line,
    Scenario.cut_line,
    Scenario.stop_server,
    Scenario.break_watches,
    Scenario.compact,
    Scenario.back_up,
    Scenario.restore,
    Scenario.crash,
    Scenario.crash,
    Scenario.release,
    Scenario.freeze,
    Scenario.change_address,
    Scenario.delete_key,
    Scenario.steal,
    Scenario.reserve,
    Scenario.garbage,
    Scenario.change_config,
    Scenario.change_length,
)
