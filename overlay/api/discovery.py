"""Which kinds there are, as clients ask: the old form for all, and the aggregated one for kubectl ≥ 1.27. Pure."""

from __future__ import annotations

import platform
from itertools import groupby
from typing import Any

from overlay.services.objects.kinds import KINDS, Kind

VERSION = "1.32"
"""Of Kubernetes' API that this behaves like; kubectl warns where its own differs by more than one."""

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
"""The content type that tells the aggregated form from the old one."""

SUBRESOURCE_VERBS = ("get", "patch", "update")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def version() -> dict[str, str]:
    """``/version``."""
    major, _, minor = VERSION.partition(".")
    machine = platform.machine()
    return {
        "major": major, "minor": minor, "gitVersion": f"v{VERSION}.0+overlay", "gitCommit": "", "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "",
        "platform": f"linux/{_MACHINES.get(machine, machine)}",
    }  # fmt: skip


def advertised() -> list[Kind]:
    """The kinds that discovery names, in its order."""
    return [kind for kind in KINDS if kind.advertised]


def _groups() -> dict[str, list[Kind]]:
    """The kinds of each group but the core one."""
    named = sorted((kind for kind in advertised() if kind.group), key=lambda kind: kind.group)
    return {group: list(kinds) for group, kinds in groupby(named, lambda kind: kind.group)}


def core_versions() -> dict[str, Any]:
    """``/api``."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def _group(name: str, kinds: list[Kind]) -> dict[str, Any]:
    versions = [
        {"groupVersion": f"{name}/{each}", "version": each} for each in sorted({kind.version for kind in kinds})
    ]
    return {"name": name, "versions": versions, "preferredVersion": versions[-1]}


def groups() -> dict[str, Any]:
    """``/apis``."""
    listed = [_group(name, kinds) for name, kinds in _groups().items()]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def group(name: str) -> dict[str, Any] | None:
    """``/apis/GROUP``; None where there is no such group."""
    kinds = _groups().get(name)
    return None if kinds is None else {"kind": "APIGroup", "apiVersion": "v1", **_group(name, kinds)}


def resources(group: str, version: str) -> dict[str, Any] | None:
    """``/api/v1`` and ``/apis/GROUP/VERSION``; None where there is no such version."""
    kinds = [kind for kind in advertised() if (kind.group, kind.version) == (group, version)]
    if not kinds:
        return None
    listed = [each for kind in kinds for each in _resource(kind)]
    return {
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": kinds[0].api_version, "resources": listed,
    }  # fmt: skip


def _resource(kind: Kind) -> list[dict[str, Any]]:
    common = {"namespaced": kind.namespaced, "kind": kind.name}
    found: list[dict[str, Any]] = [
        {"name": kind.resource, "singularName": kind.singular, **common, "verbs": list(kind.verbs)}
    ]
    if kind.short_names:
        found[0]["shortNames"] = list(kind.short_names)
    if kind.categories:
        found[0]["categories"] = list(kind.categories)
    if kind.status and not kind.view:
        verbs = list(SUBRESOURCE_VERBS)
        found.append({"name": f"{kind.resource}/status", "singularName": "", **common, "verbs": verbs})
    return found


def aggregated(core: bool) -> dict[str, Any]:
    """``/api`` (``core``) or ``/apis`` in the aggregated form, with all resources."""
    by_group = {"": [kind for kind in advertised() if not kind.group]} if core else _groups()
    items = [
        {
            "metadata": {"name": name} if name else {},
            "versions": [
                {"version": version, "freshness": "Current", "resources": [_aggregated(kind) for kind in kinds]}
                for version, kinds in _by_version(of_group)
            ],
        }
        for name, of_group in by_group.items()
    ]
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _by_version(kinds: list[Kind]) -> list[tuple[str, list[Kind]]]:
    return [(version, list(found)) for version, found in groupby(kinds, lambda kind: kind.version)]


def _aggregated(kind: Kind) -> dict[str, Any]:
    what = {"group": kind.group, "version": kind.version, "kind": kind.name}
    described: dict[str, Any] = {
        "resource": kind.resource,
        "responseKind": what,
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": list(kind.verbs),
        "shortNames": list(kind.short_names),
        "categories": list(kind.categories),
    }
    if kind.status and not kind.view:
        described["subresources"] = [
            {"subresource": "status", "responseKind": what, "verbs": list(SUBRESOURCE_VERBS)}
        ]  # fmt: skip
    return described
