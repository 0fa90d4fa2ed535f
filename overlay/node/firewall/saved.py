"""A table of iptables as facts: its chains and rules as ``iptables-save`` prints them, or as nft sees them. Pure.

nft sees more: what others made with nft in iptables' own table is for iptables-save "incompatible" (which it says with
status 0), an error, or, worse, another rule: it prints ``ip saddr @guests drop`` as ``-j DROP`` (1.8.9 to 1.8.13).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

Tokens = tuple[str, ...]
"""A rule without its chain, split as a shell would: ``("-s", "10.0.0.0/16", "-j", "ACCEPT")``."""

NATIVE = "--nft"
"""In place of conditions that iptables has no words for."""


@dataclass(frozen=True, slots=True)
class Saved:
    """One table; one that the kernel does not have yet is empty.

    Attributes:
        policies: of each chain; "-" where the chain is not the kernel's.
        rules: of each chain, in order.
        handles: of each chain's rules, by which nft names them; empty where iptables' words are enough.
    """

    policies: Mapping[str, str]
    rules: Mapping[str, tuple[Tokens, ...]]
    handles: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Saved:
        """What ``iptables-save -t TABLE`` printed, or ``iptables -S CHAIN``."""
        policies: dict[str, str] = {}
        rules: dict[str, list[Tokens]] = {}
        for line in text.split("\n"):  # a comment may have what str.splitlines takes for an end
            if line.startswith(":"):
                name, _, rest = line[1:].partition(" ")
                policies[name] = rest.partition(" ")[0] or "-"
            elif line.startswith("-N "):
                policies[line[3:]] = "-"
            elif line.startswith("-A "):
                # A rule may be empty: it matches all, and only counts.
                name, _, rule = line[3:].partition(" ")
                rules.setdefault(name, []).append(split(rule))
        return cls(policies, {name: tuple(lines) for name, lines in rules.items()})

    @classmethod
    def parse_all(cls, text: str, only: Collection[str] | None = None) -> dict[str, Saved]:
        """What ``iptables-save`` printed of all tables that there are, by name.

        Args:
            only: the tables that are wanted; nat may have tens of thousands of rules.
        """
        parts = ((part.partition("\n")[0].strip(), part) for part in ("\n" + text).split("\n*")[1:])
        return {name: cls.parse(part) for name, part in parts if only is None or name in only}

    @classmethod
    def from_nft(cls, text: str, comments: Mapping[str, str]) -> Saved:
        """What ``nft -j list table ip TABLE`` printed; conditions but interfaces are all :data:`NATIVE`.

        Args:
            comments: of jumps, by target: nft does not tell them.
        """
        policies: dict[str, str] = {}
        rules: dict[str, list[Tokens]] = {}
        handles: dict[str, list[int]] = {}
        for item in json.loads(text)["nftables"]:
            if chain := item.get("chain"):
                policies[chain["name"]] = str(chain.get("policy", "-")).upper()
            elif rule := item.get("rule"):
                rules.setdefault(rule["chain"], []).append(_words(rule.get("expr", ()), comments))
                handles.setdefault(rule["chain"], []).append(rule["handle"])
        return cls(
            policies,
            {name: tuple(lines) for name, lines in rules.items()},
            {name: tuple(numbers) for name, numbers in handles.items()},
        )

    def corrected(self, seen: Saved) -> Saved:
        """The same in iptables' words, with what only nft sees: conditions that these do not have, and handles."""
        rules = {
            name: tuple(map(_closer, self.chain(name), lines)) if len(self.chain(name)) == len(lines) else lines
            for name, lines in seen.rules.items()
        }
        return Saved(seen.policies, rules, seen.handles)

    def chain(self, name: str) -> list[Tokens]:
        """The rules of one chain, in order."""
        return list(self.rules.get(name, ()))

    def referenced(self, name: str, *, besides: str) -> bool:
        """Whether a rule of any chain but ``besides`` jumps to ``name``."""
        return any(target(rule) == name for chain, rules in self.rules.items() if chain != besides for rule in rules)

    def leads_to(self, rule: Tokens, names: frozenset[str], depth: int = 0) -> bool:
        """Whether a packet that ``rule`` matches may come to one of these chains."""
        # The kernel refuses loops; the limit only guards against a text that no kernel printed.
        name = target(rule)
        if name is None or depth > 16:
            return False
        return name in names or any(self.leads_to(inner, names, depth + 1) for inner in self.chain(name))


def _closer(printed: Tokens, seen: Tokens) -> Tokens:
    """Of one rule as iptables prints it and as nft sees it, the one that says more."""
    misread = NATIVE in seen and (unconditional(printed) or not printed)
    return seen if misread else printed


def target(rule: Tokens) -> str | None:
    """Where the rule sends what it matches; None for one that only counts."""
    return option(rule, "-j") or option(rule, "-g")


def option(rule: Tokens, name: str) -> str | None:
    """The value of an option; None where the rule has none such."""
    return next((value for word, value in pairwise(rule) if word == name), None)


def unconditional(rule: Tokens) -> bool:
    """Matches every packet: there is nothing but a comment before the target."""
    if rule[:2] == ("-m", "comment"):
        rule = rule[4:]
    return rule[:1] in (("-j",), ("-g",))


def split(rule: str) -> Tokens:
    """A printed rule's words."""
    try:
        return tuple(shlex.split(rule))
    except ValueError:  # someone's comment with a quote that only iptables understands: no rule of ours
        return tuple(rule.split())


def quoted(rule: Tokens) -> str:
    """With double quotes, the only ones that iptables-restore knows (xshared.c, ``add_param_to_argv``)."""
    return " ".join(_quote(token) if set(token) & _SPECIAL else token for token in rule)


_SPECIAL = frozenset(" \t\"\\'")


def _quote(token: str) -> str:
    escaped = token.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_INTERFACES = {"iifname": "-i", "oifname": "-o"}

_VERDICTS = ("accept", "drop", "reject", "return")


def _words(expressions: Any, comments: Mapping[str, str]) -> Tokens:
    """A rule's expressions (libnftables-json(5)) in iptables' words."""
    conditions: list[str] = []
    verdict: list[str] = []
    kind: str
    body: Any
    for expression in expressions:
        kind, body = next(iter(expression.items())) if isinstance(expression, dict) else (NATIVE, None)
        if kind in ("jump", "goto"):
            verdict = ["-j" if kind == "jump" else "-g", body["target"]]
        elif kind in _VERDICTS:
            verdict = ["-j", kind.upper()]
        elif kind == "xt" and body and body.get("type") == "target":
            verdict = ["-j", str(body.get("name"))]
        elif kind == "counter" or (kind == "xt" and body and body.get("name") == "comment"):
            continue
        elif kind == "match" and (interface := _interface(body)):
            conditions += interface
        else:
            conditions.append(NATIVE)
    if verdict and (comment := comments.get(verdict[1])):
        conditions += ["-m", "comment", "--comment", comment]
    return (*conditions, *verdict)


def _interface(match: Mapping[str, Any]) -> list[str]:
    """``[! ] -i NAME`` of a match of one interface by name; [] for another match."""
    left, right = match.get("left"), match.get("right")
    key = left["meta"].get("key") if isinstance(left, dict) and isinstance(left.get("meta"), dict) else None
    if key not in _INTERFACES or not isinstance(right, str):
        return []
    return [*(["!"] if match.get("op") == "!=" else []), _INTERFACES[key], right]
