"""One watch on etcd: from a revision on, nothing missed and nothing twice, until an error ends it.

etcd3's own watcher is not used: once the server is gone it spins at 100 % of a core and never resumes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from overlay.errors import CompactedError, StoreRestoredError
from overlay.store.contract import Event, Events, KeyRange
from overlay.store.etcd.cluster import Call, Cluster
from overlay.store.etcd.errors import CALL_FAILURES, TooMuchAtOnceError, WatchRefusedError
from overlay.store.etcd.rpc import END_OF_STREAM, key_bytes, key_value, pb, range_end
from overlay.store.etcd.settings import Endpoint

SILENCE = 10.0
"""Seconds without a response after which the server is asked for a sign of life."""

ANSWER_TIME = 5.0
"""Seconds that it then has, so that a frozen server is noticed within SILENCE + ANSWER_TIME = 15 s."""

PROGRESS_REQUEST = pb.WatchRequest.FromString(b"\x1a\x00")
"""An empty WatchProgressRequest: field 3, new in etcd 3.4, later than etcd3's stubs. Older servers pass over it."""


class History:
    """What the watches of one store have seen of its past, to notice when it is not the same past any more."""

    def __init__(self) -> None:
        self._cluster_id = 0
        self._term = 0

    async def check(self, cluster: Cluster, header: Any, after: int) -> None:
        """Tells a member that lags from a store that went back: restored, or wiped and filled anew.

        A watch that began after a revision of the lost past would wait in silence until that number comes round again.

        Args:
            cluster: to make sure at, with a linearizable read.
            header: of the member that made the watch.
            after: the revision that the watch begins after.

        Raises:
            StoreRestoredError: the store is before ``after``, or is another one.
        """
        if self._contradicts(header, after):
            request = pb.RangeRequest(key=b"\0", count_only=True)
            answer = await cluster.call(lambda call: call.unary(call.stubs.kv.Range, request))
            header = answer.header
            if self._contradicts(header, after):
                self._cluster_id, self._term = header.cluster_id, header.raft_term
                raise StoreRestoredError(header.revision)
        self._cluster_id, self._term = header.cluster_id, header.raft_term

    def _contradicts(self, header: Any, after: int) -> bool:
        another = self._cluster_id not in (0, header.cluster_id)
        return another or header.raft_term < self._term or header.revision < after


async def watch(cluster: Cluster, history: History, span: KeyRange, after: int) -> AsyncGenerator[Events, None]:
    """Every change in ``span`` after revision ``after``; see :meth:`overlay.store.contract.Store.watch`.

    Raises:
        CompactedError, StoreRestoredError, StoreUnavailableError, StoreDeniedError: the watch is over.
    """
    stream = await cluster.call(lambda call: _Stream.open(call, span, after), patient=True)
    try:
        await history.check(cluster, stream.header, after)
        revision = after
        yield Events(revision, ())
        while True:
            response = await stream.next()
            if response.canceled:
                raise _cancelled(response)
            events = [_event(event) for event in response.events if event.kv.mod_revision > after]
            if events:
                # Not the header's revision, which is the store's: a watch that catches up gets its past in pieces.
                revision = events[-1].kv.mod_revision
            elif response.watch_id == stream.watch_id:
                # etcd's own progress notification, every 10 minutes, comes in order with the events.
                # The answer to a request may run ahead of them (etcd issue 15220), so its revision is not used.
                revision = max(revision, response.header.revision)
            yield Events(revision, tuple(events))
    except CALL_FAILURES as error:
        failure = await cluster.gone(error, stream.endpoint, ANSWER_TIME)
        if isinstance(failure, TooMuchAtOnceError):  # it always would be: what was missed can only be read
            failure = CompactedError()
        raise failure from None
    except asyncio.CancelledError:
        cluster.raise_if_closed()
        raise
    finally:
        stream.cancel()


class _Stream:
    """The gRPC stream of one watch, with signs of life asked for in silence."""

    def __init__(self, rpc: Any, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.watch_id = 0  # the server's choice; it tells its signs of life apart by -1
        self.header: Any = None
        self._rpc = rpc
        self._read: asyncio.Task[Any] | None = None
        self._answers_progress = False

    @classmethod
    async def open(cls, call: Call, span: KeyRange, after: int) -> _Stream:
        """Makes the watch and waits until the server says that it is there.

        Raises:
            RpcError, TimeoutError: the server cannot.
            WatchRefusedError: it does not want to.
        """
        create = pb.WatchCreateRequest(
            key=key_bytes(span.key) or b"\0",
            range_end=range_end(span),
            # One earlier than wanted, and dropped again: a watch that starts at exactly the revision to which etcd was
            # compacted misses a deletion of that revision, without an error (seen with 3.4.23).
            start_revision=max(after, 1),
            progress_notify=True,
        )
        stream = cls(call.stubs.watch.Watch(metadata=call.metadata), call.endpoint)
        try:
            async with asyncio.timeout(call.timeout):
                await stream._rpc.write(pb.WatchRequest(create_request=create))
                created = await stream._receive()
        except BaseException:
            stream.cancel()
            raise
        if created.canceled:
            stream.cancel()
            raise _cancelled(created)
        stream.watch_id, stream.header = created.watch_id, created.header
        return stream

    async def next(self) -> Any:
        """The next response; TimeoutError if the server, asked for a sign of life, gives none."""
        asked = False
        while True:
            # A read is never given up half-way, for gRPC would end the whole stream: it goes on across time-outs.
            self._read = self._read or asyncio.create_task(self._receive())
            done, _ = await asyncio.wait({self._read}, timeout=ANSWER_TIME if asked else SILENCE)
            if done:
                response, self._read = self._read.result(), None
                # Told by the watch that it is not about: events that come meanwhile are no answer.
                self._answers_progress = self._answers_progress or (asked and response.watch_id != self.watch_id)
                return response
            if asked and self._answers_progress:
                raise TimeoutError
            if not asked:
                # Refused where the stream has ended just now; the read says why.
                with suppress(asyncio.InvalidStateError):
                    async with asyncio.timeout(ANSWER_TIME):
                        await self._rpc.write(PROGRESS_REQUEST)
            asked = not asked

    def cancel(self) -> None:
        """Ends the watch, here and at the server."""
        if self._read is not None and not self._read.cancel() and not self._read.cancelled():
            self._read.exception()  # told to asyncio as seen, or it complains
        self._rpc.cancel()

    async def _receive(self) -> Any:
        response = await self._rpc.read()
        if response is END_OF_STREAM:
            raise EOFError
        return response


def _cancelled(response: Any) -> Exception:
    if response.compact_revision:
        return CompactedError(response.compact_revision)
    return WatchRefusedError(response.cancel_reason)


def _event(event: Any) -> Event:
    return Event(key_value(event.kv), deleted=event.type == event.DELETE)
