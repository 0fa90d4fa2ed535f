"""Which interface is the underlay, by flannel's rules (pkg/ipmatch/match.go); a pure choice from facts.

Order: each ``--iface`` (an address or a name), then each ``--iface-regex`` (addresses first, then names), then
``--iface-can-reach``; none of them given: the interface that has the ``--public-ip`` (main.go), else that of the
default route.

Unlike flannel's, the choice leaves out what carries the overlay, or is carried by it: the tunnel would go through
itself, and its MTU shrink with every look. What a pattern finds only by chance (a bridge of containers, another of
several that match) is not preferred to what was chosen before. For the default route the kernel is asked where it would
send a packet, and from which address: rules and other tables count, and so does which of several routes is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import chain
from typing import Protocol

from overlay.errors import InterfaceError
from overlay.linux.netlink import SOMEWHERE, Address, Link
from overlay.linux.routes import Route

_DEFAULT = IPv4Network("0.0.0.0/0")
_CONTAINER_PORTS = frozenset({"veth", "tun"})
"""Kinds of the links that join containers and virtual machines to a bridge."""
_CARRY_NOTHING = frozenset({"dummy"})


@dataclass(frozen=True, slots=True)
class Selection:
    """What the operator asked for; all empty means the default route's interface."""

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    can_reach: IPv4Address | None = None
    public_ip: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class Ours:
    """What belongs to the overlay on this machine, and so is never its underlay.

    Attributes:
        devices: names of our links.
        network: the Network, None while it is not known.
        subnets: leased now or before; bridges of containers have them.
    """

    devices: frozenset[str] = frozenset()
    network: IPv4Network | None = None
    subnets: frozenset[IPv4Network] = frozenset()

    def has(self, address: IPv4Address) -> bool:
        """Whether ``address`` is one of the overlay's."""
        inside = self.network is not None and address in self.network
        return inside or any(address in subnet for subnet in self.subnets)


NOTHING_OURS = Ours()


@dataclass(frozen=True, slots=True)
class Underlay:
    """The chosen interface: its name, index and MTU, our address, and the address that we advertise.

    The address may be on another interface, lo as a rule, that carries no packets.
    """

    interface: str
    index: int
    mtu: int
    address: IPv4Address
    public_ip: IPv4Address

    def __str__(self) -> str:
        return f"{self.interface}, address {self.address}, public IP {self.public_ip}, MTU {self.mtu}"


class Facts(Protocol):
    """What the choice looks at; :class:`overlay.linux.netlink.Netlink` has it."""

    def links(self) -> list[Link]: ...
    def addresses(self, index: int | None = None) -> list[Address]: ...
    def routes(self, index: int | None = None) -> list[Route]: ...
    def default_route(self) -> Route | None: ...
    def route_to(
        self, destination: IPv4Address, *, source: IPv4Address | None = None, interface: int | None = None
    ) -> Route: ...


def choose(selection: Selection, facts: Facts, ours: Ours = NOTHING_OURS, before: Underlay | None = None) -> Underlay:
    """The underlay for ``selection`` on this machine.

    Args:
        before: what was chosen last; preferred among what one and the same pattern finds.

    Raises:
        InterfaceError: nothing fits; the text lists what was asked for and what there is.
    """
    machine = _Machine(facts, ours)
    for link, address in machine.candidates(selection, before):
        way_out = machine.way_out(link, address)
        if way_out is not None:
            return Underlay(way_out.name, way_out.index, way_out.mtu, address, selection.public_ip or address)
    raise machine.nothing_fits(selection)


def fault(underlay: Underlay, links: Iterable[Link]) -> InterfaceError | None:
    """Why no packet passes by ``underlay``, whatever address it has; None where one may."""
    link = next((link for link in links if link.index == underlay.index), None)
    if link is None or (link.up and link.carrier):  # one that is gone is missed by the choice
        return None
    if link.up:
        return InterfaceError("has no carrier", about=f"interface {link.name}", remedy="see to what it is connected to")
    return InterfaceError("is down", about=f"interface {link.name}", remedy=f"ip link set {link.name} up")


def without_uplink(bridge: Link, links: list[Link]) -> bool:
    """Whether ``bridge`` joins containers with one another only, as docker0 does: it has no port to the world."""
    ports = (link for link in links if link.master == bridge.index)
    return bridge.kind == "bridge" and all(port.kind in _CONTAINER_PORTS for port in ports)


Candidate = tuple[Link, IPv4Address]


class _Machine:
    """The facts, read once, and what can be said of them."""

    def __init__(self, facts: Facts, ours: Ours) -> None:
        self._facts, self._ours = facts, ours
        links = facts.links()
        self._links = {link.index: link for link in links}
        self._addresses = [address for address in facts.addresses() if address.index in self._links]
        self._default = facts.default_route()
        uplink = None if self._default is None else self._default.index
        self._containers = {link.index for link in links if without_uplink(link, links) and link.index != uplink}
        bridges = {address.index for address in self._addresses if ours.has(address.address)} & self._containers
        self._overlay = {link.index for link in links if link.name in ours.devices} | bridges

    def candidates(self, selection: Selection, before: Underlay | None) -> Iterator[Candidate]:
        """What fits, best first, without what is the overlay's."""
        for link, address in self._in_order(selection, before):
            if link.index not in self._overlay and not address.is_loopback and not self._ours.has(address):
                yield link, address

    def _in_order(self, selection: Selection, before: Underlay | None) -> Iterator[Candidate]:
        for name in selection.names:
            yield from self._named(name)
        for pattern in selection.patterns:
            found = (pair for pair in self._matching(pattern) if pair[0].index not in self._containers)
            # Stable: what was chosen before comes first, the rest in the kernel's order.
            yield from sorted(found, key=lambda pair: before is None or pair[1] != before.address)
        if selection.can_reach is not None:
            yield from self._along(self._facts.route_to(selection.can_reach))
        if not (selection.names or selection.patterns or selection.can_reach):
            if selection.public_ip is not None:  # behind NAT it is on no interface here
                yield from self._named(str(selection.public_ip))
            yield from self._by_default()

    def _named(self, wanted: str) -> Iterator[Candidate]:
        for address in self._addresses:
            if wanted == str(address.address):
                yield self._links[address.index], address.address
        for link in self._links.values():
            if link.name == wanted:
                yield from self._first(link)

    def _matching(self, pattern: str) -> Iterator[Candidate]:
        compiled = re.compile(pattern)
        for address in self._addresses:
            if compiled.search(str(address.address)):
                yield self._links[address.index], address.address
        for link in self._links.values():
            if compiled.search(link.name):
                yield from self._first(link)

    def _by_default(self) -> Iterator[Candidate]:
        """Where the kernel sends what has no other way; then each default route, as one may lead into the overlay."""
        if self._default is not None:
            yield from self._along(self._default)
        routes = (route for route in self._facts.routes() if route.destination == _DEFAULT and route.index is not None)
        for route in sorted(routes, key=lambda route: route.metric):
            if route.source is not None:
                yield from self._along(route)
            yield from chain.from_iterable(map(self._along, self._somewhere(interface=route.index)))

    def _somewhere(self, *, source: IPv4Address | None = None, interface: int | None = None) -> Iterator[Route]:
        """What becomes of packets to nowhere in particular from ``source``, or by ``interface``."""
        for destination in SOMEWHERE:
            with suppress(InterfaceError):
                yield self._facts.route_to(destination, source=source, interface=interface)

    def _along(self, route: Route) -> Iterator[Candidate]:
        """The interface of a route, with the source that the kernel gives its packets, else its first address."""
        link = None if route.index is None else self._links.get(route.index)
        if link is None:
            return
        if route.source is not None:
            yield link, route.source
        yield from self._first(link)

    def _first(self, link: Link) -> Iterator[Candidate]:
        """The first primary address that is not link-local (flannel prefers a global one: pkg/ip/iface.go)."""
        addresses = [
            address
            for address in self._addresses
            if address.index == link.index and not address.address.is_loopback and not self._ours.has(address.address)
        ]
        addresses.sort(key=lambda address: (address.address.is_link_local, address.secondary))
        if addresses:
            yield link, addresses[0].address

    def way_out(self, link: Link, address: IPv4Address) -> Link | None:
        """The interface by which packets from ``address`` leave: ``link``, but for one that carries none (lo)."""
        if not link.loopback and link.kind not in _CARRY_NOTHING:
            return link
        for route in self._somewhere(source=address):
            way = None if route.index is None else self._links.get(route.index)
            if way is not None and way.index not in self._overlay and not way.loopback:
                return way
        # Without a default route: no packet is too large that fits all ways there may be.
        return min(
            (
                self._links[other.index]
                for other in self._addresses
                if other.index not in self._overlay | self._containers
                and other.index != link.index
                and not self._links[other.index].loopback
                and self._links[other.index].up
            ),
            key=lambda way: way.mtu,
            default=None,
        )

    def nothing_fits(self, selection: Selection) -> InterfaceError:
        """What was asked for, and what there is."""
        here = ", ".join(self._described(address) for address in self._addresses)
        asked = [f"--iface {name}" for name in selection.names]
        asked += [f"--iface-regex {pattern}" for pattern in selection.patterns]
        if selection.can_reach is not None:
            asked.append(f"--iface-can-reach {selection.can_reach}")
        if not asked:
            if self._default is None:
                cause = "there is no default route to take the interface from"
            else:
                cause = "the default route leads into the overlay itself"
            remedy = f"name one with --iface; here are: {here or 'none with an IPv4 address'}"
            return InterfaceError(cause, about="underlay interface", remedy=remedy)
        return InterfaceError(
            "no interface with an IPv4 address fits",
            about=", ".join(asked),
            remedy=f"here are: {here or 'none with an IPv4 address'}",
        )

    def _described(self, address: Address) -> str:
        name = self._links[address.index].name
        if address.index in self._overlay or self._ours.has(address.address):
            return f"{name} ({address.address}, the overlay's own)"
        if address.index in self._containers:
            return f"{name} ({address.address}, without a way out: --iface {name} takes it)"
        return f"{name} ({address.address})"
