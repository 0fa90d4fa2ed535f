"""What of an upstream's bytes is an answer: by sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest
import pytest_asyncio

from overlay.services.dns.worker import upstream
from overlay.services.dns.worker.counts import Counts
from tests.support.upstream_server import Datagrams, Upstream

PATIENCE = 30.0


class Worse(Upstream):
    """Also ``torn`` (truncated by UDP within a record; by TCP as ``ok``) and ``bad`` (a record that is none)."""

    def answers(self, data: bytes, *, tcp: bool) -> tuple[float, list[bytes]]:
        after, right = super().answers(data, tcp=tcp)
        kind = dns.message.from_wire(data).question[0].name.to_text().split(".")[0]
        if kind == "torn" and not tcp:
            right = [right[0][:2] + bytes((right[0][2] | 0x02,)) + right[0][3:-3]]
        if kind == "bad":
            right = [right[0][:-4] + b"\x00\x00"]
        return after, right


@pytest_asyncio.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    """An upstream's, on 127.0.0.1."""
    server = Worse(tmp_path / "log")

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        _, answers = server.answers(await reader.readexactly(length), tcp=True)
        writer.write(struct.pack("!H", len(answers[-1])) + answers[-1])
        writer.close()

    listener = socket.create_server(("127.0.0.1", 0))
    number = int(listener.getsockname()[1])
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Datagrams(server), local_addr=("127.0.0.1", number))
    async with await asyncio.start_server(converse, sock=listener):
        yield number
    transport.close()


@pytest.mark.parametrize(
    ("name", "code", "records", "passed_over"),
    [
        ("ok.example", dns.rcode.NOERROR, 1, 0),
        ("lying.example", dns.rcode.NOERROR, 2, 2),
        # asyncio sends an empty datagram from Python 3.13 on.
        ("garbage.example", dns.rcode.NOERROR, 1, 3 if sys.version_info >= (3, 13) else 2),
        ("big.example", dns.rcode.NOERROR, 100, 0),
        ("torn.example", dns.rcode.NOERROR, 1, 0),
        ("bad.example", dns.rcode.SERVFAIL, 0, 0),
    ],
)
async def test_what_is_no_answer_is_passed_over_and_what_is_cut_off_comes_by_tcp(
    port: int, name: str, code: dns.rcode.Rcode, records: int, passed_over: int
) -> None:
    counts = Counts()
    async with asyncio.timeout(PATIENCE):
        found = await upstream.ask("127.0.0.1", dns.message.make_query(name, "A"), counts, port)
    assert (found.rcode(), sum(map(len, found.answer))) == (code, records)
    assert not found.flags & dns.flags.TC
    assert counts["upstream_wrong"] == passed_over
