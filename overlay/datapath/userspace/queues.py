"""The TUN queues of the workers, opened by the agent before they exist."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from overlay.datapath.userspace.steering import load_queue_program
from overlay.linux import tun

logger = logging.getLogger(__name__)

LENGTH = 1000
"""Packets that wait in the TUN for the worker, twice Linux's default: a burst of a flow may have 500 alone."""

_TCP = tun.Offload.CHECKSUM | tun.Offload.TSO4 | tun.Offload.TSO6 | tun.Offload.TSO_ECN
PLAIN = "plain"
"""The mode of a worker without offloads; with them it is their number."""


class Offloads(Enum):
    """Which offloads a datapath may use."""

    NONE = "none"
    """One finished packet a system call."""
    CHECKSUMS = "checksums"
    """Behind the kernel path's programs, which meet a local socket's train as the socket has made it: without this the
    kernel leaves its checksums in a state that nobody after us could finish; before Linux 6.11 it refuses to send."""
    ALL = "all"


_ASKED: Mapping[Offloads, tuple[tun.Offload, ...]] = {
    Offloads.NONE: (),
    Offloads.CHECKSUMS: (tun.Offload.CHECKSUM,),
    Offloads.ALL: (_TCP | tun.Offload.USO4 | tun.Offload.USO6, _TCP, tun.Offload.NONE),
}
"""What is asked of the TUN, the best first; USO came with Linux 6.2."""


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """How a device's queues are to be: how many, and with offloads or without."""

    device: str
    count: int
    offloads: Offloads

    @property
    def _vnet_hdr(self) -> bool:
        return self.offloads is not Offloads.NONE

    def open_all(self) -> tuple[list[int], str]:
        """The queues of a persistent device, and the mode of their workers.

        Raises:
            PrivilegeError, DeviceError: as :func:`overlay.linux.tun.open_queue`; nothing is open then.
        """
        queues: list[int] = []
        try:
            for _ in range(self.count):
                queues.append(tun.open_queue(self.device, vnet_hdr=self._vnet_hdr))
            mode = self._set_up(queues[0])
        except BaseException:
            for queue in queues:
                os.close(queue)
            raise
        return queues, mode

    def reopen(self) -> int:
        """Another queue, and with it the device, after somebody removed that; addresses and routes are others' work.

        Raises:
            PrivilegeError, DeviceError: as above.
        """
        queue = tun.open_queue(self.device, vnet_hdr=self._vnet_hdr)
        try:
            self._set_up(queue)
        except BaseException:
            os.close(queue)
            raise
        return queue

    def _set_up(self, queue: int) -> str:
        """Everything is set whatever it was: a device that is adopted still has what it was told before."""
        tun.set_persistent(queue)
        tun.set_queue_length(self.device, LENGTH)
        self._set_steering(queue)
        accepted = next((each for each in _ASKED[self.offloads] if tun.set_offloads(queue, each)), None)
        if accepted is None:
            tun.set_offloads(queue, tun.Offload.NONE)
            return PLAIN
        return str(int(accepted))

    def _set_steering(self, queue: int) -> None:
        if self.count == 1:
            tun.set_steering(queue, -1)
            return
        try:
            program = load_queue_program()
        except OSError as failure:
            logger.warning("flows may change workers, and their packets order: bpf(2): %s", failure.strerror)
            return
        if not tun.set_steering(queue, program):
            logger.warning("flows may change workers, and their packets order: TUNSETSTEERINGEBPF is refused")
        os.close(program)
