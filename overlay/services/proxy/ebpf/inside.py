"""Which network namespaces are inside the cluster: the node's own, and pods'. Sockets of others are left to the rules.

A namespace is inside if what it sends to the node's pods has an address of the overlay, or one of the node's. A
container on a Docker network of its own has neither: Docker drops what it sends to a pod's address, and lets through
what the rules have translated (:mod:`overlay.services.proxy.passage`). One that is not known yet counts as outside, for
from there too everything is reached: a container may connect before anybody has looked at it.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from ipaddress import IPv4Address

from overlay.linux import namespaces
from overlay.services.table import Place

SO_NETNS_COOKIE = 71
"""Linux 5.14 (include/uapi/asm-generic/socket.h); Python 3.13 has it by that name."""

_DISCARD = 9


def look(place: Place) -> frozenset[int]:
    """Cookies of those inside, of all that can be seen. Blocks for some 0.2 ms a namespace."""
    target = _towards(place)
    if target is None:
        return frozenset()
    own = os.stat("/proc/thread-self/ns/net").st_ino
    found = set()
    for number, path in namespaces.visible().items():
        with suppress(OSError):  # it is gone by now
            cookie, source = _asked(target) if number == own else namespaces.inside(path, lambda: _asked(target))
            if is_inside(source, place):
                found.add(cookie)
    return frozenset(found)


def is_inside(source: IPv4Address | None, place: Place) -> bool:
    """Whether who sends from this address (None: who has no way) is the node, or a pod. Pure."""
    if source is None:
        return False
    return str(source) in place.addresses or any(source in network for network in place.networks)


def own_cookie() -> int:
    """Of the calling thread's namespace. Raises OSError: ENOPROTOOPT before Linux 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        return _cookie(udp)


def _towards(place: Place) -> IPv4Address | None:
    """An address of the node in the overlay, rather its bridge's than its tunnel's, which ends in 0."""
    own = list(map(IPv4Address, place.addresses))
    return max([each for each in own if any(each in network for network in place.networks)] or own, default=None)


def _asked(target: IPv4Address) -> tuple[int, IPv4Address | None]:
    """This namespace's cookie, and the address that it sends from. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        cookie = _cookie(udp)
        try:
            udp.connect((str(target), _DISCARD))
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
                return cookie, None
            raise
        return cookie, IPv4Address(udp.getsockname()[0])


def _cookie(udp: socket.socket) -> int:
    return int.from_bytes(udp.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")
