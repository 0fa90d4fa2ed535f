"""Coalescing: consecutive segments of one flow become one large packet, so that the kernel is called once for all.

What the kernel's GRO would do (``tcp_gro_receive``, ``udp_gro_receive``, ``inet_gro_receive``), for a whole *train* at
once: datagrams of one sender and one size that stand one after the other in the receive buffer, the last of them
perhaps shorter. A packet may join only the packet right before it, so order holds by construction.

Packet k continues packet k-1 if its headers, read as 32-bit words, are those of k-1 plus a *step* (TCP sequence +
payload), apart from what may differ. That is one subtraction and one comparison for all. The IP identification means
something only where the packet may be fragmented (RFC 6864, section 4.1); there it must be the one before + 1, or a
joined packet could not be cut into the same ones again. For the same reason an empty packet joins nothing: a pure ACK
would vanish, and with it what a duplicate ACK says. Checksums are verified before anything is joined, since afterwards
nobody could.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from overlay.packet import ip, virtio
from overlay.packet.arrays import Matrix, row_sums
from overlay.packet.checksum import ONES
from overlay.packet.segment import BIG, ID_WORD
from overlay.packet.transport import (
    ACK,
    CWR,
    ECE,
    FIN,
    PSH,
    TCP_FLAGS_AT,
    TCP_SEQUENCE_AT,
    UDP_CHECKSUM_AT,
    UDP_LENGTH_AT,
    Layout,
    layout_of,
)

FRAGMENT_WORD = ID_WORD
"""The identification shares its 32-bit word with flags and fragment offset."""
NEXT_IDENTIFICATION = np.uint32(1 << 16)
"""What that word has more than the one before it if the identification counts up; it wraps by itself."""
NETWORK_CHECKSUM_WORD = 2
ADDRESS_WORDS = slice(3, 5)
RESERVED_FLAG = 0x80
"""In the byte at offset 6 of an IP header; must be 0 (RFC 791), and ``inet_gro_receive`` joins nothing that has it."""
MAX_DATAGRAMS = 64
"""Of one joined UDP packet: ``UDP_GRO_CNT_MAX``, what receivers are used to."""


@dataclass(frozen=True, slots=True)
class Run:
    """Packets ``start`` up to, not including, ``stop`` of a train, which may become one.

    ``layout`` is None where they are to stay as they are.
    """

    start: int
    stop: int
    layout: Layout | None


def find_runs(train: Matrix, last: int, *, udp: bool) -> list[Run]:
    """Divides a train into runs that may be joined and stretches that may not.

    Args:
        train: one packet a row; the last row's bytes from ``last`` on must be 0.
        last: length of the last packet, 1 up to the length of a row.
        udp: whether UDP datagrams may be joined too (GSO_UDP_L4).

    Returns:
        Runs without gaps, in order, that together are the train. All packets of one that has a layout are valid
        IPv4, agree in source, destination and TTL, and have right checksums; that the first one may enter at all is
        left to the caller; there are two at least. None is longer than one IP packet can be.
    """
    count, size = train.shape
    layout = _layout_of_row(train[0], size)
    if layout is None or count < 2 or layout.header >= size or (not layout.is_tcp and not udp):
        return [Run(0, count, None)]
    if last <= layout.header:  # an empty packet, or less than one: only the last one can be
        return [*find_runs(train[:-1], size, udp=udp), Run(count - 1, count, None)]
    words = train[:, : layout.header].view(BIG).astype(np.uint32)
    shortfall = size - last
    if shortfall:
        _lengthen(words[-1], layout, shortfall)
    sound = _sound_rows(train, words, layout, shortfall)
    steady = _step_by_step(words, layout, size - layout.header)
    if steady is None and sound is None:
        starts = [0, count]
    else:
        follows = np.ones(count - 1, np.bool_) if steady is None else steady
        apart = ~follows if sound is None else ~(follows & sound[1:] & sound[:-1])
        starts = [0, *(np.flatnonzero(apart) + 1).tolist(), count]
    longest = (ip.MAX_LEN - layout.header) // (size - layout.header)
    if not layout.is_tcp:
        longest = min(longest, MAX_DATAGRAMS)
    runs: list[Run] = []
    for start, stop in itertools.pairwise(starts):
        fits = stop - start > 1 and _has_layout(train[start], size, layout)
        runs += _pieces(start, stop, longest, layout) if fits else [Run(start, stop, None)]
    return runs


def _pieces(start: int, stop: int, longest: int, layout: Layout) -> list[Run]:
    """Packets that belong together, cut into runs of ``longest``, which may be 1.

    A packet left over stays as it is. The kernel takes a joined one of a single segment for unfinished all the same
    where its TCP header has options (``virtio_net_hdr_to_skb`` compares with the shortest), and cannot cut it.
    """
    if longest < 2:
        return [Run(start, stop, None)]
    runs = [Run(at, min(stop, at + longest), layout) for at in range(start, stop, longest)]
    if stop - runs[-1].start == 1:
        runs[-1] = Run(stop - 1, stop, None)
    return runs


def join(first: bytearray, layout: Layout, size: int, length: int, last_flags: int) -> bytes:
    """The virtio header and the packet headers that stand for a run.

    Args:
        first: both headers of the run's first packet.
        layout: the run's layout.
        size: bytes of each packet but the last.
        length: bytes of headers, once, and all payloads.
        last_flags: TCP flags of the last packet; 0 for UDP.

    Returns:
        What goes to the TUN before the payloads. The TTL is as in ``first``; the transport checksum is partial.
    """
    first[2:4] = length.to_bytes(2, "big")
    ip.with_checksum(first, layout.network)
    transport_length = length - layout.network
    gso_type = virtio.GSO_UDP_L4
    if layout.is_tcp:
        at = layout.network + TCP_FLAGS_AT
        gso_type = virtio.GSO_TCPV4 | (virtio.GSO_ECN if first[at] & CWR else 0)
        first[at] |= last_flags & (FIN | PSH)
    else:
        at = layout.network + UDP_LENGTH_AT
        first[at : at + 2] = transport_length.to_bytes(2, "big")
    pseudo = int.from_bytes(first[12:20], "big") + layout.protocol + transport_length
    first[layout.checksum : layout.checksum + 2] = (pseudo % ONES).to_bytes(2, "big")
    return (
        virtio.CODEC.pack(
            virtio.NEEDS_CSUM,
            gso_type,
            layout.header,
            size - layout.header,
            layout.network,
            layout.checksum_offset,
        )
        + first
    )


def _layout_of_row(row: NDArray[np.uint8], size: int) -> Layout | None:
    if size < ip.HEADER_LEN or row[0] >> 4 != 4 or not ip.HEADER_LEN <= (int(row[0]) & 0xF) * 4 <= size:
        return None
    return layout_of(row[:128].tobytes(), size)


def _has_layout(row: NDArray[np.uint8], size: int, layout: Layout) -> bool:
    """Whether the first packet of a run is one that the header words were compared for, with its lengths right.

    UDP's may say less than IP's: behind that end are options (RFC 9868), which would be payload in a joined datagram;
    their checksum is made so that the sum of all is right too.
    """
    start = row[: layout.header].tobytes()
    right_length = start[2] << 8 | start[3] == size
    if not layout.is_tcp:
        at = layout.network + UDP_LENGTH_AT
        right_length &= start[at] << 8 | start[at + 1] == size - layout.network
    return right_length and not start[6] & RESERVED_FLAG and _layout_of_row(row, size) is layout


def _lengthen(words: NDArray[np.uint32], layout: Layout, shortfall: int) -> None:
    """Makes the last, short packet's headers look like the others', if its length fields are right."""
    words[:1] += np.uint32(shortfall)  # slices, since of single numbers numpy says aloud that they wrap
    if not layout.is_tcp:
        at = (layout.network + UDP_LENGTH_AT) // 4
        words[at : at + 1] += np.uint32(shortfall << 16)


def _sound_rows(train: Matrix, words: NDArray[np.uint32], layout: Layout, shortfall: int) -> NDArray[np.bool_] | None:
    """Which rows have right checksums in both headers; None if all do."""
    network = np.add.reduce(words[:, : layout.network // 4], axis=1, dtype=np.int64)
    transport = row_sums(train)
    transport += np.add.reduce(words[:, ADDRESS_WORDS], axis=1, dtype=np.int64)
    transport += layout.protocol + train.shape[1] - layout.network  # with the addresses, the pseudo-header
    if shortfall:
        network[-1] -= shortfall
        transport[-1] -= shortfall
    network %= ONES
    transport %= ONES
    network |= transport
    if not layout.is_tcp:  # a checksum of 0 is none, so nothing could be verified and nothing may be claimed
        network |= words[:, (layout.network + UDP_CHECKSUM_AT) // 4] & 0xFFFF == 0
    return network == 0 if network.any() else None


def _step_by_step(words: NDArray[np.uint32], layout: Layout, payload: int) -> NDArray[np.bool_] | None:
    """Whether row k continues row k-1, for k from 1; None if all do."""
    step, mask = _expectation(layout, payload)
    compared = words & mask
    continues: NDArray[np.bool_] = np.logical_and.reduce(compared[1:] - compared[:-1] == step, axis=1)
    fragment = words[:, FRAGMENT_WORD]
    if not int(np.bitwise_and.reduce(fragment)) & ip.DONT_FRAGMENT:
        may_not = fragment[1:] & ip.DONT_FRAGMENT != 0  # the one before then may not either, or they do not join anyway
        continues &= may_not | (fragment[1:] - fragment[:-1] == NEXT_IDENTIFICATION)
    if layout.is_tcp:
        flags = words[:, (layout.network + TCP_FLAGS_AT) // 4] >> 16 & 0xFF
        alike = int(flags[0])
        if alike & ~ECE != ACK or not (flags == alike).all():
            # Beginning: ACK, with or without ECE, CWR. Going on: no CWR. Ending: FIN and PSH too.
            may_be_followed = flags & ~np.uint32(ECE | CWR) == ACK
            may_follow = flags & ~np.uint32(ECE | FIN | PSH) == ACK
            same_echo = (flags[1:] ^ flags[:-1]) & ECE == 0
            continues &= may_be_followed[:-1] & may_follow[1:] & same_echo
    return None if continues.all() else continues


@lru_cache(maxsize=64)
def _expectation(layout: Layout, payload: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """What a packet's header words have more than those before, and the mask of those bits that must."""
    words = layout.header // 4
    step, mask = np.zeros(words, np.uint32), np.full(words, 0xFFFFFFFF, np.uint32)
    mask[FRAGMENT_WORD] = 0x0000FFFF  # identifications have a rule of their own
    mask[NETWORK_CHECKSUM_WORD] = 0xFFFF0000
    transport = layout.network // 4
    if layout.is_tcp:
        step[transport + TCP_SEQUENCE_AT // 4] = payload
        mask[transport + 3] = 0xFF00FFFF  # flags have rules of their own
        mask[transport + 4] = 0x0000FFFF  # checksum; the urgent pointer must not change
    else:
        mask[transport + 1] = 0xFFFF0000  # checksum; the length must not change
    step.setflags(write=False)
    mask.setflags(write=False)
    return step, mask
