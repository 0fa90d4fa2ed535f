"""Proving that what is left unfinished reaches a peer whole, and telling peers when it no longer would.

What nodes say to each other about it is a ping from tunnel address to tunnel address (``struct question`` of
overlay.bpf.c, where the proof is explained)::

    IPv4 20 | ICMP echo or echo reply 8 | 0 4 | kind 8 | secret 8 | asked 8     56 bytes; the last three in host order

To flanneld, and to agents of other versions, it is just that: one inner packet, a ping.
"""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from ipaddress import IPv4Address, IPv4Network

from overlay.datapath.kernel.maps import Endpoint, Peers
from overlay.model import PeerTable
from overlay.packet import checksum, ip, virtio

ETH_P_IP = 0x0800
SOL_PACKET, PACKET_VNET_HDR = 263, 15
"""linux/if_packet.h."""
_CLOCK_MONOTONIC_COARSE = 6

_ECHO, _ECHO_REPLY = 8, 0
_CHECKSUM_AT = 2
_QUESTION, _FAREWELL = 0x6E6573736F6C6F68, 0x6C6C657765726166
_PING = struct.Struct("=BBHHHIQQQ")
_TTL = 64

_EAGER = 3
"""Questions without an answer that are followed by another as soon as one is wanted."""
_SELDOM = 60.0
"""Seconds between two questions at most, to who never answers: each counts there as a ping with a wrong checksum."""
_CANDIDATES = 64

log = logging.getLogger(__name__)


def ticks_per_second() -> int:
    """The kernel's HZ: the coarse clock goes on once a tick."""
    return round(1 / time.clock_getres(_CLOCK_MONOTONIC_COARSE))


def question(own: IPv4Address, peer: IPv4Address, secret: int) -> bytes:
    """What a packet socket with PACKET_VNET_HDR sends: a ping whose checksum is left to be finished."""
    unfinished = virtio.CODEC.pack(virtio.NEEDS_CSUM, virtio.GSO_NONE, 0, 0, ip.HEADER_LEN, _CHECKSUM_AT)
    return unfinished + _packet(own, peer, _ECHO, _QUESTION, secret, finished=False)


def farewell(own: IPv4Address, peer: IPv4Address) -> bytes:
    """An inner packet: from now on ``own`` is behind a socket. An answer to no question, so nobody else minds it."""
    return _packet(own, peer, _ECHO_REPLY, _FAREWELL, 0, finished=True)


def _packet(own: IPv4Address, peer: IPv4Address, kind: int, what: int, secret: int, *, finished: bool) -> bytes:
    ping = bytearray(_PING.pack(kind, 0, 0, 0, 0, 0, what, secret, time.monotonic_ns()))
    if finished:
        ping[_CHECKSUM_AT : _CHECKSUM_AT + 2] = checksum.checksum(ping).to_bytes(2, "big")
    header = bytearray(
        struct.pack("!BBHHHBBH4s4s", 0x45, 0, ip.HEADER_LEN + len(ping), 0, 0x4000, _TTL, 1, 0, own.packed, peer.packed)
    )
    header[ip.CHECKSUM_AT : ip.CHECKSUM_AT + 2] = checksum.checksum(header).to_bytes(2, "big")
    return bytes(header + ping)


class Patience:
    """Whom to ask now: whoever answers every time that it is wanted, others more and more seldom."""

    def __init__(self) -> None:
        self._unanswered: dict[IPv4Network, tuple[int, float]] = {}

    def asks(self, subnet: IPv4Network, now: float, *, proven: bool) -> bool:
        """Whether to ask the peer of ``subnet``, whose last question was answered if ``proven``; remembers that."""
        number, due = (0, now) if proven else self._unanswered.get(subnet, (0, now))
        if now < due:
            return False
        pause = 0.0 if number < _EAGER else min(2.0 ** (number - _EAGER), _SELDOM)
        self._unanswered[subnet] = (number + 1, now + pause)
        return True

    def asked(self) -> list[IPv4Network]:
        """Who has been asked, and is still a peer."""
        return list(self._unanswered)

    def keep(self, table: PeerTable) -> None:
        """Forgets who is no peer (any more)."""
        for subnet in self._unanswered.keys() - table.peers.keys():
            del self._unanswered[subnet]


class Asker:
    """Asks the peers for which the programs want a proof.

    Args:
        device: the TUN device; what is sent out of it meets the programs, and the routes, as everything else.

    Raises:
        OSError: this process may not have a packet socket (CAP_NET_RAW, RestrictAddressFamilies=).
    """

    def __init__(self, device: str, endpoint: Endpoint, peers: Peers) -> None:
        self._device, self._endpoint, self._peers = device, endpoint, peers
        self._patience = Patience()
        self._table: PeerTable | None = None
        # Protocol 0: it sends only, and gets nothing.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)

    def close(self) -> None:
        self._socket.close()

    def ask(self, table: PeerTable, now: float) -> int:
        """Asks whom it is worth asking now; returns how many. An error of the device is not ours to report."""
        if table is not self._table:
            self._patience.keep(table)
            self._table = table
        asked = 0
        for subnet in set(self._wanted(table)):
            if not self._patience.asks(subnet, now, proven=self._peers.proven(subnet)):
                continue
            packet = question(self._endpoint.subnet.network_address, subnet.network_address, self._endpoint.secret)
            with suppress(OSError):
                self._socket.sendto(packet, (self._device, ETH_P_IP))
                asked += 1
        return asked

    def describe(self) -> str:
        """How many of those to which something is sent have a proof, for people."""
        asked = self._patience.asked()
        return f"{sum(map(self._peers.proven, asked))} of {len(asked)} peers take packets unfinished"

    def _wanted(self, table: PeerTable) -> Iterator[IPv4Network]:
        for destination in self._peers.wishes():
            if (peer := table.lookup(destination)) is not None:
                yield peer.subnet


def say_farewell(endpoint: Endpoint, peers: PeerTable) -> None:
    """Tells every peer, once and without an answer; who does not get it finds out by asking, within seconds."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
        try:
            _bind_below_flow_ports(udp, endpoint)
            for subnet, peer in peers.peers.items():
                packet = farewell(endpoint.subnet.network_address, subnet.network_address)
                with suppress(OSError):  # no route to this one
                    udp.sendto(packet, (str(peer.public_ip), endpoint.port))
        except OSError as error:
            log.info("peers could not be told that this node leaves the kernel path: %s", error.strerror)


def _bind_below_flow_ports(udp: socket.socket, endpoint: Endpoint) -> None:
    """The tunnel's own port may be taken; agents of an older version tell by the port that it is a socket's."""
    for port in range(endpoint.port, endpoint.port + _CANDIDATES):
        try:
            udp.bind((str(endpoint.address), port))
        except OSError as error:
            refused = error
        else:
            return
    raise refused
