"""Firewalls of others that no rule of ours can undo: what they refuse is said.

A drop in any base chain of nftables is final. Whether a chain accepts some packet cannot be told by reading it, so only
this is asked: does it end by refusing what it does not know, and has nobody ever told it of us?
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from overlay.linux.netfilter import Tools, has_legacy_filter
from overlay.node.firewall.nftables import DOCKERS_TABLE
from overlay.node.firewall.saved import Saved, Tokens
from overlay.problem import Problem
from overlay.text import printable

_IPTABLES = frozenset({"filter", "nat", "mangle", "raw", "security"})
"""Its tables of family ip: what is in them is seen as iptables' (``saved``)."""

_OWN_TABLES = "flannel-"
"""How the names of our tables begin, and of other agents'."""

_REFUSALS = frozenset({"drop", "reject"})


@dataclass(frozen=True, slots=True)
class ForeignChain:
    """A base chain that neither we nor iptables nor Docker made."""

    family: str
    table: str
    name: str
    policy: str


def foreign_chains(text: str, hooks: frozenset[str] = frozenset({"forward"})) -> Iterator[ForeignChain]:
    """Those at ``hooks`` of what ``nft -j list chains`` printed."""
    for item in json.loads(text)["nftables"]:
        chain = item.get("chain", {})
        if chain.get("hook") not in hooks or chain["family"] not in ("ip", "inet"):
            continue
        table = chain["table"]
        if table.startswith(_OWN_TABLES) or table == DOCKERS_TABLE or (chain["family"] == "ip" and table in _IPTABLES):
            continue
        yield ForeignChain(chain["family"], table, chain["name"], str(chain.get("policy", "accept")))


def judge(chain: ForeignChain, text: str, network: IPv4Network, device: str) -> Problem | None:
    """
    Args:
        text: what ``nft -j list table`` printed of the chain's table.
    """
    items = json.loads(text)["nftables"]
    rules = [item["rule"]["expr"] for item in items if item.get("rule", {}).get("chain") == chain.name]
    if chain.policy != "drop" and not any(_refuses_all(rule) for rule in rules):
        return None
    if any(name in _strings(items) for name in (device, str(network.network_address))):
        return None
    return Problem(
        "firewall-refuses",
        f"the firewall in nftables' table {chain.family} {printable(chain.table)} refuses to forward what it was not "
        f"told of, and it was told neither of {device} nor of {network}",
        f"tell it to accept what is forwarded from and to {device} "
        f"(firewalld: firewall-cmd --permanent --zone=trusted --add-interface={device}, and --reload)",
    )


def _refuses_all(rule: Any) -> bool:
    kinds = [next(iter(part)) for part in rule if isinstance(part, dict)]
    return bool(kinds) and kinds[-1] in _REFUSALS and set(kinds[:-1]) <= {"counter", "log"}


def _strings(value: Any) -> set[str]:
    """All strings in a JSON value."""
    if isinstance(value, dict):
        return set().union(*map(_strings, value.values()))
    if isinstance(value, list):
        return set().union(*map(_strings, value))
    return {value} if isinstance(value, str) else set()


def look(tools: Tools, network: IPv4Network, device: str) -> Iterator[Problem]:
    """What in others' firewalls keeps the overlay's packets back. Raises NodeError, PrivilegeError."""
    if has_legacy_filter() and all(variant.is_nft for variant in tools.variants):
        yield Problem(
            "firewall-unread",
            "the kernel has rules of legacy iptables, and there is no iptables-legacy to look whether they drop what "
            "is forwarded",
            "install it (Debian: apt-get install iptables), or empty them with the tool that made them",
        )
    if not tools.has_nftables:
        return
    for chain in foreign_chains(tools.list_chains()):
        text = tools.list_table(chain.family, chain.table)
        if text is not None and (problem := judge(chain, text, network, device)) is not None:
            yield problem


def prerouting(tools: Tools) -> tuple[Tokens, ...]:
    """The rules of raw PREROUTING, of every variant of iptables. Raises NodeError, PrivilegeError."""
    tables = [Saved.parse_all(variant.tables()) for variant in tools.variants]
    return tuple(rule for table in tables if "raw" in table for rule in table["raw"].chain("PREROUTING"))
