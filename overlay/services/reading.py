"""Reading objects of every kind, stored or computed, as of one revision of the store.

What is computed is computed from what etcd had at that revision, so it is never staler than what is stored: from a
mirror that is proved to have all that etcd has, where somebody keeps one, else from what is read for this answer.
"""

from __future__ import annotations

from typing import Protocol

from overlay.errors import CompactedError
from overlay.services.computed import COMPUTED, everything, of_owner, of_service, owners
from overlay.services.mirror import ServicesMirror
from overlay.services.objects import status
from overlay.services.objects.document import Object, encode, metadata_of, name_of, namespace_of
from overlay.services.objects.kinds import ENDPOINT_SLICE, ENDPOINTS, NODE, POD, SERVICE, Kind
from overlay.services.objects.selectors import Selects
from overlay.services.storage import Listing, Storage, make_token, parse_token
from overlay.store.contract import KeyRange, KeyValue, Snapshot


class Live(Protocol):
    """Who keeps a mirror of everything."""

    async def fresh(self) -> ServicesMirror | None:
        """The mirror, with all that the store had when this was called; None where that is not proved. Good until
        something else is awaited."""


class Reading:
    """Gets and lists. The same words as :class:`~overlay.services.storage.Storage`, which has what is stored."""

    def __init__(self, storage: Storage, live: Live | None = None) -> None:
        self._storage = storage
        self._live = live
        self._keys = storage.keys
        self._last: tuple[tuple[str, str, str], int, ServicesMirror] | None = None  # for the next part of a list

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """One object. Raises StatusError (404)."""
        if kind is POD and (live := await self._fresh()) is not None:
            return _pod(live, namespace, name)
        if kind not in COMPUTED:
            return await self._storage.get(kind, namespace, name)
        service = _service_of(kind, name)
        mirror = await self._current(kind, namespace, service)
        key = self._keys.node(name) if kind is NODE else self._keys.object(kind.resource, namespace, name)
        owner = key if kind is NODE else self._keys.object(kind.resource, namespace, service)
        found = of_owner(mirror, kind, owner).get(key) or of_owner(mirror, kind, key).get(key)
        if found is None:
            raise status.not_found(kind, name)
        return found

    async def list(
        self, kind: Kind, namespace: str = "", *, limit: int = 0, token: str = "", takes: Selects | None = None,
        service: str = "",
    ) -> Listing:  # fmt: skip
        """See :meth:`Storage.list`.

        Args:
            service: where given, ``takes`` takes of what is computed only what belongs to Services of this name.
        """
        if kind not in COMPUTED:
            listing = await self._storage.list(kind, namespace, limit=limit, token=token, takes=takes)
            if kind is POD and not token and not listing.token:  # their keys have their containers' ids
                listing.items.sort(key=lambda pod: (namespace_of(pod), name_of(pod)))
            return listing
        revision, after = parse_token(token, self.span(kind, namespace).key)
        mirror = await self._current(kind, namespace, service, revision)
        rest = [owner for owner in owners(mirror, kind, namespace, service) if owner > after]
        items: list[Object] = []
        for number, owner in enumerate(rest, 1):
            found = of_owner(mirror, kind, owner).values()
            items += [obj for obj in found if takes is None or takes(obj)]
            if limit and len(items) >= limit and number < len(rest):  # all of one Service's slices, or none
                return Listing(items, mirror.revision, make_token(mirror.revision, owner))
        return Listing(items, mirror.revision)

    def span(self, kind: Kind, namespace: str) -> KeyRange:
        """The keys of a kind's objects, stored or not."""
        return self._storage.span(kind, namespace)

    async def snapshot(self, kind: Kind, namespace: str, revision: int) -> dict[str, KeyValue]:
        """The objects of a kind as they were, by key, as values that etcd has or would have.

        Raises CompactedError where that is not known any more.
        """
        if kind in COMPUTED:
            mirror = await self._mirror(kind, namespace, revision)
            return {key: as_stored(key, obj) for key, obj in everything(mirror, kind, namespace).items()}
        page = await self._storage.store.page(self.span(kind, namespace), revision=revision)
        return {item.key: item for item in page.items}

    async def refuse_computed(self, kind: Kind, namespace: str, name: str) -> None:
        """Raises StatusError (403) where an object is computed, so that nobody can write it."""
        if kind not in (ENDPOINTS, ENDPOINT_SLICE) or not name:
            return
        owner = (namespace, _service_of(kind, name))
        mirror = await self._current(kind, *owner)
        service = mirror.services.get(owner)
        key = self._keys.object(kind.resource, namespace, name)
        if service is not None and service.selector and key in of_service(mirror, owner):
            why = f"it is computed from the pods that Service {owner[1]} selects; without selector you write your own"
            raise status.denied(kind, name, why)

    async def _fresh(self) -> ServicesMirror | None:
        return None if self._live is None else await self._live.fresh()

    async def _current(self, kind: Kind, namespace: str, service: str = "", revision: int = 0) -> ServicesMirror:
        """What a computed kind is computed from, now, or at the revision of a list that goes on."""
        live = await self._fresh()
        if live is not None and revision in (0, live.revision):
            return live
        return await self._mirror(kind, namespace, revision, service)

    async def _mirror(self, kind: Kind, namespace: str, revision: int = 0, service: str = "") -> ServicesMirror:
        """What a computed kind is computed from, at one revision."""
        about = (kind.resource, namespace, service)
        if revision and self._last is not None and self._last[:2] == (about, revision):
            return self._last[2]
        keys = self._keys
        spans = [self.span(kind, namespace)]
        if kind is NODE:
            spans.append(KeyRange(keys.alive()))
        elif service and namespace:
            if kind is ENDPOINTS:
                spans = [KeyRange(keys.object(kind.resource, namespace, service), prefix=False)]
            spans.append(KeyRange(keys.object(SERVICE.resource, namespace, service), prefix=False))
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


def _service_of(kind: Kind, name: str) -> str:
    """The name of the Service to which an object of this name belongs, if it is computed."""
    return name.rpartition("-")[0] if kind is ENDPOINT_SLICE else name


def _pod(mirror: ServicesMirror, namespace: str, name: str) -> Object:
    """A pod by its name, which its key does not tell. Raises StatusError (404)."""
    keys = (key for key, pod in mirror.pods.items() if (pod.namespace, pod.name) == (namespace, name))
    found = next(filter(None, map(mirror.document, sorted(keys))), None)
    if found is None:
        raise status.not_found(POD, name)
    return found


def as_stored(key: str, obj: Object) -> KeyValue:
    """A computed object as etcd would have it."""
    return KeyValue(key, encode(obj), int(metadata_of(obj).get("resourceVersion") or 0))
