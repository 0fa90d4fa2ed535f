"""The worker as the daemon has it: its ports stay where they are, and it is told what changed, whatever becomes of it.

Everything is on loopback, so none of this needs privileges.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import pytest
import pytest_asyncio

from overlay.services.proxy.userspace import messages
from overlay.services.proxy.userspace.helper import ProxyHelper
from overlay.services.proxy.userspace.link import Link
from overlay.services.proxy.userspace.messages import Change, Close, Endpoint, Open, Ready, Start, ToWorker
from overlay.services.proxy.userspace.ports import Ports, Wanted

HERE = "127.0.0.1"


@pytest_asyncio.fixture
async def helper() -> AsyncIterator[ProxyHelper]:
    made = ProxyHelper()
    await made.start()
    yield made
    await made.stop()


@contextmanager
def endpoint(word: bytes) -> Iterator[Endpoint]:
    """One that sends a word to whoever connects, as long as there are no more than wait to be accepted."""
    with socket.create_server((HERE, 0)) as listening:
        listening.setblocking(False)

        async def serve() -> None:
            loop = asyncio.get_running_loop()
            while True:
                connection, _ = await loop.sock_accept(listening)
                with connection:
                    await loop.sock_sendall(connection, word)

        task = asyncio.ensure_future(serve())
        try:
            yield listening.getsockname()[:2]
        finally:
            task.cancel()


async def answer(ports: Ports, name: str) -> bytes:
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(HERE, ports.at(name))
        said = await reader.read()
        writer.close()
        return said


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_ports_are_served_changed_and_closed(helper: ProxyHelper) -> None:
    with endpoint(b"a") as a, endpoint(b"b") as b:
        helper.ports.want({"x": Wanted("TCP", (a,)), "y": Wanted("TCP", (b,))}, HERE)
        assert [await answer(helper.ports, name) for name in "xy"] == [b"a", b"b"]
        number = helper.ports.at("x")
        helper.ports.want({"x": Wanted("TCP", (b,))}, HERE)
        helper.ports.drop()
        said = await helper.ask(30)
        assert said is not None
        assert await answer(helper.ports, "x") == b"b"
        assert helper.ports.at("x") == number
        said = await helper.ask(30)
        assert said is not None
        assert (said.ports, said.dialled) == (1, 3)


async def test_another_worker_has_the_ports_of_the_one_that_died(helper: ProxyHelper) -> None:
    """Who connects meanwhile waits in the socket."""
    with endpoint(b"a") as a:
        helper.ports.want({"x": Wanted("TCP", (a,))}, HERE)
        assert helper.pid is not None
        os.kill(helper.pid, signal.SIGKILL)
        assert await answer(helper.ports, "x") == b"a"
        await until(lambda: helper.restarts == 1)


class Reader:
    """The worker's end of a control socket."""

    def __init__(self, ports: Ports) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link = Link(theirs, ports)
        self.control.setblocking(False)

    def read(self) -> tuple[ToWorker, list[int]] | None:
        """The next message, and where the sockets are bound that came with it; None where nothing is there."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.control, messages.LONGEST, 1)
        except BlockingIOError:
            return None
        bound = []
        for descriptor in descriptors:
            with socket.socket(fileno=descriptor) as handed_over:
                bound.append(handed_over.getsockname()[1])
        return messages.decode_to_worker(data), bound

    async def all(self) -> list[tuple[ToWorker, list[int]]]:
        """Messages until none comes any more."""
        found, quiet = [], 0
        while quiet < 3:
            if (message := self.read()) is not None:
                found.append(message)
                quiet = 0
            await asyncio.sleep(0)
            quiet += message is None
        return found

    def close(self) -> None:
        self.link.control.close()
        self.control.close()


@pytest.fixture
def ports() -> Iterator[Ports]:
    made = Ports(lambda _: None)
    yield made
    made.close()


async def test_it_is_ready_when_it_was_told_all_there_is(ports: Ports) -> None:
    a = Wanted("TCP", ((HERE, 1),), 9)
    ports.want({"x": a, "y": a}, HERE)
    reader = Reader(ports)
    assert await reader.all() == [
        (Open(1, "TCP", a.endpoints, 9), [ports.at("x")]),
        (Open(2, "TCP", a.endpoints, 9), [ports.at("y")]),
        (Start(), []),
    ]
    assert not reader.link.control.ready.done()
    reader.control.send(messages.encode(Ready()))
    async with asyncio.timeout(30):
        await reader.link.control.ready
    reader.close()


async def test_one_that_does_not_read_is_told_the_end_of_many_changes(ports: Ports) -> None:
    """So it costs no memory; and a port that came and went meanwhile is none of its business."""
    first, last = Wanted("UDP", ((HERE, 1),)), Wanted("UDP", ((HERE, 2),))
    ports.want({"x": first, "gone": first}, HERE)
    reader = Reader(ports)
    ports.changed = reader.link.changed
    told = [message for message, _ in await reader.all()]
    long = tuple((f"10.0.{number // 250}.{number % 250}", 8080) for number in range(3000))
    for turn in range(100):
        ports.want({"x": Wanted("UDP", long[turn:]), "gone": first, "brief": first}, HERE)
    ports.want({"x": last}, HERE)
    ports.drop()
    told += [message for message, _ in await reader.all()]
    assert len(told) < 20
    assert [message for message in told if isinstance(message, Change)][-1] == Change(1, last.endpoints)
    opened, closed = ({each.number for each in told if isinstance(each, kind)} for kind in (Open, Close))
    assert opened - closed == {1}
    reader.close()


async def test_a_socket_that_waits_to_be_handed_over_may_be_closed(ports: Ports) -> None:
    """What was made of it goes with the message, or with the link."""
    reader = Reader(ports)
    ports.changed = reader.link.changed
    before = len(os.listdir("/proc/self/fd"))
    long = tuple((f"10.0.{number // 250}.{number % 250}", 8080) for number in range(3000))
    ports.want({number: Wanted("UDP", long) for number in range(10)}, HERE)
    ports.close()
    told = [message for message, bound in await reader.all() if bound or not isinstance(message, Open)]
    opened = {message.number for message in told if isinstance(message, Open)}
    assert opened
    assert {message.number for message in told if isinstance(message, Close)} == opened
    ports.want({number: Wanted("UDP", long) for number in range(10)}, HERE)
    ports.close()
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2


async def test_more_endpoints_than_a_message_holds_end_nobody(helper: ProxyHelper) -> None:
    """However long their addresses are."""
    with endpoint(b"a") as a:
        many = tuple((f"127.111.{100 + number // 100}.{100 + number % 100}", 50000) for number in range(9000))
        helper.ports.want({"many": Wanted("TCP", (a, *many)), "x": Wanted("TCP", (a,))}, HERE)
        assert await answer(helper.ports, "x") == b"a"
        said = await helper.ask(30)
        assert said is not None
        assert (said.ports, helper.restarts) == (2, 0)
