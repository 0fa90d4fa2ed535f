"""Cuts the definitions of our kinds out of Kubernetes' own (``make definitions``); the result is committed.

The source is PyPI's ``kubernetes-validate``, Apache-2.0: Kubernetes' OpenAPI definitions as JSON schemas. What
it changed for JSON schema's sake is undone here: ``null`` as a second type of everything, and values of ``kind`` and
``apiVersion`` as enumerations. Descriptions and ``x-kubernetes-*`` stay as Kubernetes wrote them.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOTS = (
    "io.k8s.api.core.v1.Service",
    "io.k8s.api.core.v1.Endpoints",
    "io.k8s.api.core.v1.Namespace",
    "io.k8s.api.core.v1.Event",
    "io.k8s.api.core.v1.Pod",
    "io.k8s.api.core.v1.Node",
    "io.k8s.api.discovery.v1.EndpointSlice",
    "io.k8s.api.networking.v1.Ingress",
    "io.k8s.api.networking.v1.IngressClass",
    "io.k8s.api.networking.v1.NetworkPolicy",
)

_KEPT = {
    "io.k8s.api.core.v1.PodSpec": {"nodeName", "hostNetwork", "hostname", "subdomain", "containers", "restartPolicy"},
    "io.k8s.api.core.v1.Container": {"name", "image", "ports", "command", "args"},
    "io.k8s.api.core.v1.PodStatus": {
        "phase", "conditions", "message", "reason", "hostIP", "hostIPs", "podIP", "podIPs", "startTime",
        "containerStatuses",
    },
    "io.k8s.api.core.v1.ContainerStatus": {
        "name", "state", "lastState", "ready", "restartCount", "image", "imageID", "containerID", "started",
    },
    "io.k8s.api.core.v1.NodeSpec": {"podCIDR", "podCIDRs", "unschedulable"},
    "io.k8s.api.core.v1.NodeStatus": {"addresses", "conditions", "nodeInfo", "daemonEndpoints"},
}  # fmt: skip
"""Fields that a pod or a node can have here: they are views of what is, and nobody writes them."""

_REF = "#/$defs/"


def cut(definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The definitions that ROOTS need, by name, as Kubernetes' OpenAPI v2 document has them."""
    wanted, found = list(ROOTS), dict[str, Any]()
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        found[name] = _original(name, definitions[name])
        wanted += _references(found[name])
    return dict(sorted(found.items()))


def _original(name: str, definition: Mapping[str, Any]) -> Any:
    if name.endswith(".IntOrString"):
        return {"type": "string", "format": "int-or-string"}
    if name.endswith(".Quantity"):
        return {"type": "string"}
    kept = _KEPT.get(name)
    restored = _restored(definition)
    if kept is not None:
        restored["properties"] = {key: value for key, value in restored["properties"].items() if key in kept}
        if "required" in restored:
            restored["required"] = [key for key in restored["required"] if key in kept]
    return restored


def _restored(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_restored(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    result = {}
    for key, value in schema.items():
        match key:
            case "type" if isinstance(value, list):
                result[key] = next(each for each in value if each != "null")
            case "additionalProperties" if value is False:
                continue
            case "enum":
                continue  # of kind and apiVersion alone
            case "$ref":
                result[key] = value.replace(_REF, "#/definitions/")
            case "properties":
                result[key] = {name: _restored(each) for name, each in value.items()}
            case _:
                result[key] = _restored(value)
    return result


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for each in schema:
            yield from _references(each)
    elif isinstance(schema, Mapping):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference.removeprefix("#/definitions/")
        for value in schema.values():
            yield from _references(value)


def main(wheel: Path, version: str, target: Path) -> None:
    """Writes ``target``, one definition a line, from ``wheel``'s definitions of Kubernetes ``version`` ("1.37")."""
    path = f"kubernetes_validate/kubernetes-json-schema/v{version}.0-local/_definitions.json"
    with zipfile.ZipFile(wheel) as archive:
        found = cut(json.loads(archive.read(path))["$defs"])
    lines = [f"{json.dumps(name)}: {json.dumps(each, ensure_ascii=False)}" for name, each in found.items()]
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{target}: {len(found)} definitions of Kubernetes {version}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(__file__).with_name("definitions.json"))
