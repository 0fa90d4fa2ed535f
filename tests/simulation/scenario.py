"""One seed's story: how many nodes, how bad the lines, and what happens when."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from random import Random

from overlay.control.leases.allocator import Memory
from overlay.control.leases.state import Phase
from overlay.store.contract import KeyRange, Put
from tests.simulation.checker import QUIET, Checker
from tests.simulation.clock import Clock
from tests.simulation.flanneld import Flanneld
from tests.simulation.meter import LogMeter
from tests.simulation.node import PREFIX, TTL, Node, Standstill
from tests.simulation.reading import CONFIG, SUBNETS, owner_of
from tests.simulation.server import Request, Server

DEFAULT_SEEDS = 500
"""Seeds that the tests run; every mutant has to be caught within them."""

TROUBLE = 150.0
"""Seconds during which things go wrong."""

CALM = 60.0
"""Seconds after the last fault from which everybody must hear promptly of changes."""

PROMPT = 3.0
"""Seconds in which."""

CANARY = IPv4Network("10.0.250.0/24")
"""A subnet of nobody's, to be heard of."""

STRANGER = IPv4Address("172.31.9.9")
Trace = Callable[[str], None]


@dataclass
class Result:
    """What a seed's run came to: faults and leases counted, seconds simulated."""

    faults: Counter[str] = field(default_factory=Counter)
    leases: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


class Scenario:
    """A seed, made into a run."""

    def __init__(self, seed: int, trace: Trace | None = None) -> None:
        self.rng = rng = Random(seed)
        self.clock = Clock()
        self.server = Server(self.clock, rng)
        self.trace = trace
        count = rng.randint(2, 6)
        self.pool_size = max(1, count + rng.choice([-1, 0, 0, 1, 2, 5]))
        self.subnet_len = 24
        self.nodes = [Node(f"n{i}", IPv4Address("172.31.0.1") + i, self.clock, self.server, rng) for i in range(count)]
        if rng.random() < 0.1:  # two nodes behind one address
            self.nodes[1].public_ip = self.nodes[0].public_ip
        self.checker = Checker(self.clock, self.server, self.nodes)
        self.reservations: dict[str, IPv4Address] = {}
        self.clones: list[Node] = []
        self.flannelds: list[Flanneld] = []
        self._addresses = count

    def run(self) -> Result:
        """Plays the story; raises ViolationError."""
        self._configure()
        self._make_lines_bad()
        for node in self.nodes:
            self._at(self.rng.choice([0.0, 0.0, self.rng.uniform(0, 60)]), partial(self._start, node))
        acts = list(ACTS)
        for _ in range(self.rng.randint(3, 12)):
            act = self.rng.choice(acts)
            self._at(self.rng.uniform(0, TROUBLE), partial(act, self))
        try:
            with LogMeter(self.checker.meter_of):
                self.clock.run(self.clock.now + TROUBLE)
                self._heal()
                self._at(CALM, self._ask_for_promptness)
                self.clock.run(self.clock.now + QUIET)
            self.checker.settled(self.reservations)
        finally:
            for node in [*self.nodes, *self.clones]:
                if node.process is not None:
                    node.crash()
        return Result(self.server.faults, self.checker.counts, TROUBLE + QUIET)

    # --- around ---

    def _at(self, delay: float, what: Callable[[], None]) -> None:
        self.clock.at(self.clock.now + delay, what)

    def note(self, kind: str, about: str = "") -> None:
        """Counts a fault, and says so in a trace."""
        self.server.faults[kind] += 1
        if self.trace:
            self.trace(f"{self.clock.now:9.3f}  ### {kind} {about}")

    def _start(self, node: Node) -> None:
        if node.process is None:
            if self.trace:
                self.trace(f"{self.clock.now:9.3f}  {node.name} starts with {node.memory}")
            node.start()

    def _configure(self, **more: object) -> None:
        first, last = IPv4Address("10.0.1.0"), IPv4Address("10.0.0.0") + self.pool_size * 256
        if self.subnet_len != 24:
            first, last = IPv4Address("10.0.2.0"), IPv4Address("10.0.6.0")
        pool = {"SubnetLen": self.subnet_len, "SubnetMin": str(first), "SubnetMax": str(last)}
        config = {"Network": "10.0.0.0/16", **pool, **more}
        self.put(CONFIG.key, json.dumps(config).encode())

    def put(self, key: str, value: bytes) -> None:
        """An operator writes a key without an etcd lease."""
        self.server.perform(lambda now: self.server.core.commit([], [Put(key, value)], now))

    def _make_lines_bad(self) -> None:
        for node in self.nodes:
            if self.rng.random() < 0.6:
                node.line.loss = self.rng.choice([0.0, 0.02, 0.1, 0.3])
                node.line.slow = self.rng.choice([0.0, 0.02, 0.2])
                node.line.twice = self.rng.choice([0.0, 0.05, 0.2])

    def _heal(self) -> None:
        if self.trace:
            self.trace(f"{self.clock.now:9.3f}  ### the faults end")
        if not self.server.up:
            self.server.start()
        self._configure()
        for copy in [*self.clones]:
            self._clone_leaves(copy)
        for flanneld in self.flannelds:
            flanneld.frozen_until = 0.0
        for node in self.nodes:
            node.line.loss = node.line.slow = node.line.twice = 0.0
            node.line.denied.clear()
            if not node.line.up:
                self.server.mend(node.line)
            self._start(node)

    def _ask_for_promptness(self) -> None:
        """Without faults, whatever changes is known to everybody within seconds."""
        key = f"{SUBNETS.key}{CANARY.network_address}-{CANARY.prefixlen}"
        mover = self.someone()

        def second() -> None:
            for node in self.nodes:
                self.checker.expect(node, CANARY in node.state.peers.peers, "a new peer")
                broken = any("network config: Network" in problem.text for problem in node.state.problems)
                self.checker.expect(node, broken, "that the config is broken")
            self.server.perform(lambda now: self.server.core.remove(key, now))
            self._configure(Backend={"Type": "udp", "Port": 9999})
            self.change_address(mover)
            self._at(PROMPT, third)

        def third() -> None:
            for node in self.nodes:
                state = node.state
                self.checker.expect(node, CANARY not in state.peers.peers, "that a peer has gone")
                refused = any("is refused" in problem.text for problem in state.problems)
                port = state.config.backend.options.get("port") if state.config else None
                self.checker.expect(node, port == 9999 or refused, "a new config")
            self._configure()

        self.put(key, json.dumps({"PublicIP": str(STRANGER), "PublicIPv6": None}).encode())
        self.put(CONFIG.key, b'{"Network":"10.0.0.0/33"}')
        self._at(PROMPT, second)

    def someone(self) -> Node:
        """A node."""
        return self.rng.choice(self.nodes)

    def a_subnet(self) -> IPv4Network:
        """One of the pool's."""
        return IPv4Network((int(IPv4Address("10.0.1.0")) + 256 * self.rng.randrange(self.pool_size), 24))

    # --- what can happen ---

    def cut_line(self) -> None:
        """A node is cut off for a while, sometimes longer than its lease lives."""
        node, seconds = self.someone(), self.rng.choice([1.0, 8.0, 30.0, TTL + 20.0])
        if node.line.up:
            self.note("partition", f"{node.name} for {seconds} s")
            node.line.up = False
            self._at(seconds, lambda: self.server.mend(node.line) if not node.line.up else None)

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
        self._recount()
        self._at(self.rng.choice([0.0, 3.0, 20.0]), self._configure)

    def replace_history(self) -> None:
        """A node is cut off while things happen, and the store goes back to before them, and on past where it was."""
        node = self.someone()
        if not (self.server.up and node.line.up):
            return
        self.note("history replaced behind a node", node.name)
        self.server.back_up()
        lost = self.rng.randint(1, 3)
        for number in range(lost):
            self._at(0.3 * number, self.rng.choice((self.delete_key, self.steal, self.change_config)))
        self._at(1.5, partial(self._replace, node))

    def _replace(self, node: Node) -> None:
        if not (self.server.up and node.line.up):
            return
        node.line.up = False
        reached = self.server.core.revision
        self.checker.forgive(None, None)
        self.server.restore(empty=False)
        self._recount()
        while self.server.core.revision <= reached:
            self._configure()
        self._at(self.rng.choice((0.3, 3.0)), lambda: self.server.mend(node.line) if not node.line.up else None)

    def _recount(self) -> None:
        """What is reserved after a restore."""
        self.reservations.clear()
        for item in self.server.core.read(SUBNETS, self.clock.now).items:
            if item.lease_id == 0 and owner_of(item.value).address not in (None, STRANGER):
                self.reservations[item.key] = IPv4Address("0.0.0.0")

    def break_one_watch(self) -> None:
        """One watch of a node dies alone, with an error or in silence."""
        node, silently = self.someone(), self.rng.random() < 0.5
        self.note("watch fell silent" if silently else "watch ended alone", node.name)
        self.server.break_one_watch(node.line, silently)

    def deny(self) -> None:
        """A node's user loses permissions for a while."""
        node = self.someone()
        denied = set(self.rng.choice([[Request.READ], [Request.WRITE], [Request.WATCH], [Request.LEASE], [*Request]]))
        seconds = self.rng.choice([1.0, 15.0, TTL + 20.0])
        self.note("permissions lost", f"{node.name} {sorted(each.value for each in denied)} for {seconds} s")
        self.server.deny(node.line, denied)
        self._at(seconds, lambda: node.line.denied.difference_update(denied))

    def crash(self) -> None:
        """A process dies and comes back, with its memory, without, or with an old one."""
        node = self.someone()
        if node.process is not None:
            what = self.rng.choices(("crash", "crash without memory", "crash, old memory restored"), (5, 2, 2))[0]
            self.note(what, node.name)
            self.checker.stopped(node, remembers=what == "crash")
            node.crash()
            if what == "crash without memory":
                node.memory = Memory()
            elif what != "crash" and node.memories:
                node.memory = self.rng.choice(node.memories)
            self._at(self.rng.choice([0.1, 3.0, TTL * 1.5]), lambda: self._start(node))

    def reboot_elsewhere(self) -> None:
        """A machine goes down and comes back with another address."""
        node = self.someone()
        if node.process is not None:
            self.checker.stopped(node, remembers=False)
            node.crash()
            self.change_address(node)
            self._at(self.rng.choice([0.5, 10.0, TTL * 1.5]), lambda: self._start(node))

    def release(self) -> None:
        """A process ends as it should and gives its subnet back; it comes back later."""
        node = self.someone()
        if node.process is not None and not node.frozen:
            self.note("release", node.name)
            node.release()
            self._at(self.rng.uniform(5, 30), lambda: self._after_release(node))

    def _after_release(self, node: Node, looks: int = 6) -> None:
        """Ends the process and starts it again; one that has to wait for an answer before it may release gets time."""
        if node.process is not None:
            if node.state.phase not in (Phase.RELEASING, Phase.RELEASED):
                if looks:
                    self._at(5.0, lambda: self._after_release(node, looks - 1))
                return
            self.checker.stopped(node, remembers=False)
            node.crash()
        self._start(node)

    def clone(self) -> None:
        """A machine is copied, with its node id, mostly its memory, and runs with another address for a while."""
        original = self.someone()
        if original.process is None or self.clones:
            return
        self._addresses += 1
        copy = Node(
            f"{original.name}c{self._addresses}",
            IPv4Address("172.31.0.1") + self._addresses,
            self.clock,
            self.server,
            self.rng,
        )
        copy.node_id = original.node_id
        if self.rng.random() < 0.7:
            copy.memory = original.memory
        seconds = self.rng.choice([5.0, 30.0, TTL * 1.5])
        self.note("node cloned", f"{original.name} for {seconds} s")
        self.clones.append(copy)
        self.checker.add(copy)
        copy.start()
        self._at(seconds, lambda: self._clone_leaves(copy))

    def _clone_leaves(self, copy: Node) -> None:
        if copy in self.clones:
            self.clones.remove(copy)
            self.checker.remove(copy)
            copy.crash()

    def flanneld(self) -> None:
        """A node of flannel's joins, or one that has joined stands still for a while."""
        if self.flannelds and self.rng.random() < 0.6:
            self.flannelds[-1].frozen_until = self.clock.now + (seconds := self.rng.choice([10.0, TTL * 1.5]))
            self.note("flanneld stopped", f"for {seconds} s")
            return
        self.note("flanneld joined")
        joined = Flanneld(IPv4Address("172.31.8.1") + len(self.flannelds), self.clock, self.server, self.rng)
        joined.on_overwrite = self._overwritten
        self.flannelds.append(joined)
        joined.run()

    def _overwritten(self, key: str) -> None:
        self.note("lease overwritten by flanneld", key)
        self.reservations.pop(key, None)
        self._taken_away(key)

    def stand_still(self) -> None:
        """A process stands still; its clocks go on, or do not."""
        node = self.someone()
        if node.process is not None and not node.frozen:
            seconds, how = self.rng.choice([2.0, 20.0, TTL * 1.2]), self.rng.choice(list(Standstill))
            self.note(how.value, f"{node.name} for {seconds} s")
            node.stand_still(seconds, how)
            if how is Standstill.PAUSED:
                self.checker.stood_still(node)

    def change_address(self, node: Node | None = None) -> None:
        """A node gets another address."""
        node = node or self.someone()
        self._addresses += 1
        address = IPv4Address("172.31.0.1") + self._addresses
        self.note("public address changed", f"{node.name} {node.public_ip} to {address}")
        node.change_address(address)
        self.checker.moved(node)

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
        node = self.someone()
        subnet = node.held.subnet if node.held and self.rng.random() < 0.5 else self.a_subnet()
        key = f"{PREFIX}/subnets/{subnet.network_address}-{subnet.prefixlen}"
        items = self.server.core.read(KeyRange(key, prefix=False), self.clock.now).items
        if items and owner_of(items[0].value).node != node.node_id:
            return
        self.note("reservation", f"{subnet} for {node.name}")
        self._write(subnet, json.dumps({"PublicIP": str(node.public_ip), "PublicIPv6": None}).encode())
        self.reservations[key] = node.public_ip

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
            self.put(CONFIG.key, b'{"Network":"10.0.0.0/33"}')
        elif kind == "gone":
            self.server.perform(lambda now: self.server.core.remove(CONFIG.key, now))
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
    Scenario.break_one_watch,
    Scenario.deny,
    Scenario.compact,
    Scenario.back_up,
    Scenario.restore,
    Scenario.replace_history,
    Scenario.crash,
    Scenario.crash,
    Scenario.release,
    Scenario.clone,
    Scenario.flanneld,
    Scenario.flanneld,
    Scenario.stand_still,
    Scenario.reboot_elsewhere,
    Scenario.change_address,
    Scenario.delete_key,
    Scenario.steal,
    Scenario.reserve,
    Scenario.garbage,
    Scenario.change_config,
    Scenario.change_length,
)
