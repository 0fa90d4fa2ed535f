"""A :class:`~overlay.store.follower.Follower` and the mirror that it feeds, to be driven by a Following."""

from __future__ import annotations

from random import Random
from typing import Generic, TypeVar

from overlay.errors import StoreError
from overlay.store.contract import Events, KeyRange, Snapshot
from overlay.store.follower import Follower, Read, Watch
from overlay.store.mirror import Mirror
from overlay.store.recall import Recall

M = TypeVar("M", bound=Mirror)


class MirrorFollower(Generic[M]):
    """Follows one range for a mirror; a :class:`~overlay.store.following.Follows`.

    Attributes:
        span: the range.
        mirror: what is known of it.
    """

    def __init__(self, span: KeyRange, mirror: M, rng: Random) -> None:
        self.span = span
        self.mirror = mirror
        self._follower = Follower(rng)

    @property
    def error(self) -> StoreError | None:
        """Why the store is not being followed; None while it is."""
        return self._follower.error

    @property
    def connected(self) -> bool:
        """Whether every change is being heard of, as far as one can know."""
        return self._follower.connected

    @property
    def last_contact(self) -> float | None:
        """When the store last answered; None: never."""
        return self._follower.last_contact

    def next_step(self, now: float) -> Read | Watch | float:
        """See :class:`~overlay.store.following.Follows`."""
        return self._follower.next(now)

    def loaded(self, snapshot: Snapshot, now: float) -> None:
        """See :class:`~overlay.store.following.Follows`."""
        self._follower.loaded(snapshot, now)
        self._mirrored(self.mirror.load(snapshot, self._follower.asked_at), None)

    def recall(self) -> Recall | None:
        """See :class:`~overlay.store.following.Follows`. The store's answer is compared as the mirror keeps it."""
        return self._follower.recall(self.mirror.items.values(), self.mirror.kept)

    def proved(self, now: float) -> None:
        """See :class:`~overlay.store.following.Follows`."""
        self._follower.proved(now)

    def heard(self, batch: Events, now: float) -> bool:
        """See :class:`~overlay.store.following.Follows`."""
        if not self._follower.heard(batch, now):
            return False
        self._mirrored(self.mirror.apply(batch), batch)
        return True

    def lost(self, error: StoreError, now: float) -> None:
        """See :class:`~overlay.store.following.Follows`."""
        self._follower.failed(error, now)

    def _mirrored(self, changed: set[str], batch: Events | None) -> None:
        """These keys changed, by a batch or by a whole snapshot; the mirror shows it."""
