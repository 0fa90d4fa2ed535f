"""Two nodes that publish the cluster's names on one real etcd: one writes, the other takes over."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

import pytest

from overlay.daemon.clock import boottime
from overlay.services.keys import Keys
from overlay.services.mirror import ServicesFollower
from overlay.services.skydns.publisher import Publisher, resign
from overlay.store.contract import Delete, KeyRange, Put
from overlay.store.etcd.client import EtcdStore
from overlay.store.etcd.settings import EtcdSettings
from overlay.store.following import Following
from tests.support.etcd import Etcd

pytestmark = pytest.mark.etcd

PATIENCE = 60.0
"""Seconds on a busy machine; on an idle one it is two."""


def service(name: str, address: str) -> bytes:
    spec = {"clusterIPs": [address], "ports": [{"name": "client", "port": 6379, "protocol": "TCP"}]}
    metadata = {"name": name, "namespace": "default", "uid": "u"}
    return json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}).encode()


class Site:
    """A services' prefix and one of records, both its own, and the nodes that publish."""

    def __init__(self, server: Etcd) -> None:
        corner = uuid.uuid4().hex
        self.keys = Keys(f"/{corner}")
        self.prefix = f"/skydns-{corner}"
        self.settings = EtcdSettings(endpoints=server.urls)
        self.store = EtcdStore(self.settings)
        self.followers: dict[str, ServicesFollower] = {}

    @asynccontextmanager
    async def node(self, name: str) -> AsyncIterator[Publisher]:
        store, follower = EtcdStore(self.settings), ServicesFollower(self.keys, Random(name))
        self.followers[name] = follower
        made = Publisher(
            store, follower.mirror, Random(name), lambda: True, node=name, prefix=self.prefix, pods=True
        )  # fmt: skip
        await self.store.commit((), [Put(self.keys.alive(name), b"id")])
        following = Following(store, follower, boottime, made.changed)
        running = [asyncio.create_task(following.run()), asyncio.create_task(_looking(made))]
        try:
            yield made
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await store.close()

    async def put(self, name: str, address: str) -> None:
        key = self.keys.object("services", "default", name)
        await self.store.commit((), [Put(key, service(name, address))])

    async def records(self) -> dict[str, Any]:
        found = await self.store.read(KeyRange(self.prefix + "/"))
        return {kv.key.removeprefix(self.prefix): json.loads(kv.value) for kv in found.items}

    async def revisions(self) -> dict[str, int]:
        found = await self.store.read(KeyRange(self.prefix + "/"))
        return {kv.key: kv.mod_revision for kv in found.items}

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            while not holds(found := await self.records()):
                await asyncio.sleep(0.05)
        return found


async def _looking(publisher: Publisher) -> None:
    while True:
        await asyncio.sleep(min(0.05, (await publisher.look()).due or 0.05))


async def test_one_writes_and_another_takes_over(server: Etcd) -> None:
    site = Site(server)
    redis, srv = "/local/cluster/svc/default/redis/10-96-0-5", "/local/cluster/svc/default/redis/_tcp/_client/10-96-0-5"
    try:
        await site.store.commit((), [Put(f"{site.prefix}/com/example/www", b'{"host":"192.0.2.1"}')])
        await site.put("redis", "10.96.0.5")
        n1 = AsyncExitStack()
        first = await n1.enter_async_context(site.node("n1"))
        await site.until(lambda records: srv in records)
        async with n1, site.node("n2") as second:
            found = await site.records()
            assert first.facts()["writer"] == "n1"
            assert found[redis] == {"host": "10.96.0.5", "port": 6379, "priority": 10, "weight": 10, "ttl": 5}
            assert found["/arpa/in-addr/10/96/0/5"]["host"] == "redis.default.svc.cluster.local"
            before = await site.revisions()
            await site.put("web", "10.96.0.6")
            await site.until(lambda records: "/local/cluster/svc/default/web/10-96-0-6" in records)
            await n1.aclose()
            await site.store.commit((), [Delete(site.keys.alive("n1"))])
            await site.store.commit((), [Delete(site.keys.object("services", "default", "web"))])
            await site.until(lambda records: not any("/web/" in key for key in records))
            assert second.facts()["writer"] == "n2"
            assert {key: value for key, value in (await site.revisions()).items() if key in before} == before
            records = await site.store.read(KeyRange(site.prefix + "/"))
            leases = {kv.lease_id for kv in records.items if "/local/" in kv.key or "/arpa/" in kv.key}
            assert len(leases) == 1
        await resign(site.store, site.followers["n2"].mirror, "n2")
        assert (await site.store.read(KeyRange(site.keys.publisher("skydns")))).items == ()
        await site.store.revoke(leases.pop())  # as when nobody refreshes it any more
        assert list(await site.records()) == ["/com/example/www"]
    finally:
        await site.store.close()
