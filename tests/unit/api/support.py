"""An API on a store in memory, and a client of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from overlay.api.auth import Tokens
from overlay.api.server import Api
from overlay.services.keys import Keys
from overlay.services.storage import Storage
from tests.support.memory_store import MemoryStore

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
LIMIT = 30.0
"""Seconds until an event comes; on an idle machine it is milliseconds."""

SERVICES = "/api/v1/namespaces/default/services"


@dataclass
class Served:
    """An API that is there: its store, and a client that may write."""

    store: MemoryStore
    storage: Storage
    client: TestClient[Any, Any]

    async def send(self, method: str, path: str, document: Any = None, **options: Any) -> Any:
        """The answer's document, whatever its code."""
        async with self.request(method, path, document, **options) as response:
            return await response.json()

    def request(self, method: str, path: str, document: Any = None, **options: Any) -> Any:
        headers = {"Authorization": "Bearer w", **options.pop("headers", {})}
        if document is not None:
            options["data"] = json.dumps(document)
            headers.setdefault("Content-Type", "application/json")
        return self.client.request(method, path, headers=headers, **options)

    @asynccontextmanager
    async def watch(self, path: str, **query: str) -> AsyncIterator[Events]:
        """A watch's events while the context lasts."""
        async with self.request("GET", path, params={"watch": "1", **query}) as response:
            assert response.status == 200, await response.text()
            yield Events(response)


class Events:
    """A watch's lines."""

    def __init__(self, response: ClientResponse) -> None:
        self._response = response

    async def next(self) -> tuple[str, dict[str, Any]]:
        """The next event: its type and its object."""
        async with asyncio.timeout(LIMIT):
            line = await self._response.content.readline()
        if not line:
            raise EOFError("the watch has ended")
        event = json.loads(line)
        return event["type"], event["object"]

    async def names(self, count: int) -> list[tuple[str, str]]:
        """So many events, by type and name."""
        found = []
        for _ in range(count):
            kind, obj = await self.next()
            found.append((kind, obj["metadata"].get("name", "")))
        return found


@asynccontextmanager
async def served(store: MemoryStore | None = None, *, follow: bool = False) -> AsyncIterator[Served]:
    store = store or MemoryStore()
    storage = Storage(store, Keys())
    async with TestClient(TestServer(Api(storage, Tokens("w", "r"), follow=follow).application())) as client:
        yield Served(store, storage, client)
