"""Services as environment variables, as Kubernetes gives them to every container, and Docker's links before it. Pure.

For Service ``redis-master``, ``10.96.0.11``, port 6379::

    REDIS_MASTER_SERVICE_HOST=10.96.0.11           REDIS_MASTER_SERVICE_PORT=6379
    REDIS_MASTER_SERVICE_PORT_CLIENT=6379          (of a port that is called client)
    REDIS_MASTER_NAME=/default/redis-master        REDIS_MASTER_PORT=tcp://10.96.0.11:6379
    REDIS_MASTER_PORT_6379_TCP=tcp://10.96.0.11:6379, and with _PROTO, _PORT and _ADDR its parts

Sources: kubernetes ``pkg/kubelet/envvars/envvars.go``; Docker's legacy links, whose ``ALIAS_NAME`` is
``/CONTAINER/ALIAS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from overlay.services.facts import Service, is_ipv4

ALWAYS = ("default", "kubernetes")
"""The Service that pods of every namespace are told of, unless theirs has one of that name."""


def variables(services: Iterable[Service], namespace: str) -> dict[str, str]:
    """What a container of a namespace is told: its Services that have a ClusterIP, in the order of their names."""
    told = {each.name: each for each in services if each.namespace == namespace or each.full_name == ALWAYS}
    # Two names may become one ("a-b", and what a namespace has beside "default"); the namespace's own goes first.
    for each in services:
        if each.namespace == namespace:
            told[each.name] = each
    found: dict[str, str] = {}
    for name in sorted(told):
        for key, value in _of_service(told[name]):
            found.setdefault(key, value)
    return found


def _of_service(service: Service) -> Iterator[tuple[str, str]]:
    address = next(filter(is_ipv4, service.cluster_ips), None)
    if address is None or service.headless or service.type == "ExternalName" or not service.ports:
        return
    prefix, first = _variable(service.name), service.ports[0]
    yield f"{prefix}_SERVICE_HOST", address
    yield f"{prefix}_SERVICE_PORT", str(first.port)
    for port in service.ports:
        if port.name:
            yield f"{prefix}_SERVICE_PORT_{_variable(port.name)}", str(port.port)
    yield f"{prefix}_NAME", f"/{service.namespace}/{service.name}"
    yield f"{prefix}_PORT", f"{first.protocol.lower()}://{address}:{first.port}"
    for port in service.ports:
        protocol = port.protocol
        own = f"{prefix}_PORT_{port.port}_{protocol}"
        yield own, f"{protocol.lower()}://{address}:{port.port}"
        yield f"{own}_PROTO", protocol.lower()
        yield f"{own}_PORT", str(port.port)
        yield f"{own}_ADDR", address


def _variable(name: str) -> str:
    return name.replace("-", "_").upper()
