"""Objects that nobody stores: endpoints of Services with selectors, and nodes as they are now. Pure.

Whoever has the same mirror has the same documents, so that any API server may answer.
"""

from __future__ import annotations

import uuid

from overlay.services.facts import SERVICE_NAME, ServiceName
from overlay.services.mirror import ServicesMirror
from overlay.services.objects.document import Object, metadata_of
from overlay.services.objects.kinds import ENDPOINT_SLICE, ENDPOINTS, NODE, Kind
from overlay.services.objects.selectors import parse_fields, parse_labels

COMPUTED = (ENDPOINTS, ENDPOINT_SLICE, NODE)
"""Kinds some of whose objects, or all, are computed."""

_UIDS = uuid.UUID("6f7e1f0a-8f0e-4d52-9d5b-1c1e1b1d7c55")
"""Of what is computed for a Service: made of the Service's uid, so that they are the same everywhere."""


def of_service(mirror: ServicesMirror, name: ServiceName) -> dict[str, Object]:
    """A Service's Endpoints and EndpointSlices by the keys that they would be stored at.

    Of a Service without selector, or of none, it is the Endpoints that somebody wrote, if any.
    """
    keys, service = mirror.keys, mirror.services.get(name)
    found = {}
    if (endpoints := mirror.endpoints(name)) is not None:
        found[keys.object(ENDPOINTS.resource, *name)] = endpoints
    for each in mirror.slices(name):
        found[keys.object(ENDPOINT_SLICE.resource, name[0], str(metadata_of(each)["name"]))] = each
    if service is not None and service.selector:
        _stamp(mirror, name, found)
    return found


def _stamp(mirror: ServicesMirror, name: ServiceName, found: dict[str, Object]) -> None:
    """Gives computed objects their Service's age, and uids of their own."""
    owner = metadata_of(mirror.document(mirror.keys.object("services", *name)) or {})
    for key, each in found.items():
        each["metadata"]["uid"] = str(uuid.uuid5(_UIDS, f"{owner.get('uid', '')} {key}"))
        if created := owner.get("creationTimestamp"):
            each["metadata"]["creationTimestamp"] = created


def service_named(kind: Kind, labels: str, fields: str) -> str:
    """The one Service whose endpoints a request's two selectors take, by its name; empty where there may be several.

    Raises StatusError (400).
    """
    if kind is ENDPOINTS:
        names = [value for field, equal, value in parse_fields(kind, fields) if field == "metadata.name" and equal]
    elif kind is ENDPOINT_SLICE:
        wanted = [each.values for each in parse_labels(labels) if (each.key, each.operator) == (SERVICE_NAME, "In")]
        names = [next(iter(values)) for values in wanted if len(values) == 1]
    else:
        names = []
    return names[0] if names else ""


def owners(mirror: ServicesMirror, kind: Kind, namespace: str = "", service: str = "") -> list[str]:
    """What the objects of a computed kind are computed from, or stored as: keys in their order.

    A list is made of them one by one, so that a part of it costs no more than that part.

    Args:
        service: where given, of what is computed only what belongs to Services of this name.
    """
    keys = mirror.keys
    if kind is NODE:
        return sorted(key for key in mirror.items if key.startswith(keys.node()))
    stored = keys.objects(kind.resource, namespace)
    found = {key for key in mirror.items if key.startswith(stored)}
    found |= {
        keys.object(kind.resource, *name)
        for name in mirror.services
        if namespace in ("", name[0]) and service in ("", name[1])
    }
    return sorted(found)


def of_owner(mirror: ServicesMirror, kind: Kind, owner: str) -> dict[str, Object]:
    """The objects of a computed kind that one of :func:`owners` stands for, by key."""
    if kind is NODE:
        node = mirror.node(owner.removeprefix(mirror.keys.node()))
        return {} if node is None else {owner: node}
    prefix = mirror.keys.objects(kind.resource)
    namespace, _, name = owner.removeprefix(prefix).partition("/")
    found = {key: each for key, each in of_service(mirror, (namespace, name)).items() if key.startswith(prefix)}
    if owner not in found and (document := mirror.document(owner)) is not None:
        found[owner] = document
    return found


def everything(mirror: ServicesMirror, kind: Kind, namespace: str = "") -> dict[str, Object]:
    """All objects of a computed kind, or those of one namespace, by key, stored ones with them."""
    return {
        key: each for owner in owners(mirror, kind, namespace) for key, each in of_owner(mirror, kind, owner).items()
    }
