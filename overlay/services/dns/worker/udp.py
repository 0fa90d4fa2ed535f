"""Questions by UDP, a batch at a time: those whose answer is kept are out again after one look.

A batch is one recvmmsg(2) and one sendmmsg(2). Each place of the arrays has its own buffers::

    struct mmsghdr, 64 bytes (bits/socket.h, 64-bit)
     0  msg_name      8  msg_namelen, padding     16  msg_iov     24  msg_iovlen
    32  msg_control  40  msg_controllen           48  msg_flags, padding
    56  msg_len, padding
"""

from __future__ import annotations

import ctypes
import errno
import socket
import time
from collections.abc import Callable

from overlay.linux import libc
from overlay.services.dns.worker.clients import Clients
from overlay.services.dns.worker.counts import Counts
from overlay.services.dns.worker.kept import Kept

BATCH = 64
"""Questions in one system call."""
TURNS = 8
"""Batches before everything else gets its turn."""

QUESTION = 1024
"""Bytes of a question; what is longer is none."""
ANSWER = 1280
"""Bytes of a kept answer: more than any by UDP has (``wire.UDP_PAYLOAD``)."""

_HEADER = 64
_WORDS = _HEADER // 4
_NAMELEN, _FLAGS, _LENGTH = 2, 12, 14
"""Places of 32-bit words in one header."""
_SOCKADDR = 16
"""Bytes of ``struct sockaddr_in``: family 2, port 2, address 4, zeros."""

Slow = Callable[[bytes, tuple[str, int]], bytes | None]
"""Answers a question that is not kept, at once or, with None, later or never."""


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Arrays:
    """Headers, buffers and addresses of one direction."""

    def __init__(self, size: int) -> None:
        self.buffers = ctypes.create_string_buffer(BATCH * size)
        self.names = ctypes.create_string_buffer(BATCH * _SOCKADDR)
        self.vectors = (_Iovec * BATCH)()
        self.headers = ctypes.create_string_buffer(BATCH * _HEADER)
        pointers = memoryview(self.headers).cast("B").cast("Q")
        for place in range(BATCH):
            vector = self.vectors[place]
            vector.base, vector.length = ctypes.addressof(self.buffers) + place * size, size
            word = place * _HEADER // 8
            pointers[word] = ctypes.addressof(self.names) + place * _SOCKADDR
            pointers[word + 1] = _SOCKADDR
            pointers[word + 2] = ctypes.addressof(self.vectors) + place * ctypes.sizeof(_Iovec)
            pointers[word + 3] = 1
        self.bytes = memoryview(self.buffers).cast("B")
        self.addresses = memoryview(self.names).cast("B")
        self.words = memoryview(self.headers).cast("B").cast("I")
        self.lengths = memoryview(self.vectors).cast("B").cast("Q")


class UdpPort:
    """The socket that questions come to.

    Args:
        slow: see :data:`Slow`.
    """

    def __init__(self, sock: socket.socket, kept: Kept, clients: Clients, counts: Counts, slow: Slow) -> None:
        self._sock = sock
        self._descriptor = sock.fileno()
        self._kept = kept
        self._clients = clients
        self._counts = counts
        self._slow = slow
        self._in, self._out = _Arrays(QUESTION), _Arrays(ANSWER)

    def drain(self) -> None:
        """Answers what has come; a part of it where there is much."""
        for _ in range(TURNS):
            if (count := self._receive()) <= 0:
                return
            self._answer(count)
            if count < BATCH:
                return

    def send(self, answer: bytes, address: tuple[str, int]) -> None:
        """One answer that was not kept."""
        try:
            self._sock.sendto(answer, address)
        except OSError:  # its buffer is full, or the client is gone
            self._counts["unsent"] += 1

    def _receive(self) -> int:
        arrived = libc.recvmmsg(self._descriptor, self._in.headers, BATCH, socket.MSG_DONTWAIT, None)
        if arrived < 0:
            error = libc.last_error()
            if error.errno not in (errno.EAGAIN, errno.EINTR):  # an ICMP error of an earlier answer
                self._counts["unsent"] += 1
        return int(arrived)

    def _answer(self, count: int) -> None:
        """The loop that all speed is made in: no call in it that is not needed for every question."""
        now, answers = time.monotonic(), self._kept.answers
        words, asked, names = self._in.words, self._in.bytes, self._in.addresses
        out, out_names, lengths = self._out.bytes, self._out.addresses, self._out.lengths
        client, left, spent, ready, kept = b"", 0, 0, 0, 0
        for place in range(count):
            name = place * _SOCKADDR
            address = names[name + 4 : name + 8].tobytes()
            if address != client:
                if spent:
                    self._clients.spend(client, spent)
                client, spent, left = address, 0, self._clients.allowance(address, now)
            if left <= spent:
                self._counts["strangers" if left < 0 else "too_many"] += 1
                continue
            spent += 1
            start = place * QUESTION
            end = start + words[place * _WORDS + _LENGTH]
            answer = answers.get(asked[start + 2 : end].tobytes())
            if answer is None:
                answer = self._miss(asked[start:end].tobytes(), names[name : name + _SOCKADDR].tobytes(), place)
                if answer is None:
                    continue
                answer = answer[2:]
            else:
                kept += 1
            at = ready * ANSWER
            size = len(answer) + 2
            out[at : at + 2] = asked[start : start + 2]
            out[at + 2 : at + size] = answer
            lengths[2 * ready + 1] = size
            out_names[ready * _SOCKADDR : ready * _SOCKADDR + 8] = names[name : name + 8]
            ready += 1
        if spent:
            self._clients.spend(client, spent)
        self._counts["asked"] += count
        self._counts["kept"] += kept
        self._send(ready)

    def _miss(self, question: bytes, name: bytes, place: int) -> bytes | None:
        """What is not kept; its answer if there is one at once that fits."""
        if self._in.words[place * _WORDS + _FLAGS] & socket.MSG_TRUNC:
            self._counts["malformed"] += 1
            return None
        address = socket.inet_ntoa(name[4:8]), int.from_bytes(name[2:4], "big")
        return self._slow(question, address)

    def _send(self, count: int) -> None:
        """Sends the first ``count`` answers; one that cannot be sent holds up no other."""
        done = 0
        while done < count:
            headers = ctypes.byref(self._out.headers, done * _HEADER)
            sent = libc.sendmmsg(self._descriptor, headers, count - done, socket.MSG_DONTWAIT)
            if sent > 0:
                done += sent
                continue
            self._counts["unsent"] += 1
            if libc.last_error().errno == errno.EAGAIN:
                self._counts["unsent"] += count - done - 1
                return
            done += 1
