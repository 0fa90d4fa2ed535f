"""Datagrams that nobody asked for, at a steady rate, while something else is measured."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from overlay.errors import LabError
from overlay.lab.bench.scenarios import Load
from overlay.lab.namespace import call_inside
from overlay.packet import ip

TUNNEL_PORT = 8285
STRAY_PORT = 9
"""RFC 863's discard; nobody listens, but a socket that is never read makes the kernel drop what comes in silence."""

RATE = 20_000
"""Datagrams a second."""

_BURST = 100
"""Datagrams between two looks at the clock."""

_PAYLOAD = 1000
"""Bytes of a datagram, whatever is in it."""

_ELSEWHERE = int(IPv4Address("8.8.8.8"))
"""An address in nobody's subnet."""

_SHORTFALL = 0.8
"""Part of the rate below which the machine was too busy for the figures to mean anything."""


@dataclass(frozen=True, slots=True)
class Flood:
    """A load that can be switched on.

    Attributes:
        load: what is sent.
        senders: namespaces that take turns in sending it.
        target: namespace it is sent to, and its underlay address.
        forged: datagrams to send to the tunnel's port, in turn.
    """

    load: Load
    senders: Sequence[str]
    target: tuple[str, IPv4Address]
    forged: Sequence[bytes]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Sends as long as a ``with`` statement lasts. Raises LabError if the machine could not keep up."""
        namespace, address = self.target
        with contextlib.ExitStack() as stack:
            if self.load is Load.STRAY:
                stack.enter_context(call_inside(namespace, lambda: _bound(address)))
            sockets = [stack.enter_context(call_inside(sender, _unbound)) for sender in self.senders]
            there = (str(address), TUNNEL_PORT if self.load is Load.FORGED else STRAY_PORT)
            over, sent = threading.Event(), [0]
            sender = threading.Thread(target=self._send, args=(sockets, there, over, sent), name="flood")
            started = time.monotonic()
            sender.start()
            try:
                yield
            finally:
                over.set()
                sender.join()
            rate = sent[0] / (time.monotonic() - started)
        if rate < RATE * _SHORTFALL:
            raise LabError(f"only {rate:.0f} of {RATE} datagrams a second", about=f"{self.load.value} load")

    def _send(
        self, sockets: Sequence[socket.socket], there: tuple[str, int], over: threading.Event, sent: list[int]
    ) -> None:
        due = time.monotonic()
        while not over.wait(max(0.0, due - time.monotonic())):
            for number in range(sent[0], sent[0] + _BURST):
                with contextlib.suppress(OSError):  # no room in a queue: not sent, as on any host
                    sockets[number % len(sockets)].sendto(self.forged[number % len(self.forged)], there)
            sent[0] += _BURST
            due += _BURST / RATE


def forgeries(sender: IPv4Network, target: IPv4Network) -> list[bytes]:
    """Inner packets that ``sender``'s node must not get through to ``target``'s: one for every field that can lie.

    All are of one length, and behind a stranger's address all are wrong twice.
    """
    honest = ip.Header(0x45, 0, _PAYLOAD, 0, 0, 63, socket.IPPROTO_UDP, 0, int(sender[9]), int(target[9]))
    lies = [
        honest._replace(source=honest.destination),
        honest._replace(source=int(sender.broadcast_address) + 9),
        honest._replace(source=_ELSEWHERE),
        honest._replace(destination=honest.source),
        honest._replace(destination=_ELSEWHERE),
        honest._replace(version_ihl=0x65),
        honest._replace(version_ihl=0x43),
        honest._replace(total_length=7),
        honest._replace(total_length=_PAYLOAD + 1),
    ]
    packets = [bytes(ip.with_checksum(bytearray(ip.encode(lie)))) for lie in lies]
    packets += [ip.encode(honest), b""]  # without a checksum, and nothing but noise
    noise = random.Random(1).randbytes(_PAYLOAD)
    return [(packet + noise)[:_PAYLOAD] for packet in packets]


def _bound(address: IPv4Address) -> socket.socket:
    receiver = _unbound()
    receiver.bind((str(address), STRAY_PORT))
    return receiver


def _unbound() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
