"""One definition of every field of our kinds: what ``explain`` prints is what is checked, patched and merged by.

The definitions are Kubernetes' own OpenAPI v2 ones (``definitions.json``, cut by :mod:`build`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

_REF = "#/definitions/"


@cache
def definitions() -> dict[str, Any]:
    """All definitions by their long names (``io.k8s.api.core.v1.Service``)."""
    return dict(json.loads(Path(__file__).with_name("definitions.json").read_text()))


class Schema:
    """What one place in a document may hold.

    Attributes:
        type: ``object`` (fields that are named), ``map`` (any keys, one type of value), ``array``, ``string``,
            ``integer``, ``number``, ``boolean``, ``int-or-string``, ``any`` (an object that nobody looks into).
        required: fields without which an ``object`` is not complete.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        if reference := raw.get("$ref"):
            raw = {**definitions()[reference.removeprefix(_REF)], **{k: v for k, v in raw.items() if k != "$ref"}}
        self._raw = raw
        self._fields: dict[str, Schema] = {}
        self.required: tuple[str, ...] = tuple(raw.get("required", ()))
        self.type: str = self._type()

    def _type(self) -> str:
        raw = self._raw
        if raw.get("format") == "int-or-string":
            return "int-or-string"
        if raw.get("type") == "object" or "properties" in raw:
            return "object" if "properties" in raw else "map" if "additionalProperties" in raw else "any"
        return str(raw.get("type", "any"))

    @property
    def format(self) -> str:
        """``int32``, ``date-time`` …, or an empty text."""
        return str(self._raw.get("format", ""))

    def field(self, name: str) -> Schema | None:
        """The named field of an ``object``, or the values of a ``map``; None where there is no such field."""
        if self.type == "map":
            return self.values
        if name not in self._fields:
            raw = self._raw.get("properties", {}).get(name)
            if raw is None:
                return None
            self._fields[name] = Schema(raw)
        return self._fields[name]

    @cached_property
    def values(self) -> Schema:
        """Of a ``map``."""
        return Schema(self._raw["additionalProperties"])

    @cached_property
    def items(self) -> Schema:
        """Of an ``array``."""
        return Schema(self._raw["items"])

    @property
    def merges(self) -> bool:
        """Whether a strategic merge patch merges this list instead of replacing it."""
        return "merge" in str(self._raw.get("x-kubernetes-patch-strategy", "")).split(",")

    @property
    def merge_key(self) -> str:
        """The field that tells the elements of such a list apart; empty for lists of scalars."""
        return str(self._raw.get("x-kubernetes-patch-merge-key", ""))

    @property
    def atomic(self) -> bool:
        """Whether it has one owner as a whole: scalars, and lists and maps that are not merged."""
        if self.type == "array":
            return str(self._raw.get("x-kubernetes-list-type", "atomic")) == "atomic"
        return self.type not in ("object", "map") or str(self._raw.get("x-kubernetes-map-type", "")) == "atomic"

    @property
    def list_keys(self) -> tuple[str, ...]:
        """The fields that tell the elements of a list apart, sorted; none for a list that is a set of scalars."""
        return tuple(sorted(self._raw.get("x-kubernetes-list-map-keys", ())))


@cache
def schema_of(definition: str) -> Schema:
    """The schema of a definition, by its long name."""
    return Schema(definitions()[definition])
