"""The worker's TUN queue: writing packets, finished or not, and which offloads are on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from overlay.datapath.userspace.counters import Counters
from overlay.packet import Bytes, virtio


class TunPort:
    """Writes packets to the kernel.

    Attributes:
        descriptor: the queue.
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
        self.tcp_segmentation = tcp_segmentation
        self.udp_segmentation = udp_segmentation
        self.notice: Callable[[str], None] = lambda _text: None
        self._counters = counters

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
