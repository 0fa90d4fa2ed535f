"""Probes over real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from overlay.daemon.http import Health, serve
from overlay.errors import PortInUseError

READY = Health(alive=True, ready=False, reason="waiting for a lease")


async def ask_ready() -> Health:
    return READY


async def fetch(port: int, request: str) -> str:
    reader, writer = await asyncio.open_connection("localhost", port)
    writer.write(f"{request}\r\nHost: x\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer.decode()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /healthz HTTP/1.1", "200"),
        ("GET /healthz?verbose HTTP/1.1", "200"),
        ("GET /healthz?verbose=1&exclude=etcd HTTP/1.1", "200"),
        ("HEAD /healthz? HTTP/1.1", "200"),
        ("GET /readyz?timeout=1s HTTP/1.1", "503"),
        ("GET /healthzz HTTP/1.1", "404"),
        ("GET /?/healthz HTTP/1.1", "404"),
        ("POST /healthz HTTP/1.1", "404"),
        ("GET", "404"),
        ("", "404"),
    ],
)
async def test_paths(request_line: str, status: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    listening = asyncio.Event()
    server = asyncio.create_task(serve(("localhost", port), ask_ready, listening.set))
    try:
        async with asyncio.timeout(20):
            await listening.wait()
            assert (await fetch(port, request_line)).startswith(f"HTTP/1.0 {status} ")
    finally:
        server.cancel()


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1", "no-such-name.invalid"])
async def test_a_port_that_cannot_be_had_says_so(host: str) -> None:
    """Taken, or at an address that is not here (yet), or by a name that nobody knows."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"health port {port} on {host}: .*--healthz-port or --healthz-ip"):
            async with asyncio.timeout(30):
                await serve((host, port), ask_ready)


async def test_who_only_connects_keeps_nobody_from_an_answer_and_takes_no_descriptors() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    listening = asyncio.Event()
    server = asyncio.create_task(serve(("127.0.0.1", port), ask_ready, listening.set))
    idle: list[asyncio.StreamWriter] = []
    try:
        async with asyncio.timeout(60):
            await listening.wait()
            for _ in range(300):
                idle.append((await asyncio.open_connection("127.0.0.1", port))[1])
            assert (await fetch(port, "GET /readyz HTTP/1.1")).startswith("HTTP/1.0 503 ")
            held = [link for link in Path("/proc/self/fd").iterdir() if f":{port}" in str(_ends(link))]
            assert len(held) < 50, "what is not asked for anything is given up"
    finally:
        for writer in idle:
            writer.close()
        server.cancel()


def _ends(link: Path) -> object:
    """The local end of a socket that was accepted, by its descriptor; nothing for another descriptor."""
    try:
        with socket.socket(fileno=os.dup(int(link.name))) as duplicate:
            host, port = duplicate.getsockname()[:2]
            duplicate.getpeername()
    except (OSError, ValueError):
        return None
    return f"{host}:{port}"
