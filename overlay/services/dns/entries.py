"""From the mirror to what names are made of: Services as their names see them, namespaces, pods' addresses. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from overlay.services.dns.names import dashed
from overlay.services.dns.zone import Endpoint, Entry, Port, ServiceName
from overlay.services.endpoints import Endpoint as Computed
from overlay.services.endpoints import endpoints_of
from overlay.services.facts import ContainerPort, Service, WrittenEndpoint
from overlay.services.keys import Keys
from overlay.services.mirror import ServicesMirror
from overlay.services.objects import names

MOST_ENDPOINTS = 1000
"""Of a Service that have names, the first by their addresses: v1 Endpoints have no more, and no answer has room for
them."""

DEFAULT_NAMESPACE = "default"


def entry(mirror: ServicesMirror, name: ServiceName) -> Entry | None:
    """A Service as its names see it; None where there is none, or it has none."""
    service = mirror.services.get(name)
    if service is None:
        return None
    if service.type == "ExternalName":
        if names.dns_subdomain(service.external_name.rstrip(".").lower()):
            return None
        return Entry(*name, external=service.external_name)
    return Entry(
        *name,
        addresses=() if service.headless else service.cluster_ips,
        headless=service.headless,
        ports=tuple(Port(each.name, each.protocol.lower(), each.port) for each in service.ports),
        endpoints=tuple(_endpoints(mirror, service))[:MOST_ENDPOINTS],
    )


def _endpoints(mirror: ServicesMirror, service: Service) -> Iterable[Endpoint]:
    if not service.selector:
        yield from (_written(each) for each in mirror.written(service.full_name) if each.ready)
        return
    pods = mirror.selected(service.full_name)
    for family in service.families:
        yield from (_computed(each) for each in endpoints_of(service, pods, family) if each.ready)


def _computed(endpoint: Computed) -> Endpoint:
    ports = tuple(Port(each.name, each.protocol.lower(), each.number) for each in endpoint.ports)
    return Endpoint(endpoint.address, endpoint.hostname or dashed(endpoint.address), ports)


def _written(endpoint: WrittenEndpoint) -> Endpoint:
    ports = tuple(_port(each) for each in endpoint.ports)
    return Endpoint(endpoint.address, endpoint.hostname or dashed(endpoint.address), ports)


def _port(port: ContainerPort) -> Port:
    return Port(port.name, port.protocol.lower(), port.number)


def namespaces(mirror: ServicesMirror) -> set[str]:
    """Those that exist: made by people, or by what is in them."""
    return (
        {DEFAULT_NAMESPACE}
        | _objects(mirror, mirror.keys)
        | {namespace for namespace, _ in mirror.services}
        | {pod.namespace for pod in mirror.pods.values()}
    )


def _objects(mirror: ServicesMirror, keys: Keys) -> set[str]:
    prefix = keys.objects("namespaces")
    return {key.removeprefix(prefix) for key in mirror.items if key.startswith(prefix)}


def pods(mirror: ServicesMirror) -> set[tuple[str, str]]:
    """Namespace and address of every pod that has not ended."""
    return {
        (pod.namespace, address) for pod in mirror.pods.values() if not pod.ended for address in pod.addresses
    }  # fmt: skip
