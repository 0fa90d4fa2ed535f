"""Many datagrams with one system call: whatever comes, the arrivals are the datagrams, in order, with their senders."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overlay.datapath.userspace.counters import Counters
from overlay.datapath.userspace.sockets import SocketPair
from overlay.datapath.userspace.worker.arrivals import Arrivals
from overlay.datapath.userspace.worker.batch import COUNT, Batch
from overlay.datapath.userspace.worker.underlay import Underlay
from overlay.linux.sockopt import IP_RECVERR, UDP_GRO, UDP_SEGMENT

SENDERS = ("127.0.0.2", "127.0.0.3")
NOISE = bytes(range(256)) * 256


class Wire:
    """Two senders and a receiver on loopback."""

    def __init__(self) -> None:
        self.udp = _bound("127.0.0.1")
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.udp.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
        self.senders = {address: _bound(address) for address in SENDERS}
        self.arrivals = Arrivals()
        self.batch = Batch(self.arrivals)
        self._poll = select.poll()
        self._poll.register(self.udp, select.POLLIN)

    def send(self, sender: str, datagram: bytes, segment: int = 0) -> None:
        ancillary = [(socket.SOL_UDP, UDP_SEGMENT, segment.to_bytes(2, "little"))] if segment else []
        self.senders[sender].sendmsg((datagram,), ancillary, 0, self.udp.getsockname())

    def received(self, size: int, number: int) -> list[tuple[str, bytes]]:
        """``number`` datagrams and their senders, received with ``size`` as the expectation, all that are there."""
        found: list[tuple[str, bytes]] = []
        while len(found) < number:
            assert self._poll.poll(5000), f"{len(found)} of {number} came"
            with contextlib.suppress(BlockingIOError):
                while not self.arrivals.full:
                    self.batch.receive(self.udp, size)
            found += [("", b"")] * len(self.batch.take_empty())
            for train in self.arrivals.take():
                for at in range(train.start, train.end, train.size):
                    end = min(at + train.size, train.end)
                    found.append((train.sender, self.arrivals.view[at:end].tobytes()))
        return found

    def close(self) -> None:
        for each in (self.udp, *self.senders.values()):
            each.close()


def _bound(address: str) -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((address, 0))
    return udp


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


DATAGRAMS = st.lists(
    st.tuples(st.sampled_from(SENDERS), st.sampled_from((1, 60, 1399, 1400, 1400, 1400, 1401, 9000))),
    min_size=1,
    max_size=2 * COUNT,
)


@given(DATAGRAMS, st.sampled_from((1, 60, 1400, 9000)))
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arrivals_are_the_datagrams(wire: Wire, datagrams: list[tuple[str, int]], expected: int) -> None:
    sent = [(sender, NOISE[number : number + size]) for number, (sender, size) in enumerate(datagrams)]
    found: list[tuple[str, bytes]] = []
    for start in range(0, len(sent), 32):  # no more than the receive buffer holds
        for sender, datagram in sent[start : start + 32]:
            wire.send(sender, datagram)
        found += wire.received(expected, len(sent[start : start + 32]))
    assert found == sent


def test_datagrams_of_one_size_are_one_train(wire: Wire) -> None:
    for _ in range(40):
        wire.send(SENDERS[0], NOISE[:1000])
    wire.batch.receive(wire.udp, 1000)
    assert [train.packets for train in wire.arrivals.take()] == [40]


def test_the_expectation_follows(wire: Wire) -> None:
    """The first guess is wrong for all that come; the second call has learned."""
    for size, trains in ((700, 10), (700, 1)):
        for _ in range(10):
            wire.send(SENDERS[0], NOISE[:size])
        wire.batch.receive(wire.udp, 60)
        assert len(wire.arrivals.take()) == trains


def test_trains_of_the_kernels_stay_trains(wire: Wire) -> None:
    wire.send(SENDERS[0], NOISE[:20])
    wire.send(SENDERS[1], NOISE[:50_500], segment=1000)
    sent = [(SENDERS[0], NOISE[:20])]
    sent += [(SENDERS[1], NOISE[at : min(at + 1000, 50_500)]) for at in range(0, 50_500, 1000)]
    assert wire.received(20, len(sent)) == sent


def test_datagrams_without_content_are_told_apart(wire: Wire) -> None:
    for content in (b"a", b"", b"b", b""):
        wire.send(SENDERS[0], content)
    received = wire.received(1, 4)
    assert sorted(received) == [("", b""), ("", b""), (SENDERS[0], b"a"), (SENDERS[0], b"b")]


def test_an_error_whose_report_found_no_room_is_not_told_for_ever() -> None:
    """Else one forged ICMP message keeps a worker awake for good."""
    with _bound("127.0.0.1") as receiving, _bound("127.0.0.1") as sending, _bound("127.0.0.1") as closed:
        nobody = closed.getsockname()
        closed.close()
        sending.setsockopt(socket.SOL_IP, IP_RECVERR, 1)
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        for _ in range(10):
            receiving.sendto(NOISE[:1400], sending.getsockname())  # so that no report fits
        underlay = Underlay(receiving, sending, Counters(), offloads=False)
        poll = select.poll()
        poll.register(sending, 0)
        sending.sendto(NOISE[:1400], nobody)
        assert poll.poll(5000), "the error has come"
        underlay.read_errors()
        assert not poll.poll(0)


def test_what_the_sockets_drop_is_known_without_a_worker() -> None:
    """Each datagram is received or counted; the kernel counts, however long nobody receives."""
    with _bound("127.0.0.1") as udp, _bound("127.0.0.1") as sender:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        pair = SocketPair(udp, udp)
        assert pair.dropped() == 0
        for _ in range(500):
            sender.sendto(NOISE[:1400], udp.getsockname())
        received, poll = 0, select.poll()
        poll.register(udp, select.POLLIN)
        while received + pair.dropped() < 500 and poll.poll(5000):
            received += len(udp.recv(1400)) // 1400
        assert received > 0
        assert pair.dropped() == 500 - received > 0
