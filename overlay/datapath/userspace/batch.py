"""Many datagrams with one system call: recvmmsg(2), where the kernel does not put them together (UDP_GRO) itself.

Python's own ``recvmsg_into`` takes one datagram a call, which costs several times what the datagram itself does. Here
the kernel writes up to COUNT of them side by side. It has to be told where each goes before anybody knows how long each
is, so all are *expected* to have the size of those before; what is longer continues in a place aside.
"""

from __future__ import annotations

import ctypes
import os
import socket
from ctypes import c_int, c_size_t, c_uint, c_void_p

import numpy as np

from overlay.datapath.userspace.arrivals import ASIDE, CAPACITY, PLACE, Arrivals
from overlay.packet import ip

COUNT = ASIDE
"""Datagrams a call at most."""

SOL_UDP, UDP_GRO = 17, 104
"""linux/udp.h; the socket module does not name them."""


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

_libc = ctypes.CDLL(None, use_errno=True)
_libc.recvmmsg.argtypes = (c_int, c_void_p, c_uint, c_int, c_void_p)


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
        self._iovecs = iovecs
        self._lengths, self._addresses = self._messages["length"], self._names["address"]
        self._name_lengths, self._control_lengths = headers["name_length"], headers["control_length"]
        self._buffer = arrivals.array.ctypes.data
        self._aside = np.array([arrivals.place(number) for number in range(COUNT)], np.uintp)

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
        most = min(COUNT, (CAPACITY + PLACE - self._arrivals.at) // expected)
        count = self._call(udp, expected, most)
        lengths, addresses = self._lengths[:count], self._addresses[:count]
        sender = int(addresses[0])
        if (lengths == expected).all() and (addresses == sender).all() and not self._control_lengths[:count].any():
            self._arrivals.add(count * expected, expected, _dotted(sender))
        else:
            self._sort_out(expected, lengths.tolist(), addresses.tolist())
        return count == most

    def take_empty(self) -> list[str]:
        """Senders of datagrams without content, which do not become arrivals."""
        senders, self._empty = self._empty, []
        return senders

    def _call(self, udp: socket.socket, expected: int, most: int) -> int:
        base, length = self._iovecs["base"], self._iovecs["length"]
        base[:, 0] = self._slots * np.uintp(expected) + np.uintp(self._buffer + self._arrivals.at)
        base[:, 1] = self._aside + np.uintp(self._buffer + expected)
        length[:, 0] = expected
        length[:, 1] = ip.MAX_LEN + 1 - expected
        self._name_lengths[:] = _NAME.itemsize
        self._control_lengths[:] = _CONTROL.itemsize
        count: int = _libc.recvmmsg(udp.fileno(), self._messages.ctypes.data, most, socket.MSG_DONTWAIT, None)
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return count

    def _sort_out(self, expected: int, lengths: list[int], addresses: list[int]) -> None:
        """Makes arrivals of datagrams that are not all alike; in their order, each where it is."""
        arrivals = self._arrivals
        start = arrivals.at
        self._expected = 0
        for number, (length, address) in enumerate(zip(lengths, addresses, strict=True)):
            sender, at, size = _dotted(address), start + number * expected, length
            if not length:
                self._empty.append(sender)
                continue
            if length > expected:  # its beginning goes before the rest of it
                aside = arrivals.place(number)
                arrivals.view[aside : aside + expected] = arrivals.view[at : at + expected]
                at = aside
            control = self._controls[number]
            if self._control_lengths[number] and (control["level"], control["type"]) == (SOL_UDP, UDP_GRO):
                size = int(control["gro_size"])
            else:
                self._expected = max(self._expected, length)
            arrivals.put(at, length, size, sender)
        arrivals.at = start + len(lengths) * expected


def _dotted(address: int) -> str:
    return socket.inet_ntoa(address.to_bytes(4, "big"))
