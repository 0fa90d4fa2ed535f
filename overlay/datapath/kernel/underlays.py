"""Which interfaces packets from peers may come by, and what there keeps them from our programs.

The kernel routes an answer as it likes: what was sent by one interface is answered by way of another wherever two
networks, or a router with two links, stand between two nodes. So a program is on every interface that could bring
something, not only on the one that we send by.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network

from overlay.linux.netlink import Address, Link

_CARRIERS = frozenset({"", "veth", "vlan", "bond", "team", "macvlan", "ipvlan"})
"""Kinds of links that lead out of a machine. Behind bridges are containers, and tunnels carry what came in elsewhere:
either is an underlay where a route to a peer says so."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a look at the machine found that may take packets from the programs.

    Attributes:
        ahead: other programs that see packets before ours do, each as "NAME on HOOK of DEVICE".
        joining: interfaces that join datagrams before our programs see them.
        bare: interfaces that are up, are nobody's port and not the containers', and have no program of ours.
    """

    ahead: tuple[str, ...] = ()
    joining: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()


def underlays(
    devices: Iterable[Link],
    addresses: Iterable[Address],
    towards: Collection[int],
    network: IPv4Network,
) -> list[Link]:
    """The interfaces that packets from peers may come by, of those that are not ours.

    Args:
        addresses: all that there are; what has one outside the overlay may be sent to.
        towards: indexes of those by which routes to peers leave.
        network: the overlay's, whose addresses are containers'.
    """
    reachable = {each.index for each in addresses if each.address not in network}
    return [
        device
        for device in devices
        if device.index in towards
        or (device.up and is_end(device) and device.kind in _CARRIERS and device.index in reachable)
    ]


def is_end(device: Link) -> bool:
    """Whether the IP stack receives from it: it is no port of a bridge or a bond, and not loopback."""
    return not device.loopback and (not device.master or device.master_kind == "vrf")
