"""The agent's end of the socketpair to one worker: brings its peer table up to date, and asks for its counters.

Nothing is queued. What the worker *has* is remembered, what it *should have* is given, and whenever the socket takes
another message the difference goes out. So a worker that does not read costs no memory and blocks nobody, however
often the table changes, and catches up by itself.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from itertools import islice

from overlay.datapath.spec import TunnelSpec
from overlay.datapath.userspace.messages import (
    MAX_CHANGES,
    MAX_MESSAGE,
    Ask,
    Configure,
    FromWorker,
    MalformedMessageError,
    Notice,
    PeerChange,
    Peers,
    Ready,
    RouteMtus,
    Start,
    Status,
    ToWorker,
    decode_from_worker,
    encode,
)
from overlay.errors import DatapathError
from overlay.model import PeerTable
from overlay.rates import TokenBucket

logger = logging.getLogger(__name__)

Subnets = dict[tuple[int, int], int]
"""Underlay address by (base, prefix length) of a subnet, all integers."""

NOTICE_RATE, NOTICE_BURST = 1 / 60, 10
"""Log lines a second, and at once, that what workers send may cause. An honest one has two things to say in its life;
one that was taken over cannot fill the disk."""


def subnets_of(table: PeerTable) -> Subnets:
    """``table`` as the worker sees it."""
    return {
        (int(subnet.network_address), subnet.prefixlen): int(peer.public_ip) for subnet, peer in table.peers.items()
    }


def difference(have: Subnets, want: Subnets) -> Iterator[PeerChange]:
    """The changes that turn ``have`` into ``want``; removals first, so that a moved subnet is never in two places."""
    for base, length in have.keys() - want.keys():
        yield PeerChange(True, base, length, 0)
    for (base, length), public_ip in want.items():
        if have.get((base, length)) != public_ip:
            yield PeerChange(False, base, length, public_ip)


def _configure(spec: TunnelSpec) -> Configure:
    return Configure(int(spec.subnet.network_address), spec.subnet.prefixlen, spec.port, spec.mtu, spec.copy_dscp)


class Notices:
    """Logs what a worker, and those after it, would have an operator read, at a bounded rate."""

    def __init__(self) -> None:
        self._bucket = TokenBucket(NOTICE_RATE, NOTICE_BURST)
        self._unsaid = 0

    def say(self, text: str, now: float) -> None:
        """Logs ``text``, one line, or only counts it; ``now`` is in seconds."""
        if not self._bucket.allow(now):
            self._unsaid += 1
            return
        before = f" (and {self._unsaid:,} notices before this one)" if self._unsaid else ""
        self._unsaid = 0
        logger.warning("userspace datapath: %s%s", text, before)


class WorkerLink:
    """One worker's control socket on the running loop.

    Attributes:
        ready: done when the worker moves packets, with its description; or with DatapathError if it ended before.
        closed: set when the worker closed its end, so when it died.
    """

    def __init__(
        self, control: socket.socket, spec: TunnelSpec, peers: Subnets, notices: Notices, route_mtus: RouteMtus
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._control = control
        self._control.setblocking(False)
        self._notices = notices
        self.ready: asyncio.Future[str] = self._loop.create_future()
        self.closed = asyncio.Event()
        self._want = peers
        self._have: Subnets = {}
        self._changes = difference({}, peers)
        self._outgoing: list[ToWorker] = [_configure(spec)]  # at most one of each kind
        if route_mtus.mtus:
            self._outgoing.append(route_mtus)
        self._started = False
        self._writing = False
        self._question = 0
        self._answer: asyncio.Future[Status] | None = None
        self._loop.add_reader(control, self._receive)
        self._pump()

    def configure(self, spec: TunnelSpec) -> None:
        """Makes ``spec`` what the worker works by; does not block."""
        self._replace(_configure(spec))

    def set_peers(self, want: Subnets) -> None:
        """Makes ``want`` the worker's table; does not block. The dictionary must not change afterwards."""
        self._want = want
        self._changes = difference(dict(self._have), want)
        self._pump()

    def set_route_mtus(self, route_mtus: RouteMtus) -> None:
        """Tells the worker what the node's routes say about paths; does not block."""
        self._replace(route_mtus)

    async def ask(self) -> Status:
        """The worker's counters now; waits for as long as the worker takes. Several callers share one answer.

        Raises:
            DatapathError: the worker ended meanwhile.
        """
        if self.closed.is_set():
            raise DatapathError("the worker has ended")
        if self._answer is None or self._answer.done():
            self._question += 1
            self._answer = self._loop.create_future()
            self._replace(Ask(self._question))
        return await asyncio.shield(self._answer)

    def close(self) -> None:
        """Closes our end, which ends the worker."""
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control)
            self._loop.remove_writer(self._control)
            self._control.close()
        failure = DatapathError("the worker has ended")
        for future in (self.ready, self._answer):
            if future is not None and not future.done():
                future.set_exception(failure)
                future.exception()  # nobody has to be waiting for it
        self.closed.set()

    def _replace(self, message: ToWorker) -> None:
        self._outgoing = [waiting for waiting in self._outgoing if type(waiting) is not type(message)]
        self._outgoing.append(message)
        self._pump()

    def _next_message(self) -> ToWorker | None:
        if self._outgoing:
            return self._outgoing[0]
        if changes := list(islice(self._changes, MAX_CHANGES)):
            return Peers(changes)
        return None if self._started else Start()

    def _pump(self) -> None:
        """Sends until all is said or the socket is full; then goes on when it is not."""
        if self.closed.is_set():
            return
        while (message := self._next_message()) is not None:
            try:
                self._control.send(encode(message))
            except BlockingIOError:
                self._wait_for_room(message)
                return
            except OSError:
                self.close()
                return
            self._said(message)
        if self._writing:
            self._loop.remove_writer(self._control)
            self._writing = False

    def _wait_for_room(self, unsent: ToWorker) -> None:
        if isinstance(unsent, Peers):
            self._changes = difference(dict(self._have), self._want)
        if not self._writing:
            self._loop.add_writer(self._control, self._pump)
            self._writing = True

    def _said(self, message: ToWorker) -> None:
        if isinstance(message, Start):
            self._started = True
            return
        if not isinstance(message, Peers):
            self._outgoing.remove(message)
            return
        for remove, base, length, public_ip in message.changes:
            if remove:
                self._have.pop((base, length), None)
            else:
                self._have[base, length] = public_ip

    def _receive(self) -> None:
        try:
            data = self._control.recv(MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            self._take(decode_from_worker(data))
        except MalformedMessageError as failure:
            self._notices.say(f"the worker sent a message that does not decode: {failure}", self._loop.time())

    def _take(self, message: FromWorker) -> None:
        match message:
            case Ready():
                if not self.ready.done():
                    self.ready.set_result(message.detail)
            case Status():
                if self._answer is not None and message.number == self._question and not self._answer.done():
                    self._answer.set_result(message)
            case Notice():
                self._notices.say(message.text, self._loop.time())
