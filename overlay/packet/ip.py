"""The IPv4 header (RFC 791): decoding, checking, and the time to live.

::

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-------+-------+---------------+-------------------------------+
    |version|  IHL  | traffic class |         total length          |   0
    +-------+-------+---------------+-----+-------------------------+
    |         identification        |0 D M|     fragment offset     |   4
    +---------------+---------------+-----+-------------------------+
    |  time to live |    protocol   |        header checksum        |   8
    +---------------+---------------+-------------------------------+
    |                        source address                         |  12
    +---------------------------------------------------------------+
    |                     destination address                       |  16
    +---------------------------------------------------------------+
    |              options, up to 40 bytes, IHL words in all          |  20
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from overlay.packet import Bytes, MutableBytes
from overlay.packet.checksum import ONES

HEADER_LEN = 20
"""Bytes of a header without options."""
MAX_LEN = 0xFFFF
"""Bytes that the total length field can say."""
MAX_UDP_PAYLOAD = MAX_LEN - HEADER_LEN - 8
"""65,507: the largest UDP payload over IPv4, so the largest inner packet that one datagram carries."""

ICMP, TCP, UDP = 1, 6, 17
"""Protocol numbers (IANA)."""

TTL_AT = 8
CHECKSUM_AT = 10

DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000
OFFSET_MASK = 0x1FFF
"""Of the 16 bits at offset 6; the offset counts units of 8 bytes."""

_HEADER = struct.Struct("!BBHHHBBHII")


class Header(NamedTuple):
    """The fixed part of a header, fields as they stand on the wire; addresses are integers.

    ``fragment`` is the 16 bits of flags and offset.
    """

    version_ihl: int
    traffic_class: int
    total_length: int
    identification: int
    fragment: int
    ttl: int
    protocol: int
    checksum: int
    source: int
    destination: int

    @property
    def header_length(self) -> int:
        """Bytes of header with options."""
        return (self.version_ihl & 0xF) * 4

    @property
    def dont_fragment(self) -> bool:
        """Whether the sender forbids fragmentation."""
        return bool(self.fragment & DONT_FRAGMENT)

    @property
    def is_later_fragment(self) -> bool:
        """Whether this is a fragment other than the first, so one that carries no transport header."""
        return bool(self.fragment & OFFSET_MASK)


def decode(packet: Bytes) -> Header:
    """The fixed header at the start of ``packet``, unchecked.

    Raises:
        struct.error: fewer than 20 bytes.
    """
    return Header(*_HEADER.unpack_from(packet))


def encode(header: Header) -> bytes:
    """The 20 bytes of ``header`` as given, its checksum included (see :func:`with_checksum`)."""
    return _HEADER.pack(*header)


def with_checksum(packet: bytearray, header_length: int = HEADER_LEN) -> bytearray:
    """Writes the right checksum into the header at the start of ``packet`` in place, and returns ``packet``."""
    packet[CHECKSUM_AT : CHECKSUM_AT + 2] = b"\0\0"
    total = int.from_bytes(packet[:header_length], "big")
    packet[CHECKSUM_AT : CHECKSUM_AT + 2] = (-total % ONES).to_bytes(2, "big")
    return packet


def decrement_ttl(packet: MutableBytes) -> None:
    """One hop less, checksum updated incrementally (RFC 1624; Linux ``ip_decrease_ttl``). The TTL must not be 0.

    The TTL is the upper byte of its word, so the word falls by 0x0100 and the complement in the checksum rises by as
    much, with the carry brought round.
    """
    packet[TTL_AT] -= 1
    total = (packet[CHECKSUM_AT] << 8 | packet[CHECKSUM_AT + 1]) + 0x0100
    total += total >= ONES
    packet[CHECKSUM_AT] = total >> 8 & 0xFF
    packet[CHECKSUM_AT + 1] = total & 0xFF
