"""Where the keeper of a lease is, what it holds, what it may ask for, and what it waits to see."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network

from overlay.control.leases.view import LeaseView
from overlay.model import Lease
from overlay.store.contract import NO_LEASE, Compare, Delete, Put
from overlay.store.session import Grant, Refresh


class Phase(Enum):
    """Where the keeper is."""

    WAITING = "has no config or no snapshot yet"
    SEEKING = "has no subnet and chooses one"
    EXHAUSTED = "out of subnets, until one becomes free"
    CLAIMING = "has asked the store for a subnet"
    CONFIRMING = "has written its lease, until the view shows that nothing overlaps it"
    HELD = "has its subnet"
    RECLAIMING = "its key or etcd lease is gone; the same subnet is taken again"
    RELEASING = "gives its subnet back"
    RELEASED = "has given it back"


TRANSITIONS = {
    Phase.WAITING: {Phase.SEEKING, Phase.RELEASING},
    Phase.SEEKING: {Phase.EXHAUSTED, Phase.CLAIMING, Phase.HELD, Phase.RELEASING},
    Phase.EXHAUSTED: {Phase.SEEKING, Phase.RELEASING},
    Phase.CLAIMING: {Phase.CONFIRMING, Phase.SEEKING, Phase.RECLAIMING, Phase.RELEASING},
    Phase.CONFIRMING: {Phase.HELD, Phase.SEEKING, Phase.RECLAIMING, Phase.RELEASING},
    Phase.HELD: {Phase.RECLAIMING, Phase.SEEKING, Phase.RELEASING},
    Phase.RECLAIMING: {Phase.CLAIMING, Phase.HELD, Phase.SEEKING, Phase.RELEASING},
    Phase.RELEASING: {Phase.RELEASED},
    Phase.RELEASED: set[Phase](),
}


class Purpose(Enum):
    """What a transaction is for."""

    CLAIM = "take a subnet"
    REPAIR = "put our own lease right"
    SWEEP = "delete a stray lease of ours"
    ASK = "ask whether the owner of a lease like ours lives"
    RELEASE = "give our subnet back"


@dataclass(frozen=True, slots=True)
class Commit:
    """Carry out one guarded transaction."""

    purpose: Purpose
    compares: tuple[Compare, ...]
    operations: tuple[Put | Delete, ...]


@dataclass(frozen=True, slots=True)
class Revoke:
    """End our etcd lease."""

    lease_id: int


@dataclass(frozen=True, slots=True)
class ReadAgain:
    """Have the follower take a new snapshot. Needs no answer: the view shows it."""


Action = Grant | Refresh | Commit | Revoke | ReadAgain


@dataclass(frozen=True, slots=True)
class Held:
    """Our lease, as far as we know.

    Attributes:
        valid_until: no other node can have leased the subnet before this moment of the keeper's clock; infinite for a
            reservation. In the past while the store is away for longer than the TTL or the lease is being taken
            again; the subnet is still used then.
    """

    lease: Lease
    key: str
    mod_revision: int
    etcd_lease_id: int
    valid_until: float

    @property
    def subnet(self) -> IPv4Network:
        """The subnet that is ours."""
        return self.lease.subnet

    @property
    def reserved(self) -> bool:
        """Whether it is permanent."""
        return self.etcd_lease_id == NO_LEASE


@dataclass(slots=True)
class Awaited:
    """What the view has to show before the next decision: a revision, and why comparisons failed, or a new snapshot."""

    epoch: int
    since: float
    read_at: float
    revision: int | None = None
    failed: tuple[Compare, ...] = ()

    def is_shown(self, view: LeaseView) -> bool:
        """Whether it has."""
        if view.epoch != self.epoch or (view.loaded_at is not None and view.loaded_at > self.since):
            return True
        if self.revision is None:
            return False
        if self.failed:
            return all(view.mod_revision(c.key) != c.mod_revision for c in self.failed)
        return view.revision >= self.revision
