"""Agents that are told apart by nothing, or only by their address: second agents, cloned machines, and their past."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Sequence
from ipaddress import IPv4Address
from random import Random

import pytest

from overlay.control.engine import ControlSettings
from overlay.control.leases.allocator import Identity, Memory
from overlay.control.leases.question import ANSWER_TIME, Question, Reply
from overlay.control.leases.state import Commit, Phase, Purpose, ReadAgain
from overlay.control.plane import ControlPlane
from overlay.control.schema.keys import config_key
from overlay.control.schema.lease import parse_lease
from overlay.model import Advertisement
from overlay.store.contract import KeyRange, KeyValue, Put
from tests.support.memory_store import MemoryCore, MemoryStore
from tests.support.problems import shown
from tests.unit.control.leases.test_keeper import CONFIG, IP, PREFIX, Node, held_node, put

TTL = 3600


class Cluster:
    """Nodes whose views follow the store at once, and time that passes for all of them."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = list(nodes)
        self.core = nodes[0].core
        self.now = max(node.now for node in nodes)
        self.writes: list[float] = []

    def run(self, seconds: float, step: float = 0.05) -> None:
        """Lets time pass; ``writes`` has when the store was changed."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            for node in self.nodes:
                node.now = self.now
                self._work(node)

    def _work(self, node: Node) -> None:
        if node.view.revision != self.core.revision:
            node.see()
        action = node.keeper.next_action(node.now)
        if isinstance(action, ReadAgain):
            node.see()
        elif not isinstance(action, float):
            before = self.core.revision
            node.carry_out(action)
            if self.core.revision != before:
                self.writes.append(node.now)

    def told(self, node: Node, text: str = "another agent goes by node id me and public IP 172.31.0.1") -> bool:
        return shown(node.keeper.problems(), "rival", text)

    def busiest(self, seconds: float) -> int:
        """The most writes within any such time."""
        return max((sum(first <= each < first + seconds for each in self.writes) for first in self.writes), default=0)


def twin(core: MemoryCore, **changes: object) -> Node:
    return Node(core, ttl=TTL, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("together", [False, True], ids=["the second later", "both at once"])
@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("reserved", [False, True])
def test_agents_of_one_identity_are_told_write_seldom_and_recover(together: bool, count: int, reserved: bool) -> None:
    """A second agent on one host, or clones behind one address: 1,975 commits in 5 s, and no problem told."""
    core = MemoryCore()
    if reserved:
        put(core, f"{PREFIX}10.0.77.0-24", '{"PublicIP":"172.31.0.1","NodeID":"me"}', lease_id=0)
        # Of one reservation each writes the same, so they differ in what they publish besides.
    nodes = [twin(core) for _ in range(count)]
    if reserved:
        for number, node in enumerate(nodes):
            node.keeper.configure(CONFIG, Advertisement("udp", {"n": number}))
    cluster = Cluster(*nodes)
    if not together:
        cluster.nodes = nodes[:1]
        cluster.run(10)
        cluster.nodes, cluster.writes = nodes, []
    cluster.run(5)
    assert all(cluster.told(node) for node in nodes)
    assert all(node.keeper.held is not None for node in nodes)
    assert len(cluster.writes) <= 2 * count  # each claims once, and puts right once
    cluster.run(600)
    assert all(cluster.told(node) for node in nodes)
    assert cluster.busiest(10.0) <= max(10, 2 * count + 2)
    later = [each for each in cluster.writes if each > cluster.now - 500]
    assert len(later) < 250
    survivor, cluster.nodes = nodes[0], nodes[:1]
    cluster.run(100)
    assert survivor.keeper.problems() == []
    assert survivor.keeper.phase is Phase.HELD
    key, session = survivor.key(), survivor.keeper.memory.etcd_lease_id
    assert key.lease_id == (0 if reserved else session)
    cluster.writes = []
    cluster.run(100)
    assert cluster.writes == []


def test_real_agents_of_one_identity_are_told_within_five_seconds() -> None:
    """The same with the tasks and the clock that they have in an agent."""

    async def main() -> tuple[int, list[tuple[str, ...]]]:
        core = MemoryCore()
        core.commit([], [Put(config_key("/coreos.com/network"), b'{"Network":"10.0.0.0/16"}')], time.monotonic())
        planes = [
            ControlPlane(MemoryStore(core), ControlSettings(), Identity("me", IP), rng=Random(n)) for n in range(2)
        ]
        tasks = [asyncio.create_task(planes[0].run())]
        async with asyncio.timeout(20):
            while planes[0].state.phase is not Phase.HELD:
                await planes[0].changed(planes[0].state.version)
        before = core.revision
        tasks.append(asyncio.create_task(planes[1].run()))
        await asyncio.sleep(4)  # time itself is what is asked about
        writes = core.revision - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return writes, [tuple(problem.text for problem in plane.state.problems) for plane in planes]

    writes, problems = asyncio.run(main())
    assert 2 <= writes <= 4
    assert all(any("another agent goes by" in text for text in each) for each in problems)


@pytest.mark.parametrize("remembers", ["subnet and etcd lease", "subnet", "etcd lease"])
def test_a_clone_with_the_memory_of_a_live_node_gets_a_subnet_of_its_own(remembers: str) -> None:
    """A cloned image with /var/lib/overlay/lease.json took the live node's subnet."""
    original = held_node()
    memory = original.keeper.memory
    if remembers == "subnet":
        memory = Memory(memory.subnets)
    elif remembers == "etcd lease":
        memory = Memory(etcd_lease_id=memory.etcd_lease_id)
    before = original.subnet
    clone = Node(original.core, ip=IP + 1, memory=memory)
    cluster = Cluster(original, clone)
    cluster.run(ANSWER_TIME / 2)
    assert original.subnet == before
    assert original.keeper.phase is Phase.HELD
    assert clone.keeper.phase is Phase.HELD
    assert clone.subnet != before
    assert len(cluster.writes) == 3
    assert clone.key().lease_id != original.key().lease_id
    assert b"AskedBy" not in original.key().value
    for node in (original, clone):
        assert shown(node.keeper.problems(), "conflict", "node id me is also used by 172.31.0.")
    clone.keeper.release()
    cluster.run(ANSWER_TIME)
    assert original.subnet == before
    assert original.keeper.problems() == []


@pytest.mark.parametrize("reserved", [False, True])
def test_a_node_with_another_address_than_before_gets_its_subnet_back(reserved: bool) -> None:
    original = held_node()
    if reserved:
        put(original.core, original.key().key, original.key().value.decode(), original.now)
    before, lease_id = original.subnet, original.key().lease_id
    again = Node(original.core, ip=IP + 1, memory=original.keeper.memory)
    again.now = original.now
    cluster = Cluster(again)
    cluster.run(ANSWER_TIME - 1)
    assert again.keeper.held is None
    assert again.keeper.problems() == []
    cluster.run(2)
    assert again.subnet == before
    assert again.key().lease_id == lease_id
    assert again.key().value == b'{"PublicIP":"172.31.0.2","PublicIPv6":null,"NodeID":"me"}'
    assert len(again.keys()) == 1


def test_two_clones_that_ask_at_once_end_with_two_subnets() -> None:
    original = held_node()
    memory = original.keeper.memory
    clones = [Node(original.core, ip=IP + n, memory=memory) for n in (1, 2)]
    cluster = Cluster(*clones)
    cluster.run(3 * ANSWER_TIME)
    assert all(clone.keeper.phase is Phase.HELD for clone in clones)
    assert clones[0].subnet != clones[1].subnet
    assert clones[0].key().lease_id != clones[1].key().lease_id


def test_clones_that_lease_at_once_leave_the_etcd_lease_that_both_remember() -> None:
    """Else the one that stays would keep alive, with its own lease, that of the one that goes."""
    memory = Memory(etcd_lease_id=7)
    core = MemoryCore()
    core.grant(7, 60, 100.0)
    one, two = Node(core, memory=memory), Node(core, ip=IP + 1, memory=memory)
    for step in ("refresh", "claim"):
        for node in (one, two):
            action = node.keeper.next_action(node.now)
            assert not isinstance(action, float), step
            node.carry_out(action)
    there = core.read(KeyRange(PREFIX), one.now).items
    assert [item.lease_id for item in there] == [7, 7]
    cluster = Cluster(one, two)
    cluster.run(10)
    assert one.key().lease_id != two.key().lease_id
    assert one.keeper.memory.etcd_lease_id == one.key().lease_id
    cluster.writes = []
    cluster.nodes = [one]
    cluster.run(100)
    assert one.keys() == [one.key().key]
    assert one.keeper.problems() == []
    assert len(cluster.writes) <= 1  # the key of the one that has gone expires


def test_an_answer_while_the_asker_does_not_see_the_store_is_not_overwritten() -> None:
    original = held_node()
    clone = Node(original.core, ip=IP + 1, memory=original.keeper.memory)
    ask = clone.step()
    assert isinstance(ask, Commit)
    assert ask.purpose is Purpose.ASK
    clone.carry_out(ask)
    clone.see()
    assert clone.step() is None
    Cluster(original).run(1)
    clone.now += 2 * ANSWER_TIME
    while (action := clone.step()) is not None and not isinstance(action, ReadAgain):
        clone.carry_out(action)
    Cluster(original, clone).run(2)
    assert original.keeper.phase is Phase.HELD
    assert clone.subnet != original.subnet


def test_a_store_that_was_restored_again_and_again_is_no_rival() -> None:
    node = held_node()
    for address in (b"172.31.0.50", b"172.31.0.51", b"172.31.0.52"):
        backup = copy.deepcopy(node.core)
        node.keeper.identify(Identity("me", IPv4Address(address.decode())))
        node.settle()
        put(node.core, "/elsewhere", "1")
        node.see()
        node.core = backup
        node.see()
        node.settle()
        assert address in node.key().value
        assert node.keeper.problems() == []


@pytest.mark.parametrize("lives", [True, False], ids=["a live node's", "our own, from before"])
def test_a_backup_that_shows_a_lease_of_before_we_took_it_over_is_asked_about(lives: bool) -> None:
    """What was taken over because nobody answered may have an owner who was only cut off from etcd then."""
    original = held_node()
    before, backup = original.subnet, copy.deepcopy(original.core)
    second = Node(original.core, ip=IP + 1, memory=original.keeper.memory)
    Cluster(second).run(ANSWER_TIME + 2)
    assert second.subnet == before
    put(second.core, "/elsewhere", "1", second.now)
    second.see()
    original.core = second.core = backup
    original.now = second.now
    nodes = [original, second] if lives else [second]
    cluster = Cluster(*nodes)
    cluster.run(ANSWER_TIME + 2)
    assert all(node.keeper.phase is Phase.HELD for node in nodes)
    assert (second.subnet == before) is not lives
    assert not lives or original.subnet == before
    assert len({node.key().lease_id for node in nodes}) == len(nodes)


def test_what_a_clone_with_our_etcd_lease_took_is_not_our_past() -> None:
    node = held_node()
    before, theirs = node.subnet, '{"PublicIP":"172.31.0.9","PublicIPv6":null,"NodeID":"me"}'
    key = node.key()
    put(node.core, key.key, theirs, node.now, key.lease_id)
    node.see()
    node.settle()
    assert node.subnet != before
    assert node.core.read(KeyRange(key.key, prefix=False), node.now).items[0].value == theirs.encode()


@pytest.mark.parametrize(("epoch", "reply"), [(0, Reply.ALIVE), (1, Reply.NOT_ASKED)])
def test_a_restored_store_answers_no_question(epoch: int, reply: Reply) -> None:
    record = parse_lease(KeyValue(f"{PREFIX}10.0.3.0-24", b'{"PublicIP":"172.31.0.9","NodeID":"me"}', 7, 1))
    assert Question(record.key, revision=5, epoch=0, until=10.0).reply(record, epoch, 1.0) is reply


def claimed_keys(nodes: Sequence[Node]) -> set[str]:
    return {node.key().key for node in nodes}


def test_a_late_write_of_a_killed_process_is_swept_at_the_pace_for_rivals() -> None:
    core = MemoryCore()
    first = Node(core, ttl=TTL)
    first.carry_out(first.step() or pytest.fail("no grant"))
    late = first.step()
    assert isinstance(late, Commit)
    second = Node(core, ttl=TTL)
    cluster = Cluster(second)
    cluster.run(1)
    core.commit(late.compares, late.operations, cluster.now)
    cluster.run(20)
    assert second.keys() == list(claimed_keys([second]))
    cluster.run(60)
    assert second.keeper.problems() == []
