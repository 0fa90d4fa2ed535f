"""The rules as iptables has them: read as :class:`Saved` tables, written for ``iptables-restore --noflush``. Pure.

One chain of our own a hook, and a jump to it from the kernel's chain::

    -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
    -A FLANNEL-FWD -s 10.0.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT

Where the jump belongs matters in FORWARD only. Docker sets that chain's policy to DROP, and newer versions drop in
chains of their own, so ours must come before those; but behind DOCKER-USER, which is the operator's own filter even
where it ends by refusing all, and behind Docker's isolation of its networks from each other. Anywhere in between is
right and is left alone.

Docker 28 has its isolation in the very chain (DOCKER-FORWARD) that drops what comes to a bridge from elsewhere. There
only what comes out of the tunnel may pass by it, and everything else meets our chain behind it::

    -A FORWARD -j DOCKER-USER
    -A FORWARD -i flannel0 -m comment --comment "flanneld forward" -j FLANNEL-FWD
    -A FORWARD -j DOCKER-FORWARD
    -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from overlay.node.firewall.model import Chain, Hook, Names, Rule, Ruleset, Verdict
from overlay.node.firewall.saved import Saved, Tokens, option, quoted, target, unconditional


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a hook's rules live: our ``chain``, jumped to from the kernel's chain ``base`` in ``table``.

    Attributes:
        interface: what comes in by it may pass by Docker's filters.
    """

    table: str
    base: str
    chain: str
    comment: str
    interface: str

    @property
    def jump(self) -> Tokens:
        return ("-m", "comment", "--comment", self.comment, "-j", self.chain)

    @property
    def jump_from_interface(self) -> Tokens:
        return ("-i", self.interface, *self.jump)


_BASES = {Hook.FORWARD: ("filter", "FORWARD"), Hook.POSTROUTING: ("nat", "POSTROUTING")}

TABLES = tuple(table for table, _ in _BASES.values())
"""The tables that a plan looks at."""


def anchors(names: Names) -> dict[Hook, Anchor]:
    """Where the rules of the agent with these names live."""
    return {
        hook: Anchor(*base, names.chains[hook], names.comments[hook], names.interface) for hook, base in _BASES.items()
    }


_OPERATORS = frozenset({"DOCKER-USER"})
"""Made by Docker for the operator's rules: what is refused there is meant to be."""

_ISOLATION = frozenset({"DOCKER-ISOLATION-STAGE-1", "DOCKER-INTERNAL"})
"""Where Docker keeps its networks from each other and from outside."""

_GUARDS = _OPERATORS | _ISOLATION
"""Chains that ours must not bypass."""

_DOCKER_FILTERS = frozenset({"DOCKER", "DOCKER-FORWARD"})
"""Chains in which Docker drops what comes to a bridge from elsewhere (since its version 28)."""

_REFUSALS = frozenset({"DROP", "REJECT"})


@dataclass(frozen=True, slots=True)
class Plan:
    """The way from what is to what should be.

    Attributes:
        changes: for people.
        deletions: for ``nft -f``, to be carried out first: rules that only nft can name.
        script: for iptables-restore.
    """

    changes: tuple[str, ...] = ()
    script: str = ""
    deletions: str = ""

    @property
    def tables(self) -> tuple[str, ...]:
        """Those that the script writes to."""
        return tuple(line[1:] for line in self.script.split("\n") if line.startswith("*"))


def plan(ruleset: Ruleset, tables: Mapping[str, Saved], names: Names, replaced: Ruleset | None = None) -> Plan:
    """What to do about ``tables`` (those of :data:`TABLES` that count, as they are) so that of ours they hold just
    ``ruleset``.

    Args:
        replaced: what the rules mean that a flanneld may have left; by default ``ruleset``.

    Each table's part of the script is committed as a whole or not at all. Empty when all is right already.
    """
    changes: list[str] = []
    script: list[str] = []
    deletions: list[str] = []
    for hook, anchor in anchors(names).items():
        if anchor.table not in tables:
            continue
        older = (replaced or ruleset).chain(hook)
        steps = list(_steps(anchor, ruleset.chain(hook), older, tables[anchor.table]))
        changes += [f"iptables {anchor.table}: {text}" for text, _ in steps]
        commands = [line for _, lines in steps for line in lines]
        deletions += [line for line in commands if line.startswith("delete ")]
        commands = [line for line in commands if not line.startswith("delete ")]
        if commands:
            # iptables-restore wants the chains declared before the first command of a table.
            commands.sort(key=lambda line: not line.startswith(":"))
            script += [f"*{anchor.table}", *commands, "COMMIT"]
    return Plan(tuple(changes), *("".join(f"{line}\n" for line in lines) for lines in (script, deletions)))


def render(rule: Rule, comment: str) -> Tokens:
    """One rule, exactly as iptables-save prints it back."""
    tokens: list[str] = []
    for word, match in (("-s", rule.source), ("-d", rule.destination)):
        if match is not None:
            tokens += [*(["!"] if match.outside else []), word, str(match.network)]
    if rule.mark is not None:
        tokens += ["-m", "mark", "--mark", f"{rule.mark:#x}/{rule.mark:#x}"]
    tokens += ["-m", "comment", "--comment", comment]
    return (*tokens, *_VERDICTS[rule.verdict])


_VERDICTS = {
    Verdict.ACCEPT: ("-j", "ACCEPT"),
    Verdict.RETURN: ("-j", "RETURN"),
    Verdict.MASQUERADE: ("-j", "MASQUERADE", "--random-fully"),
    Verdict.MASQUERADE_PLAIN: ("-j", "MASQUERADE"),
}


def refuses_forwarding(table: Saved) -> bool:
    """Whether the filter ``table`` may drop what is forwarded, so that only an accept in it lets the overlay pass."""
    return table.policies.get("FORWARD") == "DROP" or any(_blocks(rule, table) for rule in table.chain("FORWARD"))


def _steps(
    anchor: Anchor, wanted: Chain | None, replaced: Chain | None, table: Saved
) -> Iterator[tuple[str, list[str]]]:
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
    yield from _jump_steps(anchor, wanted is not None, replaced, table)
    if wanted is None and present:
        if table.referenced(anchor.chain, besides=anchor.base):
            if table.chain(anchor.chain):
                yield f"{anchor.chain} emptied (someone else's rule still jumps to it)", [f"-F {anchor.chain}"]
        else:
            yield f"{anchor.chain} removed", [f"-F {anchor.chain}", f"-X {anchor.chain}"]


def _jump_steps(anchor: Anchor, wanted: bool, replaced: Chain | None, table: Saved) -> Iterator[tuple[str, list[str]]]:
    """The jumps, each in a right place, and no rule of flannel's from before it had chains of its own."""
    rules = table.chain(anchor.base)
    older = _older_flannels(replaced, rules) if replaced is not None else frozenset()
    ours = [index for index, rule in enumerate(rules) if rule in older or _ours(rule, anchor)]
    others = [rule for index, rule in enumerate(rules) if index not in ours]
    places = _places(others, table, anchor) if wanted else []
    if [rules[index] for index in ours] == [place.jump for place in places] and all(
        # Without those of ours that come before it, a jump stands behind as many of the others.
        place.first <= index - before <= place.last
        for before, (index, place) in enumerate(zip(ours, places, strict=True))
    ):
        return
    # A deletion by content takes the first match, so of several that are equal none can be kept in its place.
    for index in ours:
        yield f"{anchor.base}: {shlex.join(rules[index])} removed", [_deletion(anchor, table, index)]
    for before, place in enumerate(places):
        at = place.last + before
        command = f"-I {anchor.base} {at + 1}" if place.last < len(others) else f"-A {anchor.base}"
        yield f"{anchor.base}: jump to {anchor.chain} added", [f"{command} {quoted(place.jump)}"]


def _deletion(anchor: Anchor, table: Saved, index: int) -> str:
    """By handle where there is one: iptables may not be able to read its way to a rule."""
    if handles := table.handles.get(anchor.base):
        return f"delete rule ip {anchor.table} {anchor.base} handle {handles[index]}"
    return f"-D {anchor.base} {quoted(table.chain(anchor.base)[index])}"


def _ours(rule: Tokens, anchor: Anchor) -> bool:
    return target(rule) == anchor.chain or option(rule, "--comment") == anchor.comment


def _older_flannels(meaning: Chain, rules: list[Tokens]) -> frozenset[Tokens]:
    """Rules of a flanneld that wrote neither comments (before v0.15) nor chains: where all of them are there.

    One alone may well be the operator's own.
    """
    for plain in _OLDER[meaning.hook](meaning):
        found = [[form for form in forms if form in rules] for forms in plain]
        if all(found):
            return frozenset(form for forms in found for form in forms)
    return frozenset()


def _older_forwarding(meaning: Chain) -> Iterator[list[list[Tokens]]]:
    """flannel v0.9, network/iptables.go, ``forwardRules``: from and to the network."""
    yield [[_plain(rule)] for rule in meaning.rules]


def _older_masquerading(meaning: Chain) -> Iterator[list[list[Tokens]]]:
    """flannel v0.5 to v0.14, network/iptables.go, ``masqRules``; from v0.9 on with a RETURN for the own subnet, from
    v0.11 on fully at random where iptables can."""
    _, _, _, to_own, masquerade, from_host = meaning.rules
    assert masquerade.source is not None
    network = str(masquerade.source.network)
    inside: list[Tokens] = [("-s", network, "-d", network, "-j", "RETURN")]
    ends = [[_plain(rule), _plain(rule)[:-1]] for rule in (masquerade, from_host)]
    yield [inside, ends[0], [_plain(to_own)], ends[1]]
    yield [inside, *ends]


_OLDER = {Hook.FORWARD: _older_forwarding, Hook.POSTROUTING: _older_masquerading}


def _plain(rule: Rule) -> Tokens:
    tokens = render(rule, "")
    comment = tokens.index("comment") - 1
    return (*tokens[:comment], *tokens[comment + 4 :])


@dataclass(frozen=True, slots=True)
class _Place:
    """A jump, and how many of the others' rules must, and how many may, come before it."""

    jump: Tokens
    first: int
    last: int


def _places(others: list[Tokens], table: Saved, anchor: Anchor) -> list[_Place]:
    """Where our jumps belong among the others' rules of a kernel's chain, in order."""
    if anchor.base != "FORWARD":
        return [_Place(anchor.jump, 0, len(others))]
    drops = table.policies.get(anchor.base) == "DROP"
    blocking = [index for index, rule in enumerate(others) if _blocks(rule, table) or (drops and _ends_the_chain(rule))]
    last = next(iter(blocking), len(others))
    first = max((index + 1 for index, rule in enumerate(others[:last]) if target(rule) in _GUARDS), default=0)
    if last in blocking and table.leads_to(others[last], _ISOLATION):
        behind = next((index for index in blocking if index > last), len(others))
        return [_Place(anchor.jump_from_interface, first, last), _Place(anchor.jump, last + 1, behind)]
    return [_Place(anchor.jump, first, last)]


def _blocks(rule: Tokens, table: Saved, depth: int = 0) -> bool:
    """Whether no accept behind this rule can help: it refuses all, or leads to where Docker or someone refuses."""
    name = target(rule)
    if name in _DOCKER_FILTERS:
        return True
    if name is None or name in _OPERATORS or not unconditional(rule):
        return False
    if name in _REFUSALS:
        return True
    # The kernel refuses loops; the limit only guards against a text that no kernel printed.
    return depth < 16 and any(_blocks(inner, table, depth + 1) for inner in table.chain(name))


def _ends_the_chain(rule: Tokens) -> bool:
    """Whether every packet returns by it; of one of the kernel's chains to what its policy says."""
    return target(rule) == "RETURN" and unconditional(rule)


def _append(chain: str, rule: Tokens) -> str:
    return f"-A {chain} {quoted(rule)}"
