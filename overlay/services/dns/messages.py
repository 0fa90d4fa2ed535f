"""What the daemon and the DNS worker say to each other over a SOCK_SEQPACKET socketpair: one message, one packet.

Messages are MessagePack, checked against their types when they are decoded; one that does not decode spoils nothing.

====================  ============================================================================================
to the worker
====================  ============================================================================================
:class:`Settings`     whose names it answers, to whom, and where everything else is asked; replaces the one before
:class:`Changes`      Services, namespaces and pods that are there now, or no more
:class:`Complete`     all that is known has been told, as of one revision: what is not there does not exist
:class:`Ask`          wants a :class:`Status` of that number
from the worker
:class:`Ready`        it has given up its rights and answers
:class:`Status`       its counters
====================  ============================================================================================
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from overlay.services.dns.zone import Entry, Pods, ServiceName

MAX_MESSAGE = 1 << 17
"""Bytes; a socket's default buffer (212,992) takes one and has room for more. A Service with 1000 endpoints has some 80
KB."""

BATCH_BYTES = 1 << 15
"""Of several changes in one message."""


class MalformedMessageError(ValueError):
    """A message that does not decode; it is counted and skipped."""


class Settings(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """How to answer.

    Attributes:
        domain: the cluster's.
        server: the address that is answered at.
        reverse: networks whose addresses have no names but those that are known here.
        clients: networks that are answered; nobody else is.
        upstreams: addresses to ask for everything else, in the order of preference.
        client_rate: questions a second that one client may ask; 0: as many as it likes.
    """

    domain: str
    server: str
    reverse: tuple[str, ...] = ()
    pods: Pods = Pods.INSECURE
    clients: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = ()
    client_rate: int = 0


class Changes(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """What is there now, and what no more. Pods are namespaces with addresses."""

    services: tuple[Entry, ...] = ()
    services_gone: tuple[ServiceName, ...] = ()
    namespaces: tuple[str, ...] = ()
    namespaces_gone: tuple[str, ...] = ()
    pods: tuple[tuple[str, str], ...] = ()
    pods_gone: tuple[tuple[str, str], ...] = ()


class Complete(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """See the module."""

    revision: int


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """See the module."""

    number: int


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """See the module."""


class Status(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """Its counters, by the names in ``worker/counts.py``; ``upstreams_down`` are those that do not answer,
    ``upstreams_looping`` those that ask us back."""

    number: int
    counters: dict[str, int]
    upstreams_down: tuple[str, ...] = ()
    upstreams_looping: tuple[str, ...] = ()


ToWorker: TypeAlias = Settings | Changes | Complete | Ask
FromWorker: TypeAlias = Ready | Status

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def encode(message: ToWorker | FromWorker) -> bytes:
    """One message as bytes."""
    return _encoder.encode(message)


def decode_to_worker(data: bytes) -> ToWorker:
    """Undoes :func:`encode`. Raises MalformedMessageError."""
    try:
        return _to_worker.decode(data)
    except msgspec.MsgspecError as error:
        raise MalformedMessageError(str(error)) from None


def decode_from_worker(data: bytes) -> FromWorker:
    """Undoes :func:`encode`. Raises MalformedMessageError."""
    try:
        return _from_worker.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedMessageError(str(error)) from None
