"""The tunnel's UDP sockets, opened by the agent before the worker exists."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from overlay.datapath.userspace import steering
from overlay.errors import DatapathError, InterfaceError, PortInUseError, PrivilegeError
from overlay.linux.sockopt import (
    IP_MTU_DISCOVER,
    IP_PMTUDISC_PROBE,
    IP_RECVERR,
    SK_MEMINFO_DROPS,
    SO_MEMINFO,
    SO_RCVBUFFORCE,
    SO_SNDBUFFORCE,
)

BUFFER_SIZE = 4 << 20
"""Bytes that may wait in each direction: 64 bursts of 64 KB, some milliseconds of a 10 Gbit/s flow."""

ADOPTION_PATIENCE = 1.0
"""Seconds to wait for the port: the worker of an agent that was killed lets go of it some milliseconds later."""
_RETRY = 0.02


_MEMINFO = struct.Struct(f"={4 * SK_MEMINFO_DROPS}xI")


@dataclass(frozen=True, slots=True)
class SocketPair:
    """What one worker receives from and what it sends through; the same socket for a worker that is alone."""

    receiving: socket.socket
    sending: socket.socket

    def dup(self) -> SocketPair:
        """The same sockets under other descriptors."""
        receiving = self.receiving.dup()
        return SocketPair(receiving, receiving if self.sending is self.receiving else self.sending.dup())

    def dropped(self) -> int:
        """How often something came while the receive buffer was full, since the socket was opened; wraps at 2^32.

        The kernel's own count (``sk_drops``), which needs no worker that runs: of datagrams, or of whole trains where
        it puts them together (UDP_GRO). Those with a wrong UDP checksum count as well.
        """
        meminfo = self.receiving.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size)
        return int(_MEMINFO.unpack(meminfo)[0])

    def close(self) -> None:
        """Closes both."""
        self.receiving.close()
        self.sending.close()


async def open_sockets(address: IPv4Address, port: int, count: int) -> list[SocketPair]:
    """Binds the sockets of ``count`` workers; see :mod:`overlay.datapath.userspace.steering`.

    Raises:
        PortInUseError: somebody else holds the port.
        InterfaceError: ``address`` is not one of this machine.
        PrivilegeError: the port is below 1024 and we may not bind it.
        DatapathError: refused for another reason.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ADOPTION_PATIENCE
    while True:
        try:
            return _bind_all(address, port, count)
        except OSError as failure:
            if failure.errno != errno.EADDRINUSE or loop.time() >= deadline:
                raise _explain(failure, address, port) from failure
        await asyncio.sleep(_RETRY)


def _bind_all(address: IPv4Address, port: int, count: int) -> list[SocketPair]:
    _bind(address, port).close()  # sharing would let a second agent in as well, so look alone first
    pairs: list[SocketPair] = []
    try:
        for number in range(count):
            receiving = _bind(address, port, shared=count > 1)
            pairs.append(SocketPair(receiving, receiving))
            if count > 1:
                # The first worker, too: what routers say about a port that is shared reaches any of them.
                pairs[number] = SocketPair(receiving, _bind_sending(address, port, number + 1))
        if count > 1:
            steering.steer_sockets(pairs[0].receiving, count)
    except OSError:
        for each in pairs:
            each.close()
        raise
    return pairs


def _bind_sending(address: IPv4Address, port: int, number: int) -> socket.socket:
    """A socket whose port tells the receivers which worker sends. It gets errors about that, and no datagrams."""
    candidates = steering.source_ports(port, number)
    for candidate in candidates:
        try:
            sending = _bind(address, candidate)
        except OSError as failure:
            if failure.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise
            continue
        steering.deafen(sending)
        return sending
    raise OSError(errno.EADDRINUSE, "no free port to send from")


def _bind(address: IPv4Address, port: int, *, shared: bool = False) -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if shared:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _enlarge_buffers(udp)
        # Outer packets are never fragmented; what the path does not carry is reported, and dealt with as inner packets.
        # The kernel's own notes about paths do not count (..._DO): anybody can have it make one, see worker/claims.
        udp.setsockopt(socket.SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        udp.setsockopt(socket.SOL_IP, IP_RECVERR, 1)
        udp.bind((str(address), port))
    except OSError:
        udp.close()
        raise
    return udp


def _enlarge_buffers(udp: socket.socket) -> None:
    """Beyond the system's limit with CAP_NET_ADMIN, up to it without."""
    for forced, ordinary in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            udp.setsockopt(socket.SOL_SOCKET, forced, BUFFER_SIZE)
        except PermissionError:
            udp.setsockopt(socket.SOL_SOCKET, ordinary, BUFFER_SIZE)


def _explain(failure: OSError, address: IPv4Address, port: int) -> Exception:
    about = f"UDP port {port} on {address}"
    match failure.errno:
        case errno.EADDRINUSE:
            return PortInUseError(
                "address already in use",
                about=about,
                remedy="stop the other agent or flanneld, or choose another Port in the network's config",
            )
        case errno.EADDRNOTAVAIL:
            return InterfaceError("no interface has this address", about=about, remedy="check --iface")
        case errno.EACCES | errno.EPERM:
            return PrivilegeError("not allowed to bind it", about=about, remedy="run as root")
        case _:
            return DatapathError(failure.strerror or "cannot bind it", about=about)
