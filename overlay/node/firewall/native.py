"""Tables that others made with nft, in iptables' words as far as these go (libnftables-json(5)). Pure.

For :mod:`overlay.node.firewall.fate`: what has no such words is :data:`~overlay.node.firewall.saved.NATIVE`, which
nobody knows of any packet, and what might accept (a verdict map, a queue) accepts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from overlay.node.firewall.saved import NATIVE, Saved, Tokens

_VERDICTS = {"accept": "ACCEPT", "drop": "DROP", "reject": "REJECT", "return": "RETURN"}
_SAYS_NOTHING = frozenset({"counter", "log", "mangle", "notrack", "ct timeout", "ct helper", "quota", "set"})
_NOT_IPV4 = ("-p", "ip6")


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes:
        hooks: of its base chains that filter, by name, as iptables calls its chains there ("INPUT").
    """

    hooks: Mapping[str, str]
    saved: Saved


def parse(text: str) -> Table:
    """What ``nft -j list table`` printed."""
    hooks: dict[str, str] = {}
    policies: dict[str, str] = {}
    rules: dict[str, list[Tokens]] = {}
    for item in json.loads(text)["nftables"]:
        if chain := item.get("chain"):
            policies[chain["name"]] = str(chain.get("policy", "-")).upper()
            if "hook" in chain and chain.get("type") == "filter":
                hooks[chain["name"]] = str(chain["hook"]).upper()
        elif rule := item.get("rule"):
            rules.setdefault(rule["chain"], []).append(_words(rule.get("expr", ())))
    return Table(hooks, Saved(policies, {chain: tuple(lines) for chain, lines in rules.items()}))


def _words(expressions: Any) -> Tokens:
    conditions: list[str] = []
    for expression in expressions:
        kind: str
        body: Any
        kind, body = next(iter(expression.items())) if isinstance(expression, dict) and expression else ("", None)
        if kind in _VERDICTS:
            return (*conditions, "-j", _VERDICTS[kind])
        if kind in ("jump", "goto"):
            return (*conditions, "-j" if kind == "jump" else "-g", str(body["target"]))
        if kind == "match":
            conditions += _match(body)
        elif kind not in _SAYS_NOTHING:
            # What this is nobody knows: it may end here, or not.
            return (*conditions, NATIVE, "-j", "ACCEPT")
    return tuple(conditions)


def _match(match: Mapping[str, Any]) -> list[str]:
    words = list(_condition(match.get("left"), match.get("right")))
    inverted = match.get("op") == "!="
    if inverted and len(words) != 2:  # "neither of two things" cannot be said
        return [NATIVE]
    return ["!", *words] if inverted else words


def _condition(left: Any, right: Any) -> Iterator[str]:
    kind, body = next(iter(left.items())) if isinstance(left, dict) and left else ("", None)
    key = body.get("key") if isinstance(body, dict) else None
    if kind == "meta" and key in ("iifname", "oifname", "iif", "oif") and isinstance(right, str):
        yield from ("-i" if key.startswith("i") else "-o", right.replace("*", "+"))
    elif kind == "meta" and key == "nfproto" and isinstance(right, str):
        if right != "ipv4":
            yield from _NOT_IPV4
    elif kind == "meta" and key == "l4proto" and isinstance(right, str):
        yield from ("-p", right)
    elif kind == "ct" and key == "state":
        states = right.get("set") if isinstance(right, dict) else right
        listed = [states] if isinstance(states, str) else states
        yield from ("--ctstate", ",".join(str(state).upper() for state in listed)) if listed else (NATIVE,)
    elif kind == "payload" and isinstance(body, dict):
        yield from _payload(str(body.get("protocol")), str(body.get("field")), right)
    else:
        yield NATIVE


def _payload(protocol: str, field: str, right: Any) -> Iterator[str]:
    if protocol == "ip" and field == "protocol" and isinstance(right, str):
        yield from ("-p", right)
    elif protocol == "ip" and field in ("saddr", "daddr") and (address := _address(right)):
        yield from ("-s" if field == "saddr" else "-d", address)
    elif protocol in ("ip6", "icmpv6", "arp", "ether"):
        yield from _NOT_IPV4 if protocol != "ether" else (NATIVE,)
    elif protocol in ("udp", "tcp", "icmp"):
        yield from ("-p", protocol)
        yield from _ports(right) if field == "dport" else (NATIVE,)
    else:
        yield NATIVE


def _address(right: Any) -> str:
    if isinstance(right, dict) and "prefix" in right:
        return f"{right['prefix']['addr']}/{right['prefix']['len']}"
    return right if isinstance(right, str) and not right.startswith("@") else ""


def _ports(right: Any) -> tuple[str, ...]:
    listed = right.get("set") if isinstance(right, dict) and "set" in right else [right]
    words = []
    for port in listed if isinstance(listed, list) else [listed]:
        if isinstance(port, dict) and "range" in port:
            words.append(":".join(map(str, port["range"])))
        else:
            words.append(str(port))
    return ("--dports", ",".join(words))
