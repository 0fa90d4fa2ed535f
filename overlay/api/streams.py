"""A watch as its client sees it: one JSON document a line, from a revision on, until its time is up."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from overlay.api.derived import Change
from overlay.api.paths import Query, Target
from overlay.api.watching import Hub
from overlay.services.computed import service_named
from overlay.services.objects.document import Object, ObjectFormatError, decode, metadata_of, namespace_of
from overlay.services.objects.kinds import POD
from overlay.services.objects.selectors import Selects, both, selector
from overlay.services.objects.status import StatusError, bad_request
from overlay.services.reading import Reading
from overlay.store.contract import KeyValue

BOOKMARK_SECONDS = 60.0
"""Between bookmarks, for clients that ask for them."""

Render = Callable[[Object | None, bool], Object]
"""An object as the client wants it (None: no object, as a bookmark); whether it is the first of this watch."""

INITIAL_EVENTS_END = "k8s.io/initial-events-end"


@dataclass(slots=True)
class _Lines:
    """Makes the lines of one watch."""

    target: Target
    takes: Selects
    render: Render
    first: bool = True

    def event(self, kind: str, obj: Object) -> bytes:
        line = msgspec.json.encode({"type": kind, "object": self.render(obj, self.first)}) + b"\n"
        self.first = False
        return line

    def changed(self, change: Change) -> bytes:
        """Objects that leave what a selector takes are deleted for this client, those that enter it added."""
        old, new = self._taken(change.old), self._taken(change.new)
        if new is not None:
            return self.event("ADDED" if old is None else "MODIFIED", new)
        if old is not None:
            version = {"resourceVersion": str(change.revision)}
            return self.event("DELETED", {**old, "metadata": {**metadata_of(old), **version}})
        return b""

    def bookmark(self, revision: int, *, initial: bool = False) -> bytes:
        metadata: dict[str, Any] = {"resourceVersion": str(revision), "creationTimestamp": None}
        if initial:
            metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
        kind = self.target.kind
        version = self.target.api_version or kind.api_version
        document = {"kind": kind.name, "apiVersion": version, "metadata": metadata}
        if shown := self.render(None, self.first):  # as a Table, or as metadata alone
            document = {**shown, "metadata": metadata}
        return msgspec.json.encode({"type": "BOOKMARK", "object": document}) + b"\n"

    def _taken(self, item: KeyValue | None) -> Object | None:
        obj = None if item is None else _decoded(item)
        return obj if obj is not None and self.takes(obj) else None


@lru_cache(maxsize=1024)
def _decoded(item: KeyValue) -> Object | None:
    """Kept, for many clients hear of the same change; nobody changes it."""
    try:
        return decode(item.value, item.mod_revision, item.key)
    except ObjectFormatError:
        return None


async def lines(
    reading: Reading, hub: Hub, target: Target, query: Query, render: Render
) -> AsyncGenerator[bytes, None]:
    """What a watch sends, in pieces. The first piece comes once it is sure that there is a watch.

    Raises:
        StatusError: there is none; or, later, it cannot go on (see :func:`error_line`).
        StoreError: etcd does not answer.
    """
    if query.initial_events and not (query.bookmarks and query.match == "NotOlderThan"):
        raise bad_request("sendInitialEvents needs resourceVersionMatch=NotOlderThan and allowWatchBookmarks=true")
    takes = selector(target.kind, query.labels, query.fields)
    if target.name:
        takes = both(selector(target.kind, "", f"metadata.name={target.name}"), takes)
    if target.kind is POD and target.namespace:
        takes = both(takes, lambda pod: namespace_of(pod) == target.namespace)
    made = _Lines(target, takes, render)
    after = int(query.version or 0)
    if after == 0 and query.initial_events is False:  # only what changes from now on
        after = await hub.now()
        yield b""
    elif after == 0 or query.initial_events:
        service = service_named(target.kind, query.labels, query.fields)
        listing = await reading.list(target.kind, target.namespace, takes=takes, service=service)
        after = listing.revision
        yield b"".join(made.event("ADDED", obj) for obj in listing.items)
        if query.initial_events:
            yield made.bookmark(after, initial=True)
    told = after
    async for batch in hub.changes(target.kind, target.namespace, after, tick=BOOKMARK_SECONDS):
        yield _joined(made, batch.changes)
        if batch.ticked and query.bookmarks and batch.live and batch.revision >= told:
            told = batch.revision
            yield made.bookmark(told)


def _joined(made: _Lines, changes: Sequence[Change]) -> bytes:
    return b"".join(map(made.changed, changes))


def error_line(error: StatusError) -> bytes:
    """How a watch that has begun ends where it cannot go on: clients list again."""
    return msgspec.json.encode({"type": "ERROR", "object": error.document()}) + b"\n"
