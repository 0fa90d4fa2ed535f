"""This node in etcd: its name, its record and its pods, on its etcd lease. Pure; :mod:`registrar` carries it out.

``alive/NODE`` has this node's id as its value and hangs on its etcd lease. Who holds it may write the node's pods:
every transaction compares it, so that of two machines with one name one alone registers, and the other says so.

The pods hang on the same lease: they go with the node. A process that starts again takes the lease of the one before it
over, so that nothing is written.

How often is bounded. Each pod has a few writes at once and one every :data:`POD_SECONDS` seconds then, and all of them
together :data:`NODE_RATE` a second; what changes faster is written as it is when its turn comes. A pod that stops being
ready is written at once, which is bounded too: it has been written as ready before.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

from overlay.errors import LeaseNotFoundError, StoreError
from overlay.rates import Backoff, TokenBucket
from overlay.services.keys import Keys
from overlay.services.mirror import ServicesMirror
from overlay.services.objects.document import Object, condition, encode, metadata_of
from overlay.store.contract import NO_LEASE, Committed, Compare, Delete, Put
from overlay.store.session import Grant, Refresh, Session

DEFAULT_TTL = 30
"""Seconds: so long after a node is lost its pods are endpoints still. Kubernetes' nodes are given 40 s."""

POD_BURST, POD_SECONDS = 6, 5.0
"""Writes of one pod at once (its start takes two or three), and seconds that each further one costs."""

NODE_BURST, NODE_RATE = 1000, 20.0
"""Writes of one node at once (a boot with all its containers), and a second."""

BATCH = 100
"""Operations a transaction: etcd takes 128 (``--max-txn-ops``)."""

BATCH_BYTES = 512 * 1024
"""Of values a transaction: etcd takes 1.5 MiB (``--max-request-bytes``)."""

_FIRST_RETRY, _MAX_RETRY = 0.25, 4.0


@dataclass(frozen=True, slots=True)
class Write:
    """One transaction."""

    compares: tuple[Compare, ...]
    operations: tuple[Put | Delete, ...]


@dataclass(frozen=True, slots=True)
class _Known:
    """What a key has (None: it is not there), as the store told at its revision ``seen`` and at the time ``at``."""

    value: bytes | None
    lease_id: int
    mod_revision: int
    seen: int = 0
    at: float = -math.inf


def _new_bucket() -> TokenBucket:
    return TokenBucket(1 / POD_SECONDS, POD_BURST)


@dataclass(slots=True)
class _Wanted:
    """What a key is to have. ``ready``: a pod that gets new connections; a record that is no pod never is."""

    value: bytes
    ready: bool
    lasting: bool
    document: Object | None = None
    bucket: TokenBucket = field(default_factory=_new_bucket)


class Registration:
    """What of this node is in etcd, and what has to be written next.

    Args:
        node: its name.
        identity: of this machine, by which it knows its own name again; may be any short text.
        mirror: of all services' keys; read only.
    """

    def __init__(
        self, keys: Keys, mirror: ServicesMirror, rng: Random, *, node: str, identity: str, ttl: int = DEFAULT_TTL
    ) -> None:
        self._keys = keys
        self._node = node
        self._identity = identity.encode()
        self._mirror = mirror
        self._rng = rng
        self._ttl = ttl
        self._session: Session | None = None
        self._wanted: dict[str, _Wanted] = {}
        self._told = False
        self._unknown: frozenset[str] = frozenset()
        self._written: dict[str, _Known] = {}
        self._shown_ready: set[str] = set()
        self._all = TokenBucket(NODE_RATE, NODE_BURST)
        self._backoff = Backoff(_FIRST_RETRY, _MAX_RETRY, rng)
        self._not_before = -math.inf
        self._doing: Write | Grant | Refresh | None = None
        self._error: StoreError | None = None

    # --- what there is ---

    def want(self, record: Object, pods: Mapping[str, Object], unknown: Collection[str] = ()) -> None:
        """This node's document, and its pods by their ids: as they are from now on. Nobody may change them any more.

        Before the first call nothing is known of any pod, so none is written, and none removed.

        Args:
            unknown: ids of pods that may be there, as nobody can tell now: what etcd has of them stays.
        """
        wanted = {self._keys.node(self._node): _Wanted(encode(record), ready=False, lasting=True)}
        for ident, pod in pods.items():
            key = self._keys.pod(self._node, ident)
            before = self._wanted.get(key)
            if before is None or before.document is not pod:
                ready = condition(pod, "Ready") and not metadata_of(pod).get("deletionTimestamp")
                bucket = _new_bucket() if before is None else before.bucket
                before = _Wanted(encode(pod), ready, lasting=False, document=pod, bucket=bucket)
            wanted[key] = before
        self._wanted, self._told = wanted, True
        self._unknown = frozenset(self._keys.pod(self._node, ident) for ident in unknown)

    # --- what to do ---

    def next(self, now: float) -> Grant | Refresh | Write | float:
        """What to do, or when to ask again (``inf``: when something has changed)."""
        if not self._mirror.loaded:
            return math.inf
        if now < self._not_before:
            return self._not_before
        session = self._session or self._open()
        action: Grant | Refresh | Write | float | None = session.action(now)
        if action is None:
            action = self._claim(session)
        if action is None:
            action = self._write(session, now)
        self._doing = None if isinstance(action, float) else action
        return action

    def _open(self) -> Session:
        """The etcd lease that the process before us had, if our name hangs on it, else a new one."""
        held = self._now_at(self._keys.alive(self._node))
        lease_id = held.lease_id if held.value == self._identity else NO_LEASE
        self._session = Session(self._ttl, self._ttl * 2 / 3, self._rng, lease_id)
        return self._session

    def _claim(self, session: Session) -> Write | float | None:
        """Takes this node's name; None where we have it, and a time where another machine does."""
        key = self._keys.alive(self._node)
        known = self._now_at(key)
        if known.value is not None and known.value != self._identity:
            return session.refresh_due
        if known.value is not None and known.lease_id == session.lease_id:
            return None
        return Write((self._as_known(key, known),), (Put(key, self._identity, session.lease_id),))

    def _write(self, session: Session, now: float) -> Write | float:
        alive = self._keys.alive(self._node)
        operations: list[Put | Delete] = []
        size, due = 0, session.refresh_due
        for operation in self._differences(session):
            wait = self._wait_for(operation, now)
            if wait > 0:
                due = min(due, now + wait)
                continue
            operations.append(operation)
            size += len(operation.value) if isinstance(operation, Put) else 0
            if len(operations) == BATCH or size >= BATCH_BYTES:
                break
        if not operations:
            return due
        return Write((self._as_known(alive, self._now_at(alive)),), tuple(operations))

    def _differences(self, session: Session) -> Iterator[Put | Delete]:
        """What would make etcd have what there is; what has gone comes first."""
        prefix = self._keys.pods(self._node)
        if not self._told:
            return
        written = {key for key in self._written if key.startswith(prefix)}
        for key in sorted((self._mirror.pods_of(self._node) | written) - self._wanted.keys()):
            known = self._now_at(key)
            if known.value is None:
                continue
            if key not in self._unknown:
                yield Delete(key)
            elif known.lease_id != session.lease_id:
                yield Put(key, known.value, session.lease_id)
        for key, wanted in self._wanted.items():
            lease_id = NO_LEASE if wanted.lasting else session.lease_id
            known = self._now_at(key)
            if (known.value, known.lease_id) != (wanted.value, lease_id):
                yield Put(key, wanted.value, lease_id)

    def _wait_for(self, operation: Put | Delete, now: float) -> float:
        """Seconds until it may be written; takes its token where that is now."""
        wanted = self._wanted.get(operation.key)
        urgent = wanted is None or (operation.key in self._shown_ready and not wanted.ready)
        if wanted is not None and not urgent and (wait := wanted.bucket.wait(now)) > 0:
            return wait
        if (wait := self._all.wait(now)) > 0:
            return wait
        self._all.allow(now)
        if wanted is not None:
            wanted.bucket.allow(now)
        return 0.0

    def _now_at(self, key: str) -> _Known:
        """What a key has: what we wrote, until the mirror has come that far."""
        written = self._written.get(key)
        if written is not None and self._is_ahead(written):
            return written
        self._written.pop(key, None)
        held = self._mirror.items.get(key)
        return _Known(None, NO_LEASE, 0) if held is None else _Known(held.value, held.lease_id, held.mod_revision)

    def _is_ahead(self, written: _Known) -> bool:
        """Whether the mirror cannot know of it. A store that was restored since has been read again."""
        loaded_at = self._mirror.loaded_at
        return written.seen > self._mirror.revision and (loaded_at is None or loaded_at <= written.at)

    def _as_known(self, key: str, known: _Known) -> Compare:
        return Compare(key, 0) if known.value is None else Compare(key, known.mod_revision, known.value)

    # --- what came of it ---

    def completed(self, result: Committed | int | None, now: float) -> None:
        """The action that :meth:`next` gave was carried out."""
        assert self._session is not None
        doing, self._doing = self._doing, None
        self._error = None
        self._backoff.reset()
        match doing:
            case Grant():
                self._session.granted()
            case Refresh():
                assert isinstance(result, int)
                self._session.refreshed(result)
            case Write(_, operations):
                assert isinstance(result, Committed)
                if result.succeeded:
                    self._note(operations, result.revision, now)
                else:
                    self._correct(result, now)

    def _note(self, operations: tuple[Put | Delete, ...], revision: int, now: float) -> None:
        for operation in operations:
            match operation:
                case Put(key, value, lease_id):
                    self._written[key] = _Known(value, lease_id, revision, revision, now)
                    wanted = self._wanted.get(key)
                    if wanted is not None and wanted.ready and wanted.value == value:
                        self._shown_ready.add(key)
                    else:
                        self._shown_ready.discard(key)
                case Delete(key):
                    self._written[key] = _Known(None, NO_LEASE, 0, revision, now)
                    self._shown_ready.discard(key)

    def _correct(self, result: Committed, now: float) -> None:
        """Our name is not as we thought: what it is now is known sooner than the mirror tells."""
        alive = self._keys.alive(self._node)
        held = {kv.key: kv for kv in result.current}.get(alive)
        value, lease_id, revision = (
            (None, NO_LEASE, 0) if held is None else (held.value, held.lease_id, held.mod_revision)
        )
        self._written[alive] = _Known(value, lease_id, revision, result.revision, now)

    def failed(self, error: StoreError, now: float) -> None:
        """The action failed, or nobody knows whether it did."""
        self._doing = None
        if isinstance(error, LeaseNotFoundError) and self._session is not None:
            self._session.replace()
            return
        self._error = error
        self._not_before = now + self._backoff.next()

    # --- what to tell ---

    @property
    def holds_name(self) -> bool:
        """Whether this node's name is its own, as far as is known."""
        return self._now_at(self._keys.alive(self._node)).value == self._identity

    def rival(self) -> str | None:
        """The id of another machine that has this node's name; None where none has."""
        value = self._now_at(self._keys.alive(self._node)).value
        return None if value is None or value == self._identity else value.decode(errors="replace")

    @property
    def error(self) -> StoreError | None:
        """Why the last action failed; None where it did not."""
        return self._error

    def missing(self) -> int:
        """How many keys are not yet as they should be; before anything is known of pods, that of the node at least."""
        if not self._told or not self._mirror.loaded or self._session is None:
            return max(1, len(self._wanted))
        return sum(1 for _ in self._differences(self._session))
