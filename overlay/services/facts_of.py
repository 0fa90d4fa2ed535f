"""What documents say of Services, pods and endpoints, as :mod:`facts <overlay.services.facts>`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from ipaddress import ip_network
from sys import intern
from typing import Any

import msgspec

from overlay.services.facts import (
    SCHEDULER,
    SERVICE_NAME,
    ContainerPort,
    Pod,
    Service,
    ServiceName,
    ServicePort,
    WrittenEndpoint,
    is_address,
    is_ipv4,
)
from overlay.services.objects.document import (
    Object,
    annotations_of,
    decode,
    labels_of,
    metadata_of,
    name_of,
    spec_of,
    status_of,
)

DEFAULT_AFFINITY_SECONDS = 10800
"""``sessionAffinityConfig.clientIP.timeoutSeconds`` (core/v1 types.go, ``DefaultClientIPServiceAffinitySeconds``)."""


def pod(key: str, value: bytes) -> Pod:
    """The facts of a v1 Pod in JSON. What is of another form than the API has counts as absent.

    Raises:
        ObjectFormatError: it is no object with a name.
    """
    try:
        known = msgspec.json.decode(value, type=_PodDocument)
    except msgspec.DecodeError:
        return _pod_of_another_form(key, decode(value, 0, key))
    metadata, spec, status = known.metadata, known.spec, known.status
    if not metadata.name:
        return _pod_of_another_form(key, decode(value, 0, key))
    listed = [each.ip for each in status.addresses] or [status.ip]
    ports = [port for container in spec.containers for port in container.ports if port.container_port is not None]
    return Pod(
        key=key,
        namespace=intern(metadata.namespace or "default"),
        name=metadata.name,
        uid=metadata.uid,
        node=intern(spec.node_name),
        labels={intern(name): intern(value) for name, value in metadata.labels.items()},
        addresses=tuple(filter(is_address, listed)),
        ports=tuple(_container_port(port.name, port.container_port or 0, port.protocol or "TCP") for port in ports),
        serving=any(each.type == "Ready" and each.status == "True" for each in status.conditions),
        terminating=bool(metadata.deletion_timestamp),
        ended=status.phase in ("Succeeded", "Failed"),
        hostname=spec.hostname,
        subdomain=spec.subdomain,
    )


@lru_cache(maxsize=4096)
def _container_port(name: str, number: int, protocol: str) -> ContainerPort:
    """One object for all pods that have it."""
    return ContainerPort(name, number, protocol)


def _pod_of_another_form(key: str, document: Object) -> Pod:
    metadata, spec, status = metadata_of(document), spec_of(document), status_of(document)
    return Pod(
        key=key,
        namespace=intern(_text(metadata_of(document).get("namespace")) or "default"),
        name=name_of(document),
        uid=_text(metadata.get("uid")),
        node=intern(_text(spec.get("nodeName"))),
        labels=_labels(document),
        addresses=_addresses(status),
        ports=tuple(_container_ports(spec)),
        serving=any(
            each.get("type") == "Ready" and each.get("status") == "True" for each in _mappings(status.get("conditions"))
        ),
        terminating=bool(metadata.get("deletionTimestamp")),
        ended=status.get("phase") in ("Succeeded", "Failed"),
        hostname=_text(spec.get("hostname")),
        subdomain=_text(spec.get("subdomain")),
    )


def service(document: Object) -> Service:
    """The facts of a v1 Service that was valid when it was written."""
    spec = spec_of(document)
    families = tuple(each for each in _list(spec.get("ipFamilies")) if each in ("IPv4", "IPv6"))
    selector = spec.get("selector")
    return Service(
        namespace=intern(_text(metadata_of(document).get("namespace")) or "default"),
        name=name_of(document),
        uid=_text(metadata_of(document).get("uid")),
        labels=_labels(document),
        selector=_strings(selector) if _text(spec.get("type")) != "ExternalName" else {},
        ports=tuple(_service_ports(spec)),
        headless=spec.get("clusterIP") == "None",
        families=families or ("IPv4",),
        publish_not_ready=spec.get("publishNotReadyAddresses") is True,
        type=intern(_text(spec.get("type")) or "ClusterIP"),
        created=_text(metadata_of(document).get("creationTimestamp")),
        cluster_ips=_addresses_in(spec.get("clusterIPs") or [spec.get("clusterIP")]),
        external_ips=_addresses_in(spec.get("externalIPs")),
        ingress_ips=_ingress_ips(document),
        source_ranges=tuple(text for each in _list(spec.get("loadBalancerSourceRanges")) if (text := _network(each))),
        affinity_seconds=_affinity_seconds(spec),
        internal_local=spec.get("internalTrafficPolicy") == "Local",
        external_local=spec.get("externalTrafficPolicy") == "Local",
        scheduler=_text(annotations_of(document).get(SCHEDULER)),
        external_name=_text(spec.get("externalName")),
    )


def endpoints_written(document: Object) -> tuple[WrittenEndpoint, ...]:
    """What a v1 Endpoints tells of the Service of its name."""
    return tuple(_of_subsets(document))


def slice_written(document: Object) -> tuple[ServiceName, tuple[WrittenEndpoint, ...]] | None:
    """Whose endpoints an EndpointSlice tells, and which; None for one that is of no Service.

    One of another family than IPv4, or of names (``FQDN``), tells none.
    """
    if not (service := _text(labels_of(document).get(SERVICE_NAME))):
        return None
    namespace = _text(metadata_of(document).get("namespace")) or "default"
    return (namespace, service), tuple(_of_slice(document)) if document.get("addressType") == "IPv4" else ()


def _of_subsets(document: Object) -> Iterator[WrittenEndpoint]:
    for subset in _mappings(document.get("subsets")):
        ports = _written_ports(subset)
        for field, ready in (("addresses", True), ("notReadyAddresses", False)):
            for each in _mappings(subset.get(field)):
                if is_ipv4(address := _text(each.get("ip"))):
                    node, hostname = _text(each.get("nodeName")), _text(each.get("hostname"))
                    yield WrittenEndpoint(address, node, ports, ready, ready, False, hostname)


def _of_slice(document: Object) -> Iterator[WrittenEndpoint]:
    ports = _written_ports(document)
    for each in _mappings(document.get("endpoints")):
        conditions = each.get("conditions")
        said = conditions if isinstance(conditions, dict) else {}
        ready = said.get("ready") is not False  # nothing said: it is (discovery/v1 types.go)
        serving = said.get("serving", ready) is not False
        node, terminating = _text(each.get("nodeName")), said.get("terminating") is True
        for address in filter(is_ipv4, map(_text, _list(each.get("addresses"))[:1])):
            yield WrittenEndpoint(address, node, ports, ready, serving, terminating, _text(each.get("hostname")))


def _written_ports(parent: dict[str, Any]) -> tuple[ContainerPort, ...]:
    return tuple(
        _container_port(_text(port.get("name")), number, _text(port.get("protocol")) or "TCP")
        for port in _mappings(parent.get("ports"))
        if isinstance(number := port.get("port"), int) and 0 < number < 65536
    )


def _addresses_in(value: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(is_address, map(_text, _list(value)))))


def _ingress_ips(document: Object) -> tuple[str, ...]:
    balancer = status_of(document).get("loadBalancer")
    ingress = _mappings(balancer.get("ingress")) if isinstance(balancer, dict) else []
    return _addresses_in([each.get("ip") for each in ingress if each.get("ipMode") != "Proxy"])


def _affinity_seconds(spec: dict[str, Any]) -> int | None:
    if spec.get("sessionAffinity") != "ClientIP":
        return None
    found: Any = spec
    for field in ("sessionAffinityConfig", "clientIP", "timeoutSeconds"):
        found = found.get(field) if isinstance(found, dict) else None
    return found if isinstance(found, int) and 0 < found <= 86400 else DEFAULT_AFFINITY_SECONDS


def _network(value: Any) -> str:
    """A network as the kernel compares it, host bits zero; empty for what is none."""
    try:
        return str(ip_network(_text(value).strip(), strict=False))
    except ValueError:
        return ""


class _PodAddress(msgspec.Struct, gc=False):
    ip: str = ""


class _PodPort(msgspec.Struct, gc=False, rename="camel"):
    container_port: int | None = None
    name: str = ""
    protocol: str = "TCP"


class _PodContainer(msgspec.Struct):
    ports: list[_PodPort] = []


class _PodCondition(msgspec.Struct, gc=False):
    type: str = ""
    status: str = ""


class _PodMetadata(msgspec.Struct, rename="camel"):
    name: str
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    deletion_timestamp: str | None = None


class _PodSpec(msgspec.Struct, rename="camel"):
    node_name: str = ""
    hostname: str = ""
    subdomain: str = ""
    containers: list[_PodContainer] = []


class _PodStatus(msgspec.Struct):
    phase: str = ""
    ip: str = msgspec.field(name="podIP", default="")
    addresses: list[_PodAddress] = msgspec.field(name="podIPs", default_factory=list)
    conditions: list[_PodCondition] = []


class _PodDocument(msgspec.Struct):
    """As pods are written here, and as Kubernetes has them: decoded in a tenth of the time of a ``dict``."""

    metadata: _PodMetadata
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


def _addresses(status: dict[str, Any]) -> tuple[str, ...]:
    listed = [_text(each.get("ip")) for each in _mappings(status.get("podIPs"))]
    return tuple(filter(is_address, listed or [_text(status.get("podIP"))]))


def _container_ports(spec: dict[str, Any]) -> list[ContainerPort]:
    return [
        ContainerPort(intern(_text(port.get("name"))), number, intern(_text(port.get("protocol")) or "TCP"))
        for container in _mappings(spec.get("containers"))
        for port in _mappings(container.get("ports"))
        if isinstance(number := port.get("containerPort"), int)
    ]


def _service_ports(spec: dict[str, Any]) -> list[ServicePort]:
    found = []
    for port in _mappings(spec.get("ports")):
        if not isinstance(number := port.get("port"), int):
            continue
        target = port.get("targetPort") or number
        found.append(
            ServicePort(
                _text(port.get("name")),
                number,
                _text(port.get("protocol")) or "TCP",
                target if isinstance(target, int | str) else number,
                _text(port.get("appProtocol")),
                taken if isinstance(taken := port.get("nodePort"), int) and 0 < taken < 65536 else 0,
            )
        )
    return found


def _labels(document: Object) -> dict[str, str]:
    return _strings(labels_of(document))


def _strings(value: Any) -> dict[str, str]:
    """Interned: of 50,000 pods' labels most are the same."""
    mapping = value if isinstance(value, dict) else {}
    return {intern(key): intern(each) for key, each in mapping.items() if isinstance(each, str)}


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [each for each in _list(value) if isinstance(each, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
