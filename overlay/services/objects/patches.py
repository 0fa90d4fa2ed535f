"""The three patches of Kubernetes' API: strategic merge, JSON merge (RFC 7386) and JSON patch (RFC 6902).

A strategic merge patch is merged along the schema: lists with ``x-kubernetes-patch-strategy: merge`` are merged element
by element (apimachinery: pkg/util/strategicpatch/patch.go). Documents that come out are new; those that go in stay as
they are.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import jsonpatch
import jsonpointer
import msgspec

from overlay.services.objects.document import Object
from overlay.services.objects.schema import Schema
from overlay.services.objects.status import StatusError, bad_request

JSON = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
"""Server-side apply, which is no patch of a document alone: see :mod:`~overlay.services.objects.apply`."""

MAX_OPERATIONS = 10_000
"""Of one JSON patch (apiserver: pkg/endpoints/handlers/patch.go)."""

MAX_COPIED = 3 * 1024 * 1024
"""Bytes that the operations ``copy`` of one JSON patch make more (apiserver: JSONPatchMaxCopyBytes)."""

_DIRECTIVE, _RETAIN_KEYS = "$patch", "$retainKeys"
_DELETE_PRIMITIVES, _ORDER = "$deleteFromPrimitiveList/", "$setElementOrder/"


def apply(content_type: str, schema: Schema, document: Object, patch: Any) -> Object:
    """``document`` with ``patch`` applied, whose format is ``content_type``.

    Raises:
        StatusError: (400, 422) the patch makes no sense, or not on this document.
    """
    if content_type == JSON:
        return _json(document, patch)
    if not isinstance(patch, dict):
        raise bad_request("a merge patch is a JSON object")
    result = merge(document, patch) if content_type == MERGE else strategic(schema, document, patch)
    if not isinstance(result, dict):
        raise bad_request("the patch leaves no object")
    return result


def merge(target: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def strategic(schema: Schema | None, target: Any, patch: Any) -> Any:
    """A strategic merge patch of one place in a document, whose schema is ``schema`` (None: an unknown field)."""
    if not isinstance(patch, dict):
        return deepcopy(patch)
    directive = patch.get(_DIRECTIVE)
    if directive == "delete":
        return {}
    if directive == "replace":
        return {key: deepcopy(value) for key, value in patch.items() if key != _DIRECTIVE}
    if directive not in (None, "merge"):
        raise _nonsense(f"{_DIRECTIVE}: {directive!r}")
    result = dict(target) if isinstance(target, dict) else {}
    if (retained := patch.get(_RETAIN_KEYS)) is not None:
        result = {key: value for key, value in result.items() if key in _listed(retained)}
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        below = schema.field(key) if schema is not None and schema.type in ("object", "map") else None
        if value is None:
            result.pop(key, None)
        elif isinstance(value, list) and below is not None and below.type == "array" and below.merges:
            result[key] = _merge_list(below, _listed(result.get(key) or []), value)
        else:
            result[key] = strategic(below, result.get(key), value)
    _delete_primitives(result, patch)
    _set_order(schema, result, patch)
    return result


def _merge_list(schema: Schema, target: list[Any], patch: list[Any]) -> list[Any]:
    key = schema.merge_key
    if not key:
        return [*target, *(each for each in patch if each not in target)]
    if any(not isinstance(each, dict) for each in patch):
        raise _nonsense(f"elements of a list that is merged by {key} are objects")
    if any(each.get(_DIRECTIVE) == "replace" for each in patch):
        return [deepcopy(each) for each in patch if each.get(_DIRECTIVE) != "replace"]
    result = [dict(each) for each in target if isinstance(each, dict)]
    for each in patch:
        if key not in each:
            raise _nonsense(f"map: {each} does not contain declared merge key: {key}")
        if each.get(_DIRECTIVE) == "delete":
            result = [old for old in result if old.get(key) != each[key]]
            continue
        index = next((i for i, old in enumerate(result) if old.get(key) == each[key]), None)
        if index is None:
            result.append(strategic(schema.items, {}, each))
        else:
            result[index] = strategic(schema.items, result[index], each)
    return result


def _delete_primitives(result: dict[str, Any], patch: dict[str, Any]) -> None:
    for directive, values in patch.items():
        name = directive.removeprefix(_DELETE_PRIMITIVES)
        if name != directive and isinstance(result.get(name), list):
            result[name] = [each for each in result[name] if each not in _listed(values)]


def _set_order(schema: Schema | None, result: dict[str, Any], patch: dict[str, Any]) -> None:
    """Sorts the lists that the patch gives an order for; elements that it does not name come last."""
    for directive, order in patch.items():
        name = directive.removeprefix(_ORDER)
        if name == directive or not isinstance(result.get(name), list):
            continue
        below = schema.field(name) if schema is not None and schema.type == "object" else None
        key = below.merge_key if below is not None and below.type == "array" else ""
        wanted = [_identity(each, key) for each in _listed(order)]
        result[name] = sorted(
            result[name],
            key=lambda each: wanted.index(found) if (found := _identity(each, key)) in wanted else len(wanted),
        )


def _identity(element: Any, key: str) -> Any:
    return element.get(key) if key and isinstance(element, dict) else element


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _nonsense(f"a list is expected, not {str(value)[:64]}")
    return value


def _nonsense(what: str) -> StatusError:
    return bad_request(f"invalid strategic merge patch: {what}")


def _json(document: Object, patch: Any) -> Object:
    if not isinstance(patch, list):
        raise bad_request("a JSON patch is a list of operations")
    if len(patch) > MAX_OPERATIONS:
        raise StatusError(
            413, "RequestEntityTooLarge",
            f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(patch)}",
        )  # fmt: skip
    try:
        jsonpatch.JsonPatch(patch)  # all of them make sense, before one is carried out
        result, copied = deepcopy(document), 0
        for operation in patch:
            if operation["op"] == "copy":
                copied += len(msgspec.json.encode(jsonpointer.resolve_pointer(result, operation.get("from", ""), None)))
                if copied > MAX_COPIED:
                    raise jsonpatch.JsonPatchConflict(f"its copies are of more than {MAX_COPIED} bytes")
            result = jsonpatch.JsonPatch([operation]).apply(result, in_place=True)
    except (jsonpatch.InvalidJsonPatch, jsonpointer.JsonPointerException, TypeError, AttributeError) as error:
        raise bad_request(f"error decoding patch: {error}") from None
    except jsonpatch.JsonPatchException as error:  # a test that fails, a path that is not there
        message = f"the server rejected our request due to an error in our request: {error}"
        raise StatusError(422, "Invalid", message) from None
    if not isinstance(result, dict):
        raise bad_request("the patch leaves no object")
    return result
