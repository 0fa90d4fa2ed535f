"""The TUN device as it should be, and the steps that make it so.

:func:`plan` is pure: desired state and actual state in, steps out; nothing to do gives no step. :func:`reconcile`
reads the actual state, carries the steps out and says what it changed. Only addresses and routes *of our device* are
ever removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network

from overlay.errors import DeviceError, NodeError
from overlay.model import TunnelSpec
from overlay.node.netlink import Address, Link, Netlink, Route, RouteType

_SCOPE_LINK = 253
_PROTOCOL_KERNEL = 2
_PROTOCOL_BOOT = 3

LAST_RESORT = 2**31 - 1
"""Metric of our blackhole: a bridge that has the subnet comes with a route of metric 0, which wins."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change: what it does, in words, and the call that does it."""

    text: str
    run: Callable[[Netlink], None]


def network_route(network: IPv4Network, device: Link) -> Route:
    """flannel's one route: the whole network through the TUN device (pkg/backend/udp/udp_network_amd64.go)."""
    return Route(network, device.index, scope=_SCOPE_LINK, protocol=_PROTOCOL_BOOT)


def blackhole_route(subnet: IPv4Network) -> Route:
    """Ends packets to our subnet while no bridge has it; they would go round through the tunnel device otherwise."""
    return Route(subnet, None, protocol=_PROTOCOL_BOOT, metric=LAST_RESORT, type=RouteType.BLACKHOLE)


def plan(
    spec: TunnelSpec, link: Link, addresses: list[Address], routes: list[Route], *, blackhole: bool = False
) -> Iterator[Step]:
    """Steps from the device's actual state to what ``spec`` wants.

    Args:
        blackhole: whether there should be a :func:`blackhole_route`.
        addresses: those of ``link``.
        routes: all of the main table: a route to the network through another interface is replaced as well.
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
            )
    if not link.accept_local:
        # The datapath's ICMP errors have the device's own address as their source: martians to Linux otherwise.
        yield Step(f"{name}: packets from our own addresses accepted", lambda netlink: netlink.accept_local(link))
    if not link.up:
        yield Step(f"{name}: set up", lambda netlink: netlink.set_link(link, up=True))
    wanted = network_route(spec.network, link)
    # Taking a link down drops its routes without a notice, so a route seen on a link that is down does not count.
    if not link.up or not any(
        route.destination == spec.network and route.index == link.index and route.gateway is None for route in routes
    ):
        yield Step(f"route {spec.network} dev {name} added", lambda netlink: netlink.replace_route(wanted))
    for old in routes:
        if old.index == link.index and old.destination != spec.network and old.protocol != _PROTOCOL_KERNEL:
            yield Step(
                f"route {old.destination} dev {name} removed",
                lambda netlink, old=old: netlink.delete_route(old),  # type: ignore[misc]
            )
    yield from _plan_blackhole(blackhole_route(spec.subnet) if blackhole else None, routes)


def _plan_blackhole(wanted: Route | None, routes: list[Route]) -> Iterator[Step]:
    ours = [route for route in routes if route.type is RouteType.BLACKHOLE and route.metric == LAST_RESORT]
    if wanted is not None and wanted.destination not in {route.destination for route in ours}:
        yield Step(f"blackhole {wanted.destination} added", lambda netlink: netlink.replace_route(wanted))
    for old in ours:
        if wanted is None or old.destination != wanted.destination:
            yield Step(
                f"blackhole {old.destination} removed",
                lambda netlink, old=old: netlink.delete_route(old),  # type: ignore[misc]
            )


def reconcile(spec: TunnelSpec, netlink: Netlink, *, blackhole: bool = False) -> list[str]:
    """Makes the device match ``spec``; returns what was changed, empty when all was right already.

    Raises:
        DeviceError: there is no such device (the datapath makes it).
        PrivilegeError, NodeError: the kernel refused a step.
    """
    link = netlink.link(spec.device)
    if link is None:
        raise DeviceError("does not exist", about=f"device {spec.device}")
    done = []
    for step in plan(spec, link, netlink.addresses(link.index), netlink.routes(), blackhole=blackhole):
        try:
            step.run(netlink)
        except NodeError as error:
            raise NodeError(f"{step.text}: {error}") from error
        done.append(step.text)
    return done
