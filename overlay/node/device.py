"""The TUN device as it should be, and the steps that make it so.

:func:`plan` is pure: desired state and actual state in, steps out; nothing to do gives no step. :func:`reconcile`
reads the actual state, carries the steps out and says what it changed.

What is ours: the device with its addresses, and routes of our protocol number that are by our device, or are blackholes
with our device's metric. Nothing else is ever removed, and no route takes the place of another: an operator's route by
our device stays, and where one stands in our way, that is said.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network

from overlay.datapath.spec import TunnelSpec
from overlay.errors import DeviceError, NodeError, PrivilegeError
from overlay.linux.netlink import Address, Link, Netlink
from overlay.linux.routes import Route, RouteType

_SCOPE_LINK = 253

PROTOCOL = 241
"""Who made a route (rtm_protocol): none that iproute2's etc/rt_protos or a routing daemon has a name for."""

_LAST_RESORT = 2**31
"""Metrics of our blackholes begin here: a bridge that has the subnet comes with a route of metric 0, which wins."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change: what it does, in words, and the call that does it.

    Attributes:
        needed: whether packets need it; else it tidies up, and may fail.
    """

    text: str
    run: Callable[[Netlink], None]
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the steps.

    Attributes:
        changes: what was changed, empty when all was right already.
        failures: what could not be tidied up; packets pass all the same.
    """

    changes: tuple[str, ...]
    failures: tuple[str, ...] = ()


def network_route(network: IPv4Network, device: Link) -> Route:
    """flannel's one route: the whole network through the TUN device (pkg/backend/udp/udp_network_amd64.go)."""
    return Route(network, device.index, scope=_SCOPE_LINK, protocol=PROTOCOL)


def blackhole_route(subnet: IPv4Network, device: str) -> Route:
    """Ends packets to our subnet while no bridge has it; they would go round through the tunnel device otherwise.

    A blackhole has no interface, so its metric names the device: each agent of a host knows its own by it.
    """
    metric = _LAST_RESORT | zlib.crc32(device.encode()) >> 1
    return Route(subnet, None, protocol=PROTOCOL, metric=metric, type=RouteType.BLACKHOLE)


def own_blackholes(routes: Iterable[Route], device: str) -> list[Route]:
    """Those of ``routes`` that are :func:`blackhole_route` of ``device``, of whatever subnet."""
    return [route for route in routes if route == blackhole_route(route.destination, device)]


def plan(
    spec: TunnelSpec, link: Link, addresses: list[Address], routes: list[Route], *, blackhole: bool = False
) -> Iterator[Step]:
    """Steps from the device's actual state to what ``spec`` wants.

    Args:
        blackhole: whether there should be a :func:`blackhole_route`.
        addresses: those of ``link``.
        routes: all of the main table.
    """
    name = link.name
    if link.ipv6_link_local:
        # Its router solicitations would go into the tunnel, which carries IPv4, and count as drops. Before the MTU: one
        # below 1280 takes IPv6 away, and with it this setting.
        yield Step(f"{name}: no IPv6 address of its own", lambda netlink: netlink.no_ipv6(link))
    if link.mtu != spec.mtu:
        yield Step(f"{name}: MTU {link.mtu} → {spec.mtu}", lambda netlink: netlink.set_link(link, mtu=spec.mtu))
    if not any(address.address == spec.address and address.prefixlen == 32 for address in addresses):
        yield Step(
            f"{name}: address {spec.address}/32 added", lambda netlink: netlink.add_address(link, spec.address, 32)
        )
    for stale in addresses:
        if stale.address != spec.address or stale.prefixlen != 32:
            yield Step(
                f"{name}: address {stale.address}/{stale.prefixlen} removed",
                lambda netlink, stale=stale: netlink.delete_address(link, stale),  # type: ignore[misc]
                needed=False,
            )
    if not link.accept_local:
        # The datapath's ICMP errors have the device's own address as their source: martians to Linux otherwise.
        yield Step(f"{name}: packets from our own addresses accepted", lambda netlink: netlink.accept_local(link))
    if not link.up:
        yield Step(f"{name}: set up", lambda netlink: netlink.set_link(link, up=True))
    wanted = network_route(spec.network, link)
    # Taking a link down drops its routes without a notice, so a route seen on a link that is down does not count.
    standing = [route for route in routes if link.up or route.index != link.index]
    if not any(
        route.destination == spec.network and route.index == link.index and route.gateway is None for route in standing
    ):
        yield Step(f"route {spec.network} dev {name} added", lambda netlink: _add(netlink, wanted, standing))
    for old in routes:
        if old.index == link.index and old.destination != spec.network and old.protocol == PROTOCOL:
            yield Step(
                f"route {old.destination} dev {name} removed",
                lambda netlink, old=old: netlink.delete_route(old),  # type: ignore[misc]
                needed=False,
            )
    yield from _plan_blackhole(spec, blackhole, routes)


def _add(netlink: Netlink, wanted: Route, standing: Iterable[Route]) -> None:
    """Adds our route; raises NodeError where another's has its place."""
    identity = (wanted.destination, wanted.tos, wanted.metric)
    for other in standing:
        if (other.destination, other.tos, other.metric) == identity:
            raise NodeError(
                "is there already, and not ours",
                about=f"route {other.destination}",
                remedy=f"choose another Network, or remove it: ip route del {other.destination}",
            )
    netlink.add_route(wanted)


def _plan_blackhole(spec: TunnelSpec, wished: bool, routes: list[Route]) -> Iterator[Step]:
    ours, wanted = own_blackholes(routes, spec.device), blackhole_route(spec.subnet, spec.device)
    if wished and wanted not in ours:
        yield Step(f"blackhole {wanted.destination} added", lambda netlink: netlink.add_route(wanted))
    for old in ours:
        if not wished or old != wanted:
            yield Step(
                f"blackhole {old.destination} removed",
                lambda netlink, old=old: netlink.delete_route(old),  # type: ignore[misc]
                needed=False,
            )


def reconcile(spec: TunnelSpec, netlink: Netlink, *, blackhole: bool = False) -> Outcome:
    """Makes the device match ``spec``. A step that fails keeps no other from being tried.

    Raises:
        DeviceError: there is no such device (the datapath makes it).
        PrivilegeError, NodeError: the kernel refused what packets need.
    """
    link = netlink.link(spec.device)
    if link is None:
        raise DeviceError("does not exist", about=f"device {spec.device}")
    done: list[str] = []
    failed: dict[Step, NodeError] = {}
    for step in plan(spec, link, netlink.addresses(link.index), netlink.routes(), blackhole=blackhole):
        try:
            step.run(netlink)
        except PrivilegeError:
            raise
        except NodeError as error:
            failed[step] = error
        else:
            done.append(step.text)
    if any(step.needed for step in failed):
        raise NodeError("; ".join(f"{step.text}: {error}" for step, error in failed.items()))
    return Outcome(tuple(done), tuple(f"{step.text}: {error}" for step, error in failed.items()))
