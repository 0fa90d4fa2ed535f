"""What a daemon needs of a key-value store: a narrow view of etcd v3, asynchronous and without policy.

:mod:`overlay.store.etcd.client` keeps this contract on a real etcd; the tests have a second store, in memory.
``tests/contract`` tries the same on both.

Every call has a time limit of the store's own. A call that ends in :class:`StoreUnavailableError` may or may not have
happened, so whoever writes does it idempotently: a transaction that compares what it expects, and a grant whose id the
caller chose.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

NO_LEASE = 0
"""The etcd lease id of a key that never expires."""

ABSENT = 0
"""The modification revision that a comparison uses for "there is no such key"."""


@dataclass(frozen=True, slots=True)
class KeyRange:
    """What to read or watch: one key, or all keys that begin with it."""

    key: str
    prefix: bool = True


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as the store holds it. ``lease_id`` is the etcd lease it is attached to, NO_LEASE for none."""

    key: str
    value: bytes
    mod_revision: int
    lease_id: int = NO_LEASE


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All keys of a range at one revision; watch from it to miss nothing."""

    revision: int
    items: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Some keys of a range, in key order, at one revision. ``remaining``: how many more there are after them."""

    revision: int
    items: tuple[KeyValue, ...]
    remaining: int = 0


@dataclass(frozen=True, slots=True)
class Recollection:
    """What a range held at an earlier revision, in short.

    Attributes:
        count: how many keys there were.
        items: those of the keys asked for that there were, as they were.
    """

    count: int
    items: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """True if ``key``'s modification revision is ``mod_revision`` (ABSENT: the key does not exist).

    ``value``, if given, has to be the key's value too: a store that was restored from a backup gives out the same
    revisions a second time.
    """

    key: str
    mod_revision: int
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """Writes ``key`` and attaches it to an etcd lease (NO_LEASE: permanent)."""

    key: str
    value: bytes
    lease_id: int = NO_LEASE


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes ``key`` if it is there."""

    key: str


@dataclass(frozen=True, slots=True)
class Committed:
    """A transaction's outcome.

    Attributes:
        succeeded: all comparisons held and all operations were carried out, at ``revision``.
        revision: of the store after the transaction; the new ``mod_revision`` of what it put.
        current: where it did not succeed, the compared keys that exist, as they are.
    """

    succeeded: bool
    revision: int
    current: tuple[KeyValue, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """A key was put (``kv`` as it is now) or deleted or expired (``deleted``; ``kv`` has no value then)."""

    kv: KeyValue
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Events:
    """A batch of changes in the order in which they happened. ``revision`` is where a later watch goes on from."""

    revision: int
    events: tuple[Event, ...]


class Store(Protocol):
    """etcd v3, as far as leases of subnets need it.

    Raises everywhere: StoreUnavailableError (no answer in time, no leader, all endpoints down: try again),
    StoreDeniedError (the server refuses us). ``asyncio.CancelledError`` passes through.
    """

    async def read(self, span: KeyRange) -> Snapshot:
        """All keys of ``span``, in key order, at one linearizable revision."""

    async def recall(self, span: KeyRange, revision: int, keys: Sequence[str]) -> Recollection:
        """What ``span``, and ``keys`` in it, were at ``revision``, by the store's linearizable past.

        Costs the store a tenth of a :meth:`read` of 5,000 keys. Raises CompactedError where it does not know any more,
        StoreRestoredError where it has not come to that revision.
        """

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> Committed:
        """Carries out all ``operations`` if all ``compares`` hold, atomically, else none of them.

        A put with an etcd lease that does not exist (any more) raises LeaseNotFoundError; nothing was written then.
        """

    async def grant(self, lease_id: int, ttl: int) -> None:
        """Makes sure that there is an etcd lease ``lease_id`` (1 .. 2**63 - 1) of ``ttl`` seconds.

        Idempotent: granted again, an existing lease is left as it is (the caller refreshes it).
        """

    async def refresh(self, lease_id: int) -> int:
        """Sets the remaining time of an etcd lease to its TTL again; returns that in seconds, 0 if there is none."""

    async def time_to_live(self, lease_id: int) -> int:
        """Seconds until an etcd lease expires; 0 if there is none."""

    async def revoke(self, lease_id: int) -> None:
        """Ends an etcd lease and deletes the keys attached to it. No error if there is none."""

    def watch(self, span: KeyRange, after: int) -> AsyncIterator[Events]:
        """Every change in ``span`` after revision ``after``, in order, none missed, none twice.

        Ends only by an error: CompactedError where ``after`` is history already, StoreUnavailableError where the
        server is gone, frozen (noticed within about 15 s) or without a leader. The caller reads or watches again.
        Yields an empty batch as soon as the watch stands, and now and then, where the server offers one, as a sign of
        life.
        """

    async def close(self) -> None:
        """Ends every watch and closes the connections. Safe to call twice."""


class PagedStore(Store, Protocol):
    """A store that also reads a range in pieces, and as it was."""

    async def page(self, span: KeyRange, *, limit: int = 0, after: str = "", revision: int = 0) -> Page:
        """At most ``limit`` keys (0: all) of ``span`` that come after the key ``after``, in key order.

        Args:
            revision: as of which they are read; 0: now, linearizably. Later pages of one list give the first one's.

        Raises CompactedError where ``revision`` is history already, or was never reached (a store that was restored).
        """

    async def unchanged(self, span: KeyRange, revision: int, count: int) -> bool:
        """Whether ``span``, which had ``count`` keys at ``revision``, is still as it was then, linearizably.

        No key of it has been written since, and none is missing. Costs the store a read of ``span``, and sends nothing.
        """
