"""ICMP errors that a router answers with (RFC 792, RFC 1191, RFC 1812 section 4.3.2), built whole.

Whether an answer is *allowed* is decided here (:func:`may_answer`), how *often* is the caller's to say.
"""

from __future__ import annotations

import struct
from enum import Enum

from overlay.packet import Bytes, ip
from overlay.packet.checksum import checksum

ANSWER_TTL = 64
"""Linux's ``sysctl_ip_default_ttl``. (flannel's 8 would not come back through a longer inner path.)"""
PRECEDENCE = 0xC0
"""Traffic class of errors: internetwork control (RFC 1812, section 4.3.2.5; Linux ``icmp_send``)."""
MAX_ANSWER = 576
"""Bytes of the whole answer at most (RFC 1812, section 4.3.2.3)."""
HEADER_LEN = 8

_HEADER = struct.Struct("!BBHHH")
_ERROR_TYPES = frozenset({3, 4, 5, 11, 12})
"""Unreachable, source quench, redirect, time exceeded, parameter problem: never answered by another error."""


class Error(Enum):
    """The errors this router sends: ICMP type and code."""

    NET_UNREACHABLE = (3, 0)
    FRAGMENTATION_NEEDED = (3, 4)
    TIME_EXCEEDED = (11, 0)


def may_answer(packet: Bytes) -> bool:
    """Whether an ICMP error may be sent about ``packet``, a valid IPv4 packet (RFC 1812, section 4.3.2.7).

    Not about ICMP errors (nor ICMP that is too short to tell), not about later fragments, not about packets to a
    group or to everybody, and not to a source that is no single host.
    """
    header = ip.decode(packet)
    if header.is_later_fragment or not _is_single_host(header.source) or header.destination >= 0xE0000000:
        return False
    if header.protocol != ip.ICMP:
        return True
    start = header.header_length
    return len(packet) > start and packet[start] not in _ERROR_TYPES


def _is_single_host(address: int) -> bool:
    """Whether ``address`` can be one host's: not 0/8, not loopback, not multicast, not reserved, not broadcast."""
    return address >> 24 not in {0, 127} and address < 0xE0000000


def error(kind: Error, packet: Bytes, source: int, next_hop_mtu: int = 0) -> bytearray:
    """The whole IPv4 packet that tells the sender of ``packet`` about ``kind``.

    Args:
        kind: what to say.
        packet: the offending packet, valid; its header and as much of the rest as fits are quoted.
        source: our address.
        next_hop_mtu: bytes, for FRAGMENTATION_NEEDED (RFC 1191, section 4); elsewhere 0.
    """
    offending = ip.decode(packet)
    quoted = bytes(packet[: min(offending.total_length, MAX_ANSWER - ip.HEADER_LEN - HEADER_LEN)])
    number, code = kind.value
    message = bytearray(_HEADER.pack(number, code, 0, 0, next_hop_mtu) + quoted)
    message[2:4] = checksum(message).to_bytes(2, "big")
    header = ip.Header(
        version_ihl=0x45,
        traffic_class=PRECEDENCE,
        total_length=ip.HEADER_LEN + len(message),
        identification=0,
        fragment=0,
        ttl=ANSWER_TTL,
        protocol=ip.ICMP,
        checksum=0,
        source=source,
        destination=offending.source,
    )
    return ip.with_checksum(bytearray(ip.encode(header))) + message
