"""Connected UDP sockets whose backend is gone: nobody would tell their owners, so they are ended.

A TCP connection to a pod that is gone fails by itself. A UDP socket that was connected sends into the void for ever
(cilium/cilium#12859); once ended, its owner's next call fails with ECONNABORTED, and it connects again. Only sockets
that the programs have translated are looked at: who has connected to a backend by its own address knows what it does.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from overlay.linux import namespaces, sock_diag
from overlay.linux.sock_diag import Connected

_log = logging.getLogger(__name__)

IsStale = Callable[[int, IPv4Address, int], bool]
"""Whether the socket of that cookie, connected to that address and port, has lost its backend."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did.

    Attributes:
        ended: how many sockets.
        cannot: why the kernel ends none; empty where it does.
    """

    ended: int = 0
    cannot: str = ""


def sweep(is_stale: IsStale) -> Swept:
    """Ends the stale ones of all network namespaces. Blocks for about a millisecond a namespace."""
    ended, cannot, own = 0, "", os.stat("/proc/thread-self/ns/net").st_ino

    def here() -> int:
        return sum(sock_diag.destroy(each) for each in list(_stale(is_stale)))

    for number, place in namespaces.visible().items():
        try:
            ended += here() if number == own else namespaces.inside(place, here)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EPERM):
                cannot = "the kernel ends no sockets (CONFIG_INET_DIAG_DESTROY, CONFIG_INET_UDP_DIAG)"
                if error.errno == errno.EPERM:
                    cannot = "CAP_SYS_ADMIN and CAP_NET_ADMIN are needed for sockets of other network namespaces"
            elif error.errno not in (errno.ENOENT, errno.ESRCH):  # that namespace is gone
                _log.debug("sockets in %s: %s", place, error)
    return Swept(ended, cannot)


def _stale(is_stale: IsStale) -> Iterator[Connected]:
    return (each for each in sock_diag.connected_udp() if is_stale(each.cookie, each.peer, each.port))
