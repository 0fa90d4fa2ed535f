"""A userspace worker in the test's own process: a socketpair is its TUN, another its control, loopback its underlay."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from overlay.datapath.userspace.messages import Configure, PeerChange, Peers, encode
from overlay.datapath.userspace.worker.__main__ import Worker, make_worker
from overlay.datapath.userspace.worker.admission import Verdict
from overlay.linux.tun import Offload

OWN, PEER = "127.0.0.1", "127.0.0.2"
DECISIONS = ("rx_packets", "drop_tun_write", *(each.value for each in Verdict if each is not Verdict.ADMIT))
PATIENCE = 30.0
EVERYTHING = str(int(Offload.CHECKSUM | Offload.TSO4 | Offload.USO4))


class Bench:
    """The worker's node has 10.0.1.0/24; a peer at 127.0.0.2 has 10.0.2.0/24."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.tun, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind((OWN, 0))
        self.port: int = self.udp.getsockname()[1]
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind((PEER, self.port))
        self.control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        for each in (self.tun, self.peer, self.control):
            each.setblocking(False)
        for each in (self.udp, self.peer):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._kept = (theirs, control)
        self.worker: Worker = make_worker(theirs.fileno(), (self.udp, self.udp), control, mode)
        self.tell(encode(Configure(0x0A000100, 24, self.port, 1472)))
        self.tell(encode(Peers([PeerChange(False, 0x0A000200, 24, 0x7F000002)])))

    def tell(self, message: bytes) -> None:
        """Has the worker obey one control message, whatever it is."""
        self.control.send(message)
        assert self.worker.take_instruction()

    def from_peer(self, *datagrams: bytes) -> list[bytes]:
        """Sends as the peer; returns what the worker wrote to the TUN, virtio headers included."""
        # A busy machine may deliver some of them later.
        awaited, deadline = self._decided() + len(datagrams), time.monotonic() + PATIENCE
        for datagram in datagrams:
            self.peer.sendto(datagram, (OWN, self.port))
        while self._decided() < awaited and time.monotonic() < deadline:
            self.worker.inbound.drain(len(datagrams) + 1)
        return self.tun_output()

    def _decided(self) -> int:
        """How many datagrams have come in and been written or refused."""
        return sum(self.count(name) for name in DECISIONS)

    def from_kernel(self, *packets: bytes) -> list[bytes]:
        """Gives the worker packets to read, virtio headers included; returns the datagrams that reached the peer."""
        sent = self.count("tx_packets")
        for packet in packets:
            self.tun.send(packet)
        # After a pause it takes only the first one, and a busy machine may pause it each time.
        for _ in range(len(packets) + 1):
            self.worker.outbound.drain(len(packets) + 1)
        received, deadline = list(_all_of(self.peer)), time.monotonic() + PATIENCE
        while len(received) < self.count("tx_packets") - sent and time.monotonic() < deadline:
            received += _all_of(self.peer)
        return received

    def tun_output(self) -> list[bytes]:
        return list(_all_of(self.tun))

    def count(self, name: str) -> int:
        return int(getattr(self.worker.counters, name))

    def close(self) -> None:
        for each in (self.tun, self.udp, self.peer, self.control, *self._kept):
            each.close()


def _all_of(end: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            yield end.recv(1 << 17)
        except BlockingIOError:
            return


@contextmanager
def bench(mode: str = EVERYTHING) -> Iterator[Bench]:
    made = Bench(mode)
    try:
        yield made
    finally:
        made.close()
