"""Objects in etcd: read, listed in pages, made, changed and deleted, each in one transaction.

An object's ``resourceVersion`` is the modification revision of its key, a list's the revision of the store that it was
read at. What must be unique (a ClusterIP, a node port) is a key of its own, taken in the transaction that writes the
Service. Every write compares what it was decided by, and is decided again where somebody else was faster.

All of it is asynchronous, on one :class:`~overlay.store.contract.PagedStore`; it keeps nothing, so any number of
processes may do this at once. Refusals are :class:`~overlay.services.objects.status.StatusError`; the store's own
errors pass through.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import msgspec

from overlay.errors import CompactedError, LeaseNotFoundError
from overlay.services import allocation, configuration
from overlay.services.allocation import Taken
from overlay.services.configuration import Configuration
from overlay.services.expiry import Expiry
from overlay.services.keys import Keys
from overlay.services.objects import status
from overlay.services.objects.document import (
    MAX_BYTES,
    Object,
    ObjectFormatError,
    decode,
    encode,
    metadata_of,
    name_of,
    namespace_of,
    status_of,
)
from overlay.services.objects.kinds import KINDS, NAMESPACE, NODE, POD, SERVICE, Kind
from overlay.services.objects.lifecycle import for_create, for_update, timestamp
from overlay.services.objects.managers import Manager, record
from overlay.services.objects.selectors import Selects, both, selector
from overlay.store.contract import ABSENT, NO_LEASE, Committed, Compare, Delete, KeyRange, KeyValue, PagedStore, Put

ALWAYS_THERE = ("default", "kube-system")
"""Namespaces that cannot be deleted."""

ATTEMPTS = 10
"""Times that a write is decided again before the caller hears of the conflict."""

CHUNK = 500
"""Keys that are read at once where a selector takes few of them."""

OPERATIONS = 100
"""Of one transaction; etcd takes 128 (--max-txn-ops)."""

_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. "
    "You can start a new list without the continue parameter."
)

Change = Callable[[Object], Object]
"""What an update makes of the object that is there: a decoded document."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A list, or a part of it.

    Attributes:
        token: where to go on; empty at its end.
        remaining: how many more there are; None where a selector makes that unknown.
    """

    items: list[Object]
    revision: int
    token: str = ""
    remaining: int | None = None


class Storage:
    """The objects below one prefix.

    Args:
        now: the time that objects are stamped with.
        new_uid: makes a uid.
    """

    def __init__(
        self,
        store: PagedStore,
        keys: Keys,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_uid: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self.store = store
        self.keys = keys
        self._now = now
        self._new_uid = new_uid
        self._prepared = False
        self._expiry = Expiry(store)

    # --- reading ---

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """One object. Raises StatusError (404)."""
        if kind is POD:  # its key has its container's id
            takes = selector(kind, "", f"metadata.name={name}")
            for obj in (await self.list(kind, namespace, takes=takes)).items:
                return obj
            raise status.not_found(kind, name)
        item = await self._read(self.keys.node(name) if kind is NODE else self._key(kind, namespace, name))
        if item is None:
            raise status.not_found(kind, name)
        return decode(item.value, item.mod_revision, item.key)

    async def list(
        self, kind: Kind, namespace: str = "", *, limit: int = 0, token: str = "", takes: Selects | None = None
    ) -> Listing:
        """The objects of a kind, or of one namespace, that ``takes`` takes, in the order of their keys.

        Args:
            limit: at most so many; 0: all.
            token: of the part before.

        Raises:
            StatusError: (400) a token that is none; (410) the revision that the token is of is gone.
        """
        span = self.span(kind, namespace)
        if kind is POD and namespace:
            takes = both(takes, lambda pod: namespace_of(pod) == namespace)
        revision, after = parse_token(token, span.key)
        items: list[Object] = []
        while True:
            wanted = limit - len(items) if limit and takes is None else CHUNK if limit else 0
            try:
                page = await self.store.page(span, limit=wanted, after=after, revision=revision)
            except CompactedError:
                raise status.expired(_TOO_OLD) from None
            revision = page.revision
            for index, item in enumerate(page.items):
                after = item.key
                obj = _decoded(item)
                if obj is not None and (takes is None or takes(obj)):
                    items.append(obj)
                if limit and len(items) == limit:
                    remaining = page.remaining + len(page.items) - index - 1
                    if not remaining:
                        return Listing(items, revision)
                    return Listing(items, revision, make_token(revision, after), remaining if takes is None else None)
            if not page.remaining:
                return Listing(items, revision)

    def span(self, kind: Kind, namespace: str = "") -> KeyRange:
        """The keys of a kind's objects; of pods those of all namespaces, which their keys do not tell."""
        if kind is POD:
            return KeyRange(self.keys.pods())
        return KeyRange(self.keys.node() if kind is NODE else self.keys.objects(kind.resource, namespace))

    async def configuration(self) -> Configuration:
        """The cluster's configuration, defaults where there is none. Raises ConfigError for one that is no use."""
        item = await self._read(self.keys.config)
        return Configuration() if item is None else configuration.parse(item.value, about=item.key)

    async def revision(self) -> int:
        """The store's revision now."""
        return (await self.store.page(KeyRange(self.keys.config, prefix=False))).revision

    # --- writing ---

    async def prepare(self) -> None:
        """Makes the namespaces that are always there, once."""
        if self._prepared:
            return
        for name in ALWAYS_THERE:
            key = self.keys.object(NAMESPACE.resource, "", name)
            if await self._read(key) is None:
                given = {"apiVersion": "v1", "kind": NAMESPACE.name, "metadata": {"name": name}}
                obj = for_create(NAMESPACE, given, "", self._now(), self._new_uid())
                await self.store.commit([Compare(key, ABSENT)], [Put(key, encode(obj))])
        self._prepared = True

    async def create(
        self, kind: Kind, namespace: str, given: Object, *, writer: Manager | None = None, dry_run: bool = False
    ) -> Object:
        """Makes an object out of a decoded document and returns it.

        Args:
            writer: who owns its fields; None: nobody.

        Raises:
            StatusError: (400, 422) it breaks a rule; (404) its namespace is not there; (409) its name is taken.
        """
        await self.prepare()
        for _ in range(ATTEMPTS):
            obj = for_create(kind, given, namespace, self._now(), self._new_uid())
            if writer is not None:  # what the Service is given below is nobody's
                record(kind, None, given, obj, writer=writer, now=timestamp(self._now()))
            key = self._key(kind, namespace, name_of(obj))
            compares = [Compare(key, ABSENT)]
            if kind.namespaced:
                compares.append(await self._in_namespace(kind, namespace, name_of(obj)))
            claimed = await self._claim(kind, None, obj)
            value = _fitting(obj)
            if dry_run:
                if await self._read(key) is not None:
                    raise status.already_exists(kind, name_of(obj))
                return obj
            done = await self._commit(
                [*compares, *claimed.compares], [await self._put(kind, key, value), *claimed.operations]
            )
            if done.succeeded:
                return _at(obj, done.revision)
            if any(item.key == key for item in done.current):
                raise status.already_exists(kind, name_of(obj))
        raise status.conflict(kind, name_of(given))

    async def update(
        self, kind: Kind, namespace: str, name: str, change: Change, *, of_status: bool = False,
        writer: Manager | None = None, dry_run: bool = False,
    ) -> Object:  # fmt: skip
        """Changes an object and returns it. What changes nothing writes nothing, so that no revision is made of it.

        Args:
            change: makes a document of what is there; called again where somebody else was faster, unless the document
                names the version that it is for.
            of_status: whether the status alone is changed, or all but it.
            writer: who owns what is changed; None: owners stay as they are.

        Raises:
            StatusError: (404) it is not there; (409) it is not any more what the caller thinks; (422) it breaks a rule.
        """
        for _ in range(ATTEMPTS):
            key = self._key(kind, namespace, name)
            item = await self._read(key)
            if item is None:
                raise status.not_found(kind, name)
            old = decode(item.value, item.mod_revision, key)
            given = change(old)
            if (version := metadata_of(given).get("resourceVersion")) and version != str(item.mod_revision):
                raise status.conflict(kind, name)
            _check_preconditions(kind, old, str(metadata_of(given).get("uid") or ""), "")
            new = for_update(kind, old, given, status=of_status)
            if writer is not None:
                record(kind, old, given, new, writer=writer, now=timestamp(self._now()))
            claimed = await self._claim(kind, old, new)
            value = _fitting(new)
            if value == item.value or dry_run:
                return _at(new, item.mod_revision)
            done = await self._commit(
                [Compare(key, item.mod_revision, item.value), *claimed.compares],
                [await self._put(kind, key, value), *claimed.operations],
            )
            if done.succeeded:
                return _at(new, done.revision)
        raise status.conflict(kind, name)

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str = "", version: str = "", dry_run: bool = False
    ) -> Object:
        """Deletes an object, and what a namespace has in it; returns it as it was, with the revision of its end.

        Args:
            uid: of the object that is meant; empty: whichever is there. ``version`` likewise.

        Raises:
            StatusError: (404) it is not there; (409) it is another one; (403) it cannot be deleted.
        """
        for _ in range(ATTEMPTS):
            key = self._key(kind, namespace, name)
            item = await self._read(key)
            if item is None:
                raise status.not_found(kind, name)
            old = decode(item.value, item.mod_revision, key)
            _check_preconditions(kind, old, uid, version)
            if kind is NAMESPACE and name in ALWAYS_THERE:
                raise status.denied(kind, name, "this namespace may not be deleted")
            if dry_run:
                return old
            if kind is NAMESPACE:
                item = await self._empty(item, old)
                if item is None:
                    continue
            claimed = await self._claim(kind, old, None)
            done = await self.store.commit(
                [Compare(key, item.mod_revision, item.value), *claimed.compares], [Delete(key), *claimed.operations]
            )
            if done.succeeded:
                return _at(old, done.revision)
        raise status.conflict(kind, name)

    async def _empty(self, item: KeyValue, namespace: Object) -> KeyValue | None:
        """Marks a namespace so that nothing is made in it any more, and deletes what it has; None if it changed."""
        name = name_of(namespace)
        if status_of(namespace).get("phase") != "Terminating":
            value = encode({**namespace, "status": {**status_of(namespace), "phase": "Terminating"}})
            done = await self.store.commit([Compare(item.key, item.mod_revision)], [Put(item.key, value)])
            if not done.succeeded:
                return None
            item = KeyValue(item.key, value, done.revision)
        for kind in KINDS:
            if kind.namespaced and not kind.view:
                for obj in (await self.list(kind, name)).items:
                    try:
                        await self.delete(kind, name, name_of(obj))
                    except status.StatusError as error:
                        if error.code != HTTPStatus.NOT_FOUND:  # it went by itself, or another was faster
                            raise
        return item

    # --- parts of transactions ---

    async def _put(self, kind: Kind, key: str, value: bytes) -> Put:
        return Put(key, value, await self._expiry.lease(kind.ttl) if kind.ttl else NO_LEASE)

    async def _commit(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> Committed:
        """A transaction; one whose etcd lease is gone meanwhile has not succeeded."""
        try:
            return await self.store.commit(compares, operations)
        except LeaseNotFoundError:
            self._expiry.forget()
            return Committed(succeeded=False, revision=0)

    async def _in_namespace(self, kind: Kind, namespace: str, name: str) -> Compare:
        """That the namespace is there, and stays as it is until the object is made."""
        key = self.keys.object(NAMESPACE.resource, "", namespace)
        item = await self._read(key)
        if item is None and namespace in ALWAYS_THERE:  # the store was wiped, or restored to before they were made
            self._prepared = False
            await self.prepare()
            item = await self._read(key)
        if item is None:
            raise status.not_found(NAMESPACE, namespace)
        if status_of(decode(item.value, item.mod_revision, item.key)).get("phase") == "Terminating":
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise status.denied(kind, name, why)
        return Compare(item.key, item.mod_revision)

    async def _claim(self, kind: Kind, old: Object | None, new: Object | None) -> _Claimed:
        """What a Service takes and gives back on the way from ``old`` to ``new``; assigns what ``new`` needs."""
        before = self._held(old)
        if kind is not SERVICE or (not before and new is not None and not allocation.needs_allocation(new)):
            return _Claimed()
        addresses, ports = await self._taken(self.keys.address()), await self._taken(self.keys.port())
        if new is not None:
            taken = Taken(
                {key: holder.who for key, holder in addresses.items()},
                {int(key): holder.who for key, holder in ports.items() if key.isdigit()},
            )
            allocation.assign(new, await self.configuration(), taken)
        holders = {holder.key: holder for holder in (*addresses.values(), *ports.values())}
        after, me = self._held(new), allocation.owner(new or old or {})
        claimed = _Claimed()
        for key in sorted(after - holders.keys()):
            claimed.take(key, me)
        for key in sorted(before - after):
            if (holder := holders.get(key)) is not None and holder.who == me:
                claimed.give_back(key, holder.revision)
        return claimed

    def _held(self, service: Object | None) -> set[str]:
        """The keys that a stored Service holds besides its own."""
        claims = allocation.claims(service)
        return {*map(self.keys.address, claims.addresses), *map(self.keys.port, claims.ports)}

    async def _taken(self, prefix: str) -> dict[str, _Holder]:
        """Who holds what below a prefix, by the rest of the key."""
        page = await self.store.page(KeyRange(prefix))
        return {
            item.key[len(prefix) :]: _Holder(item.key, item.value.decode(errors="replace"), item.mod_revision)
            for item in page.items
        }

    def _key(self, kind: Kind, namespace: str, name: str) -> str:
        return self.keys.object(kind.resource, namespace if kind.namespaced else "", name)

    async def _read(self, key: str) -> KeyValue | None:
        page = await self.store.page(KeyRange(key, prefix=False))
        return page.items[0] if page.items else None


@dataclass(frozen=True, slots=True)
class _Holder:
    """Who holds a unique thing, at which key, since which revision."""

    key: str
    who: str
    revision: int


class _Claimed:
    """Comparisons and operations by which unique things change hands."""

    def __init__(self) -> None:
        self.compares: list[Compare] = []
        self.operations: list[Put | Delete] = []

    def take(self, key: str, owner: str) -> None:
        self.compares.append(Compare(key, ABSENT))
        self.operations.append(Put(key, owner.encode()))

    def give_back(self, key: str, revision: int) -> None:
        self.compares.append(Compare(key, revision))
        self.operations.append(Delete(key))


def _at(obj: Object, revision: int) -> Object:
    return {**obj, "metadata": {**metadata_of(obj), "resourceVersion": str(revision)}}


def _fitting(obj: Object) -> bytes:
    value = encode(obj)
    if len(value) > MAX_BYTES:
        raise status.too_large(MAX_BYTES)
    return value


def _decoded(item: KeyValue) -> Object | None:
    """None for what is no object: one malformed value must not hide all others."""
    try:
        return decode(item.value, item.mod_revision, item.key)
    except ObjectFormatError:
        return None


def _check_preconditions(kind: Kind, obj: Object, uid: str, version: str) -> None:
    has = metadata_of(obj)
    for word, wanted, found in (("UID", uid, has.get("uid")), ("ResourceVersion", version, has.get("resourceVersion"))):
        if wanted and wanted != found:
            why = f"Precondition failed: {word} in precondition: {wanted}, {word} in object meta: {found}"
            raise status.conflict(kind, name_of(obj), why)


def make_token(revision: int, after: str) -> str:
    """Where a list goes on: after a key, as of a revision."""
    return base64.urlsafe_b64encode(msgspec.json.encode({"rv": revision, "k": after})).decode()


def parse_token(token: str, prefix: str) -> tuple[int, str]:
    """Undoes :func:`make_token`; 0 and an empty key for no token. Raises StatusError (400)."""
    if not token:
        return 0, ""
    try:
        document: Any = msgspec.json.decode(base64.urlsafe_b64decode(token))
        revision, after = document["rv"], document["k"]
    except (msgspec.DecodeError, ValueError, KeyError, TypeError, RecursionError):
        raise status.bad_request("continue key is not valid: it is none that a list here gave out") from None
    is_known = isinstance(revision, int) and 0 < revision < 2**63  # etcd's are of 64 bits
    if not is_known or not isinstance(after, str) or not after.startswith(prefix):
        raise status.bad_request("continue key is not valid: it is of another list")
    return revision, after
