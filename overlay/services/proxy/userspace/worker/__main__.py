"""The worker process: ``python -m overlay.services.proxy.userspace.worker CONTROL PARENT``, numbers of the control
socket's descriptor and of the daemon's process. It gives up its rights first, and ends when the control socket does."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict
from random import Random
from types import MappingProxyType

from overlay.daemon.confined import inside, privileges
from overlay.daemon.confined.seccomp import Numbers
from overlay.services.proxy.userspace import messages
from overlay.services.proxy.userspace.messages import Ask, Change, Close, Open, Ready, Start, Status
from overlay.services.proxy.userspace.worker.balancing import Balancer
from overlay.services.proxy.userspace.worker.counts import Counts
from overlay.services.proxy.userspace.worker.tcp import TcpPort
from overlay.services.proxy.userspace.worker.udp import UdpPort

USER = privileges.FIRST_USER + 2
"""As whom it runs."""

CALLS: Mapping[str, Numbers] = MappingProxyType(
    {
        "socket": (41, 198),
        "connect": (42, 203),
        "listen": (50, 201),
        "accept4": (288, 242),
        "shutdown": (48, 210),
        "getpeername": (52, 205),
    }
)
"""What taking connections and making them needs besides: no bind, so it listens where it was told alone."""


class Worker:
    """The ports, and the daemon's instructions about them."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._ports: dict[int, TcpPort | UdpPort] = {}
        self._counts = Counts()
        self._rng = Random()

    async def run(self) -> None:
        """Does what it is told until the control socket ends."""
        loop = asyncio.get_running_loop()
        self._control.setblocking(False)
        while True:
            readable = loop.create_future()
            loop.add_reader(self._control, _once, readable)
            try:
                await readable
            finally:
                loop.remove_reader(self._control)
            with contextlib.suppress(BlockingIOError):
                data, descriptors, _, _ = socket.recv_fds(self._control, messages.LONGEST, 1)
                if not data:
                    return
                await self._carry_out(messages.decode_to_worker(data), descriptors)

    async def _carry_out(self, told: messages.ToWorker, descriptors: list[int]) -> None:
        match told:
            case Open():
                handed_over = socket.socket(fileno=descriptors[0])
                balancer = Balancer(self._rng)
                balancer.change(told.endpoints, told.affinity)
                kind = TcpPort if told.protocol == "TCP" else UdpPort
                port = self._ports[told.number] = kind(handed_over, balancer, self._counts)
                await port.start()
            case Change():
                port = self._ports[told.number]
                port.balancer.change(told.endpoints, told.affinity)
                port.changed()
            case Close():
                self._ports.pop(told.number).close()
            case Start():
                self._say(Ready())
            case Ask():
                self._say(Status(told.number, len(self._ports), **asdict(self._counts)))

    def _say(self, message: messages.FromWorker) -> None:
        with contextlib.suppress(BlockingIOError):  # the daemon does not listen just now
            self._control.send(messages.encode(message))


def _once(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


def main(arguments: list[str]) -> int:
    """Serves until the daemon ends it."""
    given = inside.given(arguments, descriptors=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    with asyncio.Runner() as runner:
        runner.get_loop()  # its self-pipe and epoll are made while that is allowed
        if not inside.confine("services worker", given.parent, USER, CALLS):
            return 1
        runner.run(Worker(given.control).run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
