"""What the daemon and the worker say to each other: one message a packet of the control socket, in MessagePack.

===============  ======================================
to the worker
===============  ======================================
:class:`Open`    a new port; its socket comes with it
:class:`Change`  other endpoints for one that is open
:class:`Close`   one that is not needed any more
:class:`Start`   all ports have been told
:class:`Ask`     wants a :class:`Status` of that number
from the worker
:class:`Ready`   it has no rights, and serves all ports
:class:`Status`  how many, and what has happened
===============  ======================================
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

Endpoint: TypeAlias = tuple[str, int]
"""Address and port."""


class Open(msgspec.Struct, frozen=True, tag=True):
    """A new port, whose listening or bound socket comes with the message.

    Attributes:
        number: by which it is called from then on.
        protocol: ``TCP`` or ``UDP``.
        affinity: seconds that a client keeps its endpoint; 0: it does not.
    """

    number: int
    protocol: str
    endpoints: tuple[Endpoint, ...]
    affinity: int = 0


class Change(msgspec.Struct, frozen=True, tag=True):
    """Other endpoints for one that is open."""

    number: int
    endpoints: tuple[Endpoint, ...]
    affinity: int = 0


class Close(msgspec.Struct, frozen=True, tag=True):
    """One that is not needed any more; its TCP connections go on."""

    number: int


class Start(msgspec.Struct, frozen=True, tag=True):
    """See the module."""


class Ask(msgspec.Struct, frozen=True, tag=True):
    """See the module."""

    number: int


class Ready(msgspec.Struct, frozen=True, tag=True):
    """See the module."""


class Status(msgspec.Struct, frozen=True, tag=True):
    """The answer.

    Attributes:
        number: of the question.
        ports: open ones.
        connections, flows: TCP connections and UDP clients now.
        dialled: connections and flows that got an endpoint; ``moved_on``: dials that failed, so that the next endpoint
            was tried; ``failed``: connections for which none answered; ``turned_away``: there were too many.
    """

    number: int = 0
    ports: int = 0
    connections: int = 0
    flows: int = 0
    dialled: int = 0
    moved_on: int = 0
    failed: int = 0
    turned_away: int = 0


ToWorker: TypeAlias = Open | Change | Close | Start | Ask
FromWorker: TypeAlias = Ready | Status

encode = msgspec.msgpack.Encoder().encode
decode_to_worker = msgspec.msgpack.Decoder(Open | Change | Close | Start | Ask).decode
decode_from_worker = msgspec.msgpack.Decoder(Ready | Status).decode

WAITING = 512
"""Connections to a port that may wait to be accepted."""

LONGEST = 1 << 17
"""Bytes of one message, less than a socket's buffer (``net.core.wmem_default``)."""

MOST_ENDPOINTS = 4000
"""Of one port, so that they fit into a message: each has 20 bytes at most."""
