"""What a kernel datapath of an earlier agent has left, where userspace is to carry the packets now.

It goes on carrying them until somebody else does: programs are removed once the workers move packets, and not before.
Only the tunnel's port is needed sooner, where the kernel's FOU has it.
"""

from __future__ import annotations

import asyncio
import logging

from overlay.datapath.kernel.machine import cleanup, give_port_back, is_in_use
from overlay.errors import OverlayError

_log = logging.getLogger(__name__)


class Former:
    """The kernel path of an earlier agent with the TUN device ``device``; there may be none."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._gone = False
        self._has_port = True

    async def make_way(self) -> None:
        """Frees the tunnel's port for a socket; the programs go on without FOU. What cannot be found out is logged."""
        if not self._has_port:
            return
        try:
            _tell(await asyncio.to_thread(give_port_back, self._device))
            self._has_port = False
        except OverlayError as error:
            _log.info("nothing of FOU could be looked for: %s", error)

    async def remove(self) -> tuple[str, ...]:
        """Removes it; what kept some of it from being removed, to be tried again."""
        if self._gone:
            return ()
        try:
            _tell(await asyncio.to_thread(cleanup, self._device))
        except OverlayError as error:
            if await self._is_in_use():
                return (f"left by the kernel datapath: {error}",)
            _log.info("nothing of the kernel datapath could be looked for: %s", error)
        self._gone = True
        return ()

    async def _is_in_use(self) -> bool:
        """As far as this kernel lets us find out: one that has none of what it takes does not."""
        try:
            return await asyncio.to_thread(is_in_use, self._device)
        except OverlayError:
            return False


def _tell(changes: list[str]) -> None:
    for change in changes:
        _log.info("left by the kernel datapath: %s", change)
