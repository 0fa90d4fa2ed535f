"""Segmentation and coalescing, slowly and plainly: the twins that the array functions are held against."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from tests.support.admission import plain_checksum

TCP, UDP = 6, 17
FIN, PSH, CWR = 0x01, 0x08, 0x80


@dataclass(frozen=True)
class Packet:
    """A TCP or UDP packet by its fields; the checksums are always right."""

    protocol: int = TCP
    source: bytes = bytes((10, 0, 2, 9))
    destination: bytes = bytes((10, 0, 1, 7))
    identification: int = 1
    dont_fragment: bool = True
    traffic_class: int = 0
    ttl: int = 63
    ip_options: bytes = b""
    source_port: int = 40000
    destination_port: int = 5201
    sequence: int = 1000
    acknowledgement: int = 77
    flags: int = 0x10
    window: int = 512
    urgent: int = 0
    tcp_options: bytes = b""
    payload: bytes = b""

    def encode(self) -> bytes:
        """The bytes on the wire."""
        ports = struct.pack("!HH", self.source_port, self.destination_port)
        if self.protocol == TCP:
            offset = (20 + len(self.tcp_options)) // 4 << 4
            transport = ports + struct.pack(
                "!IIBBHHH", self.sequence, self.acknowledgement, offset, self.flags, self.window, 0, self.urgent
            )
            transport += self.tcp_options
            at = 16
        else:
            transport = ports + struct.pack("!HH", 8 + len(self.payload), 0)
            at = 6
        segment = transport + self.payload
        pseudo = self.source + self.destination + struct.pack("!BBH", 0, self.protocol, len(segment))
        total = plain_checksum(pseudo + segment)
        if self.protocol == UDP:
            total = total or 0xFFFF
        segment = segment[:at] + struct.pack("!H", total) + segment[at + 2 :]
        header = struct.pack(
            "!BBHHHBBH",
            0x40 | (20 + len(self.ip_options)) // 4,
            self.traffic_class,
            20 + len(self.ip_options) + len(segment),
            self.identification,
            0x4000 if self.dont_fragment else 0,
            self.ttl,
            self.protocol,
            0,
        )
        header += self.source + self.destination + self.ip_options
        return header[:10] + struct.pack("!H", plain_checksum(header)) + header[12:] + segment


def segment_plainly(packet: Packet, gso_size: int) -> list[bytes]:
    """``packet`` cut into segments one after the other."""
    pieces = [packet.payload[at : at + gso_size] for at in range(0, len(packet.payload), gso_size)] or [b""]
    segments = []
    for number, piece in enumerate(pieces):
        flags = packet.flags
        if number < len(pieces) - 1:
            flags &= ~(FIN | PSH)
        if number > 0:
            flags &= ~CWR
        each = replace(
            packet,
            payload=piece,
            flags=flags,
            identification=(packet.identification + number) % 2**16,
            sequence=(packet.sequence + number * gso_size) % 2**32,
        )
        segments.append(each.encode())
    return segments


def successor(packet: Packet, payload: bytes) -> Packet:
    """What the same flow sends next."""
    return replace(
        packet,
        payload=payload,
        identification=(packet.identification + 1) % 2**16,
        sequence=(packet.sequence + len(packet.payload)) % 2**32,
    )


def decode(data: bytes) -> Packet:
    """The fields of a valid TCP or UDP packet."""
    network = (data[0] & 15) * 4
    (identification, fragment) = struct.unpack("!HH", data[4:8])
    transport = data[network:]
    common = Packet(
        protocol=data[9],
        source=data[12:16],
        destination=data[16:20],
        identification=identification,
        dont_fragment=bool(fragment & 0x4000),
        traffic_class=data[1],
        ttl=data[8],
        ip_options=data[20:network],
        source_port=int.from_bytes(transport[0:2], "big"),
        destination_port=int.from_bytes(transport[2:4], "big"),
    )
    if data[9] == UDP:
        return replace(common, payload=transport[8:])
    header = (transport[12] >> 4) * 4
    return replace(
        common,
        sequence=int.from_bytes(transport[4:8], "big"),
        acknowledgement=int.from_bytes(transport[8:12], "big"),
        flags=transport[13],
        window=int.from_bytes(transport[14:16], "big"),
        urgent=int.from_bytes(transport[18:20], "big"),
        tcp_options=transport[20:header],
        payload=transport[header:],
    )


def may_follow(earlier: bytes, later: bytes) -> bool:
    """Whether ``later`` is the next segment of the flow of ``earlier``, field by field."""
    first, second = decode(earlier), decode(later)
    if first.encode() != earlier or second.encode() != later:  # some checksum or length is wrong
        return False
    if len(second.payload) > len(first.payload) or not second.payload:
        return False
    expected = replace(first, payload=second.payload, flags=second.flags, identification=second.identification)
    if not first.dont_fragment and second.identification != (first.identification + 1) % 2**16:
        return False
    if first.protocol == UDP:
        return expected == second
    expected = replace(expected, sequence=(first.sequence + len(first.payload)) % 2**32)
    if expected != second:
        return False
    changed = first.flags ^ second.flags
    return (
        first.flags & ~(CWR | 0x40) == 0x10
        and second.flags & ~(0x40 | FIN | PSH) == 0x10
        and not changed & ~(CWR | FIN | PSH)
    )
