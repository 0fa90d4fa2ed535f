"""Which mode a node takes: the wished one, or the best that it can have, and why not the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import AsyncMock, Mock

from overlay.services.proxy.base import Mode, Surroundings
from overlay.services.proxy.modes import CHOICES, PREFERRED, choose

SURROUNDINGS = Surroundings(Path("/nonexistent"))


def modes(**why_not: str) -> Mapping[str, Callable[[Surroundings], Mode]]:
    """Modes that say why they cannot be had."""

    def maker(name: str, why: str) -> Callable[[Surroundings], Mode]:
        mode = Mock(probe=AsyncMock(return_value=why), close=AsyncMock())
        mode.name = name
        return lambda _: mode

    return {name: maker(name, why) for name, why in why_not.items()}


async def test_auto_takes_the_first_that_says_yes_and_tells_why_not_the_others() -> None:
    choice = await choose("auto", SURROUNDINGS, modes(userspace="", iptables="", nftables="", ebpf="no cgroup2"))
    assert choice.mode is not None
    assert choice.mode.name == "nftables"
    assert choice.why_not == "ebpf: no cgroup2"


async def test_a_wished_mode_that_cannot_be_had_is_replaced_by_none() -> None:
    choice = await choose("nftables", SURROUNDINGS, modes(nftables="no nft", iptables=""))
    assert choice.mode is None
    assert choice.why_not == "nftables: no nft"


async def test_none_asks_nobody() -> None:
    assert await choose("none", SURROUNDINGS, modes(nftables="")) == await choose("none", SURROUNDINGS, {})


def test_ipvs_is_for_who_asks_for_it() -> None:
    assert "ipvs" in CHOICES
    assert "ipvs" not in PREFERRED
