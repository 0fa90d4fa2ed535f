"""The mirror of a range, and an index on it, against what the store holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overlay.store.contract import ABSENT, NO_LEASE, Compare, Delete, Event, Events, KeyRange, KeyValue, Put, Snapshot
from overlay.store.mirror import Mirror
from tests.support.memory_store import MemoryCore

EVERYTHING = KeyRange("/r/")


class Index(Mirror):
    """Keys by value: what a subclass may keep."""

    def __init__(self) -> None:
        super().__init__()
        self.by_value: dict[bytes, set[str]] = {}

    def _entered(self, kv: KeyValue) -> None:
        self.by_value.setdefault(kv.value, set()).add(kv.key)

    def _left(self, kv: KeyValue) -> None:
        self.by_value[kv.value].discard(kv.key)

    def told(self) -> dict[bytes, set[str]]:
        return {value: keys for value, keys in self.by_value.items() if keys}


writes = st.lists(
    st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.sampled_from([b"1", b"2", b"3"]))), max_size=4
)


@given(st.lists(st.tuples(writes, st.sampled_from(["hear", "hear twice", "read", "nothing", "wiped"])), max_size=12))
def test_it_is_what_the_store_holds_and_so_is_its_index(
    steps: list[tuple[list[tuple[str, bytes | None]], str]],
) -> None:
    core, index = MemoryCore(), Index()
    index.load(core.read(EVERYTHING, 0.0), 0.0)
    for written, step in steps:
        for key, value in written:
            core.commit([], [Delete(f"/r/{key}") if value is None else Put(f"/r/{key}", value, NO_LEASE)], 0.0)
        before = dict(index.items)
        match step:
            case "nothing":
                continue
            case "wiped":
                core.wipe()
                core.commit([], [Put("/r/a", b"new", NO_LEASE)], 0.0)
                told = index.load(core.read(EVERYTHING, 0.0), 1.0)
            case "read":
                told = index.load(core.read(EVERYTHING, 0.0), 1.0)
            case _:
                batch = core.events(EVERYTHING, index.revision)
                told = index.apply(batch)
                if step == "hear twice":
                    assert not index.apply(batch)
        held = {item.key: item for item in core.read(EVERYTHING, 0.0).items}
        assert dict(index.items) == held
        assert index.revision == core.revision
        newest = max((item.mod_revision for item in held.values()), default=None)
        assert newest == (None if index.newest is None else index.newest.mod_revision)
        assert told >= {key for key in before.keys() | held.keys() if before.get(key) != held.get(key)}
        by_value: dict[bytes, set[str]] = {}
        for item in held.values():
            by_value.setdefault(item.value, set()).add(item.key)
        assert index.told() == by_value


def test_a_store_that_went_back_is_another_epoch() -> None:
    mirror = Mirror()
    assert not mirror.loaded
    mirror.load(Snapshot(9, (KeyValue("/r/a", b"1", 9),)), 1.0)
    assert (mirror.loaded, mirror.epoch, mirror.loaded_at) == (True, 0, 1.0)
    assert mirror.load(Snapshot(4, ()), 2.0) == {"/r/a"}
    assert (mirror.epoch, mirror.revision) == (1, 4)


def test_what_a_transaction_may_compare_with() -> None:
    mirror = Mirror()
    mirror.load(Snapshot(9, (KeyValue("/r/a", b"1", 7),)), 0.0)
    mirror.apply(Events(10, (Event(KeyValue("/r/b", b"2", 10)),)))
    assert mirror.as_compare("/r/a") == Compare("/r/a", 7, b"1")
    assert mirror.as_compare("/r/c") == Compare("/r/c", ABSENT)
    assert (mirror.mod_revision("/r/b"), mirror.mod_revision("/r/c")) == (10, ABSENT)
