"""What is read back of the table, beside what nft itself tells of it."""

from __future__ import annotations

import asyncio
import json
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from overlay.linux.netfilter import Tools
from overlay.services.proxy.base import Surroundings
from overlay.services.proxy.nftables import Nftables
from overlay.services.proxy.nftables.found import found
from overlay.services.proxy.nftables.rendering import MAPS, TABLE
from overlay.services.table import Backend, Entry, Frontend, Kind, Place, PortName, Table
from tests.support.namespaces import namespace

pytestmark = pytest.mark.root

NODE, VIP, BALANCER = "10.0.1.1", "10.96.0.7", "198.51.100.9"
BACKENDS = tuple(Backend(f"10.0.{number}.200", 8000 + number, number < 2) for number in range(1, 40))


def table() -> Table:
    """Every map has elements, of every protocol."""
    entries = {}
    for number, protocol in enumerate(("TCP", "UDP", "SCTP")):
        for affinity in (None, 30):
            name = PortName("default", f"web-{affinity}", "", protocol)
            port = 80 + number + (affinity or 0)
            frontends = (Frontend(Kind.CLUSTER_IP, VIP, port), Frontend(Kind.NODE_PORT, "", 30000 + port),
                         Frontend(Kind.LOAD_BALANCER, BALANCER, port))  # fmt: skip
            entries[name] = Entry(name, frontends, BACKENDS, BACKENDS[:1], affinity_seconds=affinity,
                                  source_ranges=(IPv4Network("192.0.2.0/24"),))  # fmt: skip
        empty = PortName("default", "empty", "", protocol)
        at = (Frontend(Kind.CLUSTER_IP, "10.96.0.8", 80), Frontend(Kind.NODE_PORT, "", 31000))
        elsewhere = PortName("default", "elsewhere", "", protocol)
        local = (Frontend(Kind.CLUSTER_IP, "10.96.0.9", 80),)
        entries[empty] = Entry(empty, at)
        entries[elsewhere] = Entry(elsewhere, local, BACKENDS[1:], internal_local=True)
    return Table(Place("one", (IPv4Network("10.0.0.0/16"),), frozenset({NODE})), entries)


def as_nft_tells() -> tuple[set[str], set[str], dict[tuple[str, str], str]]:
    """Names of chains, of sets and maps, and elements."""
    listed = Tools.locate().list_table("ip", TABLE)
    assert listed is not None
    chains, sets, elements = set(), set(), {}
    for item in json.loads(listed)["nftables"]:
        if "chain" in item:
            chains.add(item["chain"]["name"])
        for each in filter(None, (item.get("set"), item.get("map"))):
            sets.add(each["name"])
            for element in each.get("elem", []) if each["name"] in MAPS else []:
                key, value = element if isinstance(element, list) else (element, None)
                elements[each["name"], words(key)] = "" if value is None else said(value)
    return chains, sets, elements


def words(value: Any) -> str:
    parts = value["concat"] if isinstance(value, dict) and "concat" in value else [value]
    return " . ".join(map(str, parts))


def said(value: Any) -> str:
    if "goto" in value:
        return f"goto {value['goto']['target']}"
    return words(value) if "concat" in value else str(next(iter(value)))


def test_what_the_kernel_tells_is_what_nft_tells() -> None:
    def compare() -> None:
        assert not found().chains, "no table yet"
        mode = Nftables(Surroundings(Path("/nonexistent")))
        asyncio.run(mode.apply(table()))
        here = found()
        chains, sets, elements = as_nft_tells()
        assert here.chains == chains
        assert here.sets | MAPS.keys() == sets
        assert here.elements == elements
        assert {name for name, _ in elements} == MAPS.keys(), "all maps have some"
        assert len(elements) > 150
        asyncio.run(Nftables(Surroundings(Path("/nonexistent"))).apply(table()))
        assert as_nft_tells() == (chains, sets, elements), "adopted, and nothing changed"

    with namespace("found") as own:
        own.call(compare)
