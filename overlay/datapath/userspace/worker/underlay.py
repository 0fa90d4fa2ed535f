"""The worker's UDP socket: sending trains of datagrams, and what the underlay says about them.

A *train* is several inner packets to or from one peer that stand one after the other in a buffer, all of one size but
the last, which may be shorter. The kernel takes and gives whole trains: UDP_SEGMENT and UDP_GRO.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Callable, Container, Sequence
from functools import partial

from overlay.datapath.userspace.counters import Counters
from overlay.datapath.userspace.worker.batch import Batch
from overlay.datapath.userspace.worker.paths import PathMtus
from overlay.linux.sockopt import IP_RECVERR, UDP_GRO, UDP_SEGMENT
from overlay.packet import Bytes, ip

MAX_SEGMENTS = 64
"""Datagrams in one send: ``UDP_MAX_SEGMENTS``, which was 64 before it became 128."""

_ANCILLARY_SIZE = socket.CMSG_SPACE(4)
_GRO_SIZE = struct.Struct("=i")
_SEGMENT_SIZE = struct.Struct("=H")
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
"""``struct sock_extended_err``: errno, origin, type, code, padding, info (the MTU), data."""

_REPORTS = frozenset(
    {
        errno.ECONNREFUSED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EMSGSIZE,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPROTO,
    }
)
"""Errors that may be the echo of an earlier datagram: the call that gets it has not sent its own. What the kernel makes
of ICMP (``icmp_err_convert``, ``__udp4_lib_err``)."""

DSCP = 0xFC
"""Of the type-of-service byte (RFC 2474); the other two bits are ECN's, which is not copied (RFC 6040, 4.3)."""

MAX_QUEUED_ERRORS = 1024
"""Entries of the error queue read at once, so that a flood of them cannot keep the worker from its packets."""
MAX_REPORTS = 16
"""Errors of earlier datagrams that one call steps over."""
_ORIGIN_LOCAL = 1
"""``SO_EE_ORIGIN_LOCAL`` (linux/errqueue.h): the kernel itself, by the interface's MTU; the rest came from somebody."""
_QUOTE = 64
"""Bytes that are read of a datagram that came back with an error."""

Claimed = Callable[[str, int, bytes], None]
"""What is done with a claim: to which peer, how many bytes, and the payload that is quoted (see ``claims``)."""


class Underlay:
    """Receives from one socket and sends to peers through another, or the same.

    Attributes:
        receiving, sending: the sockets.
        address: that we send from, as an integer.
        port: the port of every peer's socket.
        dscp: which bits of inner packets' type of service (the header's second byte) outer headers have: DSCP or none.
        segmenting: whether the kernel cuts trains into datagrams.
        coalescing: whether it puts datagrams together into trains.
        paths: what is known about the paths' MTUs.
        peers: the underlay addresses of peers; of others nothing is learnt.
        claimed: called with each claim about the path to a peer, which anybody can have made.
        notice: called with what an operator should read once.
    """

    def __init__(self, receiving: socket.socket, sending: socket.socket, counters: Counters, *, offloads: bool) -> None:
        self.receiving, self.sending = receiving, sending
        self.receiving.setblocking(False)
        self.sending.setblocking(False)
        self.address = int.from_bytes(socket.inet_aton(sending.getsockname()[0]), "big")
        self.port = 0
        self.dscp = 0
        self._tos = 0
        self.segmenting = offloads and _accepts(sending, UDP_SEGMENT, 0)
        self.coalescing = _accepts(receiving, UDP_GRO, int(offloads)) and offloads
        self.paths = PathMtus()
        self.peers: Container[str] = ()
        self.claimed: Claimed = lambda _peer, _path_mtu, _quoted: None
        self.notice: Callable[[str], None] = lambda _text: None
        self._counters = counters

    def send_train(self, train: memoryview, size: int, peer: str) -> Sequence[memoryview]:
        """Sends the packets of ``train``, each of ``size`` bytes and the last perhaps shorter, to ``peer``.

        Returns:
            Those that are too big for the path, as :meth:`send` says of one; they stay where they are in ``train``.
        """
        total = len(train)
        if total <= size:
            return () if self.send(train, peer) else (train,)
        if not self.segmenting:
            return self._send_singly(train, size, peer)
        most = size * max(1, min(MAX_SEGMENTS, ip.MAX_UDP_PAYLOAD // size))
        if total <= most:
            return self._send_segments(train, size, peer)
        left: list[memoryview] = []
        for at in range(0, total, most):
            left += self._send_segments(train[at : at + most], size, peer)
        return left

    def _mark(self, packet: Bytes) -> None:
        """What is sent next has the class of service of ``packet``, if it is to have one."""
        if (tos := packet[1] & self.dscp) != self._tos:
            self.sending.setsockopt(socket.SOL_IP, socket.IP_TOS, tos)
            self._tos = tos

    def send(self, packet: Bytes, peer: str) -> bool:
        """Sends one packet to ``peer``, or counts why not.

        Returns:
            False if it is too big for the path: then nothing is sent or counted, and ``paths`` has what is known of it.
        """
        self._mark(packet)
        try:
            self._send(packet, peer)
        except OSError as failure:
            if failure.errno == errno.EMSGSIZE:
                self.read_errors()
                return False
            self._counters.drop_tx_send += 1
            return True
        self._counters.tx_packets += 1
        self._counters.tx_bytes += len(packet)
        return True

    def send_aside(self, packet: bytes, peer: str) -> None:
        """Sends one packet of our own, which is no traffic: it is not counted, and nobody misses it."""
        with contextlib.suppress(OSError):
            self.sending.sendto(packet, (peer, self.port))

    def receive(self, buffer: memoryview) -> tuple[int, int, str] | None:
        """One receive into ``buffer``, which should have room for 65,535 bytes.

        Returns:
            Bytes received, bytes of each datagram but the last of them, and the sender's address; None if there is
            nothing (more) to receive.
        """
        for _ in range(MAX_REPORTS):
            try:
                length, ancillary, _, (sender, _port) = self.receiving.recvmsg_into((buffer,), _ANCILLARY_SIZE)
            except BlockingIOError:
                return None
            except OSError:  # what the underlay says about an earlier datagram
                self.read_errors()
                continue
            size = length
            for level, kind, data in ancillary:
                if level == socket.SOL_UDP and kind == UDP_GRO and len(data) >= _GRO_SIZE.size:
                    size = int(_GRO_SIZE.unpack_from(data)[0])
            return length, (size if 0 < size < length else length), sender
        return None

    def receive_batch(self, batch: Batch, size: int) -> bool:
        """Receives many datagrams, of ``size`` bytes by guess, at once; whether there may be more of them."""
        for _ in range(MAX_REPORTS):
            try:
                return batch.receive(self.receiving, size)
            except BlockingIOError:
                return False
            except OSError:
                self.read_errors()
        return False

    def read_errors(self) -> int:
        """Empties the sockets' error queues, and learns path MTUs from them.

        Returns:
            How many of the errors somebody else has reported.
        """
        reports = self._read_errors(self.sending)
        if self.receiving is not self.sending:
            reports += self._read_errors(self.receiving)
        return reports

    def _read_errors(self, udp: socket.socket) -> int:
        reports = 0
        for _ in range(MAX_QUEUED_ERRORS):
            try:
                quoted, ancillary, _, address = udp.recvmsg(_QUOTE, 256, socket.MSG_ERRQUEUE)
            except OSError:
                # The socket's own note of an error stays where the report found no room, and would be told for ever.
                udp.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                break
            for level, kind, data in ancillary:
                if level == socket.SOL_IP and kind == IP_RECVERR and len(data) >= _EXTENDED_ERROR.size:
                    number, origin, _, _, _, path_mtu, _ = _EXTENDED_ERROR.unpack_from(data)
                    reports += origin != _ORIGIN_LOCAL
                    if number != errno.EMSGSIZE or not path_mtu or not address or address[0] not in self.peers:
                        continue
                    if origin == _ORIGIN_LOCAL:
                        self.paths.learn(address[0], path_mtu, time.monotonic())
                    else:
                        self.claimed(address[0], path_mtu, quoted)
        return reports

    def _send_singly(self, train: memoryview, size: int, peer: str) -> Sequence[memoryview]:
        packets = (train[at : at + size] for at in range(0, len(train), size))
        return [packet for packet in packets if not self.send(packet, peer)]

    def _send_segments(self, train: memoryview, size: int, peer: str) -> Sequence[memoryview]:
        self._mark(train)
        ancillary = [(socket.SOL_UDP, UDP_SEGMENT, _SEGMENT_SIZE.pack(size))]
        count = -(-len(train) // size)
        try:
            self._despite_reports(partial(self.sending.sendmsg, (train,), ancillary, 0, (peer, self.port)))
        except OSError as failure:
            if failure.errno == errno.EIO:
                self._stop_segmenting()
            if failure.errno in {errno.EIO, errno.EMSGSIZE, errno.EINVAL}:
                return self._send_singly(train, size, peer)  # the kernel says of each what is wrong with it
            self._counters.drop_tx_send += count
            return ()
        self._counters.tx_packets += count
        self._counters.tx_bytes += len(train)
        return ()

    def _send(self, packet: Bytes, peer: str) -> None:
        self._despite_reports(partial(self.sending.sendto, packet, (peer, self.port)))

    def _despite_reports(self, send: Callable[[], object]) -> None:
        """Sends, once more after each report about an earlier datagram: anybody may make one come, and many.

        Raises:
            OSError: what is wrong with this one.
        """
        others = 1  # at first: a report that found no room in the error queue is not in it
        for _ in range(MAX_REPORTS):
            try:
                send()
            except OSError as failure:
                if failure.errno not in _REPORTS or not others:
                    raise
                refused, others = failure, self.read_errors()
            else:
                return
        raise refused

    def _stop_segmenting(self) -> None:
        """EIO: the interface cannot do UDP checksums, so the kernel does not segment for it (``udp_send_skb``)."""
        if self.segmenting:
            self.segmenting = False
            self._counters.offloads_refused += 1
            self.notice("the kernel refuses UDP_SEGMENT on this underlay; going on without")


def _accepts(udp: socket.socket, option: int, value: int) -> bool:
    """Whether the kernel knows an option of UDP sockets; it is set then."""
    try:
        udp.setsockopt(socket.SOL_UDP, option, value)
    except OSError:
        return False
    return True
