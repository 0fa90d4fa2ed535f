"""The worker's TUN queue: packets read and written, finished or not, and which offloads are on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import numpy as np

from overlay.datapath.userspace.counters import Counters
from overlay.packet import Bytes, ip, virtio


class TunPort:
    """One queue's packets, each read into one buffer.

    A packet is valid until the next :meth:`read`, and may be changed in place.

    Attributes:
        descriptor: the queue.
        array, buffer: where a packet is read to, as numpy and as bytes.
        virtio: what the kernel left to do for it, a virtio_net_hdr; all zeros, nothing, where there is none.
        vnet_hdr: whether every packet has a virtio_net_hdr before it.
        tcp_segmentation: whether the kernel hands over TCP uncut (TSO); it takes it joined in any case.
        udp_segmentation: whether the kernel takes joined UDP datagrams (USO).
        notice: called with what an operator should read once.
    """

    def __init__(
        self,
        descriptor: int,
        counters: Counters,
        *,
        vnet_hdr: bool,
        udp_segmentation: bool,
        tcp_segmentation: bool = False,
    ) -> None:
        self.descriptor = descriptor
        self.vnet_hdr = vnet_hdr
        buffer = bytearray(ip.MAX_LEN + 1)
        self.array, self.buffer = np.frombuffer(buffer, np.uint8), memoryview(buffer)
        self.virtio = memoryview(bytearray(virtio.LENGTH))
        self._into = [self.virtio, self.buffer] if vnet_hdr else [self.buffer]
        self._prefix = virtio.LENGTH if vnet_hdr else 0
        self.tcp_segmentation = tcp_segmentation
        self.udp_segmentation = udp_segmentation
        self.notice: Callable[[str], None] = lambda _text: None
        self._counters = counters

    def read(self) -> int:
        """Reads the next packet; returns its bytes. Raises BlockingIOError where there is none."""
        return os.readv(self.descriptor, self._into) - self._prefix

    def write(self, packet: Bytes) -> bool:
        """Hands one finished packet to the kernel; False, and counted, if it did not take it."""
        try:
            if self.vnet_hdr:
                os.writev(self.descriptor, (virtio.FINISHED, packet))
            else:
                os.write(self.descriptor, packet)
        except OSError:
            self._counters.drop_tun_write += 1
            return False
        return True

    def write_joined(self, packet: Bytes, *, udp: bool) -> bool:
        """Hands one joined packet, its virtio header first, to the kernel; False if it did not take it."""
        try:
            os.write(self.descriptor, packet)
        except OSError as failure:
            if udp and failure.errno == errno.EINVAL and self.udp_segmentation:
                self.udp_segmentation = False
                self._counters.offloads_refused += 1
                self.notice("the kernel refuses joined UDP datagrams on the TUN; going on without")
            return False
        return True
