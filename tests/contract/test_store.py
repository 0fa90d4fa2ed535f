"""What overlay.store.contract.Store promises, tried on every store that there is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from overlay.errors import CompactedError, LeaseNotFoundError, StoreRestoredError, StoreUnavailableError
from overlay.store.contract import (
    ABSENT,
    NO_LEASE,
    Committed,
    Compare,
    Delete,
    Event,
    Events,
    KeyRange,
    KeyValue,
    Put,
    Recollection,
    Store,
)
from overlay.store.etcd import client
from tests.contract.conftest import World

LIMIT = 15.0
"""Seconds that anything may take; all but expiry takes milliseconds."""

SHORT_TTL = 2
"""Seconds: the least that etcd grants with its default election timeout."""


def new_lease() -> int:
    return random.randrange(1, 1 << 63)


async def put(store: Store, key: str, value: bytes = b"v", lease_id: int = NO_LEASE) -> int:
    """Writes whatever is there, and returns the revision."""
    committed = await store.commit((), (Put(key, value, lease_id),))
    assert committed.succeeded
    return committed.revision


async def collect(watch: AsyncIterator[Events], count: int) -> list[Event]:
    """The first ``count`` events of a watch, empty batches passed over."""
    found: list[Event] = []
    async with asyncio.timeout(LIMIT):
        while len(found) < count:
            found.extend((await anext(watch)).events)
    return found


# --- reading and revisions ---


async def test_an_empty_range_has_a_revision_to_watch_from(world: World) -> None:
    snapshot = await world.store.read(KeyRange(world.prefix))
    assert snapshot.items == ()
    assert snapshot.revision >= 1


async def test_read_is_in_key_order_and_tells_revision_and_lease(world: World) -> None:
    lease = new_lease()
    await world.store.grant(lease, 60)
    second = await put(world.store, world.key("b"), b"2", lease)
    first = await put(world.store, world.key("a"), b"1")
    snapshot = await world.other.read(KeyRange(world.prefix))
    assert snapshot.revision == first == second + 1
    assert [(kv.key, kv.value, kv.mod_revision, kv.lease_id) for kv in snapshot.items] == [
        (world.key("a"), b"1", first, NO_LEASE),
        (world.key("b"), b"2", second, lease),
    ]


async def test_a_range_is_read_in_pages_as_of_one_revision(world: World) -> None:
    for name in "abcde":
        await put(world.store, world.key(name), b"old")
    first = await world.store.page(KeyRange(world.prefix), limit=2)
    assert [kv.key for kv in first.items] == [world.key("a"), world.key("b")]
    assert first.remaining == 3
    await put(world.store, world.key("d"), b"new")
    await put(world.store, world.key("c2"))
    await world.store.commit((), (Delete(world.key("c")), Delete(world.key("e"))))
    rest = await world.other.page(KeyRange(world.prefix), after=first.items[-1].key, revision=first.revision)
    assert [(kv.key, kv.value) for kv in rest.items] == [(world.key(name), b"old") for name in "cde"]
    assert (rest.revision, rest.remaining) == (first.revision, 0)
    now = await world.store.page(KeyRange(world.prefix), after=first.items[-1].key)
    assert [(kv.key, kv.value) for kv in now.items] == [(world.key("c2"), b"v"), (world.key("d"), b"new")]
    assert now.revision > first.revision


async def test_a_page_of_the_past_or_the_future_says_so(world: World) -> None:
    early = await put(world.store, world.key("a"))
    await put(world.store, world.key("a"))
    late = await put(world.store, world.key("a"))
    await world.compact(late)
    with pytest.raises(CompactedError):
        await world.store.page(KeyRange(world.prefix), revision=early)
    with pytest.raises(StoreRestoredError):
        await world.store.page(KeyRange(world.prefix), revision=late + 1_000_000)


async def test_a_range_in_which_nothing_happened_is_unchanged(world: World) -> None:
    span = KeyRange(world.prefix)
    assert await world.store.unchanged(span, 1, 0)
    await world.store.commit((), (Put(f"{world.prefix}a", b"1"), Put(f"{world.prefix}b", b"1")))
    then = (await world.store.page(span)).revision
    assert await world.store.unchanged(span, then, 2)
    await world.store.commit((), (Put(f"beside{world.prefix}", b"1"),))
    assert await world.store.unchanged(span, then, 2), "what happens beside it does not count"
    assert not await world.store.unchanged(span, then - 1, 2), "written since"
    assert not await world.store.unchanged(span, then, 3)
    await world.store.commit((), (Delete(f"{world.prefix}a"),))
    assert not await world.store.unchanged(span, then, 2), "deleted since"
    await world.store.commit((), (Put(f"{world.prefix}a", b"1"),))
    assert not await world.store.unchanged(span, then, 2), "deleted and made again since"


async def test_a_range_of_many_pages_is_read_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAGE", 7)
    keys = [world.key(f"{number:03}") for number in range(7 * 4)]
    for count in (6, 7, 8, 28):
        committed = await world.store.commit((), [Put(key, b"v") for key in keys[:count]])
        snapshot = await world.store.read(KeyRange(world.prefix))
        assert [kv.key for kv in snapshot.items] == keys[:count]
        assert snapshot.revision == committed.revision


async def test_all_pages_are_of_one_revision(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAGE", 1)
    keys = [world.key(f"{number:03}") for number in range(12)]
    await world.store.commit((), [Put(key, b"0") for key in keys])

    async def write() -> None:
        for number in range(1, 100_000):
            await world.other.commit((), [Put(key, b"%d" % number) for key in keys])

    writer = asyncio.create_task(write())
    try:
        for _ in range(30):
            snapshot = await world.store.read(KeyRange(world.prefix))
            assert [kv.key for kv in snapshot.items] == keys
            assert len({(kv.value, kv.mod_revision) for kv in snapshot.items}) == 1
    finally:
        writer.cancel()
        await asyncio.wait([writer])


async def test_the_past_is_remembered_as_it_was(world: World) -> None:
    lease = new_lease()
    await world.store.grant(lease, 60)
    first = await put(world.store, world.key("a"), b"1", lease)
    second = await put(world.store, world.key("b"), b"1")
    third = await put(world.store, world.key("a"), b"2")
    await put(world.store, world.key("c"))
    await world.store.commit((), (Delete(world.key("b")),))
    span, keys = KeyRange(world.prefix), [world.key(name) for name in "cab"]
    at = {revision: await world.other.recall(span, revision, keys) for revision in (first, second, third)}
    old = KeyValue(world.key("a"), b"1", first, lease)
    other = KeyValue(world.key("b"), b"1", second)
    assert at[first] == Recollection(1, (old,))
    assert at[second] == Recollection(2, (old, other))
    assert at[third] == Recollection(2, (KeyValue(world.key("a"), b"2", third), other))
    one = await world.store.recall(KeyRange(world.key("a"), prefix=False), second, [world.key("a")])
    assert one == Recollection(1, (old,))
    assert await world.store.recall(span, second, []) == Recollection(2, ())


async def test_what_was_compacted_or_has_not_been_is_not_remembered(world: World) -> None:
    first = await put(world.store, world.key("k"), b"1")
    newest = await put(world.store, world.key("k"), b"2")
    span, keys = KeyRange(world.prefix), [world.key("k")]
    with pytest.raises(StoreRestoredError):
        await world.store.recall(span, newest + 1000, keys)
    await world.compact(newest)
    assert (await world.store.recall(span, newest, keys)).count == 1
    with pytest.raises(CompactedError) as caught:
        await world.store.recall(span, first, keys)
    assert not isinstance(caught.value, StoreRestoredError)


async def test_one_key_is_not_its_neighbours(world: World) -> None:
    for name in ("config", "config2", "subnets/1", "subnets/2", "subnetz"):
        await put(world.store, world.key(name))
    exact = await world.store.read(KeyRange(world.key("config"), prefix=False))
    assert [kv.key for kv in exact.items] == [world.key("config")]
    below = await world.store.read(KeyRange(world.key("subnets")))
    assert [kv.key for kv in below.items] == [world.key("subnets/1"), world.key("subnets/2")]


async def test_values_are_bytes(world: World) -> None:
    value = bytes(range(256))
    await put(world.store, world.key("k"), value)
    await put(world.store, world.key("empty"), b"")
    snapshot = await world.store.read(KeyRange(world.prefix))
    assert [kv.value for kv in snapshot.items] == [b"", value]


# --- transactions ---


async def test_create_only_if_absent(world: World) -> None:
    key = world.key("k")
    created = await world.store.commit((Compare(key, ABSENT),), (Put(key, b"mine"),))
    assert created.succeeded
    refused = await world.other.commit((Compare(key, ABSENT),), (Put(key, b"theirs"),))
    assert not refused.succeeded
    assert [(kv.key, kv.value, kv.mod_revision) for kv in refused.current] == [(key, b"mine", created.revision)]
    assert (await world.store.read(KeyRange(key, prefix=False))).items[0].value == b"mine"


async def test_change_only_what_is_expected(world: World) -> None:
    key = world.key("k")
    old = await put(world.store, key, b"1")
    new = await world.store.commit((Compare(key, old),), (Put(key, b"2"),))
    assert new == Committed(True, old + 1)
    stale = await world.store.commit((Compare(key, old),), (Delete(key),))
    assert not stale.succeeded
    assert stale.current[0].mod_revision == new.revision
    gone = await world.store.commit((Compare(key, new.revision),), (Delete(key),))
    assert gone.succeeded
    missing = await world.store.commit((Compare(key, new.revision),), (Put(key, b"3"),))
    assert missing == Committed(False, gone.revision)


async def test_the_value_may_be_expected_too(world: World) -> None:
    """A store that was restored from a backup gives out the same revisions again, to other values."""
    key = world.prefix + "key"
    revision = (await world.store.commit((), (Put(key, b"theirs"),))).revision
    refused = await world.store.commit((Compare(key, revision, b"ours"),), (Put(key, b"x"),))
    assert not refused.succeeded
    assert [item.value for item in refused.current] == [b"theirs"]
    assert (await world.store.commit((Compare(key, revision, b"theirs"),), (Put(key, b"x"),))).succeeded


async def test_all_or_nothing(world: World) -> None:
    a, b = world.key("a"), world.key("b")
    seen = await put(world.store, a, b"1")
    failed = await world.store.commit((Compare(a, seen), Compare(b, 12345)), (Put(a, b"2"), Put(b, b"2")))
    assert not failed.succeeded
    assert [kv.key for kv in failed.current] == [a]
    assert [kv.value for kv in (await world.store.read(KeyRange(world.prefix))).items] == [b"1"]
    done = await world.store.commit((Compare(a, seen), Compare(b, ABSENT)), (Delete(a), Put(b, b"2")))
    assert done.succeeded
    items = (await world.store.read(KeyRange(world.prefix))).items
    assert [(kv.key, kv.mod_revision) for kv in items] == [(b, done.revision)]


async def test_a_compare_of_something_else_guards_too(world: World) -> None:
    guard, key = world.key("guard"), world.key("k")
    await put(world.store, guard)
    refused = await world.store.commit((Compare(guard, ABSENT),), (Put(key, b"v"),))
    assert not refused.succeeded
    assert (await world.store.read(KeyRange(key))).items == ()


async def test_deleting_nothing_changes_nothing(world: World) -> None:
    before = (await world.store.read(KeyRange(world.prefix))).revision
    committed = await world.store.commit((), (Delete(world.key("never")),))
    assert committed == Committed(True, before)


async def test_only_one_of_many_wins(world: World) -> None:
    key = world.key("k")

    async def claim(number: int) -> bool:
        store = world.store if number % 2 else world.other
        return (await store.commit((Compare(key, ABSENT),), (Put(key, b"%d" % number),))).succeeded

    outcomes = await asyncio.gather(*(claim(number) for number in range(40)))
    assert outcomes.count(True) == 1
    winner = (await world.store.read(KeyRange(key, prefix=False))).items[0].value
    assert winner == b"%d" % outcomes.index(True)


# --- etcd leases ---


async def test_grant_is_idempotent_and_leaves_the_first_as_it_is(world: World) -> None:
    lease = new_lease()
    await world.store.grant(lease, 60)
    await world.other.grant(lease, 600)
    assert 55 <= await world.store.time_to_live(lease) <= 60
    assert await world.store.refresh(lease) == 60


@pytest.mark.parametrize("lease", [1 + (1 << 20), (1 << 63) - 1])
async def test_lease_ids_have_63_bits(world: World, lease: int) -> None:
    await world.store.grant(lease, 60)
    await put(world.store, world.key("k"), lease_id=lease)
    assert (await world.store.read(KeyRange(world.prefix))).items[0].lease_id == lease
    await world.store.revoke(lease)


async def test_no_such_lease(world: World) -> None:
    lease = new_lease()
    assert await world.store.refresh(lease) == 0
    assert await world.store.time_to_live(lease) == 0
    await world.store.revoke(lease)
    before = (await world.store.read(KeyRange(world.prefix))).revision
    with pytest.raises(LeaseNotFoundError):
        await world.store.commit((), (Put(world.key("first"), b"v"), Put(world.key("k"), b"v", lease)))
    after = await world.store.read(KeyRange(world.prefix))
    assert (after.revision, after.items) == (before, ())


async def test_a_lost_comparison_comes_before_a_missing_lease(world: World) -> None:
    await put(world.store, world.key("k"))
    refused = await world.store.commit((Compare(world.key("k"), ABSENT),), (Put(world.key("k"), b"v", new_lease()),))
    assert not refused.succeeded


async def test_revoke_deletes_what_is_attached(world: World) -> None:
    lease = new_lease()
    await world.store.grant(lease, 60)
    seen = await put(world.store, world.key("a"), lease_id=lease)
    await put(world.store, world.key("b"), lease_id=lease)
    await put(world.store, world.key("c"))
    watch = world.other.watch(KeyRange(world.prefix), seen + 2)
    await world.store.revoke(lease)
    events = await collect(watch, 2)
    assert {(event.kv.key, event.deleted) for event in events} == {(world.key("a"), True), (world.key("b"), True)}
    assert [kv.key for kv in (await world.store.read(KeyRange(world.prefix))).items] == [world.key("c")]
    assert await world.store.time_to_live(lease) == 0


async def test_a_key_moves_from_lease_to_lease(world: World) -> None:
    old, new = new_lease(), new_lease()
    for lease in (old, new):
        await world.store.grant(lease, 60)
    await put(world.store, world.key("a"), lease_id=old)
    await put(world.store, world.key("a"), lease_id=new)
    await put(world.store, world.key("b"), lease_id=old)
    await put(world.store, world.key("b"), lease_id=NO_LEASE)
    await world.store.revoke(old)
    items = (await world.store.read(KeyRange(world.prefix))).items
    assert [(kv.key, kv.lease_id) for kv in items] == [(world.key("a"), new), (world.key("b"), NO_LEASE)]


async def test_expiry_is_an_event_and_refreshing_prevents_it(world: World) -> None:
    short, kept = new_lease(), new_lease()
    for lease in (short, kept):
        await world.store.grant(lease, SHORT_TTL)
    await put(world.store, world.key("kept"), lease_id=kept)
    seen = await put(world.store, world.key("short"), lease_id=short)

    async def refresh() -> None:
        while True:
            assert await world.other.refresh(kept) == SHORT_TTL
            await asyncio.sleep(SHORT_TTL / 8)

    keeper = asyncio.create_task(refresh())
    try:
        (event,) = await collect(world.store.watch(KeyRange(world.prefix), seen), 1)
    finally:
        keeper.cancel()
    assert (event.kv.key, event.deleted, event.kv.value) == (world.key("short"), True, b"")
    assert event.kv.mod_revision > seen
    assert await world.store.time_to_live(short) == 0
    assert await world.store.time_to_live(kept) > 0


# --- watching ---


async def test_a_watch_says_that_it_stands(world: World) -> None:
    """Before anything has happened, so that the past can be asked for before the watch is used."""
    start = await put(world.store, world.key("k"))
    watch = world.other.watch(KeyRange(world.prefix), start)
    async with asyncio.timeout(LIMIT):
        assert await anext(watch) == Events(start, ())
    revision = await put(world.store, world.key("k"))
    assert [event.kv.mod_revision for event in await collect(watch, 1)] == [revision]


async def test_watch_tells_puts_and_deletes_in_order_with_their_revisions(world: World) -> None:
    start = (await world.store.read(KeyRange(world.prefix))).revision
    watch = world.other.watch(KeyRange(world.prefix), start)
    lease = new_lease()
    await world.store.grant(lease, 60)
    first = await put(world.store, world.key("a"), b"1", lease)
    second = await put(world.store, world.key("a"), b"2")
    third = (await world.store.commit((), (Delete(world.key("a")),))).revision
    events = await collect(watch, 3)
    told = [(event.kv.key, event.kv.value, event.kv.mod_revision, event.kv.lease_id, event.deleted) for event in events]
    assert told == [
        (world.key("a"), b"1", first, lease, False),
        (world.key("a"), b"2", second, NO_LEASE, False),
        (world.key("a"), b"", third, NO_LEASE, True),
    ]


async def test_watch_of_a_range_tells_nothing_else(world: World) -> None:
    start = (await world.store.read(KeyRange(world.prefix))).revision
    watch = world.store.watch(KeyRange(world.key("subnets/")), start)
    single = world.store.watch(KeyRange(world.key("config"), prefix=False), start)
    for name in ("config", "config2", "subnets/1", "subnetz"):
        await put(world.store, world.key(name))
    assert [event.kv.key for event in await collect(watch, 1)] == [world.key("subnets/1")]
    assert [event.kv.key for event in await collect(single, 1)] == [world.key("config")]
    await put(world.store, world.key("subnets/2"))
    assert [event.kv.key for event in await collect(watch, 1)] == [world.key("subnets/2")]


async def test_a_transaction_is_one_batch(world: World) -> None:
    """flanneld v0.20.2 reads only the first event of a batch; a burst of joins leaves it ignorant of peers."""
    start = (await world.store.read(KeyRange(world.prefix))).revision
    watch = world.other.watch(KeyRange(world.prefix), start)
    keys = [world.key(f"{number:03}") for number in range(100)]
    committed = await world.store.commit((), [Put(key, b"v") for key in keys])
    async with asyncio.timeout(LIMIT):
        batch = await anext(watch)
        while not batch.events:
            batch = await anext(watch)
    assert [event.kv.key for event in batch.events] == keys
    assert {event.kv.mod_revision for event in batch.events} == {committed.revision}
    assert batch.revision == committed.revision


async def test_a_watch_resumed_anywhere_misses_nothing_and_repeats_nothing(world: World) -> None:
    start = (await world.store.read(KeyRange(world.prefix))).revision
    done = asyncio.Event()
    written: list[int] = []

    async def write() -> None:
        for number in range(300):
            key = world.key(f"{number % 7}")
            operation = Delete(key) if number % 5 == 4 else Put(key, b"%d" % number)
            before = written[-1] if written else start
            revision = (await world.store.commit((), (operation,))).revision
            if revision != before:  # deleting what is not there is no change
                written.append(revision)
        done.set()

    writer = asyncio.create_task(write())
    revision = start
    seen: list[int] = []
    rng = random.Random(7)
    async with asyncio.timeout(LIMIT):
        while not (done.is_set() and len(seen) >= len(written)):
            watch = world.other.watch(KeyRange(world.prefix), revision)
            for _ in range(rng.randrange(1, 6)):
                if done.is_set() and len(seen) >= len(written):
                    break
                batch = await anext(watch)
                seen += [event.kv.mod_revision for event in batch.events]
                assert batch.revision >= revision
                revision = batch.revision
            await watch.aclose()  # type: ignore[attr-defined]
    await writer
    assert seen == written


async def test_a_watch_from_the_past_catches_up(world: World) -> None:
    start = (await world.store.read(KeyRange(world.prefix))).revision
    revisions = [await put(world.store, world.key("k"), b"%d" % number) for number in range(50)]
    events = await collect(world.other.watch(KeyRange(world.prefix), start), 50)
    assert [event.kv.mod_revision for event in events] == revisions
    later = await collect(world.other.watch(KeyRange(world.prefix), revisions[29]), 20)
    assert [event.kv.mod_revision for event in later] == revisions[30:]


async def test_a_long_past_comes_in_pieces_that_can_be_resumed_from(world: World) -> None:
    """etcd catches up in batches of 1,000 revisions (watchBatchMaxRevs) whose headers tell the newest one of all."""
    start = (await world.store.read(KeyRange(world.prefix))).revision
    revisions: list[int] = []
    for _ in range(25):
        revisions += await asyncio.gather(*(put(world.store, world.key("k")) for _ in range(100)))
    seen: list[int] = []
    revision = start
    async with asyncio.timeout(LIMIT):
        while len(seen) < len(revisions):
            watch = world.other.watch(KeyRange(world.prefix), revision)
            await anext(watch)
            batch = await anext(watch)
            seen += [event.kv.mod_revision for event in batch.events]
            revision = batch.revision
            await watch.aclose()  # type: ignore[attr-defined]
    assert seen == sorted(revisions)


async def test_history_that_was_compacted_is_an_error_and_the_present_is_not(world: World) -> None:
    key = world.key("k")
    start = (await world.store.read(KeyRange(world.prefix))).revision
    for number in range(5):
        await put(world.store, key, b"%d" % number)
    newest = (await world.store.commit((), (Delete(key),))).revision
    await world.compact(newest)
    with pytest.raises(CompactedError) as caught:
        await collect(world.store.watch(KeyRange(world.prefix), start), 1)
    assert caught.value.revision == newest
    watch = world.store.watch(KeyRange(world.prefix), newest)
    revision = await put(world.store, key)
    assert [event.kv.mod_revision for event in await collect(watch, 1)] == [revision]


async def test_compaction_does_not_disturb_a_watch_that_is_up_to_date(world: World) -> None:
    key = world.key("k")
    first = await put(world.store, key)
    watch = world.other.watch(KeyRange(world.prefix), first)
    second = await put(world.store, key)
    assert len(await collect(watch, 1)) == 1
    await world.compact(second)
    third = await put(world.store, key)
    assert [event.kv.mod_revision for event in await collect(watch, 1)] == [third]


# --- ending ---


async def test_cancelling_a_task_that_watches_is_a_cancellation(world: World) -> None:
    start = (await world.store.read(KeyRange(world.prefix))).revision
    watch = world.store.watch(KeyRange(world.prefix), start)
    await put(world.store, world.key("k"))
    await collect(watch, 1)
    task = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await put(world.store, world.key("k"))  # the store is still of use


async def test_close_ends_watches_with_an_error_of_ours(world: World) -> None:
    start = (await world.store.read(KeyRange(world.prefix))).revision
    watch = world.store.watch(KeyRange(world.prefix), start)
    await put(world.store, world.key("k"))
    await collect(watch, 1)
    task = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await world.store.close()
    await world.store.close()
    async with asyncio.timeout(LIMIT):
        with pytest.raises(StoreUnavailableError):
            await task
        with pytest.raises(StoreUnavailableError):
            await world.store.read(KeyRange(world.prefix))
