"""MTU arithmetic."""

from __future__ import annotations

import pytest

from overlay.errors import ConfigError
from overlay.node.mtu import MAXIMUM, MINIMUM, tunnel_mtu


@pytest.mark.parametrize(("underlay", "tunnel"), [(1500, 1472), (9000, 8972), (96, 68), (65536, 65507)])
def test_all_that_the_underlay_leaves(underlay: int, tunnel: int) -> None:
    assert tunnel_mtu(underlay) == tunnel


@pytest.mark.parametrize("wanted", [MINIMUM, 1400, 1472])
def test_wanted(wanted: int) -> None:
    assert tunnel_mtu(1500, wanted) == wanted


@pytest.mark.parametrize("wanted", [1, MINIMUM - 1, 1473, 65507])
def test_wanted_must_fit(wanted: int) -> None:
    with pytest.raises(ConfigError, match=rf"MTU {wanted}: must be between 68 and 1472"):
        tunnel_mtu(1500, wanted)


def test_underlay_too_small() -> None:
    with pytest.raises(ConfigError, match="underlay MTU 80: leaves 52 bytes"):
        tunnel_mtu(80)


def test_largest_inner_packet_is_still_an_ipv4_payload() -> None:
    assert MAXIMUM + 28 == 65535
