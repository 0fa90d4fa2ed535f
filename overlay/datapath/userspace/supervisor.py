"""One worker process, as the agent has it: started on its descriptors, told what it must know, replaced when it fails.

The TUN queue and the UDP sockets stay open in the agent, so packets wait in them while there is no worker. How it is
kept alive is :mod:`overlay.daemon.confined.supervision`'s; what it is told, :mod:`.link`'s.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType

from overlay.daemon.confined.process import Command, Process
from overlay.daemon.confined.supervision import Supervision
from overlay.datapath.spec import TunnelSpec
from overlay.datapath.userspace import counters, queues
from overlay.datapath.userspace.link import Notices, Subnets, WorkerLink
from overlay.datapath.userspace.messages import RouteMtus, Status
from overlay.datapath.userspace.sockets import SocketPair
from overlay.errors import DatapathError, OverlayError
from overlay.linux.tun import is_attached, is_elsewhere, reopen_the_way, set_persistent
from overlay.observe.logging import Once

logger = logging.getLogger(__name__)

NAME = "userspace worker"
START_PATIENCE = 10.0
"""Seconds that a worker may take from its start until it moves packets; a tenth of a second is usual."""

ENVIRONMENT: Mapping[str, str] = MappingProxyType({"OPENBLAS_NUM_THREADS": "1"})
"""numpy's library would start a thread a core, each with its buffers."""


class Supervisor:
    """One worker over one TUN queue and its sockets, which this owns and closes.

    To what keeps it alive it is a :class:`~overlay.daemon.confined.supervision.Charge`.

    Attributes:
        failed: done, with DatapathError, when the worker could not be kept alive, or nobody looks after it any more.
        mode: the worker's MODE argument, see :mod:`overlay.datapath.userspace.worker`.

    ``reopen`` opens another queue, should the device have been removed; it raises as ``open_queue`` does.
    """

    def __init__(self, tun: int, sockets: SocketPair, mode: str, reopen: Callable[[], int]) -> None:
        self.tun = tun
        self._reopen = reopen
        self.sockets = sockets
        self.mode = mode
        self._spec: TunnelSpec | None = None
        self._peers: Subnets = {}
        self._route_mtus = RouteMtus(())
        self._link: WorkerLink | None = None
        self._process: Process | None = None
        self._notices = Notices()
        self._once = Once(logger)
        self._supervision = Supervision(NAME, self, DatapathError)
        self.failed = self._supervision.failed
        self._last: Status | None = None
        self._former: dict[str, int] = {}

    @property
    def restarts(self) -> int:
        """Deaths so far."""
        return self._supervision.restarts

    @property
    def trouble(self) -> OverlayError | None:
        """Why no worker could be started when it was tried last; None since one was."""
        return self._supervision.trouble

    @property
    def pid(self) -> int | None:
        """Process id of the worker that runs now."""
        return self._process.pid if self._process else None

    async def start(self, spec: TunnelSpec, peers: Subnets) -> None:
        """Returns once the worker moves packets.

        Raises:
            DatapathError: it did not come up.
        """
        self._spec, self._peers = spec, peers
        await self._supervision.start()

    def configure(self, spec: TunnelSpec) -> None:
        """Changes over to ``spec``, whose device, address and port are the ones that are open."""
        self._spec = spec
        if self._link:
            self._link.configure(spec)

    def set_peers(self, peers: Subnets) -> None:
        """Makes ``peers`` the worker's table; the dictionary must not change afterwards."""
        self._peers = peers
        if self._link:
            self._link.set_peers(peers)

    def set_route_mtus(self, route_mtus: RouteMtus) -> None:
        """Makes them what the worker knows of this node's routes."""
        if route_mtus != self._route_mtus:
            self._route_mtus = route_mtus
            if self._link:
                self._link.set_route_mtus(route_mtus)

    async def ask(self, patience: float) -> Status | None:
        """What the worker says of itself; None if it does not within ``patience`` seconds."""
        if self._link is None:
            return None
        try:
            async with asyncio.timeout(patience):
                self._last = await self._link.ask()
        except (TimeoutError, DatapathError):
            return None
        return self._last

    def totals(self) -> dict[str, int]:
        """Counters as last heard, of this worker and of those before it."""
        total = dict(self._former)
        if self._last is not None:
            counters.add(total, self._last.counters)
        return total

    async def stop(self) -> None:
        """Ends the worker; the queue and the sockets stay open until :meth:`release`."""
        await self._supervision.stop()

    def release(self) -> None:
        """Closes the queue and the sockets."""
        os.close(self.tun)
        self.sockets.close()

    # --- for what keeps it alive ---

    async def begin(self) -> None:
        """Starts a worker; raises DatapathError where it does not come up, and what ``reopen`` raises."""
        assert self._spec is not None
        elsewhere = is_elsewhere(self.tun, self._spec.device)
        if elsewhere:
            set_persistent(self.tun, False)  # its routes would stand in the way of the new one's
        if elsewhere or not is_attached(self.tun):
            another = self._reopen()
            os.close(self.tun)
            self.tun = another
        descriptors = (self.tun, self.sockets.receiving.fileno(), self.sockets.sending.fileno())
        command = Command(NAME, "overlay.datapath.userspace.worker", descriptors, (self.mode,), ENVIRONMENT)
        try:
            process = self._process = Process(command)
        except OSError as failure:
            raise DatapathError(f"cannot start it: {failure.strerror}", about=NAME) from failure
        self._link = WorkerLink(process.control, self._spec, self._peers, self._notices, self._route_mtus)
        try:
            async with asyncio.timeout(START_PATIENCE):
                detail = await asyncio.shield(self._link.control.ready)
        except (TimeoutError, DatapathError) as failure:
            raise DatapathError(
                "ended before it moved packets" if self._link.control.closed.is_set() else "does not come up",
                about=str(process),
                remedy="its own message is above",
            ) from failure
        logger.info("%s runs: %s", process, detail)

    def end(self) -> None:
        """Ends it; what it has counted stays."""
        if self._link is not None:
            self._link.control.close()
            self._link = None
        if self._process is not None:
            self._process.end()
            self._process = None
        if self._last is not None:
            counters.add(self._former, self._last.counters)
            self._last = None

    async def died(self) -> None:
        """Waits until it has closed its end of the control socket."""
        assert self._link is not None
        await self._link.control.closed.wait()

    async def answers(self, patience: float) -> bool:
        """Whether it says how it is, and moves the packets of the right device."""
        if self._spec is not None and self._link is not None and is_elsewhere(self.tun, self._spec.device):
            logger.warning("%s was renamed, or moved to another network namespace", self._spec.device)
            self._link.control.close()  # which ends the worker; the next gets a device of that name
            return False
        if self._spec is not None:
            for change in reopen_the_way(self.tun, self._spec.device, queues.LENGTH):
                self._once.say(change, f"{self._spec.device}: {change}", logging.INFO)
        return await self.ask(patience) is not None
