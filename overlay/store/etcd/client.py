"""The store on a real etcd (v3 API): keeps :class:`overlay.store.contract.Store`'s contract.

The parts, from the outside in: ``settings`` (where and who), this module (facts to requests and back), ``watch`` (one
watch), ``cluster`` (members, failover, tokens), ``errors`` (what went wrong, in plain words), ``rpc`` (alone imports
gRPC), ``api`` (etcd's API, from the etcd3 package).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial
from typing import Any

from overlay.errors import LeaseNotFoundError, StoreUnavailableError
from overlay.store.contract import (
    Committed,
    Compare,
    Delete,
    Events,
    KeyRange,
    KeyValue,
    Page,
    Put,
    Recollection,
    Snapshot,
)
from overlay.store.etcd.cluster import Call, Cluster
from overlay.store.etcd.errors import LeaseExistsError, TooMuchAtOnceError
from overlay.store.etcd.rpc import END_OF_STREAM, key_bytes, key_value, pb, range_end
from overlay.store.etcd.settings import EtcdSettings
from overlay.store.etcd.watch import History, watch

__all__ = ["EtcdSettings", "EtcdStore"]

SMALL_PAGE = 32
"""Keys in one answer where it would be too long otherwise: etcd takes no request of more than 1.5 MiB as a rule, so no
value of more, and these fit into :data:`overlay.store.etcd.rpc.MAX_RESPONSE`."""

PAGE = 1000
"""Keys in one answer: 170 KB of leases, which cost etcd 1.4 ms; half as many cost 1.0, since it counts all the rest."""


class EtcdStore:
    """etcd v3 as a :class:`~overlay.store.contract.Store`.

    Connects when first used, so it can be made while etcd, or the files that its TLS needs, are away. To be used within
    one event loop. Keys are UTF-8.
    """

    def __init__(self, settings: EtcdSettings) -> None:
        self._cluster = Cluster(settings)
        self._history = History()

    @property
    def endpoint(self) -> str:
        """URL of the member that answered last, or that is tried next."""
        return self._cluster.endpoint.url

    async def read(self, span: KeyRange) -> Snapshot:
        """See :meth:`overlay.store.contract.Store.read`.

        In pages, each with a limit of its own: what a busy server has done of a large range is not thrown away for what
        is still to come.
        """
        try:
            return await self._read(span, PAGE)
        except TooMuchAtOnceError:
            return await self._read(span, SMALL_PAGE)

    async def _read(self, span: KeyRange, limit: int) -> Snapshot:
        items: list[KeyValue] = []
        answer = first = await self._cluster.call(partial(_ask, _range(span, limit=limit)), patient=True)
        while True:
            if (answer.header.cluster_id, answer.header.raft_term) != (first.header.cluster_id, first.header.raft_term):
                raise StoreUnavailableError("another leader answers than before", about="etcd")
            items += [key_value(kv) for kv in answer.kvs]
            if not answer.more:
                return Snapshot(first.header.revision, tuple(items))
            rest = _range(span, begin=answer.kvs[-1].key + b"\0", limit=limit, revision=first.header.revision)
            answer = await self._cluster.call(partial(_ask, rest), patient=True)

    async def recall(self, span: KeyRange, revision: int, keys: Sequence[str]) -> Recollection:
        """See :meth:`overlay.store.contract.Store.recall`.

        A transaction, so that all of it is asked at once; one by one where that is too much for etcd.
        """
        ranges = [_range(span, revision=revision, count_only=True)]
        ranges += [_range(KeyRange(key, prefix=False), revision=revision) for key in keys]
        request = pb.TxnRequest(success=[pb.RequestOp(request_range=each) for each in ranges])
        try:
            answer = await self._cluster.call(lambda call: call.unary(call.stubs.kv.Txn, request), patient=True)
            answers = [response.response_range for response in answer.responses]
        except TooMuchAtOnceError:
            answers = [await self._cluster.call(partial(_ask, each), patient=True) for each in ranges]
        counted, *found = answers
        return Recollection(counted.count, tuple(key_value(kv) for each in found for kv in each.kvs))

    async def page(self, span: KeyRange, *, limit: int = 0, after: str = "", revision: int = 0) -> Page:
        """See :meth:`overlay.store.contract.PagedStore.page`."""
        begin = key_bytes(after) + b"\0" if after else b""
        request = _range(span, begin=begin, limit=limit, revision=revision)
        answer = await self._cluster.call(partial(_ask, request))
        items = tuple(key_value(kv) for kv in answer.kvs)
        return Page(revision or answer.header.revision, items, answer.count - len(items))

    async def unchanged(self, span: KeyRange, revision: int, count: int) -> bool:
        """See :meth:`overlay.store.contract.PagedStore.unchanged`. What was deleted since leaves fewer keys, for none
        can have been added that is not newer."""
        older = pb.Compare(
            key=key_bytes(span.key) or b"\0", range_end=range_end(span),
            target=pb.Compare.MOD, result=pb.Compare.LESS, mod_revision=revision + 1,
        )  # fmt: skip
        counted = pb.RequestOp(request_range=_range(span, count_only=True))
        request = pb.TxnRequest(compare=[older], success=[counted])
        answer = await self._cluster.call(lambda call: call.unary(call.stubs.kv.Txn, request))
        return bool(answer.succeeded) and int(answer.responses[0].response_range.count) == count

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> Committed:
        """See :meth:`overlay.store.contract.Store.commit`.

        Not repeated at another member once it may have reached one: its comparisons would then fail against its own
        first writing, and a success would be told as a failure.
        """
        request = pb.TxnRequest(
            compare=[each for compare in compares for each in _compare(compare)],
            success=[_operation(operation) for operation in operations],
            failure=[_get(key) for key in dict.fromkeys(compare.key for compare in compares)],
        )
        answer = await self._cluster.call(lambda call: call.unary(call.stubs.kv.Txn, request), repeatable=False)
        if answer.succeeded:
            return Committed(True, answer.header.revision)
        current = tuple(key_value(kv) for response in answer.responses for kv in response.response_range.kvs)
        return Committed(False, answer.header.revision, current)

    async def grant(self, lease_id: int, ttl: int) -> None:
        """See :meth:`overlay.store.contract.Store.grant`. etcd raises a TTL below 1.5 election timeouts to that."""
        request = pb.LeaseGrantRequest(ID=lease_id, TTL=ttl)
        try:
            await self._cluster.call(lambda call: call.unary(call.stubs.lease.LeaseGrant, request))
        except LeaseExistsError:
            return

    async def refresh(self, lease_id: int) -> int:
        """See :meth:`overlay.store.contract.Store.refresh`."""
        answer = await self._cluster.call(lambda call: _keep_alive_once(call, lease_id))
        return max(int(answer.TTL), 0)

    async def time_to_live(self, lease_id: int) -> int:
        """See :meth:`overlay.store.contract.Store.time_to_live`."""
        request = pb.LeaseTimeToLiveRequest(ID=lease_id)
        answer = await self._cluster.call(lambda call: call.unary(call.stubs.lease.LeaseTimeToLive, request))
        return 0 if answer.TTL < 0 else max(int(answer.TTL), 1)  # below 0: none; 0: its last second

    async def revoke(self, lease_id: int) -> None:
        """See :meth:`overlay.store.contract.Store.revoke`."""
        request = pb.LeaseRevokeRequest(ID=lease_id)
        try:
            await self._cluster.call(lambda call: call.unary(call.stubs.lease.LeaseRevoke, request))
        except LeaseNotFoundError:
            return

    def watch(self, span: KeyRange, after: int) -> AsyncGenerator[Events, None]:
        """See :meth:`overlay.store.contract.Store.watch`. Closing the generator ends the watch at the server."""
        return watch(self._cluster, self._history, span, after)

    async def reconnect(self) -> None:
        """Drops all connections; see :meth:`overlay.store.etcd.cluster.Cluster.reconnect`."""
        await self._cluster.reconnect()

    async def close(self) -> None:
        """See :meth:`overlay.store.contract.Store.close`."""
        await self._cluster.close()


def _range(span: KeyRange, *, begin: bytes = b"", **more: int) -> Any:
    """A request for the keys of ``span``, from ``begin`` on where that is given."""
    return pb.RangeRequest(key=begin or key_bytes(span.key) or b"\0", range_end=range_end(span), **more)


async def _ask(request: Any, call: Call) -> Any:
    return await call.unary(call.stubs.kv.Range, request)


def _compare(compare: Compare) -> Iterator[Any]:
    key = key_bytes(compare.key)
    yield pb.Compare(key=key, target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=compare.mod_revision)
    if compare.value is not None:
        yield pb.Compare(key=key, target=pb.Compare.VALUE, result=pb.Compare.EQUAL, value=compare.value)


def _operation(operation: Put | Delete) -> Any:
    match operation:
        case Put(key, value, lease_id):
            return pb.RequestOp(request_put=pb.PutRequest(key=key_bytes(key), value=value, lease=lease_id))
        case Delete(key):
            return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key_bytes(key)))


def _get(key: str) -> Any:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key_bytes(key)))


async def _keep_alive_once(call: Call, lease_id: int) -> Any:
    """One refresh over etcd's stream of them."""
    stream = call.stubs.lease.LeaseKeepAlive(timeout=call.timeout, metadata=call.metadata)
    try:
        # A limit of our own: gRPC's write waits for ever where the channel was closed before the stream had begun.
        async with asyncio.timeout(call.timeout):
            await stream.write(pb.LeaseKeepAliveRequest(ID=lease_id))
            answer = await stream.read()
        if answer is END_OF_STREAM:
            raise EOFError
        return answer
    finally:
        stream.cancel()
