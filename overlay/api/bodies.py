"""Documents out of what clients send: JSON, YAML, and kubectl's protobuf. Pure; bounded in size, depth and sharing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec
import yaml

from overlay.api import protobuf
from overlay.services.objects import patches, status
from overlay.services.objects.decoding import MAX_DEPTH, MAX_UNKNOWN

JSON = "application/json"
YAML = "application/yaml"

MAX_BODY = 3 * 1024 * 1024
"""Bytes of a request (apiserver: MaxRequestBodyBytes)."""

MAX_YAML = 256 * 1024
"""Bytes of a body in YAML, which is read slowly; kubectl sends none."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

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
    if _is_yaml(kind, body):
        return kind, _yaml(body)
    return kind, _json(body)


def repeated_fields(content_type: str, body: bytes) -> list[str]:
    """The paths of fields that a body of a write has more than once; the last one counts. At most MAX_UNKNOWN.

    Args:
        body: that was parsed without an error.
    """
    match media_type(content_type):
        case protobuf.CONTENT_TYPE:
            return []
        case kind if kind == YAML or _is_yaml(kind, body):
            found = _repeated_in_yaml(yaml.compose(body, Loader=_LOADER), "")
        case _:
            found = _repeated_in_json(body)
    return list(islice(found, MAX_UNKNOWN))


def _is_yaml(kind: str, patch: bytes) -> bool:
    """Whether what is applied is no JSON, which all clients send."""
    return kind == patches.APPLY and not patch.lstrip().startswith(b"{")


class _Repeating(dict[str, Any]):
    """A JSON object that has fields more than once: ``names``."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.names = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]


def _repeated_in_json(body: bytes) -> Iterator[str]:
    any_repeats = False

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal any_repeats
        plain = dict(pairs)
        if len(plain) == len(pairs):
            return plain
        any_repeats = True
        return _Repeating(pairs)

    document = json.loads(body, object_pairs_hook=made)
    return _repeated_below(document, "") if any_repeats else iter(())


def _repeated_below(document: Any, path: str) -> Iterator[str]:
    if isinstance(document, _Repeating):
        yield from (_below(path, name) for name in document.names)
    if isinstance(document, dict):
        for name, each in document.items():
            yield from _repeated_below(each, _below(path, name))
    elif isinstance(document, list):
        for index, each in enumerate(document):
            yield from _repeated_below(each, f"{path}[{index}]")


def _repeated_in_yaml(node: yaml.Node | None, path: str) -> Iterator[str]:
    if isinstance(node, yaml.MappingNode):
        seen = Counter(str(key.value) for key, _ in node.value)
        yield from (_below(path, name) for name, count in seen.items() if count > 1)
        for key, each in node.value:
            yield from _repeated_in_yaml(each, _below(path, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, each in enumerate(node.value):
            yield from _repeated_in_yaml(each, f"{path}[{index}]")


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


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
    try:
        _look_over(yaml.parse(body, Loader=_LOADER))
        document = yaml.load(body, Loader=_LOADER)
        return msgspec.json.decode(msgspec.json.encode(document))  # dates become texts again
    except (yaml.YAMLError, TypeError, ValueError, RecursionError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split())[:200]
        raise status.bad_request(f"the object provided is unrecognized (it is no YAML): {told}") from None
