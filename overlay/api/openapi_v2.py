"""OpenAPI v2's document in protobuf, the only form in which kubectl takes it (gnostic: openapiv2/OpenAPIv2.proto).

A few fields of a few messages, so no library: a field is its number and its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec

from overlay.api.openapi import v2

CONTENT_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""With a dot where the request has ``@``: kubectl refuses what is no valid media type."""


@cache
def document() -> bytes:
    """``/openapi/v2``."""
    spec = v2()
    paths = b"".join(_bytes(2, _named(url, _path_item(item))) for url, item in spec["paths"].items())
    definitions = b"".join(_bytes(1, _named(name, _schema(each))) for name, each in spec["definitions"].items())
    info = _text(1, spec["info"]["title"]) + _text(2, spec["info"]["version"])
    return _text(1, spec["swagger"]) + _bytes(2, info) + _bytes(8, paths) + _bytes(9, definitions)


_METHODS = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}


def _path_item(item: dict[str, Any]) -> bytes:
    return b"".join(_bytes(_METHODS[method], _operation(each)) for method, each in item.items())


def _operation(operation: dict[str, Any]) -> bytes:
    parameters = b"".join(_bytes(8, _parameter(each)) for each in operation["parameters"])
    response = _bytes(1, _named("200", _bytes(1, _text(1, operation["responses"]["200"]["description"]))))
    return _text(5, operation["operationId"]) + parameters + _bytes(9, response) + _extensions(13, operation)


def _parameter(parameter: dict[str, str]) -> bytes:
    """A ParametersItem that is a Parameter that is a NonBodyParameter that is in the query."""
    query = _text(2, parameter["in"]) + _text(4, parameter["name"]) + _text(6, parameter["type"])
    return _bytes(1, _bytes(2, _bytes(3, query)))


def _schema(schema: dict[str, Any]) -> bytes:
    return b"".join(_schema_fields(schema)) + _extensions(31, schema)


def _schema_fields(schema: dict[str, Any]) -> Iterator[bytes]:
    for key, value in schema.items():
        match key:
            case "$ref":
                yield _text(1, value)
            case "format":
                yield _text(2, value)
            case "description":
                yield _text(4, value)
            case "required":
                yield from (_text(19, name) for name in value)
            case "additionalProperties":
                yield _bytes(21, _bytes(1, _schema(value)))
            case "type":
                yield _bytes(22, _text(1, value))
            case "items":
                yield _bytes(23, _bytes(1, _schema(value)))
            case "properties":
                yield _bytes(25, b"".join(_bytes(1, _named(name, _schema(each))) for name, each in value.items()))


def _extensions(number: int, of: dict[str, Any]) -> bytes:
    """Everything that begins with ``x-``, as YAML, of which JSON is a part."""
    return b"".join(
        _bytes(number, _named(key, _bytes(2, msgspec.json.encode(value))))
        for key, value in of.items()
        if key.startswith("x-")
    )


def _named(name: str, value: bytes) -> bytes:
    return _text(1, name) + _bytes(2, value)


def _text(number: int, text: str) -> bytes:
    return _bytes(number, text.encode())


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    result = bytearray()
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    result.append(number)
    return bytes(result)
