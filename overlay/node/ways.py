"""Whether the kernel sends the overlay's packets the way that our routes say, by all its rules, tables and settings.

Our routes are in the main table. A rule of others before it (ip-rule(8): a VPN's, a table for each uplink), or a
setting of one interface, leads packets elsewhere or drops them, and every route looks right. So the kernel is asked
what it would do with a packet of each kind that there is::

    node       → other node's container     its way is our route
    container  → other node's container     comes in by the bridge; its way is our route
    other node → container                  comes in by the tunnel; its way is the bridge

What belongs to others is not changed: it is said, with what would put it right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from overlay.linux.netlink import Address, Answer, Link
from overlay.linux.routes import Route, RouteType
from overlay.node import forwarding
from overlay.node.routes import PROTOCOL
from overlay.problem import Problem


class Kernel(Protocol):
    """What is asked; :class:`overlay.linux.netlink.Netlink` has it."""

    def links(self) -> list[Link]: ...
    def addresses(self, index: int | None = None) -> list[Address]: ...
    def routes(self, index: int | None = None) -> list[Route]: ...
    def ask(
        self, destination: IPv4Address, *, source: IPv4Address | None = None, arriving: int | None = None
    ) -> Answer: ...


@dataclass(frozen=True, slots=True)
class _Bridge:
    """Where containers of this node are: a link, and an address that one of them might have."""

    link: Link
    container: IPv4Address
    part: IPv4Network


def look(kernel: Kernel, network: IPv4Network, subnet: IPv4Network, interface: str) -> Iterator[Problem]:
    """What keeps packets from going as they should.

    Args:
        network: the whole overlay.
        subnet: this node's own.
        interface: by which peers' packets come in.

    Raises:
        NodeError: the kernel does not tell.
    """
    links = {link.index: link for link in kernel.links()}
    tunnel = next((link for link in links.values() if link.name == interface), None)
    if tunnel is None:
        return
    routes = kernel.routes()
    # One will do: a backend with a route a peer has thousands, all alike.
    ours = ((route, away) for route in routes if (away := _elsewhere(route, network, subnet, routes)) is not None)
    if (found := next(ours, None)) is None:
        return
    route, away = found
    # Where nothing is forwarded, or nothing out of the tunnel, that is said already.
    forwards = forwarding.obstacle(interface) is None
    bridges = list(_bridges(kernel.addresses(), links, subnet, tunnel)) if forwards else []
    way = _Way(kernel, links, network)
    yield from way.problems(away, links.get(route.index or 0, tunnel), tunnel, bridges)


def _elsewhere(route: Route, network: IPv4Network, subnet: IPv4Network, routes: Sequence[Route]) -> IPv4Address | None:
    """An address of another node's containers for which ``route``, one of ours, is the one in the main table."""
    destination = route.destination
    if route.protocol != PROTOCOL or route.type is not RouteType.UNICAST or not destination.subnet_of(network):
        return None
    inside = [
        each.destination
        for each in routes
        if each.destination.prefixlen > destination.prefixlen and each.destination.subnet_of(destination)
    ]
    some = (destination[-2], destination[1], destination[destination.num_addresses // 2 + 2])
    foreign = [address for address in some if address not in subnet]
    # Where others' routes have all of it, that is what is to be found out.
    return next((each for each in foreign if not any(each in other for other in inside)), next(iter(foreign), None))


def _bridges(
    addresses: Sequence[Address], links: Mapping[int, Link], subnet: IPv4Network, tunnel: Link
) -> Iterator[_Bridge]:
    """The links that have a part of our subnet: Docker's bridge, as a rule."""
    for address in addresses:
        link = links.get(address.index)
        part = IPv4Network((address.address, address.prefixlen), strict=False)
        if link is None or link.loopback or link == tunnel or not part.subnet_of(subnet):
            continue
        if part.prefixlen < 31:  # and so has two addresses at least, of which one is not the bridge's
            yield _Bridge(link, next(each for each in (part[-2], part[1]) if each != address.address), part)


@dataclass(frozen=True, slots=True)
class _Way:
    """Asks, and judges the answers."""

    kernel: Kernel
    links: Mapping[int, Link]
    network: IPv4Network

    def problems(self, away: IPv4Address, out: Link, tunnel: Link, bridges: Sequence[_Bridge]) -> Iterator[Problem]:
        """What is wrong with packets to and from ``away``, where they are to leave by ``out``, at most one a bridge."""
        problem = self._judge(f"this node's packets to {away}", self.kernel.ask(away), out)
        if problem is not None:
            yield problem
            return
        for bridge in bridges:
            problem = self._of_bridge(bridge, away, out, tunnel)
            if problem is not None:
                yield problem

    def _of_bridge(self, bridge: _Bridge, away: IPv4Address, out: Link, tunnel: Link) -> Problem | None:
        link, inner = bridge.link, bridge.container
        if not link.up:
            return Problem(
                "bridge-down",
                f"{link.name} has {bridge.part} of this node and is down: nothing reaches its containers",
                f"ip link set {link.name} up",
                about=link.name,
            )
        if (obstacle := forwarding.obstacle_of(link.name)) is not None:
            return Problem.of(obstacle, "forwarding")
        leaves = self.kernel.ask(away, source=inner, arriving=link.index)
        enters = self.kernel.ask(inner, source=away, arriving=tunnel.index)
        return self._judge(f"packets of {link.name}'s containers to {away}", leaves, out) or self._judge(
            f"packets of other nodes to {link.name}'s containers", enters, link
        )

    def _judge(self, what: str, answer: Answer, right: Link) -> Problem | None:
        """
        Args:
            right: the link by which they must leave.
        """
        if answer.route is not None and answer.route.index == right.index:
            return None
        becomes = f"are dropped ({answer.cause})" if answer.cause else "are dropped"
        if answer.route is not None and (link := self.links.get(answer.route.index or 0)) is not None:
            becomes = f"leave by {link.name} instead of {right.name}"
        return Problem(
            "diverted",
            f"{what} {becomes}: a rule (ip rule) or a route of others comes before the overlay's routes",
            f"ip rule add pref 1 to {self.network} lookup main, or remove the route",
        )
