"""MTU arithmetic."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from overlay.errors import ConfigError
from overlay.node.interfaces import Underlay
from overlay.node.mtu import SettledMtu
from overlay.packet.mtu import MAXIMUM, MINIMUM, inner_mtu


@pytest.mark.parametrize(("underlay", "tunnel"), [(1500, 1472), (9000, 8972), (96, 68), (65536, 65507)])
def test_all_that_the_underlay_leaves(underlay: int, tunnel: int) -> None:
    assert inner_mtu(underlay) == tunnel


@pytest.mark.parametrize("wanted", [MINIMUM, 1400, 1472])
def test_wanted(wanted: int) -> None:
    assert inner_mtu(1500, wanted) == wanted


@pytest.mark.parametrize("wanted", [1, MINIMUM - 1, 1473, 65507])
def test_wanted_must_fit(wanted: int) -> None:
    with pytest.raises(ConfigError, match=rf"MTU {wanted}: must be between 68 and 1472"):
        inner_mtu(1500, wanted)


def test_underlay_too_small() -> None:
    with pytest.raises(ConfigError, match="underlay MTU 80: leaves 52 bytes"):
        inner_mtu(80)


def test_largest_inner_packet_is_still_an_ipv4_payload() -> None:
    assert MAXIMUM + 28 == 65535


def test_after_one_that_nothing_fits_into_a_larger_one_counts_at_once() -> None:
    mtu = SettledMtu()
    seen = [
        Underlay("eth0", 2, size, IPv4Address("172.31.0.1"), IPv4Address("172.31.0.1")) for size in (1500, 68, 1500)
    ]
    assert [mtu.settle(underlay, float(now)).mtu for now, underlay in enumerate(seen)] == [1500, 68, 1500]


def test_a_smaller_underlay_counts_at_once_and_a_larger_one_when_it_stays() -> None:
    settled = SettledMtu()

    def used(mtu: int, now: float, index: int = 2) -> int:
        here = IPv4Address("172.31.0.1")
        return settled.settle(Underlay("eth0", index, mtu, here, here), now).mtu

    assert used(1500, 0) == 1500
    flapping = [used(1400 if second % 2 else 1500, second) for second in range(1, 300)]
    assert set(flapping) == {1400}, "one change, however long it flaps"
    assert used(1500, 300) == 1400
    assert settled.due(310) == 50
    assert used(1450, 320) == 1400
    assert used(1450, 379) == 1400
    assert used(1450, 380) == 1450
    assert settled.due(381) is None
    assert used(9000, 382, index=3) == 9000, "another interface is no flutter"
    assert used(1300, 383, index=3) == 1300
