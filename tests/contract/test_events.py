"""Two nodes that tell a Service's owner the same on one real etcd: it is there once, on a lease of an hour."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from overlay.daemon.clock import boottime
from overlay.services.events.reporter import Reporter
from overlay.services.events.reporting import AGAIN_SECONDS, TTL, Remark
from overlay.services.keys import Keys
from overlay.services.mirror import ServicesFollower
from overlay.services.objects.document import Object, decode
from overlay.services.objects.kinds import EVENT, SERVICE
from overlay.services.objects.selectors import selector
from overlay.services.storage import Storage
from overlay.store.contract import KeyRange, KeyValue
from overlay.store.etcd.client import EtcdStore
from overlay.store.etcd.settings import EtcdSettings
from overlay.store.following import Following
from tests.support.etcd import Etcd
from tests.unit.services.support import service

pytestmark = pytest.mark.etcd

PATIENCE = 60.0
"""Seconds on a busy machine; on an idle one it is two."""


class Clock:
    """The wall clock of all nodes."""

    now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Site:
    """A services' prefix of its own, and the nodes that tell."""

    def __init__(self, server: Etcd) -> None:
        self.keys = Keys(f"/{uuid.uuid4().hex}")
        self.settings = EtcdSettings(endpoints=server.urls)
        self.store = EtcdStore(self.settings)
        self.clock = Clock()

    @asynccontextmanager
    async def node(self, name: str) -> AsyncIterator[tuple[Reporter, ServicesFollower]]:
        store, follower = EtcdStore(self.settings), ServicesFollower(self.keys, Random(name), name)
        made = Reporter(store, follower.mirror, Random(name), lambda: True, node=name, now=self.clock)
        following = asyncio.create_task(Following(store, follower, boottime, lambda: None).run())
        try:
            yield made, follower
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await store.close()

    async def events(self) -> tuple[KeyValue, ...]:
        return (await self.store.read(KeyRange(self.keys.objects("events")))).items

    async def hears(self, *followers: ServicesFollower) -> None:
        """Until all have heard of what there is."""
        newest = max(kv.mod_revision for kv in (await self.store.read(KeyRange(self.keys.root))).items)
        async with asyncio.timeout(PATIENCE):
            while any(each.mirror.revision < newest for each in followers):
                await asyncio.sleep(0.02)


def told(kv: KeyValue) -> Object:
    return decode(kv.value, kv.mod_revision, kv.key)


async def test_what_a_mode_cannot_do_is_an_event_of_its_service(server: Etcd) -> None:
    site = Site(server)
    try:
        storage = Storage(site.store, site.keys)
        made = await storage.create(SERVICE, "default", service("redis"))
        remarks = [Remark(("default", "redis"), "nftables has no scheduler lc")]
        async with site.node("n1") as (first, one), site.node("n2") as (second, other):
            await site.hears(one, other)
            for reporter in (first, second):
                reporter.say(remarks)
            await asyncio.gather(first.look(), second.look())
            (event,) = await site.events()
            assert told(event)["count"] == 1
            assert TTL - 60 < await site.store.time_to_live(event.lease_id) <= TTL
            await site.hears(one, other)
            await asyncio.gather(first.look(), second.look())
            assert await site.events() == (event,), "told is told"

            site.clock.now += timedelta(seconds=AGAIN_SECONDS)
            await asyncio.gather(first.look(), second.look())
            (again,) = await site.events()
            assert (again.key, told(again)["count"]) == (event.key, 2)
            assert again.lease_id != event.lease_id
            await site.store.revoke(event.lease_id)  # as when an hour has passed since it was told first
            assert await site.events() == (again,)

            fields = (
                f"involvedObject.name=redis,involvedObject.kind=Service,involvedObject.uid={made['metadata']['uid']}"
            )
            found = await storage.list(EVENT, "default", takes=selector(EVENT, "", fields))
            assert [each["message"] for each in found.items] == ["nftables has no scheduler lc"], (
                "as kubectl describe asks"
            )
    finally:
        await site.store.close()
