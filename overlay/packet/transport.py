"""What segmentation and coalescing have to know of TCP (RFC 9293) and UDP (RFC 768)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from overlay.packet import Bytes, ip

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
"""TCP flags, in the byte at offset 13 of the header."""

TCP_SEQUENCE_AT, TCP_OFFSET_AT, TCP_FLAGS_AT, TCP_CHECKSUM_AT = 4, 12, 13, 16
TCP_HEADER_LEN = 20
UDP_LENGTH_AT, UDP_CHECKSUM_AT = 4, 6
UDP_HEADER_LEN = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in one packet of a flow; offsets in bytes from the start of the IP header.

    Attributes:
        protocol: ip.TCP or ip.UDP.
        network: length of the IP header, so where the transport header starts.
        header: length of both headers, so where the payload starts.
    """

    protocol: int
    network: int
    header: int

    @property
    def is_tcp(self) -> bool:
        """TCP; else UDP."""
        return self.protocol == ip.TCP

    @property
    def checksum(self) -> int:
        """Offset of the transport checksum."""
        return self.network + self.checksum_offset

    @property
    def checksum_offset(self) -> int:
        """The same from the start of the transport header."""
        return TCP_CHECKSUM_AT if self.protocol == ip.TCP else UDP_CHECKSUM_AT


def layout_of(packet: Bytes, length: int) -> Layout | None:
    """The layout of a valid IPv4 packet of ``length`` bytes that is TCP or UDP; None for others.

    None as well for fragments and for transport headers that are cut off or impossible.
    """
    network = (packet[0] & 0xF) * 4
    if packet[6] & 0x3F or packet[7]:
        return None
    protocol = packet[9]
    if protocol == ip.TCP and length >= network + TCP_HEADER_LEN:
        transport = (packet[network + TCP_OFFSET_AT] >> 4) * 4
        if transport < TCP_HEADER_LEN or network + transport > length:
            return None
    elif protocol == ip.UDP and length >= network + UDP_HEADER_LEN:
        transport = UDP_HEADER_LEN
    else:
        return None
    return _layout(protocol, network, network + transport)


@lru_cache(maxsize=256)
def _layout(protocol: int, network: int, header: int) -> Layout:
    return Layout(protocol, network, header)
