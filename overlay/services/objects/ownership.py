"""Sets of fields, as ``metadata.managedFields`` has them: which there are in a document, and what two differ in.

    {"spec": {"ports": [{"port": 80}], "selector": {"app": "a"}}}

    f:spec ── f:ports ── k:{"port":80,"protocol":"TCP"} ── f:port
          └── f:selector

A field's path is a tuple of fieldsV1's own words: ``f:`` a name, ``k:`` the keys of an element of a list, ``v:`` an
element of a set. What the schema calls atomic is one field. The rules are those of sigs.k8s.io/structured-merge-diff
(typed/tofieldset.go, typed/compare.go, fieldpath/serialize.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from overlay.services.objects.decoding import MAX_DEPTH
from overlay.services.objects.document import Object
from overlay.services.objects.kinds import Kind
from overlay.services.objects.schema import Schema
from overlay.services.objects.status import bad_request

Path: TypeAlias = tuple[str, ...]
Fields: TypeAlias = frozenset[Path]

NOTHING: Fields = frozenset()

MEMBER = "."
"""What in a tree of fields says that a place is one of them, not only on the way to others."""

_DEFAULTS = {"protocol": "TCP"}
"""Keys of lists that people may leave out."""

_METADATA = (
    "name", "namespace", "uid", "creationTimestamp", "selfLink", "generation", "resourceVersion", "managedFields",
)  # fmt: skip
_UNOWNED = {(), ("f:apiVersion",), ("f:kind",), ("f:metadata",), ("f:spec",), ("f:status",)} | {
    ("f:metadata", f"f:{name}") for name in _METADATA
}
"""Fields that have no owner (apimachinery: pkg/util/managedfields/internal/stripmeta.go)."""


def owned(kind: Kind, subresource: str, fields: Iterable[Path]) -> Fields:
    """Those of ``fields`` that a writer to ``subresource`` can own."""
    of_status = subresource == "status"
    return frozenset(
        path
        for path in fields
        if path not in _UNOWNED and (not kind.status or (path[0] == "f:status") == of_status)
    )  # fmt: skip


def children(schema: Schema | None, value: Any, *, strict: bool = False) -> dict[str, tuple[Schema | None, Any]]:
    """What is in a value that is not atomic, by word: the schema (None: a scalar of a set) and the value of each.

    Args:
        strict: whether elements that cannot be told apart are refused; else the last of them counts, for what is
            stored may have them.

    Raises:
        StatusError: (400) elements of a list lack their keys, or have the same.
    """
    found: dict[str, tuple[Schema | None, Any]] = {}
    if schema is None or schema.atomic or not value:
        return found
    if schema.type != "array":
        return {f"f:{key}": (schema.field(key), each) for key, each in value.items()}
    for each in value:
        keys = {name: each.get(name) or _DEFAULTS.get(name, each.get(name)) for name in schema.list_keys}
        word = f"k:{_json(keys)}" if keys else f"v:{_json(each)}"
        if strict and (lacking := [name for name, key in keys.items() if key is None]):
            raise bad_request(f'an element of a list has no "{lacking[0]}", which is its key')
        if strict and word in found:
            raise bad_request(f"duplicate entries for key {_shown(word)}")
        found[word] = (schema.items if keys else None, each)
    return found


def is_leaf(schema: Schema | None) -> bool:
    """Whether nobody looks into a value of this schema."""
    return schema is None or schema.atomic


def fields_of(schema: Schema, document: Object) -> Fields:
    """The fields that a document has: leaves, elements of lists, and keys of maps.

    Raises:
        StatusError: (400) see :func:`children`.
    """
    return frozenset(_fields(schema, document, ()))


def _fields(schema: Schema | None, value: Any, path: Path) -> Iterator[Path]:
    inner = children(schema, value, strict=True)
    if not inner:
        yield path
        return
    for word, (below, each) in inner.items():
        if not word.startswith("f:"):
            yield (*path, word)
        yield from _fields(below, each, (*path, word))


@dataclass(slots=True)
class Difference:
    """Fields in which one document differs from another."""

    set: Fields = NOTHING
    removed: Fields = NOTHING


def difference(kind: Kind, subresource: str, old: Object, new: Object) -> Difference:
    """What a writer to ``subresource`` set and removed, where it made ``new`` of ``old`` (empty: there was none)."""
    found = list(_differ(kind.schema, old, new, ()))
    return Difference(
        owned(kind, subresource, (path for path, gone in found if not gone)),
        owned(kind, subresource, (path for path, gone in found if gone)),
    )


def _differ(schema: Schema | None, old: Any, new: Any, path: Path) -> Iterator[tuple[Path, bool]]:
    """Each path with whether it is gone; a place that one of them has and the other has not is one as well."""
    if old is None or new is None:
        yield path, new is None
    elif is_leaf(schema) or old == new:
        if old != new:
            yield path, False
        return
    before, after = children(schema, old), children(schema, new)
    for word in before.keys() | after.keys():
        below, was = before.get(word, (None, None))
        inner, is_ = after.get(word, (below, None))
        yield from _differ(inner, was, is_, (*path, word))


# --- as they are written ---


def tree_of(fields: Iterable[Path]) -> dict[str, Any]:
    """Fields as a tree of their words, in which MEMBER is below each of them."""
    tree: dict[str, Any] = {}
    for path in sorted(fields):
        here = tree
        for word in path:
            here = here.setdefault(word, {})
        here[MEMBER] = {}
    return tree


def to_v1(fields: Fields) -> dict[str, Any]:
    """As ``fieldsV1``: MEMBER is written where others are beside it."""
    return _pruned(tree_of(fields))


def _pruned(tree: dict[str, Any]) -> dict[str, Any]:
    return {} if tree.keys() == {MEMBER} else {word: _pruned(each) for word, each in tree.items()}


def from_v1(tree: Any) -> Fields:
    """Undoes :func:`to_v1`. Raises ValueError for what is no set of fields."""
    return frozenset(_read(tree, ()))


def _read(tree: Any, path: Path) -> Iterator[Path]:
    if not isinstance(tree, dict) or len(path) > MAX_DEPTH:
        raise ValueError("is no set of fields")
    if not tree and path:
        yield path
    for word, each in tree.items():
        if word == MEMBER:
            yield path
        elif word[:2] in ("f:", "v:", "k:", "i:"):
            yield from _read(each, (*path, word))
        else:
            raise ValueError("has a word that is none of fieldsV1")


def shown(path: Path) -> str:
    """As conflicts name it: ``.spec.ports[port=80,protocol="TCP"].name``."""
    return "".join(map(_shown, path))


def _shown(word: str) -> str:
    if word.startswith("f:"):
        return f".{word[2:]}"
    try:
        value = msgspec.json.decode(word[2:])
    except (msgspec.DecodeError, RecursionError):  # set by hand
        return f"[{word[2:]}]"
    if word.startswith("k:") and isinstance(value, dict):
        return f"[{','.join(f'{key}={_json(each)}' for key, each in sorted(value.items()))}]"
    return f"[={_json(value)}]"


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
