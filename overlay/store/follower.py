"""Following one range of the store: read it, watch on from there, and after any trouble read it again.

A watch that broke is not resumed from its last revision: a store restored from a backup, or empty, may have reached
that revision again with another history, and nothing in the protocol tells. A new read compared whole always does.

Sans I/O: :meth:`Follower.next` says what to do, the other methods take what came of it. following.py does it for real,
the simulation on a faulty store.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random

from overlay.errors import CompactedError, StoreError
from overlay.rates import Backoff
from overlay.store.contract import Events, Snapshot

FIRST_RETRY = 0.25
"""Seconds before the first new attempt; most interruptions are a server that restarts."""

MAX_RETRY = 4.0
"""Longest wait in seconds: peers must be right within 5 s after the store is back."""

STABLE_AFTER = 5.0
"""Seconds that a watch must have lasted before its end counts as a first failure again."""


PROMPT = 1.0
"""Seconds after which a read's answer is too old to watch on from: the store may have been restored meanwhile, and have
reached that revision again with another history. It is used, and the range is read again. Each time that this happens
in a row the limit doubles, so that a store that is merely slow is followed too."""


class FollowPhase(Enum):
    """Where a follower is."""

    DUE = "has to read, now or when its wait is over"
    READING = "has asked for a snapshot"
    LOADED = "has a snapshot and has to watch on from it"
    WATCHING = "hears of every change"


FOLLOW_TRANSITIONS = {
    FollowPhase.DUE: {FollowPhase.READING},
    FollowPhase.READING: {FollowPhase.LOADED, FollowPhase.DUE},
    FollowPhase.LOADED: {FollowPhase.WATCHING, FollowPhase.DUE},
    FollowPhase.WATCHING: {FollowPhase.DUE},
}


@dataclass(frozen=True, slots=True)
class Read:
    """Take a snapshot of the range."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Hear of every change after revision ``after``."""

    after: int


class Follower:
    """One range's read-and-watch loop, as a state machine.

    Attributes:
        phase: see FollowPhase.
        error: why the range is not being followed; None while all is well.
        last_contact: when the store last answered anything (the caller's clock); None: never.
    """

    def __init__(self, rng: Random) -> None:
        self.phase = FollowPhase.DUE
        self.error: StoreError | None = None
        self.last_contact: float | None = None
        self._backoff = Backoff(FIRST_RETRY, MAX_RETRY, rng)
        self._due = 0.0
        self._asked_at = 0.0
        self._revision = 0
        self._watching_since = 0.0
        self._prompt = PROMPT

    @property
    def connected(self) -> bool:
        """Whether a snapshot was taken and every change since has been heard of, as far as one can know."""
        return self.phase in (FollowPhase.LOADED, FollowPhase.WATCHING)

    @property
    def asked_at(self) -> float:
        """When the newest snapshot was asked for."""
        return self._asked_at

    def next(self, now: float) -> Read | Watch | float:
        """What to do: read, watch, or nothing before the time that is returned."""
        if self.phase is FollowPhase.DUE:
            if now < self._due:
                return self._due
            self._asked_at = now
            self._enter(FollowPhase.READING)
            return Read()
        if self.phase is FollowPhase.LOADED:
            self._watching_since = now
            self._enter(FollowPhase.WATCHING)
            return Watch(self._revision)
        raise AssertionError(f"asked what to do while {self.phase.value}")

    def loaded(self, snapshot: Snapshot, now: float) -> None:
        """The read was answered."""
        self.error = None
        self.last_contact = now
        self._revision = snapshot.revision
        if now - self._asked_at > self._prompt:
            self._prompt *= 2
            self._due = now
            self._enter(FollowPhase.DUE)
        else:
            self._prompt = PROMPT
            self._enter(FollowPhase.LOADED)

    def heard(self, batch: Events, now: float) -> bool:
        """The watch brought a batch, or an empty sign of life.

        Returns:
            False if the store has gone back in time: the batch means nothing, the caller ends the watch and asks
            :meth:`next`, which reads again.
        """
        self.last_contact = now
        if now - self._watching_since >= STABLE_AFTER:
            self._backoff.reset()
        if batch.revision < self._revision:
            self.read_again(now)
            return False
        self._revision = batch.revision
        return True

    def failed(self, error: StoreError, now: float) -> None:
        """The read failed, or the watch ended, maybe just when someone asked for a new snapshot.

        Compaction is an answer: the range is read again at once.
        """
        if self.phase is FollowPhase.WATCHING and now - self._watching_since >= STABLE_AFTER:
            self._backoff.reset()
        first_compaction = isinstance(error, CompactedError) and self._backoff.failures == 0
        wait = self._backoff.next()
        if isinstance(error, CompactedError):
            self.last_contact = now
        else:
            self.error = error
        self._due = now if first_compaction else now + wait
        if self.phase is not FollowPhase.DUE:
            self._enter(FollowPhase.DUE)

    def read_again(self, now: float) -> None:
        """Someone needs a snapshot asked for after this moment; the caller ends a running watch.

        While the store is failing the wait goes on: the next read serves as well.
        """
        if self.phase in (FollowPhase.LOADED, FollowPhase.WATCHING):
            self._due = now
            self._enter(FollowPhase.DUE)

    def _enter(self, phase: FollowPhase) -> None:
        assert phase in FOLLOW_TRANSITIONS[self.phase], (self.phase, phase)
        self.phase = phase
