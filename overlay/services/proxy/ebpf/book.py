"""What the maps hold, and what to write so that they hold something else, in which order. Pure, and takes ``now``.

A *pool* is the backends of one port of a Service under one policy; all virtual addresses of that port share it, and so
their clients' affinity. Its number is never given to another pool while the maps live, so that what a program
remembers of a pool is never taken for another's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from overlay.services.proxy.ebpf import layout
from overlay.services.proxy.ebpf.layout import PLACES, Address, Entry, Virtual
from overlay.services.proxy.ebpf.slots import Slots

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Pool:
    """Backends that are wanted, in an order of no meaning, without repetition.

    Attributes:
        name: which one it is, whatever its backends are.
        affinity: seconds; 0 for none.
        draining: others, that UDP sockets keep if they have them.
    """

    name: Hashable
    backends: tuple[Address, ...]
    affinity: int = 0
    draining: tuple[Address, ...] = ()

    @property
    def members(self) -> dict[Address, bytes]:
        """All of them, and what they are."""
        return dict.fromkeys(self.draining, layout.DRAINING) | dict.fromkeys(self.backends, layout.READY)


@dataclass(frozen=True, slots=True)
class Writes:
    """Changes of the maps; :meth:`in_order` says which come first."""

    members: list[tuple[bytes, bytes]] = field(default_factory=list)
    places: list[tuple[bytes, bytes]] = field(default_factory=list)
    services: list[tuple[bytes, bytes]] = field(default_factory=list)
    services_removed: list[bytes] = field(default_factory=list)
    members_removed: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(getattr(self, name)) for name in self.__slots__)

    def in_order(self) -> Iterator[tuple[str, list[tuple[bytes, bytes]], list[bytes]]]:
        """Maps by name, with what is put there and then removed: what is read comes before what leads to it, and goes
        after it."""
        yield "members", self.members, []
        yield "backends", self.places, []
        yield "services", self.services, self.services_removed
        yield "members", [], self.members_removed


@dataclass(frozen=True, slots=True)
class Found:
    """What is in the maps of a predecessor.

    Attributes:
        members: by the pool's number and the backend.
    """

    services: Mapping[Virtual, Entry] = field(default_factory=dict)
    members: Mapping[tuple[int, Address], bytes] = field(default_factory=dict)


@dataclass(slots=True)
class _Kept:
    """A pool that is in the maps."""

    number: int
    pool: Pool
    first: int = 0
    users: set[Virtual] = field(default_factory=set)

    @property
    def entry(self) -> Entry:
        return Entry(self.number, self.first, len(self.pool.backends), self.pool.affinity)


class Book:
    """The maps as they are once all writes that it asked for are made; after one that failed, make a new book.

    Args:
        found: what is in them now.
        wanted: what each virtual address is to lead to; :meth:`start` says how to come there.
    """

    def __init__(self, found: Found = Found(), places: int = PLACES) -> None:
        self._found = found
        runs = _apart({(entry.first, entry.count) for entry in found.services.values() if entry.count})
        self._slots = Slots(places, runs)
        numbers = [entry.pool for entry in found.services.values()] + [number for number, _ in found.members]
        self._next = max(numbers, default=0) + 1
        self._pools: dict[Hashable, _Kept] = {}
        self._of: dict[Virtual, Hashable] = {}
        self._runs = runs

    def __len__(self) -> int:
        return len(self._of)

    def start(self, wanted: Mapping[Virtual, Pool], now: float) -> Writes:
        """From whatever was found to ``wanted``: pools keep their numbers where an address tells which they were."""
        writes, found = Writes(), self._found
        self._recognise(wanted)
        self._change(wanted, now, writes)
        right = {(kept.number, at): state for kept in self._pools.values() for at, state in kept.pool.members.items()}
        writes.members[:] = [(layout.pack_backend(*each), right[each]) for each in _changed(found.members, right)]
        writes.members_removed[:] = [layout.pack_backend(*each) for each in found.members.keys() - right.keys()]
        writes.services_removed.extend(virtual.pack() for virtual in found.services.keys() - wanted.keys())
        for first, count in self._runs:
            self._slots.give_back(first, count, now)
        self._found, self._runs = Found(), []
        return writes

    def change(self, changes: Mapping[Virtual, Pool | None], now: float) -> Writes:
        """What to write where these addresses lead elsewhere, or nowhere (None).

        Raises:
            NodeError: there is no room for so many backends.
        """
        writes = Writes()
        self._change(changes, now, writes)
        return writes

    def pool_of(self, virtual: Virtual) -> Pool | None:
        """What an address leads to."""
        name = self._of.get(virtual)
        return None if name is None else self._pools[name].pool

    def _recognise(self, wanted: Mapping[Virtual, Pool]) -> None:
        claimed: dict[int, Hashable] = {}
        for virtual, pool in wanted.items():
            entry = self._found.services.get(virtual)
            if entry is not None and pool.name not in self._pools and entry.pool not in claimed:
                claimed[entry.pool] = pool.name
                self._pools[pool.name] = _Kept(entry.pool, Pool(pool.name, (), pool.affinity))

    def _change(self, changes: Mapping[Virtual, Pool | None], now: float, writes: Writes) -> None:
        left: list[_Kept] = []
        moved: dict[Hashable, _Kept] = {}
        entries: dict[Virtual, Entry] = {}
        for virtual, pool in changes.items():
            before = self._of.get(virtual)
            if before is not None and (pool is None or pool.name != before):
                kept = self._pools[before]
                kept.users.discard(virtual)
                left.append(kept)
                del self._of[virtual]
            if pool is None:
                writes.services_removed.extend([virtual.pack()] if before is not None else [])
                continue
            kept = self._pool(pool.name)
            if kept.pool != pool:
                self._move(kept, pool, now, writes)
                moved[pool.name] = kept
            if virtual not in kept.users:
                kept.users.add(virtual)
                self._of[virtual] = pool.name
                entries[virtual] = kept.entry
        for kept in moved.values():
            entries.update(dict.fromkeys(kept.users, kept.entry))
        writes.services.extend((virtual.pack(), entry.pack()) for virtual, entry in entries.items())
        for kept in left:
            if not kept.users and self._pools.pop(kept.pool.name, None) is not None:
                self._empty(kept, now, writes)

    def _pool(self, name: Hashable) -> _Kept:
        if name not in self._pools:
            self._pools[name] = _Kept(self._next, Pool(name, ()))
            self._next += 1
        return self._pools[name]

    def _move(self, kept: _Kept, pool: Pool, now: float, writes: Writes) -> None:
        """Puts a pool's backends, where they have changed, where nobody reads yet."""
        before, first = kept.pool, kept.first
        if pool.backends != before.backends:
            if pool.backends:
                kept.first = self._slots.take(len(pool.backends), now)
            if before.backends:
                self._slots.give_back(first, len(before.backends), now)
            packed = [layout.pack_backend(kept.number, at) for at in pool.backends]
            writes.places.extend((layout.pack_place(kept.first + index), each) for index, each in enumerate(packed))
        old, new = before.members, pool.members
        writes.members.extend((layout.pack_backend(kept.number, at), new[at]) for at in _changed(old, new))
        writes.members_removed.extend(_packed(kept.number, old.keys() - new.keys()))
        kept.pool = pool

    def _empty(self, kept: _Kept, now: float, writes: Writes) -> None:
        if kept.pool.backends:
            self._slots.give_back(kept.first, len(kept.pool.backends), now)
        writes.members_removed.extend(_packed(kept.number, kept.pool.members))


def _apart(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of runs that overlap, as only a broken map has them, the first: each place is given back once."""
    kept: list[tuple[int, int]] = []
    for first, count in sorted(runs, key=lambda run: (run[0], -run[1])):
        if not kept or first >= sum(kept[-1]):
            kept.append((first, count))
    return kept


def _changed(old: Mapping[K, bytes], new: Mapping[K, bytes]) -> list[K]:
    return [key for key, value in new.items() if old.get(key) != value]


def _packed(number: int, backends: Iterable[Address]) -> list[bytes]:
    return [layout.pack_backend(number, at) for at in backends]
