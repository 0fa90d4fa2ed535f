"""IPv4 routes of one table, the main one as a rule, read and changed in batches (linux/rtnetlink.h).

A node with a route a peer has thousands: each is one fact, made of the kernel's message and made into one by
:mod:`struct` alone, and one system call carries dozens of them. ``struct rtmsg``, behind the netlink header::

     0       8       16      24      32
     +-------+-------+-------+-------+
     |family |dst_len|src_len|  tos  |
     +-------+-------+-------+-------+
     | table |proto  | scope | type  |
     +-------+-------+-------+-------+
     |             flags             |   attributes follow
     +-------------------------------+
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network
from types import TracebackType
from typing import Self

from overlay.errors import NodeError, PrivilegeError

_NLMSGHDR = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_U32, _ERROR = struct.Struct("=I"), struct.Struct("=i")

_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _EXCL, _CREATE, _DUMP = 0x1, 0x4, 0x200, 0x400, 0x300
_DUMP_INTERRUPTED = 0x10
_RTM_F_CLONED = 0x200
"""Of rtm_flags: learnt (a path MTU, a redirect), so nobody configured it and nobody can delete it."""
_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC, _TABLE = 1, 4, 5, 6, 7, 15
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10

BATCH = 64
"""Routes in one system call. Each is answered, and the answers of a batch fit into the smallest receive buffer."""

_RECEIVE = 1 << 17
_DUMPS = 3
"""Attempts at a dump that changes of others interrupt."""


class RouteType(IntEnum):
    """What a route does with packets (linux/rtnetlink.h, RTN_*)."""

    UNSPEC = 0
    UNICAST = 1
    LOCAL = 2
    BROADCAST = 3
    ANYCAST = 4
    MULTICAST = 5
    BLACKHOLE = 6
    UNREACHABLE = 7
    PROHIBIT = 8
    THROW = 9
    NAT = 10
    XRESOLVE = 11

    @classmethod
    def _missing_(cls, value: object) -> RouteType:
        return cls.UNSPEC


@dataclass(frozen=True, slots=True)
class Route:
    """A route. ``scope`` and ``protocol`` are rtnetlink's numbers (253 link; 2 kernel, 3 boot).

    The kernel takes ``destination``, ``tos`` and ``metric`` for its identity: one route replaces another of the same.
    ``index`` is None where it leads to no interface, or to several. ``flags`` are those that a route is made with
    (``RTNH_F_ONLINK``).
    """

    destination: IPv4Network
    index: int | None
    gateway: IPv4Address | None = None
    source: IPv4Address | None = None
    scope: int = 0
    protocol: int = 3
    metric: int = 0
    type: RouteType = RouteType.UNICAST
    tos: int = 0
    flags: int = 0


ONLINK = 0x4
"""RTNH_F_ONLINK: the gateway is on the link, whatever the addresses there say. flannel's host-gw sets it."""


MAIN, LOCAL = 254, 255
"""Tables (RT_TABLE_…). What has a route of type local in the latter is for this machine itself."""


class RouteTable:
    """A table of this network namespace, for one thread at a time; to be used as a context manager."""

    def __init__(self, table: int = MAIN) -> None:
        self._table = table
        self._name = "the main routing table" if table == MAIN else f"routing table {table}"
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def routes(self) -> list[Route]:
        """Every IPv4 route, in the kernel's order, without what it has learnt.

        Raises:
            NodeError: the kernel does not tell, or others change the table all the time.
        """
        for _ in range(_DUMPS):
            try:
                return self._dump()
            except InterruptedError:
                continue
        raise NodeError("changes faster than it can be read", about=self._name, remedy="try again")

    def change(self, *, delete: Iterable[Route] = (), add: Iterable[Route] = ()) -> Mapping[Route, NodeError]:
        """Deletes routes, then adds routes, each whatever becomes of the others.

        To delete what is not there is right. What is added never takes the place of another's route.

        Returns:
            Why each that failed did so (NodeError, PrivilegeError); empty if all is as wanted.
        """
        failed: dict[Route, NodeError] = {}
        gone = [(_RTM_DELROUTE, 0, route) for route in delete]
        new = [(_RTM_NEWROUTE, _CREATE | _EXCL, route) for route in add]
        for requests in (gone, new):
            for start in range(0, len(requests), BATCH):
                self._carry_out(requests[start : start + BATCH], failed)
        return failed

    def _carry_out(self, requests: Sequence[tuple[int, int, Route]], failed: dict[Route, NodeError]) -> None:
        pending: dict[int, tuple[int, Route]] = {}
        messages = []
        for kind, flags, route in requests:
            self._sequence += 1
            pending[self._sequence] = kind, route
            messages.append(_message(kind, _REQUEST | _ACK | flags, self._sequence, _body(route, self._table)))
        self._socket.send(b"".join(messages))
        while pending:
            for kind, _, sequence, payload in self._receive():
                if kind != _NLMSG_ERROR or sequence not in pending:
                    continue  # what a dump that was given up left behind
                made, route = pending.pop(sequence)
                number = -_ERROR.unpack_from(payload)[0]
                if number and not (made == _RTM_DELROUTE and number == errno.ESRCH):
                    failed[route] = refusal(number, os.strerror(number), f"route {route.destination}")

    def _dump(self) -> list[Route]:
        self._sequence += 1
        body = _RTMSG.pack(socket.AF_INET, 0, 0, 0, self._table, 0, 0, 0, 0)
        self._socket.send(_message(_RTM_GETROUTE, _REQUEST | _DUMP, self._sequence, body))
        interrupted = False
        found: list[Route] = []
        while True:
            for kind, flags, sequence, payload in self._receive():
                if sequence != self._sequence:
                    continue
                interrupted |= bool(flags & _DUMP_INTERRUPTED)
                if kind == _NLMSG_ERROR:
                    number = -_ERROR.unpack_from(payload)[0]
                    raise NodeError(f"the kernel says: {os.strerror(number)}", about=self._name)
                if kind == _NLMSG_DONE:
                    if interrupted:
                        raise InterruptedError
                    return found
                if kind == _RTM_NEWROUTE and (route := _route(payload, self._table)) is not None:
                    found.append(route)

    def _receive(self) -> list[tuple[int, int, int, memoryview]]:
        """One datagram's messages: type, flags, sequence number, payload."""
        data = memoryview(self._socket.recv(_RECEIVE))
        found = []
        offset = 0
        while offset + _NLMSGHDR.size <= len(data):
            length, kind, flags, sequence, _ = _NLMSGHDR.unpack_from(data, offset)
            found.append((kind, flags, sequence, data[offset + _NLMSGHDR.size : offset + length]))
            offset += (length + 3) & ~3
        return found


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _NLMSGHDR.pack(_NLMSGHDR.size + len(body), kind, flags, sequence, 0) + body


def _body(route: Route, table: int) -> bytes:
    destination = route.destination
    parts = [
        _RTMSG.pack(
            socket.AF_INET,
            destination.prefixlen,
            0,
            route.tos,
            table,
            route.protocol,
            route.scope,
            route.type,
            route.flags,
        )
    ]
    if destination.prefixlen:
        parts.append(attribute(_DST, destination.network_address.packed))
    if route.metric:
        parts.append(attribute(_PRIORITY, _U32.pack(route.metric)))
    if route.index is not None:
        parts.append(attribute(_OIF, _U32.pack(route.index)))
    if route.gateway is not None:
        parts.append(attribute(_GATEWAY, route.gateway.packed))
    if route.source is not None:
        parts.append(attribute(_PREFSRC, route.source.packed))
    return b"".join(parts)


def attribute(kind: int, payload: bytes) -> bytes:
    """One netlink attribute (struct nlattr), padded to four bytes."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def _route(payload: memoryview, wanted: int) -> Route | None:
    """The route of one message; None for one of another table, or learnt."""
    _, length, _, tos, table, protocol, scope, kind, flags = _RTMSG.unpack_from(payload)
    if flags & _RTM_F_CLONED:
        return None
    found: dict[int, memoryview] = {}
    offset = _RTMSG.size
    while offset + _ATTRIBUTE.size <= len(payload):
        size, attribute = _ATTRIBUTE.unpack_from(payload, offset)
        if size < _ATTRIBUTE.size:
            break
        found[attribute] = payload[offset + _ATTRIBUTE.size : offset + size]
        offset += (size + 3) & ~3
    if _number(found.get(_TABLE), table) != wanted:
        return None
    return Route(
        destination=IPv4Network((bytes(found[_DST]) if _DST in found else 0, length)),
        index=_number(found[_OIF], 0) if _OIF in found else None,
        gateway=_address(found.get(_GATEWAY)),
        source=_address(found.get(_PREFSRC)),
        scope=scope,
        protocol=protocol,
        metric=_number(found.get(_PRIORITY), 0),
        type=RouteType(kind),
        tos=tos,
        flags=flags & ONLINK,
    )


def _number(value: memoryview | None, otherwise: int) -> int:
    return otherwise if value is None else int(_U32.unpack(value)[0])


def _address(value: memoryview | None) -> IPv4Address | None:
    return None if value is None else IPv4Address(bytes(value))


def refusal(number: int, cause: str, about: str) -> NodeError:
    """What it means that the kernel refused something with this errno, in its words ``cause``."""
    if number in (errno.EPERM, errno.EACCES):
        return PrivilegeError(
            "not permitted", about=about, remedy="run as root or with CAP_NET_ADMIN in this network namespace"
        )
    return NodeError(f"the kernel says: {cause}", about=about)
