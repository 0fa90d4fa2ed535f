"""One question to one upstream: by UDP from a port of its own, by TCP where the answer does not fit.

Every question has a random id and, as its socket is a new one, a random port (RFC 5452); the socket is connected, so
that the kernel passes over what others send. What comes back and is no answer to this very question is passed over,
too, and counted.
"""

from __future__ import annotations

import asyncio
import socket
import struct

import dns.exception
import dns.flags
import dns.message
import dns.rcode

from overlay.services.dns.worker.counts import Counts

PORT = 53

_LENGTH = struct.Struct("!H")
_DATAGRAM = 65535
_FLAGS, _TC = 2, 0x02
"""The third byte, and the bit in it that says that the answer is cut off."""


async def ask(address: str, question: dns.message.Message, counts: Counts, port: int = PORT) -> dns.message.Message:
    """The upstream's answer; waits for as long as the caller lets it.

    Raises:
        OSError: it cannot be asked, or is not there.
    """
    answer = await _by_udp(address, port, question, counts)
    if answer.flags & dns.flags.TC:
        answer = await _by_tcp(address, port, question, counts)
    return answer


async def _by_udp(address: str, port: int, question: dns.message.Message, counts: Counts) -> dns.message.Message:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect((address, port))
        sock.send(question.to_wire())
        while True:
            datagram = await loop.sock_recv(sock, _DATAGRAM)
            is_cut = len(datagram) > _FLAGS and bool(datagram[_FLAGS] & _TC)
            # What is cut off may end within a record, so of that no more is read: it is asked for by TCP.
            if (answer := (_read if is_cut else _answer)(datagram, question)) is not None:
                return answer
            counts["upstream_wrong"] += 1


async def _by_tcp(address: str, port: int, question: dns.message.Message, counts: Counts) -> dns.message.Message:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        wire = question.to_wire()
        writer.write(_LENGTH.pack(len(wire)) + wire)
        try:
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            answer = _answer(await reader.readexactly(length), question)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("it closed the connection") from error
    finally:
        writer.close()
    if answer is None:
        counts["upstream_wrong"] += 1
        raise ConnectionResetError("it did not answer the question")
    return answer


def _answer(wire: bytes, question: dns.message.Message) -> dns.message.Message | None:
    """The message, if it answers the question; where no more than that can be read, as one that cannot tell."""
    if (message := _read(wire, question, whole=True)) is None and (message := _read(wire, question)) is not None:
        message.set_rcode(dns.rcode.SERVFAIL)
    return message


def _read(wire: bytes, question: dns.message.Message, *, whole: bool = False) -> dns.message.Message | None:
    """The message, without its records unless it is read whole, if it answers the question."""
    try:
        message = dns.message.from_wire(wire, ignore_trailing=True, question_only=not whole)
        # Id, question and opcode are compared. Where servers refuse they may leave the question out.
        return message if question.is_response(message) else None
    except (dns.exception.DNSException, ValueError, struct.error, IndexError):
        return None
