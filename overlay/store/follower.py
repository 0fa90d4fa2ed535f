"""Following one range of the store: read it, watch on from there, and after an interruption watch on where it was.

Where a watch has ended the next one begins at the revision that was reached, and counts only once the store has proved
that it is still the past that we know (:mod:`overlay.store.recall`): a store restored from a backup, or empty, may have
reached that revision again with another history. Where it cannot prove that, for it is not so or was compacted, the
range is read again whole; a new read compared whole always tells. That costs the store ten times as much, and all
followers of a large cluster may come to it at once, so they spread.

Sans I/O: :meth:`Follower.next` says what to do, the other methods take what came of it. following.py does it for real,
the simulation on a faulty store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from random import Random

from overlay.errors import CompactedError, StoreError
from overlay.rates import Backoff
from overlay.store.contract import Events, KeyValue, Snapshot
from overlay.store.recall import Recall, as_it_is

FIRST_RETRY = 0.25
"""Seconds before the first new attempt; most interruptions are a server that restarts."""

MAX_RETRY = 4.0
"""Longest wait in seconds: peers must be right within 5 s after the store is back."""

STABLE_AFTER = 5.0
"""Seconds that a watch must have lasted before its end counts as a first failure again."""

SPREAD = 0.005
"""Seconds, for each key of the range, over which followers spread that have to read it again: each key is some agent's,
as a rule, and all of them may have to. A member of etcd answers some 200 reads of 5,000 keys a second (measured: 144 of
3.4.23 on one core), so 5,000 agents are through within 25 s, and 100 within half a second."""


class FollowPhase(Enum):
    """Where a follower is."""

    DUE = "has to read, or to watch, now or when its wait is over"
    READING = "has asked for a snapshot"
    PROVING = "has asked for a watch, and for a proof that it goes on from what is known"
    WATCHING = "hears of every change"


FOLLOW_TRANSITIONS = {
    FollowPhase.DUE: {FollowPhase.READING, FollowPhase.PROVING},
    FollowPhase.READING: {FollowPhase.DUE},
    FollowPhase.PROVING: {FollowPhase.WATCHING, FollowPhase.DUE},
    FollowPhase.WATCHING: {FollowPhase.DUE},
}


@dataclass(frozen=True, slots=True)
class Read:
    """Take a snapshot of the range."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Hear of every change after revision ``after``, once it is proved that what is known is the store's past."""

    after: int


class Follower:
    """One range's read-and-watch loop, as a state machine.

    Attributes:
        phase: see FollowPhase.
        connected: whether all is known as it is and every change is being heard of, as far as one can know.
        revision: of the store, that every change up to is known.
        asked_at: when the newest snapshot was asked for.
        error: why the range is not being followed; None while all is well.
        last_contact: when the store last answered anything (the caller's clock); None: never.
    """

    def __init__(self, rng: Random) -> None:
        self.phase = FollowPhase.DUE
        self.connected = False
        self.revision = 0
        self.asked_at = 0.0
        self.error: StoreError | None = None
        self.last_contact: float | None = None
        self._rng = rng
        self._backoff = Backoff(FIRST_RETRY, MAX_RETRY, rng)
        self._due = 0.0
        self._known = False
        self._size = 0
        self._watching_since = 0.0

    def next(self, now: float) -> Read | Watch | float:
        """What to do: read, watch, or nothing before the time that is returned."""
        assert self.phase is FollowPhase.DUE, f"asked what to do while it {self.phase.value}"
        if now < self._due:
            return self._due
        if self._known:
            self._enter(FollowPhase.PROVING)
            return Watch(self.revision)
        self.asked_at = now
        self._enter(FollowPhase.READING)
        return Read()

    def loaded(self, snapshot: Snapshot, now: float) -> None:
        """The read was answered."""
        self._answered(now)
        self.revision = snapshot.revision
        self._known = True
        self._size = len(snapshot.items)
        self._due = now
        self._enter(FollowPhase.DUE)

    def recall(self, known: Collection[KeyValue], kept: Callable[[KeyValue], KeyValue] = as_it_is) -> Recall | None:
        """What of all that is ``known`` the store must remember before a watch counts; None once it has proved that.

        Args:
            kept: see :class:`~overlay.store.recall.Recall`.
        """
        return Recall.of(known, self.revision, kept) if self.phase is FollowPhase.PROVING else None

    def proved(self, now: float) -> None:
        """The watch stands, and goes on from what is known."""
        self._answered(now)
        self._watching_since = now
        self._enter(FollowPhase.WATCHING)

    def heard(self, batch: Events, now: float) -> bool:
        """The watch, proved, brought a batch, or an empty sign of life.

        Returns:
            False if the store has gone back in time: the batch means nothing, the caller ends the watch and asks
            :meth:`next`, which reads again.
        """
        assert self.phase is not FollowPhase.PROVING, "what is heard counts once the past is proved"
        self.last_contact = now
        if now - self._watching_since >= STABLE_AFTER:
            self._backoff.reset()
        if batch.revision < self.revision:
            self.read_again(now)
            return False
        self.revision = batch.revision
        return True

    def failed(self, error: StoreError, now: float) -> None:
        """Read, watch or proof failed, or the watch ended, maybe just when someone asked for a new snapshot.

        Compaction is an answer, and so is that the store was restored: what is known is of no use any more, and the
        range is read again, by every follower of a large one at a time of its own.
        """
        if self.phase is FollowPhase.WATCHING and now - self._watching_since >= STABLE_AFTER:
            self._backoff.reset()
        again = self._backoff.failures > 0
        wait = self._backoff.next()
        if isinstance(error, CompactedError):
            self.last_contact = now
            wait = (wait if again else 0.0) + self._size * SPREAD * self._rng.random()
            self._known = False
        else:
            self.error = error
        self._interrupt(now + wait)

    def read_again(self, now: float) -> None:
        """Someone needs a snapshot asked for after this moment; the caller ends a running watch.

        While the store is failing the wait goes on.
        """
        if self.phase is FollowPhase.READING:
            return
        self._known = False
        if self.phase is not FollowPhase.DUE:
            self._interrupt(now)

    def _answered(self, now: float) -> None:
        self.error = None
        self.last_contact = now
        self.connected = True

    def _interrupt(self, due: float) -> None:
        self.connected = False
        self._due = due
        if self.phase is not FollowPhase.DUE:
            self._enter(FollowPhase.DUE)

    def _enter(self, phase: FollowPhase) -> None:
        assert phase in FOLLOW_TRANSITIONS[self.phase], (self.phase, phase)
        self.phase = phase
