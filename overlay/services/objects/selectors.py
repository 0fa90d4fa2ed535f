"""Label and field selectors, as texts in URLs and as a LabelSelector in documents (apimachinery: pkg/labels)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from overlay.services.objects.document import Object, labels_of
from overlay.services.objects.kinds import Kind
from overlay.services.objects.status import bad_request

MAX_LENGTH = 16 * 1024
"""Characters of one selector."""

Selects = Callable[[Object], bool]

_OUTSIDE_PARENTHESES = re.compile(r",(?![^()]*\))")
_KEY = r"(?P<key>[A-Za-z0-9./_-]+)"
_SET = re.compile(rf"{_KEY}\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)")
_EQUALITY = re.compile(rf"{_KEY}\s*(?P<operator>==?|!=)\s*(?P<value>[A-Za-z0-9._-]*)")
_EXISTENCE = re.compile(rf"(?P<operator>!?)\s*{_KEY}")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One part of a label selector: ``operator`` is ``In``, ``NotIn``, ``Exists`` or ``DoesNotExist``."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels fulfil it. A label that is not there is in no set."""
        match self.operator:
            case "In":
                return self.key in labels and labels[self.key] in self.values
            case "NotIn":
                return self.key not in labels or labels[self.key] not in self.values
            case "Exists":
                return self.key in labels
            case _:
                return self.key not in labels


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """``a=b,c in (d,e),!f`` as requirements, all of which must hold. Raises StatusError (400)."""
    if len(text) > MAX_LENGTH:
        raise bad_request(f"a label selector has at most {MAX_LENGTH} characters")
    return tuple(_requirement(part.strip()) for part in _OUTSIDE_PARENTHESES.split(text)) if text.strip() else ()


def _requirement(part: str) -> Requirement:
    if found := _SET.fullmatch(part):
        values = frozenset(each.strip() for each in found["values"].split(","))
        return Requirement(found["key"], "In" if found["operator"] == "in" else "NotIn", values)
    if found := _EQUALITY.fullmatch(part):
        operator = "NotIn" if found["operator"] == "!=" else "In"
        return Requirement(found["key"], operator, frozenset([found["value"]]))
    if found := _EXISTENCE.fullmatch(part):
        return Requirement(found["key"], "DoesNotExist" if found["operator"] else "Exists")
    raise bad_request(f"unable to parse requirement: {part[:128]!r} is no requirement of a label selector")


def from_document(selector: Mapping[str, Any]) -> tuple[Requirement, ...]:
    """A LabelSelector of a document (``matchLabels``, ``matchExpressions``), valid already; empty takes everything."""
    equal = (selector.get("matchLabels") or {}).items()
    return (
        *(Requirement(key, "In", frozenset([value])) for key, value in equal),
        *(
            Requirement(each["key"], each["operator"], frozenset(each.get("values") or ()))
            for each in selector.get("matchExpressions") or ()
        ),
    )


def matches(requirements: tuple[Requirement, ...], labels: Mapping[str, str]) -> bool:
    """Whether labels fulfil all of them."""
    return all(each.holds(labels) for each in requirements)


_EVERY_KIND = ("metadata.name", "metadata.namespace")
_INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_FIELDS: dict[str, tuple[str, ...]] = {
    "pods": (
        "spec.nodeName", "spec.restartPolicy", "spec.hostNetwork", "status.phase", "status.podIP",
    ),
    "nodes": ("spec.unschedulable",),
    "namespaces": ("status.phase",),
    "services": ("spec.clusterIP", "spec.type"),
    "events": (
        *(f"involvedObject.{field}" for field in _INVOLVED), "reason", "reportingComponent", "source", "type",
    ),
}  # fmt: skip
"""What field selectors may name, by resource."""

_FIELD = re.compile(r"(?P<field>[A-Za-z.]+)\s*(?P<operator>==?|!=)(?P<value>.*)")


def parse_fields(kind: Kind, text: str) -> tuple[tuple[str, bool, str], ...]:
    """``metadata.name=x,status.phase!=Failed`` as (field, whether equal, value). Raises StatusError (400)."""
    if len(text) > MAX_LENGTH:
        raise bad_request(f"a field selector has at most {MAX_LENGTH} characters")
    known = (*_EVERY_KIND, *_FIELDS.get(kind.resource, ()))
    result = []
    for part in filter(None, text.split(",")):
        found = _FIELD.fullmatch(part.strip())
        if found is None:
            raise bad_request(f"invalid field selector: {part[:128]!r}; can't understand it")
        if found["field"] not in known:
            raise bad_request(f"field label not supported: {found['field'][:128]} (supported: {', '.join(known)})")
        result.append((found["field"], found["operator"] != "!=", found["value"]))
    return tuple(result)


def selector(kind: Kind, labels: str, fields: str) -> Selects:
    """What a request's two selectors take. Raises StatusError (400)."""
    requirements, parts = parse_labels(labels), parse_fields(kind, fields)

    def takes(obj: Object) -> bool:
        if not matches(requirements, labels_of(obj)):
            return False
        return all((_field(obj, field) == value) is equal for field, equal, value in parts)

    return takes


def both(one: Selects | None, other: Selects) -> Selects:
    """What two selectors take; None takes everything."""
    return other if one is None else lambda obj: one(obj) and other(obj)


def _field(obj: Object, path: str) -> str:
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if path == "source" and isinstance(value, dict):
        value = value.get("component")
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
