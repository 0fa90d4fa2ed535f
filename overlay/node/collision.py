"""Whether a Network takes addresses that are somebody else's here: a pure judgement of this machine's routes.

The Network's route leads everything in it to the tunnel. What this machine reaches otherwise (its LAN, a site behind a
router, etcd) would be cut off, or would cut the overlay's own subnets off, so such a Network is refused before anything
is leased or changed. Routes of ours, and those to containers on this very machine, are what an overlay is for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from overlay.errors import ConfigError
from overlay.linux.netlink import Netlink
from overlay.linux.routes import Route, RouteType
from overlay.node.interfaces import Ours, Underlay, without_uplink
from overlay.node.routes import PROTOCOL

_NOWHERE = frozenset({RouteType.BLACKHOLE, RouteType.UNREACHABLE, RouteType.PROHIBIT, RouteType.THROW})
_REMEDY = "choose a Network that nothing else here uses (overlay config set)"


@dataclass(frozen=True, slots=True)
class Taken:
    """A route that is not the overlay's.

    Attributes:
        interface: the name of the one that it leads to; empty for none, or several.
        containers: whether it leads to containers on this machine, which may be the overlay's.
    """

    route: Route
    interface: str
    containers: bool = False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a Network may collide with.

    Attributes:
        taken: routes of others.
        underlay: our own address in the underlay; None where none is chosen yet.
        etcd: addresses of its members.
    """

    taken: tuple[Taken, ...] = ()
    underlay: IPv4Address | None = None
    public_ip: IPv4Address | None = None
    etcd: tuple[IPv4Address, ...] = ()


def survey(
    netlink: Netlink, ours: Ours, underlay: Underlay | None = None, etcd: Iterable[IPv4Address] = ()
) -> Surroundings:
    """What there is on this machine."""
    links = netlink.links()
    here = {link.index: link for link in links}
    routes = netlink.routes()
    chosen = {underlay.index} if underlay is not None else set()
    uplinks = chosen | {route.index for route in routes if route.destination.prefixlen == 0}
    bridges = {link.index for link in links if without_uplink(link, links)}

    def leads_to_containers(route: Route) -> bool:
        link = None if route.index is None else here.get(route.index)
        if link is None or link.index in uplinks or route.gateway is not None:
            return False
        one = link.kind == "veth" and route.destination.prefixlen == 32  # as routed CNI plugins make them
        return one or link.index in bridges or any(route.destination.subnet_of(subnet) for subnet in ours.subnets)

    taken = tuple(
        Taken(route, here[route.index].name if route.index in here else "", leads_to_containers(route))
        for route in routes
        if route.protocol != PROTOCOL and (route.index not in here or here[route.index].name not in ours.devices)
    )
    if underlay is None:
        return Surroundings(taken, etcd=tuple(etcd))
    return Surroundings(taken, underlay.address, underlay.public_ip, tuple(etcd))


def collision(network: IPv4Network, surroundings: Surroundings) -> ConfigError | None:
    """Why ``network`` cannot be the overlay's on this machine; None if it can."""
    for what, address in (
        ("this node's address", surroundings.underlay),
        ("this node's public IP", surroundings.public_ip),
        *(("etcd at", member) for member in surroundings.etcd),
    ):
        if address is not None and address in network:
            return _refused(network, f"{what} {address} is inside it", _REMEDY)
    for taken in surroundings.taken:
        if (cause := _clash(network, taken)) is not None:
            return _refused(network, f"{_described(taken)} {cause}", _remedy(taken.route))
    for taken in surroundings.taken:
        if taken.route.gateway is not None and taken.route.gateway in network:
            return _refused(network, f"{_described(taken)} has its gateway inside it", _REMEDY)
    return None


def _clash(network: IPv4Network, taken: Taken) -> str | None:
    route = taken.route
    if route.destination == network and (route.type not in _NOWHERE or route.metric == route.tos == 0):
        return "is the same"
    inside = route.destination.subnet_of(network) and route.destination != network
    if inside and not taken.containers and route.type not in _NOWHERE:
        return "is inside it"
    return None


def _described(taken: Taken) -> str:
    route, interface = taken.route, taken.interface
    kind = "" if route.type is RouteType.UNICAST else f"{route.type.name.lower()} "
    gateway = f" via {route.gateway}" if route.gateway is not None else ""
    return f"route {kind}{route.destination}{gateway}{f' dev {interface}' if interface else ''}"


def _remedy(route: Route) -> str:
    if route.gateway is None and route.type is RouteType.UNICAST:  # a LAN: the address makes the route
        return _REMEDY
    return f"{_REMEDY}, or remove the route if nobody needs it: ip route del {route.destination}"


def _refused(network: IPv4Network, cause: str, remedy: str) -> ConfigError:
    return ConfigError(cause, about=f"Network {network} collides with this machine's own network", remedy=remedy)
