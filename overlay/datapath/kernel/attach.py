"""Which program belongs on which hook, and bringing an interface to that state.

A filter of ours is known by its name, ``overlay/<device>/<program>#<number>``: the number is the kernel's for the
loaded program, so one look tells whether it is this agent's or a predecessor's. A ``!`` at its end says that the clsact
qdisc that it hangs on was made for it: only such a one is removed with the last filter.
"""

from __future__ import annotations

import zlib
from collections.abc import Container, Iterable
from dataclasses import dataclass

from overlay.linux.libbpf import Program
from overlay.linux.netlink import Link
from overlay.linux.tc import FIRST_PRIORITY, Filter, Hook, TrafficControl

_MADE = "!"

_MAX_STEM = 11
"""An interface's name has 15 characters; our suffixes take four."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A program that must be on a hook of a device."""

    device: Link
    hook: Hook
    program: Program


def gro_pair(device: str) -> tuple[str, str]:
    """Names of the two ends of the GRO stage of ``device``: the one sent to, and the one that merges."""
    return f"{_stem(device)}-gtx", f"{_stem(device)}-grx"


def fou_device(device: str) -> str:
    """Name of the ipip device behind FOU for ``device``."""
    return f"{_stem(device)}-fou"


def _stem(device: str) -> str:
    return device if len(device) <= _MAX_STEM else f"ov{zlib.crc32(device.encode()):08x}"


def ensure(tc: TrafficControl, owner: str, attachment: Attachment) -> bool:
    """Attaches, or replaces in one step, unless it is so already; whether there was something to do."""
    device, hook, program = attachment.device, attachment.hook, attachment.program
    present = tc.filters(device, hook)
    ours = _ours(present, owner)
    own_here = ours or [each for other in Hook for each in _ours(tc.filters(device, other), owner)]
    made = own_here[0].name.endswith(_MADE) if own_here else not tc.has_hook(device, hook)
    name = f"{_prefix(owner)}{program.name}#{program.id}{_MADE if made else ''}"
    if [each.name for each in ours] == [name]:
        return False
    place = ours[0] if ours else _free_place(tc.priorities(device, hook))
    tc.set_filter(device, hook, Filter(place.priority, place.handle, name), program.fd)
    for surplus in ours[1:]:
        tc.delete_filter(device, hook, surplus, with_qdisc=False)
    return True


def ahead(tc: TrafficControl, owner: str, attachment: Attachment) -> list[str]:
    """Filters of others on the same hook that see packets before ours does, each in a few words."""
    present = tc.filters(attachment.device, attachment.hook)
    own = [each.priority for each in present if each.name.startswith(_prefix(owner))]
    return tc.filters_before(attachment.device, attachment.hook, min(own)) if own else []


def is_attached(tc: TrafficControl, owner: str, device: Link) -> bool:
    """Whether a program of ``owner`` is on any hook of ``device``."""
    return any(_ours(tc.filters(device, hook), owner) for hook in Hook)


def detach(tc: TrafficControl, owner: str, device: Link, hooks: Iterable[Hook] = Hook) -> int:
    """Removes all filters of ``owner`` from ``device``; returns how many there were."""
    removed = 0
    for hook in hooks:
        for each in _ours(tc.filters(device, hook), owner):
            tc.delete_filter(device, hook, each, with_qdisc=each.name.endswith(_MADE))
            removed += 1
    return removed


def _ours(present: Iterable[Filter], owner: str) -> list[Filter]:
    return [each for each in present if each.name.startswith(_prefix(owner))]


def _prefix(owner: str) -> str:
    return f"overlay/{owner}/"


def _free_place(taken: Container[int]) -> Filter:
    priority = FIRST_PRIORITY
    while priority in taken:
        priority += 1
    return Filter(priority, 1, "")
