"""From what somebody sent to a document of its kind: types are checked, unknown fields are found and left out.

Like Kubernetes' decoder: a wrong type is a bad request; ``null`` is the same as absent; a field that the schema does
not have is never stored, and whether that is an error, a warning or nothing is up to the caller (``fieldValidation``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from overlay.services.objects.document import Object
from overlay.services.objects.kinds import Kind
from overlay.services.objects.schema import Schema
from overlay.services.objects.status import Fault, StatusError, bad_request, required

MAX_DEPTH = 32
"""Levels of a document; the deepest field of our kinds is at twelve."""

MAX_UNKNOWN = 20
"""Unknown fields, and repeated ones, that are told by name."""

_GO_TYPES = {"string": "string", "boolean": "bool", "array": "array", "object": "object", "map": "object"}


@dataclass(slots=True)
class Decoded:
    """A document without what its kind does not have, and the paths of that."""

    document: Object
    unknown: list[str] = field(default_factory=list)


def decode_as(kind: Kind, given: Any) -> Decoded:
    """Checks the types of ``given`` and copies what its kind has.

    Raises:
        StatusError: (400) a value has the wrong type, or the document is of another kind.
    """
    if not isinstance(given, dict):
        raise bad_request(f"the object provided is unrecognized: expected a JSON object, got {_json_type(given)}")
    for name, expected in (("kind", kind.name), ("apiVersion", kind.api_version)):
        if given.get(name) not in (None, "", expected):
            told = f"{given.get('apiVersion') or ''}, Kind={given.get('kind') or ''}"
            raise bad_request(f"{told} in the body does not match {kind.api_version}, Kind={kind.name} of the URL")
    decoded = Decoded({})
    pruned = _Walk(kind, decoded.unknown).value(kind.schema, given, "", 0)
    decoded.document = {**pruned, "apiVersion": kind.api_version, "kind": kind.name}
    decoded.document.setdefault("metadata", {})
    return decoded


class _Walk:
    def __init__(self, kind: Kind, unknown: list[str]) -> None:
        self._kind = kind
        self._unknown = unknown

    def value(self, schema: Schema, given: Any, path: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise bad_request(f"the document is nested more than {MAX_DEPTH} levels deep")
        match schema.type:
            case "object":
                return self._object(schema, self._typed(schema, given, path, dict), path, depth)
            case "map":
                mapping = self._typed(schema, given, path, dict)
                return {
                    key: self.value(schema.values, each, f"{path}.{key}", depth + 1)
                    for key, each in mapping.items()
                    if each is not None or schema.values.type == "string"
                }
            case "array":
                listed = self._typed(schema, given, path, list)
                return [self.value(schema.items, each, f"{path}[{i}]", depth + 1) for i, each in enumerate(listed)]
            case "any":
                return given
            case _:
                return self._scalar(schema, given, path)

    def _object(self, schema: Schema, given: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
        result = {}
        for key, each in given.items():
            below = f"{path}.{key}" if path else key
            known = schema.field(key)
            if known is None:
                if len(self._unknown) < MAX_UNKNOWN:
                    self._unknown.append(below)
            elif each is not None:
                result[key] = self.value(known, each, below, depth + 1)
        return result

    def _scalar(self, schema: Schema, given: Any, path: str) -> Any:
        match schema.type:
            case "string":
                given = "" if given is None else self._typed(schema, given, path, str)
                if schema.format == "date-time" and not _is_time(given):
                    raise self._wrong(f'parsing time "{given[:64]}" as RFC 3339: cannot parse it', path)
                return given
            case "integer":
                limit = 2**63 if schema.format == "int64" else 2**31
                if isinstance(given, float) and given.is_integer() and abs(given) < 2**53:
                    given = int(given)
                number = self._typed(schema, given, path, int)
                if not -limit <= number < limit:
                    raise self._wrong(f"cannot unmarshal number {number} into a field of type {schema.format}", path)
                return number
            case "boolean":
                return self._typed(schema, given, path, bool)
            case "int-or-string":
                if isinstance(given, str):
                    return given
                number = self._typed(schema, given, path, int)
                if not -(2**31) <= number < 2**31:
                    raise self._wrong(f"cannot unmarshal number {number} into a field of type int32", path)
                return number
            case _:
                return given

    def _typed(self, schema: Schema, given: Any, path: str, wanted: type) -> Any:
        if isinstance(given, wanted) and not (wanted is int and isinstance(given, bool)):
            return given
        expected = _GO_TYPES.get(schema.type) or schema.format or schema.type
        raise self._wrong(f"cannot unmarshal {_json_type(given)} into a field of type {expected}", path)

    def _wrong(self, what: str, path: str) -> StatusError:
        kind = self._kind
        where = path or "the document"
        return bad_request(
            f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: json: {what}: {where}'
        )


def missing_fields(schema: Schema, document: Any, path: str = "") -> Iterator[Fault]:
    """Fields that the schema requires and a decoded document lacks, apart from what defaults fill in."""
    match schema.type:
        case "object":
            for name in schema.required:
                if name not in document:
                    yield required(f"{path}.{name}" if path else name)
            for key, value in document.items():
                below = schema.field(key)
                if below is not None:
                    yield from missing_fields(below, value, f"{path}.{key}" if path else key)
        case "array":
            for index, each in enumerate(document):
                yield from missing_fields(schema.items, each, f"{path}[{index}]")
        case _:
            return


def _json_type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
