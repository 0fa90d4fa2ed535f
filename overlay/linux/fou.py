"""FOU and ipip: IPv4 packets in UDP, unwrapped by the kernel (``net/ipv4/fou_core.c``, ``ipip.c``).

FOU takes a UDP port of this network namespace for itself and hands what the datagrams hold to the IP stack as a packet
of some protocol; with that of IP in IP (4) it comes out of an ipip device: one for both of its addresses, or one for
its destination, from anywhere, or one that is ``external``, for whose programs each packet's tunnel is described.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address

from overlay.errors import NodeError
from overlay.linux.netlink import (
    IPV4_DEVCONF_RP_FILTER,
    Link,
    RouteSocket,
    change_link,
    explained,
    nested,
    set_ipv4,
)
from overlay.linux.routes import attribute, refusal

KIND = "ipip"

_NETLINK_GENERIC = 16
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_EXCL, _NLM_F_CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER, _GENERIC, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBxx"), struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_CONTROL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 0x10, 3, 1, 2
"""linux/genetlink.h."""
_ADD, _DELETE, _GET = 1, 2, 3
_PORT, _FAMILY, _PROTOCOL, _TYPE, _LOCAL = 1, 2, 3, 4, 6
_DIRECT = 1
"""linux/fou.h; a direct one has nothing between the UDP header and the packet."""
_RTM_NEWLINK, _IFF_UP = 16, 0x1
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND, _IFLA_INFO_DATA = 3, 18, 1, 2
_IFLA_IPTUN_LOCAL = 2
"""linux/if_tunnel.h."""
_ANY = IPv4Address(0)
_PATIENCE = 10.0
"""Seconds for modprobe(8)."""


class Fou:
    """FOU's ports in this namespace; a context manager, for one thread at a time.

    Args:
        load: whether the module may be loaded where it is not.

    Raises:
        NodeError: this kernel has no FOU.
    """

    def __init__(self, *, load: bool) -> None:
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC)
        try:
            self._id = self._found(load=load)
        except BaseException:
            self._netlink.close()
            raise

    def __enter__(self) -> Fou:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def takes_packets(self, port: int) -> bool:
        """Whether FOU has the UDP port, for IPv4 packets to any address of this machine."""
        return port in self._ports()

    def add(self, port: int) -> None:
        """Gives the port to FOU: for any address, for before Linux 6.10 a train to one of several is lost
        (``udp_gro_complete`` looks for the socket by the inner header).

        Raises:
            PrivilegeError, NodeError: refused, for one because a socket has the port.
        """
        self._change(
            _ADD, port, attribute(_PROTOCOL, bytes([socket.IPPROTO_IPIP])) + attribute(_TYPE, bytes([_DIRECT]))
        )

    def delete(self, port: int) -> bool:
        """Takes the port from FOU; whether it had it. Raises PrivilegeError, NodeError."""
        if port not in self._ports():
            return False
        self._change(_DELETE, port, b"")
        return True

    def _ports(self) -> set[int]:
        """Of IPv4 packets (protocol 4, nothing between) to any address."""
        wanted = (bytes([socket.AF_INET]), bytes([socket.IPPROTO_IPIP]), bytes([_DIRECT]), bytes(4))
        return {
            int.from_bytes(each[_PORT], "big")
            for each in self._talk(self._id, _NLM_F_DUMP, _GET, b"", "FOU's ports")
            if (each.get(_FAMILY), each.get(_PROTOCOL), each.get(_TYPE), each.get(_LOCAL, bytes(4))) == wanted
        }

    def _change(self, command: int, port: int, rest: bytes) -> None:
        body = attribute(_PORT, port.to_bytes(2, "big")) + attribute(_FAMILY, bytes([socket.AF_INET])) + rest
        list(self._talk(self._id, _NLM_F_ACK, command, body, f"FOU on UDP port {port}"))

    def _family(self) -> int | None:
        """Generic netlink's number for FOU; None where the module is not loaded."""
        name = attribute(_CTRL_ATTR_FAMILY_NAME, b"fou\0")
        try:
            (found,) = self._talk(_CONTROL, 0, _CTRL_CMD_GETFAMILY, name, "FOU")
        except NodeError as error:
            if getattr(error.__cause__, "errno", None) == errno.ENOENT:
                return None
            raise
        return int.from_bytes(found[_CTRL_ATTR_FAMILY_ID], "little")

    def _found(self, *, load: bool) -> int:
        """As :meth:`_family`; the module has no alias by which the kernel would load it itself."""
        family = self._family()
        if family is None and load:
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run(["modprobe", "-q", "fou"], check=False, timeout=_PATIENCE)
            family = self._family()
        if family is None:
            raise NodeError("not loaded, or this kernel has none", about="module fou", remedy="modprobe fou")
        return family

    def _talk(self, family: int, flags: int, command: int, body: bytes, what: str) -> Iterator[dict[int, bytes]]:
        """One request; the attributes of each answer, until the last. Raises the kernel's refusal."""
        length = _HEADER.size + _GENERIC.size + len(body)
        header = _HEADER.pack(length, family, _NLM_F_REQUEST | flags, 1, 0)
        self._netlink.send(header + _GENERIC.pack(command, 1) + body)
        while True:
            data, at = self._netlink.recv(1 << 16), 0
            while at + _HEADER.size <= len(data):
                length, kind, _, _, _ = _HEADER.unpack_from(data, at)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    (code,) = _ERROR.unpack_from(data, at + _HEADER.size)
                    if not code:
                        return
                    cause = OSError(-code, os.strerror(-code))
                    raise refusal(-code, os.strerror(-code), what) from cause
                yield dict(_attributes(data[at + _HEADER.size + _GENERIC.size : at + length]))
                at += -(-length // 4) * 4
            if not flags:
                return


@dataclass(frozen=True, slots=True)
class IpipDevice:
    """An ipip device as the kernel describes it; an address of 0 stands for any."""

    name: str
    up: bool
    external: bool
    local: IPv4Address
    remote: IPv4Address

    def is_for(self, address: IPv4Address) -> bool:
        """Whether it is as :meth:`Ipip.ensure_for` makes it."""
        return (self.external, self.local, self.remote) == (False, address, _ANY)

    def claim(self, address: IPv4Address) -> str:
        """Why it takes packets to ``address`` from anybody, or would but for ours; empty if it does not."""
        if self.remote == _ANY and self.external:
            return f"{self.name} is external"
        if self.remote == _ANY and self.up and self.local in (_ANY, address):
            return f"{self.name} is up"
        if self.is_for(address):
            return f"{self.name} is for {address}"
        return ""


class Ipip(RouteSocket):
    """The ipip devices of this namespace."""

    def devices(self) -> list[IpipDevice]:
        """All of them."""
        with explained("ipip devices"):
            return list(self._devices())

    def _devices(self) -> Iterator[IpipDevice]:
        for message in self._route.get_links():
            info = message.get_attr("IFLA_LINKINFO")
            if info is None or info.get_attr("IFLA_INFO_KIND") != KIND:
                continue
            data = info.get_attr("IFLA_INFO_DATA")
            local, remote, external = (
                data.get_attr(f"IFLA_IPIP_{what}") if data is not None else None
                for what in ("LOCAL", "REMOTE", "COLLECT_METADATA")
            )
            yield IpipDevice(
                message.get_attr("IFLA_IFNAME"),
                bool(message["flags"] & _IFF_UP),
                external is not None,
                IPv4Address(local or 0),
                IPv4Address(remote or 0),
            )

    def ensure_for(self, name: str, address: IPv4Address) -> tuple[Link, bool]:
        """The device of this name for what comes to ``address`` from anywhere, and whether it was made: it is down
        then, and nothing comes out of it. A device for both addresses of a packet goes before it.

        Nothing that it receives is anything to the IP stack, whatever becomes of the filter on it: by reverse path, it
        would have to be routed back to it (ip-sysctl, rp_filter), and no route ever leads there.

        Raises:
            PrivilegeError, NodeError: refused, or the name belongs to another interface.
        """
        link, made = self.link(name), False
        if link is None:
            kind = attribute(_IFLA_INFO_KIND, KIND.encode())
            data = nested(_IFLA_INFO_DATA, attribute(_IFLA_IPTUN_LOCAL, address.packed))
            attributes = attribute(_IFLA_IFNAME, name.encode() + b"\0") + nested(_IFLA_LINKINFO, kind + data)
            change_link(f"ipip device {name}", _RTM_NEWLINK, 0, attributes, _NLM_F_CREATE | _NLM_F_EXCL)
            link, made = self.link(name), True
        if link is None or link.kind != KIND:
            raise NodeError("exists and is no ipip device", about=name, remedy="rename it")
        if made:
            self.silence_ipv6(link.index)
            set_ipv4(link, IPV4_DEVCONF_RP_FILTER, "rp_filter")
        return link, made

    def set_up(self, link: Link) -> None:
        """From now on packets come out of it."""
        with explained(f"interface {link.name}"):
            self._route.link("set", index=link.index, state="up")


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += -(-length // 4) * 4
