"""The rules as iptables has them: read from ``iptables-save``, written for ``iptables-restore --noflush``. Pure.

One chain of our own a hook, and one jump to it from the kernel's chain::

    -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
    -A FLANNEL-FWD -s 10.0.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT

Where the jump belongs matters in FORWARD only. Docker sets that chain's policy to DROP, and newer versions drop in
chains of their own, so ours must come before those; but behind DOCKER-USER, which is the operator's own filter, and
behind Docker's isolation of its networks from each other. Anywhere in between is right and is left alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from overlay.node.firewall.model import Chain, Hook, Names, Rule, Ruleset, Verdict

Tokens = tuple[str, ...]
"""A rule without its chain, split as a shell would: ``("-s", "10.0.0.0/16", "-j", "ACCEPT")``."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a hook's rules live: our ``chain``, jumped to from the kernel's chain ``base`` in ``table``."""

    table: str
    base: str
    chain: str
    comment: str

    @property
    def jump(self) -> Tokens:
        return ("-m", "comment", "--comment", self.comment, "-j", self.chain)


_BASES = {Hook.FORWARD: ("filter", "FORWARD"), Hook.POSTROUTING: ("nat", "POSTROUTING")}

TABLES = tuple(table for table, _ in _BASES.values())
"""The tables that a plan looks at."""


def anchors(names: Names) -> dict[Hook, Anchor]:
    """Where the rules of the agent with these names live."""
    return {hook: Anchor(*base, names.chains[hook], names.comments[hook]) for hook, base in _BASES.items()}


_GUARDS = frozenset({"DOCKER-USER", "DOCKER-ISOLATION-STAGE-1"})
"""Chains that ours must not bypass."""

_DOCKER_FILTERS = frozenset({"DOCKER", "DOCKER-FORWARD"})
"""Chains in which Docker drops what comes to a bridge from elsewhere (since its version 28)."""

_REFUSALS = frozenset({"DROP", "REJECT"})


@dataclass(frozen=True, slots=True)
class Saved:
    """One table as ``iptables-save -t`` prints it; a table the kernel does not have yet is empty.

    Attributes:
        policies: of each chain; "-" where the chain is not the kernel's.
        rules: of each chain, as printed, without ``-A CHAIN``.
    """

    policies: Mapping[str, str]
    rules: Mapping[str, tuple[str, ...]]

    @classmethod
    def parse(cls, text: str) -> Saved:
        policies: dict[str, str] = {}
        rules: dict[str, list[str]] = {}
        for line in text.splitlines():
            if line.startswith(":"):
                name, policy, *_ = line[1:].split()
                policies[name] = policy
            elif line.startswith("-A "):
                _, name, rule = line.split(" ", 2)
                rules.setdefault(name, []).append(rule)
        return cls(policies, {name: tuple(lines) for name, lines in rules.items()})

    def chain(self, name: str) -> list[Tokens]:
        """The rules of one chain, in order."""
        return [_split(rule) for rule in self.rules.get(name, ())]

    def referenced(self, target: str, *, besides: str) -> bool:
        """Whether a rule of any chain but ``besides`` jumps to ``target``."""
        return any(
            _target(_split(rule)) == target
            for name, rules in self.rules.items()
            if name != besides
            for rule in rules
            if target in rule
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """The way from what is to what should be: ``changes`` for people, ``script`` for iptables-restore."""

    changes: tuple[str, ...] = ()
    script: str = ""


def plan(ruleset: Ruleset, tables: Mapping[str, Saved], names: Names) -> Plan:
    """What to do about ``tables`` (:data:`TABLES` as they are) so that of ours they hold just ``ruleset``.

    Each table's part of the script is committed as a whole or not at all. Empty when all is right already.
    """
    changes: list[str] = []
    script: list[str] = []
    for hook, anchor in anchors(names).items():
        steps = list(_steps(anchor, ruleset.chain(hook), tables[anchor.table]))
        if steps:
            changes += [f"iptables {anchor.table}: {text}" for text, _ in steps]
            commands = [line for _, lines in steps for line in lines]
            # iptables-restore wants the chains declared before the first command of a table.
            commands.sort(key=lambda line: not line.startswith(":"))
            script += [f"*{anchor.table}", *commands, "COMMIT"]
    return Plan(tuple(changes), "".join(f"{line}\n" for line in script))


def render(rule: Rule, comment: str) -> Tokens:
    """One rule, exactly as iptables-save prints it back."""
    tokens: list[str] = []
    for option, match in (("-s", rule.source), ("-d", rule.destination)):
        if match is not None:
            tokens += [*(["!"] if match.outside else []), option, str(match.network)]
    if rule.mark is not None:
        tokens += ["-m", "mark", "--mark", f"{rule.mark:#x}/{rule.mark:#x}"]
    tokens += ["-m", "comment", "--comment", comment]
    return (*tokens, *_VERDICTS[rule.verdict])


_VERDICTS = {
    Verdict.ACCEPT: ("-j", "ACCEPT"),
    Verdict.RETURN: ("-j", "RETURN"),
    Verdict.MASQUERADE: ("-j", "MASQUERADE", "--random-fully"),
}


def refuses_forwarding(table: Saved) -> bool:
    """Whether the filter ``table`` may drop what is forwarded, so that only an accept in it lets the overlay pass."""
    return table.policies.get("FORWARD") == "DROP" or any(_blocks(rule, table) for rule in table.chain("FORWARD"))


def _steps(anchor: Anchor, wanted: Chain | None, table: Saved) -> Iterator[tuple[str, list[str]]]:
    """Each step: what it does in words, and its lines for iptables-restore."""
    present = anchor.chain in table.policies
    if wanted is not None:
        rules = [render(rule, anchor.comment) for rule in wanted.rules]
        if not present or table.chain(anchor.chain) != rules:
            # Declaring a chain that exists empties it, within the same transaction.
            yield (
                f"{anchor.chain} {'rewritten' if present else 'made'}",
                [f":{anchor.chain} - [0:0]", *(_append(anchor.chain, rule) for rule in rules)],
            )
    yield from _jump_steps(anchor, wanted is not None, table)
    if wanted is None and present:
        if table.referenced(anchor.chain, besides=anchor.base):
            if table.chain(anchor.chain):
                yield f"{anchor.chain} emptied (someone else's rule still jumps to it)", [f"-F {anchor.chain}"]
        else:
            yield f"{anchor.chain} removed", [f"-F {anchor.chain}", f"-X {anchor.chain}"]


def _jump_steps(anchor: Anchor, wanted: bool, table: Saved) -> Iterator[tuple[str, list[str]]]:
    """One jump, in the right place, and no rule of flannel's from before it had chains of its own."""
    rules = table.chain(anchor.base)
    ours = [rule for rule in rules if _ours(rule, anchor)]
    others = [rule for rule in rules if not _ours(rule, anchor)]
    first, last = _room(others, table) if anchor.base == "FORWARD" else (0, len(others))
    if wanted and ours == [anchor.jump] and first <= rules.index(anchor.jump) <= last:
        return
    # A deletion by content takes the first match, so of several that are equal none can be kept in its place.
    for rule in ours:
        yield f"{anchor.base}: {shlex.join(rule)} removed", [f"-D {anchor.base} {_quoted(rule)}"]
    if wanted:
        place = f"-I {anchor.base} {last + 1}" if last < len(others) else f"-A {anchor.base}"
        yield f"{anchor.base}: jump to {anchor.chain} added", [f"{place} {_quoted(anchor.jump)}"]


def _ours(rule: Tokens, anchor: Anchor) -> bool:
    return _target(rule) == anchor.chain or _option(rule, "--comment") == anchor.comment


def _room(others: list[Tokens], table: Saved) -> tuple[int, int]:
    """How many of the others' rules in FORWARD must, and how many may, come before our jump."""
    last = next((index for index, rule in enumerate(others) if _blocks(rule, table)), len(others))
    first = max((index + 1 for index, rule in enumerate(others[:last]) if _target(rule) in _GUARDS), default=0)
    return first, last


def _blocks(rule: Tokens, table: Saved, depth: int = 0) -> bool:
    """Whether no accept behind this rule can help: it refuses all, or leads to where Docker or someone refuses."""
    target = _target(rule)
    if target in _DOCKER_FILTERS:
        return True
    if not _unconditional(rule) or target is None:
        return False
    if target in _REFUSALS:
        return True
    # The kernel refuses loops; the limit only guards against a text that no kernel printed.
    return depth < 16 and any(_blocks(inner, table, depth + 1) for inner in table.chain(target))


def _unconditional(rule: Tokens) -> bool:
    """Matches every packet: there is nothing but a comment before the target."""
    if rule[:2] == ("-m", "comment"):
        rule = rule[4:]
    return rule[:1] in (("-j",), ("-g",))


def _target(rule: Tokens) -> str | None:
    return _option(rule, "-j") or _option(rule, "-g")


def _option(rule: Tokens, name: str) -> str | None:
    return next((value for option, value in pairwise(rule) if option == name), None)


def _append(chain: str, rule: Tokens) -> str:
    return f"-A {chain} {_quoted(rule)}"


def _split(rule: str) -> Tokens:
    try:
        return tuple(shlex.split(rule))
    except ValueError:  # someone's comment with a quote that only iptables understands: no rule of ours
        return tuple(rule.split())


def _quoted(rule: Tokens) -> str:
    """With double quotes, the only ones that iptables-restore knows (xshared.c, ``add_param_to_argv``)."""
    return " ".join(_quote(token) if set(token) & _SPECIAL else token for token in rule)


_SPECIAL = frozenset(" \t\"\\'")


def _quote(token: str) -> str:
    escaped = token.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
