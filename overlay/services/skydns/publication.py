"""Who writes the records, on which etcd lease, and what next. Pure; :mod:`publisher` carries it out.

One key, ``publishers/skydns``, has the name of the node that writes and, behind a space, what it writes; it hangs on
the etcd lease that all records hang on. Every node that publishes refreshes that lease, so that the records go with the
last of them, and not with the one that writes. Where the writer's ``alive/NODE`` is gone, whoever is first puts itself
into its place: on the same lease, so nothing is written anew but what has changed.

Every transaction compares that key, and of each record what was read of it. What hangs on another etcd lease, or none,
is somebody else's: it is neither changed nor removed, and a record of ours that would be there is not written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from random import Random

from overlay.errors import LeaseNotFoundError, StoreError
from overlay.rates import Backoff
from overlay.services.mirror import ServicesMirror
from overlay.services.skydns.wanted import Wanted
from overlay.store.contract import ABSENT, NO_LEASE, Committed, Compare, Delete, KeyRange, KeyValue, Put, Snapshot
from overlay.store.session import Grant, Refresh, Session
from overlay.text import excerpt

TTL = 60
"""Seconds that the records outlive the last node that publishes."""

BATCH = 100
"""Records a transaction: etcd takes 128 comparisons and 128 operations (``--max-txn-ops``)."""

READ_SECONDS = 60.0
"""How long what others do to our records can last; one node alone reads them."""

_FIRST_RETRY, _MAX_RETRY = 0.25, 4.0


@dataclass(frozen=True, slots=True)
class Read:
    """Read the records that there are."""

    span: KeyRange


@dataclass(frozen=True, slots=True)
class Write:
    """One transaction."""

    compares: tuple[Compare, ...]
    operations: tuple[Put | Delete, ...]


Action = Grant | Refresh | Read | Write


class Publication:
    """What has to be done that etcd has the records.

    Args:
        mirror: of all services' keys; read only.
        node: this one's name.
        prefix: of the records' keys, without a slash at its end.
        pods: whether pods have names.

    Attributes:
        wanted: what there is to be; of use to the writer alone.
        error: why the last action failed; None where it did not.
    """

    def __init__(self, mirror: ServicesMirror, rng: Random, *, node: str, prefix: str, pods: bool = True) -> None:
        self.wanted = Wanted()
        self.error: StoreError | None = None
        self._mirror = mirror
        self._node = node
        self._what = f"{prefix} with{'' if pods else 'out'} pods"
        self._key = mirror.keys.publisher("skydns")
        self._span = KeyRange(prefix + "/")
        self._rng = rng
        self._session: Session | None = None
        self._claimed: KeyValue | None = None
        self._there: dict[str, KeyValue] | None = None
        self._read_at = -math.inf
        self._refused: set[str] = set()
        self._backoff = Backoff(_FIRST_RETRY, _MAX_RETRY, rng)
        self._not_before = -math.inf
        self._doing: Action | None = None

    @property
    def writes(self) -> bool:
        """Whether this node is the one that writes, as far as is known."""
        return self.writer == self._node

    @property
    def writer(self) -> str | None:
        """The node that does; None where none is known."""
        held = self._held()
        return None if held is None else writer_of(held)

    @property
    def difference(self) -> str:
        """How what is written differs from what this node would write, in words; empty where it does not."""
        held = self._held()
        _, _, what = ("" if held is None else held.value.decode(errors="replace")).partition(" ")
        if not what or what == self._what:  # a writer of before says nothing of it
            return ""
        return f"{self.writer} writes {excerpt(what)}, this node would write {self._what}"

    @property
    def refused(self) -> list[str]:
        """Keys of ours that somebody else has."""
        return sorted(self._refused)

    @property
    def missing(self) -> int:
        """How many records have to be looked at still."""
        return len(self.wanted.changed)

    # --- what to do ---

    def next(self, now: float) -> Action | float:
        """What to do, or when to ask again (``inf``: when something has changed)."""
        action = self._next(now)
        self._doing = None if isinstance(action, float) else action
        return action

    def _next(self, now: float) -> Action | float:
        if not self._mirror.loaded:
            return math.inf
        if now < self._not_before:
            return self._not_before
        held = self._held()
        session = self._session
        if session is None or (held is not None and held.lease_id not in (NO_LEASE, session.lease_id)):
            lease_id = NO_LEASE if held is None else held.lease_id
            session = self._session = Session(TTL, TTL * 2 / 3, self._rng, lease_id)
        if (action := session.action(now)) is not None:
            return action
        if (claim := self._claim(held, session)) is not None:
            return claim
        if not self.writes:
            self._there = None
            return session.refresh_due
        if self._there is None or now >= self._read_at + READ_SECONDS:
            return Read(self._span)
        return self._write(session) or min(session.refresh_due, self._read_at + READ_SECONDS)

    def _held(self) -> KeyValue | None:
        """What the writer's key has: what we wrote, until the mirror has come that far."""
        if self._claimed is not None and self._claimed.mod_revision > self._mirror.revision:
            return self._claimed
        return self._mirror.items.get(self._key)

    def _claim(self, held: KeyValue | None, session: Session) -> Write | None:
        """Makes this node the one that writes where none does."""
        put = Put(self._key, f"{self._node} {self._what}".encode(), session.lease_id)
        if held is None:
            return Write((Compare(self._key, ABSENT),), (put,))
        is_own = writer_of(held) == self._node
        if held.lease_id == session.lease_id and (held.value == put.value or (self._lives(held) and not is_own)):
            return None
        gone = () if is_own else (Compare(self._alive(held), ABSENT),)
        return Write((_as_is(held), *gone), (put,))

    def _alive(self, held: KeyValue) -> str:
        return self._mirror.keys.alive(writer_of(held))

    def _lives(self, held: KeyValue) -> bool:
        return self._alive(held) in self._mirror.items

    def _write(self, session: Session) -> Write | None:
        held = self._held()
        assert held is not None
        differences: list[tuple[Compare, Put | Delete]] = []
        while self.wanted.changed and not differences:
            some = list(islice(self.wanted.changed, BATCH))
            differences = [each for key in some if (each := self._difference(key, session)) is not None]
        if not differences:
            return None
        compares, operations = zip(*differences, strict=True)
        return Write((_as_is(held), *compares), operations)

    def _difference(self, key: str, session: Session) -> tuple[Compare, Put | Delete] | None:
        """What would make a record as it is to be; None where it is, and then it is not looked at again."""
        assert self._there is not None
        value, there = self.wanted.value(key), self._there.get(key)
        self._refused.discard(key)
        if there is not None and there.lease_id != session.lease_id:
            if value is not None and value != there.value:
                self._refused.add(key)
        elif value is not None and (there is None or there.value != value):
            return Compare(key, ABSENT) if there is None else _as_is(there), Put(key, value, session.lease_id)
        elif value is None and there is not None:
            return _as_is(there), Delete(key)
        del self.wanted.changed[key]
        return None

    # --- what came of it ---

    def completed(self, result: Snapshot | Committed | int | None, now: float) -> None:
        """The action that :meth:`next` gave was carried out."""
        assert self._session is not None
        doing, self._doing = self._doing, None
        self.error = None
        match doing:
            case Grant():
                self._session.granted()
            case Refresh():
                assert isinstance(result, int)
                self._session.refreshed(result)
            case Read():
                assert isinstance(result, Snapshot)
                self._note_all(result, now)
            case Write(_, operations):
                assert isinstance(result, Committed)
                if not result.succeeded:
                    self._forget(now)
                    return
                for operation in operations:
                    self._note(operation, result.revision)
        self._backoff.reset()

    def _note_all(self, snapshot: Snapshot, now: float) -> None:
        self._there = {kv.key: kv for kv in snapshot.items}
        self._read_at = now
        self._refused.clear()
        self.wanted.changed.update(dict.fromkeys(self.wanted))
        self.wanted.changed.update(dict.fromkeys(self._there))

    def _note(self, operation: Put | Delete, revision: int) -> None:
        there = {} if self._there is None else self._there
        match operation:
            case Put(key, value, lease_id) if key == self._key:
                self._claimed = KeyValue(key, value, revision, lease_id)
                self._there = None
            case Put(key, value, lease_id):
                there[key] = KeyValue(key, value, revision, lease_id)
                self.wanted.changed.pop(key, None)
            case Delete(key):
                there.pop(key, None)
                self.wanted.changed.pop(key, None)

    def _forget(self, now: float) -> None:
        """Something is not as we thought: another writes, or somebody has changed a record."""
        self._claimed = None
        self._there = None
        self._not_before = now + self._backoff.next()

    def failed(self, error: StoreError, now: float) -> None:
        """The action failed, or nobody knows whether it did: what there is has to be read again."""
        self._doing = None
        self._forget(now)
        if isinstance(error, LeaseNotFoundError) and self._session is not None:
            self._session.replace()
            return
        self.error = error


def writer_of(held: KeyValue) -> str:
    """The node that the key's value names."""
    return held.value.decode(errors="replace").partition(" ")[0]


def _as_is(kv: KeyValue) -> Compare:
    return Compare(kv.key, kv.mod_revision, kv.value)
