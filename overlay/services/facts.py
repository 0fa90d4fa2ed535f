"""What endpoints are computed from: of a Service and of a pod what decides, and nothing else. Pure.

A cluster may have 50,000 pods, and every node knows all of them: a document as a ``dict`` takes some ten times as much
as these.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from sys import intern
from typing import Any, TypeAlias

import msgspec

from overlay.services.objects.document import (
    Object,
    decode,
    labels_of,
    metadata_of,
    name_of,
    spec_of,
    status_of,
)

ServiceName: TypeAlias = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A port that one of a pod's containers has; the name may be empty."""

    name: str
    number: int
    protocol: str


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod.

    Attributes:
        key: its key in etcd.
        addresses: IPv4 first; none where it cannot be reached.
        serving: its condition Ready.
        terminating: it is being deleted.
        ended: all of its containers have ended for good.
        hostname, subdomain: as its ``spec`` has them; empty for none.
    """

    key: str
    namespace: str
    name: str
    uid: str
    node: str
    labels: dict[str, str]
    addresses: tuple[str, ...]
    ports: tuple[ContainerPort, ...]
    serving: bool
    terminating: bool
    ended: bool
    hostname: str
    subdomain: str

    @property
    def full_name(self) -> ServiceName:
        return self.namespace, self.name


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A Service's port; ``target`` is a number, or the name of a container's port."""

    name: str
    port: int
    protocol: str
    target: int | str
    app_protocol: str


@dataclass(frozen=True, slots=True)
class Service:
    """A Service with what its endpoints depend on.

    Attributes:
        selector: empty where its endpoints are somebody else's affair.
        families: ``IPv4`` and ``IPv6``, the first one first.
        publish_not_ready: ``spec.publishNotReadyAddresses``.
    """

    namespace: str
    name: str
    uid: str
    labels: dict[str, str]
    selector: dict[str, str]
    ports: tuple[ServicePort, ...]
    headless: bool
    families: tuple[str, ...]
    publish_not_ready: bool

    @property
    def full_name(self) -> ServiceName:
        return self.namespace, self.name

    def selects(self, labels: dict[str, str]) -> bool:
        """Whether pods with these labels are its endpoints, in its namespace."""
        return bool(self.selector) and self.selector.items() <= labels.items()


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
        addresses=tuple(filter(_is_address, listed)),
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
    )


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
    return tuple(filter(_is_address, listed or [_text(status.get("podIP"))]))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


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
