"""A store as one process sees it: the contract of :class:`overlay.store.contract.Store` over a faulty line."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from overlay.errors import StoreError
from overlay.store.contract import Committed, Compare, Delete, Events, KeyRange, Put, Recollection, Snapshot
from tests.simulation.loop import ProcessLoop
from tests.simulation.server import Line, Operation, Request, Server, Stream

T = TypeVar("T")

Transaction = tuple[Sequence[Compare], Sequence[Put | Delete]]


class FaultyStore:
    """Asynchronous calls to the simulated server.

    Attributes:
        on_call: told of every call.
        on_commit: told before the server carries out a transaction of this process.
    """

    def __init__(self, loop: ProcessLoop, server: Server, line: Line) -> None:
        self.on_call: Callable[[Request], None] = lambda request: None
        self.on_commit: Callable[[Transaction], None] = lambda transaction: None
        self._loop, self._server, self._line = loop, server, line
        self._dead = False
        self._streams: list[Stream] = []

    def die(self) -> None:
        """The process is gone: its connections with it. What it has sent may still arrive."""
        self._dead = True
        for stream in self._streams:
            stream.open = False

    async def read(self, span: KeyRange) -> Snapshot:
        """See :class:`overlay.store.contract.Store`, as for all that follow."""
        return await self._call(Request.READ, lambda now: self._server.core.read(span, now))

    async def recall(self, span: KeyRange, revision: int, keys: Sequence[str]) -> Recollection:
        return await self._call(Request.READ, lambda now: self._server.core.recall(span, revision, keys, now))

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> Committed:
        def commit(now: float) -> Committed:
            self._server.core.expire(now)
            self.on_commit((compares, operations))
            return self._server.core.commit(compares, operations, now)

        return await self._call(Request.WRITE, commit)

    async def grant(self, lease_id: int, ttl: int) -> None:
        await self._call(Request.LEASE, lambda now: self._server.core.grant(lease_id, ttl, now))

    async def refresh(self, lease_id: int) -> int:
        return await self._call(Request.LEASE, lambda now: self._server.core.refresh(lease_id, now))

    async def time_to_live(self, lease_id: int) -> int:
        return await self._call(Request.LEASE, lambda now: self._server.core.time_to_live(lease_id, now))

    async def revoke(self, lease_id: int) -> None:
        await self._call(Request.LEASE, lambda now: self._server.core.revoke(lease_id, now))

    async def watch(self, span: KeyRange, after: int) -> AsyncIterator[Events]:
        inbox: deque[Events | StoreError] = deque()
        arrived = asyncio.Event()

        def deliver(what: Events | StoreError) -> None:
            inbox.append(what)
            self._loop.call_soon(arrived.set)

        stream = Stream(span, after, self._line, deliver, deliver)
        self._streams.append(stream)
        if not self._dead:
            self.on_call(Request.WATCH)
            self._server.watch(stream)
        try:
            while True:
                while inbox:
                    what = inbox.popleft()
                    if isinstance(what, StoreError):
                        raise what
                    yield what
                arrived.clear()
                await arrived.wait()
        finally:
            stream.open = False
            self._streams.remove(stream)

    async def close(self) -> None:
        self.die()

    async def _call(self, request: Request, operation: Callable[[float], T]) -> T:
        answer = self._loop.create_future()

        def reply(result: object) -> None:
            def settle() -> None:
                if answer.done():  # its task was cancelled
                    return
                if isinstance(result, StoreError):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)

            if not self._dead:
                self._loop.call_soon(settle)

        if not self._dead:
            self.on_call(request)
            plain: Operation = operation  # type: ignore[assignment]
            self._server.call(self._line, request, plain, reply)
        result: T = await answer
        return result
