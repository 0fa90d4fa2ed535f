"""A process that makes a TUN device, and reconciles it as the agent does, in the namespace where it was started.

Usage::

    python -m tests.support.tunnel_device DEVICE NET [make | learn] [blackhole]

The device's subnet is 10.NET.58.0/24. ``make`` and ``learn`` make it; ``learn`` has the kernel learn a path's MTU
behind it first. Prints what was changed, a line each, ``LEFT`` before what could not be, ``FAILED`` before an error.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Container
from ipaddress import IPv4Address, IPv4Network

from overlay.backends.udp import device
from overlay.datapath.spec import TunnelSpec
from overlay.errors import NodeError
from overlay.linux import tun
from overlay.linux.netlink import Netlink
from overlay.node import blackhole
from overlay.packet import ip
from overlay.packet.checksum import checksum

_HEADER = "!BBHHHBBH4s4s"


def _wrapped(protocol: int, source: IPv4Address, target: IPv4Address, payload: bytes) -> bytes:
    """A packet of IPv4."""
    fields = [0x45, 0, 20 + len(payload), 7, 0, 64, protocol, 0, source.packed, target.packed]
    fields[7] = checksum(struct.pack(_HEADER, *fields))
    return struct.pack(_HEADER, *fields) + payload


def _learn(queue: int, spec: TunnelSpec) -> None:
    """A router behind the tunnel says that the path takes 1300 bytes: the kernel keeps that as an exception."""
    far = spec.network.network_address + 77 * 256 + 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((str(spec.address), 0))
        sender.connect((str(far), 9))
        sender.send(b"x")
        datagram = struct.pack("!HHHH", sender.getsockname()[1], 9, 9, 0) + b"x"
        unsummed = struct.pack("!BBHHH", 3, 4, 0, 0, 1300) + _wrapped(ip.UDP, spec.address, far, datagram)
        icmp = unsummed[:2] + struct.pack("!H", checksum(unsummed)) + unsummed[4:]
        os.write(queue, _wrapped(ip.ICMP, far, spec.address, icmp))


def main(name: str, net: str, modes: Container[str]) -> None:
    """Makes, reconciles and prints."""
    network, subnet = IPv4Network(f"10.{net}.0.0/16"), IPv4Network(f"10.{net}.58.0/24")
    spec = TunnelSpec(name, network, subnet, 1472, "eth0", IPv4Address("172.31.0.1"))
    if "make" in modes or "learn" in modes:
        queue = tun.open_queue(name, vnet_hdr=False)
        tun.set_persistent(queue)
        if "learn" in modes:
            _learn(queue, spec)
    outcomes = []
    with Netlink() as netlink:
        try:
            outcomes.append(device.reconcile(spec, netlink))
        except NodeError as error:
            print(f"FAILED {error}")
    outcomes.append(blackhole.reconcile(spec.subnet if "blackhole" in modes else None, name))
    for outcome in outcomes:
        for line in outcome.changes:
            print(line)
        for line in outcome.failures:
            print(f"LEFT {line}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
