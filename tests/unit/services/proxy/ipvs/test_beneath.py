"""What the rules beneath say where IPVS chooses: all that they say without it, but no backend."""

from __future__ import annotations

import random
from ipaddress import IPv4Network

import pytest

from overlay.services.proxy.ipvs.wanted import is_carried
from overlay.services.proxy.nftables.rendering import BACKENDS, NODE_PORTS, SERVICES, Piece, render
from overlay.services.table import Kind, Place
from tests.support.service_tables import OWN, random_entries

PLACE = Place("one", (IPv4Network("10.0.0.0/16"),), frozenset(OWN))
CHOOSING = (SERVICES, NODE_PORTS, *BACKENDS.values())


def elements(piece: Piece, *maps: str) -> dict[tuple[str, str], str]:
    return {(each.map, each.key): each.value for each in piece.elements if each.map in maps}


@pytest.mark.parametrize("seed", range(12))
def test_all_but_the_choice_is_as_without_ipvs(seed: int) -> None:
    entries = random_entries(random.Random(seed), (80, 30080), (30080, 30081), ("", "rr"))
    for entry in entries.values():
        plain, beneath = render(entry, PLACE), render(entry, PLACE, carried=is_carried)
        others = {each.map for each in plain.elements} - {*CHOOSING}
        assert elements(beneath, *others) == elements(plain, *others), "refused, limited, masqueraded"
        rules = {chain.name: chain.rules for chain in beneath.chains}
        there, before = elements(beneath, *CHOOSING), elements(plain, *CHOOSING)
        for (name, key), value in before.items():
            frontend = next(
                each for each in entry.frontends
                if key.startswith(f"{each.address} . ") or (each.kind is Kind.NODE_PORT and name == NODE_PORTS)
            )  # fmt: skip
            if not is_carried(frontend, PLACE):
                assert there[name, key] == value
            elif not frontend.kind.external:
                assert (name, key) not in there
            else:
                last = rules[there[name, key].removeprefix("goto ")][-1]
                chooses = not entry.external_local or bool(entry.local)
                assert last.endswith("dnat ip to ip daddr") == chooses
