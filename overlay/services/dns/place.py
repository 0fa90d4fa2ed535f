"""Where the server is reached: its address on a device of its own, and the sockets of port 53.

The device leads nowhere, so that the address is there whatever the other devices do, and the same on every node. It
stays when the daemon ends: a question then meets a closed port and is known to be lost at once, instead of leaving for
the network.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network

from overlay.errors import DeviceError, PortInUseError
from overlay.linux.netlink import QUIET_KINDS, Link, Netlink
from overlay.services.dns.helper import Sockets

DEVICE = "overlay-dns"
PORT = 53

_BACKLOG = 128
_RECEIVE_BUFFER = 4 << 20
"""Bytes of questions that may wait, as while a worker is started anew."""
_VIRTUAL = ("veth", "tun", "dummy", "ifb")
"""Kinds of links that a bridge of containers has."""


def apply(address: IPv4Address) -> bool:
    """Makes the device and its address; True if something had to be done. Blocks.

    Raises:
        DeviceError: another's device has the name.
        NodeError: the kernel refused.
    """
    changed = False
    with Netlink() as netlink:
        link = netlink.link(DEVICE)
        if link is None:
            link = netlink.add_quiet_link(DEVICE)
            changed = True
        elif not _is_ours(netlink, link):
            kind = link.kind or "hardware"
            raise DeviceError(f"is a device of kind {kind}, not ours", about=DEVICE, remedy="rename or remove it")
        if not link.up:
            netlink.set_link(link, up=True)
            changed = True
        present = netlink.addresses(link.index)
        for other in present:
            if (other.address, other.prefixlen) != (address, 32):
                netlink.delete_address(link, other)
                changed = True
        if not any((each.address, each.prefixlen) == (address, 32) for each in present):
            netlink.add_address(link, address, 32)
            changed = True
    return changed


def remove() -> Iterator[str]:
    """Takes the device away; tells what there was. Blocks."""
    with Netlink() as netlink:
        if (link := netlink.link(DEVICE)) is not None and _is_ours(netlink, link):
            netlink.delete_link(link)
            yield f"device {DEVICE} removed"


def _is_ours(netlink: Netlink, link: Link) -> bool:
    """Whether it leads nowhere, as what is made here."""
    return link.kind in QUIET_KINDS and all(each.master != link.index for each in netlink.links())


def open_sockets(address: IPv4Address, port: int = PORT) -> Sockets:
    """The sockets that questions come to.

    Raises:
        PortInUseError: another program answers there.
        DeviceError: the address is not there.
    """
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        _widen(udp)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for each in (udp, tcp):
            each.bind((str(address), port))
        tcp.listen(_BACKLOG)
    except OSError as error:
        udp.close()
        tcp.close()
        about = f"port {port} of {address}"
        if error.errno == errno.EADDRINUSE:
            remedy = "stop the DNS server that answers there, or give another --dns-address"
            raise PortInUseError("is in use", about=about, remedy=remedy) from error
        raise DeviceError(error.strerror or str(error), about=about) from error
    return Sockets(udp, tcp)


def _widen(sock: socket.socket) -> None:
    """A larger receive buffer than others may ask for, where we may."""
    so_rcvbufforce = 33
    try:
        sock.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, _RECEIVE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)


def clients(subnets: Iterable[IPv4Network]) -> tuple[str, ...]:
    """Who is answered: this host, its containers' subnets, and what is behind its bridges. Blocks.

    A bridge that has a network card among its ports leads out of this host: who is behind it is not answered.
    """
    with Netlink() as netlink:
        links = {link.index: link for link in netlink.links()}
        addresses = netlink.addresses()
    outward = {link.master for link in links.values() if link.master is not None and link.kind not in _VIRTUAL}
    found = {IPv4Network("127.0.0.0/8"), *subnets}
    for each in addresses:
        found.add(IPv4Network(each.address))
        if _is_inward(links.get(each.index), outward):
            found.add(IPv4Network((each.address, each.prefixlen), strict=False))
    return tuple(map(str, sorted(found)))


def _is_inward(link: Link | None, outward: set[int]) -> bool:
    return link is not None and link.kind == "bridge" and link.index not in outward
