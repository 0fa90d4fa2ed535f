"""Objects to begin with, and short ways to change them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from overlay.services.objects.decoding import decode_as
from overlay.services.objects.document import Object
from overlay.services.objects.kinds import SERVICE, Kind
from overlay.services.objects.lifecycle import for_create
from overlay.services.objects.status import StatusError

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
UID = "11111111-2222-3333-4444-555555555555"


def service(name: str = "redis", **spec: Any) -> Object:
    """A Service as people write it."""
    spec = {"ports": [{"port": 6379}], "selector": {"app": name}, **spec}
    spec = {key: value for key, value in spec.items() if value is not None}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def made(given: Object, kind: Kind = SERVICE, namespace: str = "default") -> Object:
    """What becomes of a document that is made."""
    return for_create(kind, decode_as(kind, given).document, namespace if kind.namespaced else "", NOW, UID)


def refusal(given: Object, kind: Kind = SERVICE) -> list[str]:
    """The faults of a document, as ``field: message``; nothing if it may be made."""
    try:
        made(given, kind)
    except StatusError as error:
        causes = error.details.get("causes", [])
        return [f"{cause['field']}: {cause['message']}" for cause in causes] or [error.message]
    return []
