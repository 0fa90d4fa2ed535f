"""The proxy's loop, while the machine that it looks at changes under it."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import cast

import pytest

from overlay.services.keys import Keys
from overlay.services.mirror import ServicesMirror
from overlay.services.proxy import base, hairpin, keeper, passage, place
from overlay.services.proxy.base import Applied, Surroundings
from overlay.services.proxy.keeper import Keeper, Whereabouts
from overlay.services.proxy.modes import Choice
from overlay.services.table import Table
from overlay.store.contract import Snapshot

ELSEWHERE = Whereabouts((IPv4Network("10.0.0.0/8"),), (IPv4Network("10.0.5.0/24"),))


class Mode:
    """One that keeps what it was given."""

    name = "kept"
    stands_on: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.given: list[Table] = []

    async def apply(self, table: Table) -> Applied:
        self.given.append(table)
        return Applied()

    async def check(self) -> bool:
        return True


@pytest.mark.parametrize("when", ["look", "allow"])
@pytest.mark.parametrize("change", [Keeper.network_changed, lambda kept: kept.is_at(ELSEWHERE)])
async def test_what_changes_during_a_look_is_looked_at_in_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, when: str, change: Callable[[Keeper], object]
) -> None:
    mirror, mode = ServicesMirror(Keys()), Mode()
    mirror.load(Snapshot(1, ()), 0.0)
    kept = Keeper(mirror, "n1", "auto", Surroundings(tmp_path, ""))
    addresses = iter(IPv4Address(f"192.0.2.{number}") for number in range(1, 10))

    def look() -> place.Machine:
        found = place.Machine(frozenset({next(addresses)}), (), bridged=False)
        if when == "look" and len(mode.given) == 2:
            change(kept)
        return found

    def allow(*_: object) -> None:
        if when == "allow" and len(mode.given) == 2:
            change(kept)

    async def choose(*_: object) -> Choice:
        return Choice(cast("base.Mode", mode))

    async def remove_others(*_: object) -> None:
        return

    monkeypatch.setattr(place, "look", look)
    monkeypatch.setattr(hairpin, "allow", allow)
    monkeypatch.setattr(passage, "keep", tuple)
    monkeypatch.setattr(keeper, "choose", choose)
    monkeypatch.setattr(Keeper, "_remove_others", remove_others)
    await kept.look()
    assert mode.given == [], "not before it is told where the node is"
    kept.is_at(Whereabouts())
    for turn in range(5):  # the second one looks in any case: it checks what the first one made
        if turn == 2:
            kept.network_changed()
        await kept.look()
    assert [max(table.place.addresses)[-1] for table in mode.given] == ["1", "2", "3", "4", "4"]
