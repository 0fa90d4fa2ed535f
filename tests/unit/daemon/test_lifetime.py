"""A daemon's life: who is heard, what ends it, and in which order it gives back what it holds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from overlay.cli.main import run
from overlay.daemon.lifetime import Daemon
from overlay.daemon.lock import lock
from overlay.daemon.reconcile import Look
from overlay.daemon.status_socket import ask
from overlay.errors import NodeError, OverlayError, PrivilegeError
from tests.support.problems import shown


async def fail() -> None:
    raise PrivilegeError("not permitted", about="interface flannel0")


async def nested(depth: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail() if depth == 0 else nested(depth - 1))


class Diary:
    """What happened, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def entry(self, line: str) -> Callable[[], Awaitable[None]]:
        async def write() -> None:
            self.lines.append(line)

        return write

    async def task(self, line: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.lines.append(line)


def term() -> None:
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("depth", range(4))
async def test_an_error_of_a_task_in_whatever_group_is_raised_as_it_is(depth: int, tmp_path: Path) -> None:
    daemon = Daemon("agent", tmp_path)

    async def bring_up() -> None:
        daemon.start("nested", nested(depth))

    async with asyncio.timeout(20):
        with pytest.raises(PrivilegeError, match="not permitted"):
            await daemon.run(bring_up)


async def test_a_task_that_fails_ends_a_bring_up_that_waits(tmp_path: Path) -> None:
    daemon = Daemon("agent", tmp_path)

    async def bring_up() -> None:
        daemon.start("fails", fail())
        await asyncio.get_running_loop().create_future()

    async with asyncio.timeout(20):
        with pytest.raises(PrivilegeError, match="not permitted"):
            await daemon.run(bring_up)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_told_to_stop_it_does_what_is_left_and_gives_back_the_last_first(tmp_path: Path, number: int) -> None:
    daemon, diary = Daemon("agent", tmp_path), Diary()

    async def bring_up() -> None:
        daemon.at_end(diary.entry("store closed"))
        daemon.at_end(diary.entry("node closed"))
        daemon.before_stop(diary.entry("lease given back"))
        daemon.start("task", diary.task("task ended"))
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)

    async with asyncio.timeout(20):
        await daemon.run(bring_up)
    assert diary.lines == ["lease given back", "task ended", "node closed", "store closed"]


async def test_told_to_stop_while_it_is_brought_up_it_stops(tmp_path: Path) -> None:
    """As while it waits for an interface."""
    daemon, diary = Daemon("agent", tmp_path), Diary()

    async def bring_up() -> None:
        daemon.at_end(diary.entry("closed"))
        term()
        await diary.task("given up")

    async with asyncio.timeout(20):
        await daemon.run(bring_up)
    assert diary.lines == ["given up", "closed"]


async def test_what_ends_by_an_error_is_given_back_all_the_same(tmp_path: Path) -> None:
    daemon, diary = Daemon("agent", tmp_path), Diary()

    async def bring_up() -> None:
        daemon.at_end(diary.entry("first"))
        daemon.at_end(fail)
        daemon.at_end(diary.entry("last"))
        daemon.before_stop(diary.entry("never: nobody told it to stop"))
        raise NodeError("the machine refuses")

    async with asyncio.timeout(20):
        with pytest.raises((NodeError, PrivilegeError)):
            await daemon.run(bring_up)
    assert diary.lines == ["last", "first"]
    os.close(lock(tmp_path, "agent"))


async def test_a_directory_has_one_daemon_of_a_name(tmp_path: Path) -> None:
    daemon = Daemon("agent", tmp_path)

    async def bring_up() -> None:
        with pytest.raises(NodeError, match=rf"another agent runs there \(process {os.getpid()}\)"):
            await Daemon("agent", tmp_path).run(fail)
        os.close(lock(tmp_path, "services"))
        term()

    async with asyncio.timeout(20):
        await daemon.run(bring_up)


@pytest.mark.parametrize("what", ["files", "directory"])
async def test_a_state_directory_that_is_emptied_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """By whoever cleans up /run or /tmp: the daemon goes on answering, and another still cannot have the directory."""
    monkeypatch.setattr("overlay.daemon.lifetime._PLACE_SECONDS", 0.05)
    directory = tmp_path / "state"
    daemon = Daemon("agent", directory)

    async def report() -> bytes:
        return b"{}"

    async def eventually(found: Callable[[], object]) -> None:
        while True:
            with contextlib.suppress(OverlayError, AssertionError):
                return assert_true(await asyncio.to_thread(found))
            await asyncio.sleep(0.02)

    async def bring_up() -> None:
        daemon.answer(report)
        await eventually(lambda: ask(directory) == {})
        if what == "directory":
            shutil.rmtree(directory)
        else:
            for file in directory.iterdir():
                file.unlink()
        await eventually(lambda: ask(directory) == {})
        await eventually((directory / "agent.lock").exists)
        with pytest.raises(NodeError, match="another agent runs there"):
            lock(directory, "agent")
        term()

    async with asyncio.timeout(60):
        await daemon.run(bring_up)
    assert [file.name for file in directory.iterdir()] == ["agent.lock"]


async def test_a_state_directory_that_cannot_be_had_any_more_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program has a file in its place: the daemon goes on, though nobody can ask it."""
    monkeypatch.setattr("overlay.daemon.lifetime._PLACE_SECONDS", 0.05)
    directory = tmp_path / "state"
    daemon = Daemon("agent", directory)

    async def report() -> bytes:
        return b"{}"

    async def bring_up() -> None:
        daemon.answer(report)
        shutil.rmtree(directory)
        directory.write_text("")
        while not (shown(daemon.troubles.now, "lock") and shown(daemon.troubles.now, "report")):
            await asyncio.sleep(0.02)
        term()

    async with asyncio.timeout(60):
        await daemon.run(bring_up)


def assert_true(found: object) -> None:
    assert found


async def test_what_it_keeps_is_a_problem_while_it_fails_and_no_longer(tmp_path: Path) -> None:
    daemon, attempts = Daemon("agent", tmp_path), 0
    seen: list[list[str]] = []

    async def mend() -> Look:
        nonlocal attempts
        attempts += 1
        seen.append([problem.text for problem in daemon.troubles.now])
        if attempts < 3:
            raise NodeError("is busy", about="device flannel0")
        term()
        return Look()

    async def bring_up() -> None:
        daemon.keep("node", mend, retry=0.01)

    async with asyncio.timeout(20):
        await daemon.run(bring_up)
    assert seen == [[], ["device flannel0: is busy; trying again"], ["device flannel0: is busy; trying again"]]
    assert daemon.troubles.now == ()


@pytest.mark.parametrize("depth", range(4))
def test_the_command_line_tells_it_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    """Also where a group came through."""
    monkeypatch.setattr("overlay.cli.agent.run", lambda *_: nested(depth))
    monkeypatch.setattr("overlay.cli.agent.set_up", lambda *_, **__: None)
    assert run(["agent"]) == 1
    assert capsys.readouterr().err == "overlay: interface flannel0: not permitted\n"
