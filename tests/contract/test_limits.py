"""An etcd that takes few operations at once, or holds the largest values that it takes, is followed all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest
import pytest_asyncio

from overlay.errors import CompactedError, StoreUnavailableError
from overlay.store.contract import KeyRange, Put, Snapshot
from overlay.store.etcd.client import EtcdStore
from overlay.store.etcd.rpc import MAX_RESPONSE
from overlay.store.etcd.settings import EtcdSettings
from tests.support.etcd import Etcd

pytestmark = pytest.mark.etcd

LARGE = bytes(1_400_000)
MANY = MAX_RESPONSE // len(LARGE) + 1
"""So many do not fit into one answer."""
RANGE = KeyRange("/limits/")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with Etcd(tmp_path_factory.mktemp("etcd"), options=("--max-txn-ops=4",)) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def store(server: Etcd) -> AsyncIterator[EtcdStore]:
    made = EtcdStore(EtcdSettings(endpoints=server.urls))
    yield made
    await made.close()


async def test_the_past_is_recalled_in_few_operations(store: EtcdStore) -> None:
    keys = [f"{RANGE.key}{number:03}" for number in range(10)]
    for key in keys:
        await store.commit((), (Put(key, b"1"),))
    known = await store.read(RANGE)
    recalled = await store.recall(RANGE, known.revision, keys)
    assert (recalled.count, recalled.items) == (10, known.items)


async def read_in_the_end(store: EtcdStore) -> Snapshot:
    """What is asked for again gets more time each time: a member on a busy machine may need it."""
    for _ in range(6):
        with suppress(StoreUnavailableError):
            return await store.read(RANGE)
    return await store.read(RANGE)


async def test_large_values_are_read_and_watched(store: EtcdStore) -> None:
    begin = (await store.read(RANGE)).revision
    for number in range(MANY):
        await store.commit((), (Put(f"{RANGE.key}large-{number:03}", LARGE),))
    assert sum(item.value == LARGE for item in (await read_in_the_end(store)).items) == MANY
    with pytest.raises(CompactedError):  # so that who watches reads again
        async for _ in store.watch(RANGE, begin):
            pass
