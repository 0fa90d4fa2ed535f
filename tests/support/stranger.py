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


def messages(node: str, peer: str, mtu: int, pods: tuple[str, str]) -> Iterator[bytes]:
    """Errors that quote datagrams which the node may have sent, as far as a router quotes them."""
    # By far the most differ in the port alone, and so does their sum (RFC 1624): adding all up for each takes minutes
    # where the processor is emulated.
    bare = bytearray(too_big(mtu, quoted(node, peer, 0, b"")))
    (sum_without_port,) = _SUM.unpack_from(bare, _SUM_AT)
    for port in PORTS:
        _PORT.pack_into(bare, _PORT_AT, port)
        total = 0xFFFF - sum_without_port + port
        _SUM.pack_into(bare, _SUM_AT, 0xFFFF - (total + (total >> 16) & 0xFFFF))
        yield bytes(bare)
    tunnel = tuple(pod.rpartition(".")[0] + ".0" for pod in pods)
    for source, target in (pods, tunnel):
        for kind in (0, 8):  # echo reply and echo request
            inner = ipv4(source, target, payload=bytes((kind, 0)) + bytes(100), protocol=1)
            yield too_big(mtu, quoted(node, peer, TUNNEL, inner))
            yield too_big(mtu, quoted(node, peer, 50_000, inner))


_SUM = _PORT = struct.Struct("!H")
_SUM_AT, _PORT_AT = 2, 8 + 20
"""In a message: the checksum of all of it, and the source port of what is quoted."""


def too_big(mtu: int, quote: bytes) -> bytes:
    """Fragmentation needed (RFC 1191, 4)."""
    message = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quote
    return message[:2] + struct.pack("!H", plain_checksum(message)) + message[4:]


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
        raw.connect((node, 0))
        for message in messages(node, peer, int(mtu), (pods[0], pods[1])):
            raw.send(message)


if __name__ == "__main__":
    main(*sys.argv[1:])
