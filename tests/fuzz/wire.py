"""A worker's inward half between real UDP sockets and a file in the TUN's place, and the oracle beside it.

The senders have one socket each; what they send, single or in trains of UDP_SEGMENT, reaches the worker's socket by
loopback, in order. The file keeps what the worker writes, also in order, and without a limit. So what entered can be
compared with what should have, byte by byte.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
import time
from collections.abc import Sequence
from ipaddress import IPv4Address

import numpy as np

from overlay.datapath.userspace.messages import Configure, PeerChange, Peers, encode
from overlay.datapath.userspace.sockets import open_sockets
from overlay.datapath.userspace.worker.__main__ import BUDGET, make_worker
from overlay.linux.sockopt import UDP_SEGMENT
from overlay.packet import ip, virtio
from overlay.packet.segment import segment, segmented_length
from overlay.packet.transport import layout_of
from tests.support.admission import OWN, PEERS, VECTORS, Outcome, oracle, plain_checksum
from tests.support.workers import DECISIONS, EVERYTHING, PATIENCE

Received = tuple[str, list[bytes]]
"""One send: the sender, and datagrams of one size but the last, which leave as a train if there are several."""

SENDERS = sorted({str(vector.outer_source) for vector in VECTORS})
PEER_ADDRESSES = frozenset(str(peer.public_ip) for peer in PEERS.peers.values())
MODES = (EVERYTHING, "plain")
"""With trains put together by the kernel (UDP_GRO) and without."""
TRUESIZE = 1280
"""Bytes of a receive buffer that a datagram takes beside its content."""
MAX_TRAIN = 64
"""Datagrams of one send: UDP_MAX_SEGMENTS of older kernels."""


class Wire:
    """A worker of 10.0.1.0/24 with the peers of :mod:`tests.support.admission`, and a socket for each sender.

    Every address of that module has its counterpart on loopback: 172.31.0.2 is 127.31.0.2.
    """

    def __init__(self, mode: str = EVERYTHING) -> None:
        (self._sockets,) = asyncio.run(open_sockets(_loopback("172.31.0.1"), 0, 1))
        udp = self._sockets.receiving
        self._address = udp.getsockname()
        self._room = udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        self._senders = {sender: _bound(_loopback(sender)) for sender in SENDERS}
        self._written = os.memfd_create("tun")
        self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._kept = control
        self._vnet_hdr = mode != "plain"
        self._worker = make_worker(self._written, (udp, udp), control, mode)
        self._tell(encode(Configure(int(OWN.network_address), OWN.prefixlen, self._address[1], 1472)))
        changes = [
            PeerChange(False, int(subnet.network_address), subnet.prefixlen, int(_loopback(peer.public_ip)))
            for subnet, peer in PEERS.peers.items()
        ]
        self._tell(encode(Peers(changes)))

    def check(self, received: Sequence[Received]) -> int:
        """Sends everything, has the worker receive it, and compares; returns how many datagrams entered."""
        entered = 0
        for burst in self._bursts(received):
            entered += self._check(burst)
        return entered

    def close(self) -> None:
        """Closes everything."""
        self._sockets.close()
        os.close(self._written)
        for each in (*self._senders.values(), self._control, self._kept):
            each.close()

    def _bursts(self, received: Sequence[Received]) -> list[list[Received]]:
        """As much at once as the receive buffer holds."""
        bursts: list[list[Received]] = [[]]
        taken = 0
        for sender, datagrams in received:
            size = sum(map(len, datagrams)) + TRUESIZE * len(datagrams)
            if bursts[-1] and taken + size > self._room:
                bursts.append([])
                taken = 0
            bursts[-1].append((sender, datagrams))
            taken += size
        return bursts

    def _check(self, burst: Sequence[Received]) -> int:
        before = self._decisions()
        sent = forged = 0
        expected = []
        for sender, datagrams in burst:
            self._send(sender, datagrams)
            sent += len(datagrams)
            for datagram in datagrams:
                verdict = oracle(IPv4Address(sender), datagram, OWN, PEERS)
                if verdict is Outcome.ENTERS:
                    expected.append(comparable(hop(datagram)))
                forged += sender not in PEER_ADDRESSES
        self._drain(sum(before.values()) + sent)
        decided = {name: count - before[name] for name, count in self._decisions().items()}
        entered = [comparable(each) for each in self._entered()]
        if entered != expected:
            at = next((n for n, (one, other) in enumerate(zip(entered, expected, strict=False)) if one != other), -1)
            raise AssertionError(
                f"{len(entered)} entered, not {len(expected)}; at {at}\nentered  {brief(entered[at:])}\n"
                f"expected {brief(expected[at:])}\n{decided}"
            )
        if sum(decided.values()) != sent or decided["rx_packets"] != len(expected):
            raise AssertionError(f"of {sent} datagrams, of which {len(expected)} are to enter: {decided}")
        if decided["drop_outer_source"] != forged:
            raise AssertionError(f"{forged} came from strangers: {decided}")
        return len(expected)

    def _send(self, sender: str, datagrams: list[bytes]) -> None:
        udp = self._senders[sender]
        if len(datagrams) == 1:
            udp.sendto(datagrams[0], self._address)
        else:
            size = struct.pack("=H", len(datagrams[0]))
            udp.sendmsg(datagrams, [(socket.SOL_UDP, UDP_SEGMENT, size)], 0, self._address)

    def _drain(self, decided: int) -> None:
        """Until as many have been decided about, and once more to see that there were no more."""
        deadline = time.monotonic() + PATIENCE
        while sum(self._decisions().values()) < decided and time.monotonic() < deadline:
            self._worker.inbound.drain(BUDGET)
        self._worker.inbound.drain(BUDGET)

    def _decisions(self) -> dict[str, int]:
        return {name: getattr(self._worker.counters, name) for name in DECISIONS}

    def _entered(self) -> list[bytes]:
        """The packets that a kernel would see, joined ones cut again; the file is empty then."""
        written = os.pread(self._written, os.fstat(self._written).st_size, 0)
        os.ftruncate(self._written, 0)
        os.lseek(self._written, 0, os.SEEK_SET)
        found: list[bytes] = []
        at, header = 0, virtio.LENGTH if self._vnet_hdr else 0
        while at < len(written):
            start = at + header
            length = int.from_bytes(written[start + 2 : start + 4], "big")
            assert length >= ip.HEADER_LEN, f"no packet: {brief([written[at:]])}"
            packet = written[start : start + length]
            joined = self._vnet_hdr and written[at + 1] != virtio.GSO_NONE
            found += cut(packet, int.from_bytes(written[at + 4 : at + 6], sys.byteorder)) if joined else [packet]
            at = start + length
        return found

    def _tell(self, message: bytes) -> None:
        self._control.send(message)
        assert self._worker.take_instruction()


def hop(packet: bytes) -> bytes:
    """A valid datagram as it enters: trailing bytes off, TTL one less, checksum right."""
    packet = packet[: int.from_bytes(packet[2:4], "big")]
    length = 4 * (packet[0] & 15)
    header = packet[:8] + bytes((packet[8] - 1, packet[9])) + b"\0\0" + packet[12:length]
    # Of the two zeros, the incremental update (RFC 1624) may leave the other one.
    updated = int.from_bytes(packet[10:12], "big") + 0x100
    updated = (updated + (updated >= 0xFFFF)) & 0xFFFF
    fresh = plain_checksum(header)
    field = updated if updated % 0xFFFF == fresh % 0xFFFF else fresh
    return header[:10] + struct.pack("!H", field) + header[12:] + packet[length:]


def comparable(packet: bytes) -> bytes:
    """Without what means nothing: the identification of a packet that is never fragmented (RFC 6864, section 4.1)."""
    if packet[6] & 0x40 and not (packet[6] & 0x3F or packet[7]):
        return packet[:4] + b"\0\0" + packet[6:10] + b"\0\0" + packet[12:]
    return packet


def cut(packet: bytes, gso_size: int) -> list[bytes]:
    """What the kernel makes of a joined packet."""
    layout = layout_of(packet, len(packet))
    assert layout is not None
    total, size = segmented_length(len(packet), layout.header, gso_size), layout.header + gso_size
    out = np.zeros(total + size, np.uint8)
    segment(np.frombuffer(packet, np.uint8), layout, gso_size, out)
    return [out[at : min(at + size, total)].tobytes() for at in range(0, total, size)]


def brief(seen: list[bytes]) -> str:
    """Enough to find a difference by."""
    return " ".join(each[:48].hex() for each in seen[:20])


def trains_of(datagrams: Sequence[tuple[str, bytes]]) -> list[Received]:
    """Sends as trains wherever they can be: one sender and one size, the last shorter."""
    out: list[Received] = []
    for sender, datagram in datagrams:
        if datagram and out and out[-1][0] == sender:
            train = out[-1][1]
            most = min(MAX_TRAIN, ip.MAX_UDP_PAYLOAD // max(1, len(train[0])))
            if len(train) < most and len(train[-1]) == len(train[0]) >= len(datagram):
                train.append(datagram)
                continue
        out.append((sender, [datagram]))
    return out


def _loopback(address: str | IPv4Address) -> IPv4Address:
    return IPv4Address(b"\x7f" + IPv4Address(address).packed[1:])


def _bound(address: IPv4Address) -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((str(address), 0))
    return udp
