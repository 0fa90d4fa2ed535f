"""The API's own rules, kind by kind, with the path of each wrong field and Kubernetes' own sentences.

``meta``: what every object has · ``service`` · ``endpoints`` (Endpoints and EndpointSlices) · ``networking`` (Ingress,
IngressClass, NetworkPolicy) · ``common``: what they share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from overlay.services.objects.decoding import missing_fields
from overlay.services.objects.document import Object
from overlay.services.objects.kinds import Kind
from overlay.services.objects.status import Fault, required
from overlay.services.objects.validation import endpoints, meta, networking, service

MAX_FAULTS = 50
"""Faults that are told of one object."""

_RULES: dict[str, Callable[[Object], Iterable[Fault]]] = {
    "services": service.faults,
    "endpoints": endpoints.faults_of_endpoints,
    "endpointslices": endpoints.faults_of_slice,
    "ingresses": networking.faults_of_ingress,
    "ingressclasses": networking.faults_of_class,
    "networkpolicies": networking.faults_of_policy,
}


def faults(kind: Kind, obj: Object) -> list[Fault]:
    """All that is wrong with a document whose types are right and whose defaults are filled in."""
    found = dict.fromkeys(_faults(kind, obj))  # a field that is missing is told once
    return [fault for fault, _ in zip(found, range(MAX_FAULTS), strict=False)]


def faults_of_status(kind: Kind, old: Object, new: Object) -> list[Fault]:
    """What is wrong with a status that somebody wrote."""
    match kind.resource:
        case "services":
            return list(service.faults_of_status(new))
        case "namespaces":
            return list(meta.faults_of_phase(old, new))
    return []


def faults_of_change(kind: Kind, old: Object, new: Object) -> list[Fault]:
    """What may not change from ``old`` to ``new``, both valid by themselves."""
    found = list(meta.faults_of_change(old, new))
    match kind.resource:
        case "services":
            found += service.faults_of_change(old, new)
        case "endpointslices":
            found += endpoints.faults_of_change(old, new)
        case "ingressclasses":
            found += networking.faults_of_change(old, new)
    return found


def _faults(kind: Kind, obj: Object) -> Iterator[Fault]:
    yield from meta.faults(kind, obj)
    missing = list(missing_fields(kind.schema, obj))
    yield from missing
    if not missing:
        rules = _RULES.get(kind.resource)
        if rules is not None:
            yield from rules(obj)
    if kind.resource == "events" and not (obj.get("involvedObject") or {}).get("kind"):
        yield required("involvedObject.kind")
