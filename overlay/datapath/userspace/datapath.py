"""The agent's side of the userspace datapath."""

from __future__ import annotations

import asyncio
import os
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import Any

from overlay.datapath.base import DatapathStatus, Meanwhile
from overlay.datapath.spec import TunnelSpec
from overlay.datapath.userspace import route_mtus
from overlay.datapath.userspace.link import Subnets, subnets_of
from overlay.datapath.userspace.queues import Offloads, QueuePlan
from overlay.datapath.userspace.sockets import SocketPair, open_sockets
from overlay.datapath.userspace.steering import MAX_WORKERS, default_workers
from overlay.datapath.userspace.supervisor import Supervisor
from overlay.errors import first_of
from overlay.linux import device_drops
from overlay.linux.device_drops import Growth
from overlay.model import PeerTable
from overlay.problem import Problem, Severity

NAME = "userspace"
STOPPED = "worker"
"""The code of the problem that a worker moves no packets."""
STATUS_PATIENCE = 0.8
"""Seconds; a status is due within one."""


class UserspaceDatapath:
    """Moves packets in worker processes, each with a TUN queue and UDP sockets of its own.

    Implements :class:`overlay.datapath.base.Datapath`. ``workers`` None means by the number of cores. The TUN device
    is persistent: it stays when this closes.
    """

    def __init__(self, *, workers: int | None = None, offloads: Offloads = Offloads.ALL) -> None:
        self._count = default_workers() if workers is None else max(1, min(workers, MAX_WORKERS))
        self._offloads = offloads
        self._spec: TunnelSpec | None = None
        self._peers: Subnets = {}
        self._workers: list[Supervisor] = []
        self._restarts = 0
        self._growth = Growth()
        self._routes_due = 0.0
        self._former_sockets_dropped = 0
        self._configuring = asyncio.Lock()
        self._changed = asyncio.Event()

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Process ids of the workers that run now."""
        return tuple(pid for worker in self._workers if (pid := worker.pid) is not None)

    async def configure(self, spec: TunnelSpec, *, meanwhile: Meanwhile | None = None) -> None:
        """Opens device and port and starts the workers, or changes over to ``spec``.

        Another subnet, network or MTU is told to the workers that run; another device, address or port replaces them,
        and packets get lost only between two addresses or ports.

        Args:
            meanwhile: what can be done as soon as device and port are open, so while workers start.

        Raises:
            PrivilegeError, DeviceError, InterfaceError, PortInUseError, DatapathError: nothing was changed then.
        """
        async with self._configuring:
            if self._spec is not None and _endpoint(self._spec) == _endpoint(spec):
                for worker in self._workers:
                    worker.configure(spec)
                if meanwhile is not None:
                    await meanwhile()
            else:
                await self._replace_workers(spec, meanwhile)
            self._spec = spec
        await asyncio.to_thread(self._device_drops)  # what was dropped before is not ours
        self._routes_due = 0.0  # workers may be new
        await self._follow_routes()

    def set_peers(self, table: PeerTable) -> None:
        """Hands ``table`` to every worker; does not block."""
        self._peers = subnets_of(table)
        self._routes_due = 0.0
        for worker in self._workers:
            worker.set_peers(self._peers)

    async def status(self) -> DatapathStatus:
        """Sums of all workers' counters; ``running`` only if every worker answered in time."""
        await self._follow_routes()
        answers = await asyncio.gather(*(worker.ask(STATUS_PATIENCE) for worker in self._workers))
        total: dict[str, int] = {"worker_restarts": self._restarts + sum(worker.restarts for worker in self._workers)}
        for worker in self._workers:
            for name, value in worker.totals().items():
                total[name] = total.get(name, 0) + value
        total["drop_rx_socket"] = self._former_sockets_dropped + _dropped(self._workers)
        total |= await asyncio.to_thread(self._device_drops)
        heard = [answer for answer in answers if answer is not None]
        detail = f"{len(heard)} of {len(answers)} workers"
        if heard:
            detail += f", {heard[0].detail}"
        running = bool(answers) and len(heard) == len(answers)
        limits: dict[IPv4Address, int] = {}
        for answer in heard:
            for peer, limit in answer.path_mtus:
                limits[IPv4Address(peer)] = min(limit, limits.get(IPv4Address(peer), limit))
        problems = () if running or not answers else (self._stopped(len(answers) - len(heard)),)
        counters, path_mtus = MappingProxyType(total), MappingProxyType(limits)
        return DatapathStatus(NAME, running, detail, counters, path_mtus, problems=problems)

    def _stopped(self, silent: int) -> Problem:
        """What it is to the node that so many workers say nothing."""
        trouble = next((worker.trouble for worker in self._workers if worker.trouble is not None), None)
        sentence = f"{silent} of {len(self._workers)} workers move no packets"
        if trouble is None:
            return Problem(STOPPED, sentence, "another is started in place of each", severity=Severity.DOWN)
        return Problem.of(trouble, STOPPED, about="", before=sentence, after="trying again", severity=Severity.DOWN)

    async def _follow_routes(self) -> None:
        """Tells the workers which MTUs the node's routes to peers have, if it is time to look."""
        now = asyncio.get_running_loop().time()
        if now >= self._routes_due:
            self._routes_due = now + route_mtus.EVERY
            found = await asyncio.to_thread(route_mtus.look, self._peers.values())
            for worker in self._workers:
                worker.set_route_mtus(found)

    def _device_drops(self) -> dict[str, int]:
        """What the TUN device, and the bridge that has our subnet, dropped since we look; empty before."""
        if self._spec is None:
            return {}
        counted: dict[str, int] = {}
        try:
            found, bridge = device_drops.dropped(), device_drops.device_of(self._spec.subnet)
        except OSError:  # no descriptor to read them by
            return self._growth.totals
        for counter, device in (("drop_tun_queue", self._spec.device), ("drop_bridge_tx", bridge)):
            if device in found:
                counted[counter] = self._growth.add(counter, found[device].tx)
        return counted

    async def watch(self) -> None:
        """Never returns.

        Raises:
            DatapathError: a worker could not be kept alive.
        """
        while True:
            self._changed.clear()
            changed = asyncio.ensure_future(self._changed.wait())
            failures = [worker.failed for worker in self._workers]
            waiting: list[asyncio.Future[Any]] = [changed, *failures]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            for failure in failures:
                if failure.done():
                    await failure

    async def close(self) -> None:
        """Ends the workers and closes the port; the TUN device stays."""
        async with self._configuring:
            workers, self._workers, self._spec = self._workers, [], None
            self._changed.set()
            await _end(workers)

    async def _replace_workers(self, spec: TunnelSpec, meanwhile: Meanwhile | None) -> None:
        """Starts new workers beside the old ones, then ends those: whichever reads a packet meanwhile forwards it."""
        former = self._workers
        plan = QueuePlan(spec.device, self._count, self._offloads)
        pairs = await self._open_sockets(spec)
        try:
            queues, mode = self._open_queues(plan)
        except BaseException:
            for each in pairs:
                each.close()
            raise
        workers = [
            Supervisor(queue, pair, mode, plan.reopen, spec=spec, peers=self._peers)
            for queue, pair in zip(queues, pairs, strict=True)
        ]
        try:
            async with asyncio.TaskGroup() as starting:
                for worker in workers:
                    starting.create_task(worker.start())
                if meanwhile is not None:
                    starting.create_task(meanwhile())
        except BaseExceptionGroup as failures:
            await _end(workers)
            raise first_of(failures) from None
        except BaseException:
            await _end(workers)
            raise
        self._workers = workers
        for worker in workers:
            worker.set_peers(self._peers)  # they may have changed while the workers started
        self._restarts += sum(worker.restarts for worker in former)
        if not self._has_port(spec):
            self._former_sockets_dropped += _dropped(former)
        self._changed.set()
        await _end(former)

    def _has_port(self, spec: TunnelSpec) -> bool:
        """Whether the sockets that are open are those for ``spec``."""
        old = self._spec
        return old is not None and _place(old) == _place(spec)

    async def _open_sockets(self, spec: TunnelSpec) -> list[SocketPair]:
        if self._has_port(spec):
            return [worker.sockets.dup() for worker in self._workers]
        return await open_sockets(*_place(spec), self._count)

    def _open_queues(self, plan: QueuePlan) -> tuple[list[int], str]:
        if self._spec is not None and self._spec.device == plan.device:
            return [os.dup(worker.tun) for worker in self._workers], self._workers[0].mode
        return plan.open_all()


def _endpoint(spec: TunnelSpec) -> tuple[str, IPv4Address, int]:
    """What a running worker cannot change: it is in its descriptors."""
    return spec.device, *_place(spec)


def _place(spec: TunnelSpec) -> tuple[IPv4Address, int]:
    """Where the sockets are bound."""
    return spec.underlay_address, spec.bound_port


def _dropped(workers: list[Supervisor]) -> int:
    return sum(worker.sockets.dropped() for worker in workers)


async def _end(workers: list[Supervisor]) -> None:
    await asyncio.gather(*(worker.stop() for worker in workers))
    for worker in workers:
        worker.release()
