"""Endpoints, slices and nodes over the API: computed from what is stored, at any revision, and watched."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from overlay.store.contract import Delete, Put
from tests.unit.api.support import SERVICES, TABLE, Events, Served, served
from tests.unit.services.support import service

NAMESPACED = "/api/v1/namespaces/default"
ENDPOINTS = f"{NAMESPACED}/endpoints"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


@pytest_asyncio.fixture(params=[False, True], ids=["read", "followed"])
async def api(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """One that reads the store for each answer, and one that answers from what it follows."""
    async with served(follow=request.param) as found:
        yield found


def pod(name: str, address: str, *, ready: bool = True, app: str = "redis") -> bytes:
    return json.dumps({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "labels": {"app": app}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                   "conditions": [{"type": "Ready", "status": str(ready)}]},
    }).encode()  # fmt: skip


async def put_pod(api: Served, name: str, address: str, **more: Any) -> None:
    await api.store.commit((), (Put(api.storage.keys.pod("n1", name), pod(name, address, **more)),))


async def end_pod(api: Served, name: str) -> None:
    await api.store.commit((), (Delete(api.storage.keys.pod("n1", name)),))


def addresses(endpoints: dict[str, Any]) -> list[str]:
    """The ready ones of Endpoints, or of a slice."""
    if endpoints["kind"] == "EndpointSlice":
        ready = [each for each in endpoints["endpoints"] or () if each["conditions"]["ready"]]
        return sorted(address for each in ready for address in each["addresses"])
    return sorted(each["ip"] for subset in endpoints.get("subsets") or () for each in subset.get("addresses") or ())


async def test_endpoints_of_a_service_are_its_pods(api: Served) -> None:
    made = await api.send("POST", SERVICES, service())
    await put_pod(api, "a", "10.0.0.1")
    await put_pod(api, "b", "10.0.0.2")
    await put_pod(api, "c", "10.0.0.3", ready=False)
    await put_pod(api, "d", "10.0.0.4", app="other")
    found = await api.send("GET", f"{ENDPOINTS}/redis")
    assert addresses(found) == ["10.0.0.1", "10.0.0.2"]
    assert [each["ip"] for each in found["subsets"][0]["notReadyAddresses"]] == ["10.0.0.3"]
    assert found["metadata"]["creationTimestamp"] == made["metadata"]["creationTimestamp"]
    (only,) = (await api.send("GET", ENDPOINTS))["items"]
    assert addresses(only) == addresses(found)
    query = "?labelSelector=kubernetes.io/service-name%3Dredis"
    (found_slice,) = (await api.send("GET", SLICES + query))["items"]
    assert addresses(found_slice) == ["10.0.0.1", "10.0.0.2"]
    assert await api.send("GET", f"{SLICES}/{found_slice['metadata']['name']}") == found_slice
    table = await api.send("GET", ENDPOINTS, headers={"Accept": TABLE})
    assert table["rows"][0]["cells"][:2] == ["redis", "10.0.0.1:6379,10.0.0.2:6379"]


async def test_their_uids_are_the_same_everywhere(api: Served) -> None:
    await api.send("POST", SERVICES, service())
    first, again = [await api.send("GET", f"{ENDPOINTS}/redis") for _ in range(2)]
    assert first["metadata"]["uid"] == again["metadata"]["uid"] != ""


async def test_those_of_a_service_without_selector_are_written(api: Served) -> None:
    await api.send("POST", SERVICES, service(selector=None))
    assert (await api.send("GET", f"{ENDPOINTS}/redis"))["code"] == 404
    written = {"metadata": {"name": "redis"}, "subsets": [{"addresses": [{"ip": "10.0.0.9"}], "ports": [{"port": 1}]}]}
    await api.send("POST", ENDPOINTS, written)
    assert addresses(await api.send("GET", f"{ENDPOINTS}/redis")) == ["10.0.0.9"]
    assert (await api.send("DELETE", f"{ENDPOINTS}/redis"))["status"] == "Success"


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH"])
async def test_what_is_computed_cannot_be_written(api: Served, method: str) -> None:
    await api.send("POST", SERVICES, service())
    (made,) = (await api.send("GET", SLICES))["items"]
    for path in (f"{ENDPOINTS}/redis", f"{SLICES}/{made['metadata']['name']}"):
        document: Any = {"metadata": {}} if method != "DELETE" else None
        status = await api.send(method, path, document, headers={"Content-Type": "application/merge-patch+json"})
        assert (status["code"], status["reason"]) == (403, "Forbidden")
        assert "computed from the pods that Service redis selects" in status["message"]


async def test_they_are_watched_as_pods_come_and_go(api: Served) -> None:
    await api.send("POST", SERVICES, service())
    await put_pod(api, "a", "10.0.0.1")
    for path in (ENDPOINTS, SLICES):
        async with api.watch(path) as events:
            kind, obj = await events.next()
            assert (kind, addresses(obj)) == ("ADDED", ["10.0.0.1"])
            await put_pod(api, "x", "10.0.0.7", app="other")  # nobody's
            await put_pod(api, "b", "10.0.0.2")
            kind, obj = await events.next()
            assert (kind, addresses(obj)) == ("MODIFIED", ["10.0.0.1", "10.0.0.2"])
            await end_pod(api, "b")
            kind, obj = await events.next()
            assert (kind, addresses(obj)) == ("MODIFIED", ["10.0.0.1"])
            await end_pod(api, "x")


async def test_they_come_and_go_with_their_service(api: Served) -> None:
    async with api.watch(ENDPOINTS) as events, api.watch(SLICES) as slices:
        await api.send("POST", SERVICES, service())
        assert await events.names(1) == [("ADDED", "redis")]
        ((kind, name),) = await slices.names(1)
        assert (kind, name.startswith("redis-")) == ("ADDED", True)
        await api.send("DELETE", f"{SERVICES}/redis")
        assert await events.names(1) == [("DELETED", "redis")]
        assert await slices.names(1) == [("DELETED", name)]


async def test_from_a_list_on_no_endpoint_is_missed(api: Served) -> None:
    await api.send("POST", SERVICES, service())
    await put_pod(api, "a", "10.0.0.1")
    version = (await api.send("GET", ENDPOINTS))["metadata"]["resourceVersion"]
    await put_pod(api, "b", "10.0.0.2")
    async with api.watch(ENDPOINTS, resourceVersion=version) as events:  # the first watch: nothing is computed yet
        kind, obj = await events.next()
        assert (kind, addresses(obj)) == ("MODIFIED", ["10.0.0.1", "10.0.0.2"])
        later = obj["metadata"]["resourceVersion"]
        await end_pod(api, "a")
        await events.next()
        async with api.watch(ENDPOINTS, resourceVersion=later) as again:  # the second: from the ring
            kind, obj = await again.next()
            assert (kind, addresses(obj)) == ("MODIFIED", ["10.0.0.2"])


async def test_a_selector_given_and_taken_away(api: Served) -> None:
    written = {"metadata": {"name": "redis"}, "subsets": [{"addresses": [{"ip": "10.0.0.9"}], "ports": [{"port": 1}]}]}
    await api.send("POST", ENDPOINTS, written)
    await put_pod(api, "a", "10.0.0.1")
    async with api.watch(ENDPOINTS) as events:
        assert addresses((await events.next())[1]) == ["10.0.0.9"]
        await api.send("POST", SERVICES, service())
        kind, obj = await events.next()
        assert (kind, addresses(obj)) == ("MODIFIED", ["10.0.0.1"])
        patch = {"spec": {"selector": None}}
        headers = {"Content-Type": "application/merge-patch+json"}
        await api.send("PATCH", f"{SERVICES}/redis", patch, headers=headers)
        kind, obj = await events.next()
        assert (kind, addresses(obj)) == ("MODIFIED", ["10.0.0.9"])


async def test_lists_of_endpoints_come_in_parts_of_one_revision(api: Served) -> None:
    for name in "abc":
        await api.send("POST", SERVICES, service(name))
    first = await api.send("GET", f"{ENDPOINTS}?limit=2")
    assert [each["metadata"]["name"] for each in first["items"]] == ["a", "b"]
    await api.send("DELETE", f"{SERVICES}/c")
    rest = await api.send("GET", f"{ENDPOINTS}?limit=2&continue={first['metadata']['continue']}")
    assert [each["metadata"]["name"] for each in rest["items"]] == ["c"]
    assert rest["metadata"] == {"resourceVersion": first["metadata"]["resourceVersion"]}


async def test_a_node_is_ready_while_its_lease_lives(api: Served) -> None:
    keys = api.storage.keys
    record = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "uid": "u"}, "status": {}}
    await api.store.commit((), (Put(keys.node("n1"), json.dumps(record).encode()), Put(keys.alive("n1"), b"1")))

    def shown(table: dict[str, Any]) -> list[str]:
        return [row["cells"][1] for row in table["rows"]]

    assert shown(await api.send("GET", "/api/v1/nodes", headers={"Accept": TABLE})) == ["Ready"]
    async with api.request("GET", "/api/v1/nodes?watch=1", headers={"Accept": TABLE}) as response:
        events = Events(response)
        assert shown((await events.next())[1]) == ["Ready"]
        await api.store.commit((), (Delete(keys.alive("n1")),))
        kind, table = await events.next()
        assert (kind, shown(table)) == ("MODIFIED", ["NotReady"])
    node = await api.send("GET", "/api/v1/nodes/n1")
    assert node["status"]["conditions"][0]["reason"] == "LeaseLost"
    assert (await api.send("GET", "/api/v1/nodes/n2"))["code"] == 404


async def test_pods_are_listed_in_the_order_of_their_names(api: Served) -> None:
    for name, ident in (("b", "1"), ("c", "0"), ("a", "2")):
        await api.store.commit((), (Put(api.storage.keys.pod("n1", ident), pod(name, "10.0.0.1")),))
    listed = await api.send("GET", f"{NAMESPACED}/pods", params={"limit": "500"})
    assert [each["metadata"]["name"] for each in listed["items"]] == ["a", "b", "c"]


async def test_pods_are_listed_by_node_and_label(api: Served) -> None:
    await put_pod(api, "a", "10.0.0.1")
    await put_pod(api, "b", "10.0.0.2", app="web")
    query = "?labelSelector=app%3Dweb&fieldSelector=spec.nodeName%3Dn1,status.phase%21%3DFailed"
    listed = await api.send("GET", f"{NAMESPACED}/pods{query}")
    assert [each["metadata"]["name"] for each in listed["items"]] == ["b"]
    assert (await api.send("GET", f"{NAMESPACED}/pods/a"))["status"]["podIP"] == "10.0.0.1"
    async with api.watch(f"{NAMESPACED}/pods") as events:
        assert await events.names(2) == [("ADDED", "a"), ("ADDED", "b")]
        await end_pod(api, "a")
        assert await events.names(1) == [("DELETED", "a")]
