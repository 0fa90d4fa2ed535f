"""The read-and-watch loop."""

from __future__ import annotations

from random import Random

import pytest

from overlay.errors import CompactedError, StoreRestoredError, StoreUnavailableError
from overlay.store.contract import Events, KeyValue, Recollection, Snapshot
from overlay.store.follower import MAX_RETRY, SPREAD, Follower, FollowPhase, Read, Watch
from overlay.store.recall import MARKS, Recall

GONE = StoreUnavailableError("no endpoint answered")


def items(count: int) -> tuple[KeyValue, ...]:
    return tuple(KeyValue(f"{number:05}", b"v", number + 1) for number in range(count))


def watching(revision: int = 10, size: int = 0, seed: int = 1) -> Follower:
    follower = Follower(Random(seed))
    assert follower.next(0.0) == Read()
    follower.loaded(Snapshot(revision, items(size)), 0.1)
    assert follower.next(0.1) == Watch(revision)
    follower.proved(0.1)
    return follower


def test_a_failed_first_read_is_tried_again() -> None:
    """flanneld: if the first list failed, peers were never learned."""
    follower = Follower(Random(1))
    assert follower.next(0.0) == Read()
    follower.failed(GONE, 5.0)
    due = follower.next(5.0)
    assert isinstance(due, float)
    assert 5.0 < due <= 5.0 + MAX_RETRY
    assert follower.error is GONE
    assert follower.next(due) == Read()
    follower.loaded(Snapshot(3, ()), due)
    assert follower.error is None


def test_a_watch_counts_only_once_the_past_is_proved() -> None:
    follower = Follower(Random(1))
    follower.next(0.0)
    follower.loaded(Snapshot(10, ()), 0.1)
    connected = [follower.connected]
    assert follower.next(0.1) == Watch(10)
    assert follower.phase is FollowPhase.PROVING
    follower.failed(GONE, 0.2)
    connected.append(follower.connected)
    due = follower.next(0.2)
    assert isinstance(due, float)
    assert follower.next(due) == Watch(10), "what was read is still of use"
    connected.append(follower.connected)
    follower.proved(due)
    assert [*connected, follower.connected] == [True, False, False, True]
    assert follower.error is None


def test_compaction_means_reading_again_at_once() -> None:
    follower = watching()
    follower.failed(CompactedError(50), 20.0)
    assert follower.next(20.0) == Read()
    assert follower.error is None


def test_compaction_again_and_again_does_not_spin() -> None:
    follower = watching()
    moment, waits = 1.0, []
    for _ in range(20):
        follower.failed(CompactedError(50), moment)
        step = follower.next(moment)
        if isinstance(step, float):
            waits.append(step - moment)
            moment = step
            assert follower.next(moment) == Read()
        follower.loaded(Snapshot(60, ()), moment)
        assert isinstance(follower.next(moment), Watch)
    assert len(waits) == 19
    assert max(waits) <= MAX_RETRY


@pytest.mark.parametrize("error", [CompactedError(50), StoreRestoredError(50)])
def test_the_followers_of_a_large_range_spread_before_they_read_it_again(error: CompactedError) -> None:
    """5,000 agents that all read 5,000 leases at one moment kept etcd from answering any of them."""
    waits = []
    for seed in range(200):
        follower = watching(size=1000, seed=seed)
        follower.failed(error, 20.0)
        step = follower.next(20.0)
        assert isinstance(step, float)
        waits.append(step - 20.0)
        assert follower.next(step) == Read()
    assert max(waits) <= 1000 * SPREAD
    assert sum(wait < 500 * SPREAD for wait in waits) in range(60, 140)


def test_hours_without_the_store_are_tried_at_a_bounded_pace() -> None:
    """flannel 1830, 2171: 200 % CPU after etcd is lost; and right within five seconds once it is back."""
    follower = watching()
    follower.failed(GONE, 1.0)
    moment, tries = 1.0, 0
    while moment < 3600:
        step = follower.next(moment)
        if isinstance(step, float):
            assert moment < step <= moment + MAX_RETRY
            moment = step
        else:
            tries += 1
            follower.failed(GONE, moment)
    assert 3600 / MAX_RETRY <= tries <= 2 * 3600 / MAX_RETRY + 10


def test_after_a_broken_watch_it_watches_on_from_where_it_was() -> None:
    follower = watching()
    assert follower.heard(Events(17, ()), 5.0)
    follower.failed(GONE, 60.0)
    due = follower.next(60.0)
    assert isinstance(due, float)
    assert due <= 61.0
    assert follower.next(due) == Watch(17)


def test_a_past_that_is_not_ours_means_reading_again() -> None:
    """A store restored from a backup may have reached our revision again with another history."""
    follower = watching()
    follower.failed(GONE, 60.0)
    due = follower.next(60.0)
    assert isinstance(due, float)
    assert follower.next(due) == Watch(10)
    follower.failed(StoreRestoredError(), due)
    step = follower.next(due)
    assert isinstance(step, float), "it is not the first failure in a row"
    assert follower.next(step) == Read()


@pytest.mark.parametrize("proved", [False, True])
def test_a_watch_that_breaks_just_as_a_new_snapshot_is_asked_for(proved: bool) -> None:
    """The watch's end was on its way already when it was ended for the new read: it is no reason to end the agent."""
    follower = watching()
    if not proved:
        follower.failed(GONE, 10.0)
        due = follower.next(10.0)
        assert isinstance(due, float)
        follower.next(due)
    follower.read_again(20.0)
    follower.failed(GONE, 20.0)
    assert follower.error is GONE
    due = follower.next(20.0)
    assert isinstance(due, float)
    assert follower.next(due) == Read()


def test_a_store_that_went_back_in_time_is_read_again() -> None:
    follower = watching(100)
    assert follower.heard(Events(101, ()), 1.0)
    assert not follower.heard(Events(100, ()), 2.0)
    assert follower.next(2.0) == Read()


@pytest.mark.parametrize("connected", [True, False])
def test_reading_again_on_request(connected: bool) -> None:
    follower = watching()
    if not connected:
        follower.failed(GONE, 1.0)
    follower.read_again(1.0)
    assert follower.phase is FollowPhase.DUE
    step = follower.next(1.0)
    if not connected:
        assert isinstance(step, float)
        step = follower.next(step)
    assert step == Read(), "to watch on would not serve"


def test_what_a_store_remembers_is_compared_with_what_we_know() -> None:
    known = items(3 * MARKS)
    recall = Recall.of(known, 500)
    assert (recall.revision, recall.count) == (500, 3 * MARKS)
    assert set(recall.marks) == set(known[-MARKS:])
    assert recall.keys == tuple(mark.key for mark in recall.marks)
    same = Recollection(recall.count, tuple(reversed(recall.marks)))
    assert recall.agrees(same)
    newest = known[-1]
    for answer in (
        Recollection(recall.count + 1, recall.marks),
        Recollection(recall.count, recall.marks[1:]),
        Recollection(recall.count, (KeyValue(newest.key, b"w", newest.mod_revision), *recall.marks[1:])),
        Recollection(recall.count, (KeyValue(newest.key, b"v", newest.mod_revision, 7), *recall.marks[1:])),
        Recollection(recall.count, (KeyValue(newest.key, b"v", newest.mod_revision - 1), *recall.marks[1:])),
    ):
        assert not recall.agrees(answer)
    assert Recall.of((), 1).agrees(Recollection(0, ()))
