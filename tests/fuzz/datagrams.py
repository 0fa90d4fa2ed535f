"""Hostile datagrams and control messages against the oracle: nothing enters that it refuses, nothing crashes.

With coverage guidance, if atheris is installed (it is no dependency of the project)::

    python -m tests.fuzz.datagrams --atheris -max_total_time=600

Without, mutations of almost valid datagrams, and whatever sizes peers and strangers may send at the same time, at the
rate that plain Python allows::

    python -m tests.fuzz.datagrams --count 10000000
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import FunctionType

from overlay.datapath.userspace.counters import COUNTER_NAMES, add
from overlay.datapath.userspace.messages import (
    MAX_TEXT,
    Ask,
    Configure,
    MalformedMessageError,
    Notice,
    PeerChange,
    Peers,
    Ready,
    RouteMtus,
    Start,
    Status,
    decode_from_worker,
    decode_to_worker,
    encode,
)
from overlay.packet import ip
from tests.fuzz.wire import MODES, Wire, trains_of
from tests.support import packets
from tests.support.admission import VECTORS, ipv4, mutations, plain_checksum
from tests.support.packets import Packet, segment_plainly, successor

CONTROL = tuple(
    encode(message)
    for message in (
        Configure(0x0A000100, 24, 8285, 1472),
        Peers([PeerChange(False, 0x0A000200, 24, 0xAC1F0002), PeerChange(True, 0x0A000300, 24, 0)]),
        Ask(7),
        Start(),
        RouteMtus((("172.31.0.2", 1400), ("172.31.0.3", 68))),
        Ready("offloads: TSO"),
        Notice("the kernel refuses \x1b[31mUDP_SEGMENT\n2026-11-21 INFO agent: \u202eall is well"),
        Status(7, tuple(range(len(COUNTER_NAMES))), "offloads: TSO", ((0xAC1F0002, 1272), (0xAC1F0003, 68))),
    )
)
"""Messages to begin with."""


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


def from_bytes(wire: Wire) -> Callable[[bytes], None]:
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
        wire.check(trains_of(datagrams))

    return run


def edited(data: bytes) -> bytes:
    """One of CONTROL, as the first byte chooses, up to four bytes of it changed."""
    message = bytearray(CONTROL[data[0] % len(CONTROL)] if data else b"")
    for at, value in itertools.islice(zip(data[1::2], data[2::2], strict=False), 4):
        message[at % len(message)] ^= value
    return bytes(message)


def with_mutations(wires: Sequence[Wire], count: int, seed: int) -> int:
    """Runs ``count`` datagrams over the wires in turn: mutated ones, flows and :func:`exchange` between them.

    Returns:
        How many entered.
    """
    chance = random.Random(seed)
    entered = done = 0
    report = time.monotonic()
    stream = mutations(seed, count)
    for wire in itertools.cycle(wires):
        if done >= count:
            break
        burst = [(str(sender), datagram) for sender, datagram in itertools.islice(stream, 100)]
        for part in ("172.31.0.2", "172.31.0.2", None):
            at = chance.randrange(len(burst) + 1)
            burst[at:at] = exchange(chance) if part is None else [(part, each) for each in conversation(chance)]
        alone = chance.randrange(len(burst))
        entered += wire.check([*trains_of(burst[alone:]), *((sender, [each]) for sender, each in burst[:alone])])
        check_control(chance.randbytes(chance.randrange(60)))
        for _ in range(5):
            message = edited(chance.randbytes(1 + 2 * chance.randrange(4)))
            check_control(message[: chance.choice((None, chance.randrange(1 + len(message))))])
        done += len(burst)
        if time.monotonic() - report > 10:
            report = time.monotonic()
            print(f"{done:,} datagrams, {entered:,} entered, {memory()} KB", flush=True)
    print(f"{done:,} datagrams, {entered:,} entered, none that the oracle refuses, {memory()} KB", flush=True)
    return entered


SPEAKERS = (
    ("172.31.0.2", "10.0.2.9"),
    ("172.31.0.3", "10.0.16.1"),
    ("172.31.0.4", "10.0.17.1"),
    ("172.31.0.77", "10.0.2.9"),  # a stranger's are a peer's in all but where they come from
    ("172.31.0.3", "10.0.2.9"),
)
SIZES = (20, 21, 60, 576, 1000, 1399, 1400, 1400, 1401, 1472, 1472, 4000, 8972, 32_801, ip.MAX_UDP_PAYLOAD)
"""Bytes of a datagram."""
NOISE = bytes(random.Random(0).randbytes(ip.MAX_LEN))


def exchange(chance: random.Random) -> list[tuple[str, bytes]]:
    """What several send at the same time, each with a habit of its own: all of one size, or of two or three.

    Each datagram is one of its kind: its payload begins with a number.
    """
    habits = [(speaker, chance.sample(SIZES, chance.choice((1, 1, 2, 3)))) for speaker in chance.sample(SPEAKERS, 3)]
    out: list[tuple[str, bytes]] = []
    while len(out) < 150:
        (sender, source), sizes = chance.choice(habits)
        for _ in range(chance.choice((1, 1, 1, 3, 20))):
            size = chance.choice(sizes) - ip.HEADER_LEN
            out.append((sender, ipv4(source, payload=(chance.randbytes(8) + NOISE[: max(0, size - 8)])[:size])))
    return out


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
        with contextlib.ExitStack() as stack:
            wires = [stack.enter_context(contextlib.closing(Wire(mode))) for mode in MODES]
            with_mutations(wires, options.count, options.seed)
        return
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    for function in own_functions():
        atheris.instrument_func(function)
    atheris.Setup([sys.argv[0], *rest], from_bytes(Wire()))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
