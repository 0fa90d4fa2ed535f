"""The store's contract kept inside this process: a deterministic core, and the asynchronous store on top of it.

The core is what etcd does as far as leases of subnets need it: one revision a transaction, modification revisions,
etcd leases that expire at ``now``, a history for watches, compaction. It has no clock; the simulation drives it
directly, and :class:`MemoryStore` gives it a real one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from overlay.errors import CompactedError, LeaseNotFoundError, StoreRestoredError, StoreUnavailableError
from overlay.store.contract import (
    ABSENT,
    NO_LEASE,
    Committed,
    Compare,
    Delete,
    Event,
    Events,
    KeyRange,
    KeyValue,
    Page,
    Put,
    Recollection,
    Snapshot,
)

MAX_HISTORY = 10_000
"""Events that the core remembers before it compacts by itself."""


@dataclass(slots=True)
class _EtcdLease:
    ttl: int
    expires: float
    keys: set[str] = field(default_factory=set)


class MemoryCore:
    """A key-value store with etcd's semantics. Time is a number of seconds that callers pass and that never goes back.

    Attributes:
        revision: of the newest change; 1 when empty, as etcd's.
        compacted: watches after revisions before this one are refused.
        lives: how many times it has been wiped; nobody who was connected before is now.
    """

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0
        self.lives = 0
        self._keys: dict[str, KeyValue] = {}
        self._leases: dict[int, _EtcdLease] = {}
        self._history: deque[Event] = deque()
        self._replaced: deque[KeyValue | None] = deque()  # what was there before each event of the history
        self._listeners: set[Callable[[], None]] = set()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Has ``listener`` called after every change; returns what ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    # --- reading ---

    def read(self, span: KeyRange, now: float) -> Snapshot:
        """All keys of ``span`` in key order."""
        self.expire(now)
        return Snapshot(self.revision, tuple(self._keys[key] for key in sorted(self._keys) if within(span, key)))

    def page(self, span: KeyRange, limit: int, after: str, revision: int, now: float) -> Page:
        """Some keys of ``span``, now or as of a revision; see :meth:`overlay.store.contract.PagedStore.page`."""
        self.expire(now)
        if revision > self.revision:
            raise StoreRestoredError(self.revision)
        if revision and revision < self.compacted:
            raise CompactedError(self.compacted)
        keys = dict(self._keys)
        for event, before in zip(reversed(self._history), reversed(self._replaced), strict=True):
            if not revision or event.kv.mod_revision <= revision:
                break
            keys.pop(event.kv.key, None)
            if before is not None:
                keys[before.key] = before
        found = [keys[key] for key in sorted(keys) if within(span, key) and key > after]
        items = tuple(found[: limit or None])
        return Page(revision or self.revision, items, len(found) - len(items))

    def recall(self, span: KeyRange, revision: int, keys: Sequence[str], now: float) -> Recollection:
        """What ``span`` and ``keys`` were at ``revision``; see :meth:`overlay.store.contract.Store.recall`."""
        then = self.page(KeyRange(""), 0, "", revision, now).items
        items = {item.key: item for item in then}
        return Recollection(
            sum(within(span, item.key) for item in then), tuple(items[key] for key in keys if key in items)
        )

    def events(self, span: KeyRange, after: int) -> Events:
        """What happened in ``span`` after revision ``after``. Raises CompactedError where that is no longer known."""
        if after + 1 < self.compacted:
            raise CompactedError(self.compacted)
        found: list[Event] = []
        for event in reversed(self._history):
            if event.kv.mod_revision <= after:
                break
            if within(span, event.kv.key):
                found.append(event)
        return Events(self.revision, tuple(reversed(found)))

    # --- writing ---

    def commit(self, compares: Sequence[Compare], operations: Sequence[Put | Delete], now: float) -> Committed:
        """One transaction; see :meth:`overlay.store.contract.Store.commit`."""
        self.expire(now)
        known = [self._keys.get(compare.key) for compare in compares]
        if not all(_holds(compare, item) for compare, item in zip(compares, known, strict=True)):
            return Committed(False, self.revision, tuple(item for item in known if item))
        for operation in operations:
            if isinstance(operation, Put) and operation.lease_id != NO_LEASE and operation.lease_id not in self._leases:
                raise LeaseNotFoundError(f"there is no etcd lease {operation.lease_id:x}")
        events: list[Event] = []
        for operation in operations:
            if isinstance(operation, Put):
                events.append(self._put(operation))
            elif operation.key in self._keys:
                events.append(self._delete(operation.key))
        self._advance(events)
        return Committed(True, self.revision)

    def remove(self, key: str, now: float) -> None:
        """Deletes a key, whatever it is."""
        self.commit([], [Delete(key)], now)

    def grant(self, lease_id: int, ttl: int, now: float) -> None:
        """Makes an etcd lease unless there is one of this id."""
        self.expire(now)
        self._leases.setdefault(lease_id, _EtcdLease(ttl, now + ttl))

    def refresh(self, lease_id: int, now: float) -> int:
        """Sets an etcd lease to its TTL again and returns that; 0 where there is none."""
        self.expire(now)
        lease = self._leases.get(lease_id)
        if lease is None:
            return 0
        lease.expires = now + lease.ttl
        return lease.ttl

    def time_to_live(self, lease_id: int, now: float) -> int:
        """Whole seconds until an etcd lease expires, at least 1 while it lives; 0 where there is none."""
        self.expire(now)
        lease = self._leases.get(lease_id)
        return 0 if lease is None else max(1, int(lease.expires - now))

    def revoke(self, lease_id: int, now: float) -> None:
        """Ends an etcd lease and deletes its keys."""
        self.expire(now)
        self._end(lease_id)

    def expire(self, now: float) -> None:
        """Ends every etcd lease whose time is up."""
        for lease_id in [lease_id for lease_id, lease in self._leases.items() if lease.expires <= now]:
            self._end(lease_id)

    def next_expiry(self) -> float | None:
        """When the next etcd lease expires; None where none lives."""
        return min((lease.expires for lease in self._leases.values()), default=None)

    def compact(self, revision: int | None = None) -> None:
        """Forgets history before ``revision`` (default: the newest)."""
        self.compacted = self.revision if revision is None else revision
        while self._history and self._history[0].kv.mod_revision < self.compacted:
            self._history.popleft()
            self._replaced.popleft()

    def renew_all(self, now: float) -> None:
        """Gives every etcd lease its full TTL again, as a new leader of etcd does."""
        for lease in self._leases.values():
            lease.expires = now + lease.ttl

    def wipe(self) -> None:
        """Becomes an empty store at its first revision, as an etcd whose data directory was lost."""
        listeners, lives = self._listeners, self.lives
        self.__init__()  # type: ignore[misc]
        self._listeners, self.lives = listeners, lives + 1
        self._tell()

    def _end(self, lease_id: int) -> None:
        lease = self._leases.pop(lease_id, None)
        if lease is not None and lease.keys:
            self._advance([self._delete(key) for key in sorted(lease.keys)])

    def _put(self, put: Put) -> Event:
        self._replaced.append(self._keys.get(put.key))
        self._detach(put.key)
        kv = KeyValue(put.key, put.value, self.revision + 1, put.lease_id)
        self._keys[put.key] = kv
        if put.lease_id != NO_LEASE:
            self._leases[put.lease_id].keys.add(put.key)
        return Event(kv)

    def _delete(self, key: str) -> Event:
        self._replaced.append(self._keys[key])
        self._detach(key)
        del self._keys[key]
        return Event(KeyValue(key, b"", self.revision + 1), deleted=True)

    def _detach(self, key: str) -> None:
        known = self._keys.get(key)
        if known is not None and known.lease_id in self._leases:
            self._leases[known.lease_id].keys.discard(key)

    def _advance(self, events: Sequence[Event]) -> None:
        """One revision for a whole transaction; none for one that changed nothing, as in etcd."""
        if not events:
            return
        self.revision += 1
        self._history.extend(events)
        if len(self._history) > MAX_HISTORY:
            self.compact(self._history[MAX_HISTORY // 2].kv.mod_revision)
        self._tell()

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()


def within(span: KeyRange, key: str) -> bool:
    """Whether ``span`` takes in ``key``."""
    return key.startswith(span.key) if span.prefix else key == span.key


def _holds(compare: Compare, item: KeyValue | None) -> bool:
    if item is None:
        return compare.mod_revision == ABSENT
    return compare.mod_revision == item.mod_revision and compare.value in (None, item.value)


class MemoryStore:
    """The asynchronous store over a :class:`MemoryCore`; several may share one core, as agents share an etcd."""

    def __init__(self, core: MemoryCore | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.core = core or MemoryCore()
        self._available = True
        self._clock = clock
        self._closed = False
        self._watches: set[asyncio.Event] = set()

    async def read(self, span: KeyRange) -> Snapshot:
        """See :meth:`overlay.store.contract.Store.read`."""
        await self._answer()
        return self.core.read(span, self._clock())

    async def page(self, span: KeyRange, *, limit: int = 0, after: str = "", revision: int = 0) -> Page:
        """See :meth:`overlay.store.contract.PagedStore.page`."""
        await self._answer()
        return self.core.page(span, limit, after, revision, self._clock())

    async def unchanged(self, span: KeyRange, revision: int, count: int) -> bool:
        """See :meth:`overlay.store.contract.PagedStore.unchanged`."""
        await self._answer()
        items = self.core.read(span, self._clock()).items
        return len(items) == count and all(item.mod_revision <= revision for item in items)

    async def recall(self, span: KeyRange, revision: int, keys: Sequence[str]) -> Recollection:
        """See :meth:`overlay.store.contract.Store.recall`."""
        await self._answer()
        return self.core.recall(span, revision, keys, self._clock())

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> Committed:
        """See :meth:`overlay.store.contract.Store.commit`."""
        await self._answer()
        return self.core.commit(compares, operations, self._clock())

    async def grant(self, lease_id: int, ttl: int) -> None:
        """See :meth:`overlay.store.contract.Store.grant`."""
        await self._answer()
        self.core.grant(lease_id, ttl, self._clock())

    async def refresh(self, lease_id: int) -> int:
        """See :meth:`overlay.store.contract.Store.refresh`."""
        await self._answer()
        return self.core.refresh(lease_id, self._clock())

    async def time_to_live(self, lease_id: int) -> int:
        """See :meth:`overlay.store.contract.Store.time_to_live`."""
        await self._answer()
        return self.core.time_to_live(lease_id, self._clock())

    async def revoke(self, lease_id: int) -> None:
        """See :meth:`overlay.store.contract.Store.revoke`."""
        await self._answer()
        self.core.revoke(lease_id, self._clock())

    async def watch(self, span: KeyRange, after: int) -> AsyncIterator[Events]:
        """See :meth:`overlay.store.contract.Store.watch`. Also ends, as a lost server would, once the core is wiped."""
        await self._answer()
        changed, life = asyncio.Event(), self.core.lives
        self._watches.add(changed)
        unlisten = self.core.listen(changed.set)
        try:
            yield Events(after, ())
            self._check()
            while True:
                changed.clear()
                if self.core.lives != life:  # also where the new history has passed the old one's revision by now
                    raise StoreUnavailableError("the store was lost", about="store in memory")
                self.core.expire(self._clock())
                batch = self.core.events(span, after)
                if batch.events:
                    yield batch
                after = batch.revision
                await self._until_change(changed)
                self._check()
        finally:
            unlisten()
            self._watches.discard(changed)

    async def _until_change(self, changed: asyncio.Event) -> None:
        expiry = self.core.next_expiry()
        limit = None if expiry is None else max(0.0, expiry - self._clock())
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await changed.wait()

    async def close(self) -> None:
        """Ends every watch."""
        self._closed = True
        self._wake()

    @property
    def available(self) -> bool:
        """Whether calls are answered; set to False, every call and every watch fails, as if no endpoint answered."""
        return self._available

    @available.setter
    def available(self, value: bool) -> None:
        self._available = value
        self._wake()

    def _wake(self) -> None:
        for changed in self._watches:
            changed.set()

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        self._check()

    def _check(self) -> None:
        if self._closed or not self._available:
            raise StoreUnavailableError("no endpoint answered", about="store in memory")
