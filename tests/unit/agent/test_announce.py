"""``--on-subnet-change``: what is told, when, and what becomes of a command that fails, hangs or is cut off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from overlay.agent import announce
from overlay.agent.announce import FILE_NAME, Announcer
from overlay.node.subnet_env import SubnetEnv

LIMIT = 20.0
"""Seconds that a condition may take; it takes some milliseconds."""

A, B, C, D = (IPv4Network(f"10.0.{number}.0/24") for number in range(1, 5))


def content(subnet: IPv4Network) -> SubnetEnv:
    return SubnetEnv(IPv4Network("10.0.0.0/16"), subnet, 1472, ip_masq=False)


def say(path: Path) -> str:
    """A command that appends the old subnet and the new one's gateway to a file."""
    return f'echo "$FLANNEL_OLD_SUBNET $FLANNEL_SUBNET" >>{path}'


def told(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def succeeded(directory: Path) -> bool:
    """Whether it is remembered that the command has succeeded; that comes a moment after the command's own words."""
    return "null" in (directory / FILE_NAME).read_text()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(announcer: Announcer) -> AsyncIterator[None]:
    task = asyncio.create_task(announcer.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def alive(pid_file: Path) -> bool:
    """Whether the process lives whose id is in the file; a zombie does not."""
    try:
        status = Path(f"/proc/{int(pid_file.read_text())}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


async def test_a_first_start_tells_nothing_and_the_next_change_is_told(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    announcer = Announcer(say(heard), tmp_path)
    async with running(announcer):
        announcer.begin(A)
        announcer.tell(content(A))
        announcer.tell(content(B))
        await until(lambda: told(heard))
    assert told(heard) == [f"{A} 10.0.2.1/24"]


async def test_a_subnet_that_an_earlier_start_had_counts_as_told(tmp_path: Path) -> None:
    """That of subnet.env, which may be flanneld's."""
    heard = tmp_path / "heard"
    announcer = Announcer(say(heard), tmp_path)
    async with running(announcer):
        announcer.begin(B)
        announcer.tell(content(A))
        await until(lambda: told(heard))
    assert told(heard) == [f"{B} 10.0.1.1/24"]


async def test_one_at_a_time_and_the_newest_wins(tmp_path: Path) -> None:
    heard, gate = tmp_path / "heard", tmp_path / "gate"
    announcer = Announcer(f"{say(heard)}; until [ -e {gate} ]; do sleep 0.01; done", tmp_path)
    async with running(announcer):
        announcer.begin(A)
        announcer.tell(content(B))
        await until(lambda: told(heard))
        announcer.tell(content(C))
        announcer.tell(content(D))
        gate.touch()
        await until(lambda: len(told(heard)) == 2)
    assert told(heard) == [f"{A} 10.0.2.1/24", f"{B} 10.0.4.1/24"]


async def test_what_was_cut_off_is_run_again_at_the_next_start(tmp_path: Path) -> None:
    heard, pid = tmp_path / "heard", tmp_path / "pid"
    first = Announcer(f"{say(heard)}; sleep 1000 & echo $! >{pid}.new; mv {pid}.new {pid}; wait", tmp_path)
    async with running(first):
        first.begin(A)
        first.tell(content(B))
        await until(pid.exists)
        assert alive(pid)
    await until(lambda: not alive(pid))  # of the whole group nothing is left
    second = Announcer(say(heard), tmp_path)
    async with running(second):
        second.begin(B)  # what subnet.env says by now
        second.tell(content(B))
        await until(lambda: len(told(heard)) == 2 and succeeded(tmp_path))
    assert told(heard) == [f"{A} 10.0.2.1/24"] * 2
    third = Announcer(say(heard), tmp_path)
    async with running(third):
        third.tell(content(B))
        third.tell(content(C))
        await until(lambda: len(told(heard)) == 3)
    assert told(heard)[2] == f"{B} 10.0.3.1/24", "with success it was told once only"


async def test_a_command_that_fails_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(announce, "_FIRST_RETRY", 0.05)
    heard = tmp_path / "heard"
    announcer = Announcer(f"{say(heard)}; [ $(wc -l <{heard}) = 3 ] || exit 7", tmp_path)
    async with running(announcer):
        announcer.begin(A)
        announcer.tell(content(B))
        await until(lambda: succeeded(tmp_path) and len(told(heard)) == 3)
    assert told(heard) == [f"{A} 10.0.2.1/24"] * 3
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert ["ended with status 7; running it again in 0.05 s" in warnings[0], "in 0.1 s" in warnings[1]] == [True, True]
    assert len(warnings) == 2


async def test_a_subnet_that_comes_back_after_a_failed_command_is_told_too(tmp_path: Path) -> None:
    """The command may have done half of its work for the other one."""
    heard = tmp_path / "heard"
    announcer = Announcer(f'{say(heard)}; [ "$FLANNEL_SUBNET" = 10.0.1.1/24 ]', tmp_path)
    async with running(announcer):
        announcer.begin(A)
        announcer.tell(content(B))
        await until(lambda: told(heard))
        announcer.tell(content(A))
        await until(lambda: len(told(heard)) == 2)
        await until(lambda: succeeded(tmp_path))
    assert told(heard) == [f"{A} 10.0.2.1/24", f"{B} 10.0.1.1/24"]


async def test_a_command_that_hangs_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(announce, "_COMMAND_SECONDS", 0.5)
    pid = tmp_path / "pid"
    announcer = Announcer(f"sleep 1000 & echo $! >{pid}.new; mv {pid}.new {pid}; wait", tmp_path)
    async with running(announcer):
        announcer.begin(A)
        announcer.tell(content(B))
        await until(lambda: "killed, it took more than 0.5 s" in caplog.text)
    assert pid.exists()
    await until(lambda: not alive(pid))


async def test_a_damaged_memory_is_said_and_started_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).write_text("{")
    heard = tmp_path / "heard"
    announcer = Announcer(say(heard), tmp_path)
    assert "cannot be used" in caplog.text
    async with running(announcer):
        announcer.begin(A)
        announcer.tell(content(B))
        await until(lambda: told(heard))
    assert told(heard) == [f"{A} 10.0.2.1/24"]
