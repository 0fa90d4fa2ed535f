"""Hearing that something of a namespace's network changed.

machine: one network namespace, no link but lo and what the test makes
"""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import Callable, Coroutine, Iterator

import pytest

from overlay.daemon.occasions import Occasion, changes_of_this_machine
from overlay.lab.namespace import call_inside
from overlay.linux.changes import ADDRESSING, BURST_SECONDS, Group

pytestmark = pytest.mark.root

PATIENCE = 30.0
STORM = 3000
"""Routes: three times as many messages as a socket's buffer holds."""


@pytest.fixture
def machine() -> Iterator[str]:
    name = f"changes-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


class Heard:
    """What an occasion was told."""

    def __init__(self, occasion: Occasion) -> None:
        self._occasion = occasion

    async def quiet(self) -> int:
        """Waits until nothing more is told; how often something was."""
        loop, told = asyncio.get_running_loop(), 0
        while True:
            self._occasion.take()
            before = loop.time()
            await self._occasion.wait(10 * BURST_SECONDS)
            if loop.time() - before >= 10 * BURST_SECONDS:
                return told
            told += 1

    async def something(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._occasion.wait()


def inside(machine: str, of: Group, script: Callable[[Heard], Coroutine[None, None, None]]) -> None:
    """Runs ``script`` while somebody listens in ``machine``."""

    async def listening() -> None:
        occasion = Occasion()
        task = asyncio.create_task(changes_of_this_machine(occasion, of=of))
        await asyncio.sleep(0)  # it listens now
        try:
            await script(Heard(occasion))
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    call_inside(machine, lambda: asyncio.run(listening()))


def ip(*words: str, batch: str | None = None) -> None:
    subprocess.run(["ip", *words], check=True, input=batch, text=True)


def test_links_addresses_and_routes_are_heard_of_and_nothing_else_is(machine: str) -> None:
    async def script(heard: Heard) -> None:
        for words in (
            "link add d0 type bridge",
            "link set d0 up",
            "addr add 10.1.0.1/24 dev d0",
            "route add 10.2.0.0/24 dev d0",
            "route del 10.2.0.0/24",
            "link del d0",
        ):
            await heard.quiet()
            ip(*words.split())
            await heard.something()
        ip("link", "add", "d0", "type", "bridge")
        await heard.quiet()
        subprocess.run(["tc", "qdisc", "add", "dev", "d0", "clsact"], check=True)
        assert await heard.quiet() == 0

    inside(machine, ADDRESSING, script)


def test_filters_are_heard_of_where_they_matter(machine: str) -> None:
    async def script(heard: Heard) -> None:
        ip("link", "add", "d0", "type", "bridge")
        await heard.quiet()
        subprocess.run(["tc", "qdisc", "add", "dev", "d0", "clsact"], check=True)
        await heard.something()

    inside(machine, Group.TRAFFIC_CONTROL, script)


def test_more_than_the_socket_holds_is_heard_of_like_anything_else(machine: str) -> None:
    async def script(heard: Heard) -> None:
        ip("link", "add", "d0", "type", "bridge")
        ip("link", "set", "d0", "up")
        await heard.quiet()
        routes = "".join(f"route add 10.{n >> 8}.{n & 255}.0/24 dev d0\n" for n in range(STORM))
        ip("-batch", "-", batch=routes)  # nobody reads meanwhile: the loop waits for it
        await heard.something()
        await heard.quiet()
        ip("link", "del", "d0")
        await heard.something()

    inside(machine, ADDRESSING, script)
