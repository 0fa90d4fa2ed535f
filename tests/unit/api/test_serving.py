"""The API on a TCP port, over TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
import tracemalloc

import pytest

from overlay.api.auth import Tokens
from overlay.api.place import Identity
from overlay.api.server import TLS_BUFFER, Api, serving
from overlay.services.keys import Keys
from overlay.services.storage import Storage
from tests.support.memory_store import MemoryStore

CONNECTIONS = 20


def connected(port: int, authority: bytes) -> ssl.SSLSocket:
    """A client's side of one connection, on which a request was answered."""
    context = ssl.create_default_context(cadata=authority.decode())
    plain = socket.create_connection(("127.0.0.1", port), timeout=60)
    found = context.wrap_socket(plain, server_hostname="127.0.0.1")
    found.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer w\r\n\r\n")
    assert found.recv(4096).startswith(b"HTTP/1.1 200 OK")
    return found


async def test_a_connection_that_says_nothing_costs_little_memory() -> None:
    identity = Identity.new()
    api = Api(Storage(MemoryStore(), Keys()), Tokens("w"))
    async with serving(api, 0, identity.tls()) as port:
        clients = [await asyncio.to_thread(connected, port, identity.certificates.authority)]
        tracemalloc.start()
        try:
            for _ in range(CONNECTIONS):
                clients.append(await asyncio.to_thread(connected, port, identity.certificates.authority))
            size, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            for client in clients:
                client.close()
    assert size / CONNECTIONS < 3 * TLS_BUFFER


async def test_a_client_that_does_not_know_the_authority_gets_nothing() -> None:
    identity, other = Identity.new(), Identity.new()
    async with serving(Api(Storage(MemoryStore(), Keys()), Tokens("w")), 0, identity.tls()) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(connected, port, other.certificates.authority)
