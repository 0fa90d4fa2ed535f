"""Another agent that goes by our node id and public address: what it writes under our name, and when to put it right.

A second agent on one host that shares prefix and id, or a clone behind the same public address, writes our key as its
own, or a second one. Neither can be told from us by what is written, so there is no loser: both keep the subnet, people
are told, and what each puts right the other undoes. Hence the pace, which slows down for as long as that goes on, and
with the number of rivals.

Pure, like all that decides.
"""

from __future__ import annotations

import math
from random import Random

from overlay.control.schema.lease import LeaseRecord
from overlay.problem import Problem
from overlay.rates import Backoff

FIRST_WAIT = 12.0
"""Seconds, or half of them, before the second time that something is put right; the first is at once, as it may be the
only one: a late write of a process of ours that has been killed."""

MAX_WAIT = 16.0
"""Seconds at most, for each rival: two that put right every 8 to 16 s make less than one write in 4 s."""

QUIET = 4.0
"""Seconds longer than a rival may wait for which nothing must have been written until it counts as gone."""

MAX_RIVALS = 64
"""Rivals that are told apart."""


class Rivals:
    """What others write under our name.

    Attributes:
        due: when something may be put right next.
    """

    def __init__(self, rng: Random) -> None:
        self.due = -math.inf
        self._backoff = Backoff(FIRST_WAIT, MAX_WAIT, rng)
        self._seen: dict[str, int] = {}
        self._etcd_leases: set[int] = set()
        self._count = 0
        self._hurried = False
        self._over_at = math.inf

    def notice(self, record: LeaseRecord, now: float, *, elsewhere: bool = False) -> None:
        """The view shows ``record``, which has our name and is not of our writing; ``elsewhere``: not at our key."""
        if self._seen.get(record.key) == record.mod_revision:
            return
        if len(self._seen) >= MAX_RIVALS:
            self._seen.clear()
        self._seen[record.key] = record.mod_revision
        if len(self._etcd_leases) < MAX_RIVALS:
            self._etcd_leases.add(record.lease_id)
        self._backoff.limit = MAX_WAIT * len(self._etcd_leases)
        self._count += 2 if elsewhere else 1
        if elsewhere or self._hurried:
            # The wait counts from now also where one was going on: of many rivals only those write that hear nothing.
            self.due = now + self._backoff.next()
        else:
            self._hurried, self.due = True, now
        self._over_at = now + 2 * self._backoff.limit + QUIET

    def took(self, record: LeaseRecord, now: float) -> None:
        """We have taken over ``record``, which has our name; whoever takes it back now is no killed process of ours."""
        self._seen[record.key] = record.mod_revision
        self._count = max(self._count, 1)
        self._over_at = now + MAX_WAIT + QUIET

    def settle(self, now: float) -> float:
        """Forgets rivals that have been quiet; returns when to ask again."""
        if now >= self._over_at:
            self._backoff.reset()
            self._seen.clear()
            self._etcd_leases.clear()
            self._count, self._hurried, self._over_at = 0, False, math.inf
        return self._over_at

    def problem(self, name: str, address: str) -> Problem | None:
        """What to tell people: that there is another, unless it may have been a process of ours that was killed."""
        if self._count < 2:
            return None
        return Problem(
            "rival",
            f"another agent goes by node id {name} and public IP {address}, and writes this node's lease",
            "stop it, or give it its own --node-id and --public-ip, or its own --etcd-prefix",
            about=name,
        )
