"""What the fields of our kinds are, as ``kubectl explain``, ``apply`` and ``diff`` ask: OpenAPI v3, and v2's document.

Made of the same definitions that validation and patches use. Pure; built once.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import msgspec

from overlay import __version__
from overlay.api.discovery import advertised
from overlay.services.objects.kinds import Kind
from overlay.services.objects.schema import definitions

INFO = {"title": "overlay: Kubernetes' objects of the network", "version": __version__}

_WRITES = {"post": "create", "put": "update", "patch": "patch", "delete": "delete"}
_GVK = "x-kubernetes-group-version-kind"


def group_paths() -> dict[str, list[Kind]]:
    """The kinds by the path of their group and version: ``api/v1``, ``apis/discovery.k8s.io/v1``."""
    found: dict[str, list[Kind]] = {}
    for kind in advertised():
        found.setdefault(f"apis/{kind.api_version}" if kind.group else "api/v1", []).append(kind)
    return found


def urls(kind: Kind) -> tuple[str, str]:
    """Where the objects of a kind are, and one of them, with OpenAPI's parameters."""
    root = f"/apis/{kind.api_version}" if kind.group else f"/{'api'}/{kind.api_version}"
    collection = f"{root}/namespaces/{{namespace}}/{kind.resource}" if kind.namespaced else f"{root}/{kind.resource}"
    return collection, collection + "/{name}"


def operations(kind: Kind) -> list[tuple[str, str, str]]:
    """What may be done: (URL, HTTP method, verb)."""
    collection, one = urls(kind)
    found = [(collection, "get", "list"), (one, "get", "get")]
    for url, method in ((collection, "post"), (one, "put"), (one, "patch"), (one, "delete")):
        if _WRITES[method] in kind.verbs:
            found.append((url, method, _WRITES[method]))
    return found


def gvk(kind: Kind) -> dict[str, str]:
    """Group, version and kind, as extensions name them."""
    return {"group": kind.group, "kind": kind.name, "version": kind.version}


@cache
def v2() -> dict[str, Any]:
    """The document of OpenAPI v2 (``/openapi/v2``), which is sent in protobuf to kubectl."""
    paths: dict[str, Any] = {}
    for kind in advertised():
        for url, method, verb in operations(kind):
            parameters = [
                {"in": "query", "name": name, "type": "string"}
                for name in ("dryRun", "fieldManager", "fieldValidation")
                if method != "get"
            ]
            paths.setdefault(url, {})[method] = {
                "operationId": f"{verb}{kind.name}",
                "parameters": parameters,
                "responses": {"200": {"description": "OK"}},
                _GVK: gvk(kind),
                "x-kubernetes-action": verb,
            }
    return {"swagger": "2.0", "info": INFO, "paths": paths, "definitions": definitions()}


@cache
def v3(path: str) -> bytes | None:
    """The document of OpenAPI v3 of one group and version (``apis/discovery.k8s.io/v1``) in JSON; None: no such."""
    kinds = group_paths().get(path)
    if kinds is None:
        return None
    paths: dict[str, Any] = {}
    for kind in kinds:
        reference = {"$ref": f"#/components/schemas/{kind.definition}"}
        for url, method, verb in operations(kind):
            operation: dict[str, Any] = {
                "operationId": f"{verb}{kind.name}",
                "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}},
                _GVK: gvk(kind),
                "x-kubernetes-action": verb,
            }
            if method != "get":
                operation["parameters"] = [
                    {"in": "query", "name": name, "schema": {"type": "string", "uniqueItems": True}}
                    for name in ("dryRun", "fieldManager", "fieldValidation")
                ]
            paths.setdefault(url, {})[method] = operation
    schemas = {name: _v3_schema(each) for name, each in sorted(_needed(kinds).items())}
    return msgspec.json.encode({"openapi": "3.0.0", "info": INFO, "paths": paths, "components": {"schemas": schemas}})


@cache
def v3_index() -> dict[str, Any]:
    """``/openapi/v3``: where each document is; the hash in its URL changes with it."""
    found = {}
    for path in group_paths():
        digest = hashlib.sha256(v3(path) or b"").hexdigest()[:32].upper()
        found[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": found}


def _needed(kinds: list[Kind]) -> dict[str, Any]:
    """The definitions that some kinds use."""
    wanted, found = [kind.definition for kind in kinds], dict[str, Any]()
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = definitions()[name]
            wanted += _references(found[name])
    return found


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [name for each in schema for name in _references(each)]
    if not isinstance(schema, dict):
        return []
    own = [schema["$ref"].rpartition("/")[2]] if isinstance(schema.get("$ref"), str) else []
    return own + [name for each in schema.values() for name in _references(each)]


def _v3_schema(schema: Any) -> Any:
    """A schema of v2 as v3 writes it: a reference has no neighbours, and a number or a text is one of two."""
    if isinstance(schema, list):
        return [_v3_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string":
        return {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}
    if isinstance(reference := schema.get("$ref"), str):
        target = {"$ref": reference.replace("#/definitions/", "#/components/schemas/")}
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return {**rest, "allOf": [target], "default": {}} if rest else target
    return {key: _v3_schema(value) for key, value in schema.items()}
