"""What is in the maps of sockets.bpf.c, as bytes and as facts. Pure; addresses and ports are in network order there."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

PLACES = 1 << 18
"""Of backends, in the array that all Services share."""

READY, DRAINING = (state.to_bytes(4, "little") for state in (1, 2))
"""Values of ``members``: may be chosen; or serves while it terminates, for whom it serves already."""

COUNTERS = ("chosen", "kept", "missing")
"""Names in the order of ``enum counter``: a backend chosen anew, an earlier one taken again, none there."""

_PORT = struct.Struct("!H")
_SERVICE = struct.Struct("=IIII")
_POOL = struct.Struct("=I")
_NAMESPACE = struct.Struct("=Q")
_KEY = struct.Struct("=4s2sH")
_BACKEND = struct.Struct("=4s2sHI")
_ADDRESS = struct.Struct("=4s2sH")
_SOCKET_PEER = struct.Struct("=Q4s2sH")

_NUMBERS = {"TCP": 6, "UDP": 17}
_NAMES = {number: name for name, number in _NUMBERS.items()}


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """An IPv4 address with a port: ``struct address``."""

    ip: IPv4Address
    port: int

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class Virtual:
    """A virtual address: ``struct service_key``. The protocol is ``TCP`` or ``UDP``."""

    at: Address
    protocol: str

    def pack(self) -> bytes:
        return _KEY.pack(self.at.ip.packed, _PORT.pack(self.at.port), _NUMBERS[self.protocol])

    @classmethod
    def unpack(cls, data: bytes) -> Virtual:
        ip, port, protocol = _KEY.unpack(data)
        return cls(_address(ip, port), _NAMES.get(protocol, str(protocol)))

    @staticmethod
    def has_hook(protocol: str) -> bool:
        """Whether sockets of this protocol pass the programs at all; SCTP's do not."""
        return protocol in _NUMBERS


@dataclass(frozen=True, slots=True)
class Entry:
    """What a virtual address leads to: ``struct service``.

    Attributes:
        pool: number of the backends, which several addresses may share.
        first, count: where they are in the array.
        affinity: seconds that a client keeps its backend; 0: it does not.
    """

    pool: int
    first: int
    count: int
    affinity: int

    def pack(self) -> bytes:
        return _SERVICE.pack(self.pool, self.first, self.count, self.affinity)

    @classmethod
    def unpack(cls, data: bytes) -> Entry:
        return cls(*_SERVICE.unpack(data))


def pack_backend(pool: int, at: Address) -> bytes:
    """``struct backend``: a value of ``backends``, a key of ``members``."""
    return _BACKEND.pack(at.ip.packed, _PORT.pack(at.port), 0, pool)


def unpack_backend(data: bytes) -> tuple[int, Address]:
    """The pool, and the backend."""
    ip, port, _, pool = _BACKEND.unpack(data)
    return pool, _address(ip, port)


def pack_place(index: int) -> bytes:
    """A key of ``backends`` or ``counters``."""
    return _POOL.pack(index)


def pack_namespace(cookie: int) -> bytes:
    """A key of ``inside``."""
    return _NAMESPACE.pack(cookie)


def unpack_namespace(data: bytes) -> int:
    """The cookie."""
    cookie: int = _NAMESPACE.unpack(data)[0]
    return cookie


def pack_socket_peer(cookie: int, at: Address) -> bytes:
    """A key of ``reverse``: which virtual address the socket means by ``at``."""
    return _SOCKET_PEER.pack(cookie, at.ip.packed, _PORT.pack(at.port), 0)


def unpack_address(data: bytes) -> Address:
    """``struct address``: a value of ``reverse``."""
    ip, port, _ = _ADDRESS.unpack(data)
    return _address(ip, port)


def _address(ip: bytes, port: bytes) -> Address:
    return Address(IPv4Address(ip), _PORT.unpack(port)[0])
