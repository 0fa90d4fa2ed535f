"""Whether a store's past is the one that we know: what lets a watch go on where another one ended.

A revision alone tells nothing: a store restored from a backup gives the same numbers out again, to another history, and
may keep its cluster's id. So the store is asked what the range was at the revision that we had reached: the newest keys
that we know, and how many keys there were. A range of up to MARKS keys is compared whole by that. In a larger one what
goes unnoticed is a history that differs in old keys only, in as many that it lost as it has too many, while the newest
MARKS keys have the same revisions, values and etcd leases.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Self

from overlay.store.contract import KeyValue, Recollection

MARKS = 32
"""Keys that are asked for. etcd takes 128 operations in a transaction (``--max-txn-ops``), and 32 cost it 0.1 ms."""


def as_it_is(kv: KeyValue) -> KeyValue:
    """All of a key is kept."""
    return kv


@dataclass(frozen=True, slots=True)
class Recall:
    """What we know of a range at one revision, in short.

    Attributes:
        revision: that every change up to is known.
        count: of the keys at that revision.
        marks: the newest of them.
        kept: what is kept of a key, where not all is: the store's answer is made that before it is compared.
    """

    revision: int
    count: int
    marks: tuple[KeyValue, ...]
    kept: Callable[[KeyValue], KeyValue] = field(default=as_it_is, compare=False)

    @classmethod
    def of(cls, items: Collection[KeyValue], revision: int, kept: Callable[[KeyValue], KeyValue] = as_it_is) -> Self:
        """From all that is known of a range."""
        marks = tuple(heapq.nlargest(MARKS, items, key=lambda item: item.mod_revision))
        return cls(revision, len(items), marks, kept)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys to ask the store for."""
        return tuple(mark.key for mark in self.marks)

    def agrees(self, answer: Recollection) -> bool:
        """Whether the store remembers the range as we do."""
        return answer.count == self.count and set(map(self.kept, answer.items)) == set(self.marks)
