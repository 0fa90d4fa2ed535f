"""Reading objects of every kind, stored or computed, as of one revision of the store.

What is computed is computed from what etcd had at that revision, for each answer anew: it is never staler than what is
stored.
"""

from __future__ import annotations

from overlay.errors import CompactedError
from overlay.services.computed import COMPUTED, everything, of_owner, owners
from overlay.services.mirror import ServicesMirror
from overlay.services.objects import status
from overlay.services.objects.document import Object, encode, metadata_of, name_of
from overlay.services.objects.kinds import ENDPOINT_SLICE, ENDPOINTS, NODE, SERVICE, Kind
from overlay.services.objects.selectors import Selects
from overlay.services.storage import Listing, Storage, make_token, parse_token
from overlay.store.contract import KeyRange, KeyValue, Snapshot


class Reading:
    """Gets and lists. The same words as :class:`~overlay.services.storage.Storage`, which has what is stored."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._keys = storage.keys
        self._last: tuple[tuple[str, str, str], int, ServicesMirror] | None = None  # for the next part of a list

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """One object. Raises StatusError (404)."""
        if kind not in COMPUTED:
            return await self._storage.get(kind, namespace, name)
        wanted = name if kind is ENDPOINTS else ""
        mirror = await self._mirror(kind, namespace, service=wanted)
        key = self._keys.node(name) if kind is NODE else self._keys.object(kind.resource, namespace, name)
        found = everything(mirror, kind, namespace).get(key)
        if found is None:
            raise status.not_found(kind, name)
        return found

    async def list(
        self, kind: Kind, namespace: str = "", *, limit: int = 0, token: str = "", takes: Selects | None = None
    ) -> Listing:
        """See :meth:`Storage.list`."""
        if kind not in COMPUTED:
            return await self._storage.list(kind, namespace, limit=limit, token=token, takes=takes)
        revision, after = parse_token(token, self._storage.span(kind, namespace).key)
        mirror = await self._mirror(kind, namespace, revision)
        rest = [owner for owner in owners(mirror, kind, namespace) if owner > after]
        items: list[Object] = []
        for number, owner in enumerate(rest, 1):
            found = of_owner(mirror, kind, owner).values()
            items += [obj for obj in found if takes is None or takes(obj)]
            if limit and len(items) >= limit and number < len(rest):  # all of one Service's slices, or none
                return Listing(items, mirror.revision, make_token(mirror.revision, owner))
        return Listing(items, mirror.revision)

    async def snapshot(self, kind: Kind, namespace: str, revision: int) -> dict[str, KeyValue]:
        """The objects of a kind as they were, by key, as values that etcd has or would have.

        Raises CompactedError where that is not known any more.
        """
        if kind in COMPUTED:
            mirror = await self._mirror(kind, namespace, revision)
            return {key: as_stored(key, obj) for key, obj in everything(mirror, kind, namespace).items()}
        page = await self._storage.store.page(self._storage.span(kind, namespace), revision=revision)
        return {item.key: item for item in page.items}

    async def refuse_computed(self, kind: Kind, namespace: str, name: str) -> None:
        """Raises StatusError (403) where an object is computed, so that nobody can write it."""
        if kind not in (ENDPOINTS, ENDPOINT_SLICE) or not name:
            return
        mirror = await self._mirror(kind, namespace, service=name if kind is ENDPOINTS else "")
        key = self._keys.object(kind.resource, namespace, name)
        for owner, service in mirror.services.items():
            computed = service.selector and owner[0] == namespace
            if computed and (owner[1] == name if kind is ENDPOINTS else key in _slice_keys(mirror, owner)):
                why = (
                    f"it is computed from the pods that Service {owner[1]} selects; without selector you write your own"
                )
                raise status.denied(kind, name, why)

    async def _mirror(self, kind: Kind, namespace: str, revision: int = 0, service: str = "") -> ServicesMirror:
        """What a computed kind is computed from, at one revision."""
        about = (kind.resource, namespace, service)
        if revision and self._last is not None and self._last[:2] == (about, revision):
            return self._last[2]
        keys = self._keys
        spans = [self._storage.span(kind, namespace)]
        if kind is NODE:
            spans.append(KeyRange(keys.alive()))
        elif service:
            spans = [
                KeyRange(keys.object(each.resource, namespace, service), prefix=False) for each in (SERVICE, ENDPOINTS)
            ]
        else:
            spans.append(KeyRange(keys.objects(SERVICE.resource, namespace)))
        items: list[KeyValue] = []
        mirror = ServicesMirror(keys)
        try:
            for span in spans:
                page = await self._storage.store.page(span, revision=revision)
                revision = page.revision
                items += page.items
            mirror.load(Snapshot(revision, tuple(items)), 0.0)
            if any(each.selector for each in mirror.services.values()):
                page = await self._storage.store.page(KeyRange(keys.pods()), revision=revision)
                items += page.items
                mirror = ServicesMirror(keys)
                mirror.load(Snapshot(revision, tuple(items)), 0.0)
        except CompactedError:
            raise status.expired(f"too old resource version: {revision}") from None
        self._last = about, mirror.revision, mirror
        return mirror


def _slice_keys(mirror: ServicesMirror, owner: tuple[str, str]) -> set[str]:
    return {
        mirror.keys.object(ENDPOINT_SLICE.resource, owner[0], name_of(each)) for each in mirror.slices(owner)
    }  # fmt: skip


def as_stored(key: str, obj: Object) -> KeyValue:
    """A computed object as etcd would have it."""
    return KeyValue(key, encode(obj), int(metadata_of(obj).get("resourceVersion") or 0))
