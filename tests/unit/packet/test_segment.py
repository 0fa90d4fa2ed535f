"""Segmentation against its plain twin."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP

from overlay.packet.segment import segment, segmented_length
from overlay.packet.transport import layout_of
from tests.support import packets
from tests.support.packets import Packet, segment_plainly

NOISE = os.urandom(65535)
TIMESTAMPS = b"\x01\x01\x08\x0a" + bytes(range(8))


def segment_fast(packet: Packet, gso_size: int) -> bytes:
    data = packet.encode()
    layout = layout_of(data, len(data))
    assert layout is not None
    total = segmented_length(len(data), layout.header, gso_size)
    out = np.full(total + layout.header + gso_size, 0xAA, np.uint8)
    broken = bytearray(data)
    broken[10:12] = broken[layout.checksum : layout.checksum + 2] = b"\xbe\xef"  # what the kernel gives is partial
    assert segment(np.frombuffer(broken, np.uint8), layout, gso_size, out) == total
    return out[:total].tobytes()


def compare(packet: Packet, gso_size: int) -> None:
    assert segment_fast(packet, gso_size) == b"".join(segment_plainly(packet, gso_size))


@given(
    protocol=st.sampled_from((packets.TCP, packets.UDP)),
    length=st.integers(0, 9000),
    gso_size=st.integers(1, 3000),
    identification=st.sampled_from((0, 1, 0x7FFF, 0xFFFE, 0xFFFF)),
    sequence=st.sampled_from((0, 1, 2**31, 2**32 - 1, 2**32 - 5000)),
    flags=st.integers(0, 255),
    dont_fragment=st.booleans(),
    traffic_class=st.integers(0, 255),
    ip_options=st.sampled_from((b"", b"\x94\x04\0\0", b"\x01" * 40)),
    tcp_options=st.sampled_from((b"", TIMESTAMPS, b"\x01" * 40)),
)
@settings(max_examples=300)
def test_any_packet(protocol: int, length: int, gso_size: int, **fields: int | bool | bytes) -> None:
    packet = Packet(protocol=protocol, payload=NOISE[:length], **fields)  # type: ignore[arg-type]
    compare(packet, max(gso_size, length // 64 + 1))


@pytest.mark.parametrize("gso_size", [1420, 1421, 1422, 1423, 8948, 65000])
def test_the_largest_packet(gso_size: int) -> None:
    compare(Packet(tcp_options=TIMESTAMPS, payload=NOISE[: 65535 - 52], flags=0x19), gso_size)


def test_every_length_of_the_last_segment() -> None:
    for length in range(1, 3 * 90):
        compare(Packet(payload=NOISE[:length], flags=0x18), 90)


@pytest.mark.parametrize("content", [b"\0", b"\xff"])
@pytest.mark.parametrize("protocol", [packets.TCP, packets.UDP])
def test_sums_at_the_two_zeros(content: bytes, protocol: int) -> None:
    for identification in (0, 0xFFFF):
        compare(Packet(protocol=protocol, payload=content * 400, identification=identification), 100)


def test_udp_never_says_that_it_has_no_checksum() -> None:
    plain = Packet(protocol=packets.UDP, payload=bytes(4))
    for word in range(65536):
        chosen = replace(plain, payload=word.to_bytes(2, "big") + bytes(2))
        if chosen.encode()[26:28] == b"\xff\xff":
            break
    else:
        pytest.fail("one of the words must give the sum 0")
    assert segment_fast(chosen, 4)[26:28] == b"\xff\xff"


def test_as_scapy_reads_it() -> None:
    stream = segment_fast(Packet(tcp_options=TIMESTAMPS, payload=NOISE[:5000], flags=0x19, sequence=2**32 - 2000), 1420)
    sizes = [1472, 1472, 1472, 792]
    payload, at = b"", 0
    for number, size in enumerate(sizes):
        parsed = IP(stream[at : at + size])
        assert parsed[TCP].seq == (2**32 - 2000 + 1420 * number) % 2**32
        assert parsed[TCP].flags == ("FPA" if number == 3 else "A")
        payload += bytes(parsed[TCP].payload)
        del parsed.chksum, parsed[TCP].chksum
        assert bytes(parsed) == stream[at : at + size]
        at += size
    assert payload == NOISE[:5000]
    assert at == len(stream)
