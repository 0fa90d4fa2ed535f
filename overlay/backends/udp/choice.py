"""Which datapath this node uses, and why.

Whether the kernel's works is found out by trying, which says yes, no, or, on a machine that is busy or short of
something, neither. Then it is tried again, and what works at last stays: programs that carry packets are not taken away
because nobody could tell whether they would.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from overlay.backends.base import Flags
from overlay.datapath.base import Datapath
from overlay.datapath.kernel.datapath import KernelDatapath
from overlay.datapath.kernel.fou import Wish
from overlay.datapath.kernel.machine import cleanup, is_in_use
from overlay.datapath.kernel.probe import Answer, ProbeResult, probe, probe_fou
from overlay.datapath.userspace.datapath import UserspaceDatapath
from overlay.datapath.userspace.queues import Offloads
from overlay.errors import DatapathError, OverlayError

_TRIES = 3
_PAUSE = 0.5
"""Seconds between two tries."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """A datapath, its name, and one line that says why it was taken."""

    name: str
    datapath: Datapath
    reason: str


async def choose(flags: Flags) -> Choice:
    """The datapath that was asked for; ``auto`` takes the kernel's where a packet sent through it comes out,
    and where it is in use and nothing could be sent through it.

    Raises:
        DatapathError: the kernel's was asked for, and does not work here.
    """
    if flags.datapath == "userspace":
        return await _userspace(flags, "asked for")
    answer = await _try()
    reason = answer.reason
    if answer.answer is Answer.UNKNOWN and await _is_in_use(flags.device):
        return await _kernel(flags, f"it is in use here; whether it works could not be tried: {reason}")
    if answer.answer is Answer.YES:
        return await _kernel(flags, reason)
    if flags.datapath == "kernel":
        raise DatapathError(
            reason, about="--datapath kernel", remedy="use --datapath auto, which falls back to userspace"
        )
    if answer.answer is Answer.UNKNOWN:
        return await _userspace(flags, f"could not try the kernel's, a restart tries again: {reason}")
    return await _userspace(flags, f"the kernel's does not work here: {reason}")


async def _try() -> ProbeResult:
    for left in reversed(range(_TRIES)):
        answer = await asyncio.to_thread(probe)
        if answer.answer is not Answer.UNKNOWN or not left:
            break
        _log.info("could not try the kernel datapath, trying again: %s", answer.reason)
        await asyncio.sleep(_PAUSE)
    return answer


async def _is_in_use(device: str) -> bool:
    try:
        return await asyncio.to_thread(is_in_use, device)
    except OverlayError as error:
        _log.info("programs of the kernel datapath could not be looked for: %s", error)
        return False


async def _kernel(flags: Flags, reason: str) -> Choice:
    # The slow path must see each datagram as it came: joined ones would have passed the program unseen.
    slow = UserspaceDatapath(workers=1, offloads=Offloads.CHECKSUMS)
    return Choice("kernel", KernelDatapath(slow, fou=await may_use_fou(flags)), reason)


async def may_use_fou(flags: Flags) -> Wish:
    """Whether the kernel path may leave trains to FOU: not where it is forbidden, or a packet does not come through."""
    if not flags.fou:
        return Wish(False, "forbidden by --fou=false")
    tried = await asyncio.to_thread(probe_fou)
    return Wish(tried.answer is Answer.YES, tried.reason)


async def _userspace(flags: Flags, reason: str) -> Choice:
    # Programs of an earlier agent would go on carrying packets by peers that are out of date.
    try:
        for change in await asyncio.to_thread(cleanup, flags.device):
            _log.info("left by the kernel datapath: %s", change)
    except OverlayError as error:
        _log.info("nothing of the kernel datapath could be looked for: %s", error)
    offloads = Offloads.ALL if flags.offloads else Offloads.NONE
    return Choice("userspace", UserspaceDatapath(workers=flags.workers, offloads=offloads), reason)
