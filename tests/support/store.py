"""Writing to a store and following it, as the fault tests do: with limits, across outages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from overlay.errors import StoreUnavailableError
from overlay.store.contract import ABSENT, Compare, Event, Events, KeyRange, Put
from overlay.store.etcd.client import EtcdSettings, EtcdStore
from tests.support.etcd import eventually

PREFIX = "/coreos.com/network/"
SUBNETS = KeyRange(PREFIX + "subnets/")

FAILOVER_LIMIT = 10.0
"""Seconds until a call succeeds again after a member is lost: an election (1 to 2 s) and one timeout (3 s), doubled."""

FROZEN_LIMIT = 20.0
"""Seconds until a watch notices that its server is frozen: SILENCE + ANSWER_TIME are 15, and some slack."""


@asynccontextmanager
async def connected(*urls: str, **settings: str | float) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(EtcdSettings(endpoints=urls, **settings))  # type: ignore[arg-type]
    try:
        yield store
    finally:
        await store.close()


def key(name: object) -> str:
    return f"{SUBNETS.key}{name}"


async def put(store: EtcdStore, name: object, value: bytes = b"v") -> int:
    return (await store.commit((), (Put(key(name), value),))).revision


async def insist(store: EtcdStore, name: object) -> None:
    """Creates a key as the keeper does: a transaction that expects nothing there, and a look where it failed."""

    async def created() -> bool:
        done = await store.commit((Compare(key(name), ABSENT),), (Put(key(name), b"v"),))
        return done.succeeded or bool(done.current)

    await eventually(created, limit=FAILOVER_LIMIT, pause=0.2)


async def follow(store: EtcdStore, after: int) -> AsyncIterator[Event]:
    """Every event after a revision, across watches that end, as membership follows them."""
    while True:
        try:
            async for batch in store.watch(SUBNETS, after):
                for event in batch.events:
                    yield event
                after = batch.revision
        except StoreUnavailableError:
            await asyncio.sleep(0.2)


async def take(queue: asyncio.Queue[object], limit: float) -> object:
    """What comes next, signs of life passed over."""
    async with asyncio.timeout(limit):
        while isinstance(item := await queue.get(), Events) and not item.events:
            pass
    return item


async def the_end(queue: asyncio.Queue[object], limit: float) -> object:
    """What ended a followed stream, its items passed over."""
    async with asyncio.timeout(limit):
        while not isinstance(item := await queue.get(), Exception):
            pass
    return item
