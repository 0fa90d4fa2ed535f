"""What drives a follower: whoever is to be told is told of everything, and of nothing else."""

from __future__ import annotations

import asyncio
import time
from random import Random

from overlay.errors import StoreError
from overlay.store.contract import Events, KeyRange, Put, Snapshot
from overlay.store.follower import Follower, Read, Watch
from overlay.store.following import Following
from overlay.store.mirror import Mirror
from overlay.store.recall import Recall
from tests.support.memory_store import MemoryCore, MemoryStore

LIMIT = 30.0
"""Seconds."""


class Range:
    """A mirror that is followed, and what happened to it."""

    def __init__(self) -> None:
        self.span = KeyRange("/r/")
        self.mirror = Mirror()
        self.follower = Follower(Random(1))
        self.happened: list[str] = []

    def next_step(self, now: float) -> Read | Watch | float:
        return self.follower.next(now)

    def loaded(self, snapshot: Snapshot, now: float) -> None:
        self.follower.loaded(snapshot, now)
        self.mirror.load(snapshot, self.follower.asked_at)
        self.happened.append("loaded")

    def recall(self) -> Recall | None:
        return self.follower.recall(self.mirror.items.values())

    def proved(self, now: float) -> None:
        self.follower.proved(now)
        self.happened.append("proved")

    def heard(self, batch: Events, now: float) -> bool:
        assert self.follower.connected
        self.mirror.apply(batch)
        self.happened += ["heard"] if batch.events else []
        return self.follower.heard(batch, now)

    def lost(self, error: StoreError, now: float) -> None:
        self.follower.failed(error, now)
        self.happened.append("lost")


async def test_everything_that_happens_is_told_once() -> None:
    core = MemoryCore()
    store, followed = MemoryStore(core), Range()
    news: asyncio.Queue[list[str]] = asyncio.Queue()

    def told() -> None:
        news.put_nowait(followed.happened)
        followed.happened = []

    async def next_news() -> list[str]:
        async with asyncio.timeout(LIMIT):
            return await news.get()

    task = asyncio.create_task(Following(store, followed, time.monotonic, told).run())
    try:
        assert [await next_news() for _ in range(2)] == [["loaded"], ["proved"]]
        core.commit([], [Put("/r/a", b"1")], time.monotonic())
        assert await next_news() == ["heard"]
        store.available = False
        assert await next_news() == ["lost"]
        core.commit([], [Put("/r/a", b"2")], time.monotonic())
        store.available = True
        while (what := await next_news()) == ["lost"]:
            pass
        assert [what, await next_news()] == [["proved"], ["heard"]], "watched on, and not read again"
        assert followed.mirror.items["/r/a"].value == b"2"
        core.wipe()
        core.commit([], [Put("/r/b", b"3")], time.monotonic())
        assert await next_news() == ["lost"]
        while (what := await next_news()) == ["lost"]:
            pass
        assert what == ["loaded"], "what was known is of no use"
        assert list(followed.mirror.items) == ["/r/b"]
        assert await next_news() == ["proved"]
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert news.empty()
