"""The worker process: ``python -m overlay.services.dns.worker CONTROL PARENT UDP TCP UPSTREAM-PORT``.

The first four are numbers: of the control socket's descriptor, the daemon's process, and the descriptors of the UDP
socket and of the listening TCP socket. It gives up its rights before it reads the first question, and ends when the
control socket does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import sys
import time
from collections.abc import Coroutine, Mapping
from ipaddress import IPv4Network, ip_network
from types import MappingProxyType
from typing import Any

from overlay.daemon.confined import inside, privileges
from overlay.daemon.confined.seccomp import Numbers
from overlay.services.dns import messages
from overlay.services.dns.messages import Ask, Changes, Complete, Ready, Settings, Status
from overlay.services.dns.records import Tag
from overlay.services.dns.worker import wire
from overlay.services.dns.worker.clients import Clients
from overlay.services.dns.worker.counts import Counts
from overlay.services.dns.worker.kept import Kept
from overlay.services.dns.worker.resolving import Resolver
from overlay.services.dns.worker.responder import Responder
from overlay.services.dns.worker.tcp import TcpPort
from overlay.services.dns.worker.udp import UdpPort
from overlay.services.dns.zone import Zone, domain_labels

USER = privileges.FIRST_USER + 1
"""As whom it runs."""

MOST_WAITING = 2000
"""Questions of clients that wait for upstreams; more are not answered."""

CALLS: Mapping[str, Numbers] = MappingProxyType(
    {
        "socket": (41, 198),
        "connect": (42, 203),
        "bind": (49, 200),
        "listen": (50, 201),
        "accept4": (288, 242),
        "shutdown": (48, 210),
        "getpeername": (52, 205),
    }
)
"""What asking upstreams and taking connections needs besides."""


class Worker:
    """The sockets, and the daemon's instructions about them."""

    def __init__(self, udp: socket.socket, tcp: socket.socket, control: socket.socket, upstream_port: int) -> None:
        self._control = control
        self._udp, self._tcp = udp, tcp
        self._counts = Counts()
        self._zone, self._kept, self._clients = Zone(), Kept(), Clients()
        self._resolver = Resolver(self._counts, upstream_port)
        # Which of several addresses comes first is no secret.
        self._responder = Responder(self._zone, self._kept, self._resolver, self._counts, random.Random())
        self._port = UdpPort(udp, self._kept, self._clients, self._counts, self._asked)
        self._connections = TcpPort(self._clients, self._counts, self._asked_by_tcp)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiting = 0
        self._ended = asyncio.Event()
        self._serving = False

    async def run(self) -> None:
        """Answers until the daemon closes the control socket."""
        loop = asyncio.get_running_loop()
        self._control.setblocking(False)
        self._udp.setblocking(False)
        loop.add_reader(self._control, self._take_instruction)
        self._start(self._sweep())
        self._start(self._resolver.probe())
        self._start(self._resolver.look_for_loops())
        await self._ended.wait()

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1.0 - time.monotonic() % 1.0)
            self._kept.sweep(int(time.monotonic()))

    # --- questions ---

    def _asked(self, question: bytes, address: tuple[str, int]) -> bytes | None:
        query = wire.parse(question)
        if not isinstance(query, wire.Query):
            self._counts["malformed"] += 1
            return query
        if (answer := self._responder.at_once(query, question)) is not None:
            return answer
        if self._waiting < MOST_WAITING:
            self._waiting += 1
            self._start(self._answer_later(query, question, address))
        return None

    async def _answer_later(self, query: wire.Query, question: bytes, address: tuple[str, int]) -> None:
        try:
            self._port.send(await self._responder.later(query, question), address)
        finally:
            self._waiting -= 1

    async def _asked_by_tcp(self, question: bytes) -> bytes | None:
        query = wire.parse(question, tcp=True)
        if not isinstance(query, wire.Query):
            self._counts["malformed"] += 1
            return query
        return self._responder.at_once(query, question) or await self._responder.later(query, question)

    # --- instructions ---

    def _take_instruction(self) -> None:
        try:
            data = self._control.recv(messages.MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended.set()
            return
        try:
            message = messages.decode_to_worker(data)
        except messages.MalformedMessageError:
            self._counts["control_malformed"] += 1
            return
        match message:
            case Settings():
                self._settle(message)
            case Changes():
                self._change(message)
            case Complete():
                self._zone.serial = message.revision
                self._responder.complete = True
            case Ask():
                down = tuple(sorted(self._resolver.down))
                looping = tuple(sorted(self._resolver.looping))
                self._say(Status(message.number, self._counts.snapshot(), down, looping))

    def _settle(self, told: Settings) -> None:
        zone = self._zone
        zone.domain, zone.server, zone.pods = domain_labels(told.domain), told.server, told.pods
        zone.reverse = tuple(map(ip_network, told.reverse))
        self._clients.admit(map(IPv4Network, told.clients), told.client_rate)
        self._resolver.use(told.upstreams)
        self._kept.clear()
        if not self._serving:
            self._serving = True
            asyncio.get_running_loop().add_reader(self._udp, self._port.drain)
            self._start(self._connections.serve(self._tcp))
            self._say(Ready())

    def _change(self, told: Changes) -> None:
        zone, concerned = self._zone, set[Tag]()
        for name in told.services_gone:
            concerned |= zone.remove(name)
        for entry in told.services:
            concerned |= zone.put(entry)
        if told.namespaces or told.namespaces_gone:
            concerned |= zone.set_namespaces(zone.namespaces.difference(told.namespaces_gone).union(told.namespaces))
        zone.verified.difference_update(told.pods_gone)
        zone.verified.update(told.pods)
        concerned.update(("address", address) for _, address in (*told.pods, *told.pods_gone))
        self._kept.changed(concerned)

    def _say(self, message: messages.FromWorker) -> None:
        with contextlib.suppress(OSError):  # full: the daemon asks again; closed: the next receive notices
            self._control.send(messages.encode(message))


def main(arguments: list[str]) -> int:
    """Entry point; the exit status is 0 when the daemon ended the worker."""
    given = inside.given(arguments, descriptors=2)
    udp, tcp = (socket.socket(fileno=each) for each in given.descriptors)
    wire.prepare()
    with asyncio.Runner() as runner:
        runner.get_loop()  # with the sockets that it is made of
        if not inside.confine("DNS worker", given.parent, USER, CALLS):
            return 1
        gc.freeze()
        runner.run(Worker(udp, tcp, given.control, int(given.arguments[0])).run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
