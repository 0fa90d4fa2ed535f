"""A DNS server of the outside, which does what the asked name says: ``python -m … ADDRESS LOG``.

The first label: ``ok`` (one address, TTL 300), ``short`` (TTL 1), ``slow`` (2.5 s later), ``dead`` (never), ``lying``
(first with another id, then for another name, then with strangers' records, then right), ``big`` (truncated by UDP; by
TCP 100 addresses), ``gone`` (NXDOMAIN for 60 s), ``empty`` (no such record), ``failing`` (SERVFAIL), ``alias`` (a CNAME
to ``ok``), ``garbage`` (bytes that are no message, then right). Every question is a line of LOG.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from pathlib import Path
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

ADDRESS = "203.0.113.7"
SLOW_SECONDS = 2.5


class Upstream:
    def __init__(self, log: Path) -> None:
        self._log = log

    def answers(self, data: bytes, *, tcp: bool) -> tuple[float, list[bytes]]:
        """After how many seconds comes what."""
        query = dns.message.from_wire(data)
        (question,) = query.question
        name = question.name.to_text()
        with self._log.open("a") as log:
            log.write(f"{name} {dns.rdatatype.to_text(question.rdtype)} {'tcp' if tcp else 'udp'}\n")
        kind = name.split(".")[0].split("-")[0].lower()
        response = dns.message.make_response(query, recursion_available=True)
        soa = dns.rrset.from_text("example.", 60, "IN", "SOA", "ns.example. admin.example. 1 2 3 4 60")
        right = [response.to_wire()]
        is_a = question.rdtype == dns.rdatatype.A
        if kind == "dead":
            return 0.0, []
        if kind == "failing":
            response.set_rcode(dns.rcode.SERVFAIL)
        elif kind == "gone":
            response.set_rcode(dns.rcode.NXDOMAIN)
            response.authority = [soa]
        elif kind == "empty" or not is_a:
            response.authority = [soa]
        elif kind == "big" and not tcp:
            response.flags |= dns.flags.TC
        elif kind == "big":
            response.answer = [dns.rrset.from_text(name, 60, "IN", "A", *(f"203.0.113.{n}" for n in range(1, 101)))]
        elif kind == "alias":
            response.answer = [
                dns.rrset.from_text(name, 60, "IN", "CNAME", "ok.example."),
                dns.rrset.from_text("ok.example.", 60, "IN", "A", ADDRESS),
            ]
        else:
            response.answer = [dns.rrset.from_text(name, 1 if kind == "short" else 300, "IN", "A", ADDRESS)]
        right = [response.to_wire(max_size=65535)]
        if kind == "lying":
            response.answer.append(dns.rrset.from_text("redis.default.svc.cluster.local.", 300, "IN", "A", "6.6.6.6"))
            right = [*self._lies(query), response.to_wire()]
        if kind == "garbage":
            right = [b"", b"x", data[:2] + b"\xff" * 40, *right]
        return (SLOW_SECONDS if kind == "slow" else 0.0), right

    @staticmethod
    def _lies(query: dns.message.Message) -> list[bytes]:
        lie = dns.message.make_response(query)
        lie.answer = [dns.rrset.from_text(query.question[0].name, 300, "IN", "A", "6.6.6.6")]
        other = dns.message.make_response(dns.message.make_query("other.example.", "A", id=query.id))
        other.answer = [dns.rrset.from_text("other.example.", 300, "IN", "A", "6.6.6.6")]
        wrong = lie.to_wire()
        return [bytes((wrong[0] ^ 0xFF, wrong[1])) + wrong[2:], other.to_wire()]


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str | object, int]) -> None:
        after, answers = self._upstream.answers(data, tcp=False)
        for each in answers:
            asyncio.get_running_loop().call_later(after, self._transport.sendto, each, address)


async def main(address: str, log: Path) -> None:
    upstream = Upstream(log)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        _, answers = upstream.answers(await reader.readexactly(length), tcp=True)
        for each in answers[-1:]:
            writer.write(struct.pack("!H", len(each)) + each)
        await writer.drain()
        writer.close()

    loop = asyncio.get_running_loop()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((address, 53))
    await loop.create_datagram_endpoint(lambda: Datagrams(upstream), sock=udp)
    async with await asyncio.start_server(converse, address, 53) as server:
        log.touch()
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
