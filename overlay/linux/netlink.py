"""The kernel's links, addresses and routes as plain facts.

:class:`Netlink` is synchronous: pyroute2's plain interface runs an event loop of its own, so asynchronous code calls
it through ``asyncio.to_thread``. When to look is :mod:`overlay.linux.changes`'s.

IPv4 only, main routing table only: that is all the overlay touches.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from types import TracebackType
from typing import Any, Self

from overlay.errors import InterfaceError, NodeError
from overlay.linux.pyroute import IPRoute, NetlinkError
from overlay.linux.routes import Route, RouteTable, RouteType, attribute, refusal
from overlay.text import harmless

QUIET_KINDS = ("dummy", "bridge")
"""Kinds of what :meth:`Netlink.add_quiet_link` makes."""

_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 0x1, 0x8, 0x40
_ARPHRD_ETHER = 1
_RTM_F_FIB_MATCH = 0x2000
"""Of rtm_flags: "tell the route itself, not where it leads" (linux/rtnetlink.h)."""
_RTM_F_CLONED = 0x200
"""Of rtm_flags: learnt, so nobody configured it."""
_RT_TABLE_MAIN, _RT_TABLE_LOCAL = 254, 255
_RTN_LOCAL, _RTN_BROADCAST, _RT_SCOPE_HOST = 2, 3, 254

SOMEWHERE = tuple(
    IPv4Address(text)
    for text in (
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "9.9.9.9",
        "45.0.0.1",
        "100.64.0.1",
        "11.0.0.1",
        "193.0.0.1",
    )
)
"""Addresses of no site's own (RFC 5737, and some all over the range): what they take, as a rule, is the default route.
Several, because some sites have routes of their own to some."""

# struct nlmsghdr and ifinfomsg, and the attributes on the way to one IPv4 setting of one link.
_NLMSGHDR = struct.Struct("=IHHII")
_IFINFOMSG = struct.Struct("=BxHiII")
_ERROR = struct.Struct("=i")
_U32 = struct.Struct("=I")
_RTM_SETLINK, _RTM_NEWROUTE = 19, 24
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE = 0x1, 0x4, 0x400
_NLA_F_NESTED = 0x8000
_IFLA_AF_SPEC, _IFLA_INET_CONF = 26, 1
IPV4_DEVCONF_RP_FILTER, IPV4_DEVCONF_ACCEPT_LOCAL = 8, 23
_IN6_ADDR_GEN_MODE_NONE = 1
_DESCRIPTORS = 4
"""Of a socket of pyroute2, which has an asyncio loop of its own: epoll, a socket pair, and netlink's."""
_SILENT = (None, _IN6_ADDR_GEN_MODE_NONE)
"""Of IFLA_INET6_ADDR_GEN_MODE; None where there is no IPv6."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface.

    Attributes:
        kind: rtnetlink's ("tun", "veth", "bridge", …), empty for hardware and loopback.
        ethernet: whether its packets begin with an Ethernet header.
        master: index of the bridge, bond or VRF that it is part of.
        master_kind: that one's kind, as far as rtnetlink says it.
        loopback: whether what is sent to it comes back.
        ipv6_link_local: whether the kernel gives it an IPv6 address by itself when it is set up.
        carrier: whether there is anything at its other end, as far as it tells; not while it is down.
        accept_local: whether packets may come in from a source that is an address of ours (ip-sysctl, accept_local).
    """

    index: int
    name: str
    mtu: int
    up: bool
    kind: str = ""
    accept_local: bool = False
    ipv6_link_local: bool = False
    master: int | None = None
    master_kind: str = ""
    loopback: bool = False
    ethernet: bool = False
    carrier: bool = True


@dataclass(frozen=True, slots=True)
class Address:
    """An IPv4 address on a link; ``secondary`` ones were added later to a subnet that already had one."""

    index: int
    address: IPv4Address
    prefixlen: int
    secondary: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the kernel would do with a packet.

    Attributes:
        route: None where it would drop it.
        cause: why, in its words.
    """

    route: Route | None
    cause: str = ""


def as_text(name: str | bytes) -> str:
    """A name as it may be shown: one that is no UTF-8, which the kernel does not ask for, pyroute2 leaves as bytes."""
    return harmless(name) if isinstance(name, bytes) else name


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns netlink's errno into a clear error about ``what``."""
    try:
        yield
    except NetlinkError as error:
        raise refusal(error.code, str(error.args[-1]), what) from error
    except OSError as error:  # of the socket itself, as where its answers find no room
        raise NodeError(f"the kernel cannot be asked: {error.strerror or error}", about=what) from error


@contextmanager
def _gone_is_right(number: int) -> Iterator[None]:
    """Passes over the kernel's errno for a thing that is to be deleted and does not exist."""
    try:
        yield
    except NetlinkError as error:
        if error.code != number:
            raise


def _make_sure_of_room() -> None:
    """Raises OSError where there are too few descriptors: asyncio's loop, half made, would be taken apart with a
    traceback each time."""
    with ExitStack() as spare:
        for _ in range(_DESCRIPTORS):
            spare.callback(os.close, os.eventfd(0))


class RouteSocket:
    """One rtnetlink socket, to be used as a context manager and from one thread at a time."""

    def __init__(self) -> None:
        """Raises NodeError: there is no socket to be had, as where all descriptors are in use."""
        with explained("netlink"):
            _make_sure_of_room()
            self._route: Any = IPRoute()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._route.close()

    def silence_ipv6(self, index: int) -> None:
        """Keeps a link that is not up yet without IPv6 addresses, and so without packets of the kernel's own."""
        try:
            inet6 = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _IN6_ADDR_GEN_MODE_NONE)]}
            self._route.link("set", index=index, IFLA_AF_SPEC={"attrs": [("AF_INET6", inet6)]})
        except NetlinkError as error:
            if error.code not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL):  # no IPv6 here: silent anyway
                raise

    def links(self) -> list[Link]:
        """All interfaces of this namespace."""
        with explained("interfaces"):
            return [_link(message) for message in self._route.get_links()]

    def link(self, name: str) -> Link | None:
        """The interface called ``name``; None if there is none."""
        with explained(f"interface {name}"):
            try:
                return _link(self._route.link("get", ifname=name)[0])
            except NetlinkError as error:
                if error.code == errno.ENODEV:
                    return None
                raise

    def addresses(self, index: int | None = None) -> list[Address]:
        """IPv4 addresses, of one interface or of all, in the kernel's order."""
        with explained("addresses"):
            found = [_address(message) for message in self._route.get_addr(family=socket.AF_INET)]
        return [address for address in found if index is None or address.index == index]

    def delete_link(self, link: Link) -> None:
        """Removes an interface, of a veth pair both; none is right as well."""
        with explained(f"interface {link.name}"), _gone_is_right(errno.ENODEV):
            self._route.link("del", index=link.index)


class Netlink(RouteSocket):
    """Links, IPv4 addresses and routes of this namespace."""

    def routes(self, index: int | None = None) -> list[Route]:
        """IPv4 routes of the main table, of one interface or of all."""
        with RouteTable() as table:
            return [route for route in table.routes() if index is None or route.index == index]

    def route_mtus(self) -> dict[IPv4Network, int]:
        """The destinations of the main table with the MTU, in bytes, that their route has of its own; 0 for none."""
        found: dict[IPv4Network, int] = {}
        with explained("routes"):
            for message in self._route.get_routes(family=socket.AF_INET, table=_RT_TABLE_MAIN):
                if not message["flags"] & _RTM_F_CLONED:
                    metrics = message.get_attr("RTA_METRICS")
                    mtu = metrics.get_attr("RTAX_MTU") if metrics is not None else 0
                    destination = IPv4Network((message.get("dst") or "0.0.0.0", message["dst_len"]))
                    found.setdefault(destination, mtu or 0)  # the first is the one that is used
        return found

    def route_to(
        self, destination: IPv4Address, *, source: IPv4Address | None = None, interface: int | None = None
    ) -> Route:
        """What the kernel would do with a packet to ``destination``, by all its rules and tables.

        Args:
            source: the packet's, where that is decided already.
            interface: index of the one that it must leave by.

        Raises:
            InterfaceError: there is no route.
        """
        return self._lookup(destination, source, interface, 0)

    def ask(
        self, destination: IPv4Address, *, source: IPv4Address | None = None, arriving: int | None = None
    ) -> Answer:
        """The same for a packet that may never leave.

        Args:
            arriving: index of the interface by which it comes in, to be forwarded; None for one of this machine.
        """
        request: dict[str, Any] = {"dst": str(destination)}
        if source is not None:
            request["src"] = str(source)
        if arriving is not None:
            request["iif"] = arriving
        try:
            return Answer(_route(next(iter(self._route.route("get", **request)))))
        except StopIteration:
            return Answer(None, "no route")
        except NetlinkError as error:
            return Answer(None, str(error.args[-1]))

    def default_route(self) -> Route | None:
        """The way that the kernel sends a packet to nowhere in particular, by all its rules and tables.

        None where it has no default route, or one that is never used, as below the two halves of a VPN.
        """
        for destination in SOMEWHERE:
            try:
                if self._lookup(destination, None, None, _RTM_F_FIB_MATCH).destination.prefixlen == 0:
                    return self.route_to(destination)
            except InterfaceError:
                continue
        return None

    def _lookup(self, destination: IPv4Address, source: IPv4Address | None, interface: int | None, flags: int) -> Route:
        request: dict[str, Any] = {"dst": str(destination), "flags": flags}
        if source is not None:
            request["src"] = str(source)
        if interface is not None:
            request["oif"] = interface
        try:
            return _route(next(iter(self._route.route("get", **request))))
        except (NetlinkError, StopIteration) as error:
            raise InterfaceError(
                "no route", about=str(destination), remedy="add one, or name the interface with --iface"
            ) from error

    def add_quiet_link(self, name: str) -> Link:
        """Makes an interface that leads nowhere, for addresses to be on, and without IPv6. Raises NodeError.

        It is a dummy; where the kernel has none, a bridge without ports.
        """
        with explained(f"interface {name}"):
            try:
                self._route.link("add", ifname=name, kind=QUIET_KINDS[0])
            except NetlinkError as error:
                if error.code != errno.EOPNOTSUPP:
                    raise
                self._route.link("add", ifname=name, kind=QUIET_KINDS[1])
            (message,) = self._route.link("get", ifname=name)
            link = _link(message)
            self.silence_ipv6(link.index)
        return link

    def set_link(self, link: Link, *, mtu: int | None = None, up: bool | None = None) -> None:
        wanted: dict[str, Any] = {}
        if mtu is not None:
            wanted["mtu"] = mtu
        if up is not None:
            wanted["state"] = "up" if up else "down"
        with explained(f"interface {link.name}"):
            self._route.link("set", index=link.index, **wanted)

    @staticmethod
    def accept_local(link: Link) -> None:
        """Lets packets in from our own addresses."""
        set_ipv4(link, IPV4_DEVCONF_ACCEPT_LOCAL, "accept_local")

    def no_ipv6(self, link: Link) -> None:
        with explained(f"IPv6 of {link.name}"):
            self.silence_ipv6(link.index)

    def add_address(self, link: Link, address: IPv4Address, prefixlen: int) -> None:
        with explained(f"address {address}/{prefixlen} on {link.name}"):
            self._route.addr("replace", index=link.index, address=str(address), prefixlen=prefixlen)

    def is_broadcast(self, address: IPv4Address) -> bool:
        """Whether what is sent to ``address`` goes to everybody on some link."""
        try:
            message = next(iter(self._route.route("get", dst=str(address))))
        except (NetlinkError, StopIteration):
            return False
        return bool(message["type"] == _RTN_BROADCAST)

    def claim_address(self, link: Link, address: IPv4Address, protocol: int) -> None:
        """Makes ``address``, which the link has, ours before it is a broadcast; the route goes with the address."""
        with explained(f"local route {address} dev {link.name}"):
            self._route.route(
                (_RTM_NEWROUTE, _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE),  # neither EXCL nor APPEND: in front
                dst=f"{address}/32",
                oif=link.index,
                prefsrc=str(address),
                table=_RT_TABLE_LOCAL,
                type=_RTN_LOCAL,
                scope=_RT_SCOPE_HOST,
                proto=protocol,
            )

    def delete_address(self, link: Link, address: Address) -> None:
        what = f"address {address.address}/{address.prefixlen} on {link.name}"
        with explained(what), _gone_is_right(errno.EADDRNOTAVAIL):
            self._route.addr("del", index=link.index, address=str(address.address), prefixlen=address.prefixlen)

    @staticmethod
    def change_routes(*, delete: Iterable[Route] = (), add: Iterable[Route] = ()) -> Mapping[Route, NodeError]:
        """See :meth:`overlay.linux.routes.RouteTable.change`."""
        with RouteTable() as table:
            return table.change(delete=delete, add=add)

    def add_route(self, route: Route) -> None:
        """Adds a route, never in the place of another: that raises NodeError."""
        for error in self.change_routes(add=[route]).values():
            raise error

    def delete_route(self, route: Route) -> None:
        """Deletes this route and no other; none is right as well. Raises NodeError."""
        for error in self.change_routes(delete=[route]).values():
            raise error


def nested(kind: int, content: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NLA_F_NESTED, content)


def set_ipv4(link: Link, setting: int, name: str) -> None:
    """Turns an IPv4 setting of a link on (linux/ip.h, ``IPV4_DEVCONF_…``).

    By netlink: a service may not be allowed to write to /proc/sys. pyroute2 reads these and does not write them.
    """
    inet = nested(socket.AF_INET, nested(_IFLA_INET_CONF, attribute(setting, _U32.pack(1))))
    change_link(f"{name} of {link.name}", _RTM_SETLINK, link.index, nested(_IFLA_AF_SPEC, inet))


def change_link(what: str, kind: int, index: int, attributes: bytes, flags: int = 0) -> None:
    """One message of rtnetlink about a link, made by hand.

    Raises:
        PrivilegeError, NodeError: refused; the message says ``what``.
    """
    body = _IFINFOMSG.pack(0, 0, index, 0, 0) + attributes
    header = _NLMSGHDR.pack(_NLMSGHDR.size + len(body), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as route:
        route.send(header + body)
        (code,) = _ERROR.unpack_from(route.recv(1 << 12), _NLMSGHDR.size)
    with explained(what):
        if code:
            raise NetlinkError(-code)


def _link(message: Any) -> Link:
    return Link(
        index=message["index"],
        name=as_text(message.get("ifname")),
        mtu=message.get("mtu"),
        up=bool(message["flags"] & _IFF_UP),
        kind=message.get(("linkinfo", "kind")) or "",
        ipv6_link_local=(message.get(("af_spec", "af_inet6")) or {}).get("inet6_addr_gen_mode") not in _SILENT,
        master=message.get("master"),
        master_kind=message.get(("linkinfo", "slave_kind")) or "",
        ethernet=message["ifi_type"] == _ARPHRD_ETHER,
        loopback=bool(message["flags"] & _IFF_LOOPBACK),
        carrier=bool(message["flags"] & _IFF_RUNNING),
        accept_local=bool((message.get(("af_spec", "af_inet")) or {}).get("accept_local")),
    )


def _address(message: Any) -> Address:
    # On a point-to-point link IFA_ADDRESS is the far end; IFA_LOCAL is always ours (linux/if_addr.h).
    return Address(
        index=message["index"],
        address=IPv4Address(message.get("local") or message.get("address")),
        prefixlen=message["prefixlen"],
        secondary=bool(message["flags"] & 0x01),  # IFA_F_SECONDARY
    )


def _route(message: Any) -> Route:
    gateway, source = message.get("gateway"), message.get("prefsrc")
    return Route(
        destination=IPv4Network((message.get("dst") or "0.0.0.0", message["dst_len"])),
        index=message.get("oif"),
        gateway=IPv4Address(gateway) if gateway else None,
        source=IPv4Address(source) if source else None,
        scope=message["scope"],
        protocol=message["proto"],
        metric=message.get("priority") or 0,
        type=RouteType(message["type"]),
        tos=message["tos"],
    )
