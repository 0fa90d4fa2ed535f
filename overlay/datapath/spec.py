"""What a datapath is asked for, apart from the peers."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from overlay.model import UDP_PORT

ASIDE = 1 << 14
"""From the tunnel's port to the first of those that only send: the ports next to it are what a second network on the
same machine is given. A multiple of every number of workers that is a power of two (see userspace/steering.py)."""


@dataclass(frozen=True, slots=True)
class TunnelSpec:
    """What a datapath has to carry: everything about this node's end of the tunnel that is not a peer.

    Attributes:
        device: name of the TUN device (``flannel0``).
        network: the overlay's IPv4 network.
        subnet: this node's own subnet; only inner packets to addresses in it, or to ``address``, may enter.
        mtu: of the TUN device in bytes, so the largest inner packet.
        underlay_interface: name of the interface that outer packets use.
        underlay_address: our outer source address.
        port: UDP port of every node's socket.
        copy_dscp: whether outer headers have the inner packets' class of service (DSCP).
        socket_port: UDP port of this node's own socket, where the kernel itself has ``port``; None: ``port``.
    """

    device: str
    network: IPv4Network
    subnet: IPv4Network
    mtu: int
    underlay_interface: str
    underlay_address: IPv4Address
    port: int = UDP_PORT
    copy_dscp: bool = False
    socket_port: int | None = None

    @property
    def bound_port(self) -> int:
        """UDP port of this node's own socket."""
        return self.port if self.socket_port is None else self.socket_port

    @property
    def address(self) -> IPv4Address:
        """The TUN device's address: the subnet's base address, as flannel's udp backend chooses it."""
        return self.subnet.network_address
