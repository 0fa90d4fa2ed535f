"""A follower and its mirror: what the one hears, the other shows."""

from __future__ import annotations

from random import Random

import pytest

from overlay.errors import StoreUnavailableError
from overlay.store.contract import Event, Events, KeyRange, KeyValue, Snapshot
from overlay.store.follower import Read, Watch
from overlay.store.mirror import Mirror
from overlay.store.mirror_follower import MirrorFollower

KEY = KeyValue("/a/1", b"one", 5)


class Noting(MirrorFollower[Mirror]):
    """One that notes what it is told has changed."""

    def __init__(self) -> None:
        super().__init__(KeyRange("/a/"), Mirror(), Random(1))
        self.noted: list[tuple[set[str], bool]] = []

    def _mirrored(self, changed: set[str], batch: Events | None) -> None:
        assert self.mirror.loaded, "after the mirror shows it"
        self.noted.append((changed, batch is not None))


@pytest.fixture
def follower() -> Noting:
    """One that has read, and whose watch stands."""
    made = Noting()
    assert isinstance(made.next_step(0.0), Read)
    made.loaded(Snapshot(7, (KEY,)), 1.0)
    assert made.next_step(1.0) == Watch(7)
    return made


def test_a_snapshot_is_mirrored_and_told(follower: Noting) -> None:
    assert dict(follower.mirror.items) == {KEY.key: KEY}
    assert follower.noted == [({KEY.key}, False)]


def test_nothing_heard_counts_before_the_past_is_proved(follower: Noting) -> None:
    recall = follower.recall()
    assert recall is not None
    assert (recall.revision, recall.keys) == (7, (KEY.key,))
    follower.proved(2.0)
    assert follower.recall() is None
    assert follower.connected


def test_what_is_heard_is_mirrored_and_told(follower: Noting) -> None:
    follower.proved(2.0)
    other = KeyValue("/a/2", b"two", 8)
    assert follower.heard(Events(8, (Event(other),)), 3.0)
    assert follower.mirror.items["/a/2"] == other
    assert follower.noted[-1] == ({"/a/2"}, True)
    assert follower.last_contact == 3.0


def test_what_a_store_says_that_has_gone_back_is_not(follower: Noting) -> None:
    follower.proved(2.0)
    assert not follower.heard(Events(6, (Event(KeyValue("/a/3", b"old", 9)),)), 3.0)
    assert "/a/3" not in follower.mirror.items
    assert len(follower.noted) == 1


def test_what_is_known_stays_while_the_store_is_away(follower: Noting) -> None:
    follower.proved(2.0)
    error = StoreUnavailableError("away", about="etcd")
    follower.lost(error, 3.0)
    assert follower.error is error
    assert not follower.connected
    assert dict(follower.mirror.items) == {KEY.key: KEY}
