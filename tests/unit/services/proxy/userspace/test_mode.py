"""The mode on a node where it cannot be."""

from __future__ import annotations

from pathlib import Path

from overlay.services.proxy.base import Surroundings
from overlay.services.proxy.nftables.mode import Nftables
from overlay.services.proxy.userspace.mode import UserspaceMode
from overlay.services.table import Place, Table
from tests.support.problems import shown


async def test_a_node_without_an_address_says_so_and_what_to_do(tmp_path: Path) -> None:
    mode = UserspaceMode(Nftables(Surroundings(tmp_path, "")))
    applied = await mode.apply(Table(Place("n1")))
    assert shown(applied.problems, "proxy-address", "ip address add")
