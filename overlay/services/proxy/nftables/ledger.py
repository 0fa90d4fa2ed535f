"""What the table of nftables holds and what it should hold, and the transactions from the one to the other. Pure.

A transaction has at most some thousand operations, or the kernel, which holds a lock meanwhile, keeps others waiting.
So a large change takes several; each leaves every address meaning what it meant or what it is to mean: chains come
before what leads to them, an element is replaced in one transaction, and what nothing leads to goes last, and later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from overlay.services.proxy.nftables.rendering import (
    BACKENDS,
    FRAME,
    MAX_CLIENTS,
    TABLE,
    AffinitySet,
    Chain,
    Piece,
)
from overlay.services.table import PortName

MAX_OPERATIONS = 1000
"""Of one transaction, about."""

LINGER = 2.0
"""Seconds from when nothing leads to a chain any more until it is deleted: kernels before 6.2 hold it that long."""

Key: TypeAlias = tuple[str, str]
"""Which element: its map, and its key there."""

_DELETED_FIRST = ("firewall", "external", "choose", "cluster", "local", "endpoint", "affinity")
"""By what names begin with: what leads to others goes before them."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is in the kernel: names of chains and of sets of clients, and every element with its value."""

    chains: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()
    elements: Mapping[Key, str] = field(default_factory=dict)

    @property
    def framed(self) -> bool:
        """Whether all is there that always is."""
        return self.chains >= set(FRAME)


@dataclass(slots=True)
class Batch:
    """One transaction, and what is there once it was carried out; None: deleted."""

    commands: list[str] = field(default_factory=list)
    operations: int = 0
    chains: dict[str, bool] = field(default_factory=dict)
    sets: dict[str, bool] = field(default_factory=dict)
    elements: dict[Key, str | None] = field(default_factory=dict)


class Ledger:
    """Compares what is wanted with what is there, and looks only at what may have changed.

    Args:
        found: what is there to begin with; all of it is looked at once.
    """

    def __init__(self, found: Found) -> None:
        self._chains = set(found.chains) - set(FRAME)
        self._sets = set(found.sets)
        self._elements = dict(found.elements)
        self._pieces: dict[PortName, Piece] = {}
        self._wanted_chains: dict[str, Chain] = {}
        self._wanted_sets: dict[str, AffinitySet] = {}
        self._wanted_elements: dict[Key, str] = {}
        self._users: Counter[str | Key] = Counter()
        self._looked_at_chains = set(self._chains)
        self._looked_at_sets = set(self._sets)
        self._looked_at_elements = set(self._elements)
        self._doomed: dict[str | Key, float] = {}

    @property
    def size(self) -> dict[str, int]:
        """How much is in the kernel, for people."""
        return {"chains": len(self._chains), "elements": len(self._elements), "affinity_sets": len(self._sets)}

    @property
    def held_chains(self) -> frozenset[str]:
        """Chains that are there, without those of the frame."""
        return frozenset(self._chains)

    def want(self, name: PortName, piece: Piece | None) -> None:
        """What an entry needs from now on; None: nothing any more."""
        before, now = self._pieces.pop(name, Piece()), piece or Piece()
        if piece is not None:
            self._pieces[name] = piece
        for chain in now.chains:
            self._users[chain.name] += 1
            self._wanted_chains[chain.name] = chain
            self._looked_at_chains.add(chain.name)
        for each in now.sets:
            self._users[each.name] += 1
            self._wanted_sets[each.name] = each
            self._looked_at_sets.add(each.name)
        for element in now.elements:
            self._users[element.map, element.key] += 1
            self._wanted_elements[element.map, element.key] = element.value
            self._looked_at_elements.add((element.map, element.key))
        for chain in before.chains:
            self._looked_at_chains.add(chain.name)
            if self._is_unused(chain.name):
                del self._wanted_chains[chain.name]
        for each in before.sets:
            self._looked_at_sets.add(each.name)
            if self._is_unused(each.name):
                del self._wanted_sets[each.name]
        for element in before.elements:
            self._looked_at_elements.add((element.map, element.key))
            if self._is_unused((element.map, element.key)):
                del self._wanted_elements[element.map, element.key]

    def _is_unused(self, what: str | Key) -> bool:
        """Whether nobody wants a thing any more, now that one does no more."""
        self._users[what] -= 1
        if not self._users[what]:
            del self._users[what]
        return what not in self._users

    def due(self, now: float) -> float | None:
        """In how many seconds something is to be deleted; None: nothing is."""
        return max(0.0, min(self._doomed.values()) - now) if self._doomed else None

    def batches(self, now: float) -> Iterator[Batch]:
        """The transactions that are due, in their order. Each is to be carried out, and told to :meth:`done`."""
        yield from _cut(self._additions())
        self._doom(now)
        yield from _cut(self._deletions(now))

    def done(self, batch: Batch) -> None:
        """A batch was carried out."""
        _note(self._chains, batch.chains)
        _note(self._sets, batch.sets)
        for name, there in (*batch.chains.items(), *batch.sets.items()):
            if not there:
                self._doomed.pop(name, None)
        for key, value in batch.elements.items():
            if value is None:
                self._elements.pop(key, None)
                self._doomed.pop(key, None)
            else:
                self._elements[key] = value

    def _additions(self) -> Iterator[Batch]:
        """Sets, chains and then elements; each batch belongs together."""
        for name in sorted(self._looked_at_sets):
            if (kept := self._wanted_sets.get(name)) is not None and name not in self._sets:
                yield _add_set(kept)
        for name in sorted(self._looked_at_chains, key=_order, reverse=True):
            if (chain := self._wanted_chains.get(name)) is not None and name not in self._chains:
                yield _add_chain(chain)
        there, wanted = self._elements, self._wanted_elements
        for key in sorted(key for key in self._looked_at_elements if there.get(key) != wanted.get(key)):
            if key in wanted or key[0] not in _LINGERING:
                yield _change_element(key, there.get(key), wanted.get(key))

    def _doom(self, now: float) -> None:
        for key in self._looked_at_elements:
            if key in self._wanted_elements:
                self._doomed.pop(key, None)
            elif key in self._elements:
                self._doomed.setdefault(key, now + LINGER)
        self._looked_at_elements.clear()
        for looked_at, there, wanted in (
            (self._looked_at_chains, self._chains, self._wanted_chains),
            (self._looked_at_sets, self._sets, self._wanted_sets),
        ):
            for name in looked_at:
                if name in wanted:
                    self._doomed.pop(name, None)
                elif name in there:
                    self._doomed.setdefault(name, now + LINGER)
            looked_at.clear()

    def _deletions(self, now: float) -> Iterator[Batch]:
        due = [each for each, when in self._doomed.items() if when <= now]
        for key in sorted(each for each in due if not isinstance(each, str)):
            yield _change_element(key, self._elements[key], None)
        for name in sorted((each for each in due if isinstance(each, str)), key=_order):
            if name in self._sets:
                yield Batch([f"delete set ip {TABLE} {name}"], 1, sets={name: False})
            else:
                yield Batch([f"delete chain ip {TABLE} {name}"], 1, chains={name: False})


_LINGERING = tuple(BACKENDS.values())
"""Maps whose elements go later: a packet that was led to a chain before a change may look them up after it."""


def _order(name: str) -> tuple[int, str]:
    kind = name.partition("-")[0]
    return _DELETED_FIRST.index(kind) if kind in _DELETED_FIRST else -1, name


def _note(held: set[str], changes: Mapping[str, bool]) -> None:
    for name, there in changes.items():
        (held.add if there else held.discard)(name)


def _add_set(kept: AffinitySet) -> Batch:
    body = f"type ipv4_addr; flags dynamic,timeout; timeout {kept.seconds}s; size {MAX_CLIENTS};"
    return Batch([f"add set ip {TABLE} {kept.name} {{ {body} }}"], 1, sets={kept.name: True})


def _add_chain(chain: Chain) -> Batch:
    rules = [f"add rule ip {TABLE} {chain.name} {rule}" for rule in chain.rules]
    return Batch([f"add chain ip {TABLE} {chain.name}", *rules], 1 + len(rules), chains={chain.name: True})


def _change_element(key: Key, there: str | None, wanted: str | None) -> Batch:
    name, element = key
    commands = []
    if there is not None:
        commands.append(f"delete element ip {TABLE} {name} {{ {element} }}")
    if wanted is not None:
        verdict = f" : {wanted}" if wanted else ""
        commands.append(f"add element ip {TABLE} {name} {{ {element}{verdict} }}")
    return Batch(commands, len(commands), elements={key: wanted})


def _cut(parts: Iterable[Batch]) -> Iterator[Batch]:
    """Parts put together into transactions of at most :data:`MAX_OPERATIONS`, none of them cut in two."""
    whole = Batch()
    for part in parts:
        if whole.operations and whole.operations + part.operations > MAX_OPERATIONS:
            yield whole
            whole = Batch()
        whole.commands += part.commands
        whole.operations += part.operations
        whole.chains |= part.chains
        whole.sets |= part.sets
        whole.elements |= part.elements
    if whole.operations:
        yield whole
