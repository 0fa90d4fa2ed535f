"""Which interface is the underlay, by flannel's rules (pkg/ipmatch/match.go); a pure choice from facts.

Order: each ``--iface`` (an address or a name), then each ``--iface-regex`` (addresses first, then names), then
``--iface-can-reach``; none of them given: the interface that has the ``--public-ip`` (main.go), else that of the
default route.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from overlay.errors import InterfaceError
from overlay.node.netlink import Address, Link, Route

_DEFAULT = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True)
class Selection:
    """What the operator asked for; all empty means the default route's interface."""

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    can_reach: IPv4Address | None = None
    public_ip: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class Underlay:
    """The chosen interface: its name, index and MTU, our address on it, and the address that we advertise."""

    interface: str
    index: int
    mtu: int
    address: IPv4Address
    public_ip: IPv4Address

    def __str__(self) -> str:
        return f"{self.interface}, address {self.address}, public IP {self.public_ip}, MTU {self.mtu}"


class Facts(Protocol):
    """What the choice looks at; :class:`overlay.node.netlink.Netlink` has it."""

    def links(self) -> list[Link]: ...
    def addresses(self, index: int | None = None) -> list[Address]: ...
    def routes(self, index: int | None = None) -> list[Route]: ...
    def route_to(self, destination: IPv4Address) -> Route: ...


def choose(selection: Selection, facts: Facts) -> Underlay:
    """The underlay for ``selection`` on this machine.

    Raises:
        InterfaceError: nothing fits; the text lists what was asked for and what there is.
    """
    links = {link.index: link for link in facts.links()}
    for link, address in _candidates(selection, facts, links):
        return Underlay(link.name, link.index, link.mtu, address, selection.public_ip or address)
    raise _nothing_fits(selection, facts, links)


def _candidates(selection: Selection, facts: Facts, links: dict[int, Link]) -> Iterator[tuple[Link, IPv4Address]]:
    for name in selection.names:
        yield from _by_name_or_address(name, facts, links)
    for pattern in selection.patterns:
        yield from _by_pattern(pattern, facts, links)
    if selection.can_reach is not None:
        route = facts.route_to(selection.can_reach)
        if route.index in links:
            source = route.source or _first_address(facts, route.index)
            if source is not None:
                yield links[route.index], source
    if not (selection.names or selection.patterns or selection.can_reach):
        if selection.public_ip is not None:  # behind NAT it is on no interface here
            yield from _by_name_or_address(str(selection.public_ip), facts, links)
        for route in facts.routes():
            if route.destination == _DEFAULT and route.index in links:
                address = route.source or _first_address(facts, route.index)
                if address is not None:
                    yield links[route.index], address


def _by_name_or_address(wanted: str, facts: Facts, links: dict[int, Link]) -> Iterator[tuple[Link, IPv4Address]]:
    for address in facts.addresses():
        if wanted == str(address.address):
            yield links[address.index], address.address
    for link in links.values():
        if link.name == wanted and (first := _first_address(facts, link.index)) is not None:
            yield link, first


def _by_pattern(pattern: str, facts: Facts, links: dict[int, Link]) -> Iterator[tuple[Link, IPv4Address]]:
    compiled = re.compile(pattern)
    for address in facts.addresses():
        if compiled.search(str(address.address)):
            yield links[address.index], address.address
    for link in links.values():
        if compiled.search(link.name) and (first := _first_address(facts, link.index)) is not None:
            yield link, first


def _first_address(facts: Facts, index: int) -> IPv4Address | None:
    """The first primary address that is not link-local (flannel prefers a global one: pkg/ip/iface.go)."""
    addresses = [address for address in facts.addresses(index) if not address.address.is_loopback]
    addresses.sort(key=lambda address: (address.address.is_link_local, address.secondary))
    return addresses[0].address if addresses else None


def _nothing_fits(selection: Selection, facts: Facts, links: dict[int, Link]) -> InterfaceError:
    here = ", ".join(
        f"{links[address.index].name} ({address.address})" for address in facts.addresses() if address.index in links
    )
    asked = [f"--iface {name}" for name in selection.names]
    asked += [f"--iface-regex {pattern}" for pattern in selection.patterns]
    if selection.can_reach is not None:
        asked.append(f"--iface-can-reach {selection.can_reach}")
    if not asked:
        return InterfaceError(
            "there is no default route to take the interface from",
            about="underlay interface",
            remedy=f"name one with --iface; here are: {here or 'none with an IPv4 address'}",
        )
    return InterfaceError(
        "no interface with an IPv4 address fits",
        about=", ".join(asked),
        remedy=f"here are: {here or 'none with an IPv4 address'}",
    )
