"""The answers, as scapy reads them, and when none is given."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import ICMP, IP

from overlay.packet import icmp
from tests.support.admission import ipv4, plain_checksum

OURS = int(IPv4Address("10.0.1.0"))


@pytest.mark.parametrize(
    ("kind", "number", "code"), [(icmp.Error.NET_UNREACHABLE, 3, 0), (icmp.Error.TIME_EXCEEDED, 11, 0)]
)
@pytest.mark.parametrize("size", [0, 1, 8, 9, 600, 1400])
def test_answer(kind: icmp.Error, number: int, code: int, size: int) -> None:
    offending = ipv4(payload=bytes(range(250)) * (size // 250) + bytes(size % 250))
    answer = bytes(icmp.error(kind, offending, OURS))
    parsed = IP(answer)
    assert (parsed.src, parsed.dst, parsed.len) == ("10.0.1.0", "10.0.2.9", len(answer))
    assert (parsed[ICMP].type, parsed[ICMP].code) == (number, code)
    assert len(answer) <= 576
    assert answer[28:] == offending[: 576 - 28]
    assert plain_checksum(answer[:20]) == plain_checksum(answer[20:]) == 0


def test_fragmentation_needed_names_the_mtu() -> None:
    answer = IP(bytes(icmp.error(icmp.Error.FRAGMENTATION_NEEDED, ipv4(), OURS, 1372)))
    assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].nexthopmtu) == (3, 4, 1372)


def test_trailing_bytes_are_not_quoted() -> None:
    answer = IP(bytes(icmp.error(icmp.Error.TIME_EXCEEDED, ipv4() + b"trailer", OURS)))
    assert bytes(answer)[28:] == ipv4()


@pytest.mark.parametrize(
    ("packet", "allowed"),
    [
        (ipv4(), True),
        (ipv4(protocol=1, payload=b"\x08\0\0\0"), True),
        (ipv4(protocol=1, payload=b"\x00\0\0\0"), True),
        *((ipv4(protocol=1, payload=bytes((number, 0, 0, 0))), False) for number in (3, 4, 5, 11, 12)),
        (ipv4(protocol=1, payload=b""), False),
        (ipv4(fragment=0x2000), True),
        (ipv4(fragment=0x2001), False),
        (ipv4(fragment=0x0001), False),
        (ipv4(source="0.0.0.0"), False),
        (ipv4(source="127.0.0.1"), False),
        (ipv4(source="224.0.0.5"), False),
        (ipv4(source="255.255.255.255"), False),
        (ipv4(destination="224.0.0.1"), False),
        (ipv4(destination="255.255.255.255"), False),
    ],
)
def test_when_an_answer_may_be_sent(packet: bytes, allowed: bool) -> None:
    assert icmp.may_answer(packet) is allowed
