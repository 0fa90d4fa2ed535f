"""The one loop: when it looks, what its failures are, and that it never looks twice at once."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from overlay.daemon.reconcile import Look, Loop, Work
from overlay.daemon.troubles import Troubles
from overlay.errors import NodeError, PrivilegeError
from overlay.problem import Problem, Severity

NEVER = 3600.0


@asynccontextmanager
async def running(loop: Loop) -> AsyncIterator[None]:
    task = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


class Counted:
    """Work that counts its calls, and does what ``next`` says."""

    def __init__(self) -> None:
        self.calls = 0
        self.next = Look()

    async def __call__(self) -> Look:
        self.calls += 1
        return self.next


async def test_it_looks_at_once_and_when_told() -> None:
    work = Counted()
    loop = Loop("node", work, Troubles(), every=NEVER)
    async with running(loop):
        await until(lambda: work.calls == 1)
        for _ in range(5):
            await asyncio.sleep(0)
        assert work.calls == 1, "and not again by itself"
        loop.occasion.tell()
        loop.occasion.tell()
        await until(lambda: work.calls == 2)
        for _ in range(5):
            await asyncio.sleep(0)
        assert work.calls == 2, "two words, one look"


async def test_what_is_told_during_a_look_is_looked_at_after_it() -> None:
    """Else a change would be lost that came while the machine was being read."""
    calls = 0

    async def work() -> Look:
        nonlocal calls
        calls += 1
        if calls == 1:
            loop.occasion.tell()
        return Look()

    loop = Loop("node", work, Troubles(), every=NEVER)
    async with running(loop):
        await until(lambda: calls == 2)


@pytest.mark.parametrize(("every", "due"), [(0.001, None), (NEVER, 0.001)])
async def test_it_looks_again_after_a_while_and_when_a_look_is_due(every: float, due: float | None) -> None:
    work = Counted()
    work.next = Look(due=due)
    async with running(Loop("node", work, Troubles(), every=every)):
        await until(lambda: work.calls > 5)


async def test_what_a_look_finds_wrong_is_a_problem_until_another_finds_otherwise() -> None:
    work, troubles = Counted(), Troubles()
    work.next = Look((Problem("leftovers", "an address stays", about="flannel0"),))
    loop = Loop("node", work, troubles, every=NEVER)
    await loop.once()
    assert [problem.code for problem in troubles.now] == ["leftovers"]
    work.next = Look()
    await loop.once()
    assert troubles.now == ()


async def test_a_failure_is_a_problem_of_its_severity_and_the_next_attempt_comes_sooner() -> None:
    async def work() -> Look:
        raise NodeError("is busy", about="device flannel0", remedy="stop the other")

    troubles = Troubles()
    loop = Loop("node", work, troubles, every=NEVER, retry=0.5, severity=Severity.DOWN)
    assert await loop.once() == 0.5
    assert troubles.now == (
        Problem("node", "device flannel0: is busy", "stop the other; trying again", "device flannel0", Severity.DOWN),
    )
    assert troubles.down


async def test_without_the_right_to_it_no_attempt_helps() -> None:
    async def work() -> Look:
        raise PrivilegeError("not permitted")

    async with asyncio.timeout(20):
        with pytest.raises(PrivilegeError):
            await Loop("node", work, Troubles(), retry=0.001).run()


async def test_there_is_one_look_at_a_time() -> None:
    at_once, most = 0, 0

    async def work() -> Look:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        return Look()

    checked: Work = work
    loop = Loop("firewall", checked, Troubles(), every=0.001)
    async with running(loop):
        await asyncio.gather(*(loop.once() for _ in range(20)))
    assert most == 1


async def test_a_machine_that_is_short_of_something_ends_no_loop() -> None:
    """Whatever work opens, a descriptor may be missing for it; the next look may find one."""

    async def work() -> Look:
        raise OSError(errno.EMFILE, "Too many open files")

    troubles = Troubles()
    assert await Loop("node", work, troubles, every=NEVER, retry=0.5).once() == 0.5
    assert [(problem.code, problem.sentence) for problem in troubles.now] == [("node", "Too many open files")]
