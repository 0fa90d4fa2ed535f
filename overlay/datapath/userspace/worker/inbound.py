"""From the peers to the TUN device."""

from __future__ import annotations

from typing import assert_never

import numpy as np

from overlay.datapath.userspace.counters import Counters
from overlay.datapath.userspace.worker.admission import Verdict, admit
from overlay.datapath.userspace.worker.answers import Answers
from overlay.datapath.userspace.worker.arrivals import Arrivals, Train
from overlay.datapath.userspace.worker.batch import Batch
from overlay.datapath.userspace.worker.pace import SMALL, Pace
from overlay.datapath.userspace.worker.routes import Routes
from overlay.datapath.userspace.worker.tunport import TunPort
from overlay.datapath.userspace.worker.underlay import Underlay
from overlay.packet import icmp, ip, virtio
from overlay.packet.coalesce import Run, find_runs, join
from overlay.packet.transport import TCP_FLAGS_AT, Layout

MAX_HEADERS = 128
"""Bytes kept free before the joined payloads: virtio header 10, IP header 60, TCP header 60 at most."""


class Inbound:
    """Hands to the TUN what peers sent and :func:`admit` lets in, consecutive segments of a flow as one packet.

    Owns the arrivals, which are empty outside :meth:`drain`, and a buffer for one joined packet, in use from the
    copying of its payloads to its write.
    """

    def __init__(self, tun: TunPort, underlay: Underlay, routes: Routes, counters: Counters, answers: Answers) -> None:
        self._tun = tun
        self._underlay = underlay
        self._routes = routes
        self._counters = counters
        self._answers = answers
        self._pace = Pace()
        self._arrivals = Arrivals()
        self._batch = Batch(self._arrivals)
        self._buffer, self._array = self._arrivals.view, self._arrivals.array
        joined = bytearray(MAX_HEADERS + ip.MAX_LEN + 1)
        self._joined, self._joined_array = memoryview(joined), np.frombuffer(joined, np.uint8)

    def drain(self, budget: int) -> int:
        """Forwards datagrams until the socket is empty or ``budget`` receives have been made.

        Returns:
            About how many bytes they had: what they took of the buffer.
        """
        arrivals, after_pause = self._arrivals, self._pace.begin()
        for _ in range(budget):
            if arrivals.full:
                break
            received = self._underlay.receive(self._buffer[arrivals.at :])
            if received is None:
                break
            length, size, sender = received
            if not length:
                self._refuse_empty(sender)
                continue
            arrivals.add(length, size, sender)
            if after_pause and length < SMALL:
                break
            together = size < length  # by the kernel
            if not together and (arrivals.full or not self._underlay.receive_batch(self._batch, size)):
                break
        for sender in self._batch.take_empty():
            self._refuse_empty(sender)
        moved = arrivals.at
        for train in arrivals.take():
            self._forward(train)
        self._pace.end()
        return moved

    def _refuse_empty(self, sender: str) -> None:
        self._refuse(admit(b"", 0, sender, self._routes))

    def _refuse(self, verdict: Verdict) -> None:
        counters = self._counters
        match verdict:
            case Verdict.OUTER_SOURCE:
                counters.drop_outer_source += 1
            case Verdict.MALFORMED:
                counters.drop_malformed += 1
            case Verdict.CHECKSUM:
                counters.drop_checksum += 1
            case Verdict.INNER_SOURCE:
                counters.drop_inner_source += 1
            case Verdict.INNER_DESTINATION:
                counters.drop_inner_destination += 1
            case Verdict.EXPIRED:
                counters.drop_rx_ttl += 1
            case Verdict.ADMIT:
                raise AssertionError("what is admitted is not refused")
            case _:
                assert_never(verdict)

    def _forward(self, train: Train) -> None:
        count = train.packets
        if count == 1 or not self._tun.vnet_hdr:
            self._forward_singly(train, 0, count)
            return
        rows = self._arrivals.rows(train)
        last = train.end - train.start - (count - 1) * train.size
        for run in find_runs(rows, last, udp=self._tun.udp_segmentation):
            if run.layout is None or not self._forward_joined(train, run, run.layout):
                self._forward_singly(train, run.start, run.stop)

    def _forward_joined(self, train: Train, run: Run, layout: Layout) -> bool:
        """Writes a run as one packet; False if it has to be done singly, which finds out and counts why."""
        size, header = train.size, layout.header
        start = train.start + run.start * size
        end = min(train.start + run.stop * size, train.end)
        if admit(self._buffer[start : start + size], size, train.sender, self._routes) is not Verdict.ADMIT:
            return False
        count = run.stop - run.start
        first = bytearray(self._buffer[start : start + header])
        ip.decrement_ttl(first)
        last_flags = self._buffer[start + (count - 1) * size + layout.network + TCP_FLAGS_AT] if layout.is_tcp else 0
        length = end - start - (count - 1) * header
        head = join(first, layout, size, length, last_flags)
        payload = self._joined_array[MAX_HEADERS : MAX_HEADERS + count * (size - header)].reshape(count, size - header)
        payload[:] = self._array[start : start + count * size].reshape(count, size)[:, header:]
        begin = MAX_HEADERS - len(head)
        self._joined[begin:MAX_HEADERS] = head
        whole = self._joined[begin : begin + virtio.LENGTH + length]
        if not self._tun.write_joined(whole, udp=not layout.is_tcp):
            return False
        self._counters.rx_packets += count
        self._counters.rx_bytes += end - start
        return True

    def _forward_singly(self, train: Train, first: int, stop: int) -> None:
        for number in range(first, stop):
            start = train.start + number * train.size
            self._forward_one(self._buffer[start : min(start + train.size, train.end)], train.sender)

    def _forward_one(self, datagram: memoryview, sender: str) -> None:
        counters = self._counters
        verdict = admit(datagram, len(datagram), sender, self._routes)
        if verdict is not Verdict.ADMIT:
            self._refuse(verdict)
            if verdict is Verdict.EXPIRED:
                self._answer(datagram, sender)
            return
        total_length = datagram[2] << 8 | datagram[3]
        ip.decrement_ttl(datagram)
        if self._tun.write(datagram[:total_length]):
            counters.rx_packets += 1
            counters.rx_bytes += total_length

    def _answer(self, packet: memoryview, sender: str) -> None:
        answer = self._answers.about(packet, icmp.Error.TIME_EXCEEDED)
        if answer is not None and not self._underlay.send(answer, sender):
            self._counters.drop_tx_too_big += 1
