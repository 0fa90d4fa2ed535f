"""Connections of clients, and of others, by real sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Network

import pytest

from overlay.services.dns.worker import tcp
from overlay.services.dns.worker.clients import Clients
from overlay.services.dns.worker.counts import Counts
from overlay.services.dns.worker.tcp import TcpPort

PATIENCE = 30.0


@asynccontextmanager
async def answering(network: str, counts: Counts) -> AsyncIterator[tuple[str, int]]:
    """A port that gives questions back to whoever is in ``network``."""
    clients = Clients()
    clients.admit([IPv4Network(network)], 0)

    async def echo(question: bytes) -> bytes | None:
        return question

    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(TcpPort(clients, counts, echo).serve(listener))
    try:
        yield listener.getsockname()
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_strangers_take_no_place_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long they say nothing."""
    counts = Counts()
    monkeypatch.setattr(tcp, "IDLE_SECONDS", 3600.0)
    async with asyncio.timeout(PATIENCE), answering("192.0.2.0/24", counts) as address:
        silent = [await asyncio.open_connection(*address) for _ in range(tcp.MOST_OF_ONE + 1)]
        for reader, writer in silent:
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
    assert counts["strangers"] == len(silent)
    assert counts["asked"] == 0
