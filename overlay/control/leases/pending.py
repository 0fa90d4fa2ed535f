"""The one action that is under way, and what has to be waited for before the next: an answer, a pause, the view.

After a write nothing is decided before the view shows it; after one whose outcome is unknown, nothing before a snapshot
that was asked for later. Pure: it takes ``now``, in seconds of the caller's clock.
"""

from __future__ import annotations

import math
from random import Random

from overlay.control.leases.state import Action, Awaited, Commit, ReadAgain
from overlay.control.leases.view import LeaseView
from overlay.errors import LeaseNotFoundError, StoreError
from overlay.rates import Backoff
from overlay.store.contract import ABSENT, Committed

FIRST_RETRY = 1.0
"""Seconds before the first new attempt after a failed action."""

MAX_RETRY = 30.0
"""Longest wait in seconds between two attempts; a store that is back is noticed by the follower before."""

READ_AGAIN_AFTER = 1.0
"""Seconds that the watch gets to show what an answer spoke of, before the range is read again."""

NEVER = math.inf


class Pending:
    """What is under way for one keeper.

    Attributes:
        error: why the last action failed; None after one that did not.
        failed_at: when an action failed last.
        retry_at: before which nothing is begun.
    """

    def __init__(self, view: LeaseView, rng: Random) -> None:
        self.error: StoreError | None = None
        self.failed_at = -math.inf
        self.retry_at = 0.0
        self._view = view
        self._backoff = Backoff(FIRST_RETRY, MAX_RETRY, rng)
        self._action: Action | None = None
        self._awaited: Awaited | None = None

    def until(self, now: float) -> float:
        """When something may be decided: never while an action is under way, and ``now`` where nothing stands in the
        way."""
        return NEVER if self._action is not None else max(now, self.retry_at)

    def decided(self, what: Action | float) -> None:
        """That is done next, or there is nothing to do until then."""
        if isinstance(what, float):
            if self._awaited is None:
                self.error = None  # what failed has happened after all, or is not wanted any more
        elif not isinstance(what, ReadAgain):
            self._action = what

    def unseen(self, now: float) -> ReadAgain | float | None:
        """What there is to do until the view shows what became of the last write; None once it has."""
        awaited = self._awaited
        if awaited is None or awaited.is_shown(self._view):
            self._awaited = None
            return None
        if now < awaited.read_at:
            return awaited.read_at
        awaited.read_at = now + READ_AGAIN_AFTER
        return ReadAgain()

    def completed(self) -> Action | None:
        """The action was carried out; returns which one that was."""
        action, self._action = self._action, None
        self.error = None
        return action

    def works(self) -> None:
        """What failed before works again: the next failure is a first one."""
        self._backoff.reset()

    def answered(self, action: Commit, result: Committed, now: float) -> None:
        """A transaction was; the view has to show that, or, where it did not succeed, why."""
        wait = Awaited(self._view.epoch, since=now, read_at=now + READ_AGAIN_AFTER, revision=result.revision)
        self._awaited = wait
        if not result.succeeded:
            found = {item.key: item.mod_revision for item in result.current}
            wait.failed = tuple(c for c in action.compares if found.get(c.key, ABSENT) != c.mod_revision)
            if not wait.failed:  # right revisions, other values: the store was restored, and the view is of before
                wait.revision = None

    def failed(self, error: StoreError, now: float) -> None:
        """The action failed, or nobody knows whether it did. One without its etcd lease may be tried again at once."""
        action, self._action = self._action, None
        wait = self._backoff.next()
        if isinstance(error, LeaseNotFoundError):
            if self._backoff.failures > 1:
                self.retry_at = now + wait
            return
        self.error, self.failed_at = error, now
        self.retry_at = now + wait
        if isinstance(action, Commit):
            self._awaited = Awaited(self._view.epoch, since=now, read_at=now)
