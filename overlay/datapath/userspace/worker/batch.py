"""Many datagrams with one system call: recvmmsg(2), where the kernel does not put them together (UDP_GRO) itself.

Python's own ``recvmsg_into`` takes one datagram a call, which costs several times what the datagram itself does. Here
the kernel writes up to COUNT of them side by side. It has to be told where each goes before anybody knows how long each
is, so all are *expected* to have the size of those before. Where that is, and what becomes of a longer one, is the
:class:`~overlay.datapath.userspace.worker.arrivals.Arrivals`' affair.
"""

from __future__ import annotations

import ctypes
import socket
from ctypes import c_int, c_size_t, c_uint
from functools import lru_cache

import numpy as np

from overlay.datapath.userspace.worker.arrivals import MAX_SLOTS, Arrivals
from overlay.linux import libc
from overlay.linux.sockopt import UDP_GRO
from overlay.packet import ip

COUNT = MAX_SLOTS
"""Datagrams a call at most."""


class _Iovec(ctypes.Structure):
    _fields_ = (("base", c_size_t), ("length", c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", c_size_t),
        ("name_length", c_uint),
        ("iovecs", c_size_t),
        ("iovec_count", c_size_t),
        ("control", c_size_t),
        ("control_length", c_size_t),
        ("flags", c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("header", _Msghdr), ("length", c_uint))


_NAME = np.dtype([("family", "=u2"), ("port", ">u2"), ("address", ">u4"), ("zero", "V8")])
"""``struct sockaddr_in``."""
_CONTROL = np.dtype([("length", np.uintp), ("level", np.intc), ("type", np.intc), ("gro_size", np.intc), ("pad", "V4")])
"""``struct cmsghdr`` with the one message that is asked for."""


class Batch:
    """The headers of one call; the datagrams go into ``arrivals``."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._empty: list[str] = []
        self._arrivals = arrivals
        self._expected = 0
        self._slots = np.arange(COUNT, dtype=np.uintp)
        self._names = np.zeros(COUNT, _NAME)
        self._controls = np.zeros(COUNT, _CONTROL)
        iovecs = np.zeros((COUNT, 2), np.dtype(_Iovec))
        self._messages = np.zeros(COUNT, np.dtype(_Mmsghdr))
        headers = self._messages["header"]
        for field, array in (("name", self._names), ("control", self._controls), ("iovecs", iovecs)):
            headers[field] = array.ctypes.data + self._slots * np.uintp(array.strides[0])
        headers["iovec_count"] = 2
        headers["name_length"] = _NAME.itemsize
        self._iovecs = iovecs
        self._first = self._messages.ctypes.data
        self._layout = (-1, -1)
        self._lengths, self._addresses = self._messages["length"], self._names["address"]
        self._control_lengths = headers["control_length"]
        self._buffer = arrivals.array.ctypes.data
        self._aside = np.array([arrivals.aside(slot) for slot in range(COUNT)], np.uintp)

    def receive(self, udp: socket.socket, size: int) -> bool:
        """Receives into the arrivals, which must not be full.

        Args:
            udp: the socket.
            size: bytes of the datagram before.

        Returns:
            Whether there may be more.

        Raises:
            OSError: what the underlay says about an earlier datagram; BlockingIOError: nothing is there.
        """
        expected = max(size, self._expected)
        most = self._arrivals.open(expected)
        count = self._call(udp, expected, most)
        sender = int(self._addresses[0])
        odd = self._lengths[:count] != expected
        odd |= self._addresses[:count] != sender
        odd |= self._control_lengths[:count] != 0
        self._sort_out(expected, _dotted(sender), count, np.flatnonzero(odd).tolist())
        self._arrivals.close(count)
        return count == most

    def take_empty(self) -> list[str]:
        """Senders of datagrams without content, which do not become arrivals."""
        senders, self._empty = self._empty, []
        return senders

    def _call(self, udp: socket.socket, expected: int, most: int) -> int:
        if (layout := (self._arrivals.at, expected)) != self._layout:
            self._layout = layout
            base, length = self._iovecs["base"], self._iovecs["length"]
            base[:, 0] = self._slots * np.uintp(expected) + np.uintp(self._buffer + self._arrivals.at)
            base[:, 1] = self._aside + np.uintp(self._buffer + expected)
            length[:, 0] = expected
            length[:, 1] = ip.MAX_LEN + 1 - expected
        self._control_lengths[:] = _CONTROL.itemsize  # the kernel wrote what it used; a name's length stays the same
        count: int = libc.recvmmsg(udp.fileno(), self._first, most, socket.MSG_DONTWAIT, None)
        if count < 0:
            raise libc.last_error()
        return count

    def _sort_out(self, expected: int, sender: str, count: int, odd: list[int]) -> None:
        """Makes arrivals of ``count`` datagrams: those from ``sender`` that are as expected, and the ``odd`` ones."""
        done = longest = 0
        for slot in (*odd, count):
            if slot > done:
                self._arrivals.fill(done, slot, sender)
                longest = expected
            if slot < count:
                longest = max(longest, self._fill_odd(slot))
            done = slot + 1
        self._expected = longest

    def _fill_odd(self, slot: int) -> int:
        """Returns the datagram's length; 0 for a train, which tells nothing about datagrams that come by themselves."""
        length, sender = int(self._lengths[slot]), _dotted(int(self._addresses[slot]))
        if not length:
            self._empty.append(sender)
            return 0
        control = self._controls[slot]
        if self._control_lengths[slot] and (control["level"], control["type"]) == (socket.SOL_UDP, UDP_GRO):
            self._arrivals.fill_one(slot, length, int(control["gro_size"]), sender)
            return 0
        self._arrivals.fill_one(slot, length, length, sender)
        return length


@lru_cache(maxsize=1024)
def _dotted(address: int) -> str:
    return socket.inet_ntoa(address.to_bytes(4, "big"))
