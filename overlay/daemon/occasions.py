"""What wakes a loop: being told, a change of this machine's network, or a while without either."""

from __future__ import annotations

import asyncio
import contextlib
from typing import NoReturn

from overlay.linux.changes import ADDRESSING, BURST_SECONDS, Group, changes


class Occasion:
    """There may be something to do: anybody may tell, one loop waits. Told often before it looks, it looks once."""

    def __init__(self) -> None:
        self._told = asyncio.Event()

    def tell(self) -> None:
        """There may be something to do now; does not block."""
        self._told.set()

    def take(self) -> None:
        """What was told so far is being looked at."""
        self._told.clear()

    async def wait(self, patience: float | None = None) -> None:
        """Returns when it was told since :meth:`take`, or after ``patience`` seconds; None: however long it takes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._told.wait()


async def changes_of_this_machine(
    *occasions: Occasion, of: Group = ADDRESSING, burst: float = BURST_SECONDS
) -> NoReturn:
    """Tells ``occasions`` of each burst of changes to this namespace's network, as seldom as every ``burst`` seconds.

    Raises:
        OSError: the kernel refuses to tell.
    """
    async for _ in changes(of, burst):
        for occasion in occasions:
            occasion.tell()
    raise AssertionError("the kernel never stops telling")
