"""What URLs and queries mean."""

# ruff: noqa: E501  (one row a line)

from __future__ import annotations

import pytest

from overlay.api.paths import Query, Target, parse, parse_query
from overlay.services.objects.kinds import ENDPOINT_SLICE, NAMESPACE, NODE, SERVICE
from overlay.services.objects.status import StatusError

_V1BETA1 = "discovery.k8s.io/v1beta1"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/api/v1/services", Target(SERVICE)),
        ("/api/v1/namespaces/default/services", Target(SERVICE, "default")),
        ("/api/v1/namespaces/default/services/redis", Target(SERVICE, "default", "redis")),
        ("/api/v1/namespaces/default/services/redis/status", Target(SERVICE, "default", "redis", "status")),
        ("/api/v1/namespaces", Target(NAMESPACE)),
        ("/api/v1/namespaces/default", Target(NAMESPACE, "", "default")),
        ("/api/v1/namespaces/default/status", Target(NAMESPACE, "", "default", "status")),
        ("/api/v1/nodes/n1", Target(NODE, "", "n1")),
        ("/api/v1/watch/services", Target(SERVICE, watch=True)),
        ("/api/v1/watch/namespaces/default/services/a", Target(SERVICE, "default", "a", watch=True)),
        ("/apis/discovery.k8s.io/v1/endpointslices", Target(ENDPOINT_SLICE)),
        ("/apis/discovery.k8s.io/v1beta1/namespaces/a/endpointslices",
         Target(ENDPOINT_SLICE, "a", api_version=_V1BETA1)),
        ("/api/v1/namespaces/d%65fault/services", Target(SERVICE, "default")),
        *((path, None) for path in ("/", "/api", "/api/v1", "/apis", "/apis/discovery.k8s.io/v1", "/openapi/v2", "/x/y")),
    ],
)  # fmt: skip
def test_a_path(path: str, target: Target | None) -> None:
    assert parse(path) == target


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/secrets",
        "/api/v2/services",
        "/apis/apps/v1/deployments",
        "/apis/discovery.k8s.io/v1/services",
        "/apis/networking.k8s.io/v1/ingresses",  # nothing acts on them yet
        "/api/v1/services/redis",  # without a namespace
        "/api/v1/namespaces/default/nodes",
        "/api/v1/namespaces/default/services/redis/proxy",
        "/api/v1/namespaces/default/endpoints/redis/status",
        "/api/v1/namespaces/default/services/redis/status/x",
        "/api/v1/namespaces//services",
        "/api/v1/watch",
        "/api/v1/namespaces/a/pods/b/log",
    ],
)
def test_a_path_to_nothing(path: str) -> None:
    with pytest.raises(StatusError) as raised:
        parse(path)
    assert raised.value.code == 404
    assert raised.value.message == "the server could not find the requested resource"


def test_a_query() -> None:
    sent = {
        "labelSelector": "a=b", "fieldSelector": "c=d", "limit": "500", "continue": "x", "watch": "1", "dryRun": "All",
        "resourceVersion": "17", "timeoutSeconds": "5", "allowWatchBookmarks": "true", "fieldValidation": "Strict",
        "includeObject": "Object", "fieldManager": "kubectl", "pretty": "true",
    }  # fmt: skip
    assert parse_query(sent) == Query(
        labels="a=b", fields="c=d", limit=500, token="x", watch=True, version="17", timeout=5, bookmarks=True,
        dry_run=True, validation="Strict", include="Object", manager="kubectl",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("1", True),
        ("true", True),
        ("", True),
        ("yes", True),
        ("0", False),
        ("false", False),
        ("False", False),
        (None, False),
    ],
)
def test_a_flag_is_set_by_whatever_is_not_a_no(given: str | None, meant: bool) -> None:
    query = {} if given is None else {"watch": given, "allowWatchBookmarks": given, "sendInitialEvents": given}
    found = parse_query(query)
    assert (found.watch, found.bookmarks, found.initial_events) == (meant, meant, None if given is None else meant)


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "many"}, {"limit": "-1"}, {"limit": "9" * 30}, {"resourceVersion": "x"}, {"resourceVersion": "٣"},
        {"resourceVersion": "9" * 25}, {"dryRun": "Some"}, {"dryRun": ""}, {"fieldValidation": "Maybe"}, {"timeoutSeconds": "1.5"},
    ],
)  # fmt: skip
def test_a_query_that_means_nothing(query: dict[str, str]) -> None:
    with pytest.raises(StatusError) as raised:
        parse_query(query)
    assert raised.value.code == 400
