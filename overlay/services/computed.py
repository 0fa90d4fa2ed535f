"""Objects that nobody stores: endpoints of Services with selectors, and nodes as they are now. Pure.

Whoever has the same mirror has the same documents, so that any API server may answer.
"""

from __future__ import annotations

import uuid

from overlay.services.facts import ServiceName
from overlay.services.mirror import ServicesMirror
from overlay.services.objects.document import Object, metadata_of
from overlay.services.objects.kinds import ENDPOINT_SLICE, ENDPOINTS, NODE, Kind

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


def everything(mirror: ServicesMirror, kind: Kind, namespace: str = "") -> dict[str, Object]:
    """All objects of a computed kind, or those of one namespace, by key, stored ones with them."""
    keys = mirror.keys
    if kind is NODE:
        return {keys.node(str(metadata_of(each)["name"])): each for each in mirror.nodes()}
    prefix = keys.objects(kind.resource, namespace)
    found = {}
    for key in mirror.items:
        if key.startswith(prefix) and (document := mirror.document(key)) is not None:
            found[key] = document
    for name in mirror.services:
        if not namespace or name[0] == namespace:
            found |= {key: each for key, each in of_service(mirror, name).items() if key.startswith(prefix)}
    return dict(sorted(found.items()))
