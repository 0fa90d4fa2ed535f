"""What must hold throughout, and what must hold once the faults have ended. Stands on its own reading of the keys."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from overlay.control.leases.state import Held, Phase
from overlay.store.contract import ABSENT, NO_LEASE, Compare, Delete, KeyValue, Put
from tests.simulation.clock import Clock
from tests.simulation.meter import Meter
from tests.simulation.node import TTL, Node
from tests.simulation.reading import CONFIG, SUBNETS, Owner, PoolFacts, asker_of, is_question, owner_of, subnet_of
from tests.simulation.server import Request, Server
from tests.simulation.store import Transaction

MOST_OPERATIONS = 64
"""Operations, or comparisons, of one transaction; etcd refuses more than 128 (``--max-txn-ops``)."""

LARGEST_VALUE = 1024
"""Bytes of a lease's value."""

MOST_PROBLEMS = 40
"""Problems that are told at one time."""

QUIET = TTL + 50.0
"""Seconds without faults after which everything must be right: leases of the dead expire, waits of 30 s end."""

STILL = 10.0
"""Seconds at the end of which nobody may read, write or watch anew; leases are refreshed."""


class ViolationError(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class _Blindness:
    """What a node cannot know yet: something done from outside at ``since`` of its clock, in ``revision``."""

    since: float
    revision: int | None
    valid_until: float

    def is_over(self, node: Node) -> bool:
        assert node.process
        view, held = node.process.plane.view, node.held
        if self.since == float("inf"):
            return held is None or held.valid_until == 0 or held.valid_until > self.valid_until
        loaded = view.loaded_at is not None and view.loaded_at >= self.since
        return loaded or (self.revision is not None and view.revision >= self.revision)


class Checker:
    """Watches the nodes and the store's server.

    Attributes:
        counts: what happened to leases.
        mixed_lengths: two configs of different SubnetLen are about, so pools are not comparable.
    """

    def __init__(self, clock: Clock, server: Server, nodes: Sequence[Node]) -> None:
        self.counts: Counter[str] = Counter()
        self.mixed_lengths = False
        self.meters: dict[str, Meter] = {}
        self._clock, self._server = clock, server
        self._nodes: list[Node] = []
        self._takers: list[tuple[float, IPv4Network, Owner]] = []
        self._addresses: dict[str, set[IPv4Address]] = {}
        self._asked: set[tuple[str, int, str]] = set()
        self._last: dict[str, tuple[int, Held | None]] = {}
        self._versions: dict[str, tuple[int, int]] = {}
        self._before_restart: dict[str, IPv4Network] = {}
        self._set_back: set[str] = set()  # nodes that remember more than the store, which they have not seen since
        self._blind: dict[str, list[_Blindness]] = {}
        self._seen_revision = 0
        for node in nodes:
            self.add(node)

    def add(self, node: Node) -> None:
        """One more node to watch."""
        self._nodes.append(node)
        self._addresses[node.name] = {node.public_ip}
        meter = self.meters[node.name] = Meter(node.name, lambda: self._clock.now)
        node.on_change = self.changed
        node.on_commit = self.committing
        node.on_call = meter.called

    def remove(self, node: Node) -> None:
        """A node that will not come back."""
        self._nodes.remove(node)

    def meter_of(self, loop: asyncio.AbstractEventLoop) -> Meter | None:
        """The meter of the node whose process runs on ``loop``."""
        for node in self._nodes:
            if node.process is not None and node.process.loop is loop:
                return self.meters[node.name]
        return None

    # --- throughout ---

    def committing(self, node: Node, transaction: Transaction) -> None:
        """A transaction is about to be carried out: it is bounded, truthful, and touches nobody else's lease."""
        compares, operations = transaction
        if max(len(compares), len(operations)) > MOST_OPERATIONS:
            raise ViolationError(f"{node.name} sends {len(compares)} comparisons and {len(operations)} operations")
        current = {item.key: item for item in self._items()}
        applies = all(_holds(compare, current.get(compare.key)) for compare in compares)
        if len(operations) == 1 and is_question(operations[0], current, node.addresses, applies):
            self._asked.add((node.name, node.lives, operations[0].key))
            return
        for operation in operations:
            if isinstance(operation, Put):
                self._check_put(node, operation)
        if not applies:
            return
        for operation in operations:
            item = current.get(operation.key)
            if item is not None and self._is_unanswered(node, item):
                self.forgive(subnet_of(item.key), self._server.core.revision + 1)
                continue
            if item is not None and not self._may_touch(node, item):
                verb = "deletes" if isinstance(operation, Delete) else "overwrites"
                raise ViolationError(f"{node.name} {verb} {item.key}, which has {item.value!r}")

    def _is_unanswered(self, node: Node, item: KeyValue) -> bool:
        """Whether the owner of a lease did not answer in time a question of ours, or of a clone on top of ours."""
        if (node.name, node.lives, item.key) not in self._asked:
            return False
        kin = (each for each in (*self._nodes, node) if each.node_id == node.node_id)
        return asker_of(item.value) in {address for each in kin for address in self._addresses[each.name]}

    def _check_put(self, node: Node, put: Put) -> None:
        if len(put.value) > LARGEST_VALUE:
            raise ViolationError(f"{node.name} writes {len(put.value)} bytes to {put.key}")
        owner = owner_of(put.value)
        if owner.node != node.node_id or owner.address not in self._addresses[node.name]:
            raise ViolationError(f"{node.name} publishes {owner} at {put.key}")

    def _may_touch(self, node: Node, item: KeyValue) -> bool:
        owner = owner_of(item.value)
        if owner.node is not None and owner.node != node.node_id:
            return False
        return owner.address is None or owner.address in self._addresses[node.name]

    def changed(self, node: Node) -> None:
        """A node's agent is told of a state: it must be sound in itself, and its lease must collide with nobody's."""
        self._note_takers()
        self._open_eyes(node)
        self._check_state(node)
        held, (life, last) = node.held, self._last.get(node.name, (0, None))
        if held is None or held == last:
            return
        if life != node.lives:
            last = None
        if last is not None and last.subnet != held.subnet:
            if not self._taken_by_other(node, last.subnet):
                raise ViolationError(f"{node.name} left {last.subnet} for {held.subnet}, though nobody had taken it")
            self.counts["leases lost to another and replaced"] += 1
        elif last is not None and last.valid_until < node.now < held.valid_until:
            self.counts["leases lost and regained"] += 1
        self._check_restart(node, held)
        self._last[node.name] = (node.lives, held)
        for other in self._nodes:
            if other is not node:
                self._check_pair(node, other)

    def _check_state(self, node: Node) -> None:
        state = node.state
        life, version = self._versions.get(node.name, (0, -1))
        if life == node.lives and state.version <= version:
            raise ViolationError(f"{node.name} tells version {state.version} after {version}")
        self._versions[node.name] = (node.lives, state.version)
        if len(state.problems) > MOST_PROBLEMS:
            raise ViolationError(f"{node.name} tells {len(state.problems)} problems")
        held, config = state.held, state.config
        if held is None:
            return
        if config is None or config.ipv4 is None:
            raise ViolationError(f"{node.name} holds {held.subnet} without a config")
        pool = PoolFacts(config.ipv4.subnet_min, config.ipv4.subnet_max, config.ipv4.subnet_len)
        if not pool.has(held.subnet):
            raise ViolationError(f"{node.name} holds {held.subnet} and runs on {pool}")
        asked = held.lease.asked_by in node.addresses  # taken over after a question, and about to be put right
        ours = asked or held.lease.public_ip in self._addresses[node.name]
        if held.lease.node_id not in (None, node.node_id) or not ours:
            raise ViolationError(f"{node.name} takes the lease {held.lease} for its own")
        if held.subnet in state.peers.peers:
            raise ViolationError(f"{node.name} has its own subnet {held.subnet} for a peer's")

    def _check_restart(self, node: Node, held: Held) -> None:
        remembered = self._before_restart.pop(node.name, None)
        if remembered is None:
            return
        if remembered == held.subnet:
            self.counts["restarts that kept the subnet"] += 1
            return
        mine = [item for item in self._items() if owner_of(item.value).node == node.node_id]
        reserved = any(item.lease_id == NO_LEASE for item in mine)
        config = node.state.config
        assert config
        assert config.ipv4
        pool = PoolFacts(config.ipv4.subnet_min, config.ipv4.subnet_max, config.ipv4.subnet_len)
        older = bool(mine) and node.name in self._set_back  # our lease of before goes before what is remembered
        if pool.has(remembered) and not (reserved or older or len(mine) > 1 or self._taken_by_other(node, remembered)):
            raise ViolationError(f"{node.name} restarted with {held.subnet}, though {remembered} was free")
        self.counts["restarts that changed the subnet"] += 1

    def _check_pair(self, one: Node, two: Node) -> None:
        a, b = one.held, two.held
        if a is None or b is None or one.name in self._blind or two.name in self._blind:
            return
        if a.valid_until > one.now and b.valid_until > two.now and a.subnet.overlaps(b.subnet):
            raise ViolationError(f"{one.name} and {two.name} hold {a.subnet} and {b.subnet} at the same time")

    # --- acts from outside, which no node can foresee ---

    def moved(self, node: Node) -> None:
        """A node's address has become another."""
        self._addresses[node.name].add(node.public_ip)

    def stopped(self, node: Node, remembers: bool) -> None:
        """A node's process is about to end; ``remembers``: its state directory stays as it is."""
        _, last = self._last.pop(node.name, (0, None))
        self._set_back.discard(node.name)
        blind = self._blind.pop(node.name, ())
        if any(blindness.revision is None and blindness.since < float("inf") for blindness in blind):
            self._set_back.add(node.name)
        self._before_restart.pop(node.name, None)
        if remembers and last is not None:
            self._before_restart[node.name] = last.subnet

    def forgive(self, subnet: IPv4Network | None, revision: int | None) -> None:
        """Somebody took away what was another's: whoever holds it may believe in it until it can know better.

        That is once its view has reached ``revision``, or, where revisions mean nothing any more (None), has been
        loaded anew. ``subnet`` None: everybody.
        """
        self._note_takers()  # whoever took something may be gone in a moment
        if revision is None:
            self._seen_revision = 0
        for node in self._nodes:
            held = node.held  # without one, a claim may be on its way
            if node.process is None:
                self._set_back |= {node.name} if revision is None else set()
            elif subnet is None or held is None or held.subnet.overlaps(subnet):
                self._blind.setdefault(node.name, []).append(_Blindness(node.now, revision, 0.0))

    def stood_still(self, node: Node) -> None:
        """A node's clock is about to stand still: it may believe in its lease until a refresh that it sends later."""
        if node.held is not None:
            blindness = _Blindness(float("inf"), None, node.now + TTL)
            self._blind.setdefault(node.name, []).append(blindness)

    def _open_eyes(self, node: Node) -> None:
        blind = self._blind.get(node.name)
        if blind is None or node.process is None:
            return
        blind[:] = [blindness for blindness in blind if not blindness.is_over(node)]
        if not blind:
            del self._blind[node.name]
            for other in self._nodes:
                if other is not node:
                    self._check_pair(node, other)

    def _note_takers(self) -> None:
        core = self._server.core
        if core.revision < self._seen_revision:
            self._seen_revision = 0
        if core.revision > self._seen_revision:
            for item in self._items():
                subnet = subnet_of(item.key)
                if item.mod_revision > self._seen_revision and subnet is not None:
                    self._takers.append((self._clock.now, subnet, owner_of(item.value)))
            self._seen_revision = core.revision

    def _taken_by_other(self, node: Node, subnet: IPv4Network) -> bool:
        """Whether the store has shown somebody else there: another id, our id with an address that this life never had,
        or no id with an address that is not the node's now."""

        def is_other(owner: Owner) -> bool:
            if owner.node is None:
                return owner.address != node.public_ip
            return owner.node != node.node_id or owner.address not in node.addresses

        return any(taken.overlaps(subnet) and is_other(owner) for _, taken, owner in self._takers)

    def _items(self) -> tuple[KeyValue, ...]:
        return self._server.core.read(SUBNETS, self._clock.now).items

    # --- in the end ---

    def expect(self, node: Node, knows: bool, what: str) -> None:
        """Something that a node has to know by now."""
        if not knows:
            raise ViolationError(f"{node.name} does not know {what}: {node.state.problems}")

    def settled(self, reservations: dict[str, IPv4Address]) -> None:
        """The faults are over and everybody had time: all is as it should be."""
        items = self._items()
        self._blind.clear()
        for node in self._nodes:
            self._check_node(node, items)
            self._check_rest(node)
        for index, one in enumerate(self._nodes):
            for two in self._nodes[index + 1 :]:
                self._check_pair(one, two)
        for key in reservations:
            kept = [item for item in items if item.key == key]
            if not kept or kept[0].lease_id != NO_LEASE:
                raise ViolationError(f"the reservation {key} did not stay permanent: {kept}")

    def _check_rest(self, node: Node) -> None:
        """Nobody goes on reading or writing where nothing happens."""
        for request in (Request.READ, Request.WRITE, Request.WATCH):
            if count := self.meters[node.name].since(request, self._clock.now - STILL):
                raise ViolationError(f"{node.name} does not come to rest: {count} times {request.value} in {STILL} s")

    def _check_node(self, node: Node, items: Sequence[KeyValue]) -> None:
        if node.process is None:
            raise ViolationError(f"{node.name} does not run")
        self._check_told(node, items)
        state, held = node.state, node.held
        mine = [item for item in items if owner_of(item.value).node == node.node_id]
        if state.phase is Phase.EXHAUSTED:
            self._check_exhausted(node, items)
            self.counts["nodes out of subnets in the end"] += 1
            return
        if state.phase is not Phase.HELD or held is None or held.valid_until <= node.now:
            raise ViolationError(f"{node.name} has no valid lease: {state.phase}, {held}")
        expiring = [item.key for item in mine if item.lease_id != NO_LEASE]
        if held.reserved and expiring:
            raise ViolationError(f"{node.name} holds the reservation {held.key} and {expiring} besides")
        if not held.reserved and expiring != [held.key]:
            raise ViolationError(f"{node.name} holds {held.key}, and in the store it has {expiring}")
        published = [owner_of(item.value) for item in items if item.key == held.key]
        if published != [Owner(node.node_id, node.public_ip)]:
            raise ViolationError(f"{node.name} has {node.public_ip}, and published is {published}")
        left = self._server.core.time_to_live(held.etcd_lease_id, self._clock.now)
        if not held.reserved and left < TTL / 2:
            raise ViolationError(f"{node.name} has not refreshed its lease: {left} s are left")
        rivals = [
            other for other in self._nodes if other is not node and other.public_ip == node.public_ip and other.held
        ]
        if rivals and not any("is also advertised by" in problem.text for problem in state.problems):
            raise ViolationError(f"{node.name} does not tell that {rivals[0].name} has its address: {state.problems}")
        truth = self._peers(node, held, items)
        known = {peer.subnet: peer.public_ip for peer in state.peers.peers.values()}
        if known != truth:
            raise ViolationError(f"{node.name} has the peers {known}, the truth is {truth}")

    def _check_told(self, node: Node, items: Sequence[KeyValue]) -> None:
        """The store is followed, the config is the store's or refused for a reason, and what is wrong is told."""
        state = node.state
        if not state.store_connected or any("trying again" in problem.text for problem in state.problems):
            raise ViolationError(f"{node.name} does not follow the store: {state.problems}")
        (config,) = self._server.core.read(CONFIG, self._clock.now).items
        pool = PoolFacts.read(config.value)
        running = state.config and state.config.ipv4
        assert running
        follows = pool == PoolFacts(running.subnet_min, running.subnet_max, running.subnet_len)
        refused = any("the new config is refused" in problem.text for problem in state.problems)
        fits = state.held is None or pool.has(state.held.subnet)
        if (follows, refused) != (fits, not fits):
            raise ViolationError(f"{node.name} holds {state.held}; the config {pool} is {follows=} {refused=}")
        malformed = sum(subnet_of(item.key) is None or owner_of(item.value).address is None for item in items)
        told = any("malformed" in problem.text for problem in state.problems)
        if state.skipped < malformed or (malformed and not told):
            raise ViolationError(f"{node.name} skips {state.skipped} of {malformed} malformed: {state.problems}")

    def _peers(self, node: Node, held: Held, items: Sequence[KeyValue]) -> dict[IPv4Network, IPv4Address]:
        found = {}
        for item in items:
            owner, subnet = owner_of(item.value), subnet_of(item.key)
            if subnet is None or owner.address is None:
                continue
            if owner.address != node.public_ip and not subnet.overlaps(held.subnet):
                found[subnet] = owner.address
        return found

    def _check_exhausted(self, node: Node, items: Sequence[KeyValue]) -> None:
        config = node.state.config
        assert config
        assert config.ipv4
        taken = [subnet_of(item.key) for item in items]
        for subnet in config.ipv4.subnets():
            if not any(other is not None and other.overlaps(subnet) for other in taken):
                raise ViolationError(f"{node.name} says it is out of subnets, but {subnet} is free")
        if not any("out of subnets" in problem.text for problem in node.state.problems):
            raise ViolationError(f"{node.name} is out of subnets and does not say so: {node.state.problems}")


def _holds(compare: Compare, item: KeyValue | None) -> bool:
    revision = ABSENT if item is None else item.mod_revision
    return revision == compare.mod_revision and (item is None or compare.value in (None, item.value))
