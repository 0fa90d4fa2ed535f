"""The device that makes ClusterIPs this node's own, by routes of type local. No packets pass it.

No interface has a ClusterIP for its address, so that nobody's list of the machine's addresses grows. ARP needs no
settings: it is answered for what is local, but nobody on a link asks for ClusterIPs, unless that link has some of them;
then this node has a route there, and makes none local. Whoever deletes the device deletes all of it.
"""

from __future__ import annotations

from collections.abc import Set
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from overlay.errors import NodeError
from overlay.linux.netlink import Link, RouteSocket, as_text, explained
from overlay.linux.routes import LOCAL, Route, RouteTable, RouteType

_KIND = "dummy"
_HOST = 254
"""RT_SCOPE_HOST, the scope of local routes."""


class LocalAddresses(RouteSocket):
    """One device of this network namespace; a context manager."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def device(self) -> Link | None:
        """None where there is none. Raises NodeError: the name is another's."""
        link = self.link(self._name)
        if link is not None and link.kind != _KIND:
            raise NodeError(f"exists and is no {_KIND}", about=self._name, remedy="rename it")
        return link

    def note(self) -> str:
        """What was noted when it was made; empty where there is none."""
        if self.device() is None:
            return ""
        with explained(f"interface {self._name}"):
            message: Any = self._route.link("get", ifname=self._name)[0]
        return as_text(message.get_attr("IFLA_IFALIAS") or "")

    def make(self, note: str) -> Link:
        """Makes it, unless it is there. It is up once it is noted what is to be noted. Raises NodeError."""
        link = self.device()
        with explained(f"interface {self._name}"):
            if link is None:
                self._route.link("add", ifname=self._name, kind=_KIND)
                link = self.device()
            assert link is not None
            if not link.up:
                self._route.link("set", index=link.index, ifalias=note)
                self.silence_ipv6(link.index)
                self._route.link("set", index=link.index, state="up")
        return link

    def remove(self) -> bool:
        """Whether there was one. Raises NodeError."""
        if (link := self.device()) is None:
            return False
        self.delete_link(link)
        return True


def addresses(link: Link) -> frozenset[str]:
    """What is local by the device. Raises NodeError."""
    with RouteTable(LOCAL) as table:
        return frozenset(
            str(each.destination.network_address)
            for each in table.routes()
            if each.index == link.index and each.destination.prefixlen == 32
        )


def change(link: Link, *, delete: Set[str] = frozenset(), add: Set[str] = frozenset()) -> None:
    """Raises NodeError."""
    with RouteTable(LOCAL) as table:
        failed = table.change(
            delete=[_route(link, each) for each in sorted(delete)], add=[_route(link, each) for each in sorted(add)]
        )
    for error in failed.values():
        raise error


def _route(link: Link, address: str) -> Route:
    return Route(IPv4Network(IPv4Address(address)), link.index, scope=_HOST, type=RouteType.LOCAL)
