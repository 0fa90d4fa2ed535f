"""Answers from a mirror: as few reads of the store as possible, and nothing stale, whatever the watch does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlay.api import freshness
from overlay.store.contract import Events, KeyRange, Page, Put
from tests.support.etcd import eventually
from tests.support.memory_store import MemoryStore
from tests.unit.api.support import LIMIT, SERVICES, Served, served
from tests.unit.api.test_computed import ENDPOINTS, SLICES, addresses, end_pod, put_pod
from tests.unit.services.support import service

PODS = "/api/v1/namespaces/default/pods"
OF_REDIS = {"labelSelector": "kubernetes.io/service-name=redis"}


class Store(MemoryStore):
    """A store whose watch may be held up, and which counts the keys that it gave for ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.told = 0

    async def page(self, span: KeyRange, *, limit: int = 0, after: str = "", revision: int = 0) -> Page:
        found = await super().page(span, limit=limit, after=after, revision=revision)
        self.told += len(found.items) if span.prefix else 0
        return found

    async def watch(self, span: KeyRange, after: int) -> AsyncIterator[Events]:
        async for batch in super().watch(span, after):
            await self.flowing.wait()
            yield batch


async def followed(api: Served, store: Store) -> None:
    """Until the API answers from memory."""

    async def from_memory() -> bool:
        store.told = 0
        await api.send("GET", f"{ENDPOINTS}/redis")
        return store.told == 0

    await eventually(from_memory, limit=LIMIT)


async def test_endpoints_are_answered_without_reading_any_pod() -> None:
    store = Store()
    async with served(store, follow=True) as api:
        await api.send("POST", SERVICES, service())
        for number in range(20):
            await put_pod(api, f"p{number}", f"10.0.0.{number + 1}")
        await followed(api, store)
        store.told = 0
        assert len(addresses(await api.send("GET", f"{ENDPOINTS}/redis"))) == 20
        (found,) = (await api.send("GET", SLICES, params=OF_REDIS))["items"]
        assert len(addresses(found)) == 20
        assert (await api.send("GET", f"{SLICES}/{found['metadata']['name']}"))["metadata"] == found["metadata"]
        assert (await api.send("GET", f"{PODS}/p7"))["status"]["podIP"] == "10.0.0.8"
        assert store.told == 0


async def test_what_others_write_beside_it_costs_no_reading_of_pods() -> None:
    store = Store()
    async with served(store, follow=True) as api:
        await api.send("POST", SERVICES, service())
        await put_pod(api, "p", "10.0.0.1")
        await followed(api, store)
        store.flowing.clear()  # as etcd's watch, which says nothing of what is not in its range
        await store.commit((), (Put("/elsewhere", b"1"),))
        store.told = 0
        assert addresses(await api.send("GET", f"{ENDPOINTS}/redis")) == ["10.0.0.1"]
        assert store.told == 0


async def test_a_watch_that_lags_makes_nothing_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "CATCH_UP_SECONDS", 0.01)
    store = Store()
    async with served(store, follow=True) as api:
        await api.send("POST", SERVICES, service())
        await put_pod(api, "a", "10.0.0.1")
        await followed(api, store)
        store.flowing.clear()
        await put_pod(api, "b", "10.0.0.2")
        assert addresses(await api.send("GET", f"{ENDPOINTS}/redis")) == ["10.0.0.1", "10.0.0.2"]
        await end_pod(api, "a")
        assert addresses(await api.send("GET", f"{ENDPOINTS}/redis")) == ["10.0.0.2"]
        assert (await api.send("GET", f"{PODS}/a"))["code"] == 404
        store.flowing.set()
        await followed(api, store)
        assert addresses(await api.send("GET", f"{ENDPOINTS}/redis")) == ["10.0.0.2"]


async def test_a_store_that_was_wiped_is_told_as_it_is() -> None:
    store = Store()
    async with served(store, follow=True) as api:
        await api.send("POST", SERVICES, service())
        for number in range(5):
            await put_pod(api, f"p{number}", f"10.0.0.{number + 1}")
        await followed(api, store)
        store.flowing.clear()
        store.core.wipe()
        assert (await api.send("GET", f"{ENDPOINTS}/redis"))["code"] == 404
        store.flowing.set()


steps = st.lists(st.sampled_from(["pod", "end", "beside", "hold", "flow", "ask", "wipe"]), max_size=25)


@settings(max_examples=60, deadline=None)
@given(steps)
@example(["wipe", "end", "pod", "hold", "end", "end", "wipe", "pod"])  # … which was proved until later
@example(["ask", "pod", "hold", "pod", "wipe", "pod"])  # the new history comes to the old one's revision
@example(["pod", "pod", "hold", "pod", "wipe", "pod", "pod", "pod", "flow"])  # … and passes it, before that is heard of
async def test_whatever_happens_the_answer_is_what_the_store_has(plan: list[str]) -> None:
    store = Store()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(freshness, "CATCH_UP_SECONDS", 0.002)
        async with served(store, follow=True) as api:
            there: set[str] = set()
            for number, step in enumerate(["pod", *plan, "ask"]):
                match step:
                    case "pod":
                        there.add(address := f"10.0.0.{number + 1}")
                        await put_pod(api, address, address)
                    case "end" if there:
                        await end_pod(api, there.pop())
                    case "beside":
                        await store.commit((), (Put("/elsewhere", b"1"),))
                    case "hold":
                        store.flowing.clear()
                    case "flow":
                        store.flowing.set()
                    case "wipe":
                        store.core.wipe()
                        there = set()
                    case _:
                        await ask(api, there)
            store.flowing.set()


async def ask(api: Served, there: set[str]) -> None:
    made: Any = service()
    made["metadata"]["uid"] = "u"
    key = api.storage.keys.object("services", "default", "redis")
    if not (await api.store.page(KeyRange(key, prefix=False))).items:
        assert (await api.send("POST", SERVICES, made)).get("kind") == "Service"
    assert addresses(await api.send("GET", f"{ENDPOINTS}/redis")) == sorted(there)
