"""This node and its pods in etcd: driven against a store in memory, with faults."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import LeaseNotFoundError, StoreUnavailableError
from overlay.services.keys import Keys
from overlay.services.mirror import ServicesMirror
from overlay.services.objects.document import Object
from overlay.services.pods import registration
from overlay.services.pods.registration import Registration, Write
from overlay.store.contract import Committed, KeyRange
from overlay.store.session import Grant, Refresh
from tests.support.memory_store import MemoryCore

KEYS = Keys()
ALL = KeyRange(KEYS.root)
RECORD: Object = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
TTL = 30


def pod(name: str, *, ready: bool = True, version: int = 0) -> Object:
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {"metadata": {"name": name, "annotations": {"v": str(version)}}, "status": {"conditions": conditions}}


class Node:
    """A registration, its mirror and the store that it works on."""

    def __init__(self, core: MemoryCore, identity: str = "id1", seed: int = 1) -> None:
        self.core = core
        self.mirror = ServicesMirror(KEYS)
        self.registration = Registration(KEYS, self.mirror, Random(seed), node="n1", identity=identity, ttl=TTL)
        self.writes = 0
        self.must_read = True  # as after a watch that broke; one on a store that was replaced always does

    def hear(self, now: float) -> None:
        self.core.expire(now)
        if self.must_read:
            self.must_read = False
            self.mirror.load(self.core.read(ALL, now), now)
        else:
            self.mirror.apply(self.core.events(ALL, self.mirror.revision))

    def step(self, now: float) -> float | None:
        """One action carried out; when to ask again where there is none."""
        action = self.registration.next(now)
        result: Committed | int | None = None
        match action:
            case float():
                return action
            case Grant(lease_id, ttl):
                self.core.grant(lease_id, ttl, now)
            case Refresh(lease_id):
                result = self.core.refresh(lease_id, now)
            case Write(compares, operations):
                self.writes += len(operations)
                try:
                    result = self.core.commit(compares, operations, now)
                except LeaseNotFoundError as error:
                    self.registration.failed(error, now)
                    return None
        self.registration.completed(result, now)
        return None

    def settle(self, now: float, *, hearing: bool = True) -> float:
        """Works until there is nothing to do at ``now``; returns when there is."""
        for _ in range(200):
            if hearing:
                self.hear(now)
            if (due := self.step(now)) is not None:
                return due
        raise AssertionError("never at rest")

    def held(self) -> dict[str, bytes]:
        return {item.key: item.value for item in self.core.read(ALL, 0.0).items}


def names(node: Node) -> set[str]:
    return {key.removeprefix(KEYS.root) for key in node.held()}


def test_a_node_and_its_pods_are_there_and_hang_on_one_lease() -> None:
    node = Node(MemoryCore())
    assert node.registration.next(0.0) == math.inf, "nothing before the store was read"
    node.registration.want(RECORD, {"a": pod("a"), "b": pod("b")})
    due = node.settle(0.0)
    assert names(node) == {"alive/n1", "nodes/n1", "pods/n1/a", "pods/n1/b"}
    assert 0 < due <= TTL / 3
    assert node.registration.missing() == 0
    assert node.registration.holds_name
    node.core.expire(1000.0)
    assert names(node) == {"nodes/n1"}, "the node is remembered, its pods went with it"


def test_changes_are_written_and_nothing_else_is() -> None:
    node = Node(MemoryCore())
    node.registration.want(RECORD, {"a": pod("a"), "b": pod("b")})
    node.settle(0.0)
    before = node.core.revision
    node.registration.want(RECORD, {"a": pod("a"), "b": pod("b")})
    node.settle(1.0)
    assert node.core.revision == before
    node.registration.want(RECORD, {"b": pod("b", version=1), "c": pod("c")})
    node.settle(2.0)
    assert node.core.revision == before + 1, "one transaction"
    assert names(node) == {"alive/n1", "nodes/n1", "pods/n1/b", "pods/n1/c"}


def test_what_was_written_is_not_written_again_before_the_mirror_tells() -> None:
    node = Node(MemoryCore())
    node.registration.want(RECORD, {"a": pod("a")})
    node.hear(0.0)
    node.settle(0.0, hearing=False)
    assert node.writes == 3
    assert node.registration.missing() == 0


def test_what_others_delete_or_change_is_put_right() -> None:
    node = Node(MemoryCore())
    node.registration.want(RECORD, {"a": pod("a")})
    node.settle(0.0)
    node.core.remove(KEYS.pod("n1", "a"), 1.0)
    node.settle(1.0)
    assert "pods/n1/a" in names(node)
    node.core.remove(KEYS.alive("n1"), 2.0)
    node.settle(2.0)
    assert "alive/n1" in names(node)


def test_a_restarted_process_takes_the_lease_over_and_writes_nothing() -> None:
    core = MemoryCore()
    first = Node(core)
    first.registration.want(RECORD, {"a": pod("a")})
    first.settle(0.0)
    before = core.revision
    second = Node(core, seed=2)
    second.registration.want(RECORD, {"a": pod("a")})
    second.settle(10.0)
    assert core.revision == before
    core.expire(35.0)
    assert "pods/n1/a" in names(second), "the lease was refreshed"


def deleted(core: MemoryCore) -> list[str]:
    """The keys that somebody has deleted so far, in the order in which it was done."""
    return [event.kv.key.removeprefix(KEYS.root) for event in core.events(ALL, 0).events if event.deleted]


def test_nothing_is_removed_or_ready_before_it_is_known_what_there_is() -> None:
    """etcd answers sooner than Docker: what is not known yet is not gone."""
    core = MemoryCore()
    first = Node(core)
    first.registration.want(RECORD, {"a": pod("a")})
    first.settle(0.0)
    second = Node(core, seed=2)
    second.settle(10.0)
    assert second.registration.missing() > 0
    second.registration.want(RECORD, {"a": pod("a")})
    second.settle(11.0)
    assert deleted(core) == []
    assert second.registration.missing() == 0
    core.expire(35.0)
    assert "pods/n1/a" in names(second), "the lease was refreshed before anything was known"


def test_a_pod_of_which_nobody_can_tell_stays_as_it_was() -> None:
    core = MemoryCore()
    first = Node(core)
    first.registration.want(RECORD, {"a": pod("a"), "b": pod("b")})
    first.settle(0.0)
    second = Node(core, seed=2)
    second.registration.want(RECORD, {}, unknown={"a"})
    second.settle(10.0)
    assert deleted(core) == ["pods/n1/b"]
    assert second.registration.missing() == 0
    second.core.expire(500.0)
    first = Node(core, seed=3)
    first.registration.want(RECORD, {"a": pod("a")})
    first.settle(500.0)
    first.registration.want(RECORD, {}, unknown={"a"})
    first.registration.failed(LeaseNotFoundError("gone"), 501.0)
    first.settle(501.0)
    core.expire(500.0 + TTL + 0.5)
    assert "pods/n1/a" in names(first), "it goes over to the new lease with the others"


restarts = st.lists(st.sampled_from(["act", "hear", "learn", "learn some", "restart", "changed", "fail"]), max_size=30)


@given(restarts, st.integers(0, 100))
def test_a_restart_at_any_moment_deletes_no_pod_that_lives(plan: list[str], seed: int) -> None:
    """Two pods live all the while. A process hears of etcd and learns of its pods in any order, and may end after each
    step; what it knows of one pod alone it says so."""
    core = MemoryCore()
    node, version = Node(core, seed=seed), 0
    node.registration.want(RECORD, {"a": pod("a"), "b": pod("b")})
    node.settle(0.0)
    for number, step in enumerate(plan, 1):
        now = float(number)
        pods = {name: pod(name, version=version) for name in "ab"}
        match step:
            case "act":
                for _ in range(3):
                    node.step(now)
            case "hear":
                node.hear(now)
            case "learn":
                node.registration.want(RECORD, pods)
            case "learn some":
                node.registration.want(RECORD, {"a": pods["a"]}, unknown={"b"})
            case "restart":
                node = Node(core, seed=seed + number + 1)
            case "changed":
                version += 1
            case "fail":
                if not isinstance(node.registration.next(now), float):
                    node.registration.failed(StoreUnavailableError("away"), now)
    assert deleted(core) == []


def test_pods_that_went_while_no_process_ran_are_removed() -> None:
    core = MemoryCore()
    first = Node(core)
    first.registration.want(RECORD, {"a": pod("a"), "b": pod("b")})
    first.settle(0.0)
    second = Node(core, seed=2)
    second.registration.want(RECORD, {"b": pod("b")})
    second.settle(10.0)
    assert names(second) == {"alive/n1", "nodes/n1", "pods/n1/b"}


def test_a_lost_lease_is_replaced_and_everything_put_on_the_new_one() -> None:
    node = Node(MemoryCore())
    node.registration.want(RECORD, {"a": pod("a")})
    node.settle(0.0)
    node.core.expire(500.0)
    node.settle(500.0)
    assert names(node) == {"alive/n1", "nodes/n1", "pods/n1/a"}
    node.core.expire(500.0 + TTL - 1)
    assert "pods/n1/a" in names(node)


def test_two_machines_of_one_name_do_not_mix_their_pods() -> None:
    core = MemoryCore()
    one, other = Node(core, "id1"), Node(core, "id2", seed=2)
    one.registration.want(RECORD, {"a": pod("a")})
    one.settle(0.0)
    other.registration.want(RECORD, {"b": pod("b")})
    due = other.settle(1.0)
    assert names(one) == {"alive/n1", "nodes/n1", "pods/n1/a"}
    assert other.registration.rival() == "id1"
    assert not other.registration.holds_name
    assert due > 1.0
    core.expire(100.0)
    other.settle(100.0)
    assert names(other) == {"alive/n1", "nodes/n1", "pods/n1/b"}
    assert other.registration.rival() is None
    one.registration.want(RECORD, {"a": pod("a", version=1)})
    one.hear(100.0)
    one.settle(100.0, hearing=False)
    assert names(other) == {"alive/n1", "nodes/n1", "pods/n1/b"}


def test_who_lost_its_name_behind_its_back_writes_no_pod() -> None:
    """Its mirror lags: the transaction itself finds out."""
    core = MemoryCore()
    one, other = Node(core, "id1"), Node(core, "id2", seed=2)
    one.registration.want(RECORD, {"a": pod("a")})
    one.settle(0.0)
    core.expire(9.0)
    for key in (KEYS.alive("n1"), KEYS.pod("n1", "a")):
        core.remove(key, 9.0)
    other.registration.want(RECORD, {})
    other.settle(9.0)
    one.registration.want(RECORD, {"a": pod("a", version=1)})
    one.settle(9.1, hearing=False)
    assert "pods/n1/a" not in names(one)
    assert one.registration.rival() == "id2"


def test_failures_are_tried_again_at_a_bounded_pace() -> None:
    node = Node(MemoryCore())
    node.registration.want(RECORD, {"a": pod("a")})
    node.hear(0.0)
    now, tries = 0.0, 0
    while now < 600:
        action = node.registration.next(now)
        if isinstance(action, float):
            assert action > now
            now = action
        else:
            tries += 1
            node.registration.failed(StoreUnavailableError("away"), now)
    assert 600 / registration._MAX_RETRY <= tries <= 2 * 600 / registration._MAX_RETRY + 10
    assert node.registration.error is not None
    node.settle(now)
    assert node.registration.error is None


def run_for(node: Node, seconds: int, want: Any) -> int:
    """Asks ten times a second, with what ``want`` says of each moment; returns how much was written."""
    before = node.writes
    for tick in range(seconds * 10):
        now = 100 + tick / 10
        node.registration.want(RECORD, want(tick))
        node.settle(now)
    return node.writes - before


def test_a_restart_loop_is_written_at_a_bounded_rate_and_ends_right() -> None:
    node = Node(MemoryCore())
    wrote = run_for(node, 60, lambda tick: {"a": pod("a", ready=tick % 3 == 0, version=tick)})
    assert wrote <= 2 * (registration.POD_BURST + 60 / registration.POD_SECONDS) + 5
    node.registration.want(RECORD, {"a": pod("a", version=-1)})
    node.settle(161.0)
    node.settle(161.0 + registration.POD_SECONDS)
    assert node.registration.missing() == 0


def out_of_tokens(node: Node) -> float:
    """A moment at which the pod ``a``, which is shown as ready, has changed again and must wait for its turn."""
    run_for(node, 60, lambda tick: {"a": pod("a", version=tick)})
    now = 160.0
    while True:
        node.registration.want(RECORD, {"a": pod("a", version=int(now * 10))})
        node.settle(now)
        if node.registration.missing():
            return now
        now += 0.1


def test_a_pod_that_stops_being_ready_is_told_at_once() -> None:
    node = Node(MemoryCore())
    now = out_of_tokens(node)
    node.registration.want(RECORD, {"a": pod("a", ready=False)})
    node.settle(now)
    assert b'"status":"False"' in node.held()[KEYS.pod("n1", "a")]


def test_a_pod_that_is_on_its_way_out_is_told_at_once() -> None:
    node = Node(MemoryCore())
    now = out_of_tokens(node)
    going = pod("a", ready=True)
    going["metadata"]["deletionTimestamp"] = "2026-11-28T10:00:00Z"
    node.registration.want(RECORD, {"a": going})
    node.settle(now)
    assert b"deletionTimestamp" in node.held()[KEYS.pod("n1", "a")]


def test_containers_made_and_removed_without_end_are_written_at_a_bounded_rate() -> None:
    node = Node(MemoryCore())
    wrote = run_for(node, 60, lambda tick: {f"{tick}-{n}": pod("x") for n in range(10)})
    assert wrote <= registration.NODE_BURST + 60 * registration.NODE_RATE + 5


def test_a_boot_with_a_thousand_containers_is_registered_at_once() -> None:
    node = Node(MemoryCore())
    node.registration.want(RECORD, {f"c{n:04}": pod(f"c{n}") for n in range(900)})
    node.settle(0.0)
    assert node.registration.missing() == 0
    assert len(names(node)) == 902


def test_a_restored_store_gets_everything_again() -> None:
    node = Node(MemoryCore())
    node.registration.want(RECORD, {"a": pod("a")})
    node.settle(0.0)
    for version in range(1, 4):
        node.registration.want(RECORD, {"a": pod("a", version=version)})
        node.settle(float(version))
    node.core.wipe()
    node.must_read = True
    node.settle(10.0)
    assert names(node) == {"alive/n1", "nodes/n1", "pods/n1/a"}


def test_a_store_that_is_restored_before_the_mirror_hears_of_what_was_written() -> None:
    node = Node(MemoryCore())
    node.registration.want(RECORD, {"a": pod("a")})
    node.hear(0.0)
    node.settle(0.0, hearing=False)
    node.core.wipe()
    node.must_read = True
    node.settle(1.0)
    assert names(node) == {"alive/n1", "nodes/n1", "pods/n1/a"}


steps = st.lists(
    st.one_of(
        st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3), max_size=4),
        st.sampled_from(["etcd fails", "lease lost", "deleted", "restart", "wiped", "no news"]),
    ),
    max_size=12,
)


@given(steps, st.integers(0, 100))
def test_whatever_happens_etcd_has_in_the_end_what_there_is(plan: list[Any], seed: int) -> None:
    core = MemoryCore()
    node, now, wanted = Node(core, seed=seed), 0.0, {}
    node.registration.want(RECORD, {})
    for number, step in enumerate(plan):
        now += 1.0
        match step:
            case dict():
                wanted = {name: pod(name, version=version) for name, version in step.items()}
                node.registration.want(RECORD, wanted)
            case "etcd fails":
                node.hear(now)
                action = node.registration.next(now)
                if not isinstance(action, float):
                    node.registration.failed(StoreUnavailableError("away"), now)
                continue
            case "lease lost":
                now += 100.0
            case "deleted":
                for item in core.read(KeyRange(KEYS.pods()), now).items:
                    core.remove(item.key, now)
            case "restart":
                node = Node(core, seed=seed + number + 1)
                node.registration.want(RECORD, wanted)
            case "wiped":
                core.wipe()
                node.must_read = True
            case _:
                node.hear(now)
                node.settle(now, hearing=False)
                continue
        node.settle(now)
    for _ in range(40):
        now += registration.POD_SECONDS
        node.settle(now)
    assert names(node) == {"alive/n1", "nodes/n1", *(f"pods/n1/{name}" for name in wanted)}
    assert node.registration.missing() == 0


@pytest.mark.parametrize("size", [1, 100_000])
def test_no_transaction_is_larger_than_etcd_takes(size: int) -> None:
    node = Node(MemoryCore())
    large = {f"c{n}": {**pod("c"), "spec": {"x": "y" * size}} for n in range(150)}
    node.registration.want(RECORD, large)
    node.hear(0.0)
    for _ in range(500):
        action = node.registration.next(0.0)
        if isinstance(action, float):
            break
        if isinstance(action, Write):
            assert len(action.operations) <= 100
            assert sum(len(each.value) for each in action.operations if hasattr(each, "value")) < 1024 * 1024
        node.step(0.0)
        node.hear(0.0)
    assert node.registration.missing() == 0
