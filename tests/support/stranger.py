"""Forged errors about a path's MTU, as many as can be guessed, from somebody who has seen nothing.

``python -m tests.support.stranger NODE PEER MTU SENDER POD OTHER-POD``: the node is told, in the name of SENDER, that
what it sends to PEER is too big; quoted are datagrams from every port, and what pods and nodes may say to each other.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator

from overlay.datapath.spec import ASIDE
from tests.support.admission import ipv4, plain_checksum

TUNNEL = 8285
PORTS = (TUNNEL, *range(TUNNEL + ASIDE, TUNNEL + ASIDE + 5), 53, *range(49152, 65536))
"""The tunnel's, those that workers send from, another service's, and those of the kernel path's flows."""


def quotes(node: str, peer: str, pods: tuple[str, str]) -> Iterator[bytes]:
    """Datagrams that the node may have sent, as far as a router quotes them."""
    for port in PORTS:
        yield quoted(node, peer, port, b"")
    tunnel = tuple(pod.rpartition(".")[0] + ".0" for pod in pods)
    for source, target in (pods, tunnel):
        for kind in (0, 8):  # echo reply and echo request
            inner = ipv4(source, target, payload=bytes((kind, 0)) + bytes(100), protocol=1)
            yield quoted(node, peer, TUNNEL, inner)
            yield quoted(node, peer, 50_000, inner)


def quoted(node: str, peer: str, port: int, inner: bytes) -> bytes:
    """An outer datagram of 1,500 bytes, of which only the beginning is there."""
    udp = struct.pack("!HHHH", port, TUNNEL, 1480, 0)
    addresses = socket.inet_aton(node), socket.inet_aton(peer)
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 1500, 0, 0x4000, 64, 17, 0, *addresses)
    header = header[:10] + struct.pack("!H", plain_checksum(header)) + header[12:]
    return header + udp + inner


def main(node: str, peer: str, mtu: str, sender: str, *pods: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.bind((sender, 0))
        for quote in quotes(node, peer, (pods[0], pods[1])):
            message = struct.pack("!BBHHH", 3, 4, 0, 0, int(mtu)) + quote
            checksum = struct.pack("!H", plain_checksum(message))
            raw.sendto(message[:2] + checksum + message[4:], (node, 0))


if __name__ == "__main__":
    main(*sys.argv[1:])
