"""What every object has: a name, a namespace, labels, annotations (apimachinery: pkg/api/validation/objectmeta.go)."""

from __future__ import annotations

from collections.abc import Iterator

from overlay.services.objects import names
from overlay.services.objects.document import Object, annotations_of, labels_of, metadata_of, status_of
from overlay.services.objects.kinds import Kind
from overlay.services.objects.status import Fault, forbidden, invalid, required, too_long
from overlay.services.objects.validation.common import by, labels

MAX_ANNOTATIONS = 256 * 1024
"""Bytes of all annotations of one object."""

_NAME_RULES = {"services": names.dns_1035_label, "namespaces": names.dns_label}


def faults(kind: Kind, obj: Object) -> Iterator[Fault]:
    """What is wrong with ``metadata``."""
    metadata = metadata_of(obj)
    name = metadata.get("name")
    if not name:
        yield required("metadata.name", "name or generateName is required")
    else:
        yield from by(_NAME_RULES.get(kind.resource, names.dns_subdomain), "metadata.name", name)
    if kind.namespaced:
        yield from by(names.dns_label, "metadata.namespace", metadata.get("namespace", ""))
    elif metadata.get("namespace"):
        yield forbidden("metadata.namespace", "not allowed on this type")
    yield from labels("metadata.labels", labels_of(obj))
    size = 0
    for key, value in annotations_of(obj).items():
        size += len(key.encode()) + len(value.encode())
        yield from by(names.qualified_name, "metadata.annotations", key.lower())
    if size > MAX_ANNOTATIONS:
        yield too_long("metadata.annotations", MAX_ANNOTATIONS)


def faults_of_phase(old: Object, new: Object) -> Iterator[Fault]:
    """What is wrong with a Namespace's status: that it ends is said by deleting it, and not taken back."""
    if (phase := status_of(new).get("phase")) != (before := status_of(old).get("phase")):
        yield invalid("status.Phase", phase, f"may only be '{before}' until the namespace is deleted, or gone")


def faults_of_change(old: Object, new: Object) -> Iterator[Fault]:
    """What may not change of ``metadata``."""
    for field in ("name", "namespace", "uid"):
        before, after = metadata_of(old).get(field), metadata_of(new).get(field)
        if after is not None and after != before:
            yield invalid(f"metadata.{field}", after, "field is immutable")
