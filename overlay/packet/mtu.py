"""Every MTU there is here, by name, and the arithmetic between them. All in bytes.

underlay MTU
    Of the interface that carries outer packets: the largest outer IP packet.
inner MTU
    Of everything behind a node (docker0, pods, and the TUN device where there is one): the largest inner IP packet, so
    underlay MTU minus what a backend puts around it.
path MTU
    Like the underlay MTU, but of the whole path to one peer; never larger than it is.
"""

from __future__ import annotations

from overlay.errors import ConfigError
from overlay.packet import ip

UDP_HEADER = 8
"""RFC 768."""

UDP_ENCAPSULATION = ip.HEADER_LEN + UDP_HEADER
"""Overhead of flannel's udp format: the payload is the bare inner packet (pkg/backend/udp/udp_amd64.go)."""

MINIMUM = 68
"""The smallest MTU of an IPv4 link (RFC 791, 3.2); also the kernel's lower bound for a TUN device (ETH_MIN_MTU)."""

MAXIMUM = ip.MAX_UDP_PAYLOAD
"""The largest inner packet whose outer packet is still an IPv4 packet (total length has 16 bits)."""

PATH_MINIMUM = 552
"""Linux's ``net.ipv4.route.min_pmtu``: whoever claims less of a path is forging, to have us send crumbs."""


def inner_mtu(underlay_mtu: int, wanted: int | None = None, *, overhead: int = UDP_ENCAPSULATION) -> int:
    """The inner MTU: what was ``wanted``, else all that the underlay leaves.

    Args:
        overhead: what the backend puts around an inner packet.

    Raises:
        ConfigError: ``wanted`` is no MTU, or does not fit into the underlay.
    """
    room = min(underlay_mtu, ip.MAX_LEN) - overhead
    if wanted is None:
        if room < MINIMUM:
            raise ConfigError(
                f"leaves {room} bytes for inner packets, and IPv4 needs {MINIMUM}",
                about=f"underlay MTU {underlay_mtu}",
                remedy="choose another interface with --iface or raise its MTU",
            )
        return room
    if not MINIMUM <= wanted <= room:
        raise ConfigError(
            f"must be between {MINIMUM} and {room} (underlay MTU {underlay_mtu} less {overhead})",
            about=f"MTU {wanted}",
            remedy="choose another --mtu or Backend.MTU, or none to have it computed",
        )
    return wanted
