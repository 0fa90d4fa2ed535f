"""Hostile datagrams and control messages against the oracle: nothing enters that it refuses, nothing crashes.

With coverage guidance, if atheris is installed (it is no dependency of the project)::

    python -m tests.fuzz.datagrams --atheris -max_total_time=600

Without, mutations of almost valid datagrams, at the rate that plain Python allows::

    python -m tests.fuzz.datagrams --count 10000000
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from types import FunctionType

from overlay.datapath.userspace.answers import Answers
from overlay.datapath.userspace.batch import Batch
from overlay.datapath.userspace.counters import COUNTER_NAMES, Counters, add
from overlay.datapath.userspace.inbound import Inbound
from overlay.datapath.userspace.messages import (
    MAX_TEXT,
    Ask,
    Configure,
    MalformedMessageError,
    Notice,
    PeerChange,
    Peers,
    Ready,
    Start,
    Status,
    decode_from_worker,
    decode_to_worker,
    encode,
)
from overlay.datapath.userspace.routes import Routes
from overlay.datapath.userspace.tunport import TunPort
from overlay.datapath.userspace.underlay import Underlay
from overlay.packet import Bytes, virtio
from tests.support import packets
from tests.support.admission import OWN, PEERS, VECTORS, Outcome, mutations, oracle, plain_checksum
from tests.support.packets import Packet, segment_plainly, successor

Received = tuple[str, list[bytes]]
"""One receive: the sender, and datagrams of one size but the last."""

CONTROL = tuple(
    encode(message)
    for message in (
        Configure(0x0A000100, 24, 8285, 1472),
        Peers([PeerChange(False, 0x0A000200, 24, 0xAC1F0002), PeerChange(True, 0x0A000300, 24, 0)]),
        Ask(7),
        Start(),
        Ready("offloads: TSO"),
        Notice("the kernel refuses \x1b[31mUDP_SEGMENT\n2026-11-21 INFO agent: \u202eall is well"),
        Status(7, tuple(range(len(COUNTER_NAMES))), "offloads: TSO", ((0xAC1F0002, 1272), (0xAC1F0003, 68))),
    )
)
"""Messages to begin with."""


class MemoryTun(TunPort):
    """Keeps what is written."""

    def __init__(self, counters: Counters) -> None:
        super().__init__(-1, counters, vnet_hdr=True, udp_segmentation=True)
        self.written: list[bytes] = []

    def write(self, packet: Bytes) -> bool:
        self.written.append(virtio.FINISHED + bytes(packet))
        return True

    def write_joined(self, packet: Bytes, *, udp: bool) -> bool:
        self.written.append(bytes(packet))
        return True


class MemoryUnderlay(Underlay):
    """Gives what it was given to receive, and forgets what is sent."""

    def __init__(self) -> None:
        self.waiting: list[Received] = []
        self.port = 8285

    def receive(self, buffer: memoryview) -> tuple[int, int, str] | None:
        if not self.waiting:
            return None
        sender, datagrams = self.waiting.pop(0)
        data = b"".join(datagrams)
        buffer[: len(data)] = data
        return len(data), len(datagrams[0]), sender

    def receive_batch(self, batch: Batch, size: int) -> bool:
        return bool(self.waiting)

    def send(self, packet: Bytes, peer: str) -> None:
        pass


class Target:
    """One worker's inward half, and the oracle beside it."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.tun, self.underlay = MemoryTun(self.counters), MemoryUnderlay()
        routes = Routes()
        routes.own(int(OWN.network_address), OWN.prefixlen)
        for peer in PEERS.peers.values():
            routes.add(int(peer.subnet.network_address), peer.subnet.prefixlen, int(peer.public_ip))
        self.inbound = Inbound(self.tun, self.underlay, routes, self.counters, Answers(self.counters))

    def check(self, received: Sequence[Received]) -> int:
        """Lets the worker receive, and compares; returns how many datagrams entered."""
        expected = [
            comparable(hop(datagram))
            for sender, datagrams in received
            for datagram in datagrams
            if oracle(IPv4Address(sender), datagram, OWN, PEERS) is Outcome.ENTERS
        ]
        self.underlay.waiting = list(received)
        self.tun.written.clear()
        while self.underlay.waiting:
            self.inbound.drain(len(received))
        entered = [comparable(each) for written in self.tun.written for each in undone(written)]
        if entered != expected:
            raise AssertionError(f"entered {brief(entered)}\nexpected {brief(expected)}")
        return len(expected)


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


def brief(seen: list[bytes]) -> str:
    """Enough to find a difference by."""
    return " ".join(each[:48].hex() for each in seen[:20])


def undone(written: bytes) -> list[bytes]:
    """The packets that the kernel sees: joined ones cut again."""
    _, gso_type, _, gso_size, _, _ = virtio.CODEC.unpack_from(written)
    packet = written[virtio.LENGTH :]
    return segment_plainly(packets.decode(packet), gso_size) if gso_type else [packet]


def trains_of(datagrams: Sequence[tuple[str, bytes]]) -> list[Received]:
    """Receives as the kernel could put them together: one sender and one size, the last shorter."""
    out: list[Received] = []
    for sender, datagram in datagrams:
        if not datagram:
            continue
        if out and out[-1][0] == sender:
            train = out[-1][1]
            if len(train) < 64 and len(train[-1]) == len(train[0]) >= len(datagram):
                train.append(datagram)
                continue
        out.append((sender, [datagram]))
    return out


def check_control(data: bytes) -> None:
    """Control messages decode or are malformed, nothing else; and what decodes can be added up and shown."""
    with contextlib.suppress(MalformedMessageError):
        decode_to_worker(data)
    try:
        message = decode_from_worker(data)
    except MalformedMessageError:
        return
    text = message.text if isinstance(message, Notice) else message.detail
    if not text.isprintable() or len(text) > MAX_TEXT:
        raise AssertionError(f"not to be shown: {text!r}")
    if isinstance(message, Status):
        add({}, message.counters)


def from_bytes(target: Target) -> Callable[[bytes], None]:
    """A function of raw bytes, as a fuzzing engine wants it: they choose senders, lengths, flows and damage."""
    senders = sorted({str(vector.outer_source) for vector in VECTORS})
    wholes = [
        Packet(payload=bytes(range(200)) * 4, source_port=40000 + dont_fragment, dont_fragment=dont_fragment)
        for dont_fragment in (True, False)
    ]
    flows = [each for whole in wholes for each in (*segment_plainly(whole, 100), successor(whole, b"").encode())]
    seeds = [*flows, *(vector.datagram for vector in VECTORS)]

    def run(data: bytes) -> None:
        check_control(data)
        check_control(edited(data))
        datagrams = []
        pieces = iter(data)
        for choice in pieces:
            seed = bytearray(seeds[choice % len(seeds)])
            sender, edits = next(pieces, 0), next(pieces, 0)
            for _ in range(edits % 4):
                at, value = next(pieces, 0), next(pieces, 0)
                if seed:
                    seed[at % len(seed)] = value
            if edits & 0x80 and len(seed) >= 20:
                length = max(20, 4 * (seed[0] & 15))
                seed[10:12] = b"\0\0"
                seed[10:12] = plain_checksum(bytes(seed[:length])).to_bytes(2, "big")
            datagrams.append((senders[sender % len(senders)], bytes(seed[: len(seed) - (edits >> 2 & 7)])))
        target.check(trains_of(datagrams))

    return run


def edited(data: bytes) -> bytes:
    """One of CONTROL, as the first byte chooses, up to four bytes of it changed."""
    message = bytearray(CONTROL[data[0] % len(CONTROL)] if data else b"")
    for at, value in itertools.islice(zip(data[1::2], data[2::2], strict=False), 4):
        message[at % len(message)] ^= value
    return bytes(message)


def with_mutations(target: Target, count: int, seed: int) -> int:
    """Runs ``count`` mutated datagrams in trains, flows among them; returns how many entered."""
    chance = random.Random(seed)
    entered = done = 0
    report = time.monotonic()
    stream = mutations(seed, count)
    while burst := [(str(sender), datagram) for sender, datagram in itertools.islice(stream, 200)]:
        for _ in range(2):
            at = chance.randrange(len(burst))
            burst[at:at] = [("172.31.0.2", each) for each in conversation(chance)]
        entered += target.check(trains_of(burst))
        check_control(chance.randbytes(chance.randrange(60)))
        for _ in range(10):
            message = edited(chance.randbytes(1 + 2 * chance.randrange(4)))
            check_control(message[: chance.choice((None, chance.randrange(1 + len(message))))])
        done += len(burst)
        if time.monotonic() - report > 10:
            report = time.monotonic()
            print(f"{done:,} datagrams, {entered:,} entered, {memory()} KB", flush=True)
    print(f"{done:,} datagrams, {entered:,} entered, none that the oracle refuses, {memory()} KB", flush=True)
    return entered


def conversation(chance: random.Random) -> list[bytes]:
    """Up to three flows one after the other, so that one train may hold all of them, each as :func:`damaged` leaves it.

    They differ in port, in whether they may be fragmented, and in whether the last segment is whole.
    """
    protocol = chance.choice((packets.TCP, packets.UDP))
    out: list[bytes] = []
    for number in range(chance.randrange(1, 4)):
        whole = Packet(
            protocol=protocol,
            source_port=40000 + number,
            dont_fragment=chance.random() < 0.5,
            identification=chance.choice((0, 1, 0xFFFD)),
            payload=chance.randbytes(chance.choice((chance.randrange(1, 900), 100 * chance.randrange(1, 9)))),
        )
        out += damaged(chance, segment_plainly(whole, 100))
    return out


def damaged(chance: random.Random, segments: list[bytes]) -> list[bytes]:
    """A flow with, half the time, one of: a byte changed, a segment lost, doubled, or exchanged with the next; all
    checksums right, an identification changed, the right to fragment changed, or an empty segment at the end."""
    at = chance.randrange(len(segments))
    match chance.randrange(14):
        case 0:
            broken = bytearray(segments[at])
            broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
            segments[at] = bytes(broken)
        case 1:
            del segments[at]
        case 2:
            segments.insert(at, segments[at])
        case 3:
            segments[at : at + 2] = reversed(segments[at : at + 2])
        case 4:
            segments[at] = replace(packets.decode(segments[at]), identification=chance.randrange(2**16)).encode()
        case 5:
            segment = packets.decode(segments[at])
            segments[at] = replace(segment, dont_fragment=not segment.dont_fragment).encode()
        case 6:
            segments.append(successor(packets.decode(segments[-1]), b"").encode())
        case _:
            pass
    return segments


def memory() -> int:
    """Kilobytes at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def own_functions() -> Iterator[FunctionType]:
    """Functions and methods of the package's modules that are loaded: what coverage is to guide the engine through."""
    for name, module in list(sys.modules.items()):
        if name.startswith("overlay."):
            classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == name]
            for scope in (module, *classes):
                for each in vars(scope).values():
                    if isinstance(each, FunctionType) and each.__module__ == name:
                        yield each


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Hostile datagrams against the oracle.")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--atheris", action="store_true", help="use atheris; all further arguments are libFuzzer's")
    options, rest = parser.parse_known_args()
    if not options.atheris:
        with_mutations(Target(), options.count, options.seed)
        return
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    for function in own_functions():
        atheris.instrument_func(function)
    atheris.Setup([sys.argv[0], *rest], from_bytes(Target()))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
