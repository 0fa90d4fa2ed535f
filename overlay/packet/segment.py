"""Segmentation: one large TCP or UDP packet becomes as many wire packets as it takes, by array operations.

What the kernel would do (``tcp_gso_segment``, ``__udp_gso_segment``, ``inet_gso_segment``), for all segments at once:
the headers are the first one's plus a *ramp* that does not depend on the packet (IP identification + 1 and TCP
sequence + gso_size for each segment), and both checksums are columns of sums modulo 65535.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from overlay.packet import ip
from overlay.packet.arrays import Matrix, Numbers, row_sums
from overlay.packet.checksum import ONES
from overlay.packet.transport import CWR, FIN, PSH, TCP_FLAGS_AT, TCP_SEQUENCE_AT, UDP_LENGTH_AT, Layout

ID_WORD = 1
"""The 32-bit word of the IP header that has the identification in its upper half."""

BIG = np.dtype(">u4")
BIG_HALF = np.dtype(">u2")


def segmented_length(length: int, header: int, gso_size: int) -> int:
    """Bytes of all segments of a packet of ``length`` bytes with ``header`` bytes of headers."""
    return length + (segment_count(length, header, gso_size) - 1) * header


def segment_count(length: int, header: int, gso_size: int) -> int:
    """How many segments carry the payload; one if there is none."""
    return max(1, -(-(length - header) // gso_size))


def segment(packet: NDArray[np.uint8], layout: Layout, gso_size: int, out: NDArray[np.uint8]) -> int:
    """Cuts ``packet`` into segments of ``gso_size`` bytes of payload, the last one shorter, one after the other.

    Args:
        packet: flat, exactly one valid IPv4 packet; only read. Its checksums do not matter.
        layout: its layout.
        gso_size: bytes of payload a segment, at least 1.
        out: flat, where the segments go, every one with right lengths and checksums. It must start at an even
            address and hold one segment more than there are: what is behind the last one is overwritten.

    Returns:
        The bytes written; the same as :func:`segmented_length`.
    """
    header, stride = layout.header, layout.header + gso_size
    count = segment_count(packet.size, header, gso_size)
    rows = out[: count * stride].reshape(count, stride)
    last = packet.size - header - (count - 1) * gso_size
    _copy_payload(packet[header:], rows, header, gso_size, last)
    words = _write_headers(packet[:header], layout, gso_size, rows)
    if last != gso_size:
        _shorten(rows[-1], layout, last)
    _finish_flags(rows, layout, int(packet[layout.network + TCP_FLAGS_AT]) if layout.is_tcp else 0)
    _write_checksums(rows, words, layout, gso_size - last)
    return (count - 1) * stride + header + last


def _copy_payload(payload: NDArray[np.uint8], rows: Matrix, header: int, gso_size: int, last: int) -> None:
    whole = payload.size // gso_size
    if whole:
        rows[:whole, header:] = payload[: whole * gso_size].reshape(whole, gso_size)
    if last != gso_size:
        rows[-1, header : header + last] = payload[payload.size - last :]
        rows[-1, header + last :] = 0  # so that the row's sum is the segment's


def _write_headers(first: NDArray[np.uint8], layout: Layout, gso_size: int, rows: Matrix) -> NDArray[np.uint32]:
    """Headers of all segments, both checksums 0, as if each were whole and in the middle; the same as native words."""
    template = bytearray(first.tobytes())
    template[2:4] = rows.shape[1].to_bytes(2, "big")
    template[ip.CHECKSUM_AT : ip.CHECKSUM_AT + 2] = b"\0\0"
    template[layout.checksum : layout.checksum + 2] = b"\0\0"
    if layout.is_tcp:
        template[layout.network + TCP_FLAGS_AT] &= ~(FIN | PSH | CWR) & 0xFF
    else:
        at = layout.network + UDP_LENGTH_AT
        template[at : at + 2] = (rows.shape[1] - layout.network).to_bytes(2, "big")
    words = _ramp(layout, gso_size, rows.shape[0]) + np.frombuffer(template, BIG).astype(np.uint32)
    rows[:, : layout.header] = words.astype(BIG).view(np.uint8)
    return words


@lru_cache(maxsize=64)
def _ramp(layout: Layout, gso_size: int, count: int) -> NDArray[np.uint32]:
    """What segment k has more than the first, as 32-bit words; both fields wrap by themselves, being the upper end."""
    ramp = np.zeros((count, layout.header // 4), np.uint32)
    numbers = np.arange(count, dtype=np.uint32)
    ramp[:, ID_WORD] = numbers << 16
    if layout.is_tcp:
        ramp[:, (layout.network + TCP_SEQUENCE_AT) // 4] = numbers * np.uint32(gso_size)
    ramp.setflags(write=False)
    return ramp


def _shorten(row: NDArray[np.uint8], layout: Layout, last: int) -> None:
    halves = row[: layout.header].view(BIG_HALF)
    halves[1] = layout.header + last
    if not layout.is_tcp:
        halves[(layout.network + UDP_LENGTH_AT) // 2] = layout.header - layout.network + last


def _finish_flags(rows: Matrix, layout: Layout, flags: int) -> None:
    """FIN and PSH belong to the last segment, CWR to the first (RFC 3168, section 6.1.2)."""
    if flags & (FIN | PSH):
        rows[-1, layout.network + TCP_FLAGS_AT] |= flags & (FIN | PSH)
    if flags & CWR:
        rows[0, layout.network + TCP_FLAGS_AT] |= CWR


def _write_checksums(rows: Matrix, words: NDArray[np.uint32], layout: Layout, shortfall: int) -> None:
    """Both columns of checksums. A row's sum is its IP header's and the rest's, so one pass over the data does.

    ``words`` are the headers as they would be if the last segment were whole; it is ``shortfall`` bytes shorter.
    """
    first = words[0, : ip.HEADER_LEN // 4].tolist()
    pseudo_header = first[3] + first[4] + layout.protocol + rows.shape[1] - layout.network
    network: Numbers = np.add.reduce(words[:, : layout.network // 4], axis=1, dtype=np.int64)
    network[-1] -= shortfall
    transport = row_sums(rows) - network + pseudo_header
    transport[-1] -= shortfall
    halves = rows[:, : layout.header].view(BIG_HALF)
    halves[:, ip.CHECKSUM_AT // 2] = -network % ONES
    # Of the two zeros, UDP must use the one that does not mean "no checksum" (RFC 768).
    halves[:, layout.checksum // 2] = -transport % ONES if layout.is_tcp else ONES - transport % ONES
