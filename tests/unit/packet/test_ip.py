"""Header codec, time to live and fragmentation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, IPOption_Router_Alert, IPOption_Timestamp, defragment, fragment
from scapy.packet import Raw

from overlay.packet import ip
from overlay.packet.fragment import fragment as fragment_fast
from tests.support.admission import ipv4, plain_checksum


def test_codec() -> None:
    packet = ipv4(fragment=0x4000)
    header = ip.decode(packet)
    assert ip.encode(header) == packet[:20]
    assert header.dont_fragment
    assert not header.is_later_fragment
    assert header.header_length == 20
    assert ip.decode(ipv4(fragment=0x2001)).is_later_fragment


@pytest.mark.parametrize("ttl", range(1, 256))
def test_decrement_at_every_ttl_and_carry(ttl: int) -> None:
    for identification in range(0, 65536, 257):
        packet = bytearray(
            ip.with_checksum(bytearray(ipv4(ttl=ttl)[:4] + identification.to_bytes(2, "big") + ipv4(ttl=ttl)[6:]))
        )
        ip.decrement_ttl(packet)
        assert packet[8] == ttl - 1
        assert plain_checksum(bytes(packet[:20])) == 0


@given(st.binary(max_size=4000), st.integers(68, 1500), st.booleans())
def test_fragments_as_scapy_puts_them_together(payload: bytes, limit: int, with_options: bool) -> None:
    options = [IPOption_Router_Alert(), IPOption_Timestamp()] if with_options else []
    packet = bytes(IP(src="10.0.1.2", dst="10.0.2.2", id=77, options=options) / Raw(payload))
    pieces = list(fragment_fast(packet, limit))
    assert all(len(piece) <= limit and len(piece) == IP(piece).len for piece in pieces)
    assert all(plain_checksum(piece[: 4 * (piece[0] & 15)]) == 0 for piece in pieces)
    whole = defragment([IP(piece) for piece in pieces])
    assert len(whole) == 1
    assert bytes(whole[0].payload) == payload
    if with_options and len(pieces) > 1:
        assert isinstance(IP(pieces[0]).options[0], IPOption_Router_Alert)
        assert b"\x94\x04" in pieces[1][20:40], "the router alert is copied"
        assert b"\x44" not in pieces[1][20:24], "the timestamp is not"


def test_a_fragment_is_divided_further() -> None:
    payload = bytes(range(256)) * 8
    first, *rest = fragment(IP(src="10.0.1.2", dst="10.0.2.2", id=5) / Raw(payload), 1024)
    pieces = [IP(piece) for each in (first, *rest) for piece in fragment_fast(bytes(each), 300)]
    assert bytes(defragment(pieces)[0].payload) == payload


def test_what_fits_stays() -> None:
    packet = bytes(IP(src="10.0.1.2", dst="10.0.2.2") / ICMP())
    assert list(fragment_fast(packet, len(packet))) == [packet]


def test_malformed_options_do_not_loop() -> None:
    packet = ipv4(options=b"\x94\x00\x00\x00", payload=bytes(500))
    assert len(list(fragment_fast(packet, 100))) > 1
