"""Both directions of a worker, over socketpairs and loopback: right packets out, whatever comes in."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from overlay.datapath.userspace.messages import Configure, encode
from overlay.model import Peer, PeerTable
from overlay.packet import virtio
from tests.support import packets
from tests.support.admission import OWN as OWN_SUBNET
from tests.support.admission import Outcome, ipv4, mutations, oracle, plain_checksum
from tests.support.packets import Packet, segment_plainly
from tests.support.workers import EVERYTHING, PATIENCE, PEER, Bench, bench

NOISE = os.urandom(65535)
OUT = {"source": bytes((10, 0, 1, 7)), "destination": bytes((10, 0, 2, 9))}


@pytest.fixture(scope="module", params=[EVERYTHING, "plain"], ids=["offloads", "plain"])
def any_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with bench(request.param) as made:
        yield made


@pytest.fixture(scope="module")
def full_bench() -> Iterator[Bench]:
    with bench() as made:
        yield made


def hop(packet: bytes) -> bytes:
    """``packet`` after one hop, by the plain loop."""
    length = 4 * (packet[0] & 15)
    header = packet[:8] + bytes((packet[8] - 1, packet[9], 0, 0)) + packet[12:length]
    return header[:10] + struct.pack("!H", plain_checksum(header)) + header[12:] + packet[length:]


def dressed(made: Bench, packet: bytes) -> bytes:
    return packet if made.mode == "plain" else virtio.FINISHED + packet


def undone(made: Bench, written: list[bytes]) -> list[bytes]:
    """What the kernel makes of what was written to the TUN: joined packets cut again."""
    if made.mode == "plain":
        return written
    out: list[bytes] = []
    for each in written:
        _, gso_type, _, gso_size, _, _ = virtio.CODEC.unpack_from(each)
        whole = each[virtio.LENGTH :]
        out += segment_plainly(packets.decode(whole), gso_size) if gso_type else [whole]
    return out


def test_out_and_in(any_bench: Bench) -> None:
    for options in (b"", b"\x94\x04\0\0"):
        leaving = ipv4("10.0.1.7", "10.0.2.9", options=options)
        assert any_bench.from_kernel(dressed(any_bench, leaving)) == [hop(leaving)]
        arriving = ipv4(options=options)
        assert any_bench.from_peer(arriving) == [dressed(any_bench, hop(arriving))]
        assert any_bench.from_peer(arriving + b"trailer") == [dressed(any_bench, hop(arriving))]


@pytest.mark.parametrize("copied", [0, 0xFC])
def test_packets_of_one_train_have_one_class_of_service(full_bench: Bench, copied: int) -> None:
    """Of one size to one peer, they would else leave with the first one's; ECN's two bits are never copied."""
    made, marks = full_bench, [0xB8, 0xB9, 0xB8, 0, 0, 0x28, 0x2B]
    made.tell(encode(Configure(0x0A000100, 24, made.port, 1472, bool(copied))))
    made.peer.setsockopt(socket.SOL_IP, socket.IP_RECVTOS, 1)
    for number, tos in enumerate(marks):
        packet = bytearray(ipv4("10.0.1.7", "10.0.2.9", payload=bytes((number,)) * 40))
        packet[1], packet[10:12] = tos, b"\0\0"
        packet[10:12] = struct.pack("!H", plain_checksum(bytes(packet[:20])))
        made.tun.send(dressed(made, bytes(packet)))
    seen: list[int] = []
    deadline = time.monotonic() + PATIENCE
    while len(seen) < len(marks) and time.monotonic() < deadline:
        made.worker.outbound.drain(len(marks) + 1)
        with suppress(BlockingIOError):
            while message := made.peer.recvmsg(2000, 64):
                assert message[0][20] == len(seen), "in order"
                seen.append(message[1][0][2][0])
    made.peer.setsockopt(socket.SOL_IP, socket.IP_RECVTOS, 0)
    assert seen == [tos & copied for tos in marks]


@given(st.lists(st.sampled_from((1, 8, 8, 8, 30, 1400)), min_size=1, max_size=40))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_batches_keep_packets_and_order(any_bench: Bench, sizes: list[int]) -> None:
    """Datagrams of any sizes, sent at once: trains are made and taken apart on both sides."""
    leaving = [
        Packet(protocol=packets.UDP, payload=NOISE[:size], identification=number, **OUT).encode()  # type: ignore[arg-type]
        for number, size in enumerate(sizes)
    ]
    assert any_bench.from_kernel(*(dressed(any_bench, each) for each in leaving)) == [hop(each) for each in leaving]
    arriving = [
        Packet(protocol=packets.UDP, payload=NOISE[:size], identification=number).encode()
        for number, size in enumerate(sizes)
    ]
    assert undone(any_bench, any_bench.from_peer(*arriving)) == [hop(each) for each in arriving]


@given(st.integers(1, 60000), st.integers(64, 9000), st.sampled_from((0x10, 0x18, 0x99)))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_large_packet_is_cut_and_put_together(full_bench: Bench, length: int, gso_size: int, flags: int) -> None:
    packet = Packet(payload=NOISE[:length], flags=flags, **OUT)  # type: ignore[arg-type]
    whole = bytearray(packet.encode())
    whole[36:38] = b"\xab\xcd"  # partial
    head = virtio.CODEC.pack(virtio.NEEDS_CSUM, virtio.GSO_TCPV4, 40, gso_size, 20, 16)
    sent = full_bench.from_kernel(head + whole)
    assert sent == [hop(each) for each in segment_plainly(packet, gso_size)]
    back = segment_plainly(Packet(payload=NOISE[:length], flags=flags), gso_size)
    written = full_bench.from_peer(*back)
    assert undone(full_bench, written) == [hop(each) for each in back]


@pytest.mark.parametrize("size", [1, 7, 100, 599, 600, 601, 1420])
@pytest.mark.parametrize("protocol", [packets.TCP, packets.UDP])
def test_a_partial_checksum_is_completed(full_bench: Bench, protocol: int, size: int) -> None:
    packet = Packet(protocol=protocol, payload=NOISE[:size], **OUT).encode()  # type: ignore[arg-type]
    at = 20 + (16 if protocol == packets.TCP else 6)
    pseudo = 0xFFFF - plain_checksum(packet[12:20] + struct.pack("!BBH", 0, protocol, len(packet) - 20))
    partial = packet[:at] + struct.pack("!H", pseudo) + packet[at + 2 :]
    head = virtio.CODEC.pack(virtio.NEEDS_CSUM, 0, 0, 0, 20, at - 20)
    (sent,) = full_bench.from_kernel(head + partial)
    assert sent == hop(packet)


def test_answers_go_where_they_belong(any_bench: Bench) -> None:
    skip = 0 if any_bench.mode == "plain" else virtio.LENGTH
    assert any_bench.from_kernel(dressed(any_bench, ipv4("10.0.1.7", "10.0.9.9"))) == []
    (answer,) = any_bench.tun_output()
    assert answer[skip + 20 : skip + 22] == bytes((3, 0))
    assert answer[skip + 12 : skip + 20] == bytes((10, 0, 1, 0, 10, 0, 1, 7))
    assert any_bench.from_kernel(dressed(any_bench, ipv4("10.0.1.7", "10.0.2.9", ttl=1))) == []
    (answer,) = any_bench.tun_output()
    assert answer[skip + 20 : skip + 22] == bytes((11, 0))
    assert any_bench.from_peer(ipv4(ttl=1)) == []
    answer = any_bench.peer.recv(2000)
    assert answer[20:22] == bytes((11, 0))
    assert answer[12:20] == bytes((10, 0, 1, 0, 10, 0, 2, 9))


def test_answers_are_limited(any_bench: Bench) -> None:
    before = any_bench.count("icmp_limited")
    for _ in range(40):
        any_bench.from_kernel(*[dressed(any_bench, ipv4("10.0.1.7", "10.0.9.9"))] * 20)
        any_bench.tun_output()
    assert any_bench.count("icmp_limited") > before


def test_mutated_datagrams_do_what_the_oracle_says(any_bench: Bench) -> None:
    """Sent in bursts by one sender, so that good and bad ones share trains."""
    table = PeerTable.of(OWN_SUBNET, [Peer(IPv4Network("10.0.2.0/24"), IPv4Address(PEER))])
    datagrams = [datagram for _, datagram in mutations(seed=5, count=6000) if datagram]
    entered = 0
    for at in range(0, len(datagrams), 20):
        burst = datagrams[at : at + 20]
        expected = []
        for datagram in burst:
            if oracle(IPv4Address(PEER), datagram, OWN_SUBNET, table) is Outcome.ENTERS:
                expected.append(hop(datagram[: int.from_bytes(datagram[2:4], "big")]))
        assert undone(any_bench, any_bench.from_peer(*burst)) == expected
        any_bench.from_kernel()  # takes the answers away
        entered += len(expected)
    assert entered > 500


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=10))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_never_enter_and_never_crash(any_bench: Bench, datagrams: list[bytes]) -> None:
    assert any_bench.from_peer(*datagrams) == []
    assert any_bench.from_kernel(*(each for each in datagrams if each)) == []
    any_bench.tun_output()


@example(b"\x00\x01\x00\x00\xd8\xff")  # segments of 65,536 bytes
@given(st.binary(max_size=60))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_virtio_headers_never_crash(full_bench: Bench, noise: bytes) -> None:
    """The kernel is trusted with them; a bug of it should still be no way in."""
    packet = Packet(payload=NOISE[:3000], **OUT).encode()  # type: ignore[arg-type]
    full_bench.from_kernel(noise.ljust(virtio.LENGTH, b"\0")[: virtio.LENGTH] + packet)
    full_bench.tun_output()


@given(st.binary(max_size=300))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_control_messages_never_crash(noise: bytes) -> None:
    with bench() as made:
        made.tell(noise or b"\0")
        made.tell(bytes((1 + len(noise) % 4,)) + noise)


def test_a_datagram_of_the_largest_size(any_bench: Bench) -> None:
    packet = ipv4(payload=NOISE[: 65507 - 20])
    assert any_bench.from_peer(packet) == [dressed(any_bench, hop(packet))]
    leaving = ipv4("10.0.1.7", "10.0.2.9", payload=NOISE[: 65507 - 20])
    assert any_bench.from_kernel(dressed(any_bench, leaving)) == [hop(leaving)]


def test_every_drop_is_counted_once(any_bench: Bench) -> None:
    def total() -> int:
        names = [name for name in any_bench.worker.counters.__slots__ if name.startswith("drop_")]
        return sum(any_bench.count(name) for name in names) + any_bench.count("rx_packets")

    before = total()
    datagrams = [datagram for _, datagram in mutations(seed=9, count=1000)]
    for at in range(0, len(datagrams), 25):
        any_bench.from_peer(*datagrams[at : at + 25])
        any_bench.from_kernel()
    assert total() - before == len(datagrams)
