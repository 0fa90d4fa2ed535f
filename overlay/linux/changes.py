"""Hearing from the kernel *that* something of this namespace's network changed; what, nobody reads.

Whoever reconciles looks at the whole state afterwards, so no message can be misunderstood, and one that was lost (too
many came at once) is as good as any.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from enum import IntFlag

_ENOUGH = 1 << 16
"""Bytes of one message that are taken at most; the rest of it goes, too."""

BURST_SECONDS = 0.05
"""A burst (docker starting a container) is some twenty messages: look again once, after it."""


class Group(IntFlag):
    """What to hear of: multicast groups of linux/rtnetlink.h (``RTMGRP_…``)."""

    LINKS = 0x1
    TRAFFIC_CONTROL = 0x8
    """Qdiscs and filters."""
    ADDRESSES = 0x10
    """IPv4's."""
    ROUTES = 0x40
    """IPv4's."""


ADDRESSING = Group.LINKS | Group.ADDRESSES | Group.ROUTES


async def changes(groups: Group, burst: float = BURST_SECONDS) -> AsyncIterator[None]:
    """Yields after the first and after the last of each burst of changes, for ever.

    Args:
        burst: seconds between two of them at least.

    Raises:
        OSError: the kernel refuses to tell.
    """
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as ear:
        ear.bind((0, groups))
        while True:
            try:
                await loop.sock_recv(ear, _ENOUGH)
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more came than the socket holds
                    raise
            _drain(ear)
            yield
            await asyncio.sleep(burst)


def _drain(ear: socket.socket) -> None:
    with suppress(BlockingIOError):
        while True:
            try:
                ear.recv(_ENOUGH)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
