"""What is written to the maps, in which order: at every moment a connection meets what was wanted before or is now."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest

from overlay.services.proxy.ebpf import layout
from overlay.services.proxy.ebpf.book import Book, Found, Pool, Writes
from overlay.services.proxy.ebpf.layout import Address, Entry, Virtual


def backend(number: int) -> Address:
    return Address(IPv4Address("10.0.1.0") + number, 8080)


def virtual(number: int, protocol: str = "TCP") -> Virtual:
    return Virtual(Address(IPv4Address("10.96.0.0") + number, 80), protocol)


@dataclass
class Maps:
    """The maps as the programs read them."""

    members: dict[bytes, bytes] = field(default_factory=dict)
    backends: dict[bytes, bytes] = field(default_factory=dict)
    services: dict[bytes, bytes] = field(default_factory=dict)

    def carry_out(self, writes: Writes) -> Iterator[None]:
        """One change after the other."""
        for name, entries, removed in writes.in_order():
            held: dict[bytes, bytes] = getattr(self, name)
            for key, value in entries:
                held[key] = value
                yield
            for key in removed:
                del held[key]
                yield

    def found(self) -> Found:
        return Found(
            {Virtual.unpack(key): Entry.unpack(value) for key, value in self.services.items()},
            {layout.unpack_backend(key): value for key, value in self.members.items()},
        )

    def entry(self, which: Virtual) -> Entry | None:
        value = self.services.get(which.pack())
        return None if value is None else Entry.unpack(value)

    def meets(self, which: Virtual) -> set[Address] | None:
        """All backends that ``draw`` may come upon; one of another pool is an error here."""
        if (entry := self.entry(which)) is None:
            return None
        met = set()
        for index in range(entry.first, entry.first + entry.count):
            pool, at = layout.unpack_backend(self.backends[layout.pack_place(index)])
            assert pool == entry.pool
            assert layout.pack_backend(pool, at) in self.members, "what is chosen may be kept"
            met.add(at)
        return met


Wanted = Mapping[Virtual, Pool]


def backends_of(wanted: Wanted, which: Virtual) -> set[Address] | None:
    pool = wanted.get(which)
    return None if pool is None else set(pool.backends)


def follow(maps: Maps, writes: Writes, before: Wanted, after: Wanted) -> None:
    for _ in maps.carry_out(writes):
        for which in {*before, *after}:
            assert maps.meets(which) in (backends_of(before, which), backends_of(after, which))


def settled(maps: Maps, wanted: Wanted) -> None:
    """The maps are what is wanted, and nothing else is in them."""
    assert {Virtual.unpack(key) for key in maps.services} == set(wanted)
    members: dict[bytes, bytes] = {}
    for which, pool in wanted.items():
        entry = maps.entry(which)
        assert entry is not None
        assert maps.meets(which) == set(pool.backends)
        assert entry.affinity == pool.affinity
        members |= {layout.pack_backend(entry.pool, at): layout.DRAINING for at in pool.draining}
        members |= {layout.pack_backend(entry.pool, at): layout.READY for at in pool.backends}
    assert maps.members == members


def random_wanted(chance: random.Random) -> dict[Virtual, Pool]:
    wanted: dict[Virtual, Pool] = {}
    for name in chance.sample(range(6), chance.randrange(6)):
        pool = Pool(
            name,
            tuple(backend(each) for each in chance.sample(range(12), chance.choice((0, 1, 2, 3, 5, 9)))),
            chance.choice((0, 0, 10800)),
            tuple(backend(each) for each in chance.sample(range(12, 15), chance.choice((0, 0, 2)))),
        )
        wanted |= {virtual(3 * name + each): pool for each in range(chance.randrange(1, 4))}
    if chance.random() < 0.2 and wanted:  # an address changes hands
        chosen = chance.choice(list(wanted.values()))
        wanted[chance.choice(list(wanted))] = chosen
    return wanted


@pytest.mark.parametrize("seed", range(20))
def test_at_every_moment_what_was_wanted_before_or_is_now(seed: int) -> None:
    chance = random.Random(seed)
    maps, book, now = Maps(), Book(places=256), 0.0
    before: dict[Virtual, Pool] = {}
    follow(maps, book.start(before, now), {}, before)
    for _ in range(40):
        now += chance.choice((0.0, 0.4, 5.0))
        wanted = random_wanted(chance)
        if chance.random() < 0.15:  # another daemon goes on
            book = Book(maps.found(), places=256)
            writes = book.start(wanted, now)
        else:
            changes = {which: wanted.get(which) for which in {*before, *wanted}
                       if before.get(which) != wanted.get(which)}  # fmt: skip
            writes = book.change(changes, now)
        follow(maps, writes, before, wanted)
        settled(maps, wanted)
        before = wanted


def test_one_changed_endpoint_writes_what_concerns_its_service() -> None:
    ten = tuple(map(backend, range(10)))
    book = Book()
    book.start({virtual(number): Pool(number, ten) for number in range(1000)}, 0.0)
    writes = book.change({virtual(7): Pool(7, (*ten[:9], backend(99)))}, 1.0)
    assert [len(each) for each in (writes.members, writes.members_removed, writes.services)] == [1, 1, 1]
    assert len(writes.places) == 10


def test_the_same_again_writes_nothing() -> None:
    book = Book()
    pool = Pool("web", (backend(1), backend(2)), 30)
    book.start({virtual(1): pool}, 0.0)
    assert len(book.change({virtual(1): pool, virtual(2): None}, 1.0)) == 0


def test_a_successor_keeps_the_numbers_of_pools_and_gives_out_new_ones() -> None:
    maps, first = Maps(), Book()
    pools = {virtual(1): Pool("a", (backend(1),), 30), virtual(2): Pool("b", (backend(2),))}
    follow(maps, first.start(pools, 0.0), {}, pools)
    numbers = {entry.pool for entry in map(maps.entry, pools) if entry}

    after = {virtual(1): Pool("a", (backend(1), backend(3)), 30), virtual(4): Pool("c", (backend(2),))}
    follow(maps, Book(maps.found()).start(after, 5.0), pools, after)
    kept, new = maps.entry(virtual(1)), maps.entry(virtual(4))
    assert kept is not None
    assert new is not None
    assert kept.pool == 1, "so clients keep their backends"
    assert new.pool not in numbers
    settled(maps, after)


def test_addresses_of_one_pool_follow_it_together() -> None:
    """Also where a change names only one of them."""
    maps, book = Maps(), Book()
    old, new = Pool("a", (backend(1),)), Pool("a", (backend(2),))
    for _ in maps.carry_out(book.start({virtual(1): old, virtual(2): old}, 0.0)):
        pass
    for _ in maps.carry_out(book.change({virtual(1): new}, 1.0)):
        pass
    assert maps.meets(virtual(2)) == {backend(2)}


def test_what_a_broken_predecessor_left_is_put_right() -> None:
    """Killed between two writes: members too many, an address of nobody, runs that overlap."""
    maps = Maps()
    wanted = {virtual(1): Pool("a", (backend(1), backend(2)))}
    for _ in maps.carry_out(Book().start(wanted, 0.0)):
        pass
    maps.members[layout.pack_backend(77, backend(5))] = layout.READY
    maps.services[virtual(9).pack()] = Entry(77, 1, 4, 0).pack()
    for _ in maps.carry_out(Book(maps.found()).start(wanted, 1.0)):
        pass
    settled(maps, wanted)
