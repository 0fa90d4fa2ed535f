"""From the TUN device to the peers."""

from __future__ import annotations

import struct
import time

from overlay.datapath.userspace.counters import Counters
from overlay.datapath.userspace.worker.answers import Answers
from overlay.datapath.userspace.worker.departures import CAPACITY, Departures
from overlay.datapath.userspace.worker.pace import SMALL, Pace
from overlay.datapath.userspace.worker.routes import Routes
from overlay.datapath.userspace.worker.tunport import TunPort
from overlay.datapath.userspace.worker.underlay import Underlay
from overlay.packet import icmp, ip, virtio
from overlay.packet.arrays import ones_sum
from overlay.packet.checksum import ONES
from overlay.packet.fragment import fragment
from overlay.packet.segment import segment, segmented_length
from overlay.packet.transport import layout_of

_FIELDS = struct.Struct("!BxHxxxxBBxxII")
"""Version and IHL, total length, TTL, protocol, source, destination."""
FEW = 600
"""Bytes below which one long integer is summed faster than an array."""


class Outbound:
    """Forwards what the kernel routed to the TUN.

    A packet stays where the TUN has read it until it is copied into the departures; those leave at the end of
    :meth:`drain`, or before when there are many.
    """

    def __init__(self, tun: TunPort, underlay: Underlay, routes: Routes, counters: Counters, answers: Answers) -> None:
        self._tun = tun
        self._underlay = underlay
        self._routes = routes
        self._counters = counters
        self._answers = answers
        self._departures = Departures()
        self._pace = Pace()
        self._array, self._buffer, self._virtio = tun.array, tun.buffer, tun.virtio

    def drain(self, budget: int) -> int:
        """Forwards packets until the queue is empty or ``budget`` are through; returns how many bytes they had."""
        moved, after_pause = 0, self._pace.begin()
        for _ in range(budget):
            try:
                length = self._tun.read()
            except BlockingIOError:
                break
            self._forward(length)
            moved += length
            if after_pause and length < SMALL:
                break
        self._depart()
        self._pace.end()
        return moved

    def _forward(self, length: int) -> None:
        """Sends the packet in the buffer on its way, or answers it, or counts why not."""
        packet, counters = self._buffer, self._counters
        if length < ip.HEADER_LEN:
            counters.drop_tx_not_ipv4 += 1
            return
        version_ihl, total_length, ttl, protocol, source, destination = _FIELDS.unpack_from(packet)
        if not 0x45 <= version_ihl <= 0x4F or not (version_ihl & 0xF) * 4 <= total_length == length:
            counters.drop_tx_not_ipv4 += 1
            return
        peer = self._routes.next_hop(destination)
        if source == self._underlay.address and self._is_nested(version_ihl, protocol):
            counters.drop_tx_nested += 1
        elif peer is None:
            counters.drop_tx_no_peer += 1
            self._answer(packet[:length], icmp.Error.NET_UNREACHABLE)
        elif ttl <= 1:
            counters.drop_tx_ttl += 1
            self._answer(packet[:length], icmp.Error.TIME_EXCEEDED)
        else:
            ip.decrement_ttl(packet)
            self._dispatch(length, peer)

    def _is_nested(self, version_ihl: int, protocol: int) -> bool:
        """Whether the packet in the buffer, from the underlay's address, is the tunnel's own datagram.

        Then the way to a peer leads through the tunnel, and each packet would be wrapped until it is too big.
        """
        at = (version_ihl & 0xF) * 4 + 2
        return protocol == ip.UDP and int.from_bytes(self._buffer[at : at + 2], "big") == self._underlay.port

    def _dispatch(self, length: int, peer: str) -> None:
        """Finishes what the kernel left unfinished, and hands the packet over."""
        flags, gso_type, _, gso_size, csum_start, csum_offset = virtio.CODEC.unpack(self._virtio)
        if gso_type != virtio.GSO_NONE:
            self._segment(length, gso_size, peer)
            return
        if flags & virtio.NEEDS_CSUM and not self._complete_checksum(length, csum_start, csum_offset):
            self._counters.drop_tx_not_ipv4 += 1
            return
        packet = self._buffer[:length]
        if self._fits(length, peer):
            at = self._reserve(peer, length, length)
            self._departures.view[at : at + length] = packet
        else:
            self._too_big(packet, peer)

    def _segment(self, length: int, gso_size: int, peer: str) -> None:
        layout = layout_of(self._buffer, length)
        # Neither can be of a sound kernel: segments longer than IP's length field can say, or of more than we hold.
        if (
            layout is None
            or not 0 < gso_size <= ip.MAX_LEN - layout.header
            or segmented_length(length, layout.header, gso_size) > CAPACITY
        ):
            self._counters.drop_tx_not_ipv4 += 1
            return
        if not self._fits(layout.header + gso_size, peer):
            limit = self._underlay.paths.limits[peer]
            if self._buffer[6] & 0x40 or limit < 2 * layout.header:
                self._too_big(self._buffer[:length], peer)
                return
            if layout.is_tcp:
                gso_size = limit - layout.header
            # UDP datagrams stay what they are; the send finds them too big, and fragments them
        size = layout.header + gso_size
        total = segmented_length(length, layout.header, gso_size)
        at = self._reserve(peer, size, total)
        segment(self._array[:length], layout, gso_size, self._departures.array[at:])

    def _reserve(self, peer: str, size: int, length: int) -> int:
        """Room among the departures for what the packet in the buffer becomes: where it begins."""
        if not self._departures.has_room(length):
            self._depart()
        return self._departures.reserve(peer, size, length, self._buffer[1] & self._underlay.dscp)

    def _depart(self) -> None:
        """Sends what has been gathered."""
        for train, size, peer in self._departures.take():
            for packet in self._underlay.send_train(train, size, peer):
                self._too_big(packet, peer)

    def _complete_checksum(self, length: int, start: int, offset: int) -> bool:
        """Sums what the kernel left to sum; False if it is not in the packet. The field holds the pseudo-header's."""
        at = start + offset
        if at + 2 > length:
            return False
        if length - start < FEW:
            rest = self._buffer[start:length]
            total = int.from_bytes(rest, "big") << 8 * (len(rest) & 1)
        else:
            total = ones_sum(self._array[start:length])
        self._buffer[at : at + 2] = (-total % ONES or ONES).to_bytes(2, "big")  # as skb_checksum_help does
        return True

    def _fits(self, size: int, peer: str) -> bool:
        limit = self._underlay.paths.limits.get(peer)
        if limit is None or size <= limit:
            return True
        limit = self._underlay.paths.limit(peer, time.monotonic())
        return limit is None or size <= limit

    def _too_big(self, packet: memoryview, peer: str) -> None:
        """Answers or fragments ``packet``, which is larger than the path to ``peer`` carries."""
        limit = self._underlay.paths.limits.get(peer)
        if limit is None or packet[6] & 0x40:
            self._counters.drop_tx_too_big += 1
            if limit is not None:
                self._answer(packet, icmp.Error.FRAGMENTATION_NEEDED, limit)
            return
        if len(packet) <= limit:  # the limit fell twice, or the kernel errs; once more would not end
            self._counters.drop_tx_too_big += 1
            return
        self._counters.tx_fragmented += 1
        for piece in fragment(packet, limit):
            if not self._underlay.send(piece, peer):
                self._too_big(memoryview(piece), peer)

    def _answer(self, packet: memoryview, kind: icmp.Error, next_hop_mtu: int = 0) -> None:
        if (answer := self._answers.about(packet, kind, next_hop_mtu)) is not None:
            self._tun.write(answer)
