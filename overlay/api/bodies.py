"""Documents out of what clients send: JSON, YAML, and kubectl's protobuf. Pure; bounded in size, depth and sharing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import yaml

from overlay.api import protobuf
from overlay.services.objects import patches, status
from overlay.services.objects.decoding import MAX_DEPTH

JSON = "application/json"
YAML = "application/yaml"

MAX_BODY = 3 * 1024 * 1024
"""Bytes of a request (apiserver: MaxRequestBodyBytes)."""

MAX_YAML = 256 * 1024
"""Bytes of a body in YAML, which is read slowly; kubectl sends none."""

_OBJECTS = (JSON, YAML, protobuf.CONTENT_TYPE)
_PATCHES = (patches.JSON, patches.MERGE, patches.STRATEGIC, patches.APPLY)


def media_type(content_type: str) -> str:
    """Without parameters, in lower case; JSON where there is none, as ``kubectl create ns`` of 1.20 sends it."""
    return content_type.partition(";")[0].strip().lower() or JSON


def parse_object(content_type: str, body: bytes) -> Any:
    """The document in a body. Raises StatusError (400, 413, 415)."""
    match media_type(content_type):
        case "application/json":
            return _json(body)
        case "application/yaml":
            return _yaml(body)
        case protobuf.CONTENT_TYPE:
            try:
                return protobuf.decode(body)
            except ValueError as error:
                raise status.bad_request(f"the object provided is unrecognized: {error}") from None
        case other:
            raise status.unsupported_media_type(other, _OBJECTS)


def parse_patch(content_type: str, body: bytes) -> tuple[str, Any]:
    """The kind of a patch, and the document of it. Raises StatusError (400, 415)."""
    kind = media_type(content_type)
    if kind not in _PATCHES:
        raise status.unsupported_media_type(kind, _PATCHES)
    if kind == patches.APPLY and not body.lstrip().startswith(b"{"):  # all clients send JSON, which is YAML as well
        return kind, _yaml(body)
    return kind, _json(body)


def _look_over(events: Iterable[yaml.Event]) -> None:
    """Refuses what makes much out of little, before anything is built: aliases, which people write none of here, and
    depth, for which libyaml takes the square of its time."""
    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise status.bad_request("the object provided has YAML aliases, which are not taken")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise status.bad_request(f"the document is nested more than {MAX_DEPTH} levels deep")


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise status.bad_request(f"the object provided is unrecognized (it is no JSON): {error}") from None


def _yaml(body: bytes) -> Any:
    if len(body) > MAX_YAML:
        raise status.too_large(MAX_YAML)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _look_over(yaml.parse(body, Loader=loader))
        document = yaml.load(body, Loader=loader)
        return msgspec.json.decode(msgspec.json.encode(document))  # dates become texts again
    except (yaml.YAMLError, TypeError, ValueError, RecursionError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split())[:200]
        raise status.bad_request(f"the object provided is unrecognized (it is no YAML): {told}") from None
