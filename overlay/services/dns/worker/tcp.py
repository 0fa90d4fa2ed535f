"""Questions by TCP: a connection may ask several, one after another (RFC 7766)."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from overlay.services.dns.worker.clients import Clients
from overlay.services.dns.worker.counts import Counts

MOST = 128
MOST_OF_ONE = 16
"""Connections at a time."""
IDLE_SECONDS = 10.0
"""Between two questions, and for an answer to be taken."""

_LENGTH = struct.Struct("!H")

Answers = Callable[[bytes], Awaitable[bytes | None]]


class TcpPort:
    """The socket that connections come to.

    Args:
        answer: answers a question, or closes the connection by None.
    """

    def __init__(self, clients: Clients, counts: Counts, answer: Answers) -> None:
        self._clients = clients
        self._counts = counts
        self._answer = answer
        self._open: Counter[bytes] = Counter()

    async def serve(self, listener: socket.socket) -> None:
        """Takes connections until cancelled."""
        async with await asyncio.start_server(self._connected, sock=listener, limit=1 << 16) as server:
            await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = socket.inet_aton(writer.get_extra_info("peername")[0])
        if self._clients.allowance(address, time.monotonic()) < 0:
            self._counts["strangers"] += 1
            writer.transport.abort()
            return
        self._open[address] += 1
        try:
            if self._open[address] <= MOST_OF_ONE and self._open.total() <= MOST:
                await self._converse(address, reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client's affair
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _converse(self, address: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                question = await reader.readexactly(length)
            left = self._clients.allowance(address, time.monotonic())
            if left <= 0:
                self._counts["strangers" if left < 0 else "too_many"] += 1
                return
            self._clients.spend(address, 1)
            self._counts["asked"] += 1
            if (answer := await self._answer(question)) is None:
                return
            writer.write(_LENGTH.pack(len(answer)) + answer)
            async with asyncio.timeout(IDLE_SECONDS):
                await writer.drain()
