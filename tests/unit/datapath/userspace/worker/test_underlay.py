"""What the worker does when the kernel refuses to send."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from overlay.datapath.userspace.counters import Counters
from overlay.datapath.userspace.worker.underlay import Underlay
from overlay.linux.sockopt import IP_RECVERR, UDP_SEGMENT
from tests.support.admission import plain_checksum

RECEIVER, SENDER = "127.0.0.2", "127.0.0.1"
TRAIN = memoryview(os.urandom(10 * 100 + 7))
DATAGRAMS = [bytes(TRAIN[at : at + 100]) for at in range(0, len(TRAIN), 100)]


class Refusing(socket.socket):
    """A real socket that refuses some calls first, as kernels and interfaces do that this machine has not."""

    refusals: list[int]
    refuse_trains: int = 0
    too_big: tuple[bytes, ...] = ()

    before: Callable[[], object] = staticmethod(lambda: None)
    reported: int = 0
    """Calls before which something comes from elsewhere: ``before``."""
    failed: int = 0

    def _check(self) -> None:
        if self.reported:
            self.reported -= 1
            self.before()
        if self.refusals:
            number = self.refusals.pop(0)
            raise OSError(number, os.strerror(number))

    def sendmsg(self, *arguments: Any) -> int:
        self._check()
        if self.refuse_trains and arguments[1] and arguments[1][0][1] == UDP_SEGMENT:
            raise OSError(self.refuse_trains, os.strerror(self.refuse_trains))
        with self._failures():
            return super().sendmsg(*arguments)

    def sendto(self, *arguments: Any) -> int:
        self._check()
        if arguments[0] in self.too_big:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        with self._failures():
            return super().sendto(*arguments)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.failed += 1
            raise


class Ends:
    """An underlay over a refusing socket, and what arrives at the other end."""

    def __init__(self) -> None:
        self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver.bind((RECEIVER, 0))
        self.receiver.setblocking(False)
        self.sender = Refusing(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.refusals = []
        self.sender.bind((SENDER, 0))
        self.counters = Counters()
        self.underlay = Underlay(self.sender, self.sender, self.counters, offloads=True)
        self.underlay.port = self.receiver.getsockname()[1]
        self.notices: list[str] = []
        self.underlay.notice = self.notices.append

    def arrived(self) -> list[bytes]:
        out = []
        while True:
            try:
                out.append(self.receiver.recv(70000))
            except BlockingIOError:
                return out


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.receiver.close()
    made.sender.close()


def test_a_train(ends: Ends) -> None:
    ends.underlay.send_train(TRAIN, 100, RECEIVER)
    assert ends.arrived() == DATAGRAMS
    assert (ends.counters.tx_packets, ends.counters.tx_bytes) == (11, len(TRAIN))


def test_a_refused_offload_is_turned_off_once(ends: Ends) -> None:
    ends.sender.refuse_trains = errno.EIO
    for _ in range(3):
        ends.underlay.send_train(TRAIN, 100, RECEIVER)
    assert ends.arrived() == DATAGRAMS * 3
    assert not ends.underlay.segmenting
    assert ends.counters.offloads_refused == 1
    assert len(ends.notices) == 1
    assert ends.counters.tx_packets == 33


@pytest.mark.parametrize("number", [errno.EMSGSIZE, errno.EINVAL])
def test_a_train_with_something_wrong_is_sent_one_by_one(ends: Ends, number: int) -> None:
    ends.sender.refuse_trains = number
    ends.underlay.send_train(TRAIN, 100, RECEIVER)
    assert ends.arrived() == DATAGRAMS
    assert ends.underlay.segmenting, "the offload is not to blame"


def test_what_does_not_fit_the_path_comes_back_and_the_rest_is_sent(ends: Ends) -> None:
    ends.sender.refuse_trains = errno.EMSGSIZE
    ends.sender.too_big = (DATAGRAMS[0], DATAGRAMS[4], DATAGRAMS[10], b"single")
    left = ends.underlay.send_train(TRAIN, 100, RECEIVER)
    assert [bytes(packet) for packet in left] == [DATAGRAMS[0], DATAGRAMS[4], DATAGRAMS[10]]
    assert ends.arrived() == [DATAGRAMS[number] for number in range(11) if number not in {0, 4, 10}]
    assert ends.counters == Counters(tx_packets=8, tx_bytes=sum(map(len, DATAGRAMS)) - 207)
    assert not ends.underlay.send(b"single", RECEIVER)
    assert ends.underlay.send(b"another", RECEIVER)


REPORTS = [*((3, code) for code in range(16)), (11, 0), (12, 0)]
"""ICMP's type and code: "unreachable" for any reason, a TTL that ended, a header that is wrong."""


@pytest.mark.root
@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize("report", REPORTS, ids=str)
def test_no_report_about_an_earlier_datagram_costs_another(ends: Ends, report: tuple[int, int], number: int) -> None:
    """Whoever knows the ports can send them; the kernel tells of each at the next call, whatever that is for."""
    udp = struct.pack("!HHHH", ends.sender.getsockname()[1], ends.underlay.port, 8, 0)
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0x4000, 64, 17, 0, *map(socket.inet_aton, (SENDER, RECEIVER)))
    quoted = header[:10] + struct.pack("!H", plain_checksum(header)) + header[12:] + udp
    message = struct.pack("!BBHHH", *report, 0, 0, 1400) + quoted
    message = message[:2] + struct.pack("!H", plain_checksum(message)) + message[4:]
    ends.sender.setsockopt(socket.SOL_IP, IP_RECVERR, 1)
    ends.sender.before = lambda: router.sendto(message, (SENDER, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as router:
        ends.sender.reported = number
        ends.underlay.send_train(TRAIN, 100, RECEIVER)
        ends.sender.reported = number
        ends.underlay.send(b"single", RECEIVER)
    assert ends.sender.failed, "the kernel told nothing, so nothing was tried"
    assert ends.arrived() == [*DATAGRAMS, b"single"]
    assert ends.counters.tx_packets == 12


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.EHOSTUNREACH])
def test_the_echo_of_an_earlier_datagram_costs_nothing(ends: Ends, number: int) -> None:
    ends.sender.refusals = [number]
    ends.underlay.send_train(TRAIN, 100, RECEIVER)
    ends.sender.refusals = [number]
    ends.underlay.send(b"single", RECEIVER)
    assert ends.arrived() == [*DATAGRAMS, b"single"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENETUNREACH, errno.ENOBUFS, errno.EAGAIN])
def test_what_cannot_be_sent_is_counted(ends: Ends, number: int) -> None:
    ends.sender.refusals = [number, number]
    ends.underlay.send_train(TRAIN, 100, RECEIVER)
    ends.sender.refusals = [number, number]
    ends.underlay.send(b"single", RECEIVER)
    assert ends.arrived() == []
    assert ends.counters.drop_tx_send == 12
    assert ends.counters.tx_packets == 0


def test_trains_are_divided_at_the_kernels_limits(ends: Ends) -> None:
    ends.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    for size, total in ((1, 200), (1472, 92 * 1472), (65507, 65507), (40000, 100_000)):
        train = memoryview(os.urandom(total))
        ends.underlay.send_train(train, size, RECEIVER)
        assert ends.arrived() == [bytes(train[at : at + size]) for at in range(0, total, size)]


@pytest.mark.parametrize("size", [65508, 65520, 65535])
def test_packets_that_no_datagram_has_room_for_are_too_big(ends: Ends, size: int) -> None:
    """As come from a TUN device of which somebody has raised the MTU, until it is mended."""
    train = memoryview(bytes(2 * size))
    assert [len(packet) for packet in ends.underlay.send_train(train, size, RECEIVER)] == [size, size]
    assert not ends.underlay.send(train[:size], RECEIVER)
    assert ends.arrived() == []
