"""The lease state machine, step by step against a store in memory whose time is a number."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from itertools import count
from random import Random

import pytest

from overlay.control.leases.allocator import Identity, Memory
from overlay.control.leases.keeper import Keeper
from overlay.control.leases.state import TRANSITIONS, Action, Commit, Phase, Purpose, ReadAgain, Revoke
from overlay.control.leases.view import LeaseView
from overlay.control.schema.config import parse_config
from overlay.errors import LeaseNotFoundError, StoreUnavailableError
from overlay.model import Advertisement, BackendConfig
from overlay.store.contract import Delete, KeyRange, KeyValue, Put
from overlay.store.session import Grant, Refresh
from tests.support.memory_store import MemoryCore
from tests.support.problems import shown

PREFIX = "/coreos.com/network/subnets/"
LEASES = KeyRange(PREFIX)
CONFIG = parse_config(b'{"Network":"10.0.0.0/16"}')
SMALL = parse_config(b'{"Network":"10.0.0.0/22","SubnetMax":"10.0.1.0"}')
ELSEWHERE = parse_config(b'{"Network":"10.9.0.0/16"}')
IP = IPv4Address("172.31.0.1")
SEEDS = count()


class Node:
    """A keeper with its view, driven by hand; ``see`` is what the follower does."""

    def __init__(
        self, core: MemoryCore, name: str = "me", ip: IPv4Address = IP, memory: Memory | None = None, ttl: int = 60
    ) -> None:
        self.core = core
        self.now = 100.0
        self.view = LeaseView(PREFIX)
        self.keeper = Keeper(self.view, Identity(name, ip), Random(next(SEEDS)), memory=memory, ttl=ttl, margin=20)
        self.keeper.configure(CONFIG)
        self.see()

    def see(self) -> None:
        self.now += 1e-6
        self.view.load(self.core.read(LEASES, self.now), self.now)
        self.keeper.observe()
        self.keeper.reconnected()

    def carry_out(self, action: Action) -> None:
        """Carries out an action and passes its outcome on."""
        try:
            self._carry_out(action)
        except LeaseNotFoundError as error:
            self.keeper.failed(error, self.now)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Grant(lease_id, ttl):
                self.core.grant(lease_id, ttl, self.now)
                self.keeper.completed(None, self.now)
            case Refresh(lease_id):
                self.keeper.completed(self.core.refresh(lease_id, self.now), self.now)
            case Commit(_, compares, operations):
                self.keeper.completed(self.core.commit(compares, operations, self.now), self.now)
            case Revoke(lease_id):
                self.core.revoke(lease_id, self.now)
                self.keeper.completed(None, self.now)

    def step(self) -> Action | None:
        """The next action, None if there is none now."""
        action = self.keeper.next_action(self.now)
        return None if isinstance(action, float) else action

    def settle(self) -> list[Action]:
        """Goes on until there is nothing to do."""
        done: list[Action] = []
        for _ in range(50):
            action = self.step()
            if isinstance(action, ReadAgain) or (action is None and self.view.revision != self.core.revision):
                self.see()
            elif action is None:
                return done
            else:
                done.append(action)
                self.carry_out(action)
        raise AssertionError(f"no end: {done[-5:]}")

    @property
    def subnet(self) -> IPv4Network:
        assert self.keeper.held is not None
        return self.keeper.held.subnet

    def key(self) -> KeyValue:
        assert self.keeper.held is not None
        return self.core.read(KeyRange(self.keeper.held.key, prefix=False), self.now).items[0]

    def keys(self) -> list[str]:
        return [item.key for item in self.core.read(LEASES, self.now).items]


def held_node(core: MemoryCore | None = None) -> Node:
    node = Node(core or MemoryCore())
    node.settle()
    assert node.keeper.phase is Phase.HELD
    return node


def put(core: MemoryCore, key: str, value: str, now: float = 100.0, lease_id: int = 0) -> None:
    core.commit([], [Put(key, value.encode(), lease_id)], now)


def test_every_phase_can_be_reached_and_only_released_is_the_end() -> None:
    reachable = set().union(*TRANSITIONS.values()) | {Phase.WAITING}
    assert reachable == set(Phase)
    assert [phase for phase in Phase if not TRANSITIONS[phase]] == [Phase.RELEASED]


def test_a_first_lease_takes_one_grant_and_one_transaction() -> None:
    node = Node(MemoryCore())
    grant, commit = node.settle()
    assert isinstance(grant, Grant)
    assert isinstance(commit, Commit)
    held = node.keeper.held
    assert held is not None
    assert held.valid_until == pytest.approx(node.now + 60)
    assert node.key().lease_id == held.etcd_lease_id == node.keeper.memory.etcd_lease_id
    assert node.keeper.memory.subnets == (held.subnet,)


def test_the_life_of_a_lease_counts_from_the_sending_of_the_request() -> None:
    node = Node(MemoryCore())
    grant = node.step()
    assert isinstance(grant, Grant)
    node.now += 4
    node.carry_out(grant)
    node.settle()
    assert node.keeper.held is not None
    assert node.keeper.held.valid_until == pytest.approx(100.0 + 60, abs=0.01)


def test_refreshed_well_before_its_end_without_a_new_etcd_lease() -> None:
    """flannel 904, 1240, 621: renewal that comes too late, or with a new lease and an unconditional put."""
    node = held_node()
    first = node.key()
    for _ in range(100):
        due = node.keeper.next_action(node.now)
        assert isinstance(due, float)
        assert 10 < due - node.now <= 20.01  # a third of the TTL of 60 s
        node.now = due
        (action,) = node.settle()
        assert isinstance(action, Refresh)
    assert node.key() == first


def test_started_again_with_its_memory_it_writes_nothing() -> None:
    node = held_node()
    again = Node(node.core, memory=node.keeper.memory)
    (action,) = again.settle()
    assert isinstance(action, Refresh)
    assert again.keeper.held is not None
    assert again.key() == node.key()


def test_started_again_without_memory_it_gets_the_same_subnet() -> None:
    node = held_node()
    again = Node(node.core)
    again.settle()
    assert again.subnet == node.subnet
    assert len(again.keys()) == 1


@pytest.mark.parametrize("how", ["deleted", "expired", "wiped"])
def test_a_lost_lease_is_taken_again(how: str) -> None:
    """flannel 904, 1240, 621: "Lease has been revoked", and the daemon ends."""
    node = held_node()
    before = node.subnet
    if how == "deleted":
        node.core.remove(node.keys()[0], node.now)
    elif how == "wiped":
        node.core.wipe()
    else:
        node.now += 61
        node.core.expire(node.now)
    node.see()
    assert node.keeper.phase is Phase.RECLAIMING
    assert node.keeper.held is not None
    assert node.keeper.held.subnet == before
    assert node.keeper.held.valid_until < node.now
    node.settle()
    assert node.subnet == before
    assert node.keeper.held.valid_until > node.now
    assert len(node.keys()) == 1


def test_a_subnet_that_is_anothers_now_is_replaced() -> None:
    """flannel 1289, 805, 1129, 1182: two nodes with one subnet."""
    node = held_node()
    before, key = node.subnet, node.keys()[0]
    node.core.remove(key, node.now)
    put(node.core, key, '{"PublicIP":"172.31.0.9","PublicIPv6":null}')
    node.see()
    assert node.keeper.held is None
    node.settle()
    assert node.subnet != before
    assert before not in node.keeper.memory.subnets
    assert node.core.read(KeyRange(key), node.now).items[0].value == b'{"PublicIP":"172.31.0.9","PublicIPv6":null}'


def test_a_lost_race_goes_to_the_next_candidate() -> None:
    """flannel 1129: the retry after a lost race was dead code."""
    core = MemoryCore()
    nodes = [Node(core, f"n{n}", IP + n) for n in range(3)]
    commits = []
    for node in nodes:
        node.keeper.memory = Memory((IPv4Network("10.0.7.0/24"),))
        node.carry_out(node.step() or pytest.fail("no grant"))
        commits.append(node.step() or pytest.fail("no commit"))
    for node, commit in zip(nodes, commits, strict=True):
        node.carry_out(commit)
    for node in nodes:
        node.settle()
    assert nodes[0].subnet == IPv4Network("10.0.7.0/24")
    assert len({node.subnet for node in nodes}) == 3


@pytest.mark.parametrize("arrives", ["before", "after the next snapshot", "never"])
def test_a_claim_of_unknown_outcome_leaves_one_lease(arrives: str) -> None:
    node = Node(MemoryCore())
    node.carry_out(node.step() or pytest.fail("no grant"))
    late = node.step()
    assert isinstance(late, Commit)
    if arrives == "before":
        node.core.commit(late.compares, late.operations, node.now)
    node.keeper.failed(StoreUnavailableError("no answer in time"), node.now)
    node.now += 5
    assert isinstance(node.step(), ReadAgain)
    node.see()
    node.settle()
    if arrives == "after the next snapshot":
        node.core.commit(late.compares, late.operations, node.now)
        node.see()
        node.settle()
    assert node.keys() == [node.keeper.held.key if node.keeper.held else ""]


def test_nothing_is_decided_after_an_unknown_outcome_without_a_new_snapshot() -> None:
    node = Node(MemoryCore())
    node.carry_out(node.step() or pytest.fail("no grant"))
    assert isinstance(node.step(), Commit)
    node.keeper.failed(StoreUnavailableError("no answer in time"), node.now)
    for _ in range(20):
        node.now += 7
        assert isinstance(node.step(), ReadAgain)


def test_failures_are_tried_again_at_a_bounded_pace() -> None:
    """flannel 1830, 2171: 200 % CPU after etcd is lost."""
    node = held_node()
    node.now += 30
    waits = []
    for _ in range(40):
        action = node.step()
        assert isinstance(action, Refresh)
        node.keeper.failed(StoreUnavailableError("no endpoint"), node.now)
        due = node.keeper.next_action(node.now)
        assert isinstance(due, float)
        waits.append(due - node.now)
        node.now = due
    assert min(waits) >= 0.5
    assert 15 <= max(waits) <= 30
    assert node.keeper.held is not None
    assert "no endpoint" in node.keeper.problems()[0].text


@pytest.mark.parametrize("when", ["in flight", "written", "unknown"])
def test_a_config_that_comes_while_a_claim_is_made_is_followed(when: str) -> None:
    """Nobody uses the subnet yet: it is not held under a config that it does not fit, nor left behind."""
    node = Node(MemoryCore())
    node.carry_out(node.step() or pytest.fail("no grant"))
    claim = node.step()
    assert isinstance(claim, Commit)
    if when == "in flight":
        node.keeper.configure(ELSEWHERE)
    if when == "unknown":
        node.core.commit(claim.compares, claim.operations, node.now)
        node.keeper.failed(StoreUnavailableError("no answer in time"), node.now)
    else:
        node.carry_out(claim)
    node.keeper.configure(ELSEWHERE)
    node.now += 2
    node.see()
    node.settle()
    assert node.keeper.phase is Phase.HELD
    assert ELSEWHERE.ipv4 is not None
    assert ELSEWHERE.ipv4.contains(node.subnet)
    assert [item.key for item in node.core.read(LEASES, node.now).items] == [node.key().key]


def test_a_failure_is_over_once_nothing_is_left_to_be_done() -> None:
    """The last free subnet goes to another while a claim's outcome is unknown: nothing is tried again."""
    core = MemoryCore()
    node = Node(core)
    node.keeper.configure(SMALL)
    node.carry_out(node.step() or pytest.fail("no grant"))
    assert isinstance(node.step(), Commit)
    node.keeper.failed(StoreUnavailableError("no answer in time"), node.now)
    assert shown(node.keeper.problems(), "keeper", "no answer in time")
    assert len(node.keeper.problems()) == 1
    put(core, f"{PREFIX}10.0.1.0-24", '{"PublicIP":"172.31.0.9"}')
    node.now += 60
    node.see()
    assert node.settle() == []
    assert shown(node.keeper.problems(), "exhausted")
    assert len(node.keeper.problems()) == 1


def test_out_of_subnets_ends_when_one_becomes_free() -> None:
    """flannel 875: out of subnets under churn."""
    core = MemoryCore()
    first, second = Node(core, "a", IP), Node(core, "b", IP + 1)
    for node in (first, second):
        node.keeper.configure(SMALL)
    first.settle()
    second.settle()
    assert second.keeper.phase is Phase.EXHAUSTED
    assert "out of subnets" in second.keeper.problems()[0].text
    assert second.keeper.next_action(second.now) == math.inf
    first.keeper.release()
    first.settle()
    assert first.keeper.phase is Phase.RELEASED
    second.see()
    second.settle()
    assert second.subnet == first.subnet


def test_a_reservation_stays_permanent_when_its_node_takes_it() -> None:
    """flannel 1329: a reservation became a lease of 24 hours."""
    core = MemoryCore()
    put(core, f"{PREFIX}10.0.77.0-24", '{"PublicIP":"172.31.0.1","PublicIPv6":null}')
    node = Node(core)
    (action,) = node.settle()
    assert isinstance(action, Commit)
    held = node.keeper.held
    assert held is not None
    assert held.reserved
    assert held.valid_until == math.inf
    assert node.key().lease_id == 0
    assert b'"NodeID":"me"' in node.key().value
    assert node.keeper.next_action(node.now) == math.inf
    node.keeper.release()
    node.settle()
    assert node.keys() == [held.key]


def test_a_reservation_of_the_held_subnet_is_taken_while_it_runs() -> None:
    node = held_node()
    before = node.subnet
    put(node.core, node.keys()[0], '{"PublicIP":"172.31.0.1","PublicIPv6":null}')
    node.see()
    node.settle()
    assert node.subnet == before
    assert node.keeper.held is not None
    assert node.keeper.held.reserved


def reserving_node() -> Node:
    core = MemoryCore()
    put(core, f"{PREFIX}10.0.77.0-24", '{"PublicIP":"172.31.0.1","PublicIPv6":null}')
    node = held_node(core)
    assert node.keeper.held is not None
    assert node.keeper.held.reserved
    return node


def test_a_reservation_that_a_wiped_store_lost_is_put_back_as_one() -> None:
    node = reserving_node()
    node.core.wipe()
    node.see()
    node.settle()
    assert str(node.subnet) == "10.0.77.0/24"
    assert node.key().lease_id == 0


@pytest.mark.parametrize("restored_before", [False, True])
def test_a_reservation_that_was_deleted_becomes_a_lease(restored_before: bool) -> None:
    """Deleted by hand, it was meant to be; also in a store that was restored, with it, long before."""
    node = reserving_node()
    if restored_before:
        backup = copy.deepcopy(node.core)
        put(node.core, "/elsewhere", "1")
        node.see()
        node.core = backup
        node.see()
        node.settle()
        assert node.view.epoch == 1
    node.core.remove(f"{PREFIX}10.0.77.0-24", node.now)
    node.see()
    node.settle()
    assert str(node.subnet) == "10.0.77.0/24"
    assert node.key().lease_id != 0


def test_garbage_over_our_key_is_put_right() -> None:
    node = held_node()
    before = node.subnet
    put(node.core, node.keys()[0], "nonsense")
    node.see()
    node.settle()
    assert node.subnet == before
    assert b"172.31.0.1" in node.key().value
    assert node.key().lease_id != 0


def test_a_new_public_address_is_written_into_the_lease() -> None:
    """flannel 408, 1052, 760: a changed public address needed a restart."""
    node = held_node()
    before = node.subnet
    node.keeper.identify(Identity("me", IPv4Address("172.31.0.50")))
    (action,) = node.settle()
    assert isinstance(action, Commit)
    assert action.purpose is Purpose.REPAIR
    assert node.subnet == before
    assert b"172.31.0.50" in node.key().value
    assert not node.keeper.problems()


def test_two_nodes_behind_one_address_are_both_told() -> None:
    """flannel 1810: same lease for two nodes behind one address."""
    core = MemoryCore()
    first, second = Node(core, "a"), Node(core, "b")
    first.settle()
    second.settle()
    first.see()
    assert first.subnet != second.subnet
    assert "also advertised by node b" in first.keeper.problems()[0].text
    assert "also advertised by node a" in second.keeper.problems()[0].text


def test_a_claim_that_overlaps_another_length_is_given_up() -> None:
    core = MemoryCore()
    node = Node(core, memory=Memory((IPv4Network("10.0.4.0/24"),)))
    node.carry_out(node.step() or pytest.fail("no grant"))
    commit = node.step() or pytest.fail("no commit")
    put(core, f"{PREFIX}10.0.4.0-23", '{"PublicIP":"172.31.0.9","PublicIPv6":null}')
    node.carry_out(commit)
    assert node.keeper.phase is Phase.CONFIRMING
    assert node.keeper.held is None
    node.settle()
    assert not node.subnet.overlaps(IPv4Network("10.0.4.0/23"))
    assert len(node.keys()) == 2


def test_a_subnet_over_which_another_length_lies_is_not_taken_again() -> None:
    core = MemoryCore()
    node = Node(core, memory=Memory((IPv4Network("10.0.4.0/24"),)))
    node.settle()
    assert str(node.subnet) == "10.0.4.0/24"
    (key,) = node.keys()
    other = Put(f"{PREFIX}10.0.4.0-23", b'{"PublicIP":"172.31.0.9","PublicIPv6":null}')
    core.commit([], [Delete(key), other], node.now)
    node.see()
    done = node.settle()
    assert not node.subnet.overlaps(IPv4Network("10.0.4.0/23"))
    assert sum(isinstance(action, Commit) for action in done) == 1


def test_release_without_a_key_ends_the_etcd_lease_all_the_same() -> None:
    node = Node(MemoryCore())
    node.carry_out(node.step() or pytest.fail("no grant"))
    node.keeper.release()
    (revoke,) = node.settle()
    assert isinstance(revoke, Revoke)
    assert node.keeper.phase is Phase.RELEASED


def test_release_deletes_the_key_and_ends_the_etcd_lease() -> None:
    node = held_node()
    lease_id = node.key().lease_id
    node.keeper.release()
    commit, revoke = node.settle()
    assert isinstance(commit, Commit)
    assert commit.purpose is Purpose.RELEASE
    assert revoke == Revoke(lease_id)
    assert node.keys() == []
    assert node.core.time_to_live(lease_id, node.now) == 0
    assert node.keeper.memory.subnets == (node.subnet,)


def test_a_changed_ttl_gets_a_new_etcd_lease() -> None:
    node = held_node()
    again = Node(node.core, memory=node.keeper.memory, ttl=600)
    again.settle()
    assert again.subnet == node.subnet
    assert again.keeper.held is not None
    assert again.keeper.held.valid_until == pytest.approx(again.now + 600, abs=0.01)
    assert again.core.time_to_live(again.key().lease_id, again.now) >= 599


# --- one node takes one subnet, whatever becomes of what it writes ---


@pytest.mark.parametrize(
    "identity",
    [
        Identity("x" * 129, IP),
        Identity("\udce9", IP),
        Identity("me", IPv4Address("0.0.0.0")),
        Identity("me", IPv4Address("224.0.0.5")),
        Identity("", IP),
    ],
)
def test_what_no_reader_would_take_is_not_written(identity: Identity) -> None:
    node = Node(MemoryCore())
    node.keeper.identify(identity)
    node.settle()
    assert node.keys() == []
    assert shown(node.keeper.problems(), "unwritable", "no lease is written: lease 10.0.")
    node.keeper.identify(Identity("me", IP))
    node.settle()
    assert node.keeper.phase is Phase.HELD
    assert node.keeper.problems() == []


def test_an_advertisement_too_long_to_be_read_is_not_written() -> None:
    node = Node(MemoryCore())
    node.keeper.configure(CONFIG, Advertisement("vxlan", {"x": "y" * 70_000}))
    node.settle()
    assert node.keys() == []
    assert shown(node.keeper.problems(), "unwritable", "no lease is written: lease 10.0.")


def test_another_backend_keeps_the_subnet_and_rewrites_the_lease_once() -> None:
    """As a node does whose network goes over to vxlan, and whose VXLAN device was then made anew."""
    node = held_node()
    before = node.key()
    vxlan = replace(CONFIG, backend=BackendConfig("vxlan"))
    for number in range(2):
        node.keeper.configure(vxlan, Advertisement("vxlan", {"VNI": number}))
        node.settle()
        after = node.key()
        assert (after.key, after.lease_id) == (before.key, before.lease_id)
        assert json.loads(after.value)["BackendData"] == {"VNI": number}
    revision = node.core.revision
    node.settle()
    assert node.core.revision == revision
    node.keeper.configure(CONFIG, Advertisement("udp"))
    node.settle()
    assert node.key().value == before.value, "nothing is left of what the other advertised"


def test_a_held_lease_that_cannot_be_rewritten_is_still_refreshed() -> None:
    node = held_node()
    node.keeper.identify(Identity("me", IPv4Address("224.0.0.5")))
    node.settle()
    for _ in range(10):
        node.now += 15
        node.settle()
    assert node.keeper.phase is Phase.HELD
    assert len(node.keys()) == 1


@pytest.mark.parametrize("garbage", ["", "{", '{"PublicIP":"0.0.0.0"}', '{"PublicIP":"224.0.0.5","PublicIPv6":null}'])
@pytest.mark.parametrize("had_one", [False, True])
def test_a_claim_that_reads_back_malformed_is_no_reason_for_another(garbage: str, had_one: bool) -> None:
    """As when a proxy, or a cleverer writer, changes what is written: the same key, ever more seldom, and a problem."""
    core = MemoryCore()
    node = held_node(core) if had_one else Node(core)
    if had_one:
        put(core, node.key().key, garbage)
        node.see()
    commits = []
    began = node.now
    while node.now < began + 600:
        action = node.keeper.next_action(node.now)
        if isinstance(action, float):
            node.now = min(action, node.now + 1)
            if node.view.revision != core.revision:
                node.see()
        elif isinstance(action, ReadAgain):
            node.see()
        else:
            node.carry_out(action)
            if isinstance(action, Commit):
                commits.append(node.now)
                written = node.keys()
                for key in written:
                    put(core, key, garbage, node.now)
    assert len(node.keys()) == 1
    assert 10 < len(commits) < 60
    assert shown(node.keeper.problems(), "mangled")
    for _ in range(100):
        node.now += 1
        node.settle()
    assert node.keeper.phase is Phase.HELD
    assert node.keeper.problems() == []
    assert len(node.keys()) == 1
