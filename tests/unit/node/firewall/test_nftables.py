"""The nftables renderer: JSON as ``nft -j list table`` prints it (nft 1.0.6, Debian 12)."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from typing import Any

from overlay.node.firewall import EMPTY, desired_rules
from overlay.node.firewall.model import Hook, Names
from overlay.node.firewall.nftables import Json, parse, render, same, transaction

NETWORK = IPv4Network("10.0.0.0/16")
NAMES = Names.of()
BOTH = desired_rules(NETWORK, IPv4Network("10.0.58.0/24"), ip_masq=True)


def listed(objects: list[Json]) -> list[Any]:
    """``objects`` as nft prints them: with its banner, with handles, and each chain followed by its rules."""
    table, chains, rules = ([o for o in objects if kind in o] for kind in ("table", "chain", "rule"))
    result: list[Any] = [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}}, *table]
    for chain in chains:
        result += [chain, *(rule for rule in rules if rule["rule"]["chain"] == chain["chain"]["name"])]
    return [{kind: {**body, "handle": n} for kind, body in item.items()} for n, item in enumerate(result)]


def read_back(objects: list[Json]) -> list[Json]:
    return parse(json.dumps({"nftables": listed(objects)}))


def rule(objects: list[Json], number: int) -> Json:
    content: Json = [item["rule"] for item in objects if "rule" in item][number]
    return content


def test_what_was_written_is_recognised_when_it_is_read_back() -> None:
    assert same(read_back(render(BOTH, NAMES)), render(BOTH, NAMES))


def test_an_nft_that_prints_flags_as_a_list_says_the_same() -> None:
    """From 1.1.5 on."""
    objects = render(BOTH, NAMES)
    text = json.dumps({"nftables": listed(objects)}).replace('"flags": "fully-random"', '"flags": ["fully-random"]')
    assert '["fully-random"]' in text
    assert same(parse(text), objects)


def test_the_order_of_chains_does_not_matter_but_that_of_rules_does() -> None:
    objects = render(BOTH, NAMES)
    assert same([objects[0], objects[2], objects[1], *objects[3:]], objects)
    assert not same([*objects[:-2], objects[-1], objects[-2]], objects)


def test_any_difference_counts() -> None:
    objects = render(BOTH, NAMES)
    other_subnet = render(desired_rules(NETWORK, IPv4Network("10.0.9.0/24"), ip_masq=True), NAMES)
    strange = {"rule": {"family": "ip", "table": "flannel-ipv4", "chain": "forward", "expr": [{"drop": None}]}}
    elements = {"set": {"family": "ip", "table": "flannel-ipv4", "name": "s", "type": "ipv4_addr"}}
    dormant = [{"table": {"family": "ip", "name": "flannel-ipv4", "flags": ["dormant"]}}, *objects[1:]]
    for actual in (objects[:-1], other_subnet, [*objects, strange], [*objects, elements], dormant, []):
        assert not same(actual, objects)


def test_nothing_wanted_is_no_table() -> None:
    assert render(EMPTY, NAMES) == []
    assert same([], render(EMPTY, NAMES))
    commands = json.loads(transaction([], NAMES.table))["nftables"]
    assert [next(iter(command)) for command in commands] == ["add", "delete"]


def test_a_transaction_replaces_the_table_as_a_whole() -> None:
    commands = json.loads(transaction(render(BOTH, NAMES), NAMES.table))["nftables"]
    assert [next(iter(command)) for command in commands[:3]] == ["add", "delete", "add"]
    assert all("add" in command for command in commands[2:])
    assert sum("rule" in command.get("add", ()) for command in commands) == 8


def test_rules_in_nfts_words() -> None:
    objects = render(BOTH.only(Hook.POSTROUTING), NAMES)
    assert rule(objects, 0)["expr"][0] == {
        "match": {"op": "==", "left": {"&": [{"meta": {"key": "mark"}}, 0x4000]}, "right": 0x4000}
    }
    last = rule(objects, 5)
    assert last["comment"] == "flanneld masq"
    assert last["expr"] == [
        {
            "match": {
                "op": "!=",
                "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                "right": {"prefix": {"addr": "10.0.0.0", "len": 16}},
            }
        },
        {
            "match": {
                "op": "==",
                "left": {"payload": {"protocol": "ip", "field": "daddr"}},
                "right": {"prefix": {"addr": "10.0.0.0", "len": 16}},
            }
        },
        {"masquerade": {"flags": "fully-random"}},
    ]


def test_another_device_has_a_table_of_its_own() -> None:
    names = Names.of("flannel1")
    text = json.dumps(render(BOTH, names)) + transaction(render(BOTH, names), names.table)
    assert text.count('"flannel-ipv4"') == 0
    assert '"flannel-ipv4-flannel1"' in text
