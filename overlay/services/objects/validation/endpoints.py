"""The rules of Endpoints (pkg/apis/core/validation) and EndpointSlices (pkg/apis/discovery/validation)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from overlay.services.objects import names
from overlay.services.objects.document import Object
from overlay.services.objects.status import Fault, duplicate, invalid, required
from overlay.services.objects.validation.common import PROTOCOLS, by, one_of

_ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
_MAX_ENDPOINTS, _MAX_PORTS, _MAX_ADDRESSES = 1000, 100, 100


def faults_of_endpoints(obj: Object) -> Iterator[Fault]:
    """What is wrong with Endpoints."""
    for index, subset in enumerate(obj.get("subsets") or ()):
        path = f"subsets[{index}]"
        ready, unready = subset.get("addresses") or [], subset.get("notReadyAddresses") or []
        if not ready and not unready:
            yield required(path, "must specify `addresses` or `notReadyAddresses`")
        for field, listed in (("addresses", ready), ("notReadyAddresses", unready)):
            for i, each in enumerate(listed):
                yield from by(names.usable_address, f"{path}.{field}[{i}].ip", each["ip"])
                if each.get("hostname"):
                    yield from by(names.dns_label, f"{path}.{field}[{i}].hostname", each["hostname"])
        ports = subset.get("ports") or []
        for i, port in enumerate(ports):
            yield from _port(f"{path}.ports[{i}]", port, named=len(ports) > 1)


def _port(path: str, port: dict[str, Any], named: bool) -> Iterator[Fault]:
    if port.get("name"):
        yield from by(names.dns_label, f"{path}.name", port["name"])
    elif named:
        yield required(f"{path}.name")
    yield from by(names.port_number, f"{path}.port", port["port"])
    yield from one_of(f"{path}.protocol", port.get("protocol", ""), PROTOCOLS)


def faults_of_slice(obj: Object) -> Iterator[Fault]:
    """What is wrong with an EndpointSlice."""
    kind = obj.get("addressType", "")
    yield from one_of("addressType", kind, _ADDRESS_TYPES)
    endpoints, ports = obj.get("endpoints") or [], obj.get("ports") or []
    for path, count, limit in (("endpoints", len(endpoints), _MAX_ENDPOINTS), ("ports", len(ports), _MAX_PORTS)):
        if count > limit:
            yield Fault(path, "FieldValueTooMany", f"Too many: {count}: must have at most {limit} items")
    for index, each in enumerate(endpoints[:_MAX_ENDPOINTS]):
        yield from _endpoint(f"endpoints[{index}]", each, kind)
    seen = set[str]()
    for index, port in enumerate(ports[:_MAX_PORTS]):
        path, name = f"ports[{index}]", port.get("name", "")
        if name:
            yield from by(names.dns_label, f"{path}.name", name)
        if name in seen:
            yield duplicate(f"{path}.name", name)
        seen.add(name)
        if "port" in port:
            yield from by(names.port_number, f"{path}.port", port["port"])
        yield from one_of(f"{path}.protocol", port.get("protocol", ""), PROTOCOLS)


def _endpoint(path: str, endpoint: dict[str, Any], kind: str) -> Iterator[Fault]:
    addresses = endpoint.get("addresses") or []
    if not addresses:
        yield required(f"{path}.addresses", "must contain at least 1 address")
    if len(addresses) > _MAX_ADDRESSES:
        yield Fault(f"{path}.addresses", "FieldValueTooMany",
                    f"Too many: {len(addresses)}: must have at most {_MAX_ADDRESSES} items")  # fmt: skip
    for index, text in enumerate(addresses[:_MAX_ADDRESSES]):
        below = f"{path}.addresses[{index}]"
        match kind:
            case "FQDN":
                yield from by(names.dns_subdomain, below, text)
            case "IPv4" | "IPv6":
                wrong = list(by(names.usable_address, below, text))
                if not wrong and (":" in text) is (kind == "IPv4"):
                    wrong = [invalid(below, text, f"must be an {kind} address")]
                yield from wrong
    if endpoint.get("hostname"):
        yield from by(names.dns_label, f"{path}.hostname", endpoint["hostname"])
    if endpoint.get("nodeName"):
        yield from by(names.dns_subdomain, f"{path}.nodeName", endpoint["nodeName"])


def faults_of_change(old: Object, new: Object) -> Iterator[Fault]:
    """What may not change of an EndpointSlice."""
    if old.get("addressType") != new.get("addressType"):
        yield invalid("addressType", new.get("addressType"), "field is immutable")
