"""Coalescing: undoes segmentation, agrees with its plain twin about every change of every field, keeps the order."""

from __future__ import annotations

import itertools
import os
import random
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from overlay.packet import coalesce, ip, virtio
from overlay.packet.coalesce import Run, find_runs, join
from overlay.packet.segment import segment
from overlay.packet.transport import layout_of
from tests.support import packets
from tests.support.admission import plain_checksum
from tests.support.packets import Packet, decode, may_follow, segment_plainly, successor

NOISE = os.urandom(65535)
TIMESTAMPS = b"\x01\x01\x08\x0a" + bytes(range(8))
SIZE = 200


def runs_of(datagrams: list[bytes], *, udp: bool = True) -> list[Run]:
    size = len(datagrams[0])
    assert all(len(each) == size for each in datagrams[:-1])
    padded = b"".join(datagrams).ljust(size * len(datagrams), b"\0")
    rows = np.frombuffer(bytearray(padded), np.uint8).reshape(len(datagrams), size)
    runs = find_runs(rows, len(datagrams[-1]), udp=udp)
    assert [run.start for run in runs] == [0, *(run.stop for run in runs[:-1])]
    assert runs[-1].stop == len(datagrams)
    return runs


def joined(datagrams: list[bytes], run: Run) -> tuple[bytes, bytes]:
    """Virtio header and packet that stand for a run."""
    assert run.layout is not None
    header = run.layout.header
    members = datagrams[run.start : run.stop]
    payload = b"".join(each[header:] for each in members)
    flags = members[-1][run.layout.network + 13] if run.layout.is_tcp else 0
    head = join(bytearray(members[0][:header]), run.layout, len(members[0]), header + len(payload), flags)
    return head[:10], head[10:] + payload


def undone(datagrams: list[bytes], run: Run) -> list[bytes]:
    """What the kernel makes of a joined packet when it cuts it again."""
    head, packet = joined(datagrams, run)
    flags, gso_type, header_length, gso_size, csum_start, csum_offset = virtio.CODEC.unpack(head)
    layout = layout_of(packet, len(packet))
    assert layout is not None
    assert (flags, header_length, csum_start) == (virtio.NEEDS_CSUM, layout.header, layout.network)
    assert csum_offset == (16 if layout.is_tcp else 6)
    assert gso_type & 0x7F == (virtio.GSO_TCPV4 if layout.is_tcp else virtio.GSO_UDP_L4)
    whole = decode(packet)
    partial = packet[csum_start:]
    pseudo = packet[12:20] + struct.pack("!BBH", 0, packet[9], len(partial))
    assert (
        int.from_bytes(partial[csum_offset : csum_offset + 2], "big") % 0xFFFF
        == sum(struct.unpack("!6H", pseudo)) % 0xFFFF
    ), "the field holds the pseudo-header's sum"
    return segment_plainly(whole, gso_size)


@given(
    protocol=st.sampled_from((packets.TCP, packets.UDP)),
    length=st.integers(2, 12000),
    gso_size=st.integers(1, 3000),
    identification=st.sampled_from((0, 0xFFFE, 0xFFFF)),
    sequence=st.sampled_from((0, 2**32 - 1, 2**32 - 5000)),
    flags=st.sampled_from((0x10, 0x18, 0x11, 0x19, 0x50, 0x90, 0xD9)),
    dont_fragment=st.booleans(),
    traffic_class=st.integers(0, 255),
    ip_options=st.sampled_from((b"", b"\x94\x04\0\0")),
    tcp_options=st.sampled_from((b"", TIMESTAMPS, b"\x01" * 40)),
)
@settings(max_examples=200)
def test_undoes_segmentation(protocol: int, length: int, gso_size: int, **fields: int | bool | bytes) -> None:
    gso_size = max(gso_size, length // 64 + 1)
    packet = Packet(protocol=protocol, payload=NOISE[:length], **fields)  # type: ignore[arg-type]
    segments = segment_plainly(packet, gso_size)
    runs = runs_of(segments)
    if len(segments) == 1:
        assert runs == [Run(0, 1, None)]
        return
    assert len(runs) == 1
    assert runs[0].layout is not None
    assert undone(segments, runs[0]) == segments
    head, _ = joined(segments, runs[0])
    assert bool(head[1] & virtio.GSO_ECN) == (protocol == packets.TCP and bool(int(fields["flags"]) & packets.CWR))


def train(protocol: int, count: int = 6, *, dont_fragment: bool = False) -> list[Packet]:
    whole = Packet(
        protocol=protocol, payload=NOISE[: SIZE * count], dont_fragment=dont_fragment, tcp_options=TIMESTAMPS
    )
    return [decode(each) for each in segment_plainly(whole, SIZE)]


CHANGES: dict[str, dict[str, object]] = {
    "source": {"source": bytes((10, 0, 2, 10))},
    "destination": {"destination": bytes((10, 0, 1, 8))},
    "source port": {"source_port": 40001},
    "destination port": {"destination_port": 5202},
    "ttl": {"ttl": 62},
    "traffic class": {"traffic_class": 3},
    "don't fragment": {"dont_fragment": True},
    "may be fragmented": {"dont_fragment": False},
    "identification": {"identification": 999},
    "sequence": {"sequence": 5},
    "acknowledgement": {"acknowledgement": 78},
    "window": {"window": 513},
    "urgent pointer": {"urgent": 1},
    "option": {"tcp_options": TIMESTAMPS[:-1] + b"\xee"},
    **{f"flag {1 << bit:#x}": {"flags": 0x10 ^ (1 << bit)} for bit in range(8)},
}


@pytest.mark.parametrize("protocol", [packets.TCP, packets.UDP])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("dont_fragment", [True, False])
def test_every_field_agrees_with_the_twin(protocol: int, change: str, at: int, dont_fragment: bool) -> None:
    members = train(protocol, dont_fragment=dont_fragment)
    members[at] = replace(members[at], **CHANGES[change])  # type: ignore[arg-type]
    check_against_twin([each.encode() for each in members])


@pytest.mark.parametrize("protocol", [packets.TCP, packets.UDP])
def test_every_damaged_byte_agrees_with_the_twin(protocol: int) -> None:
    datagrams = [each.encode() for each in train(protocol, 3)]
    for at in range(len(datagrams[1])):
        damaged = bytearray(datagrams[1])
        damaged[at] ^= 0x11
        runs = runs_of([datagrams[0], bytes(damaged), datagrams[2]])
        assert all(run.layout is None for run in runs), f"byte {at} is damaged, so nothing may join there"


def check_against_twin(datagrams: list[bytes]) -> None:
    """What is joined must be allowed to; what the twin would join must be joined: all have the first row's layout."""
    together = {
        (number, number + 1) for run in runs_of(datagrams) if run.layout for number in range(run.start, run.stop - 1)
    }
    allowed = {(number, number + 1) for number, pair in enumerate(itertools.pairwise(datagrams)) if may_follow(*pair)}
    assert together == allowed


@given(
    protocol=st.sampled_from((packets.TCP, packets.UDP)),
    chosen=st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from((1, 1, 1, 0, 4))), min_size=2, max_size=8),
    identification=st.sampled_from((0, 7, 0xFFFD)),
    last=st.sampled_from((SIZE, SIZE - 1, 1, 0)),
)
@settings(max_examples=300)
def test_any_mixture_agrees_with_the_twin(
    protocol: int, chosen: list[tuple[bool, bool, int]], identification: int, last: int
) -> None:
    """Rows of two flows, with and without "don't fragment", whose identifications go on or jump; an empty last one."""
    former = [Packet(protocol=protocol, source_port=port, identification=identification) for port in (40000, 40001)]
    datagrams = []
    for number, (flow, dont_fragment, step) in enumerate(chosen):
        length = last if number == len(chosen) - 1 else SIZE
        former[flow] = replace(
            successor(former[flow], NOISE[number : number + length]),
            dont_fragment=dont_fragment,
            identification=(former[flow].identification + step) % 2**16,
        )
        datagrams.append(former[flow].encode())
    check_against_twin(datagrams)


@pytest.mark.parametrize("protocol", [packets.TCP, packets.UDP])
def test_identifications_matter_where_packets_may_be_fragmented(protocol: int) -> None:
    """For every packet by itself: what the first one of the train says goes for no other."""
    for first in (True, False):
        other = Packet(protocol=protocol, payload=NOISE[:SIZE], dont_fragment=first, source_port=1)
        for dont_fragment, identifications, stop in (
            (True, (5, 9, 2), 4),
            (True, (0, 0, 0), 4),
            (False, (5, 9, 2), 2),
            (False, (0, 0, 0), 2),
            (False, (0xFFFE, 0xFFFF, 0), 4),
        ):
            members = [
                replace(each, identification=identification)
                for each, identification in zip(
                    train(protocol, 3, dont_fragment=dont_fragment), identifications, strict=True
                )
            ]
            flow = [replace(each, tcp_options=b"").encode() for each in members]
            runs = runs_of([other.encode(), *flow])
            assert (runs[1].start, runs[1].stop, runs[1].layout is not None) == (1, stop, stop == 4)


@pytest.mark.parametrize("protocol", [packets.TCP, packets.UDP])
@pytest.mark.parametrize("count", [1, 2])
def test_an_empty_packet_joins_nothing(protocol: int, count: int) -> None:
    """tcp_gro_receive and udp_gro_receive leave it as well: joined, a pure ACK would be lost."""
    whole = Packet(protocol=protocol, payload=NOISE[: count * SIZE], tcp_options=TIMESTAMPS)
    segments = [decode(each) for each in segment_plainly(whole, SIZE)]
    datagrams = [each.encode() for each in (*segments, successor(segments[-1], b""))]
    *joint, alone = runs_of(datagrams)
    assert alone == Run(count, count + 1, None)
    assert [(run.start, run.stop, run.layout is not None) for run in joint] == [(0, count, count > 1)]


def test_a_last_packet_that_ends_within_its_header_joins_nothing() -> None:
    """Its options are missing and all others' are 0, as what was never received is; both checksums are right."""
    whole = Packet(payload=NOISE[: 2 * SIZE], tcp_options=bytes(12))
    segments = segment_plainly(whole, SIZE)
    missing = successor(decode(segments[-1]), b"").encode()[:-12]
    ends = bytearray(missing[:2] + struct.pack("!H", 40) + missing[4:])
    ip.with_checksum(ends)
    ends[36:38] = b"\0\0"
    pseudo = bytes(ends[12:20]) + struct.pack("!BBH", 0, packets.TCP, 20)
    ends[36:38] = struct.pack("!H", plain_checksum(pseudo + bytes(ends[20:])))
    assert runs_of([*segments, bytes(ends)])[-1] == Run(2, 3, None)


def test_flows_one_after_the_other() -> None:
    one = segment_plainly(Packet(payload=NOISE[: 5 * SIZE]), SIZE)
    two = segment_plainly(Packet(payload=NOISE[: 3 * SIZE], source_port=1), SIZE)
    runs = runs_of([*one, *two])
    assert [(run.start, run.stop, run.layout is not None) for run in runs] == [(0, 5, True), (5, 8, True)]


def test_interleaved_flows_stay_as_they_are() -> None:
    one = segment_plainly(Packet(payload=NOISE[: 5 * SIZE]), SIZE)
    two = segment_plainly(Packet(payload=NOISE[: 5 * SIZE], source_port=1), SIZE)
    datagrams = [each for pair in zip(one, two, strict=True) for each in pair]
    assert all(run.layout is None for run in runs_of(datagrams))


@given(st.lists(st.integers(0, 11), min_size=1, max_size=64), st.integers(0, 2**32))
@settings(max_examples=200)
def test_loss_duplication_and_reordering(order: list[int], seed: int) -> None:
    segments = segment_plainly(Packet(payload=NOISE[: 12 * SIZE], sequence=seed), SIZE)
    datagrams = [segments[number] for number in order]
    runs = runs_of(datagrams)
    out = [each for run in runs for each in (undone(datagrams, run) if run.layout else datagrams[run.start : run.stop])]
    assert out == datagrams, "the same packets in the same order"


def test_no_more_datagrams_than_the_kernel_joins() -> None:
    datagrams = [
        Packet(protocol=packets.UDP, payload=NOISE[:8], identification=number).encode() for number in range(150)
    ]
    runs = runs_of(datagrams)
    assert [(run.start, run.stop) for run in runs] == [(0, 64), (64, 128), (128, 150)]
    assert [each for run in runs for each in undone(datagrams, run)] == datagrams


def test_not_without_permission_for_udp() -> None:
    datagrams = segment_plainly(Packet(protocol=packets.UDP, payload=NOISE[: 5 * SIZE]), SIZE)
    assert runs_of(datagrams, udp=False) == [Run(0, 5, None)]
    assert runs_of(datagrams)[0].layout is not None


def with_surplus(packet: Packet, surplus: int) -> bytes:
    """The same datagram, of which the last ``surplus`` bytes of payload are behind the end that UDP's length tells.

    With an option checksum there (RFC 9868, 9) both sums are right: of the datagram, and of all that IP carries, which
    is what middleboxes check.
    """
    datagram = bytearray(packet.encode())
    udp = 20 + len(packet.ip_options)
    payload = len(datagram) - udp - surplus
    datagram[udp + 4 : udp + 8] = struct.pack("!HH", payload, 0)
    pseudo = packet.source + packet.destination + struct.pack("!HH", packets.UDP, payload)
    datagram[udp + 6 : udp + 8] = struct.pack("!H", plain_checksum(pseudo + bytes(datagram[udp : udp + payload])))
    datagram[-2:] = b"\0\0"
    behind = bytes(datagram[udp + payload :]) + struct.pack("!H", surplus)
    datagram[-2:] = struct.pack("!H", plain_checksum(behind))
    return bytes(datagram)


@pytest.mark.parametrize("surplus", [4, 8, 100])
def test_udp_options_stay_behind_the_datagrams_that_they_belong_to(surplus: int) -> None:
    datagrams = [with_surplus(each, surplus) for each in train(packets.UDP)]
    for datagram in datagrams:
        pseudo = datagram[12:20] + struct.pack("!HH", packets.UDP, len(datagram) - 20)
        assert plain_checksum(pseudo + datagram[20:]) == 0, "right for who takes IP's length for UDP's"
    assert [run.layout for run in runs_of(datagrams)] == [None] * len(runs_of(datagrams))
    honest = [each.encode() for each in train(packets.UDP)]
    assert [run.layout for run in runs_of([*datagrams, *honest]) if run.start < len(datagrams)] == [None]


def test_udp_without_checksum_stays() -> None:
    datagrams = segment_plainly(Packet(protocol=packets.UDP, payload=NOISE[: 3 * SIZE]), SIZE)
    bare = [each[:26] + b"\0\0" + each[28:] for each in datagrams]
    assert all(run.layout is None for run in runs_of(bare))


@pytest.mark.parametrize("field", [0x2000, 0x0001, 0x3FFF, 0x8000, 0xC000])
@pytest.mark.parametrize("another_first", [True, False])
def test_fragments_and_the_reserved_flag_stay(field: int, another_first: bool) -> None:
    segments = segment_plainly(Packet(payload=NOISE[:600]), SIZE)
    unusual = [bytes(ip.with_checksum(bytearray(each[:6] + struct.pack("!H", field) + each[8:]))) for each in segments]
    another = [Packet(payload=NOISE[:SIZE], source_port=1).encode()] if another_first else []
    assert all(run.layout is None for run in runs_of([*another, *unusual]))


def test_a_run_is_no_longer_than_a_packet_can_be() -> None:
    payload = 1420
    one = segment_plainly(Packet(payload=NOISE[: payload * 40]), payload)
    two = segment_plainly(
        Packet(payload=NOISE[: payload * 40], sequence=1000 + payload * 40, identification=41), payload
    )
    runs = runs_of([*one, *two])
    assert [(run.start, run.stop) for run in runs] == [(0, 46), (46, 80)]
    for run in runs:
        assert undone([*one, *two], run) == [*one, *two][run.start : run.stop]


@given(st.lists(st.binary(min_size=60, max_size=60), min_size=1, max_size=20), st.integers(1, 60))
@settings(max_examples=300)
def test_random_bytes_are_never_joined(datagrams: list[bytes], last: int) -> None:
    datagrams[-1] = datagrams[-1][:last]
    if len(datagrams) > 1:
        assert all(run.layout is None for run in runs_of(datagrams))


def test_almost_valid_bytes_agree_with_the_twin() -> None:
    """Random changes of whole fields, the checksums right again, so that the header rules alone decide; at times the
    last packet is short or empty."""
    chance = random.Random(7)
    names = list(CHANGES)
    for _ in range(500):
        protocol = chance.choice((packets.TCP, packets.UDP))
        members = train(protocol, 8, dont_fragment=chance.random() < 0.5)
        members[-1] = replace(members[-1], payload=members[-1].payload[: chance.choice((SIZE, SIZE, 1, 0))])
        for _ in range(chance.randrange(4)):
            at = chance.randrange(8)
            members[at] = replace(members[at], **CHANGES[chance.choice(names)])  # type: ignore[arg-type]
        check_against_twin([each.encode() for each in members])


def test_array_segmentation_is_undone_too() -> None:
    packet = Packet(payload=NOISE[:60000], tcp_options=TIMESTAMPS, flags=0x18).encode()
    layout = layout_of(packet, len(packet))
    assert layout is not None
    out = np.zeros(80000, np.uint8)
    total = segment(np.frombuffer(packet, np.uint8), layout, 1420, out)
    datagrams = [out[at : min(at + 1472, total)].tobytes() for at in range(0, total, 1472)]
    (run,) = runs_of(datagrams)
    assert undone(datagrams, run) == datagrams


def lengths_around(longest: int) -> list[int]:
    """Numbers of packets on both sides of where a run has to be cut, and small ones."""
    cuts = [factor * longest + more for factor in (1, 2) for more in (-1, 0, 1)]
    return sorted({count for count in cuts if count > 1})


def segments_of(protocol: int, size: int, options: bytes, count: int, last: int) -> NDArray[np.uint8]:
    """``count`` packets of ``size`` bytes of one flow, a row each; the last has ``last`` bytes of payload."""
    flow = Packet(protocol=protocol, tcp_options=options)
    layout = layout_of(flow.encode() + b"x", len(flow.encode()) + 1)
    assert layout is not None
    payload = size - layout.header
    rows = np.zeros((count + 1, size), np.uint8)
    done = 0
    while done < count:  # by the segmenter's measure, one packet that it may cut after the other
        number = min(count - done, (65535 - layout.header) // payload)
        rest = payload * number if done + number < count else payload * (number - 1) + last
        head = replace(flow, sequence=(done * payload) % 2**32, identification=done).encode()
        whole = np.concatenate((np.frombuffer(head, np.uint8), np.zeros(rest, np.uint8)))
        segment(whole, layout, payload, rows[done:].reshape(-1))
        done += number
    return rows[:count]


@pytest.mark.parametrize("options", [b"", TIMESTAMPS], ids=["bare", "timestamps"])
@pytest.mark.parametrize("protocol", [packets.TCP, packets.UDP])
def test_no_packet_is_left_over_as_a_joined_one_of_a_single_segment(protocol: int, options: bytes) -> None:
    """The kernel refuses those: 46 of 47 arrived, and none of an underlay MTU above 32,800.

    For each length that the longest run of some MTU from 576 to 65,535 has: at the least and at the largest such MTU.
    """
    options = options if protocol == packets.TCP else b""
    header = 40 + len(options) if protocol == packets.TCP else 28
    first_of: dict[int, int] = {}
    last_of: dict[int, int] = {}
    for mtu in range(576, 65536):
        longest = (65535 - header) // (mtu - 28 - header)
        first_of.setdefault(longest, mtu)
        last_of[longest] = mtu
    assert min(first_of) == 1
    for longest, mtu in {*first_of.items(), *last_of.items()}:
        size = mtu - 28
        allowed = longest if protocol == packets.TCP else min(longest, 64)
        for count in lengths_around(allowed):
            last = 1 if mtu % 2 else size - header
            runs = find_runs(segments_of(protocol, size, options, count, last), header + last, udp=True)
            where = f"MTU {mtu}, {count} packets, the last of {last} bytes: {runs}"
            assert [run.start for run in runs] == [0, *(run.stop for run in runs[:-1])], where
            assert runs[-1].stop == count, where
            joined_runs = [run for run in runs if run.layout is not None]
            assert all(1 < run.stop - run.start <= allowed for run in joined_runs), where
            left_over = count if allowed == 1 else int(count % allowed == 1)
            assert sum(run.stop - run.start for run in joined_runs) == count - left_over, where


def test_runs_of_every_length_are_cut_without_a_rest_of_one() -> None:
    layout = layout_of(packet := Packet(payload=b"x").encode(), len(packet))
    assert layout is not None
    for longest in range(1, 130):
        for stop in range(2, 3 * longest + 3):
            runs = coalesce._pieces(0, stop, longest, layout)
            assert [run.start for run in runs] == [0, *(run.stop for run in runs[:-1])]
            assert runs[-1].stop == stop
            assert all((run.stop - run.start in range(2, longest + 1)) == (run.layout is not None) for run in runs)
