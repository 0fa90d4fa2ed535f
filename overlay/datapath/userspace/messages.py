"""What agent and worker say to each other over a SOCK_SEQPACKET socketpair: one message, one packet.

::

    agent → worker                                          worker → agent
    Configure  1 | own base 4 | own length 1 | port 2 | mtu 2    Ready   17 | text
                 | copy DSCP 1
    Peers      2 | count x ( operation 1 | base 4 | length 1 | public IP 4 )
    Ask        3 | number 4                                 Notice  18 | text
    Start      4                                            Status  19 | number 4 | n 2 | n x counter 8
    RouteMtus  5 | count x ( public IP 4 | MTU 2 )                     | m 2 | m x ( public IP 4 | MTU 2 ) | text

All integers are in network order, text is UTF-8; n is the number of counters that there are. The socket keeps message
boundaries, so a message that cannot be decoded spoils nothing that follows.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import NamedTuple, TypeAlias

from overlay.datapath.userspace.counters import COUNTER_NAMES
from overlay.text import harmless

MAX_MESSAGE = 32768
"""Bytes. Well below a socket's default buffer (212,992), so that several are under way at once."""


class MalformedMessageError(ValueError):
    """A message that does not decode; it is counted and skipped."""


class PeerChange(NamedTuple):
    """One step from the table that the worker has to the one it should have.

    ``base`` is the subnet's address, ``length`` its prefix length; ``public_ip`` does not matter where ``remove``.
    """

    remove: bool
    base: int
    length: int
    public_ip: int


@dataclass(frozen=True, slots=True)
class Configure:
    """The part of a TunnelSpec that a worker needs; replaces the one before."""

    own_base: int
    own_length: int
    port: int
    mtu: int
    copy_dscp: bool = False


@dataclass(frozen=True, slots=True)
class Peers:
    """Changes of the peer table, applied in order."""

    changes: Sequence[PeerChange]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for a Status with the same number."""

    number: int


@dataclass(frozen=True, slots=True)
class Start:
    """The configuration and the whole peer table are said: the worker may look at packets now."""


@dataclass(frozen=True, slots=True)
class RouteMtus:
    """The MTUs of this node's routes to peers, in bytes of outer packets, where routes have one; all that there are.

    Replaces the one before. ``mtus`` has pairs of the peer's underlay address as text and the MTU, at most MAX_PATHS.
    """

    mtus: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has given up its privileges and moves packets; ``detail`` says which offloads are on."""

    detail: str


@dataclass(frozen=True, slots=True)
class Status:
    """What the worker says of itself.

    Attributes:
        number: of the question.
        counters: in the order of ``counters.COUNTER_NAMES``.
        detail: which offloads are on, for people.
        path_mtus: peers' underlay addresses, and the largest inner packet in bytes that reaches each, as far as less
            is known than the interface allows; at most MAX_PATHS of them.
    """

    number: int
    counters: tuple[int, ...]
    detail: str
    path_mtus: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Notice:
    """Something an operator should read once."""

    text: str


ToWorker: TypeAlias = Configure | Peers | Ask | Start | RouteMtus
FromWorker: TypeAlias = Ready | Status | Notice


class _Type(IntEnum):
    """The first byte of a message."""

    CONFIGURE = 1
    PEERS = 2
    ASK = 3
    START = 4
    ROUTE_MTUS = 5
    READY = 17
    NOTICE = 18
    STATUS = 19


_CONFIGURE_BODY = struct.Struct("!IBHH?")
_CHANGE = struct.Struct("!?IBI")
_NUMBER = struct.Struct("!I")
_COUNT = struct.Struct("!H")
_STATUS_HEAD = struct.Struct("!IH")
_PATH = struct.Struct("!IH")
MAX_PATHS = 2048

MAX_CHANGES = (MAX_MESSAGE - 1) // _CHANGE.size
"""Peer changes that fit one message: 3,276."""
MAX_TEXT = 512
"""Bytes: what is shown to people is a line."""


def encode(message: ToWorker | FromWorker) -> bytes:
    """The bytes of ``message``, at most MAX_MESSAGE of them."""
    match message:
        case Configure():
            return bytes((_Type.CONFIGURE,)) + _CONFIGURE_BODY.pack(*astuple(message))
        case Peers():
            return bytes((_Type.PEERS,)) + b"".join(_CHANGE.pack(*change) for change in message.changes)
        case Ask():
            return bytes((_Type.ASK,)) + _NUMBER.pack(message.number)
        case Start():
            return bytes((_Type.START,))
        case RouteMtus():
            paths = [_PATH.pack(_number(peer), mtu) for peer, mtu in message.mtus[:MAX_PATHS]]
            return bytes((_Type.ROUTE_MTUS,)) + b"".join(paths)
        case Ready():
            return bytes((_Type.READY,)) + _encode_text(message.detail)
        case Status():
            head = _STATUS_HEAD.pack(message.number, len(message.counters))
            values = struct.pack(f"!{len(message.counters)}Q", *message.counters)
            paths = [_PATH.pack(*path) for path in message.path_mtus[:MAX_PATHS]]
            body = head + values + _COUNT.pack(len(paths)) + b"".join(paths)
            return bytes((_Type.STATUS,)) + body + _encode_text(message.detail)
        case Notice():
            return bytes((_Type.NOTICE,)) + _encode_text(message.text)


def decode_to_worker(data: bytes) -> ToWorker:
    """The message that the agent sent.

    Raises:
        MalformedMessageError: it is none, or holds impossible values.
    """
    try:
        match data[0]:
            case _Type.CONFIGURE:
                return _checked_configure(Configure(*_CONFIGURE_BODY.unpack(data[1:])))
            case _Type.PEERS:
                changes = [PeerChange(*fields) for fields in _CHANGE.iter_unpack(data[1:])]
                for change in changes:
                    _check_subnet(change.base, change.length)
                return Peers(changes)
            case _Type.ASK:
                return Ask(*_NUMBER.unpack(data[1:]))
            case _Type.START if len(data) == 1:
                return Start()
            case _Type.ROUTE_MTUS:
                return RouteMtus(tuple((_text(peer), mtu) for peer, mtu in _PATH.iter_unpack(data[1:])))
    except (struct.error, IndexError) as failure:
        raise MalformedMessageError(str(failure)) from failure
    raise MalformedMessageError(f"unknown type {data[0]}")


def decode_from_worker(data: bytes) -> FromWorker:
    """The message that the worker sent. The worker parses what strangers send, so it is trusted with nothing here.

    Raises:
        MalformedMessageError: it is none, or holds impossible values.
    """
    try:
        match data[0]:
            case _Type.READY:
                return Ready(_decode_text(data[1:]))
            case _Type.NOTICE:
                return Notice(_decode_text(data[1:]))
            case _Type.STATUS:
                return _decode_status(data)
    except (struct.error, IndexError) as failure:
        raise MalformedMessageError(str(failure)) from failure
    raise MalformedMessageError(f"unknown type {data[0]}")


def _decode_status(data: bytes) -> Status:
    number, count = _STATUS_HEAD.unpack_from(data, 1)
    if count != len(COUNTER_NAMES):
        raise MalformedMessageError(f"{count} counters, not {len(COUNTER_NAMES)}")
    at = 1 + _STATUS_HEAD.size
    counters = struct.unpack_from(f"!{count}Q", data, at)
    at += 8 * count
    (count,) = _COUNT.unpack_from(data, at)
    at += _COUNT.size
    paths = tuple(_PATH.unpack_from(data, at + _PATH.size * index) for index in range(count))
    return Status(number, counters, _decode_text(data[at + _PATH.size * count :]), paths)


def _checked_configure(message: Configure) -> Configure:
    _check_subnet(message.own_base, message.own_length)
    if not message.port or not message.mtu:
        raise MalformedMessageError("port and MTU are not 0")
    return message


def _number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "big")


def _text(address: int) -> str:
    return socket.inet_ntoa(address.to_bytes(4, "big"))


def _check_subnet(base: int, length: int) -> None:
    if length > 32 or base & (0xFFFFFFFF >> length):
        raise MalformedMessageError(f"{base:#010x}/{length} is no subnet")


def _encode_text(text: str) -> bytes:
    return text.encode()[:MAX_TEXT]


def _decode_text(data: bytes) -> str:
    return harmless(data[:MAX_TEXT])
