"""What a node publishes as the cluster changes, on a store in memory."""

from __future__ import annotations

import json
from random import Random

import pytest

from overlay.errors import ConfigError
from overlay.services.keys import Keys
from overlay.services.mirror import ServicesMirror
from overlay.services.skydns import publisher
from overlay.services.skydns.publisher import Publisher, resign
from overlay.store.contract import Delete, KeyRange, Put
from tests.support.memory_store import MemoryCore, MemoryStore
from tests.support.problems import shown
from tests.unit.services.dns.test_entries import pod, service

KEYS = Keys()
PORTS = [{"name": "client", "port": 6379, "protocol": "TCP"}]
BASE = "/skydns/local/cluster"


class Node:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, pods: bool = True) -> None:
        monkeypatch.setattr(publisher, "_SECONDS", 0.0)
        self.store, self.mirror = MemoryStore(MemoryCore()), ServicesMirror(KEYS)
        self.holds_name = True
        self.publisher = Publisher(
            self.store, self.mirror, Random(1), lambda: self.holds_name, node="n1", prefix="/skydns", pods=pods
        )  # fmt: skip

    async def put(self, key: str, document: object) -> None:
        value = document.encode() if isinstance(document, str) else json.dumps(document).encode()
        await self.store.commit((), [Put(key, value)])

    async def keys(self) -> set[str]:
        """What is there after everybody has heard of everything."""
        for _ in range(2):
            self.mirror.load(await self.store.read(KeyRange(KEYS.root)), 0.0)
            self.publisher.changed()
            await self.publisher.look()
        return {kv.key for kv in (await self.store.read(KeyRange("/skydns/"))).items}


async def test_pods_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch)
    await node.put(*pod("a", "10.0.5.2"))
    assert f"{BASE}/pod/default/10-0-5-2" in await node.keys()
    await node.put(*pod("a", "10.0.5.3"))
    assert {key for key in await node.keys() if "/pod/" in key} == {f"{BASE}/pod/default/10-0-5-3"}
    without = Node(monkeypatch, pods=False)
    await without.put(*pod("a", "10.0.5.2"))
    assert await without.keys() == {f"{BASE}/dns-version"}


async def test_another_domain_is_another_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch)
    await node.put(*service("redis", clusterIPs=["10.96.0.5"], ports=PORTS))
    await node.put(*pod("a", "10.0.5.2"))
    before = await node.keys()
    await node.put(KEYS.config, {"domain": "example.org"})
    await node.store.commit((), [Put(KEYS.object("services", "default", "other"), b"{")])  # passed over
    after = await node.keys()
    assert {key.replace("/org/example/", "/local/cluster/") for key in after} == before
    assert len(before & after) == 1  # the way back: it is to another name now
    await node.put(KEYS.config, "no JSON")
    assert await node.keys() == after


async def test_a_configuration_that_was_never_good_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch)
    await node.put(KEYS.config, "no JSON")
    with pytest.raises(ConfigError):
        await node.keys()
    await node.store.commit((), [Delete(KEYS.config)])
    assert await node.keys() == {f"{BASE}/dns-version"}


async def test_a_machine_whose_name_is_anothers_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch)
    node.holds_name = False
    assert await node.keys() == set()


async def test_that_another_writes_something_else_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch, pods=False)
    await node.keys()
    key = KEYS.publisher("skydns")
    (held,) = (await node.store.read(KeyRange(key))).items
    operations = [Put(key, b"n2 /skydns with pods", held.lease_id), Put(KEYS.alive("n2"), b"id")]
    await node.store.commit((), operations)
    await node.keys()
    told = "n2 writes /skydns with pods, this node would write /skydns without pods"
    assert shown((await node.publisher.look()).problems, "skydns-differs", told)


async def test_only_the_one_that_writes_resigns(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch)
    await node.keys()
    key = KEYS.publisher("skydns")
    await resign(node.store, node.mirror, "n2")
    assert [kv.value for kv in (await node.store.read(KeyRange(key))).items] == [b"n1 /skydns with pods"]
    await resign(node.store, node.mirror, "n1")
    assert (await node.store.read(KeyRange(key))).items == ()
