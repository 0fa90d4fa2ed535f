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
from overlay.backends.udp.former import Former
from overlay.datapath.base import Datapath
from overlay.datapath.kernel.datapath import KernelDatapath
from overlay.datapath.kernel.fou import Wish
from overlay.datapath.kernel.machine import is_in_use
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
    """Which datapath, and why.

    Attributes:
        reason: one line for people.
        former: what carries packets until this one does, and then has to go; None where this one takes it over.
    """

    name: str
    datapath: Datapath
    reason: str
    former: Former | None = None


async def choose(flags: Flags) -> Choice:
    """The datapath that was asked for; ``auto`` takes the kernel's where a packet sent through it comes out,
    and where it is in use and nothing could be sent through it.

    Raises:
        DatapathError: the kernel's was asked for, and does not work here.
    """
    if flags.datapath == "userspace":
        return _userspace(flags, "asked for")
    # Beside each other: both wait for the kernel, most of the time.
    answer, fou = await asyncio.gather(_try(), may_use_fou(flags))
    reason = answer.reason
    if answer.answer is Answer.UNKNOWN and await _is_in_use(flags.device):
        return await _kernel(flags, fou, f"it is in use here; whether it works could not be tried: {reason}")
    if answer.answer is Answer.YES:
        return await _kernel(flags, fou, reason)
    if flags.datapath == "kernel":
        raise DatapathError(
            reason, about="--datapath kernel", remedy="use --datapath auto, which falls back to userspace"
        )
    if answer.answer is Answer.UNKNOWN:
        return _userspace(flags, f"could not try the kernel's, a restart tries again: {reason}")
    return _userspace(flags, f"the kernel's does not work here: {reason}")


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


async def _kernel(flags: Flags, fou: Wish, reason: str) -> Choice:
    # The slow path must see each datagram as it came: joined ones would have passed the program unseen.
    slow = UserspaceDatapath(workers=1, offloads=Offloads.CHECKSUMS)
    datapath = KernelDatapath(slow, fou=fou)
    try:
        await datapath.load(flags.device)  # which need not wait for a lease
    except OverlayError as error:  # and is tried again once there is one
        _log.info("the kernel datapath's programs could not be loaded yet: %s", error)
    return Choice("kernel", datapath, reason)


async def may_use_fou(flags: Flags) -> Wish:
    """Whether the kernel path may leave trains to FOU: not where it is forbidden, or a packet does not come through."""
    if not flags.fou:
        return Wish(False, "forbidden by --fou=false")
    tried = await asyncio.to_thread(probe_fou)
    return Wish(tried.answer is Answer.YES, tried.reason)


def _userspace(flags: Flags, reason: str) -> Choice:
    offloads = Offloads.ALL if flags.offloads else Offloads.NONE
    datapath = UserspaceDatapath(workers=flags.workers, offloads=offloads)
    # Programs of an earlier agent would go on carrying packets by peers that are out of date.
    return Choice("userspace", datapath, reason, Former(flags.device))
