"""What must hold throughout, and what must hold once the faults have ended. Stands on its own reading of the keys."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from overlay.control.keeper import Commit, Held, Phase
from overlay.control.store import ABSENT, Delete, KeyRange, KeyValue
from tests.simulation.agent import PREFIX, TTL, Agent
from tests.simulation.world import Clock, Server

SUBNETS = KeyRange(f"{PREFIX}/subnets/")


class ViolationError(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Owner:
    """Whom a key names; ``node`` None: nobody by id; ``address`` None: the value is garbage."""

    node: str | None
    address: IPv4Address | None


def owner_of(value: bytes) -> Owner:
    """Who a lease's value says has it."""
    try:
        members = json.loads(value)
        address = IPv4Address(str(members["PublicIP"]))
        return Owner(members.get("NodeID"), None if address.is_unspecified else address)
    except (ValueError, KeyError, AttributeError, TypeError):
        return Owner(None, None)


def subnet_of(key: str) -> IPv4Network | None:
    """The subnet that a key names."""
    try:
        base, _, length = key.rpartition("/")[2].partition("&")[0].partition("-")
        return IPv4Network((base, int(length)))
    except ValueError:
        return None


@dataclass(frozen=True)
class _Blindness:
    """What an agent cannot know yet: something done from outside at ``since`` of its clock, in ``revision``."""

    since: float
    revision: int | None
    valid_until: float

    def is_over(self, agent: Agent) -> bool:
        assert agent.engine
        view, held = agent.engine.view, agent.held
        if self.since == float("inf"):
            return held is None or held.valid_until == 0 or held.valid_until > self.valid_until
        loaded = view.loaded_at is not None and view.loaded_at >= self.since
        return loaded or (self.revision is not None and view.revision >= self.revision)


class Checker:
    """Watches the agents and the store's server.

    Attributes:
        counts: what happened to leases.
        mixed_lengths: two configs of different SubnetLen are about, so pools are not comparable.
    """

    def __init__(self, clock: Clock, server: Server, agents: Sequence[Agent]) -> None:
        self.counts: Counter[str] = Counter()
        self.mixed_lengths = False
        self._clock, self._server, self._agents = clock, server, agents
        self._takers: list[tuple[float, IPv4Network, Owner]] = []
        self._addresses: dict[str, set[IPv4Address]] = {agent.name: {agent.public_ip} for agent in agents}
        self._last: dict[str, tuple[int, Held | None]] = {}
        self._before_restart: dict[str, IPv4Network] = {}
        self._blind: dict[str, list[_Blindness]] = {}
        self._seen_revision = 0
        for agent in agents:
            agent.on_change = self.changed
            agent.on_commit = self.committing

    # --- throughout ---

    def committing(self, agent: Agent, commit: Commit) -> None:
        """A transaction is about to be carried out: nothing in it may touch another's lease."""
        current = {item.key: item for item in self._items()}
        for compare in commit.compares:
            item = current.get(compare.key)
            if _revision(item) != compare.mod_revision or (item and compare.value not in (None, item.value)):
                return
        for operation in commit.operations:
            item = current.get(operation.key)
            if item is not None and not self._may_touch(agent, item):
                verb = "deletes" if isinstance(operation, Delete) else "overwrites"
                raise ViolationError(f"{agent.name} {verb} {item.key}, which has {item.value!r}")

    def _may_touch(self, agent: Agent, item: KeyValue) -> bool:
        owner = owner_of(item.value)
        if owner.node is not None:
            return owner.node == agent.node_id
        return owner.address is None or owner.address in self._addresses[agent.name]

    def changed(self, agent: Agent) -> None:
        """An agent did something: its lease may have changed, and must collide with nobody's."""
        self._note_takers()
        self._open_eyes(agent)
        held, (life, last) = agent.held, self._last.get(agent.name, (0, None))
        if held is None or held == last:
            return
        if life != agent.life:
            last = None
        if last is not None and last.subnet != held.subnet:
            if not self._taken_by_other(agent, last.subnet):
                raise ViolationError(f"{agent.name} left {last.subnet} for {held.subnet}, though nobody had taken it")
            self.counts["leases lost to another and replaced"] += 1
        elif last is not None and last.valid_until < agent.now < held.valid_until:
            self.counts["leases lost and regained"] += 1
        self._check_restart(agent, held)
        self._last[agent.name] = (agent.life, held)
        for other in self._agents:
            if other is not agent:
                self._check_pair(agent, other)

    def _check_restart(self, agent: Agent, held: Held) -> None:
        remembered = self._before_restart.pop(agent.name, None)
        if remembered is None:
            return
        if remembered == held.subnet:
            self.counts["restarts that kept the subnet"] += 1
            return
        mine = [item for item in self._items() if owner_of(item.value).node == agent.node_id]
        reserved = any(item.lease_id == 0 for item in mine)
        assert agent.engine
        config = agent.engine.state.config
        assert config
        assert config.ipv4
        fits = config.ipv4.contains(remembered)
        if fits and not (reserved or len(mine) > 1 or self._taken_by_other(agent, remembered)):
            raise ViolationError(f"{agent.name} restarted with {held.subnet}, though {remembered} was free")
        self.counts["restarts that changed the subnet"] += 1

    def _check_pair(self, one: Agent, two: Agent) -> None:
        a, b = one.held, two.held
        if a is None or b is None or one.name in self._blind or two.name in self._blind:
            return
        if a.valid_until > one.now and b.valid_until > two.now and a.subnet.overlaps(b.subnet):
            raise ViolationError(f"{one.name} and {two.name} hold {a.subnet} and {b.subnet} at the same time")

    # --- acts from outside, which no agent can foresee ---

    def moved(self, agent: Agent) -> None:
        """An agent's address is about to become another."""
        self._addresses[agent.name].add(agent.public_ip)

    def stopped(self, agent: Agent, remembers: bool) -> None:
        """An agent's process has ended."""
        _, last = self._last.pop(agent.name, (0, None))
        self._blind.pop(agent.name, None)
        self._before_restart.pop(agent.name, None)
        if remembers and agent.memory.subnets and last is not None:
            self._before_restart[agent.name] = agent.memory.subnets[0]

    def forgive(self, subnet: IPv4Network | None, revision: int | None) -> None:
        """Somebody took away what was another's: whoever holds it may believe in it until it can know better.

        That is once its view has reached ``revision``, or, where revisions mean nothing any more (None), has been
        loaded anew. ``subnet`` None: everybody.
        """
        for agent in self._agents:
            held = agent.held  # without one, a claim may be on its way
            if agent.engine is not None and (subnet is None or held is None or held.subnet.overlaps(subnet)):
                self._blind.setdefault(agent.name, []).append(_Blindness(agent.now, revision, 0.0))

    def stood_still(self, agent: Agent) -> None:
        """An agent's clock has stood still: it may believe in its lease until the next refresh."""
        if agent.held is not None:
            blindness = _Blindness(float("inf"), None, agent.held.valid_until)
            self._blind.setdefault(agent.name, []).append(blindness)

    def _open_eyes(self, agent: Agent) -> None:
        blind = self._blind.get(agent.name)
        if blind is None or agent.engine is None:
            return
        blind[:] = [blindness for blindness in blind if not blindness.is_over(agent)]
        if not blind:
            del self._blind[agent.name]
            for other in self._agents:
                if other is not agent:
                    self._check_pair(agent, other)

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

    def _taken_by_other(self, agent: Agent, subnet: IPv4Network) -> bool:
        return any(
            taken.overlaps(subnet) and (owner.node != agent.node_id if owner.node else owner.address != agent.public_ip)
            for _, taken, owner in self._takers
        )

    def _items(self) -> tuple[KeyValue, ...]:
        return self._server.core.read(SUBNETS, self._clock.now).items

    # --- in the end ---

    def settled(self, reservations: dict[str, IPv4Address]) -> None:
        """The faults are over and everybody had time: all is as it should be."""
        items = self._items()
        for agent in self._agents:
            self._check_agent(agent, items)
        for index, one in enumerate(self._agents):
            for two in self._agents[index + 1 :]:
                self._blind.clear()
                self._check_pair(one, two)
        for key in reservations:
            kept = [item for item in items if item.key == key]
            if not kept or kept[0].lease_id != 0:
                raise ViolationError(f"the reservation {key} did not stay permanent: {kept}")

    def _check_agent(self, agent: Agent, items: Sequence[KeyValue]) -> None:
        engine = agent.engine
        if engine is None:
            raise ViolationError(f"{agent.name} does not run")
        held = agent.held
        mine = [item for item in items if owner_of(item.value).node == agent.node_id]
        if engine.keeper.phase is Phase.EXHAUSTED:
            self._check_exhausted(agent, items)
            self.counts["agents out of subnets in the end"] += 1
            return
        if engine.keeper.phase is not Phase.HELD or held is None or held.valid_until <= agent.now:
            raise ViolationError(f"{agent.name} has no valid lease: {engine.keeper.phase}, {held}")
        expiring = [item.key for item in mine if item.lease_id != 0]
        if held.reserved and expiring:
            raise ViolationError(f"{agent.name} holds the reservation {held.key} and {expiring} besides")
        if not held.reserved and expiring != [held.key]:
            raise ViolationError(f"{agent.name} holds {held.key}, and in the store it has {expiring}")
        truth = self._peers(agent, held, items)
        known = {peer.subnet: peer.public_ip for peer in engine.state.peers.peers.values()}
        if known != truth:
            raise ViolationError(f"{agent.name} has the peers {known}, the truth is {truth}")

    def _peers(self, agent: Agent, held: Held, items: Sequence[KeyValue]) -> dict[IPv4Network, IPv4Address]:
        found = {}
        for item in items:
            owner, subnet = owner_of(item.value), subnet_of(item.key)
            if subnet is None or owner.address is None:
                continue
            if owner.address != agent.public_ip and not subnet.overlaps(held.subnet):
                found[subnet] = owner.address
        return found

    def _check_exhausted(self, agent: Agent, items: Sequence[KeyValue]) -> None:
        assert agent.engine
        config = agent.engine.state.config
        assert config
        assert config.ipv4
        taken = [subnet_of(item.key) for item in items]
        for subnet in config.ipv4.subnets():
            if not any(other is not None and other.overlaps(subnet) for other in taken):
                raise ViolationError(f"{agent.name} says it is out of subnets, but {subnet} is free")


def _revision(item: KeyValue | None) -> int:
    return ABSENT if item is None else item.mod_revision


QUIET = TTL + 50.0
"""Seconds without faults after which everything must be right: leases of the dead expire, waits of 30 s end."""
