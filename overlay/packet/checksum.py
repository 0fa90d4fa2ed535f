"""The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

The one's complement sum of 16-bit words is the sum modulo 65535, and since 65536 is 1 modulo 65535, so is the whole
buffer read as one big-endian number. For a header of some tens of bytes that is two fast operations.
"""

from __future__ import annotations

from overlay.packet import Bytes

ONES = 0xFFFF
"""The modulus, and the representation of zero that a correct packet sums up to."""


def ones_sum(data: Bytes) -> int:
    """One's complement sum of ``data``, padded with a zero byte to even length: 0 if all bytes are zero, else 1..65535.

    For headers and ICMP answers; payloads have array functions in :mod:`overlay.packet.segment`.
    """
    number = int.from_bytes(data, "big") << (8 * (len(data) & 1))
    return number % ONES or (ONES if number else 0)


def checksum(data: Bytes) -> int:
    """The checksum field for ``data`` whose own field is zero (RFC 1071, section 1)."""
    return ONES - ones_sum(data)


def update(field: int, old: int, new: int) -> int:
    """The checksum field after one 16-bit word changed from ``old`` to ``new`` (RFC 1624, equation 3)."""
    total = (~field & ONES) + (~old & ONES) + new
    total = (total & ONES) + (total >> 16)
    return ~((total & ONES) + (total >> 16)) & ONES
