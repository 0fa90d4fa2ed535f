"""The worker process: ``python -m overlay.datapath.userspace.worker CONTROL PARENT TUN RECEIVING SENDING MODE``.

All but two are descriptor numbers: the control socket, the TUN queue, and the UDP sockets to receive from and to send
through, which may be one and the same. PARENT is the agent's process id. MODE is ``plain``, or the number of the
offloads that the TUN has (:class:`overlay.linux.tun.Offload`), whose packets then have a virtio header. The worker
gives up its privileges before it looks at the first packet, and ends when the control socket does.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import sys
import time

from overlay.daemon.confined import inside, privileges
from overlay.datapath.userspace import messages
from overlay.datapath.userspace.counters import Counters, snapshot
from overlay.datapath.userspace.messages import Ask, Configure, Peers, RouteMtus, Start
from overlay.datapath.userspace.worker.answers import Answers
from overlay.datapath.userspace.worker.claims import Claims, challenge
from overlay.datapath.userspace.worker.inbound import Inbound
from overlay.datapath.userspace.worker.outbound import Outbound
from overlay.datapath.userspace.worker.routes import Routes
from overlay.datapath.userspace.worker.tunport import TunPort
from overlay.datapath.userspace.worker.underlay import DSCP, Underlay
from overlay.datapath.userspace.worker.waiting import Waiting
from overlay.linux.tun import Offload

USER = privileges.FIRST_USER
"""As whom a worker runs."""

BUDGET = 64
"""Packets of one direction before the other one and the control socket get their turn."""


class Worker:
    """One TUN queue, the UDP sockets, and the agent's instructions about them.

    Attributes:
        outbound, inbound: the two directions.
        counters: what both count.
    """

    def __init__(self, tun: TunPort, underlay: Underlay, control: socket.socket, counters: Counters) -> None:
        self._tun = tun
        self._underlay = underlay
        self._control = control
        self.counters = counters
        self._started = False
        self._mtu = 0
        self._routes = Routes()
        self._answers = Answers(counters)
        self.outbound = Outbound(tun, underlay, self._routes, counters, self._answers)
        self.inbound = Inbound(tun, underlay, self._routes, counters, self._answers)
        self._claims = Claims(underlay.paths, counters)
        underlay.peers = self._routes.senders
        underlay.claimed = self._claimed
        tun.notice = underlay.notice = self._notice

    def run(self) -> None:
        """Moves packets until the agent closes the control socket.

        Raises:
            OSError: the TUN device is gone; the agent makes another, and another worker for it.
        """
        tun, control = self._tun.descriptor, self._control.fileno()
        receiving, sending = self._underlay.receiving.fileno(), self._underlay.sending.fileno()
        os.set_blocking(tun, False)
        self._control.setblocking(True)
        while not self._started:  # packets wait until it is known whose they may be
            if not self.take_instruction():
                return
        self._control.setblocking(False)
        poll = select.epoll()
        for descriptor in (tun, receiving, control):
            poll.register(descriptor, select.EPOLLIN)
        if sending != receiving:
            poll.register(sending, 0)  # only its errors, which are always reported
        self._say(messages.Ready(self._describe()))
        waiting = Waiting(poll)
        moved = 0
        while True:
            ready, moved = waiting.next(moved), 0
            for descriptor, events in ready:
                if descriptor == tun:
                    moved += self.outbound.drain(BUDGET)
                elif descriptor == control:
                    if not self.take_instruction():
                        return
                else:
                    if events & select.EPOLLERR:
                        self._underlay.read_errors()
                    if descriptor == receiving:
                        moved += self.inbound.drain(BUDGET)

    def take_instruction(self) -> bool:
        """Carries out one message; False once the agent is gone."""
        try:
            data = self._control.recv(messages.MAX_MESSAGE)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        try:
            message = messages.decode_to_worker(data)
        except messages.MalformedMessageError:
            self.counters.control_malformed += 1
            return True
        match message:
            case Configure():
                self._configure(message)
            case Peers():
                self._change_peers(message)
            case RouteMtus():
                self._underlay.paths.follow_routes(dict(message.mtus))
            case Start():
                self._started = True
            case Ask():
                self._say(self._status(message.number))
        return True

    def _configure(self, message: Configure) -> None:
        self._routes.own(message.own_base, message.own_length)
        self._answers.address = message.own_base
        self._underlay.port = message.port
        self._underlay.dscp = DSCP if message.copy_dscp else 0
        if message.mtu != self._mtu:
            self._mtu = message.mtu
            self._underlay.paths.forget_all()

    def _change_peers(self, message: Peers) -> None:
        for remove, base, length, public_ip in message.changes:
            if remove:
                self._routes.remove(base, length)
            else:
                self._routes.add(base, length, public_ip)
        self._underlay.paths.keep(self._routes.senders)
        self._claims.keep(self._routes.senders)

    def _claimed(self, peer: str, path_mtu: int, quoted: bytes) -> None:
        """A claim about the path to ``peer`` is believed, or put to the test."""
        nonce = self._claims.hear(peer, path_mtu, quoted, time.monotonic())
        if nonce is not None and (target := self._routes.address_behind(peer)) is not None:
            length = self._underlay.paths.limits.get(peer, self._mtu)
            self._underlay.send_aside(challenge(self._answers.address, target, nonce, length), peer)

    def _status(self, number: int) -> messages.Status:
        limits = self._underlay.paths.known(time.monotonic()).items()
        paths = tuple((int.from_bytes(socket.inet_aton(peer), "big"), limit) for peer, limit in limits)
        return messages.Status(number, snapshot(self.counters), self._describe(), paths)

    def _describe(self) -> str:
        """Which offloads are on, for people."""
        on = [name for name, is_on in self._offloads() if is_on]
        return f"offloads: {', '.join(on)}" if on else "no offloads"

    def _offloads(self) -> tuple[tuple[str, bool], ...]:
        return (
            ("checksums", self._tun.vnet_hdr and not self._tun.tcp_segmentation),
            ("TSO", self._tun.tcp_segmentation),
            ("USO", self._tun.udp_segmentation),
            ("UDP_SEGMENT", self._underlay.segmenting),
            ("UDP_GRO", self._underlay.coalescing),
        )

    def _notice(self, text: str) -> None:
        self._say(messages.Notice(text))

    def _say(self, message: messages.FromWorker) -> None:
        with contextlib.suppress(OSError):  # full: the agent asks again; closed: the next receive notices
            self._control.send(messages.encode(message))


def make_worker(tun: int, underlay: tuple[socket.socket, socket.socket], control: socket.socket, mode: str) -> Worker:
    """The worker for ``mode``, see the module; ``underlay`` is what it receives from and what it sends through."""
    counters = Counters()
    plain = mode == "plain"
    accepted = Offload(0 if plain else int(mode))
    port = TunPort(
        tun,
        counters,
        vnet_hdr=not plain,
        tcp_segmentation=Offload.TSO4 in accepted,
        udp_segmentation=Offload.USO4 in accepted,
    )
    offloads = not plain and accepted != Offload.CHECKSUM
    return Worker(port, Underlay(*underlay, counters, offloads=offloads), control, counters)


def main(arguments: list[str]) -> int:
    """Entry point; the exit status is 0 when the agent ended the worker."""
    given = inside.given(arguments, descriptors=3)
    tun, receiving, sending = given.descriptors
    receiver = socket.socket(fileno=receiving)
    sender = receiver if sending == receiving else socket.socket(fileno=sending)
    worker = make_worker(tun, (receiver, sender), given.control, *given.arguments)
    privileges.raise_priority()
    if not inside.confine("userspace worker", given.parent, USER):
        return 1
    gc.freeze()  # what is there now stays; only what packets leave behind need ever be looked through
    try:
        worker.run()
    except OSError as failure:
        print(f"userspace worker: the TUN device does not answer: {failure.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
