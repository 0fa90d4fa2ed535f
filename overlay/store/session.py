"""Our etcd lease: the one clock in the store that all our keys hang on.

Its id is ours to choose, at random, so that granting it twice is granting it once. How long it is surely alive is
counted from when a request was *sent*: the server can only have counted from later.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random

from overlay.store.contract import NO_LEASE

DEFAULT_TTL = 24 * 3600
"""Seconds, as flannel's leases (``subnetTTL`` in ``pkg/subnet/etcd/local_manager.go``)."""

DEFAULT_MARGIN = 3600.0
"""Seconds before its end by which a lease is renewed, as flannel's ``--subnet-lease-renew-margin`` of 60 minutes."""

MAX_REFRESH_INTERVAL = 300.0
"""Seconds between two refreshes at most, so that a lost lease shows within minutes however long its TTL is."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Make sure that there is an etcd lease of this id."""

    lease_id: int
    ttl: int


@dataclass(frozen=True, slots=True)
class Refresh:
    """Set the remaining time of our etcd lease to its TTL again."""

    lease_id: int


class SessionPhase(Enum):
    """What is known of the etcd lease."""

    NEW = "its id is chosen, it has to be granted"
    FOUND = "it was ours before, a refresh has to show whether it lives"
    LIVE = "it was granted or refreshed"


class Session:
    """When to grant and refresh our etcd lease, and until when it surely lives.

    Args:
        ttl: seconds that the lease lives without a refresh.
        margin: seconds before its end by which it must have been refreshed.
        lease_id: one that we had before, NO_LEASE for none.
    """

    def __init__(self, ttl: int, margin: float, rng: Random, lease_id: int = NO_LEASE) -> None:
        self.ttl = ttl
        self._interval = min(ttl / 3, ttl - margin if margin < ttl else ttl / 3, MAX_REFRESH_INTERVAL)
        self._rng = rng
        self.phase = SessionPhase.FOUND
        self.lease_id = lease_id
        self.valid_until = 0.0
        self.refresh_due = 0.0
        self._granting_since: float | None = None
        self._sent_at = 0.0
        if lease_id == NO_LEASE:
            self.replace()

    def replace(self) -> None:
        """Goes over to a new etcd lease; the old one is of no use any more."""
        self.lease_id = self._rng.randrange(1, 2**63)
        self.phase = SessionPhase.NEW
        self.valid_until = 0.0
        self._granting_since = None

    def action(self, now: float) -> Grant | Refresh | None:
        """What has to be done before anything may hang on the lease; None if it is live and not due for a refresh."""
        if self.phase is SessionPhase.LIVE and now < self.refresh_due:
            return None
        self._sent_at = now
        if self.phase is not SessionPhase.NEW:
            return Refresh(self.lease_id)
        if self._granting_since is not None and now >= self._granting_since + self.ttl / 2:
            self.replace()  # a grant whose answer was lost may be near its end already
        if self._granting_since is None:
            self._granting_since = now
        return Grant(self.lease_id, self.ttl)

    def granted(self) -> None:
        """The grant was answered. An earlier one may have made the lease, so its time counts from the first."""
        assert self._granting_since is not None
        self._live(self._granting_since, self.ttl)

    def refreshed(self, ttl: int) -> bool:
        """The refresh was answered with ``ttl`` seconds.

        Returns:
            False if there is no such lease any more, or if it is a found one of another TTL than ours should have;
            then a new one has taken its place here and has to be granted.
        """
        if ttl <= 0 or (self.phase is SessionPhase.FOUND and ttl != self.ttl):
            self.replace()
            return False
        self._live(self._sent_at, ttl)
        return True

    def _live(self, since: float, ttl: int) -> None:
        self.phase = SessionPhase.LIVE
        self.valid_until = since + ttl
        self.refresh_due = since + min(self._interval, ttl / 3) * (0.85 + 0.15 * self._rng.random())
