"""A worker process is started, replaced and given up on. Its TUN is a socketpair, so none of this needs privileges."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio

from overlay.daemon.confined import process, supervision
from overlay.datapath.spec import TunnelSpec
from overlay.datapath.userspace import supervisor
from overlay.datapath.userspace.link import NOTICE_BURST, Subnets
from overlay.datapath.userspace.sockets import open_sockets
from overlay.datapath.userspace.supervisor import Supervisor
from overlay.errors import DatapathError
from tests.support.admission import ipv4
from tests.support.limits import limit

OWN, PEER = "127.0.0.1", "127.0.0.2"
PEERS: Subnets = {(0x0A000200, 24): int(IPv4Address(PEER))}


class Site:
    """A supervisor, the other end of its TUN, and a peer."""

    def __init__(self) -> None:
        self.tun, self._queue = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.tun.setblocking(False)
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind((PEER, 0))
        self.spec = TunnelSpec(
            "tun",
            IPv4Network("10.0.0.0/16"),
            IPv4Network("10.0.1.0/24"),
            1472,
            "lo",
            IPv4Address(OWN),
            self.peer.getsockname()[1],
        )
        self.supervisor: Supervisor

    async def open(self, mode: str = "plain") -> None:
        (pair,) = await open_sockets(IPv4Address(OWN), self.spec.port, 1)
        queue, reopen = os.dup(self._queue.fileno()), lambda: os.dup(self._queue.fileno())
        self.supervisor = Supervisor(queue, pair, mode, reopen, spec=self.spec, peers=PEERS)

    async def exchange(self) -> None:
        """One packet in each direction."""
        loop = asyncio.get_running_loop()
        self.peer.setblocking(False)
        async with asyncio.timeout(20):
            await loop.sock_sendall(self.tun, ipv4("10.0.1.7", "10.0.2.9"))
            assert len(await loop.sock_recv(self.peer, 2000)) == 36
            await loop.sock_sendto(self.peer, ipv4(), (OWN, self.spec.port))
            assert len(await loop.sock_recv(self.tun, 2000)) == 36

    async def close(self) -> None:
        await self.supervisor.stop()
        self.supervisor.release()
        for each in (self.tun, self._queue, self.peer):
            each.close()


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    await made.open()
    yield made
    await made.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_life(site: Site) -> None:
    await site.supervisor.start()
    pid = site.supervisor.pid
    assert pid is not None
    await site.exchange()
    status = await site.supervisor.ask(20)
    assert status is not None
    assert site.supervisor.totals()["tx_packets"] == site.supervisor.totals()["rx_packets"] == 1
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    await site.exchange()
    assert site.supervisor.pid == pid, "only the agent ends it"
    await site.supervisor.stop()
    assert not Path(f"/proc/{pid}").exists()
    assert await site.supervisor.ask(1) is None


async def test_a_death(site: Site) -> None:
    await site.supervisor.start()
    await site.exchange()
    await site.supervisor.ask(20)
    former = site.supervisor.pid
    assert former is not None
    os.kill(former, signal.SIGKILL)
    await until(lambda: site.supervisor.restarts == 1)
    await site.exchange()
    await site.supervisor.ask(20)
    assert site.supervisor.pid != former
    assert site.supervisor.totals()["tx_packets"] == 2, "counts go on"


async def test_a_hang(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "HEARTBEAT", 0.2)
    monkeypatch.setattr(supervision, "HANG", 1.0)
    await site.supervisor.start()
    former = site.supervisor.pid
    assert former is not None
    os.kill(former, signal.SIGSTOP)
    assert await site.supervisor.ask(0.2) is None
    await until(lambda: site.supervisor.restarts == 1)
    assert not Path(f"/proc/{former}").exists()
    await site.exchange()


async def test_beyond_mending(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "MAX_DEATHS", 2)
    await site.supervisor.start()
    site.supervisor.mode = "no mode"
    pid = site.supervisor.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DatapathError, match="userspace worker: ended before it was ready, 3 times"):
        await asyncio.wait_for(asyncio.shield(site.supervisor.failed), 30)


async def test_a_worker_that_does_not_come_up(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.supervisor.mode = "no mode"
    with pytest.raises(DatapathError, match=r"userspace worker \d+: ended before it was ready"):
        await site.supervisor.start()
    assert site.supervisor.pid is None
    (words,) = caplog.messages
    assert " said: Traceback (most recent call last): | " in words
    assert words.endswith("ValueError: invalid literal for int() with base 10: 'no mode'")


HOSTILE = """
import os, socket, sys
from overlay.datapath.userspace.messages import *
control = socket.socket(fileno=int(sys.argv[4]))
os.set_blocking(2, False)
while data := control.recv(32768):
    match decode_to_worker(data):
        case Start():
            control.send(encode(Ready("fine\\x1b[2J")))
        case Ask(number):
            for _ in range(100):
                control.send(encode(Notice("red \\x1b[31m\\nINFO agent: all is well")))
                control.send(b"?")
            control.send(encode(Status(number, (1, 2), "")))
            try:
                while os.write(1, b"forged\\n") and os.write(2, b"INFO agent: all is \\x1b[31mwell\\n"):
                    pass
            except BlockingIOError:
                os._exit(0)
"""
"""A worker that was taken over."""


async def test_a_hostile_worker_is_replaced_like_any_other(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "hostile.py").write_text(HOSTILE)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I {tmp_path}/hostile.py "$@"\n')
    python.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(process, "sys", SimpleNamespace(executable=str(python)))
        await site.supervisor.start()
    assert await site.supervisor.ask(20) is None, "it dies over the question"
    assert "tx_packets" not in site.supervisor.totals()
    await until(lambda: site.supervisor.restarts == 1)
    await site.exchange()
    assert await site.supervisor.ask(20) is not None
    assert not site.supervisor.failed.done()
    assert len(caplog.messages) <= NOTICE_BURST + 4, "starts, last words and the death besides"
    assert all(text.isprintable() and len(text) < 3000 for text in caplog.messages)
    assert "forged" not in "".join(capfd.readouterr())


async def test_supervision_does_not_end_in_silence(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in it, whoever watches hears of it."""
    await site.supervisor.start()

    def break_off(tun: int) -> bool:
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr(supervisor, "is_attached", break_off)
    pid = site.supervisor.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DatapathError, match=r"userspace worker: its supervision broke off: .*nobody thought of this"):
        await asyncio.wait_for(asyncio.shield(site.supervisor.failed), 20)


async def test_five_thousand_peers_do_not_wait_for_the_worker(site: Site) -> None:
    many: Subnets = {(0x0B000000 + number * 256, 24): number + 1 for number in range(5000)}
    site.supervisor.set_peers({})
    await site.supervisor.start()
    pid = site.supervisor.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        site.supervisor.set_peers({**many, **PEERS})
    finally:
        os.kill(pid, signal.SIGCONT)
    loop = asyncio.get_running_loop()
    before = loop.time()
    assert await site.supervisor.ask(20) is not None
    assert loop.time() - before < limit(0.5, 20.0)
    assert site.supervisor.pid == pid
    await site.exchange()
