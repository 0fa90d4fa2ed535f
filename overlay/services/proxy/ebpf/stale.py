"""Connected sockets whose backend is gone: nobody would tell their owners, so they are ended.

A UDP socket that was connected sends into the void for ever (cilium/cilium#12859); once ended, its owner's next call
fails with ECONNABORTED, and it connects again. A connection of TCP would find out by itself, after a quarter of an hour
(``tcp_retries2``); it is ended (as by Cilium, #38937) once it has sent the same :data:`RETRIES` times to no answer, and
not before: what is no backend any more may serve its connections still, when it is not ready, or when its node alone
has lost etcd. Only sockets that the programs have translated are looked at: who has connected to a backend by its own
address knows what it does.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from overlay.linux import namespaces, sock_diag
from overlay.linux.sock_diag import Connected

_log = logging.getLogger(__name__)

RETRIES = 4
"""From the first time that is not answered to the fifth pass 3 s at least (``TCP_RTO_MIN`` is 200 ms)."""

IsStale = Callable[[Connected], bool]
"""Whether a socket's backend is none any more."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did.

    Attributes:
        ended: how many sockets.
        doubtful: connections of TCP whose backend is none any more, and may yet answer.
        cannot: why the kernel ends none; empty where it does.
    """

    ended: int = 0
    doubtful: int = 0
    cannot: str = ""


def sweep(is_stale: IsStale) -> Swept:
    """Ends the stale ones of all network namespaces. Blocks for about a millisecond a namespace."""
    ended, doubtful, cannot, own = 0, 0, "", os.stat("/proc/thread-self/ns/net").st_ino

    def here() -> tuple[int, int]:
        found = list(_stale(is_stale))
        over = [each for each in found if each.protocol == socket.IPPROTO_UDP or each.retries >= RETRIES]
        return sum(map(sock_diag.destroy, over)), len(found) - len(over)

    for number, place in namespaces.visible().items():
        try:
            over, left = here() if number == own else namespaces.inside(place, here)
            ended, doubtful = ended + over, doubtful + left
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EPERM):
                cannot = "the kernel ends no sockets (CONFIG_INET_DIAG_DESTROY, CONFIG_INET_UDP_DIAG)"
                if error.errno == errno.EPERM:
                    cannot = "CAP_SYS_ADMIN and CAP_NET_ADMIN are needed for sockets of other network namespaces"
            elif error.errno not in (errno.ENOENT, errno.ESRCH):  # that namespace is gone
                _log.debug("sockets in %s: %s", place, error)
    return Swept(ended, doubtful, cannot)


def _stale(is_stale: IsStale) -> Iterator[Connected]:
    every = (each for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP) for each in sock_diag.connected(protocol))
    return filter(is_stale, every)
