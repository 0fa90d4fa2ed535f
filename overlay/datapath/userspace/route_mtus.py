"""The MTUs that this node's own routes to peers have: who says ``ip route add … mtu 1400`` means the tunnel too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network

from overlay.datapath.userspace.messages import RouteMtus
from overlay.errors import OverlayError
from overlay.linux.netlink import Netlink

EVERY = 10.0
"""Seconds between two looks at the routes."""


def look(peers: Iterable[int]) -> RouteMtus:
    """What the main table's routes say about ``peers``, underlay addresses; nothing if they cannot be read."""
    routes: Mapping[IPv4Network, int] = {}
    with suppress(OverlayError, OSError), Netlink() as netlink:
        routes = netlink.route_mtus()
    return towards(peers, routes)


def towards(peers: Iterable[int], routes: Mapping[IPv4Network, int]) -> RouteMtus:
    """The MTU of the longest prefix that holds each peer, for those where it has one.

    Args:
        routes: all destinations that there are, with 0 for a route without an MTU of its own.
    """
    if not any(routes.values()):
        return RouteMtus(())
    levels = [
        (int(IPv4Network((0, length)).netmask), {int(each.network_address): mtu for each, mtu in of_length})
        for length in sorted({each.prefixlen for each in routes}, reverse=True)
        if (of_length := [(each, mtu) for each, mtu in routes.items() if each.prefixlen == length])
    ]
    found = []
    for peer in sorted(set(peers)):
        mtu = next((bases[peer & mask] for mask, bases in levels if peer & mask in bases), 0)
        if mtu:
            found.append((str(IPv4Address(peer)), min(mtu, 0xFFFF)))
    return RouteMtus(tuple(found))
