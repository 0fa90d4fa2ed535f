"""Who writes the records and what: driven against a store in memory."""

from __future__ import annotations

from random import Random

import pytest

from overlay.errors import LeaseNotFoundError, StoreError, StoreUnavailableError
from overlay.services.keys import Keys
from overlay.services.mirror import ServicesMirror
from overlay.services.skydns import publication
from overlay.services.skydns.publication import Publication, Read, Write
from overlay.services.skydns.wanted import Wanted
from overlay.store.contract import Committed, Delete, KeyRange, Put, Snapshot
from overlay.store.session import Grant, Refresh
from tests.support.memory_store import MemoryCore

KEYS = Keys()
ALL, RECORDS = KeyRange(KEYS.root), KeyRange("/skydns/")
RECORD_OF = {f"/skydns/local/cluster/svc/default/s{number}": b"v%d" % number for number in range(3)}


class Node:
    """One that publishes, on a store that others may be on as well."""

    def __init__(
        self, core: MemoryCore, name: str, wants: dict[str, bytes] | None = None, *, prefix: str = "/skydns",
        pods: bool = True,
    ) -> None:  # fmt: skip
        self.core, self.name = core, name
        self.wants = RECORD_OF if wants is None else wants
        self.mirror = ServicesMirror(KEYS)
        self.publication = Publication(self.mirror, Random(name), node=name, prefix=prefix, pods=pods)
        self.writes: list[Put | Delete] = []
        self.reads = 0

    def alive(self, now: float, lives: bool = True) -> None:
        key = KEYS.alive(self.name)
        self.core.commit((), (Put(key, b"id") if lives else Delete(key),), now)

    def step(self, now: float) -> float | None:
        self.core.expire(now)
        self.mirror.load(self.core.read(ALL, now), now)
        if self.publication.writes:
            self.publication.wanted.put((0, "", ""), self.wants)
        else:
            self.publication.wanted.clear()
        action = self.publication.next(now)
        result: Snapshot | Committed | int | None = None
        try:
            match action:
                case float():
                    return action
                case Grant(lease_id, ttl):
                    self.core.grant(lease_id, ttl, now)
                case Refresh(lease_id):
                    result = self.core.refresh(lease_id, now)
                case Read(span):
                    self.reads += 1
                    result = self.core.read(span, now)
                case Write(compares, operations):
                    assert len(compares) <= 128
                    assert len(operations) <= publication.BATCH
                    result = self.core.commit(compares, operations, now)
                    self.writes += operations if result.succeeded else ()
        except LeaseNotFoundError as error:
            self.publication.failed(error, now)
            return None
        self.publication.completed(result, now)
        return None

    def settle(self, now: float) -> float:
        for _ in range(100):
            if (due := self.step(now)) is not None:
                return due
        raise AssertionError("never at rest")

    def error(self) -> StoreError | None:
        return self.publication.error

    def written(self) -> list[str]:
        found, self.writes = [each.key for each in self.writes if each.key.startswith("/skydns/")], []
        return found


def there(core: MemoryCore, now: float) -> dict[str, bytes]:
    core.expire(now)
    return {kv.key: kv.value for kv in core.read(RECORDS, now).items}


@pytest.fixture
def core() -> MemoryCore:
    return MemoryCore()


def two(core: MemoryCore) -> tuple[Node, Node]:
    nodes = Node(core, "n1"), Node(core, "n2")
    for node in nodes:
        node.alive(0)
        node.settle(0)
    return nodes


def test_one_node_writes_all_and_then_nothing(core: MemoryCore) -> None:
    first, second = two(core)
    assert there(core, 0) == RECORD_OF
    assert sorted(first.written()) == sorted(RECORD_OF)
    for now in range(0, 300, 5):
        first.settle(now)
        second.settle(now)
    assert first.written() == second.written() == []
    assert (first.publication.writes, second.publication.writes) == (True, False)
    assert second.publication.writer == "n1"
    assert second.reads == 0


def test_who_would_write_something_else_says_so(core: MemoryCore) -> None:
    first, second = two(core)
    other, without = Node(core, "n3", {}, prefix="/other"), Node(core, "n4", {}, pods=False)
    for node in (first, second, other, without):
        node.alive(0)
        node.settle(0)
    assert first.publication.difference == second.publication.difference == ""
    told = "n1 writes /skydns with pods, this node would write"
    assert other.publication.difference == f"{told} /other with pods"
    assert without.publication.difference == f"{told} /skydns without pods"
    assert (other.publication.writer, other.publication.writes) == ("n1", False)
    first.alive(1, lives=False)
    other.settle(1)
    second.settle(1)
    assert other.publication.writes
    assert second.publication.difference == "n3 writes /other with pods, this node would write /skydns with pods"


def test_a_writer_started_anew_says_what_it_writes_now(core: MemoryCore) -> None:
    _, second = two(core)
    again = Node(core, "n1", {}, prefix="/other")
    again.settle(1)
    second.settle(1)
    assert second.publication.writer == "n1"
    assert "/other" in second.publication.difference


def test_a_writer_of_before_stays_and_says_nothing(core: MemoryCore) -> None:
    first, second = two(core)
    (held,) = core.read(KeyRange(KEYS.publisher("skydns")), 1).items
    core.commit((), (Put(held.key, b"n1", held.lease_id),), 1)
    second.settle(1)
    assert (second.publication.writer, second.publication.difference) == ("n1", "")
    first.settle(1)
    assert first.publication.writes


def test_only_what_differs_is_written(core: MemoryCore) -> None:
    first, _ = two(core)
    first.written()
    s0, s1, s2 = sorted(RECORD_OF)
    first.wants = {s0: RECORD_OF[s0], s1: b"other", "/skydns/new": b"n"}
    first.settle(1)
    assert sorted(first.written()) == sorted([s1, s2, "/skydns/new"])
    assert there(core, 1) == first.wants


def test_the_next_one_takes_over_and_nothing_is_away_meanwhile(core: MemoryCore) -> None:
    first, second = two(core)
    first.alive(1, lives=False)
    for now in range(1, 200, 5):
        second.settle(now)
        assert there(core, now) == RECORD_OF
    assert second.publication.writes
    assert second.written() == []
    second.wants = {}
    second.settle(200)
    assert there(core, 200) == {}


def test_a_writer_that_was_cut_off_writes_no_more(core: MemoryCore) -> None:
    first, second = two(core)
    first.alive(1, lives=False)
    second.settle(1)
    first.publication.wanted.put((0, "", ""), {"/skydns/late": b"x"})  # its mirror knows of nothing yet
    action = first.publication.next(1)
    assert isinstance(action, Write)
    assert not core.commit(action.compares, action.operations, 1).succeeded
    assert there(core, 1) == RECORD_OF


def test_who_takes_a_writer_for_gone_that_is_not_does_not_take_over(core: MemoryCore) -> None:
    first, second = two(core)
    first.alive(1, lives=False)
    second.mirror.load(core.read(ALL, 1), 1)
    first.alive(1)
    action = second.publication.next(1)
    assert isinstance(action, Write)
    assert not core.commit(action.compares, action.operations, 1).succeeded


def test_of_two_that_begin_at_once_both_keep_the_one_lease(core: MemoryCore) -> None:
    first, second = Node(core, "n1"), Node(core, "n2")
    for now in (0, *range(0, 300, 5)):
        for node in (first, second):
            if now == 0:
                node.alive(0)
                node.step(0)  # each has granted a lease of its own
            else:
                node.settle(now)
    assert [len(node.written()) for node in (first, second)] == [len(RECORD_OF), 0]
    first.alive(300, lives=False)
    for now in range(300, 500, 5):
        second.settle(now)
        assert there(core, now) == RECORD_OF


def test_records_go_with_the_last_node(core: MemoryCore) -> None:
    two(core)
    assert there(core, publication.TTL - 1) == RECORD_OF
    assert there(core, publication.TTL + 1) == {}


def test_what_others_have_written_stays(core: MemoryCore) -> None:
    s0, *_ = RECORD_OF
    others = {s0: b"theirs", "/skydns/com/example/www": b"theirs too"}
    core.commit((), [Put(key, value) for key, value in others.items()], 0)
    first, _ = two(core)
    assert there(core, 0) == RECORD_OF | others
    assert first.publication.refused == [s0]
    first.wants = {}
    first.settle(1)
    assert there(core, 1) == others
    first.wants = RECORD_OF
    core.commit((), (Delete(s0),), 2)
    for now in (2, 2 + publication.READ_SECONDS):  # by then it has been read again
        first.settle(now)
        core.renew_all(now)
    assert there(core, 2 + publication.READ_SECONDS)[s0] == RECORD_OF[s0]
    assert first.publication.refused == []


def test_what_others_do_to_our_records_is_undone(core: MemoryCore) -> None:
    first, _ = two(core)
    s0, s1, _ = sorted(RECORD_OF)
    core.commit((), (Delete(s0),), 1)
    first.settle(publication.READ_SECONDS)
    assert there(core, publication.READ_SECONDS) == RECORD_OF
    core.commit((), (Delete(s1),), 61)
    first.wants = {**RECORD_OF, s1: b"new"}  # what it is written over is not what was read
    first.settle(61)
    first.settle(66)
    assert there(core, 66) == first.wants


def test_a_record_that_somebody_took_since_it_was_read_is_left_to_them(core: MemoryCore) -> None:
    first, _ = two(core)
    s0, *_ = RECORD_OF
    core.commit((), (Put(s0, b"theirs"), Put("/skydns/new", b"theirs")), 1)
    first.wants = {s0: b"ours now", "/skydns/new": b"ours"}
    for now in range(1, 10):
        first.settle(now)
    assert there(core, 10) == {s0: b"theirs", "/skydns/new": b"theirs"}
    assert first.publication.refused == sorted([s0, "/skydns/new"])


def test_a_lease_that_was_lost_is_replaced(core: MemoryCore) -> None:
    first, second = two(core)
    (lease,) = {kv.lease_id for kv in core.read(RECORDS, 0).items}
    core.revoke(lease, 1)
    for now in range(1, 60, 5):
        first.settle(now)
        second.settle(now)
    assert there(core, 60) == RECORD_OF
    assert len({kv.lease_id for kv in core.read(RECORDS, 60).items}) == 1
    assert first.publication.writes != second.publication.writes


def test_many_records_are_written_in_bounded_transactions(core: MemoryCore) -> None:
    many = {f"/skydns/a/{number}": b"v" for number in range(publication.BATCH * 3 + 1)}
    node = Node(core, "n1", many)
    node.alive(0)
    node.settle(0)
    assert there(core, 0) == many


def test_after_a_failure_what_there_is_is_read_again(core: MemoryCore) -> None:
    first, _ = two(core)
    reads = first.reads
    first.wants = {}
    first.publication.wanted.put((0, "", ""), {})
    assert isinstance(first.publication.next(1), Write)
    first.publication.failed(StoreUnavailableError("no answer"), 1)
    assert isinstance(first.error(), StoreUnavailableError)
    due = first.settle(1)
    assert due > 1
    first.settle(due)
    assert first.reads == reads + 1
    assert first.error() is None
    assert there(core, due) == {}


def test_of_two_that_want_one_key_the_least_has_it() -> None:
    wanted = Wanted()
    wanted.put((2, "b", "b"), {"k": b"2"})
    wanted.put((1, "c", "c"), {"k": b"1", "other": b"1"})
    assert wanted.value("k") == b"1"
    wanted.changed.clear()
    wanted.put((1, "c", "c"), {})
    assert wanted.value("k") == b"2"
    assert set(wanted.changed) == {"k", "other"}
    wanted.put((2, "b", "b"), {"k": b"2"})
    wanted.put((2, "b", "b"), {})
    assert (len(wanted), wanted.value("k")) == (0, None)
