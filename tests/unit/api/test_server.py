"""The API over HTTP, on a store in memory: codes, Status documents, headers."""

# ruff: noqa: E501  (one row a line)

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from overlay.api import server
from overlay.api.bodies import MAX_BODY
from overlay.services.objects.patches import APPLY, JSON, MERGE, STRATEGIC
from tests.unit.api.support import SERVICES, TABLE, Served, served
from tests.unit.services.support import service

REDIS = f"{SERVICES}/redis"


@pytest_asyncio.fixture
async def api() -> AsyncIterator[Served]:
    async with served() as found:
        yield found


async def test_a_service_from_its_making_to_its_end(api: Served) -> None:
    async with api.request("POST", SERVICES, service()) as response:
        assert response.status == 201
        created = await response.json()
    assert created["kind"] == "Service"
    assert await api.send("GET", REDIS) == created
    listed = await api.send("GET", "/api/v1/services")
    assert (listed["kind"], listed["items"]) == ("ServiceList", [created])
    patched = await api.send("PATCH", REDIS, {"metadata": {"labels": {"a": "b"}}}, headers={"Content-Type": MERGE})
    assert patched["metadata"]["labels"] == {"a": "b"}
    replaced = await api.send("PUT", REDIS, service())
    assert "labels" not in replaced["metadata"]
    assert replaced["spec"]["clusterIP"] == created["spec"]["clusterIP"]
    deleted = await api.send("DELETE", REDIS, {"propagationPolicy": "Background"})
    assert deleted["kind"] == "Service"  # not a Status: clients parse it
    assert (await api.send("GET", REDIS))["reason"] == "NotFound"


@pytest.mark.parametrize(
    ("method", "path", "document", "headers", "code", "reason", "told"),
    [
        ("GET", REDIS + "x", None, {}, 404, "NotFound", 'services "redisx" not found'),
        ("GET", "/api/v1/secrets", None, {}, 404, "NotFound", "could not find the requested resource"),
        ("GET", "/nowhere", None, {}, 404, "NotFound", "could not find the requested resource"),
        ("POST", SERVICES, service(), {}, 409, "AlreadyExists", 'services "redis" already exists'),
        ("POST", SERVICES, service("x", type="NodePrt"), {}, 422, "Invalid", 'Service "x" is invalid: spec.type: Unsupported'),
        ("POST", SERVICES, {"spec": []}, {}, 400, "BadRequest", "cannot unmarshal array"),
        ("POST", SERVICES + "?fieldValidation=Strict", service("x", slector={}), {}, 400, "BadRequest",
         'strict decoding error: unknown field "spec.slector"'),
        ("POST", SERVICES, {}, {"Content-Type": "text/plain"}, 415, "UnsupportedMediaType", "unknown format"),
        ("POST", "/api/v1/namespaces/nowhere/services", service(), {}, 404, "NotFound", 'namespaces "nowhere" not found'),
        ("POST", "/api/v1/namespaces/default/pods", {}, {}, 405, "MethodNotAllowed", "start and stop them with Docker"),
        ("DELETE", "/api/v1/namespaces/default/pods/x", None, {}, 405, "MethodNotAllowed", "with Docker on their node"),
        ("PATCH", "/api/v1/nodes/n1", {}, {"Content-Type": MERGE}, 405, "MethodNotAllowed", "view of this cluster's agents"),
        ("PUT", SERVICES, {}, {}, 405, "MethodNotAllowed", "PUT is not supported here"),
        ("DELETE", "/api/v1/services", None, {}, 405, "MethodNotAllowed", "deletecollection of services is for one namespace"),
        ("DELETE", "/apis/discovery.k8s.io/v1/endpointslices", None, {}, 405, "MethodNotAllowed", "for one namespace"),
        ("DELETE", "/api/v1/namespaces", None, {}, 405, "MethodNotAllowed", "deletecollection is not supported"),
        ("DELETE", REDIS + "/status", None, {}, 405, "MethodNotAllowed", "delete is not supported on services/status"),
        ("DELETE", "/api/v1/namespaces/default/status", None, {}, 405, "MethodNotAllowed", "namespaces/status"),
        ("DELETE", REDIS, {"dryRun": ["all"]}, {}, 422, "Invalid", 'DeleteOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: "all"'),
        ("DELETE", REDIS, {"dryRun": "All"}, {}, 400, "BadRequest", "Expected `array"),
        ("DELETE", REDIS, {"dryRun": 1}, {}, 400, "BadRequest", "the body of a DELETE is no DeleteOptions"),
        ("DELETE", REDIS, {"preconditions": ["x"]}, {}, 400, "BadRequest", "the body of a DELETE is no DeleteOptions"),
        ("DELETE", REDIS, [], {}, 400, "BadRequest", "the body of a DELETE is no DeleteOptions"),
        ("DELETE", SERVICES, {"dryRun": ["none"]}, {}, 422, "Invalid", "dryRun"),
        ("DELETE", REDIS + "?dryRun=", None, {}, 400, "BadRequest", "dryRun"),
        ("PUT", REDIS, {**service(), "metadata": {"name": "redis", "uid": "x"}}, {}, 409, "Conflict", "Precondition failed: UID in precondition: x"),
        ("POST", REDIS, {}, {}, 405, "MethodNotAllowed", "replaced by PUT"),
        ("PATCH", REDIS, {}, {"Content-Type": "application/apply-patch+cbor"}, 415, "UnsupportedMediaType", "unknown format"),
        ("PATCH", REDIS, {}, {"Content-Type": APPLY}, 422, "Invalid", 'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch'),
        ("PATCH", REDIS + "?fieldManager=a", {"metadata": {"managedFields": [{}]}}, {"Content-Type": APPLY}, 400, "BadRequest", "metadata.managedFields must be nil"),
        ("PATCH", REDIS + "?fieldManager=a", {"spec": {"ports": [{}]}}, {"Content-Type": APPLY}, 400, "BadRequest", 'has no "port"'),
        ("PATCH", REDIS + "?fieldManager=a", {"spec": {"selector": {"a": "b"}}}, {"Content-Type": APPLY}, 409, "Conflict", "Apply failed with 1 conflict: conflict with \"Python\" using v1: .spec.selector"),
        ("PATCH", REDIS + "?fieldManager=a&fieldValidation=Strict", {"spec": {"slector": {}}}, {"Content-Type": APPLY}, 400, "BadRequest", 'unknown field "spec.slector"'),
        ("PATCH", REDIS + "?force=true", {}, {"Content-Type": MERGE}, 422, "Invalid", "force: Forbidden: may not be specified for non-apply patch"),
        ("PATCH", REDIS + "x/status?fieldManager=a", {}, {"Content-Type": APPLY}, 404, "NotFound", "not found"),
        ("PATCH", REDIS + "?fieldManager=" + 129 * "a", {}, {"Content-Type": APPLY}, 422, "Invalid", "fieldManager: Too long: may not be more than 128 bytes"),
        ("PATCH", REDIS, {"metadata": {"name": "x"}}, {"Content-Type": MERGE}, 400, "BadRequest", "does not match the name on the URL"),
        ("PATCH", REDIS, [{"op": "test", "path": "/kind", "value": "x"}], {"Content-Type": JSON}, 422, "Invalid", "due to an error"),
        ("PATCH", REDIS, {"metadata": {"resourceVersion": "1"}}, {"Content-Type": MERGE}, 409, "Conflict", "has been modified"),
        ("PUT", REDIS, service("other"), {}, 400, "BadRequest", "does not match the name on the URL"),
        ("GET", SERVICES + "?resourceVersionMatch=Exact", None, {}, 400, "BadRequest", "Exact needs a resourceVersion"),
        ("GET", SERVICES + "?resourceVersionMatch=x", None, {}, 400, "BadRequest", "supported values: Exact, NotOlderThan"),
        ("GET", SERVICES + "?limit=x", None, {}, 400, "BadRequest", "limit"),
        ("GET", SERVICES + "?fieldSelector=a.b=c", None, {}, 400, "BadRequest", "field label not supported"),
        ("GET", SERVICES + "?labelSelector=a>b", None, {}, 400, "BadRequest", "unable to parse requirement"),
        ("GET", SERVICES + "?watch=1&resourceVersion=9999", None, {}, 410, "Expired", "too large resource version"),
        ("DELETE", "/api/v1/namespaces/default", None, {}, 403, "Forbidden", "may not be deleted"),
        ("GET", REDIS, None, {"Authorization": ""}, 401, "Unauthorized", "Unauthorized"),
        ("GET", "/version", None, {"Authorization": "Bearer x"}, 401, "Unauthorized", "Unauthorized"),
        ("POST", SERVICES, service("x"), {"Authorization": "Bearer r"}, 403, "Forbidden", "may only read"),
    ],
)  # fmt: skip
async def test_what_is_refused_is_a_status(
    api: Served, method: str, path: str, document: Any, headers: dict[str, str], code: int, reason: str, told: str
) -> None:
    await api.send("POST", SERVICES, service())
    async with api.request(method, path, document, headers=headers) as response:
        status = await response.json()
        assert response.status == status["code"] == code
    assert (status["kind"], status["status"], status["reason"]) == ("Status", "Failure", reason)
    assert told in status["message"]


async def test_every_wrong_field_is_a_cause(api: Served) -> None:
    status = await api.send("POST", SERVICES, service(type="NodePrt", sessionAffinity="Cookie"))
    assert [(cause["reason"], cause["field"]) for cause in status["details"]["causes"]] == [
        ("FieldValueNotSupported", "spec.type"),
        ("FieldValueNotSupported", "spec.sessionAffinity"),
    ]
    assert status["message"].startswith('Service "redis" is invalid: [spec.type: Unsupported value: "NodePrt"')


async def test_the_token_that_reads_reads(api: Served) -> None:
    await api.send("POST", SERVICES, service())
    assert (await api.send("GET", REDIS, headers={"Authorization": "Bearer r"}))["kind"] == "Service"


@pytest.mark.parametrize(("validation", "warned"), [("", True), ("Warn", True), ("Ignore", False)])
async def test_unknown_fields_are_warned_of_and_not_stored(api: Served, validation: str, warned: bool) -> None:
    path = SERVICES + (f"?fieldValidation={validation}" if validation else "")
    async with api.request("POST", path, service(slector={"a": "b"})) as response:
        assert response.status == 201
        warnings = response.headers.getall("Warning", [])
    assert warnings == (['299 - "unknown field \\"spec.slector\\""'] if warned else [])
    assert "slector" not in (await api.send("GET", REDIS))["spec"]


TWICE = b"""{"metadata": {"name": "redis", "labels": {"a": "1", "a": "2"}}, "kind": "Service", "kind": "Service",
            "spec": {"ports": [{"name": "w", "port": 1}, {"name": "x", "port": 80, "port": 81}], "huge": 1}}"""
ONE_PORT = b'{"metadata":{"labels":{"a":"1","a":"2"}},"spec":{"ports":[{"port":6379,"name":"a","name":"b"}]}}'
IN_YAML = b"metadata:\n  labels: {a: x, a: '2'}\nspec:\n  ports:\n  - port: 6379\n    name: a\n    name: b\n"
TOLD = ['duplicate field "metadata.labels.a"', 'duplicate field "spec.ports[0].name"']


@pytest.mark.parametrize(
    ("method", "content_type", "body", "told"),
    [
        ("POST", "application/json", TWICE, [
            'duplicate field "kind"', 'duplicate field "metadata.labels.a"', 'duplicate field "spec.ports[1].port"',
            'unknown field "spec.huge"',
        ]),
        ("PUT", "application/json", ONE_PORT, TOLD),
        ("PUT", "application/yaml", IN_YAML, TOLD),
        ("PUT", "application/yaml", b"{metadata: {labels: {a: x, a: y}}, spec: {ports: [{port: 6379}]}}", TOLD[:1]),
        ("PATCH", MERGE, ONE_PORT, TOLD),
        ("PATCH", STRATEGIC, ONE_PORT, TOLD),
        ("PATCH", APPLY, ONE_PORT, TOLD),
        ("PATCH", APPLY, IN_YAML, TOLD),
        ("PATCH", JSON, b'[{"op":"add","path":"/metadata/labels","value":{"a":"1"},"value":{"a":"2"}}]',
         ['duplicate field "[0].value"']),
    ],
)  # fmt: skip
async def test_fields_that_are_there_twice_are_told_as_asked(
    api: Served, method: str, content_type: str, body: bytes, told: list[str]
) -> None:
    """In Kubernetes' words (sigs.k8s.io/json); the last one counts."""
    path = SERVICES if method == "POST" else REDIS
    headers = {"Authorization": "Bearer w", "Content-Type": content_type}
    if method != "POST":
        await api.send("POST", SERVICES, service())
    send = partial(api.client.request, method, path, data=body, headers=headers)
    query = {"fieldManager": "a", "force": "true"} if content_type == APPLY else {}
    async with send(params={**query, "fieldValidation": "Strict"}) as response:
        assert response.status == 400
        assert f"strict decoding error: {', '.join(told)}" in (await response.json())["message"]
    async with send(params={**query, "fieldValidation": "Ignore"}) as response:
        assert "Warning" not in response.headers
    await api.send("DELETE", REDIS)
    if method != "POST":
        await api.send("POST", SERVICES, service())
    async with send(params=query) as response:
        quoted = [each.replace('"', '\\"') for each in told]
        assert response.headers.getall("Warning") == [f'299 - "{each}"' for each in quoted]


METADATA = "application/json;as=PartialObjectMetadata%s;g=meta.k8s.io;v=v1,application/json"


async def test_metadata_alone(api: Served) -> None:
    """As client-go's metadata client asks, which takes nothing else."""
    made = await api.send("POST", SERVICES, service())
    alone = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": made["metadata"]}
    one, many = {"Accept": METADATA % ""}, {"Accept": METADATA % "List"}
    assert await api.send("GET", REDIS, headers=one) == alone
    listed = await api.send("GET", SERVICES, headers=many)
    assert (listed["kind"], listed["items"]) == ("PartialObjectMetadataList", [alone])
    changed = await api.send(
        "PATCH", REDIS, {"metadata": {"labels": {"a": "b"}}}, headers={**one, "Content-Type": MERGE}
    )
    assert changed.keys() == alone.keys()
    assert (await api.send("GET", REDIS + "x", headers=one))["kind"] == "Status"
    query = {"watch": "1", "timeoutSeconds": "1", "sendInitialEvents": "1", "allowWatchBookmarks": "1",
             "resourceVersionMatch": "NotOlderThan"}  # fmt: skip
    async with api.request("GET", SERVICES, params=query, headers=one) as response:
        events = [json.loads(line) for line in (await response.text()).splitlines()]
    assert [(each["type"], each["object"]["kind"]) for each in events] == [
        ("ADDED", "PartialObjectMetadata"), ("BOOKMARK", "PartialObjectMetadata"),
    ]  # fmt: skip
    assert events[0]["object"] == changed
    assert events[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_a_list_as_it_was(api: Served) -> None:
    first = await api.send("POST", SERVICES, service("a"))
    await api.send("POST", SERVICES, service("b"))
    await api.send("DELETE", f"{SERVICES}/a")
    then = {"resourceVersion": first["metadata"]["resourceVersion"], "resourceVersionMatch": "Exact"}
    listed = await api.send("GET", SERVICES, params=then)
    assert [each["metadata"]["name"] for each in listed["items"]] == ["a"]
    assert listed["metadata"]["resourceVersion"] == then["resourceVersion"]
    endpoints = await api.send("GET", "/api/v1/endpoints", params=then)
    assert [each["metadata"]["name"] for each in endpoints["items"]] == ["a"]
    after = await api.send("GET", SERVICES, params={**then, "resourceVersionMatch": "NotOlderThan"})
    assert [each["metadata"]["name"] for each in after["items"]] == ["b"]
    assert (await api.send("GET", SERVICES, params={**then, "resourceVersion": "9999"}))["code"] == 410


async def test_a_watch_of_what_is_to_come_alone(api: Served) -> None:
    await api.send("POST", SERVICES, service("a"))
    async with api.watch(SERVICES, sendInitialEvents="false", resourceVersionMatch="NotOlderThan") as events:
        await api.send("POST", SERVICES, service("b"))
        assert await events.names(1) == [("ADDED", "b")]


async def test_a_body_that_is_not_what_it_says(api: Served) -> None:
    zipped = gzip.compress(json.dumps(service()).encode())
    headers = {"Authorization": "Bearer w", "Content-Type": "application/json", "Content-Encoding": "gzip",
               "Connection": "close"}  # fmt: skip
    for body, code in (
        (b"garbage", 400),
        (zipped[:-9], 400),
        (gzip.compress(b" " * (MAX_BODY + 1)), 413),
        (zipped, 201),
    ):
        async with api.client.post(SERVICES, data=body, headers=headers) as response:
            assert response.status == code, await response.text()
            assert (await response.json())["kind"] == ("Service" if code == 201 else "Status")


async def test_health_is_told_to_who_wants_no_body(api: Served) -> None:
    for path in ("/healthz", "/livez", "/readyz", "/version"):
        async with api.request("HEAD", path, headers={"Authorization": "Bearer r"}) as response:
            assert (response.status, await response.read()) == (200, b"")


async def test_a_table(api: Served) -> None:
    await api.send("POST", SERVICES, service())
    for path in (SERVICES, REDIS):
        table = await api.send("GET", path, headers={"Accept": TABLE})
        assert table["kind"] == "Table"
        assert table["rows"][0]["cells"][0] == "redis"
        assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert (await api.send("GET", REDIS + "x", headers={"Accept": TABLE}))["kind"] == "Status"


async def test_slices_answer_in_the_old_version_to_whoever_asks_for_it(api: Served) -> None:
    document = {"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": []}
    await api.send("POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", document)
    listed = await api.send("GET", "/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices")
    assert listed["apiVersion"] == listed["items"][0]["apiVersion"] == "discovery.k8s.io/v1beta1"
    assert "v1beta1" not in str(await api.send("GET", "/apis"))


async def test_a_collection_is_deleted_as_selected(api: Served) -> None:
    for name, label in (("a", "x"), ("b", "y"), ("c", "x")):
        await api.send("POST", SERVICES, {**service(name), "metadata": {"name": name, "labels": {"l": label}}})
    await api.send("DELETE", SERVICES + "?labelSelector=l=x&dryRun=All")
    assert len((await api.send("GET", SERVICES))["items"]) == 3
    await api.send("DELETE", SERVICES + "?labelSelector=l=x")
    assert [each["metadata"]["name"] for each in (await api.send("GET", SERVICES))["items"]] == ["b"]


async def test_a_status_is_changed_at_its_own_path(api: Served) -> None:
    await api.send("POST", SERVICES, service())
    status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    changed = await api.send("PATCH", REDIS, {"status": status}, headers={"Content-Type": STRATEGIC})
    assert changed["status"] == {"loadBalancer": {}}
    path = f"{REDIS}/status"
    changed = await api.send("PATCH", path, {"status": status}, headers={"Content-Type": STRATEGIC})
    assert changed["status"] == status
    assert (await api.send("GET", path))["status"] == status


@pytest.mark.parametrize(
    ("path", "told_of", "told"),
    [
        (REDIS, {"loadBalancer": {"ingress": [{"ip": "192.0.2"}]}}, "status.loadBalancer.ingress[0].ip: Invalid value"),
        (REDIS, {"loadBalancer": {"ingress": [{"hostname": "192.0.2.1"}]}}, "must be a DNS name, not an IP address"),
        (REDIS, {"loadBalancer": {"ingress": [{"hostname": "A_"}]}}, "status.loadBalancer.ingress[0].hostname"),
        (REDIS, {"loadBalancer": {"ingress": [{"ipMode": "VIP"}]}}, "may not be specified when `ip` is not set"),
        (
            REDIS,
            {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "x"}]}},
            'supported values: "Proxy", "VIP"',
        ),
        ("/api/v1/namespaces/default", {"phase": "Terminating"}, "may only be 'Active' until the namespace is deleted"),
    ],
)
async def test_a_status_has_rules_too(api: Served, path: str, told_of: dict[str, Any], told: str) -> None:
    await api.send("POST", SERVICES, service())
    before = await api.send("GET", path)
    refused = await api.send("PATCH", f"{path}/status", {"status": told_of}, headers={"Content-Type": MERGE})
    assert refused["code"] == 422
    assert told in refused["message"]
    assert await api.send("GET", path) == before


async def test_a_body_that_is_too_large(api: Served) -> None:
    async with api.request("POST", SERVICES, "x" * (MAX_BODY + 1)) as response:
        assert response.status == 413
        assert (await response.json())["reason"] == "RequestEntityTooLarge"


async def test_a_body_that_does_not_come(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.1)

    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    async with api.request("POST", SERVICES, data=slowly(), headers={"Content-Type": "application/json"}) as response:
        assert response.status == 408


async def test_etcd_away_is_told_and_over(api: Served) -> None:
    await api.send("POST", SERVICES, service())
    api.store.available = False
    async with api.request("GET", REDIS) as response:
        assert response.status == 503
        assert "Retry-After" not in response.headers, "kubectl would try for ten seconds, and not say why"
        assert "no endpoint answered" in (await response.json())["message"]
    status = await api.send("DELETE", REDIS)
    assert status["code"] == 504
    assert "may or may not have been made" in status["message"]
    async with api.request("GET", "/readyz") as response:
        assert response.status == 503
    async with api.request("GET", "/healthz") as response:
        assert await response.text() == "ok"
    api.store.available = True
    assert (await api.send("GET", REDIS))["kind"] == "Service"


async def test_discovery(api: Served) -> None:
    assert (await api.send("GET", "/version"))["major"] == "1"
    assert (await api.send("GET", "/api"))["versions"] == ["v1"]
    assert [each["name"] for each in (await api.send("GET", "/apis"))["groups"]] == ["discovery.k8s.io"]
    resources = (await api.send("GET", "/api/v1"))["resources"]
    names = [each["name"] for each in resources]
    assert names.index("pods") < names.index("services")  # as `get all` prints
    assert all(each["singularName"] for each in resources if "/" not in each["name"])
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    async with api.request("GET", "/apis", headers={"Accept": accept}) as response:
        assert "as=APIGroupDiscoveryList" in response.headers["Content-Type"]
        assert (await response.json())["items"][0]["metadata"] == {"name": "discovery.k8s.io"}


async def test_openapi(api: Served) -> None:
    async with api.request(
        "GET", "/openapi/v2", headers={"Accept": "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"}
    ) as response:
        assert response.headers["Content-Type"] == "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
        assert b"io.k8s.api.core.v1.Service" in await response.read()
    index = (await api.send("GET", "/openapi/v3"))["paths"]
    assert sorted(index) == ["api/v1", "apis/discovery.k8s.io/v1"]
    for entry in index.values():
        document = await api.send("GET", entry["serverRelativeURL"])
        schemas = document["components"]["schemas"]
        references = set(_references(document))
        assert references
        assert references <= {f"#/components/schemas/{name}" for name in schemas}


def _references(document: Any) -> list[str]:
    if isinstance(document, list):
        return [each for item in document for each in _references(item)]
    if not isinstance(document, dict):
        return []
    own = [document["$ref"]] if isinstance(document.get("$ref"), str) else []
    return own + [each for item in document.values() for each in _references(item)]


def managers(obj: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Who owns something of an object: name, operation, subresource."""
    entries = obj["metadata"].get("managedFields", [])
    return [(each["manager"], each["operation"], each.get("subresource", "")) for each in entries]


async def applying(api: Served, document: Any, query: str = "?fieldManager=a", path: str = REDIS) -> Any:
    return await api.send("PATCH", path + query, document, headers={"Content-Type": APPLY})


async def test_applying_makes_changes_and_removes(api: Served) -> None:
    async with api.request("PATCH", REDIS + "?fieldManager=a", service(), headers={"Content-Type": APPLY}) as response:
        assert response.status == 201
        made = await response.json()
    assert managers(made) == [("a", "Apply", "")]
    assert made["spec"]["clusterIP"]
    assert "clusterIP" not in str(made["metadata"]["managedFields"])  # given by us, and nobody's
    assert await applying(api, service()) == made
    changed = await applying(api, service(ports=[{"port": 1}], selector=None))
    assert "selector" not in changed["spec"]
    assert [port["port"] for port in changed["spec"]["ports"]] == [1]
    assert changed["spec"]["clusterIP"] == made["spec"]["clusterIP"]
    dry = await applying(api, {"spec": {"selector": {"a": "b"}}}, "?fieldManager=b&dryRun=All&force=true")
    assert managers(dry) == [("a", "Apply", ""), ("b", "Apply", "")]
    assert await api.send("GET", REDIS) == changed


async def test_every_writer_owns_what_it_changed(api: Served) -> None:
    await api.send("POST", SERVICES + "?fieldManager=maker", service())
    await api.send(
        "PATCH",
        REDIS,
        {"metadata": {"labels": {"a": "b"}}},
        headers={"Content-Type": MERGE, "User-Agent": "cli/1.0 (x)"},
    )
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
    await api.send("PATCH", REDIS + "/status?fieldManager=lb", status, headers={"Content-Type": MERGE})
    found = await api.send("GET", REDIS)
    assert sorted(managers(found)) == [("cli", "Update", ""), ("lb", "Update", "status"), ("maker", "Update", "")]
    entry = next(each for each in found["metadata"]["managedFields"] if each["manager"] == "cli")
    assert entry["fieldsV1"] == {"f:metadata": {"f:labels": {".": {}, "f:a": {}}}}
    replaced = await api.send("PUT", REDIS + "?fieldManager=maker", service())
    assert sorted(managers(replaced)) == [("lb", "Update", "status"), ("maker", "Update", "")]


async def test_applying_a_status_owns_that(api: Served) -> None:
    await api.send("POST", SERVICES, service(type="LoadBalancer"))
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}, "spec": {"type": "NodePort"}}
    found = await applying(api, status, path=f"{REDIS}/status")
    assert found["spec"]["type"] == "LoadBalancer"
    assert found["status"] == status["status"]
    assert managers(found)[0] == ("a", "Apply", "status")
