"""The rules as nftables has them, in a table of our own, read and written as nft's JSON (libnftables-json(5)). Pure.

The table's and chains' names are flannel's (pkg/trafficmngr/nftables/nftables.go): ``ip flannel-ipv4`` with
``forward`` and ``postrtg``; the table of an agent with another device tells the device. It is ours as a whole, so any
difference means: written anew, in one transaction.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from typing import Any

from overlay.node.firewall.model import ACCEPTED_MARK, Chain, Hook, Match, Names, Rule, Ruleset, Verdict

Json = dict[str, Any]

FAMILY = "ip"

DOCKERS_TABLE = "docker-bridges"
"""Where Docker has its rules since its version 29, if it is told to have them in nftables."""

_CHAINS: dict[Hook, Json] = {
    Hook.FORWARD: {"name": "forward", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"},
    Hook.POSTROUTING: {"name": "postrtg", "type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"},
}
"""Base chains; priorities are nft's "filter" and "srcnat"."""

_VERDICTS: dict[Verdict, Json] = {
    Verdict.ACCEPT: {"accept": None},
    Verdict.RETURN: {"return": None},
    Verdict.MASQUERADE: {"masquerade": {"flags": "fully-random"}},
    Verdict.MASQUERADE_PLAIN: {"masquerade": None},
}


def render(ruleset: Ruleset, names: Names) -> list[Json]:
    """The table's objects in the form in which ``nft -j list table`` prints them, without handles; [] for no table."""
    if not ruleset.chains:
        return []
    objects: list[Json] = [{"table": {"family": FAMILY, "name": names.table}}]
    for chain in ruleset.chains:
        objects.append({"chain": {"family": FAMILY, "table": names.table, **_CHAINS[chain.hook]}})
    for chain in ruleset.chains:
        objects += [{"rule": rule} for rule in _rules(chain, names)]
    return objects


def render_marking(network: IPv4Network, names: Names) -> list[Json]:
    """The table that marks what comes out of the tunnel for ``network``, before Docker's chains look at it."""
    place: Json = {"family": FAMILY, "table": names.marking_table}
    comes_out = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": names.interface}}
    mark: Json = {"meta": {"key": "mark"}}
    marks = {"mangle": {"key": mark, "value": {"|": [mark, ACCEPTED_MARK]}}}
    chain = {"name": "forward", "type": "filter", "hook": "forward", "prio": _BEFORE_FILTER, "policy": "accept"}
    return [
        {"table": {"family": FAMILY, "name": names.marking_table}},
        {"chain": {**place, **chain}},
        {
            "rule": {
                **place,
                "chain": "forward",
                "comment": names.comments[Hook.FORWARD],
                "expr": [comes_out, _address("daddr", Match(network)), marks],
            }
        },
    ]


_BEFORE_FILTER = -10
"""Docker's chains have nft's priority "filter", 0."""


def parse(text: str) -> list[Json]:
    """What ``nft -j list table`` printed, as :func:`render` would have it."""
    objects = [_in_older_words(item) for item in json.loads(text)["nftables"] if "metainfo" not in item]
    for item in objects:
        for content in item.values():
            content.pop("handle", None)
    # nft prints each chain followed by its rules, or all chains first, depending on its version.
    return sorted(objects, key=lambda item: _ORDER.index(kind) if (kind := next(iter(item))) in _ORDER else len(_ORDER))


def tables(text: str) -> frozenset[str]:
    """Names of this family's tables, of what ``nft -j list tables`` printed."""
    listed = (item["table"] for item in json.loads(text)["nftables"] if "table" in item)
    return frozenset(table["name"] for table in listed if table["family"] == FAMILY)


_ORDER = ("table", "chain", "rule")


def _in_older_words(value: Any) -> Any:
    """A single flag as a string: from nft 1.1.5 on it is a list of one."""
    if isinstance(value, list):
        return [_in_older_words(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: item[0] if name == "flags" and isinstance(item, list) and len(item) == 1 else _in_older_words(item)
        for name, item in value.items()
    }


def same(actual: list[Json], wanted: list[Json]) -> bool:
    """Whether the table is right; the order of chains does not matter, that of rules within a chain does."""

    def by_chain(objects: list[Json]) -> tuple[list[Json], dict[str, Json], dict[str, list[Json]]]:
        chains = {item["chain"]["name"]: item["chain"] for item in objects if "chain" in item}
        rules: dict[str, list[Json]] = {name: [] for name in chains}
        for item in objects:
            if "rule" in item:
                rules.setdefault(item["rule"]["chain"], []).append(item["rule"])
        return [item for item in objects if "chain" not in item and "rule" not in item], chains, rules

    return by_chain(actual) == by_chain(wanted)


def transaction(wanted: list[Json], name: str) -> str:
    """Input for ``nft -j -f -`` that puts ``wanted`` in place of the table ``name`` as it is, whether there is one or
    not."""
    table = {"table": {"family": FAMILY, "name": name}}
    commands = [{"add": table}, {"delete": table}, *({"add": item} for item in wanted)]
    return json.dumps({"nftables": commands})


def _rules(chain: Chain, names: Names) -> list[Json]:
    place = {"family": FAMILY, "table": names.table, "chain": _CHAINS[chain.hook]["name"]}
    return [{**place, "comment": names.comments[chain.hook], "expr": _expressions(rule)} for rule in chain.rules]


def _expressions(rule: Rule) -> list[Json]:
    expressions: list[Json] = []
    if rule.mark is not None:
        bits = {"&": [{"meta": {"key": "mark"}}, rule.mark]}
        expressions.append({"match": {"op": "==", "left": bits, "right": rule.mark}})
    for field, match in (("saddr", rule.source), ("daddr", rule.destination)):
        if match is not None:
            expressions.append(_address(field, match))
    return [*expressions, _VERDICTS[rule.verdict]]


def _address(field: str, match: Match) -> Json:
    network = match.network
    right: str | Json = str(network.network_address)
    if network.prefixlen < network.max_prefixlen:
        right = {"prefix": {"addr": right, "len": network.prefixlen}}
    return {
        "match": {
            "op": "!=" if match.outside else "==",
            "left": {"payload": {"protocol": "ip", "field": field}},
            "right": right,
        }
    }
