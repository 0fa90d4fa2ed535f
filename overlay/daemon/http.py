"""``/healthz`` and ``/readyz`` for probes, over plain HTTP/1.0; only when ``--healthz-port`` asks for it.

``/healthz``: 200 while the datapath answers, else 503 · ``/readyz``: 200 once the subnet is written and packets can
pass, else 503. The body says why, in one line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from overlay.errors import PortInUseError

_REQUEST_LIMIT = 8192
_REQUEST_SECONDS = 5.0
_AT_ONCE = 32
"""Connections: whoever reaches the port could else use up the descriptors of the whole daemon."""


@dataclass(frozen=True, slots=True)
class Health:
    """What the agent says of itself when asked."""

    alive: bool
    ready: bool
    reason: str


async def serve(
    address: tuple[str, int], ask: Callable[[], Awaitable[Health]], listening: Callable[[], None] = lambda: None
) -> None:
    """Answers probes until cancelled; tells ``listening`` once it can.

    Raises:
        PortInUseError: the port is taken, or the address is not one of this machine's now.
    """

    here: dict[asyncio.StreamWriter, None] = {}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(here) >= _AT_ONCE:
            oldest = next(iter(here))  # which asks for nothing: what asks is answered and gone
            del here[oldest]
            oldest.transport.abort()
        here[writer] = None
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                status, body = _respond(head, await ask())
                head_lines = (
                    f"HTTP/1.0 {status}",
                    "Content-Type: text/plain",
                    f"Content-Length: {len(body)}",
                    "",
                    body,
                )
                writer.write("\r\n".join(head_lines).encode())
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass
        finally:
            here.pop(writer, None)
            writer.close()

    host, port = address
    try:
        server = await asyncio.start_server(answer, host, port, limit=_REQUEST_LIMIT)
    except (OSError, UnicodeError) as error:  # the latter of a name that no resolver takes
        raise PortInUseError(
            getattr(error, "strerror", None) or str(error),
            about=f"health port {port} on {host}",
            remedy="choose another --healthz-port or --healthz-ip",
        ) from error
    listening()
    async with server:
        await server.serve_forever()


def _respond(head: bytes, health: Health) -> tuple[str, str]:
    words = head.split(b" ", 2)
    verdicts = {b"/healthz": health.alive, b"/readyz": health.ready}
    path = words[1].partition(b"?")[0] if len(words) > 1 else b""
    if words[0] not in (b"GET", b"HEAD") or path not in verdicts:
        return "404 Not Found", "ask for /healthz or /readyz\n"
    good = verdicts[path]
    body = "" if words[0] == b"HEAD" else f"{health.reason}\n"
    return ("200 OK" if good else "503 Service Unavailable"), body
