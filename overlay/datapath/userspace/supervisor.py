"""One worker process over one TUN queue and its sockets, as the agent has it.

The TUN queue and the UDP sockets stay open in the agent, so packets wait in them while there is no worker. How it is
kept alive is :mod:`overlay.daemon.confined.helper`'s; what it is told, :mod:`.link`'s.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from types import MappingProxyType

from overlay.daemon.confined.helper import Helper
from overlay.daemon.confined.process import Command
from overlay.datapath.spec import TunnelSpec
from overlay.datapath.userspace import counters, queues
from overlay.datapath.userspace.link import Notices, Subnets, WorkerLink
from overlay.datapath.userspace.messages import RouteMtus, Status
from overlay.datapath.userspace.sockets import SocketPair
from overlay.errors import DatapathError
from overlay.linux.tun import is_attached, is_elsewhere, reopen_the_way, set_persistent
from overlay.observe.logging import Once

logger = logging.getLogger(__name__)

ENVIRONMENT: Mapping[str, str] = MappingProxyType({"OPENBLAS_NUM_THREADS": "1"})
"""numpy's library would start a thread a core, each with its buffers."""


class Supervisor(Helper[WorkerLink, Status]):
    """One worker, and what it works on, which this owns and closes.

    Attributes:
        mode: the worker's MODE argument, see :mod:`overlay.datapath.userspace.worker`.

    ``reopen`` opens another queue, should the device have been removed; it raises as ``open_queue`` does.
    """

    name = "userspace worker"
    failure = DatapathError
    patience = 10.0  # a tenth of a second is usual

    def __init__(
        self, tun: int, sockets: SocketPair, mode: str, reopen: Callable[[], int], *, spec: TunnelSpec, peers: Subnets
    ) -> None:
        super().__init__()
        self.tun = tun
        self._reopen = reopen
        self.sockets = sockets
        self.mode = mode
        self._spec = spec
        self._peers = peers
        self._route_mtus = RouteMtus(())
        self._notices = Notices()
        self._once = Once(logger)
        self._former: dict[str, int] = {}

    def configure(self, spec: TunnelSpec) -> None:
        """Changes over to ``spec``, whose device, address and port are the ones that are open."""
        self._spec = spec
        if self.link:
            self.link.configure(spec)

    def set_peers(self, peers: Subnets) -> None:
        """Makes ``peers`` the worker's table; the dictionary must not change afterwards."""
        self._peers = peers
        if self.link:
            self.link.set_peers(peers)

    def set_route_mtus(self, route_mtus: RouteMtus) -> None:
        """Makes them what the worker knows of this node's routes."""
        if route_mtus != self._route_mtus:
            self._route_mtus = route_mtus
            if self.link:
                self.link.set_route_mtus(route_mtus)

    def totals(self) -> dict[str, int]:
        """Counters as last heard, of this worker and of those before it."""
        total = dict(self._former)
        if self.said is not None:
            counters.add(total, self.said.counters)
        return total

    def release(self) -> None:
        """Closes the queue and the sockets, which stay open while there is no worker."""
        os.close(self.tun)
        self.sockets.close()

    # --- as a helper ---

    def command(self) -> Command:
        """Opens another queue where this one has lost its device. Raises what ``reopen`` raises."""
        elsewhere = is_elsewhere(self.tun, self._spec.device)
        if elsewhere:
            set_persistent(self.tun, False)  # its routes would stand in the way of the new one's
        if elsewhere or not is_attached(self.tun):
            another = self._reopen()
            os.close(self.tun)
            self.tun = another
        descriptors = (self.tun, self.sockets.receiving.fileno(), self.sockets.sending.fileno())
        return Command(self.name, "overlay.datapath.userspace.worker", descriptors, (self.mode,), ENVIRONMENT)

    def connect(self, control: socket.socket) -> WorkerLink:
        """See :class:`~overlay.daemon.confined.helper.Helper`."""
        return WorkerLink(control, self._spec, self._peers, self._notices, self._route_mtus)

    def end(self) -> None:
        """Ends it; what it has counted stays."""
        super().end()
        if self.said is not None:
            counters.add(self._former, self.said.counters)
            self.said = None

    async def answers(self, patience: float) -> bool:
        """Whether it says how it is, and moves the packets of the right device."""
        device = self._spec.device
        if self.link is not None and is_elsewhere(self.tun, device):
            logger.warning("%s was renamed, or moved to another network namespace", device)
            self.link.control.close()  # which ends the worker; the next gets a device of that name
            return False
        for change in reopen_the_way(self.tun, device, queues.LENGTH):
            self._once.say(change, f"{device}: {change}", logging.INFO)
        return await super().answers(patience)
