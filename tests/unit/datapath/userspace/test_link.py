"""What agent and worker say to each other, and how the agent brings a worker up to date without ever waiting."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.datapath.spec import TunnelSpec
from overlay.datapath.userspace import messages
from overlay.datapath.userspace.counters import COUNTER_NAMES
from overlay.datapath.userspace.link import NOTICE_BURST, Notices, Subnets, WorkerLink, difference
from overlay.datapath.userspace.messages import (
    Ask,
    Configure,
    MalformedMessageError,
    Notice,
    PeerChange,
    Peers,
    Ready,
    RouteMtus,
    Start,
    Status,
    decode_from_worker,
    decode_to_worker,
    encode,
)
from overlay.errors import DatapathError

SPEC = TunnelSpec(
    "flannel0",
    IPv4Network("10.0.0.0/16"),
    IPv4Network("10.0.1.0/24"),
    1472,
    "eth0",
    IPv4Address("172.31.0.1"),
    copy_dscp=True,
)
CONFIGURE = Configure(0x0A000100, 24, 8285, 1472, True)
COUNTERS = (*range(len(COUNTER_NAMES) - 1), 2**64 - 1)


def many(count: int, host: int = 1) -> Subnets:
    return {(0x0A000000 + number * 256, 24): host for number in range(count)}


@pytest.mark.parametrize(
    "message",
    [CONFIGURE, Peers([PeerChange(False, 0x0A000200, 24, 1), PeerChange(True, 0, 0, 0)]), Peers([]), Ask(7), Start()],
)
def test_to_worker_round_trip(message: messages.ToWorker) -> None:
    assert decode_to_worker(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [Ready("üser"), Status(1, COUNTERS, "x"), Status(0, COUNTERS, "", ((1, 1272), (2, 68))), Notice("n")],
)
def test_from_worker_round_trip(message: messages.FromWorker) -> None:
    assert decode_from_worker(encode(message)) == message


def test_the_largest_message_fits() -> None:
    assert len(encode(Peers([PeerChange(False, 0, 0, 0)] * messages.MAX_CHANGES))) <= messages.MAX_MESSAGE
    assert len(encode(Notice("ü" * 100_000))) <= messages.MAX_MESSAGE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\xff" * 40,
        encode(CONFIGURE)[:-1],
        encode(CONFIGURE) + b"\0",
        encode(Configure(0x0A000101, 24, 8285, 1472)),
        encode(Configure(0x0A000100, 33, 8285, 1472)),
        encode(Configure(0x0A000100, 24, 0, 1472)),
        encode(Peers([PeerChange(False, 0x0A000201, 24, 1)])),
        encode(Peers([PeerChange(False, 0, 200, 1)])),
        encode(Start()) + b"\0",
    ],
)
def test_malformed_to_worker(data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode_to_worker(data)


@pytest.mark.parametrize("count", [0, 2, len(COUNTER_NAMES) - 1, len(COUNTER_NAMES) + 1, 65535])
def test_a_status_has_the_counters_that_there_are(count: int) -> None:
    """One that decodes can be added up, whoever wrote it."""
    values = [1] * min(count, 100)
    data = struct.pack(f"!BIH{len(values)}QH", 19, 7, count, *values, 0).ljust(2000, b"\0")
    with pytest.raises(MalformedMessageError):
        decode_from_worker(data)


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("red \x1b[31m\x07", "red \ufffd[31m\ufffd"),
        ("one\nINFO agent: two\r\u2028three\x85", "one\ufffdINFO agent: two\ufffd\ufffdthree\ufffd"),
        ("c1 \x9b2J, nothing \0, backwards \u202e", "c1 \ufffd2J, nothing \ufffd, backwards \ufffd"),
        ("grün → ✓", "grün → ✓"),
        ("x" * 5000, "x" * messages.MAX_TEXT),
    ],
)
def test_text_of_a_worker_is_a_line_that_can_be_shown(sent: str, shown: str) -> None:
    text = sent.encode()
    assert decode_from_worker(b"\x12" + text) == Notice(shown)
    assert decode_from_worker(b"\x11" + text) == Ready(shown)
    assert decode_from_worker(encode(Status(1, COUNTERS, "")) + text) == Status(1, COUNTERS, shown)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_malformed(data: bytes) -> None:
    for decode in (decode_to_worker, decode_from_worker):
        try:
            decode(data)
        except MalformedMessageError:
            continue


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 2))
def test_difference(before: int, after: int, host: int) -> None:
    have, want = many(before), many(after, host)
    for remove, base, length, public_ip in difference(dict(have), want):
        if remove:
            del have[base, length]
        else:
            have[base, length] = public_ip
    assert have == want


class FakeWorker:
    """The other end of the socketpair, read by hand."""

    def __init__(self) -> None:
        self.agent, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.setblocking(False)
        self.table: Subnets = {}
        self.seen: list[messages.ToWorker] = []

    def read(self) -> int:
        """Takes all that is there; returns how many messages."""
        count = 0
        while True:
            try:
                data = self.end.recv(messages.MAX_MESSAGE)
            except BlockingIOError:
                return count
            if not data:
                return count
            count += 1
            message = decode_to_worker(data)
            if not isinstance(message, Peers):
                self.seen.append(message)
                continue
            for remove, base, length, public_ip in message.changes:
                if remove:
                    del self.table[base, length]
                else:
                    self.table[base, length] = public_ip

    async def read_until(self, table: Subnets) -> None:
        async with asyncio.timeout(20):
            while self.table != table:
                self.read()
                await asyncio.sleep(0)


@pytest.fixture
def worker() -> Iterator[FakeWorker]:
    made = FakeWorker()
    yield made
    made.agent.close()
    made.end.close()


async def test_starts_only_after_the_whole_table(worker: FakeWorker) -> None:
    link = WorkerLink(worker.agent, SPEC, many(5000), Notices(), RouteMtus(()))
    await worker.read_until(many(5000))
    worker.read()
    assert worker.seen == [CONFIGURE, Start()]
    assert not link.control.ready.done()
    worker.end.send(encode(Ready("fine")))
    assert await asyncio.wait_for(link.control.ready, 20) == "fine"
    link.control.close()


async def test_a_worker_that_does_not_read_costs_nothing_and_catches_up(worker: FakeWorker) -> None:
    link = WorkerLink(worker.agent, SPEC, many(20_000), Notices(), RouteMtus(()))
    for number in range(200):
        link.set_peers(many(20_000, number))
        link.configure(SPEC)
    assert worker.read() < 30, "what the socket holds, not what was said"
    await worker.read_until(many(20_000, 199))
    link.control.close()


async def test_only_changes_are_sent(worker: FakeWorker) -> None:
    link = WorkerLink(worker.agent, SPEC, many(9000), Notices(), RouteMtus(()))
    await worker.read_until(many(9000))
    link.set_peers(many(9001))
    assert worker.read() == 1
    link.set_peers(many(9001))
    assert worker.read() == 0
    link.control.close()


async def test_asking(worker: FakeWorker) -> None:
    link = WorkerLink(worker.agent, SPEC, {}, Notices(), RouteMtus(()))
    first, second = asyncio.create_task(link.control.ask()), asyncio.create_task(link.control.ask())
    await asyncio.sleep(0)
    worker.read()
    assert worker.seen[-1] == Ask(1), "both share one question"
    too_few = encode(Status(1, COUNTERS[1:], ""))
    another = encode(Status(99, COUNTERS[::-1], "another question's"))
    for nonsense in (b"\xff", too_few, another, encode(Notice("hear"))):
        worker.end.send(nonsense)
    worker.end.send(encode(Status(1, COUNTERS, "")))
    assert (await asyncio.wait_for(first, 20)).counters == (await second).counters == COUNTERS
    link.control.close()


async def test_the_log_is_bounded_whatever_workers_send(worker: FakeWorker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    link = WorkerLink(worker.agent, SPEC, {}, Notices(), RouteMtus(()))
    question = asyncio.create_task(link.control.ask())
    async with asyncio.timeout(20):
        for number in range(1000):
            for message in (encode(Notice(f"notice {number}")), b"\xff"):
                await asyncio.get_running_loop().sock_sendall(worker.end, message)
        await asyncio.get_running_loop().sock_sendall(worker.end, encode(Status(1, COUNTERS, "")))
        await question
    assert len(caplog.messages) == NOTICE_BURST, "of 2000"
    link.control.close()


def test_what_was_not_logged_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices()
    for number in range(NOTICE_BURST + 5000):
        notices.say(f"notice {number}", 1000.0)
    assert [text.rpartition(": ")[2] for text in caplog.messages] == [f"notice {each}" for each in range(NOTICE_BURST)]
    notices.say("an hour later", 4600.0)
    notices.say("and then", 4600.0)
    assert caplog.messages[NOTICE_BURST:] == [
        "userspace datapath: an hour later (and 5,000 notices before this one)",
        "userspace datapath: and then",
    ]


async def test_the_end_of_the_worker_is_noticed(worker: FakeWorker) -> None:
    link = WorkerLink(worker.agent, SPEC, {}, Notices(), RouteMtus(()))
    question = asyncio.create_task(link.control.ask())
    await asyncio.sleep(0)
    worker.end.close()
    await asyncio.wait_for(link.control.closed.wait(), 20)
    for pending in (question, link.control.ready):
        with pytest.raises(DatapathError):
            await pending
    link.set_peers(many(3))  # no error: whoever watches starts another worker
    with pytest.raises(DatapathError):
        await link.control.ask()
