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

from overlay.daemon.confined.control import Control
from overlay.datapath.spec import TunnelSpec
from overlay.datapath.userspace.messages import (
    MAX_CHANGES,
    MAX_MESSAGE,
    Ask,
    Configure,
    FromWorker,
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
        control: the socket; it is ready, with the worker's description, when the worker moves packets.
    """

    def __init__(
        self, control: socket.socket, spec: TunnelSpec, peers: Subnets, notices: Notices, route_mtus: RouteMtus
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._notices = notices
        self._have: Subnets = {}
        self._changes = difference({}, peers)
        self._started = False
        self.control: Control[ToWorker, FromWorker, Status] = Control(
            control, encode=encode, more=self._more, question=Ask, decode=decode_from_worker, take=self._take,
            complain=lambda what: self._notices.say(f"the worker sent {what}", self._loop.time()),
            ended=lambda: DatapathError("the worker has ended"), largest=MAX_MESSAGE,
        )  # fmt: skip
        self.control.say(_configure(spec), *([route_mtus] if route_mtus.mtus else []))

    def configure(self, spec: TunnelSpec) -> None:
        """Makes ``spec`` what the worker works by; does not block."""
        self.control.say(_configure(spec))

    def set_peers(self, want: Subnets) -> None:
        """Makes ``want`` the worker's table; does not block. The dictionary must not change afterwards."""
        self._changes = difference(dict(self._have), want)
        self.control.pump()

    def set_route_mtus(self, route_mtus: RouteMtus) -> None:
        """Tells the worker what the node's routes say about paths; does not block."""
        self.control.say(route_mtus)

    def _more(self) -> Peers | Start | None:
        if changes := list(islice(self._changes, MAX_CHANGES)):
            for remove, base, length, public_ip in changes:
                if remove:
                    self._have.pop((base, length), None)
                else:
                    self._have[base, length] = public_ip
            return Peers(changes)
        if not self._started:
            self._started = True
            return Start()
        return None

    def _take(self, message: FromWorker) -> None:
        match message:
            case Ready():
                self.control.is_ready(message.detail)
            case Status():
                self.control.answered(message.number, message)
            case Notice():
                self._notices.say(message.text, self._loop.time())
