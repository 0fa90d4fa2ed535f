"""The API in front of many Services and pods: how long an answer, an event and a start take, and in how much memory.

With OVERLAY_STRICT=1: 5,000 Services and 50,000 pods, and the limits that docs/services.md promises.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from overlay.services.keys import Keys
from overlay.store.contract import Put
from overlay.store.etcd.client import EtcdStore
from tests.support.api import ApiProcess, api_process
from tests.support.etcd import Etcd, eventually
from tests.support.kubectl import Kubectl
from tests.support.limits import STRICT, limit
from tests.support.store import connected

pytestmark = pytest.mark.etcd

SERVICES, PODS, WATCHES = (5000, 50_000, 1000) if STRICT else (200, 2000, 100)
NODES = 100
LIMIT = 120.0
KEYS = Keys()


def service(number: int) -> bytes:
    name = f"svc-{number:05}"
    return json.dumps({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}",
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"selector": {"app": name}, "type": "ClusterIP",
                 "clusterIP": f"10.96.{number // 250}.{number % 250 + 1}",
                 "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]},
        "status": {"loadBalancer": {}},
    }).encode()  # fmt: skip


def pod(number: int, *, generation: int = 0) -> bytes:
    """As `overlay services` writes one of a container."""
    address = f"10.{200 + number // 60_000}.{number // 250 % 250}.{number % 250 + 1}"
    started = {"startedAt": "2026-01-01T00:00:00Z"}
    return json.dumps({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": f"web-{number:05}", "namespace": "default", "uid": f"pod-{number}",
                     "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": f"svc-{number % SERVICES:05}"},
                     "annotations": {"overlay.io/container": f"web-{number}", "generation": str(generation)}},
        "spec": {"nodeName": f"node-{number % NODES}", "restartPolicy": "Always",
                 "containers": [{"name": "web", "image": "nginx:1.27", "ports": [{"containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "hostIP": "192.0.2.1",
                   "conditions": [{"type": each, "status": "True" if generation % 2 == 0 else "False"}
                                  for each in ("PodScheduled", "Initialized", "ContainersReady", "Ready")],
                   "containerStatuses": [{"name": "web", "image": "nginx:1.27", "imageID": "sha256:" + "0" * 64,
                                          "containerID": "docker://" + f"{number:064x}", "ready": True, "started": True,
                                          "restartCount": 0, "state": {"running": started}}]},
    }).encode()  # fmt: skip


def pod_key(number: int) -> str:
    return KEYS.pod(f"node-{number % NODES}", f"{number:064x}")


async def fill(store: EtcdStore) -> None:
    puts = [Put(KEYS.object("services", "default", f"svc-{n:05}"), service(n)) for n in range(SERVICES)]
    puts += [Put(pod_key(n), pod(n)) for n in range(PODS)]
    for begin in range(0, len(puts), 100):
        await store.commit((), puts[begin : begin + 100])


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with Etcd(tmp_path_factory.mktemp("etcd")) as server:

        async def filled() -> None:
            async with connected(*server.urls) as store:
                await fill(store)

        asyncio.run(filled())
        yield server


@pytest.fixture(scope="module")
def api(etcd: Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    with api_process(etcd.urls[0], tmp_path_factory.mktemp("api")) as found:
        yield found


async def get(client: aiohttp.ClientSession, path: str, **query: str) -> tuple[Any, float]:
    """A document, and the seconds that it took."""
    began = time.monotonic()
    async with client.get(path, params=query) as answer:
        document = await answer.json()
        assert answer.status == 200, document
    return document, time.monotonic() - began


def told(what: str, seconds: list[float]) -> float:
    """Prints them; returns the p99, or the worst of fewer than a hundred."""
    ordered = sorted(seconds)
    worst = ordered[-1 - len(ordered) // 100]
    print(f"{what}: median {statistics.median(ordered) * 1e3:.1f} ms, p99 {worst * 1e3:.1f} ms of {len(ordered)}")
    return worst


async def ready(client: aiohttp.ClientSession) -> None:
    """Until it answers from memory: what it was started with is read."""

    async def quick() -> bool:
        return (await get(client, "/api/v1/namespaces/default/endpoints/svc-00001"))[1] < 0.02 * limit(1, 10)

    await eventually(quick, limit=LIMIT)


ENDPOINTS = "/api/v1/namespaces/default/endpoints"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


async def test_kubectl_lists_all_services(api: ApiProcess, etcd: Etcd, tmp_path: Path) -> None:
    Kubectl.require("kubectl", etcd.urls[0], tmp_path)
    took = []
    for _ in range(3):
        began = time.monotonic()
        listed = subprocess.run(
            api.kubectl("get", "svc", "-A", "--no-headers"), capture_output=True, text=True, check=True, timeout=LIMIT
        )
        took.append(time.monotonic() - began)
        assert listed.stdout.count("\n") == SERVICES
    print(f"kubectl get svc -A, {SERVICES} services: {min(took):.2f} s, {max(took):.2f} s at most")
    assert min(took) < limit(3.0, 60.0)


async def test_one_services_endpoints_cost_no_more_than_they_are(api: ApiProcess) -> None:
    async with api.client() as client:
        await ready(client)
        for what, path, query in (
            ("endpoints", f"{ENDPOINTS}/svc-00007", {}),
            ("its slices", SLICES, {"labelSelector": "kubernetes.io/service-name=svc-00007"}),
            ("a pod by name", "/api/v1/namespaces/default/pods/web-00007", {}),
        ):
            took = [(await get(client, path, **query))[1] for _ in range(100)]
            assert told(what, took) < limit(0.1, 5.0)
        document, _ = await get(client, f"{ENDPOINTS}/svc-00007")
        (subset,) = document["subsets"]
        assert len(subset["addresses"]) == PODS // SERVICES


@asynccontextmanager
async def watching(client: aiohttp.ClientSession, path: str, **query: str) -> AsyncIterator[aiohttp.StreamReader]:
    async with client.get(path, params={"watch": "1", "resourceVersion": "0", **query}) as answer:
        assert answer.status == 200, await answer.text()
        yield answer.content


async def test_an_event_reaches_its_watcher(api: ApiProcess, etcd: Etcd) -> None:
    """From etcd's answer to the write to the event that a client has read; all other Services are watched too."""
    took = []
    async with api.client() as client, connected(*etcd.urls) as store:
        await ready(client)
        name = {"fieldSelector": "metadata.name=svc-00007"}
        async with watching(client, ENDPOINTS, **name) as events, watching(client, "/api/v1/endpoints") as all_of_them:
            for _ in range(SERVICES):
                await all_of_them.readline()
            pump = asyncio.create_task(swallow(all_of_them))
            await events.readline()
            for generation in range(1, 101):
                began = time.monotonic()
                await store.commit((), (Put(pod_key(7), pod(7, generation=generation)),))
                async with asyncio.timeout(LIMIT):
                    event = json.loads(await events.readline())
                assert event["type"] == "MODIFIED"
                took.append(time.monotonic() - began)
            pump.cancel()
    assert told("a change of a pod, written and told as its Service's endpoints", took) < limit(0.1, 10.0)


async def swallow(events: aiohttp.StreamReader) -> None:
    while await events.read(1 << 16):
        pass


async def test_memory_with_a_thousand_watches(api: ApiProcess, etcd: Etcd) -> None:
    """Of the API that the tests before have used; and each of them hears of a change."""
    async with api.client() as client, connected(*etcd.urls) as store, AsyncExitStack() as stack:
        await ready(client)
        alone = api.resident
        print(f"memory with {SERVICES} services and {PODS} pods: {alone / 1e6:.0f} MB")
        assert alone < limit(300e6, 600e6)
        query = {"labelSelector": "kubernetes.io/service-name=svc-00009"}
        watches = [await stack.enter_async_context(watching(client, SLICES, **query)) for _ in range(WATCHES)]
        for events in watches:
            await events.readline()
        await store.commit((), (Put(pod_key(9), pod(9, generation=1)),))
        async with asyncio.timeout(LIMIT):
            heard = [json.loads(await events.readline())["type"] for events in watches]
        assert heard == ["MODIFIED"] * WATCHES
        each = (api.resident - alone) / WATCHES
        print(f"memory of a watch, of {WATCHES}: {each / 1e3:.0f} kB")
        assert each < 250e3
