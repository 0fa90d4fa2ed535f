"""The stores that the contract is tested on, and a corner of its own in them for every test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from overlay.store.contract import PagedStore
from tests.support.etcd import Etcd
from tests.support.memory_store import MemoryCore, MemoryStore


@dataclass(frozen=True)
class World:
    """One store as several clients see it.

    Attributes:
        store: a client; ``other`` is a second one.
        prefix: of the keys that the test may use.
        compact: forgets the history before a revision.
    """

    store: PagedStore
    other: PagedStore
    prefix: str
    compact: Callable[[int], Awaitable[None]]

    def key(self, name: str) -> str:
        return self.prefix + name


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with Etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest_asyncio.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.etcd)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    prefix = f"/contract/{uuid.uuid4().hex}/"
    if request.param == "memory":
        core = MemoryCore()

        async def compact_memory(revision: int) -> None:
            core.compact(revision)

        yield World(MemoryStore(core), MemoryStore(core), prefix, compact_memory)
        return

    from overlay.store.etcd.client import EtcdSettings, EtcdStore

    cluster: Etcd = request.getfixturevalue("server")

    async def compact_etcd(revision: int) -> None:
        cluster.ctl("compaction", str(revision))

    settings = EtcdSettings(endpoints=cluster.urls)
    store, other = EtcdStore(settings), EtcdStore(settings)
    try:
        yield World(store, other, prefix, compact_etcd)
    finally:
        await store.close()
        await other.close()
