"""One TCP port: who connects is connected to an endpoint, and bytes are copied both ways until both sides are done."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from itertools import chain, cycle, islice, repeat

from overlay.services.proxy.userspace.messages import WAITING, Endpoint
from overlay.services.proxy.userspace.worker.balancing import Balancer
from overlay.services.proxy.userspace.worker.counts import Counts

PATIENCE = (0.25, 0.5, 1.0, 2.0)
"""Seconds for each dial (kubernetes ``pkg/proxy/userspace/proxysocket.go``, ``EndpointDialTimeouts``); an endpoint that
refuses costs none. All endpoints are tried once, and four dials are made at least."""

MOST_CONNECTIONS = 2000
"""At a time; who comes then is turned away."""

_CHUNK = 16384
"""Bytes that are read at once. With asyncio's buffers it makes at most some 100 KB a connection."""


class TcpPort:
    """A listening socket, from :meth:`start` to :meth:`close`."""

    def __init__(self, listening: socket.socket, balancer: Balancer, counts: Counts) -> None:
        self._listening, self._counts = listening, counts
        self.balancer = balancer
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Accepts from now on."""
        self._server = await asyncio.start_server(self._serve, sock=self._listening, limit=_CHUNK, backlog=WAITING)

    def close(self) -> None:
        """Accepts no more; connections go on."""
        if self._server is not None:
            self._server.close()

    def changed(self) -> None:
        """Connections that are made stay with their endpoints."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counts = self._counts
        if counts.connections >= MOST_CONNECTIONS:
            counts.turned_away += 1
            writer.transport.abort()
            return
        counts.connections += 1
        try:
            with contextlib.suppress(OSError):  # either side's, which its peer has noticed
                await self._join(reader, writer)
        finally:
            counts.connections -= 1
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        dialled = await self._dial(peer[0]) if peer else None
        if dialled is None:
            self._counts.failed += 1
            return
        far_reader, far_writer = dialled
        try:
            for each in (writer, far_writer):
                _prepare(each)
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, far_writer))
                group.create_task(_copy(far_reader, writer))
            await far_writer.drain()
            for each in (writer, far_writer):
                each.close()
                await each.wait_closed()
        except* OSError:
            pass
        finally:
            far_writer.transport.abort()

    async def _dial(self, client: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        order = self.balancer.order(client, time.monotonic())
        for patience, endpoint in self._attempts(order):
            try:
                async with asyncio.timeout(patience):
                    dialled = await asyncio.open_connection(*endpoint, limit=_CHUNK)
            except (OSError, TimeoutError):
                self._counts.moved_on += 1
                continue
            self._counts.dialled += 1
            self.balancer.taken(client, endpoint, time.monotonic())
            return dialled
        return None

    @staticmethod
    def _attempts(order: list[Endpoint]) -> list[tuple[float, Endpoint]]:
        number = max(len(order), len(PATIENCE)) if order else 0
        return list(islice(zip(chain(PATIENCE, repeat(PATIENCE[-1])), cycle(order), strict=False), number))


def _prepare(writer: asyncio.StreamWriter) -> None:
    writer.transport.set_write_buffer_limits(high=_CHUNK)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the end, which is passed on: the other way may go on."""
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
