"""A helper of any kind: started on what it is given, without rights, kept alive, and replaced when it fails."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from overlay.daemon.confined import supervision
from overlay.daemon.confined.privileges import FIRST_USER
from overlay.daemon.confined.process import Command, Process
from overlay.daemon.confined.supervision import Supervision
from overlay.errors import NodeError
from tests.support import echo_helper

NAME = "echo helper"


class Echo:
    """A charge: a helper that answers what it is told, with who it is."""

    def __init__(self) -> None:
        self.given, theirs = socket.socketpair()
        self._theirs = theirs
        self.process: Process | None = None
        self.word = "word"

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    async def begin(self) -> None:
        self.process = Process(Command(NAME, echo_helper.__name__, (self._theirs.fileno(),), (self.word,)))
        self.process.control.setblocking(False)
        if not await self.answers(20):
            raise NodeError("does not come up", about=NAME)

    def end(self) -> None:
        if self.process is not None:
            self.process.control.close()
            self.process.end()
            self.process = None

    async def died(self) -> None:
        pid = self.pid
        assert pid is not None
        descriptor, done = os.pidfd_open(pid), asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, done.set)
        try:
            await done.wait()
        finally:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    async def answers(self, patience: float) -> bool:
        return await self.ask(b"who?", patience) is not None

    async def ask(self, question: bytes, patience: float = 20) -> bytes | None:
        assert self.process is not None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(patience):
                await loop.sock_sendall(self.process.control, question)
                return await loop.sock_recv(self.process.control, 1000) or None
        except (TimeoutError, OSError):
            return None

    def close(self) -> None:
        self.given.close()
        self._theirs.close()


@pytest_asyncio.fixture
async def echo() -> AsyncIterator[tuple[Echo, Supervision]]:
    charge = Echo()
    supervised = Supervision(NAME, charge, NodeError)
    yield charge, supervised
    await supervised.stop()
    charge.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_it_has_what_it_was_given_and_no_more(echo: tuple[Echo, Supervision]) -> None:
    charge, supervised = echo
    charge.word = "any word"
    await supervised.start()
    pid = charge.pid
    assert await charge.ask(b"who?") == f"any word of {os.getpid()}".encode()
    assert await charge.ask(b"write") == b"written"
    assert charge.given.recv(100) == b"through what it was given"
    assert await charge.ask(b"open") == b"PermissionError"
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert int(status["CapEff"], 16) == int(status["CapBnd"] if os.geteuid() == 0 else "0", 16) == 0
    assert status["Seccomp"] == "2"
    if os.geteuid() == 0:
        assert status["Uid"].split() == [str(FIRST_USER + 9)] * 4
    await supervised.stop()
    assert not Path(f"/proc/{pid}").exists()


async def test_one_that_dies_or_hangs_is_replaced(
    echo: tuple[Echo, Supervision], monkeypatch: pytest.MonkeyPatch
) -> None:
    charge, supervised = echo
    monkeypatch.setattr(supervision, "HEARTBEAT", 0.2)
    monkeypatch.setattr(supervision, "HANG", 1.0)
    await supervised.start()
    for restarts, number in ((1, signal.SIGKILL), (2, signal.SIGSTOP)):
        former = charge.pid
        assert former is not None
        os.kill(former, number)
        await until(lambda restarts=restarts: supervised.restarts == restarts)  # type: ignore[misc]
        await until(lambda former=former: charge.pid not in {None, former})  # type: ignore[misc]
        assert not Path(f"/proc/{former}").exists()


async def test_one_that_answers_is_left_alone(echo: tuple[Echo, Supervision], monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it has nothing to do but answer."""
    charge, supervised = echo
    monkeypatch.setattr(supervision, "HEARTBEAT", 0.05)
    monkeypatch.setattr(supervision, "HANG", 2.0)
    asked = 0
    answers = charge.answers

    async def counted(patience: float) -> bool:
        nonlocal asked
        asked += 1
        return await answers(20 + patience)

    await supervised.start()
    monkeypatch.setattr(charge, "answers", counted)
    pid = charge.pid
    before = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - before < 4.5:
        await asyncio.sleep(0.1)
    assert asked > 1
    assert (charge.pid, supervised.restarts) == (pid, 0)


async def test_one_that_does_not_live_is_given_up_in_its_owners_words(
    echo: tuple[Echo, Supervision], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    charge, supervised = echo
    monkeypatch.setattr(supervision, "MAX_DEATHS", 1)
    await supervised.start()
    charge.word = "die"
    assert charge.pid is not None
    os.kill(charge.pid, signal.SIGKILL)
    with pytest.raises(NodeError, match=f"{NAME}: does not come up, 2 times"):
        await asyncio.wait_for(asyncio.shield(supervised.failed), 30)
    assert any(" said: a last word \ufffd[31m" in message for message in caplog.messages)


async def test_one_that_never_comes_up_leaves_nothing(echo: tuple[Echo, Supervision]) -> None:
    charge, supervised = echo
    charge.word = "die"
    with pytest.raises(NodeError, match="does not come up"):
        await supervised.start()
    assert charge.process is None
