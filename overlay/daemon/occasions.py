"""What wakes a loop: being told, a change of this machine's network, or a while without either."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import NoReturn

from overlay.linux.changes import ADDRESSING, BURST_SECONDS, Group, changes

_DEAF_SECONDS = 5.0
"""Seconds between two attempts to hear of changes."""

_log = logging.getLogger(__name__)


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

    While the kernel cannot tell, for want of a descriptor or of memory, they are told now and then.
    """
    deaf = False
    while True:
        try:
            async for _ in changes(of, burst):
                deaf = False
                _tell(occasions)
        except OSError as error:
            if not deaf:
                _log.warning("changes of this machine's network are not heard of (%s): trying again", error.strerror)
            deaf = True
            _tell(occasions)
            await asyncio.sleep(_DEAF_SECONDS)


def _tell(occasions: Iterable[Occasion]) -> None:
    for occasion in occasions:
        occasion.tell()
