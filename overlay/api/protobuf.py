"""Documents out of protobuf bodies, which kubectl ≥ 1.32 sends for ``create service`` and its like.

A body is ``k8s\\0`` and an Unknown (apimachinery: pkg/runtime/generated.proto) with the object in it. What a field is
says the schema; ``numbers.json`` adds its number. Answers stay JSON: whoever sends protobuf takes that too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from overlay.services.objects.kinds import BY_NAME
from overlay.services.objects.schema import Schema, definitions

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"

_MAGIC = b"k8s\0"
_MAX_DEPTH = 32
_POINTERS = frozenset(("ready", "serving", "terminating", "port", "allocateLoadBalancerNodePorts", "timeoutSeconds"))
"""Fields whose zero value means something; all others are sent when they are empty too (they are no pointers in Go)."""

_INLINE = {"ingressRuleValue"}
"""Messages whose fields are those of their parent in JSON."""


def decode(body: bytes) -> dict[str, Any]:
    """The document in a body. Raises ValueError for what is none."""
    if not body.startswith(_MAGIC):
        raise ValueError("the body is no protobuf of Kubernetes'")
    unknown = dict(_fields(body[len(_MAGIC) :]))
    meta = dict(_fields(_message(unknown.get(1, b""))))
    api_version, name = _message(meta.get(1, b"")).decode(), _message(meta.get(2, b"")).decode()
    raw = _message(unknown.get(2, b""))
    if name == "DeleteOptions":
        return {"apiVersion": api_version, "kind": name, **_delete_options(raw)}
    kind = BY_NAME.get((api_version, name))
    if kind is None:
        raise ValueError(f"there is no kind {name[:64]!r} of {api_version[:64]!r} here")
    return {"apiVersion": api_version, "kind": name, **_object(kind.definition, raw, 0)}


@cache
def _numbers() -> dict[str, dict[int, str]]:
    """Fields by number, by definition."""
    document = json.loads(Path(__file__).with_name("numbers.json").read_text())
    return {name: {number: field for field, number in fields.items()} for name, fields in document.items()}


def _object(definition: str, data: bytes, depth: int) -> dict[str, Any]:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    raw, names = definitions()[definition], _numbers().get(definition, {})
    result: dict[str, Any] = {}
    for number, value in _fields(data):
        name = names.get(number, "")
        if name in _INLINE:
            result |= _inline(definition, _message(value), depth)
            continue
        field = raw.get("properties", {}).get(name)
        if field is None:
            continue
        if field.get("type") == "array":
            result.setdefault(name, []).append(_value(field["items"], value, depth))
        elif "additionalProperties" in field:
            entry = dict(_fields(_message(value)))
            key = _message(entry.get(1, b"")).decode()
            result.setdefault(name, {})[key] = _value(field["additionalProperties"], entry.get(2, b""), depth)
        else:
            decoded = _value(field, value, depth)
            if decoded not in ("", 0, False, None) or name in _POINTERS:
                result[name] = decoded
    return result


def _inline(definition: str, data: bytes, depth: int) -> dict[str, Any]:
    """An IngressRuleValue: field 1 is ``http``."""
    rule = dict(_fields(data)).get(1)
    package = definition.rpartition(".")[0]
    return {} if rule is None else {"http": _object(f"{package}.HTTPIngressRuleValue", _message(rule), depth + 1)}


def _value(field: dict[str, Any], value: bytes | int, depth: int) -> Any:
    reference = str(field.get("$ref", "")).removeprefix("#/definitions/")
    if reference.endswith((".Time", ".MicroTime")):
        return _time(_message(value))
    schema = Schema(field)
    match schema.type:
        case "int-or-string":
            parts = dict(_fields(_message(value)))
            is_text = parts.get(1, 0) == 1
            return _message(parts.get(3, b"")).decode() if is_text else _signed(parts.get(2, 0))
        case "string":
            return _message(value).decode()
        case "boolean":
            return bool(value)
        case "integer":
            return _signed(value)
        case "object":
            return _object(reference, _message(value), depth + 1)
        case _:
            return {}


def _time(data: bytes) -> str | None:
    parts = dict(_fields(data))
    seconds = _signed(parts.get(1, 0))
    if not data or not 0 <= seconds < 1 << 40:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError):
        return None


def _delete_options(data: bytes) -> dict[str, Any]:
    """apimachinery's DeleteOptions, as far as it is used: preconditions 2, propagationPolicy 4, dryRun 5."""
    result: dict[str, Any] = {}
    for number, value in _fields(data):
        match number:
            case 2:
                parts = {number: _message(each).decode() for number, each in _fields(_message(value))}
                result["preconditions"] = {"uid": parts.get(1, ""), "resourceVersion": parts.get(2, "")}
            case 4:
                result["propagationPolicy"] = _message(value).decode()
            case 5:
                result.setdefault("dryRun", []).append(_message(value).decode())
    return result


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a message: number, and bytes or a number. Raises ValueError."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                value, at = _varint(data, at)
                yield tag >> 3, value
            case 2:
                length, at = _varint(data, at)
                if length > len(data) - at:
                    raise ValueError("the body is cut off")
                yield tag >> 3, data[at : at + length]
                at += length
            case 1 | 5:
                at += 8 if tag & 7 == 1 else 4
            case other:
                raise ValueError(f"there is no wire type {other} here")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise ValueError("the body is cut off")


def _signed(value: bytes | int) -> int:
    if not isinstance(value, int):
        raise ValueError("a number is expected")  # noqa: TRY004  (of the body, not of a caller)
    return value - (1 << 64) if value >= 1 << 63 else value


def _message(value: bytes | int) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a message is expected")  # noqa: TRY004
    return value
