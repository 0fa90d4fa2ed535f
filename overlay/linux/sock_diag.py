"""Sockets of the calling thread's network namespace: listing connected ones, and ending some (``sock_diag(7)``).

Ending (``SOCK_DESTROY``, linux/sock_diag.h) needs a kernel with CONFIG_INET_DIAG_DESTROY: the socket loses its peer,
and its owner's next call fails with ECONNABORTED.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

_NETLINK_SOCK_DIAG, _BY_FAMILY, _DESTROY = 4, 20, 21
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBBBI")
"""``struct inet_diag_req_v2`` before its ``id``: family, protocol, extensions, padding, states as a mask."""
_IDENTITY = struct.Struct("=2s2s16s16sIQ")
"""``struct inet_diag_sockid``: ports, addresses, interface, cookie."""
_ESTABLISHED = 1
_RETRANSMITS = 1
"""Of ``idiag_timer``: the time to send again (others: keep-alive, TIME_WAIT, a window of zero)."""
_MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class Connected:
    """A socket with an IPv4 peer, of UDP or an established one of TCP.

    Attributes:
        cookie: the kernel's number for it, never given to another (``SO_COOKIE``).
        peer, port: whom it is connected to.
        family: AF_INET or AF_INET6.
        protocol: IPPROTO_UDP or IPPROTO_TCP.
        retries: how often in a row TCP has sent the same again, to no answer; each time it waits twice as long.
    """

    cookie: int
    peer: IPv4Address
    port: int
    family: int
    protocol: int
    retries: int
    _identity: bytes


def connected(protocol: int) -> Iterator[Connected]:
    """All of this namespace, of TCP or UDP. Raises OSError: there is no such list (CONFIG_INET_UDP_DIAG)."""
    with _open() as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _QUESTION.pack(family, protocol, 0, 0, 1 << _ESTABLISHED) + bytes(_IDENTITY.size)
            for answer in _ask(netlink, _BY_FAMILY, _DUMP, body):
                if (found := _read(family, protocol, answer)) is not None:
                    yield found


def destroy(found: Connected) -> bool:
    """Ends one; False where it is gone already.

    Raises:
        OSError: EOPNOTSUPP, where the kernel cannot; EPERM without CAP_NET_ADMIN.
    """
    body = _QUESTION.pack(found.family, found.protocol, 0, 0, 1 << _ESTABLISHED) + found._identity
    with _open() as netlink:
        try:
            for _ in _ask(netlink, _DESTROY, _ACK, body):
                pass
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
    return True


def _read(family: int, protocol: int, answer: bytes) -> Connected | None:
    """Of ``struct inet_diag_msg``: family, state, which timer, how often it ran out; then who it is."""
    _, _, timer, retries = answer[:4]
    identity = answer[4 : 4 + _IDENTITY.size]
    _, port, _, peer, _, cookie = _IDENTITY.unpack(identity)
    if family == socket.AF_INET6:
        if peer[:12] != _MAPPED:
            return None
        peer = peer[12:]
    number = int.from_bytes(port, "big")
    return Connected(
        cookie, IPv4Address(peer[:4]), number, family, protocol, retries if timer == _RETRANSMITS else 0, identity
    )


def _open() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)


def _ask(netlink: socket.socket, kind: int, flags: int, body: bytes) -> Iterator[bytes]:
    """Bodies of the answers, up to the last one."""
    netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0) + body)
    while True:
        data = netlink.recv(1 << 18)
        while data:
            length, answered, _, _, _ = _HEADER.unpack_from(data)
            payload, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
            if answered in (_ERROR, _DONE):
                (code,) = struct.unpack_from("=i", payload)
                if code < 0:
                    raise OSError(-code, os.strerror(-code))
                return
            yield payload
