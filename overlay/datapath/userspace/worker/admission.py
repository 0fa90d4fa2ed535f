"""Nothing enters that a peer did not send: the one decision about a datagram from the underlay."""

from __future__ import annotations

import struct
from enum import Enum

from overlay.datapath.userspace.worker.routes import Routes
from overlay.packet import Bytes, ip
from overlay.packet.checksum import ONES


class Verdict(Enum):
    """What becomes of a datagram; the value of a refusal is the name of its counter."""

    ADMIT = "admit"
    EXPIRED = "drop_rx_ttl"
    """Right in everything but its last hop is over: answered with time exceeded."""
    OUTER_SOURCE = "drop_outer_source"
    MALFORMED = "drop_malformed"
    CHECKSUM = "drop_checksum"
    INNER_SOURCE = "drop_inner_source"
    INNER_DESTINATION = "drop_inner_destination"


_FIELDS = struct.Struct("!BxHxxxxBxxxII")
"""Version and IHL, total length, TTL, source, destination."""


def admit(datagram: Bytes, length: int, sender: str, routes: Routes) -> Verdict:
    """Decides about one datagram from the underlay. Its outer source *port* does not matter.

    Args:
        datagram: a buffer that starts with the UDP payload.
        length: bytes of the payload; the buffer may be longer.
        sender: the outer source address.
        routes: the peers, and our own subnet.
    """
    if sender not in routes.senders:
        return Verdict.OUTER_SOURCE
    if length < ip.HEADER_LEN:
        return Verdict.MALFORMED
    version_ihl, total_length, ttl, source, destination = _FIELDS.unpack_from(datagram)
    header_length = (version_ihl & 0xF) * 4
    if version_ihl >> 4 != 4 or not ip.HEADER_LEN <= header_length <= total_length <= length:
        return Verdict.MALFORMED
    if int.from_bytes(datagram[:header_length], "big") % ONES:
        return Verdict.CHECKSUM
    if source & routes.own_mask == routes.own_base or routes.next_hop(source) != sender:
        return Verdict.INNER_SOURCE
    if destination & routes.own_mask != routes.own_base:
        return Verdict.INNER_DESTINATION
    return Verdict.ADMIT if ttl > 1 else Verdict.EXPIRED
