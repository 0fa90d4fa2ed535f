"""The read-and-watch loop."""

from __future__ import annotations

from random import Random

import pytest

from overlay.errors import CompactedError, StoreUnavailableError
from overlay.store.contract import Events, Snapshot
from overlay.store.follower import MAX_RETRY, Follower, FollowPhase, Read, Watch

GONE = StoreUnavailableError("no endpoint answered")


def watching(revision: int = 10) -> Follower:
    follower = Follower(Random(1))
    assert follower.next(0.0) == Read()
    follower.loaded(Snapshot(revision, ()), 0.1)
    assert follower.next(0.1) == Watch(revision)
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


def test_an_answer_that_was_long_on_its_way_is_no_ground_to_watch_from() -> None:
    """The store may have gone back and forth meanwhile; a store that is merely slow is followed all the same."""
    follower = Follower(Random(1))
    moment, reads = 0.0, 0
    while (step := follower.next(moment)) == Read():
        reads += 1
        moment += 3.0
        follower.loaded(Snapshot(10 + reads, ()), moment)
    assert (reads, step) == (3, Watch(13))
    follower.failed(CompactedError(50), moment + 20.0)
    assert follower.next(moment + 20.0) == Read()
    follower.loaded(Snapshot(60, ()), moment + 22.0)
    assert follower.next(moment + 22.0) == Read(), "the limit is what it was"


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


def test_after_a_broken_watch_everything_is_read_again() -> None:
    """A store restored from a backup may have reached our revision again with another history."""
    follower = watching()
    follower.failed(GONE, 60.0)
    due = follower.next(60.0)
    assert isinstance(due, float)
    assert follower.next(due) == Read()


def test_a_watch_that_breaks_just_as_a_new_snapshot_is_asked_for() -> None:
    """The watch's end was on its way already when it was ended for the new read: it is no reason to end the agent."""
    follower = watching()
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
    assert (follower.next(1.0) == Read()) is connected
