"""What changes, for any number of clients: one watch on etcd, and a ring of what it brought.

A :class:`Hub` mirrors all keys below the prefix from its first client on. Clients have no queues: each has a place in
the ring, and whoever falls out of it at its far end is told to start again. A client that starts before the ring gets
the difference between then, as etcd still has it, and now. Endpoints and nodes are computed (:mod:`derived`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from overlay.api.derived import Change, Derived
from overlay.api.freshness import Freshness
from overlay.errors import CompactedError
from overlay.services.computed import COMPUTED
from overlay.services.keys import Keys
from overlay.services.mirror import ServicesMirror
from overlay.services.objects import status
from overlay.services.objects.kinds import Kind
from overlay.services.reading import Reading
from overlay.services.storage import Storage
from overlay.store.contract import Events, KeyRange, KeyValue
from overlay.store.following import Following
from overlay.store.mirror_follower import MirrorFollower

RING = 10_000
"""Changes that are kept for clients that come back."""

RING_BYTES = 32 * 1024 * 1024
"""What they may weigh, old and new values together."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that belong together; there may be none.

    Attributes:
        revision: all up to here is known after them.
        live: whether etcd tells of new ones at present.
        ticked: whether a tick has passed since the batch before.
    """

    changes: Sequence[Change]
    revision: int
    live: bool
    ticked: bool = False


class _Noting(ServicesMirror):
    """A mirror that notes what left and what entered."""

    def __init__(self, keys: Keys) -> None:
        super().__init__(keys)
        self.left: dict[str, KeyValue] = {}
        self.entered: dict[str, KeyValue] = {}

    def _left(self, kv: KeyValue) -> None:
        super()._left(kv)
        self.left.setdefault(kv.key, kv)
        self.entered.pop(kv.key, None)

    def _entered(self, kv: KeyValue) -> None:
        super()._entered(kv)
        self.entered[kv.key] = kv

    def changes(self, keys: set[str], events: Events | None) -> list[Change]:
        """What was noted of ``keys``, in the order of revisions; one change a key."""
        ends = {event.kv.key: event.kv.mod_revision for event in events.events} if events is not None else {}
        found = []
        for key in keys:
            old, new = self.left.get(key), self.entered.get(key)
            if old is not None or new is not None:
                revision = new.mod_revision if new is not None else ends.get(key, self.revision)
                found.append(Change(revision, key, old, new))
        self.left.clear()
        self.entered.clear()
        return sorted(found, key=lambda change: (change.revision, change.key))


class Hub(MirrorFollower[_Noting]):
    """One mirror of everything, and those who hear of its changes.

    To be used within one event loop. It begins to follow etcd when the first client comes, and ends with :meth:`close`.
    """

    def __init__(self, storage: Storage, rng: Random | None = None) -> None:
        self._storage = storage
        self._reading = Reading(storage)
        super().__init__(KeyRange(storage.keys.root), _Noting(storage.keys), rng or Random())
        self._derived = Derived(self.mirror)
        self._ring: deque[Change] = deque()
        self._first = 0  # the number of the ring's first change
        self._weight = 0
        self._from = 0  # the ring has all that happened after this revision
        self._epoch = -1  # of no snapshot yet
        self._reached = 0
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._freshness = Freshness(storage.store, self, storage.keys.config)

    def start(self) -> None:
        """Follows from now on, before anybody has asked."""
        if self._task is None:
            following = Following(self._storage.store, self, time.monotonic, self._tell)
            self._task = asyncio.create_task(following.run())

    async def fresh(self) -> ServicesMirror | None:
        """See :class:`~overlay.services.reading.Live`. Nothing is followed for this alone."""
        return self.mirror if self._task is not None and await self._freshness.proved() else None

    async def moved(self) -> None:
        """See :class:`~overlay.api.freshness.Followed`."""
        await self._moved.wait()

    @property
    def revision(self) -> int:
        """All up to here is known; 0: nothing yet."""
        return self.mirror.revision

    async def now(self) -> int:
        """The store's revision, after which a watch hears of whatever comes. Raises StoreError."""
        return await self._storage.revision()

    async def changes(self, kind: Kind, namespace: str, after: int, *, tick: float) -> AsyncGenerator[Batch, None]:
        """Every change of a kind's objects, or of one namespace's, after revision ``after``.

        There is a batch at least each ``tick`` seconds, without changes if need be.

        What happened to one key within one batch of etcd's may come as one change.

        Raises:
            StatusError: (410) what happened since is not known any more, or is of another past.
        """
        await self._load()
        span, epoch = self._storage.span(kind, namespace), self._epoch
        if after > self.mirror.revision and after > await self._storage.revision():
            raise status.expired(f"too large resource version: {after}, current: {self.mirror.revision}")
        begun = self._derived.begin(kind, self.mirror.revision)
        before = await self._past(kind, namespace, after) if after < max(self._from, begun) else None
        number = self._first + len(self._ring)  # nothing is awaited from here to the first batch
        if before is not None:
            caught_up = _difference(before, self._now(kind, span), self.mirror.revision)
        else:
            caught_up = [each for each in self._ring if each.revision > after and _within(span, each.key)]
        yield Batch(caught_up, self.mirror.revision, self._follower.connected)
        loop = asyncio.get_running_loop()
        next_tick = loop.time() + tick
        while True:
            moved = self._moved
            if self._epoch != epoch:
                raise status.expired("the store was restored: list again")
            if number < self._first:
                raise status.expired("too old resource version: this client is too slow")
            found = [
                each
                for each in (self._ring[i] for i in range(number - self._first, len(self._ring)))
                if each.revision > after and _within(span, each.key)
            ]
            number = self._first + len(self._ring)
            if ticked := loop.time() >= next_tick:
                next_tick = loop.time() + tick
            yield Batch(found, self.mirror.revision, self._follower.connected, ticked)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_tick):
                    await moved.wait()

    def close(self) -> None:
        """Stops to follow."""
        if self._task is not None:
            self._task.cancel()

    def _mirrored(self, changed: set[str], batch: Events | None) -> None:
        """Notes what changed for clients. The first snapshot is where the ring begins, as is one of another past."""
        changes = self.mirror.changes(changed, batch)
        if self.mirror.epoch != self._epoch:
            self._epoch = self.mirror.epoch
            self._first += len(self._ring)
            self._ring.clear()
            self._weight, self._from = 0, self.mirror.revision
            self._derived = Derived(self.mirror)
        else:
            self._add(self._derived.follow(changes))
        if batch is not None and not batch.events and batch.revision != self._reached:
            self._tell()  # a Following tells of batches with events alone
        self._reached = self.mirror.revision

    # --- parts ---

    async def _load(self) -> None:
        self.start()
        while not self.mirror.loaded:
            moved = self._moved
            if self._follower.error is not None:
                raise self._follower.error
            await moved.wait()

    def _tell(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _add(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._ring.append(change)
            self._weight += change.weight
        while len(self._ring) > RING or self._weight > RING_BYTES:
            gone = self._ring.popleft()
            self._first += 1
            self._weight -= gone.weight
            self._from = max(self._from, gone.revision)

    def _now(self, kind: Kind, span: KeyRange) -> dict[str, KeyValue]:
        items = self._derived.items if kind in COMPUTED else self.mirror.items
        return {key: kv for key, kv in items.items() if _within(span, key)}

    async def _past(self, kind: Kind, namespace: str, revision: int) -> dict[str, KeyValue]:
        try:
            return await self._reading.snapshot(kind, namespace, revision)
        except CompactedError:
            raise status.expired(f"too old resource version: {revision} ({self._from})") from None


def _within(span: KeyRange, key: str) -> bool:
    return key.startswith(span.key) if span.prefix else key == span.key


def _difference(before: dict[str, KeyValue], after: dict[str, KeyValue], revision: int) -> list[Change]:
    """What happened between two states, as if each key had changed once; deletions at ``revision``."""
    changes = [
        Change(kv.mod_revision, key, before.get(key), kv)
        for key, kv in after.items()
        if key not in before or before[key].value != kv.value
    ]
    changes += [Change(revision, key, kv, None) for key, kv in before.items() if key not in after]
    return sorted(changes, key=lambda change: (change.revision, change.key))
