"""How the agent's end is told."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import pytest

from overlay.agent.runner import _until
from overlay.cli.main import run
from overlay.errors import PrivilegeError


async def fail() -> NoReturn:
    raise PrivilegeError("not permitted", about="interface flannel0")


async def nested(depth: int) -> NoReturn:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail() if depth == 0 else nested(depth - 1))
    raise AssertionError


async def nothing() -> None:
    pass


@pytest.mark.parametrize("depth", range(4))
async def test_an_error_of_a_task_in_whatever_group_is_raised_as_it_is(depth: int) -> None:
    with pytest.raises(PrivilegeError, match="not permitted"):
        await _until(asyncio.Event(), nested(depth), nothing)


@pytest.mark.parametrize("depth", range(4))
def test_the_command_line_tells_it_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    """Also where a group came through."""
    monkeypatch.setattr("overlay.cli.agent.run", lambda *_: nested(depth))
    monkeypatch.setattr("overlay.cli.agent.set_up", lambda *_, **__: None)
    assert run(["agent"]) == 1
    assert capsys.readouterr().err == "overlay: interface flannel0: not permitted\n"
