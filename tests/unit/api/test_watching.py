"""Watches: nothing missed, nothing twice, and a clear end where that cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from overlay.api import server, streams, watching
from overlay.services.objects.kinds import SERVICE
from overlay.services.objects.status import StatusError
from tests.unit.api.support import SERVICES, TABLE, Events, Served, served
from tests.unit.services.support import service


@pytest_asyncio.fixture
async def api() -> AsyncIterator[Served]:
    async with served() as found:
        yield found


async def make(api: Served, *names: str, **labels: str) -> None:
    for name in names:
        document = {**service(name), "metadata": {"name": name, "labels": labels}}
        assert (await api.send("POST", SERVICES, document))["kind"] == "Service"


async def label(api: Served, name: str, value: str | None) -> None:
    headers = {"Content-Type": "application/merge-patch+json"}
    await api.send("PATCH", f"{SERVICES}/{name}", {"metadata": {"labels": {"l": value}}}, headers=headers)


async def test_first_what_is_there_then_what_changes(api: Served) -> None:
    await make(api, "a")
    async with api.watch(SERVICES) as events:
        assert await events.names(1) == [("ADDED", "a")]
        await make(api, "b")
        await label(api, "a", "x")
        await api.send("DELETE", f"{SERVICES}/b")
        assert await events.names(3) == [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]


async def test_from_a_list_on_nothing_is_missed(api: Served) -> None:
    await make(api, "a", "b")
    version = (await api.send("GET", SERVICES))["metadata"]["resourceVersion"]
    await make(api, "c")
    await api.send("DELETE", f"{SERVICES}/a")
    async with api.watch(SERVICES, resourceVersion=version) as events:
        assert await events.names(2) == [("ADDED", "c"), ("DELETED", "a")]
        await make(api, "d")
        assert await events.names(1) == [("ADDED", "d")]


async def test_a_watch_goes_on_from_where_another_ended(api: Served) -> None:
    await make(api, "a")
    async with api.watch(SERVICES) as events:
        _, obj = await events.next()
    await make(api, "b")
    async with api.watch(SERVICES, resourceVersion=obj["metadata"]["resourceVersion"]) as events:
        assert await events.names(1) == [("ADDED", "b")]


async def test_what_another_watch_has_brought_already_is_not_told_again(api: Served) -> None:
    async with api.watch(SERVICES) as events:
        await make(api, "a", "b")
        _, obj = await events.next()
        await events.next()
        async with api.watch(SERVICES, resourceVersion=obj["metadata"]["resourceVersion"]) as later:
            await make(api, "c")
            assert await later.names(2) == [("ADDED", "b"), ("ADDED", "c")]


async def test_what_leaves_a_selector_is_deleted_and_what_enters_it_added(api: Served) -> None:
    await make(api, "a", l="x")
    await make(api, "b", l="y")
    async with api.watch(SERVICES, labelSelector="l=x") as events:
        assert await events.names(1) == [("ADDED", "a")]
        await label(api, "b", "x")
        await label(api, "a", None)
        await label(api, "a", "z")
        await label(api, "b", "x2")
        assert await events.names(3) == [("ADDED", "b"), ("DELETED", "a"), ("DELETED", "b")]


async def test_a_deleted_object_has_its_last_state_and_the_revision_of_its_end(api: Served) -> None:
    await make(api, "a", l="x")
    async with api.watch(SERVICES) as events:
        _, before = await events.next()
        await api.send("DELETE", f"{SERVICES}/a")
        kind, after = await events.next()
    assert kind == "DELETED"
    assert after["spec"] == before["spec"]
    assert int(after["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])


async def test_other_kinds_namespaces_and_names_are_not_heard_of(api: Served) -> None:
    await api.send("POST", "/api/v1/namespaces", {"metadata": {"name": "other"}})
    async with api.watch(SERVICES, fieldSelector="metadata.name=b") as events:
        await make(api, "a")
        await api.send("POST", "/api/v1/namespaces/other/services", service("b"))
        await make(api, "b")
        assert await events.names(1) == [("ADDED", "b")]


async def test_the_old_form_of_one_object(api: Served) -> None:
    await make(api, "a", "b")
    async with api.request("GET", "/api/v1/watch/namespaces/default/services/b") as response:
        assert b'"name":"b"' in await response.content.readline()


async def test_as_tables_columns_come_once(api: Served) -> None:
    await make(api, "a")
    async with api.request("GET", SERVICES, params={"watch": "1"}, headers={"Accept": TABLE}) as response:
        events = Events(response)
        _, first = await events.next()
        await make(api, "b")
        _, second = await events.next()
    assert (first["kind"], len(first["rows"]), second["kind"]) == ("Table", 1, "Table")
    assert first["columnDefinitions"]
    assert second["columnDefinitions"] is None
    assert second["rows"][0]["cells"][0] == "b"


async def test_bookmarks_tell_how_far_it_is(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BOOKMARK_SECONDS", 0.1)
    async with api.watch(SERVICES, allowWatchBookmarks="true") as events:
        kind, first = await events.next()
        assert kind == "BOOKMARK"
        assert first["kind"] == "Service"
        await make(api, "a")
        seen: list[tuple[str, str]] = []
        while not (seen and seen[-1][0] == "BOOKMARK" and ("ADDED", "a") in seen):
            kind, obj = await events.next()
            seen.append((kind, obj["metadata"].get("name", "")))
        assert int(obj["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])


async def test_initial_events_end_with_a_bookmark(api: Served) -> None:
    await make(api, "a")
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with api.watch(SERVICES, **query) as events:
        assert await events.names(1) == [("ADDED", "a")]
        kind, obj = await events.next()
        assert kind == "BOOKMARK"
        assert obj["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        await make(api, "b")
        assert await events.names(1) == [("ADDED", "b")]
    del query["resourceVersionMatch"]
    assert (await api.send("GET", SERVICES, params={"watch": "1", **query}))["code"] == 400


async def test_its_time_ends_a_watch_cleanly(api: Served) -> None:
    async with api.watch(SERVICES, timeoutSeconds="1") as events:
        with pytest.raises(EOFError):
            await events.next()


async def test_a_version_that_was_compacted_is_gone(api: Served) -> None:
    await make(api, "a")
    old = (await api.send("GET", SERVICES))["metadata"]["resourceVersion"]
    await make(api, "b")
    api.store.core.compact()
    status = await api.send("GET", SERVICES, params={"watch": "1", "resourceVersion": old})
    assert (status["code"], status["reason"]) == (410, "Expired")


async def test_a_client_that_is_too_slow_is_told_to_start_again(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "RING", 3)
    hub = watching.Hub(api.storage)
    try:
        changes = hub.changes(SERVICE, "default", await api.storage.revision(), tick=60)
        await anext(changes)
        await anext(changes)
        await make(api, *"abcdefgh")
        while hub.revision < await api.storage.revision():
            await asyncio.sleep(0.01)
        with pytest.raises(StatusError) as raised:
            await anext(changes)
        assert raised.value.code == 410
        await changes.aclose()
    finally:
        hub.close()


async def test_etcd_away_and_back_loses_nothing(api: Served) -> None:
    await make(api, "a")
    async with api.watch(SERVICES) as events:
        assert await events.names(1) == [("ADDED", "a")]
        api.store.available = False
        await asyncio.sleep(0.05)
        api.store.available = True
        await make(api, "b")
        await api.send("DELETE", f"{SERVICES}/a")
        assert sorted(await events.names(2)) == [("ADDED", "b"), ("DELETED", "a")]


async def test_a_store_that_was_wiped_ends_its_watches(api: Served) -> None:
    await make(api, "a", "b", "c")
    async with api.watch(SERVICES) as events:
        await events.names(3)
        api.store.core.wipe()
        kind, obj = await events.next()
    assert (kind, obj["code"]) == ("ERROR", 410)


async def test_watches_are_counted_and_bounded(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_WATCHES", 2)
    async with api.watch(SERVICES), api.watch(SERVICES):
        status = await api.send("GET", SERVICES, params={"watch": "1"})
        assert (status["code"], status["reason"]) == (429, "TooManyRequests")
    async with asyncio.timeout(10):
        while True:  # until the server has noticed that the two are gone
            async with api.request("GET", SERVICES, params={"watch": "1", "timeoutSeconds": "1"}) as response:
                if response.status == 200:
                    return
