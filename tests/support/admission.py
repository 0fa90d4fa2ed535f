"""Who may send what: the rule in plain Python, and datagrams to try it with. Both datapaths are held against it.

The network is 10.0.0.0/16, this node's subnet 10.0.1.0/24. Peers::

    172.31.0.2   10.0.2.0/24
    172.31.0.3   10.0.3.0/24 and 10.0.16.0/20
    172.31.0.4   10.0.17.0/24 (inside the /20 of 172.31.0.3)
    172.31.0.5   10.0.0.0/20  (our own subnet lies inside it)
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network

from overlay.model import Peer, PeerTable

OWN = IPv4Network("10.0.1.0/24")
PEERS = PeerTable.of(
    OWN,
    [
        Peer(IPv4Network("10.0.2.0/24"), IPv4Address("172.31.0.2")),
        Peer(IPv4Network("10.0.3.0/24"), IPv4Address("172.31.0.3")),
        Peer(IPv4Network("10.0.16.0/20"), IPv4Address("172.31.0.3")),
        Peer(IPv4Network("10.0.17.0/24"), IPv4Address("172.31.0.4")),
        Peer(IPv4Network("10.0.0.0/20"), IPv4Address("172.31.0.5")),
    ],
)


class Outcome(Enum):
    """What happens to a datagram."""

    ENTERS = "written to the TUN, TTL one less"
    EXPIRES = "answered with time exceeded"
    REFUSED = "dropped and counted"


def oracle(outer_source: IPv4Address, datagram: bytes, own: IPv4Network, peers: PeerTable) -> Outcome:
    """The rule, as slowly and plainly as it can be said."""
    if not _is_valid_ipv4(datagram):
        return Outcome.REFUSED
    source, destination = IPv4Address(datagram[12:16]), IPv4Address(datagram[16:20])
    if source in own or destination not in own:
        return Outcome.REFUSED
    owners = [peer for subnet, peer in peers.peers.items() if source in subnet]
    if not owners or max(owners, key=lambda peer: peer.subnet.prefixlen).public_ip != outer_source:
        return Outcome.REFUSED
    return Outcome.ENTERS if datagram[8] > 1 else Outcome.EXPIRES


def _is_valid_ipv4(datagram: bytes) -> bool:
    if len(datagram) < 20:
        return False
    version, header_length = datagram[0] >> 4, 4 * (datagram[0] & 15)
    (total_length,) = struct.unpack("!H", datagram[2:4])
    if version != 4 or header_length < 20 or total_length < header_length or total_length > len(datagram):
        return False
    return plain_checksum(datagram[:header_length]) == 0


def plain_checksum(data: bytes) -> int:
    """RFC 1071 word by word."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        if total > 0xFFFF:
            total -= 0xFFFF
    return 0xFFFF - total


def ipv4(
    source: str = "10.0.2.9",
    destination: str = "10.0.1.7",
    *,
    payload: bytes = b"\x10\x01\x10\x02\x00\x10\x00\x00payload.",
    ttl: int = 63,
    protocol: int = 17,
    version: int = 4,
    options: bytes = b"",
    words: int | None = None,
    total_length: int | None = None,
    checksum: int | None = None,
    fragment: int = 0,
) -> bytes:
    """An IPv4 packet; what is not given is right. ``words`` is the IHL field."""
    length = 20 + len(options)
    header = struct.pack(
        "!BBHHHBBH4s4s",
        version << 4 | (length // 4 if words is None else words),
        0,
        length + len(payload) if total_length is None else total_length,
        0x1234,
        fragment,
        ttl,
        protocol,
        0,
        IPv4Address(source).packed,
        IPv4Address(destination).packed,
    )
    header += options
    if checksum is None:
        checksum = plain_checksum(header)
    return header[:10] + struct.pack("!H", checksum) + header[12:] + payload


@dataclass(frozen=True)
class Vector:
    """One datagram, where it claims to come from, and what must happen to it."""

    name: str
    outer_source: IPv4Address
    datagram: bytes
    outcome: Outcome


def _vector(name: str, outer_source: str, datagram: bytes, outcome: Outcome = Outcome.REFUSED) -> Vector:
    return Vector(name, IPv4Address(outer_source), datagram, outcome)


NO_OPERATIONS = b"\x01\x01\x01\x00"
PEER = "172.31.0.2"

VECTORS = (
    _vector("an ordinary packet", PEER, ipv4(), Outcome.ENTERS),
    _vector("to the TUN's own address", PEER, ipv4(destination="10.0.1.0"), Outcome.ENTERS),
    _vector("to the last address of our subnet", PEER, ipv4(destination="10.0.1.255"), Outcome.ENTERS),
    _vector("from the peer's TUN address", PEER, ipv4(source="10.0.2.0"), Outcome.ENTERS),
    _vector("without payload", PEER, ipv4(payload=b""), Outcome.ENTERS),
    _vector("with options", PEER, ipv4(options=NO_OPERATIONS), Outcome.ENTERS),
    _vector("with the longest header", PEER, ipv4(options=NO_OPERATIONS * 10), Outcome.ENTERS),
    _vector("a later fragment", PEER, ipv4(fragment=0x2005), Outcome.ENTERS),
    _vector("with bytes after the packet", PEER, ipv4() + b"trailer", Outcome.ENTERS),
    _vector("a protocol nobody knows", PEER, ipv4(protocol=253), Outcome.ENTERS),
    _vector("with two hops left", PEER, ipv4(ttl=2), Outcome.ENTERS),
    _vector("on its last hop", PEER, ipv4(ttl=1), Outcome.EXPIRES),
    _vector("with no hop left", PEER, ipv4(ttl=0), Outcome.EXPIRES),
    _vector("on its last hop, from nobody", "172.31.0.77", ipv4(ttl=1)),
    _vector("from the second subnet of a peer", "172.31.0.3", ipv4(source="10.0.16.1"), Outcome.ENTERS),
    _vector("from the longer prefix's owner", "172.31.0.4", ipv4(source="10.0.17.1"), Outcome.ENTERS),
    _vector("from the shorter prefix's owner", "172.31.0.3", ipv4(source="10.0.17.1")),
    _vector("from an owner of the prefix around ours", "172.31.0.5", ipv4(source="10.0.4.1"), Outcome.ENTERS),
    _vector("from our own subnet, by an owner of the prefix around it", "172.31.0.5", ipv4(source="10.0.1.5")),
    _vector("from our own subnet", PEER, ipv4(source="10.0.1.5")),
    _vector("from no peer's address", "172.31.0.77", ipv4()),
    _vector("from another peer's address", "172.31.0.3", ipv4()),
    _vector("from a source in no subnet", PEER, ipv4(source="10.0.99.1")),
    _vector("from outside the network", PEER, ipv4(source="8.8.8.8")),
    _vector("from 0.0.0.0", PEER, ipv4(source="0.0.0.0")),
    _vector("to another node's subnet", PEER, ipv4(destination="10.0.3.1")),
    _vector("to the peer itself", PEER, ipv4(destination="10.0.2.7")),
    _vector("to outside the network", PEER, ipv4(destination="8.8.8.8")),
    _vector("to our underlay address", PEER, ipv4(destination="172.31.0.1")),
    _vector("to a group", PEER, ipv4(destination="224.0.0.1")),
    _vector("to everybody", PEER, ipv4(destination="255.255.255.255")),
    _vector("to loopback", PEER, ipv4(destination="127.0.0.1")),
    _vector("nothing", PEER, b""),
    _vector("one byte", PEER, b"\x45"),
    _vector("a byte short of a header", PEER, ipv4(payload=b"")[:19]),
    _vector("cut short by a byte", PEER, ipv4()[:-1]),
    _vector("options cut off", PEER, ipv4(options=NO_OPERATIONS, payload=b"")[:20]),
    _vector("a total length beyond the datagram", PEER, ipv4(total_length=2000)),
    _vector("a total length below the header's", PEER, ipv4(total_length=19)),
    _vector("a total length of 0", PEER, ipv4(total_length=0)),
    _vector("a header of 16 bytes", PEER, ipv4(words=4)),
    _vector("a header of 0 bytes", PEER, ipv4(words=0)),
    _vector("a header beyond the packet", PEER, ipv4(words=15, payload=b"")),
    _vector("version 6", PEER, ipv4(version=6)),
    _vector("version 0", PEER, ipv4(version=0)),
    _vector("a wrong header checksum", PEER, ipv4(checksum=0xDEAD)),
    _vector("a checksum of 0", PEER, ipv4(checksum=0)),
)


def mutations(seed: int, count: int) -> Iterator[tuple[IPv4Address, bytes]]:
    """``count`` datagrams around the vectors: bytes changed, cut, lengthened, senders exchanged, checksums mended.

    Most are still close to valid, which random bytes never are.
    """
    chance = random.Random(seed)
    senders = [vector.outer_source for vector in VECTORS]
    for _ in range(count):
        vector = chance.choice(VECTORS)
        data = bytearray(vector.datagram)
        for _ in range(chance.choice((0, 1, 1, 2, 5))):
            if data:
                data[chance.randrange(min(len(data), 24))] = chance.choice((0, 1, 2, 10, 17, 0x45, 0xFF, *data[12:20]))
        if chance.random() < 0.2:
            del data[chance.randrange(len(data) + 1) :]
        if chance.random() < 0.1:
            data += bytes(chance.randrange(40))
        if chance.random() < 0.7 and len(data) >= 20:
            data = bytearray(mended(data))
        yield (vector.outer_source if chance.random() < 0.7 else chance.choice(senders)), bytes(data)


def mended(datagram: bytes | bytearray) -> bytes:
    """With the right checksum for its header."""
    header = bytes(datagram[: max(20, 4 * (datagram[0] & 15))])
    checksum = plain_checksum(header[:10] + bytes(2) + header[12:])
    return bytes(datagram[:10]) + checksum.to_bytes(2, "big") + bytes(datagram[12:])
