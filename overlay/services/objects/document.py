"""One object as a JSON document: reading, writing, and typed helpers for what every object has."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, TypeAlias

import msgspec

from overlay.errors import OverlayError

Object: TypeAlias = dict[str, Any]
"""A JSON document with ``apiVersion``, ``kind`` and ``metadata``."""

MAX_BYTES = 1024 * 1024
"""Of one object in JSON: etcd takes requests of 1.5 MiB, and a transaction has more in it than the object."""


class ObjectFormatError(OverlayError):
    """A value in etcd is no object; it is skipped, counted and named."""


def copy(obj: Object) -> Object:
    """A document of its own, to be changed."""
    return deepcopy(obj)


def encode(obj: Object) -> bytes:
    """As it is stored: JSON in a stable order, without ``metadata.resourceVersion``."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
    return msgspec.json.encode({**obj, "metadata": metadata}, order="deterministic")


def decode(value: bytes, revision: int, about: str = "") -> Object:
    """A stored value as an object whose ``metadata.resourceVersion`` is ``revision``.

    Args:
        value: as :func:`encode` made it.
        revision: the modification revision of its key.
        about: the key, for the error.

    Raises:
        ObjectFormatError: it is no object with a name.
    """
    try:
        obj = msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ObjectFormatError(f"is no JSON: {error}", about=about) from None
    if not isinstance(obj, dict) or not isinstance(metadata := obj.get("metadata"), dict):
        raise ObjectFormatError("is no object with metadata", about=about)
    if not isinstance(metadata.get("name"), str) or not metadata["name"]:
        raise ObjectFormatError("has no metadata.name", about=about)
    metadata["resourceVersion"] = str(revision)
    return obj


def metadata_of(obj: Object) -> dict[str, Any]:
    """Its ``metadata``, empty where there is none."""
    return _mapping(obj, "metadata")


def spec_of(obj: Object) -> dict[str, Any]:
    """Its ``spec``, empty where there is none."""
    return _mapping(obj, "spec")


def status_of(obj: Object) -> dict[str, Any]:
    """Its ``status``, empty where there is none."""
    return _mapping(obj, "status")


def name_of(obj: Object) -> str:
    """``metadata.name``, or an empty text."""
    return str(metadata_of(obj).get("name") or "")


def namespace_of(obj: Object) -> str:
    """``metadata.namespace``, empty for kinds without namespaces."""
    return str(metadata_of(obj).get("namespace") or "")


def labels_of(obj: Object) -> dict[str, str]:
    """``metadata.labels``, empty where there are none."""
    return _mapping(metadata_of(obj), "labels")


def annotations_of(obj: Object) -> dict[str, str]:
    """``metadata.annotations``, empty where there are none."""
    return _mapping(metadata_of(obj), "annotations")


def condition(obj: Object, kind: str) -> bool:
    """Whether ``status.conditions`` has this one as ``True``: ``condition(pod, "Ready")``."""
    conditions = status_of(obj).get("conditions") or []
    return any(each.get("type") == kind and each.get("status") == "True" for each in conditions)


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a Service's selector takes these labels. An empty one takes nothing, for such a Service has none."""
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def _mapping(parent: Mapping[str, Any], field: str) -> dict[str, Any]:
    value = parent.get(field)
    return value if isinstance(value, dict) else {}
