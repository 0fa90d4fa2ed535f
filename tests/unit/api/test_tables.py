"""What kubectl get prints."""

# ruff: noqa: E501  (one row a line)

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from overlay.api import tables
from overlay.services.objects.document import Object
from overlay.services.objects.kinds import ENDPOINT_SLICE, ENDPOINTS, EVENT, KINDS, NODE, POD, SERVICE, Kind

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [  # apimachinery: pkg/util/duration/duration_test.go
        (-2, "<invalid>"), (-1, "0s"), (0, "0s"), (1, "1s"), (70, "70s"), (119, "119s"), (120, "2m"), (190, "3m10s"),
        (599, "9m59s"), (600, "10m"), (70 * 60, "70m"), (179 * 60, "179m"), (180 * 60, "3h"), (4 * 3600 + 300, "4h5m"),
        (8 * 3600, "8h"), (47 * 3600, "47h"), (48 * 3600, "2d"), (49 * 3600, "2d1h"), (8 * 86400, "8d"),
        (729 * 86400, "729d"), (730 * 86400, "2y"), (770 * 86400, "2y40d"), (8 * 365 * 86400 + 86400, "8y"),
    ],
)  # fmt: skip
def test_a_duration(seconds: int, shown: str) -> None:
    assert tables.duration(seconds) == shown


def row(kind: Kind, obj: Object) -> dict[str, Any]:
    obj.setdefault("metadata", {"name": "x", "creationTimestamp": "2026-03-01T11:59:00Z"})
    table = tables.table(kind, [obj], NOW, metadata={})
    titles = [column["name"] for column in table["columnDefinitions"]]
    return dict(zip(titles, table["rows"][0]["cells"], strict=True))


@pytest.mark.parametrize(
    ("spec", "column", "shown"),
    [
        ({"type": "ClusterIP", "clusterIP": "10.96.0.1"}, "Cluster-IP", "10.96.0.1"),
        ({"type": "ClusterIP", "clusterIP": "None"}, "Cluster-IP", "None"),
        ({"type": "ExternalName", "externalName": "a.b"}, "Cluster-IP", "<none>"),
        ({"type": "ExternalName", "externalName": "a.b"}, "External-IP", "a.b"),
        ({"type": "ClusterIP"}, "External-IP", "<none>"),
        ({"type": "ClusterIP", "externalIPs": ["1.2.3.4", "1.2.3.5"]}, "External-IP", "1.2.3.4,1.2.3.5"),
        ({"type": "LoadBalancer"}, "External-IP", "<pending>"),
        ({"ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]},
         "Port(s)", "80:30080/TCP,53/UDP"),
        ({}, "Port(s)", "<none>"),
        ({"selector": {"b": "2", "a": "1"}}, "Selector", "a=1,b=2"),
        ({}, "Selector", "<none>"),
        ({}, "Age", "60s"),
    ],
)  # fmt: skip
def test_a_service(spec: dict[str, Any], column: str, shown: str) -> None:
    assert row(SERVICE, {"spec": spec})[column] == shown


def _addresses(count: int) -> list[dict[str, str]]:
    return [{"ip": f"10.0.0.{number}"} for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("kind", "obj", "column", "shown"),
    [
        (ENDPOINTS, {}, "Endpoints", "<none>"),
        (ENDPOINTS, {"subsets": [{"addresses": _addresses(2), "ports": [{"port": 80}]}]}, "Endpoints",
         "10.0.0.1:80,10.0.0.2:80"),
        (ENDPOINTS, {"subsets": [{"addresses": _addresses(5), "ports": [{"port": 80}]}]}, "Endpoints",
         "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more..."),
        (ENDPOINTS, {"subsets": [{"addresses": _addresses(1)}]}, "Endpoints", "10.0.0.1"),
        (ENDPOINT_SLICE, {"ports": [], "endpoints": []}, "Ports", "<unset>"),
        (ENDPOINT_SLICE, {"endpoints": [{"addresses": ["10.0.0.1"]}]}, "Endpoints", "10.0.0.1"),
        (POD, {"spec": {"containers": [{}, {}]}, "status": {"phase": "Running", "containerStatuses": [{"ready": True}]}},
         "Ready", "1/2"),
        (POD, {"status": {"phase": "Running"}}, "Status", "Running"),
        (POD, {"status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}},
         "Status", "ExitCode:3"),
        (POD, {"status": {"containerStatuses": [{"state": {"terminated": {"reason": "OOMKilled"}}}]}}, "Status", "OOMKilled"),
        (POD, {"status": {"containerStatuses": [{"state": {"waiting": {"reason": "Paused"}}}]}}, "Status", "Paused"),
        (POD, {"status": {"containerStatuses": [
            {"restartCount": 2, "lastState": {"terminated": {"finishedAt": "2026-03-01T11:55:00Z"}}}]}},
         "Restarts", "2 (5m ago)"),
        (POD, {"status": {}}, "Restarts", "0"),
        (POD, {"status": {"podIP": "10.0.0.9"}}, "IP", "10.0.0.9"),
        (NODE, {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, "Status", "Ready"),
        (NODE, {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, "Status", "NotReady"),
        (NODE, {"status": {}, "spec": {"unschedulable": True}}, "Status", "Unknown,SchedulingDisabled"),
        (NODE, {"status": {"addresses": [{"type": "InternalIP", "address": "172.31.0.1"}]}}, "Internal-IP", "172.31.0.1"),
        (EVENT, {"involvedObject": {"kind": "Service", "name": "a"}}, "Object", "service/a"),
        (EVENT, {"lastTimestamp": "2026-03-01T11:50:00Z"}, "Last Seen", "10m"),
    ],
)  # fmt: skip
def test_other_kinds(kind: Kind, obj: Object, column: str, shown: str) -> None:
    assert row(kind, obj)[column] == shown


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.resource)
def test_every_kind_has_columns_that_take_an_empty_object(kind: Kind) -> None:
    empty: Object = {"metadata": {"name": "x"}, "spec": None, "status": None}
    table = tables.table(kind, [empty], NOW + timedelta(days=1), metadata={"resourceVersion": "1"})
    assert len(table["columnDefinitions"]) == len(table["rows"][0]["cells"])
    assert all(isinstance(cell, str) for cell in table["rows"][0]["cells"])


@pytest.mark.parametrize(
    ("include", "kind"), [("None", None), ("Metadata", "PartialObjectMetadata"), ("Object", "Service")]
)
def test_what_goes_with_a_row(include: str, kind: str | None) -> None:
    obj = {"kind": "Service", "metadata": {"name": "x"}, "spec": {}}
    (found,) = tables.table(SERVICE, [obj], NOW, include=include, metadata={})["rows"]
    assert found.get("object", {}).get("kind") == kind
