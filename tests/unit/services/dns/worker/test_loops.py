"""An upstream that asks us back, by real sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import dns.message
import dns.rcode
import pytest

from overlay.services.dns.worker import resolving
from overlay.services.dns.worker.counts import Counts
from overlay.services.dns.worker.resolving import Resolver, Wanted

PATIENCE = 30.0

Answers = Callable[[Wanted], Awaitable[dns.rcode.Rcode]]


@asynccontextmanager
async def upstream(address: str, port: int, answers: Answers) -> AsyncIterator[int]:
    """One that gives the codes of ``answers``; the port that it has."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind((address, port))

        async def serve() -> None:
            while True:
                data, asker = await loop.sock_recvfrom(sock, 4096)
                query = dns.message.from_wire(data)
                (question,) = query.question
                response = dns.message.make_response(query)
                response.set_rcode(await answers(Wanted(question.name, question.rdtype, False, False)))
                await loop.sock_sendto(sock, response.to_wire(), asker)

        serving = asyncio.create_task(serve())
        try:
            yield sock.getsockname()[1]
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.01)


async def test_the_one_that_asks_back_is_named_and_the_other_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "LOOP_SECONDS", 0.05)
    asks_back, told = True, 0
    made: list[Resolver] = []

    async def loops(wanted: Wanted) -> dns.rcode.Rcode:
        upper = Wanted(dns.name.from_text(wanted.name.to_text().upper()), wanted.type, False, False)
        return dns.rcode.Rcode((await made[0].find(upper)).code) if asks_back else dns.rcode.NXDOMAIN

    async def tells(_: Wanted) -> dns.rcode.Rcode:
        nonlocal told
        told += 1
        return dns.rcode.NXDOMAIN

    async with upstream("127.0.0.2", 0, loops) as port, upstream("127.0.0.3", port, tells):
        made.append(Resolver(Counts(), port))
        looking = asyncio.create_task(made[0].look_for_loops())
        try:
            made[0].use(("127.0.0.2", "127.0.0.3"))
            await until(lambda: made[0].looping == {"127.0.0.2"} and told > 2)
            asks_back = False
            await until(lambda: not made[0].looping)
            seen = told
            await until(lambda: told > seen + 2)
            assert made[0].looping == set()
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
