"""Our routes as sets: those wanted against those there are, and the difference made in a few system calls.

Which of a machine's routes are ours is written in the routes themselves, so an agent knows those of its predecessor,
and leaves alone those of operators, of routing daemons and of a second agent on the same machine. All have
:data:`PROTOCOL`, and besides:

=============================  ================================================================
kind                           by what an agent knows its own
=============================  ================================================================
to the network, by the tunnel  the device
to a peer's subnet             a gateway, and the metric that :func:`peer_route` gives them
to nothing, for our subnet     type blackhole, and the metric that :func:`blackhole_route` gives
=============================  ================================================================

The latter two lead to no device of ours, so their metrics are made of the device's name: it is the agent's name on its
machine (``--device``), also where its backend makes no device. Nothing that is not ours is ever removed or replaced: a
route of another in the place of a wanted one is told, and the rest is done all the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from types import MappingProxyType
from typing import Protocol

from overlay.errors import NodeError, PrivilegeError
from overlay.linux.routes import Route, RouteType
from overlay.model import FLANNELS_DEVICE

PROTOCOL = 241
"""Who made a route (rtm_protocol): none that iproute2's etc/rt_protos or a routing daemon has a name for."""

_SCOPE_LINK = 253

_LAST_RESORT = 2**31
"""Metrics of our blackholes begin here: a bridge that has the subnet comes with a route of metric 0, which wins."""

_MAX_LINES = 8
"""Changes that are told one by one."""

IsOurs = Callable[[Route], bool]


def network_route(network: IPv4Network, index: int) -> Route:
    """flannel's one route: the whole network through the TUN device (pkg/backend/udp/udp_network_amd64.go)."""
    return Route(network, index, scope=_SCOPE_LINK, protocol=PROTOCOL)


def is_by_device(route: Route, index: int) -> bool:
    """Whether it is a route of ours that leads to the device of this index."""
    return route.protocol == PROTOCOL and route.index == index


def peer_route(subnet: IPv4Network, gateway: IPv4Address, index: int, device: str) -> Route:
    """A peer's subnet by its address on the link of interface ``index``, as flannel's host-gw has it (no metric)."""
    return Route(subnet, index, gateway=gateway, protocol=PROTOCOL, metric=_peer_metric(device))


def is_peer_route(route: Route, device: str) -> bool:
    """Whether it is a :func:`peer_route` of the agent of this device, to whatever subnet."""
    by_gateway = route.type is RouteType.UNICAST and route.gateway is not None
    return by_gateway and route.protocol == PROTOCOL and route.metric == _peer_metric(device)


def _peer_metric(device: str) -> int:
    return 0 if device == FLANNELS_DEVICE else zlib.crc32(device.encode()) >> 1 or 1


def blackhole_route(subnet: IPv4Network, device: str) -> Route:
    """Ends packets to our subnet while no bridge has it: else they would leave this machine, or go round in it."""
    metric = _LAST_RESORT | zlib.crc32(device.encode()) >> 1
    return Route(subnet, None, protocol=PROTOCOL, metric=metric, type=RouteType.BLACKHOLE)


def is_blackhole(route: Route, device: str) -> bool:
    """Whether it is a :func:`blackhole_route` of the agent of this device, for whatever subnet."""
    return route == blackhole_route(route.destination, device)


@dataclass(frozen=True, slots=True)
class Difference:
    """What to do, in this order.

    Attributes:
        replaced: of ours, each in the place of one to be added.
        add: what is not there.
        stale: of ours and not wanted.
        blocked: wanted, and a route of another has its place.
    """

    replaced: tuple[Route, ...] = ()
    add: tuple[Route, ...] = ()
    stale: tuple[Route, ...] = ()
    blocked: tuple[Route, ...] = ()


def compare(wanted: Iterable[Route], present: Iterable[Route], is_ours: IsOurs) -> Difference:
    """The way from ``present`` to ``wanted``. A route that leads where a wanted one does will do, whoever made it."""
    there: dict[object, list[Route]] = {}
    for route in present:
        there.setdefault(_identity(route), []).append(route)
    replaced: list[Route] = []
    add: list[Route] = []
    blocked: list[Route] = []
    kept: set[Route] = set()
    for wish in wanted:
        rivals = there.get(_identity(wish), ())
        if (same := next((route for route in rivals if _way(route) == _way(wish)), None)) is not None:
            kept.add(same)
        elif all(is_ours(route) for route in rivals):
            replaced += rivals
            add.append(wish)
        else:
            blocked.append(wish)
    done = kept | set(replaced)
    stale = [route for routes in there.values() for route in routes if is_ours(route) and route not in done]
    return Difference(tuple(replaced), tuple(add), tuple(stale), tuple(blocked))


def _identity(route: Route) -> object:
    return route.destination, route.tos, route.metric


def _way(route: Route) -> object:
    return route.type, route.index, route.gateway


class Table(Protocol):
    """The kernel's; :class:`overlay.linux.routes.RouteTable` is it."""

    def routes(self) -> list[Route]: ...
    def change(self, *, delete: Iterable[Route] = (), add: Iterable[Route] = ()) -> Mapping[Route, NodeError]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        changes: what was changed, a line each; empty when all was right already.
        failures: what could not be tidied up; packets pass all the same.
        refused: why a wanted route is not there.
    """

    changes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    refused: Mapping[Route, NodeError] = field(default_factory=lambda: MappingProxyType({}))


def carry_out(difference: Difference, table: Table, name: Callable[[int | None], str]) -> Outcome:
    """Does what :func:`compare` found, each route whatever becomes of the others.

    Args:
        name: of an interface, by its index.

    Raises:
        PrivilegeError: not allowed to.
    """
    refused = {route: _blocked(route) for route in difference.blocked}
    failed = table.change(delete=difference.replaced, add=difference.add) if difference.add else {}
    left = table.change(delete=difference.stale) if difference.stale else {}
    for error in (*failed.values(), *left.values()):
        if isinstance(error, PrivilegeError):
            raise error
    refused |= {route: failed[route] for route in difference.add if route in failed}
    left = {**left, **{route: failed[route] for route in difference.replaced if route in failed}}
    added = [f"{text(route, name)} added" for route in difference.add if route not in failed]
    removed = [f"{text(route, name)} removed" for route in difference.stale if route not in left]
    failures = tuple(f"{text(route, name)} removed: {error}" for route, error in left.items())
    return Outcome((*shortened(added), *shortened(removed)), failures, MappingProxyType(refused))


def reconcile(wanted: Iterable[Route], table: Table, is_ours: IsOurs, name: Callable[[int | None], str]) -> Outcome:
    """Makes the routes of ours ``wanted`` and nothing else; applied twice, it does nothing. Raises PrivilegeError."""
    return carry_out(compare(wanted, table.routes(), is_ours), table, name)


def remove(table: Table, is_ours: IsOurs, name: Callable[[int | None], str]) -> Iterator[str]:
    """Removes all of ours; tells what there was. Raises NodeError, the first, after all have been tried."""
    outcome = reconcile((), table, is_ours, name)
    yield from outcome.changes
    if outcome.failures:
        raise NodeError("; ".join(outcome.failures))


def _blocked(route: Route) -> NodeError:
    return NodeError(
        "is there already, and not ours",
        about=f"route {route.destination}",
        remedy=f"choose another Network, or remove it: ip route del {route.destination}",
    )


def text(route: Route, name: Callable[[int | None], str]) -> str:
    """As iproute2 shows it, in short."""
    if route.type is not RouteType.UNICAST:
        return f"{route.type.name.lower()} {route.destination}"
    gateway = f" via {route.gateway}" if route.gateway is not None else ""
    return f"route {route.destination}{gateway} dev {name(route.index)}"


def shortened(lines: list[str]) -> list[str]:
    """The first of many lines, and how many more there are."""
    more = len(lines) - _MAX_LINES
    return lines if more <= 0 else [*lines[:_MAX_LINES], f"… and {more} more routes like this"]
