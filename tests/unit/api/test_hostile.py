"""What strangers and mistakes send: each gets a Status, nothing of it is kept, and the API goes on.

Everything goes through a real socket: aiohttp's parser is part of what is tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from overlay.api import server
from overlay.api.auth import Tokens
from overlay.api.bodies import MAX_BODY
from overlay.api.place import Identity
from overlay.api.server import Api, serving
from overlay.services.keys import Keys
from overlay.services.objects.document import MAX_BYTES, copy
from overlay.services.objects.patches import APPLY, JSON, MERGE, STRATEGIC
from overlay.services.storage import Storage
from overlay.store.contract import KeyRange
from tests.support.memory_store import MemoryStore
from tests.unit.api.support import SERVICES, Served, served
from tests.unit.services.support import service

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(
        ["", "\x00", "a" * 70_000, "10.96.0.256", "::1", "None", "-1", "99999999999999999999", "../../x", "ä" * 64]
    ),
    st.just([]),
    st.just({}),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.none() | st.text(max_size=5), max_size=3),
)
"""In the place of any value."""

FULL: dict[str, Any] = {
    "apiVersion": "v1", "kind": "Service",
    "metadata": {"name": "redis", "namespace": "default", "labels": {"a": "b"}, "annotations": {"c": "d"},
                 "generateName": "", "finalizers": [], "ownerReferences": []},
    "spec": {"type": "NodePort", "selector": {"app": "redis"}, "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
             "ports": [{"name": "p", "port": 80, "targetPort": "http", "nodePort": 30001, "protocol": "TCP"}],
             "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}},
             "externalIPs": ["192.0.2.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
             "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster", "externalName": "",
             "loadBalancerSourceRanges": [], "publishNotReadyAddresses": False, "healthCheckNodePort": 0},
    "status": {"loadBalancer": {"ingress": []}},
}  # fmt: skip


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values of a document."""
    yield path
    if isinstance(document, dict | list):
        for key in document if isinstance(document, dict) else range(len(document)):
            yield from places(document[key], (*path, key))


def with_value(path: tuple[Any, ...], value: Any) -> Any:
    """The full Service with another value in one place."""
    if not path:
        return value
    document: Any = copy(FULL)
    *way, last = path
    parent = document
    for key in way:
        parent = parent[key]
    parent[last] = value
    return document


PLACES = st.sampled_from(list(places(FULL)))


async def judged(api: Served, method: str, path: str, document: Any, content_type: str = "application/json") -> int:
    """The code of the answer, which is an object or a Status that says why."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    headers = {"Authorization": "Bearer w", "Content-Type": content_type}
    async with api.client.request(method, path, data=data, headers=headers) as response:
        answer = await response.json()
        assert response.status < 500, answer
        if response.status >= 400:
            assert (answer["kind"], answer["code"]) == ("Status", response.status)
            assert answer["message"]
            assert len(answer["message"]) < 20_000
        return int(response.status)


async def all_is_well(api: Served) -> None:
    """Whatever is stored is listed, as objects and as a Table, and what was taken is as much as is held."""
    async with api.request("GET", SERVICES) as response:
        assert response.status == 200
        items = (await response.json())["items"]
    async with api.request(
        "GET", SERVICES, headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    ) as table:
        assert table.status == 200
        assert len((await table.json())["rows"]) == len(items)
    held = {each["spec"].get("clusterIP") for each in items} - {None, "None", ""}
    keys = [item.key for item in api.store.core.read(KeyRange(api.storage.keys.address()), 0.0).items]
    assert sorted(key.rpartition("/")[2] for key in keys) == sorted(held)


@FEW
@example([("POST", ("apiVersion",), "a" * 70_000)])
@given(st.lists(st.tuples(st.sampled_from(["POST", "PUT", "merge", "strategic"]), PLACES, HOSTILE), max_size=8))
async def test_a_wrong_value_anywhere_is_refused_or_made_right(plan: list[tuple[str, tuple[Any, ...], Any]]) -> None:
    async with served() as api:
        for method, path, value in [("POST", ("metadata", "labels"), {}), *plan]:
            document = with_value(path, value)
            if method in ("merge", "strategic"):
                kind = "application/merge-patch+json" if method == "merge" else "application/strategic-merge-patch+json"
                await judged(api, "PATCH", f"{SERVICES}/redis", document, kind)
            else:
                await judged(api, method, SERVICES if method == "POST" else f"{SERVICES}/redis", document)
        await all_is_well(api)


OPERATIONS = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "x"]),
     "path": st.sampled_from(["", "/", "/spec", "/spec/ports/0", "/spec/ports/-", "/spec/ports/9", "/metadata/name",
                              "~"])},
    optional={"value": HOSTILE, "from": st.sampled_from(["", "/spec", "/metadata", "/spec/ports/0", "x"])},
)  # fmt: skip


@FEW
@given(st.lists(st.lists(OPERATIONS, max_size=3) | HOSTILE, max_size=6))
async def test_any_json_patch_is_refused_or_leaves_a_service(patches: list[Any]) -> None:
    async with served() as api:
        await judged(api, "POST", SERVICES, FULL)
        for patch in patches:
            await judged(api, "PATCH", f"{SERVICES}/redis", patch, "application/json-patch+json")
        await all_is_well(api)


TYPES = st.sampled_from([
    "", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "text/html",
    "multipart/form-data", "application/strategic-merge-patch+json", "application/json; charset=utf-16", ";;;",
    "application/apply-patch+yaml",
])  # fmt: skip


@FEW
@given(
    st.lists(st.tuples(st.sampled_from(["POST", "PUT", "PATCH", "DELETE"]), TYPES, st.binary(max_size=200)), max_size=8)
)
async def test_any_bytes_of_any_type_are_a_status(requests: list[tuple[str, str, bytes]]) -> None:
    async with served() as api:
        for method, content_type, body in requests:
            path = SERVICES if method == "POST" else f"{SERVICES}/redis"
            await judged(api, method, path, body, content_type or "application/json")
        await all_is_well(api)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@FEW
@given(st.lists(st.dictionaries(st.sampled_from([
    "limit", "continue", "labelSelector", "fieldSelector", "resourceVersion", "resourceVersionMatch", "timeoutSeconds",
    "includeObject", "fieldValidation", "dryRun", "pretty",
]), WORDS | st.sampled_from(["-1", "1e9", "a in (", "!", "a=b,,c", "metadata.name==", "(((((((", "0",
                               "18446744073709551616"])),
    max_size=6), st.sampled_from([SERVICES, "/api/v1/pods", "/api/v1/nodes", "/api/v1/endpoints"]) | WORDS)  # fmt: skip
async def test_any_query_and_path_is_an_answer(queries: list[dict[str, str]], path: str) -> None:
    async with served() as api:
        for query in queries:
            async with api.request("GET", path if path.startswith("/") else f"/{path}", params=query) as response:
                assert response.status < 500, await response.text()


BOMBS = {
    "depth": b"[" * 1_000_000,
    "depth of a document": b'{"metadata":' * 100_000 + b"1" + b"}" * 100_000,
    "one key many times": b"{" + b",".join([b'"spec":{"ports":[{"port":1}]}'] * 50_000) + b"}",
    "many unknown fields": json.dumps({"spec": {f"f{n}": 1 for n in range(100_000)}}).encode(),
    "many ports": json.dumps({**service(), "spec": {"ports": [{"port": 80}] * 50_000}}).encode(),
    "a long text": json.dumps({**service(), "metadata": {"name": "x", "annotations": {"a": "x" * MAX_BYTES}}}).encode(),
    "a large number": b'{"spec":{"ports":[{"port":' + b"9" * 100_000 + b"}]}}",
    "more than is taken": b" " * (MAX_BODY + 1),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_much_out_of_little_is_refused_at_once(name: str) -> None:
    async with served() as api:
        async with asyncio.timeout(60):
            assert 400 <= await judged(api, "POST", SERVICES, BOMBS[name]) < 500
        await all_is_well(api)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


DEEP = {
    "annotations": b'{"metadata":{"annotations":%s}}',
    "what nobody knows": b'{"metadata":{"x":%s}}',
    "owners": b'{"metadata":{"managedFields":[{"manager":"m","operation":"Update","fieldsV1":%s}]}}',
}


@pytest.mark.parametrize("where", DEEP)
@pytest.mark.parametrize("depth", [40, 150, 330, 480, 900])
async def test_depth_that_the_parser_takes_is_refused_or_left_out(where: str, depth: int) -> None:
    async with served() as api:
        assert await judged(api, "POST", SERVICES, service()) == 201
        body = DEEP[where] % nested(depth)
        whole = json.dumps({**service("x"), "metadata": {"name": "x"}}).encode()
        await judged(api, "POST", SERVICES, body.replace(b'"metadata":{', b'"metadata":{"name":"x",', 1))
        await judged(api, "PUT", f"{SERVICES}/redis", whole[:1] + body[1:-1] + b"," + whole[1:])
        for kind in (MERGE, STRATEGIC):
            await judged(api, "PATCH", f"{SERVICES}/redis", body, kind)
        await judged(api, "PATCH", f"{SERVICES}/redis?fieldManager=m&force=1", body, APPLY)
        added = b'[{"op":"add","path":"/metadata","value":%s}]' % nested(depth)
        await judged(api, "PATCH", f"{SERVICES}/redis", added, JSON)
        await all_is_well(api)


LONE = b'{"kind":"Service","metadata":{"name":"x","annotations":{"a":"\\ud800"}},"spec":{"ports":[{"port":1}]}}'


async def test_half_a_character_is_refused() -> None:
    async with served() as api:
        assert await judged(api, "POST", SERVICES, LONE) == 400
        assert await judged(api, "POST", SERVICES, LONE.replace(b"\\ud800", b"x")) == 201
        assert await judged(api, "PATCH", f"{SERVICES}/x", LONE, MERGE) == 400
        assert await judged(api, "PATCH", f"{SERVICES}/x?fieldManager=m", LONE, APPLY) == 400
        await all_is_well(api)


# --- connections ----------------------------------------------------------------------------------------------------


@dataclass
class Listening:
    """An API on a port of its own, over TLS."""

    port: int
    identity: Identity

    @contextmanager
    def connected(self) -> Iterator[ssl.SSLSocket]:
        context = ssl.create_default_context(cadata=self.identity.certificates.authority.decode())
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as found,
        ):
            yield found

    def said(self, request: bytes) -> bytes:
        """What comes back until the connection ends."""
        with self.connected() as connection:
            with contextlib.suppress(ConnectionError, ssl.SSLEOFError):  # ended before all of it was read
                connection.sendall(request)
            return self.rest(connection)

    def rest(self, connection: ssl.SSLSocket) -> bytes:
        found = b""
        try:
            while piece := connection.recv(65536):
                found += piece
        except (ConnectionError, ssl.SSLEOFError):
            pass
        return found

    async def is_there(self) -> None:
        answer = await asyncio.to_thread(
            self.said, b"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer w\r\nConnection: close\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 200")


@asynccontextmanager
async def listening() -> AsyncIterator[Listening]:
    identity = Identity.new()
    async with serving(Api(Storage(MemoryStore(), Keys()), Tokens("w", "r")), 0, identity.tls()) as port:
        yield Listening(port, identity)


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nAuthoriz"])
async def test_who_does_not_finish_a_request_is_left(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """With or without a token: nobody knows yet."""
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.3)
    async with listening() as api, asyncio.timeout(60):
        assert await asyncio.to_thread(api.said, begun) == b""
        await api.is_there()


async def test_who_goes_on_slowly_is_left_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.5)

    def drip(api: Listening) -> int:
        sent = 0
        with api.connected() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n")
            connection.settimeout(0.1)
            while True:
                try:
                    connection.sendall(b"X-%d: y\r\n" % sent)
                    sent += 1
                    if not connection.recv(1):
                        return sent
                except TimeoutError:
                    continue
                except OSError:
                    return sent

    async with listening() as api, asyncio.timeout(60):
        await asyncio.to_thread(drip, api)
        await api.is_there()


async def test_a_body_without_a_token_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as api, asyncio.timeout(60):

        def answer() -> bytes:
            with api.connected() as connection:
                connection.sendall(b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
                return connection.recv(4096)

        assert (await asyncio.to_thread(answer)).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("request_", [
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
    b"\x00" * 1000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
])  # fmt: skip
async def test_what_is_no_request_ends_the_connection(request_: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as api, asyncio.timeout(60):
        answer = await asyncio.to_thread(api.said, request_)
        assert re.match(rb"HTTP/1\.[01] 40[01]|$", answer), answer
        await api.is_there()
    assert caplog.records == [], "who is nobody fills no log"


async def test_connections_are_bounded_and_those_that_are_there_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 5)

    def fill(api: Listening) -> list[bytes]:
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer w\r\n\r\n"
        with api.connected() as one, api.connected(), api.connected(), api.connected(), api.connected():
            one.sendall(request)
            first = one.recv(4096)
            with ThreadPoolExecutor(1) as alone:  # OpenSSL keeps a thread's last error, and its next call may find it
                try:
                    beyond = alone.submit(api.said, request).result()
                except OSError:
                    beyond = b""
            one.sendall(request)
            return [first, beyond, one.recv(4096)]

    async with listening() as api, asyncio.timeout(60):
        first, beyond, again = await asyncio.to_thread(fill, api)
        assert first.startswith(b"HTTP/1.1 200")
        assert beyond == b""
        assert again.startswith(b"HTTP/1.1 200")

        async def there() -> None:
            while True:
                try:
                    return await api.is_there()
                except (AssertionError, OSError):
                    await asyncio.sleep(0.05)

        await there()
