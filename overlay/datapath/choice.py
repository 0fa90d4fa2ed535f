"""Which datapath this node uses, and why."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from overlay.datapath.base import Datapath
from overlay.datapath.kernel.datapath import KernelDatapath
from overlay.datapath.kernel.machine import cleanup
from overlay.datapath.kernel.probe import Answer, probe
from overlay.datapath.userspace.datapath import UserspaceDatapath
from overlay.datapath.userspace.queues import Offloads
from overlay.errors import DatapathError, OverlayError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator asked for.

    Attributes:
        name: ``auto``, ``kernel`` or ``userspace``.
        workers: processes of the userspace datapath; None: one for every two cores.
        offloads: whether it may use those of TUN and UDP.
        device: name of the TUN device.
    """

    name: str
    workers: int | None
    offloads: bool
    device: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A datapath, its name, and one line that says why it was taken."""

    name: str
    datapath: Datapath
    reason: str


async def choose(wish: Wish) -> Choice:
    """The datapath that was asked for; ``auto`` takes the kernel's where a packet sent through it comes out.

    Raises:
        DatapathError: the kernel's was asked for, and does not work here.
    """
    if wish.name == "userspace":
        return await _userspace(wish, "asked for")
    answer = await asyncio.to_thread(probe)
    if answer.answer is Answer.YES:
        # The slow path must see each datagram as it came: joined ones would have passed the program unseen.
        slow_path = UserspaceDatapath(workers=1, offloads=Offloads.CHECKSUMS)
        return Choice("kernel", KernelDatapath(slow_path), answer.reason)
    if wish.name == "kernel":
        raise DatapathError(
            answer.reason, about="--datapath kernel", remedy="use --datapath auto, which falls back to userspace"
        )
    return await _userspace(wish, f"the kernel's does not work here: {answer.reason}")


async def _userspace(wish: Wish, reason: str) -> Choice:
    # Programs of an earlier agent would go on carrying packets by peers that are out of date.
    try:
        for change in await asyncio.to_thread(cleanup, wish.device):
            _log.info("left by the kernel datapath: %s", change)
    except OverlayError as error:
        _log.info("nothing of the kernel datapath could be looked for: %s", error)
    offloads = Offloads.ALL if wish.offloads else Offloads.NONE
    return Choice("userspace", UserspaceDatapath(workers=wish.workers, offloads=offloads), reason)
