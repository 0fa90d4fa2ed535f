"""From what is in etcd to what names see."""

from __future__ import annotations

import json
from typing import Any

from overlay.services.dns import entries
from overlay.services.dns.zone import Endpoint, Entry, Port
from overlay.services.keys import Keys
from overlay.services.mirror import ServicesMirror
from overlay.store.contract import KeyValue, Snapshot

KEYS = Keys()


def mirror_of(*documents: tuple[str, dict[str, Any]]) -> ServicesMirror:
    mirror = ServicesMirror(KEYS)
    items = [KeyValue(key, json.dumps(document).encode(), 1) for key, document in documents]
    mirror.load(Snapshot(1, tuple(items)), 0.0)
    assert mirror.malformed == {}
    return mirror


def service(name: str, namespace: str = "default", **spec: Any) -> tuple[str, dict[str, Any]]:
    metadata = {"name": name, "namespace": namespace, "uid": "u"}
    document = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    return KEYS.object("services", namespace, name), document


def pod(name: str, *addresses: str, ready: bool = True, namespace: str = "default", **spec: Any) -> Any:
    status = {
        "podIP": addresses[0],
        "podIPs": [{"ip": each} for each in addresses],
        "conditions": [{"type": "Ready", "status": str(ready)}],
    }
    metadata = {"name": name, "namespace": namespace, "labels": {"app": "web"}}
    return KEYS.pod("n1", name), {"kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


HTTP = {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}
AT_8080 = (Port("http", "tcp", 8080),)


def test_a_service_with_an_address() -> None:
    mirror = mirror_of(
        service("web", selector={"app": "web"}, clusterIPs=["10.96.0.1", "fd00::1"], ports=[HTTP]),
        pod("a", "10.0.5.2"), pod("b", "10.0.5.3", ready=False),
    )  # fmt: skip
    assert entries.entry(mirror, ("default", "web")) == Entry(
        "default", "web", ("10.96.0.1", "fd00::1"), ports=(Port("http", "tcp", 80),),
        endpoints=(Endpoint("10.0.5.2", "10-0-5-2", AT_8080),),
    )  # fmt: skip


def test_a_headless_one_with_host_names_and_both_families() -> None:
    mirror = mirror_of(
        service("web", selector={"app": "web"}, clusterIP="None", ipFamilies=["IPv4", "IPv6"], ports=[HTTP],
                publishNotReadyAddresses=True),
        pod("a", "10.0.5.2", "fd00::2", hostname="first", subdomain="web"), pod("b", "10.0.5.3", ready=False),
    )  # fmt: skip
    assert entries.entry(mirror, ("default", "web")) == Entry(
        "default", "web", headless=True, ports=(Port("http", "tcp", 80),),
        endpoints=(
            Endpoint("10.0.5.2", "first", AT_8080), Endpoint("10.0.5.3", "10-0-5-3", AT_8080),
            Endpoint("fd00::2", "first", AT_8080),
        ),
    )  # fmt: skip


def test_endpoints_that_were_written() -> None:
    subsets = [
        {
            "addresses": [{"ip": "192.0.2.1", "hostname": "db"}, {"ip": "192.0.2.2"}],
            "notReadyAddresses": [{"ip": "192.0.2.3"}],
            "ports": [{"name": "http", "port": 81}],
        }
    ]
    metadata = {"name": "web", "namespace": "default"}
    endpoints = {"kind": "Endpoints", "metadata": metadata, "subsets": subsets}
    mirror = mirror_of(
        service("web", clusterIP="None", ports=[HTTP]), (KEYS.object("endpoints", "default", "web"), endpoints)
    )  # fmt: skip
    found = entries.entry(mirror, ("default", "web"))
    assert found is not None
    port = (Port("http", "tcp", 81),)
    assert found.endpoints == (Endpoint("192.0.2.1", "db", port), Endpoint("192.0.2.2", "192-0-2-2", port))


def test_an_external_name_is_a_name_or_nothing() -> None:
    mirror = mirror_of(
        service("out", type="ExternalName", externalName="WWW.example.com."),
        service("bad", type="ExternalName", externalName="not a name"),
        service("none", type="ExternalName"),
    )
    assert entries.entry(mirror, ("default", "out")) == Entry("default", "out", external="WWW.example.com.")
    assert entries.entry(mirror, ("default", "bad")) is None
    assert entries.entry(mirror, ("default", "none")) is None
    assert entries.entry(mirror, ("default", "never")) is None


def test_namespaces_are_those_that_were_made_and_those_that_have_something() -> None:
    namespace = {"kind": "Namespace", "metadata": {"name": "empty"}}
    mirror = mirror_of(
        (KEYS.object("namespaces", "", "empty"), namespace),
        service("web", "shop"),
        pod("a", "10.0.5.2", namespace="jobs"),
    )
    assert entries.namespaces(mirror) == {"default", "empty", "shop", "jobs"}
    assert entries.pods(mirror) == {("jobs", "10.0.5.2")}
