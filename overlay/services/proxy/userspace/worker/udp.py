"""One UDP port: each client has a socket to one endpoint, until neither has said anything for a while."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import OrderedDict
from dataclasses import dataclass

from overlay.services.proxy.userspace.messages import Endpoint
from overlay.services.proxy.userspace.worker.balancing import Balancer
from overlay.services.proxy.userspace.worker.counts import Counts

IDLE = 60.0
"""Seconds of silence after which a client is forgotten; conntrack's for a flow with answers is 120."""

MOST_FLOWS = 2000
"""Of one port; whoever has been silent longest is forgotten for a new one."""

_LONGEST = 65535
_BATCH = 64
"""Datagrams of one socket in a row, so that one client does not hold up the others."""

_Client = tuple[str, int]


@dataclass(slots=True)
class _Flow:
    """A client's socket, connected to its endpoint."""

    socket: socket.socket
    endpoint: Endpoint
    used: float


class UdpPort:
    """A bound socket, from :meth:`start` to :meth:`close`."""

    def __init__(self, bound: socket.socket, balancer: Balancer, counts: Counts) -> None:
        self._bound, self._counts = bound, counts
        self.balancer = balancer
        self._flows: OrderedDict[_Client, _Flow] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Answers from now on."""
        self._bound.setblocking(False)
        self._loop.add_reader(self._bound, self._from_clients)
        self._tidy()

    def close(self) -> None:
        """Forgets all clients."""
        self._loop.remove_reader(self._bound)
        if self._timer is not None:
            self._timer.cancel()
        for client in list(self._flows):
            self._end(client)
        self._bound.close()

    def changed(self) -> None:
        """Clients whose endpoint is gone get another with their next datagram."""
        endpoints = self.balancer.endpoints
        for client, flow in list(self._flows.items()):
            if flow.endpoint not in endpoints:
                self._end(client)

    def _from_clients(self) -> None:
        for _ in range(_BATCH):
            try:
                data, client = self._bound.recvfrom(_LONGEST)
            except OSError:  # nothing more; or the error of a client that is gone
                return
            flow = self._flows.get(client) or self._begin(client)
            if flow is not None:
                flow.used = time.monotonic()
                self._flows.move_to_end(client)
                try:
                    flow.socket.send(data)
                except BlockingIOError:
                    pass  # UDP's way of saying that it is too much
                except OSError:
                    self._end(client)  # the endpoint refuses: the next datagram goes to another

    def _begin(self, client: _Client) -> _Flow | None:
        now = time.monotonic()
        for endpoint in self.balancer.order(client[0], now):
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                made.setblocking(False)
                made.connect(endpoint)
            except OSError:  # no route
                made.close()
                self._counts.moved_on += 1
                continue
            if len(self._flows) >= MOST_FLOWS:
                self._counts.turned_away += 1
                self._end(next(iter(self._flows)))
            flow = self._flows[client] = _Flow(made, endpoint, now)
            self._loop.add_reader(made, self._from_endpoint, client, flow)
            self._counts.flows += 1
            self._counts.dialled += 1
            self.balancer.taken(client[0], endpoint, now)
            return flow
        self._counts.failed += 1
        return None

    def _from_endpoint(self, client: _Client, flow: _Flow) -> None:
        for _ in range(_BATCH):
            try:
                data = flow.socket.recv(_LONGEST)
            except BlockingIOError:
                return
            except OSError:
                self._counts.moved_on += 1
                self._end(client)
                return
            flow.used = time.monotonic()
            with contextlib.suppress(OSError):
                self._bound.sendto(data, client)

    def _end(self, client: _Client) -> None:
        flow = self._flows.pop(client, None)
        if flow is not None:
            self._loop.remove_reader(flow.socket)
            flow.socket.close()
            self._counts.flows -= 1

    def _tidy(self) -> None:
        now = time.monotonic()
        for client, flow in list(self._flows.items()):
            if now - flow.used > IDLE:
                self._end(client)
        self._timer = self._loop.call_later(IDLE / 4, self._tidy)
