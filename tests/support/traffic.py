"""Whatever a socket can produce, sent and checked to the last byte: ``python -m tests.support.traffic receive | send``.

``receive`` listens for every kind, prints ``ready``, reads what was sent from a line of JSON, waits until all of it is
there or nothing more comes, and prints how many messages of each kind arrived whole. ``send ADDRESS`` sends them and
prints how many, or the error that the kernel gave the sender.
"""

from __future__ import annotations

import errno
import json
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

UDP_SEGMENT = 103
SO_NO_CHECK, SO_RCVBUFFORCE = 11, 33
IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_DO = 10, 0, 2
IP_OPTIONS = 4
SOL_SCTP = 132
EXPERIMENT = 253
"""A protocol number for experiments (RFC 3692): nothing in the kernel knows its header."""

FIRST_PORT = 20_000
QUIET = 3.0
"""Seconds without a message after which no more is expected."""
PAUSE = 0.002
"""Seconds between two sends, so that no queue on the way overflows."""
_HEAD = struct.Struct("!HHI")

Message = tuple[int, int]
"""Number and length in bytes."""


@dataclass(frozen=True)
class Datagrams:
    """UDP: each send is a train of messages of one size, of which the last may be shorter."""

    sends: tuple[tuple[int, ...], ...]
    options: tuple[tuple[int, int, int | bytes], ...] = ()

    def send(self, kind: int, address: str) -> Iterator[int]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for option in self.options:
                udp.setsockopt(*option)
            number = 0
            for sizes in self.sends:
                train = b"".join(message(kind, number + at, size) for at, size in enumerate(sizes))
                segment = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", sizes[0]))] if len(sizes) > 1 else []
                udp.sendmsg([train], segment, 0, (address, FIRST_PORT + kind))
                number += len(sizes)
                yield len(sizes)
                time.sleep(PAUSE)

    def listen(self, kind: int) -> socket.socket:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("0.0.0.0", FIRST_PORT + kind))
        return udp


@dataclass(frozen=True)
class Raw:
    """Packets of a protocol of their own."""

    protocol: int = EXPERIMENT

    def send(self, kind: int, address: str) -> Iterator[int]:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, self.protocol) as raw:
            for number in range(5):
                raw.sendto(message(kind, number, 100 * number + _HEAD.size), (address, 0))
                yield 1

    def listen(self, kind: int) -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, self.protocol)


@dataclass(frozen=True)
class Sctp(Raw):
    """SCTP packets written by hand, so on a kernel without SCTP too: what no checksum of the Internet's covers."""

    protocol: int = socket.IPPROTO_SCTP

    def send(self, kind: int, address: str) -> Iterator[int]:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, self.protocol) as raw:
            for number in range(20):
                raw.sendto(sctp_packet(kind, message(kind, number, 60 * number + _HEAD.size)), (address, 0))
                yield 1
                time.sleep(PAUSE)


_SCTP = struct.Struct("!HHI4s")
"""Ports, verification tag, checksum (RFC 9260, 3.1); the checksum is the other way round."""
_DATA = struct.Struct("!BBHIHHI")
"""The DATA chunk's header (3.3.1)."""


def sctp_packet(kind: int, content: bytes) -> bytes:
    """One DATA chunk with ``content``, and the right CRC32c."""
    chunk = _DATA.pack(0, 3, _DATA.size + len(content), 1, 0, 0, 0) + content + bytes(-len(content) % 4)
    ports = FIRST_PORT + kind, FIRST_PORT + kind
    unsummed = _SCTP.pack(*ports, 1, bytes(4)) + chunk
    return _SCTP.pack(*ports, 1, crc32c(unsummed).to_bytes(4, "little")) + chunk


def sctp_content(data: bytes) -> bytes:
    """What :func:`sctp_packet` was made of; empty where the checksum is not right."""
    if len(data) < _SCTP.size + _DATA.size:
        return b""
    found = data[8:12]
    if crc32c(data[:8] + bytes(4) + data[12:]).to_bytes(4, "little") != found:
        return b""
    length = _DATA.unpack_from(data, _SCTP.size)[2]
    return data[_SCTP.size + _DATA.size : _SCTP.size + length]


def crc32c(data: bytes) -> int:
    """Castagnoli's, bit by bit (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@dataclass(frozen=True)
class Stream:
    """TCP or SCTP: messages of one size in a row, written at once."""

    protocol: int
    size: int
    count: int

    def send(self, kind: int, address: str) -> Iterator[int]:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, self.protocol) as stream:
            stream.settimeout(10)
            stream.connect((address, FIRST_PORT + kind))
            stream.sendall(b"".join(message(kind, number, self.size) for number in range(self.count)))
            stream.shutdown(socket.SHUT_WR)
            yield self.count
            stream.recv(1)  # until the other end has all

    def listen(self, kind: int) -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, self.protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", FIRST_PORT + kind))
        listener.listen()
        return listener


def trains(*sizes: int, times: int = 5) -> tuple[tuple[int, ...], ...]:
    return (sizes,) * times


RECORD_ROUTE = bytes([7, 11, 4, *bytes(8), 0])
"""Room for two addresses (RFC 791, 3.1), padded to a word."""

KINDS: dict[str, Datagrams | Raw | Stream] = {
    "udp": Datagrams(tuple((size,) for size in (8, 9, 100, 1000, 1400, 1444))),
    "udp, no checksum": Datagrams(trains(100) + trains(1400), ((socket.SOL_SOCKET, SO_NO_CHECK, 1),)),
    "udp, fragments": Datagrams(trains(3000) + trains(20_000, times=2)),
    "udp, may be fragmented": Datagrams(trains(1400), ((socket.SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT),)),
    "udp, options": Datagrams(trains(100), ((socket.SOL_IP, IP_OPTIONS, RECORD_ROUTE),)),
    "trains of 2": Datagrams(trains(100, 100, times=10)),
    "trains, a short last": Datagrams(trains(1000, 1000, 1000, 8)),
    "trains of 40": Datagrams(trains(*[1200] * 40)),
    "trains of 64 KB": Datagrams(trains(*[1400] * 46, times=3)),
    "trains of full size": Datagrams(trains(*[1444] * 45, times=3)),
    "trains, may be fragmented": Datagrams(trains(*[1200] * 5), ((socket.SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT),)),
    "trains, never fragmented": Datagrams(trains(*[1200] * 5), ((socket.SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO),)),
    "trains, options": Datagrams(trains(*[500] * 3), ((socket.SOL_IP, IP_OPTIONS, RECORD_ROUTE),)),
    "raw": Raw(),
    "tcp": Stream(socket.IPPROTO_TCP, 1000, 300),
    "sctp": Stream(socket.IPPROTO_SCTP, 1000, 30),
    "sctp, by hand": Sctp(),
}


def message(kind: int, number: int, size: int) -> bytes:
    """Content that belongs to no other message, so that whatever arrives can be judged alone."""
    return _HEAD.pack(kind, number, size) + random.Random(kind << 16 | number).randbytes(size - _HEAD.size)


def received(kind: int, data: bytes) -> int | None:
    """The number of a message that came whole; None for anything else."""
    if len(data) < _HEAD.size:
        return None
    of_kind, number, size = _HEAD.unpack_from(data)
    return number if of_kind == kind and data == message(kind, number, size) else None


def send(address: str) -> dict[str, int | str]:
    outcome: dict[str, int | str] = {}
    for kind, (name, producer) in enumerate(KINDS.items()):
        sent = 0
        try:
            for count in producer.send(kind, address):
                sent += count
        except OSError as failure:
            outcome[name] = errno.errorcode.get(failure.errno or 0, str(failure))
        else:
            outcome[name] = sent
    return outcome


class Receiver:
    """Everything that came so far, by kind: the numbers of whole messages, and how many were not."""

    def __init__(self) -> None:
        self.whole: dict[str, set[int]] = {name: set() for name in KINDS}
        self.wrong = 0
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._sockets: list[socket.socket] = []
        for kind, (name, consumer) in enumerate(KINDS.items()):
            try:
                listener = consumer.listen(kind)
            except OSError:
                continue  # this kernel has no such protocol, so nobody will send it
            listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
            if isinstance(consumer, Stream):
                self._watch(listener, partial(self._accept, listener, kind, name, consumer.size))
            else:
                header = 20 if isinstance(consumer, Raw) else 0
                self._watch(listener, partial(self._read, listener, kind, name, header))

    def wait(self, expected: dict[str, int | str]) -> dict[str, int]:
        """Until all of it is here, or nothing has come for a while; how many there are of each kind."""
        last = time.monotonic()
        while time.monotonic() - last < QUIET:
            if all(len(self.whole[name]) == count for name, count in expected.items() if isinstance(count, int)):
                break
            for descriptor, _ in self._poll.poll(0.1):
                self._handlers[descriptor]()
                last = time.monotonic()
        return {name: len(numbers) for name, numbers in self.whole.items()}

    def _watch(self, watched: socket.socket, handler: Callable[[], None]) -> None:
        self._sockets.append(watched)
        self._handlers[watched.fileno()] = handler
        self._poll.register(watched, select.EPOLLIN)

    def _read(self, listener: socket.socket, kind: int, name: str, header: int) -> None:
        data = listener.recv(1 << 16)[header:]
        if isinstance(KINDS[name], Sctp):
            if data[:2] != struct.pack("!H", FIRST_PORT + kind):
                return  # another kind's, or the kernel's own answer
            data = sctp_content(data)
        self._take(kind, name, data)

    def _take(self, kind: int, name: str, data: bytes) -> None:
        number = received(kind, data)
        if number is None:
            self.wrong += 1
        else:
            self.whole[name].add(number)

    def _accept(self, listener: socket.socket, kind: int, name: str, size: int) -> None:
        stream, _ = listener.accept()
        pending = bytearray()

        def read() -> None:
            data = stream.recv(1 << 16)
            pending.extend(data)
            while len(pending) >= size:
                self._take(kind, name, bytes(pending[:size]))
                del pending[:size]
            if not data:
                self._poll.unregister(stream)
                stream.close()

        self._watch(stream, read)


def receive() -> None:
    receiver = Receiver()
    print("ready", flush=True)
    while True:  # what comes before the line is read as well
        if select.select([sys.stdin], [], [], 0)[0]:
            break
        for descriptor, _ in receiver._poll.poll(0.02):
            receiver._handlers[descriptor]()
    arrived: dict[str, int] = receiver.wait(json.loads(sys.stdin.readline()))
    print(json.dumps({"arrived": arrived, "wrong": receiver.wrong}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive()
    else:
        print(json.dumps(send(sys.argv[2])), flush=True)
