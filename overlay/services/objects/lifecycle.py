"""What becomes of a document on its way into etcd: what the server owns is set, defaults are filled in, rules checked.

Pure: time and uid come from the caller. The order is that of Kubernetes' registry (apiserver: pkg/registry/rest).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from overlay.services.objects import validation
from overlay.services.objects.defaults import fill_in
from overlay.services.objects.document import Object, copy, metadata_of, name_of, spec_of
from overlay.services.objects.kinds import Kind
from overlay.services.objects.status import Fault, bad_request, unprocessable
from overlay.services.objects.validation import meta

_SERVERS = (
    "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "resourceVersion",
    "selfLink", "managedFields",
)  # fmt: skip
"""Fields of ``metadata`` that people cannot set."""

_GENERATED = 5
"""Characters after ``generateName``."""

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Of generated names: no vowels, so no words (apimachinery: pkg/util/rand)."""


def timestamp(now: datetime) -> str:
    """A time as objects have it: UTC, whole seconds."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def for_create(kind: Kind, given: Object, namespace: str, now: datetime, uid: str) -> Object:
    """The object that a decoded document becomes when it is made.

    Args:
        namespace: of the URL; empty for kinds without namespaces.

    Raises:
        StatusError: (400, 422) it cannot be made.
    """
    obj = copy(given)
    metadata: dict[str, Any] = obj["metadata"]
    for field in _SERVERS:
        metadata.pop(field, None)
    if metadata.get("namespace", namespace) != namespace and kind.namespaced:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    if kind.namespaced:
        metadata["namespace"] = namespace
    if not metadata.get("name") and (start := metadata.get("generateName")):
        metadata["name"] = start[: 63 - _GENERATED] + _suffix(uid)
    metadata["uid"] = uid
    metadata["creationTimestamp"] = timestamp(now)
    if kind.generation:
        metadata["generation"] = 1
    if kind.status:
        obj.pop("status", None)
    fill_in(kind, obj)
    check(kind, obj, validation.faults(kind, obj))
    return obj


def for_update(kind: Kind, old: Object, given: Object, *, status: bool = False) -> Object:
    """The object that ``old`` becomes where a decoded document replaces it, or its status.

    Raises:
        StatusError: (422) it cannot become that.
    """
    if status:
        obj = copy(old)
        if "status" in given:
            obj["status"] = copy(given["status"])
        else:
            obj.pop("status", None)
        fill_in(kind, obj)
        check(kind, obj, validation.faults_of_status(kind, old, obj))
        return obj
    obj = copy(given)
    metadata: dict[str, Any] = obj["metadata"]
    faults = list(meta.faults_of_change(old, given))
    for field in (*_SERVERS, "name", "namespace"):
        metadata.pop(field, None)
        if field in metadata_of(old):
            metadata[field] = metadata_of(old)[field]
    if kind.status:
        obj.pop("status", None)
        if "status" in old:
            obj["status"] = copy(old["status"])
    if kind.resource == "services":
        keep_allocated(spec_of(old), obj.setdefault("spec", {}))
        if spec_of(obj).get("type") != "LoadBalancer":
            obj.get("status", {}).pop("loadBalancer", None)
    fill_in(kind, obj)
    faults = faults or validation.faults(kind, obj) or validation.faults_of_change(kind, old, obj)
    check(kind, obj, faults)
    if kind.generation and _content(old) != _content(obj):
        metadata["generation"] = int(metadata.get("generation", 1)) + 1
    return obj


def check(kind: Kind, obj: Object, faults: list[Fault]) -> None:
    """Raises StatusError (422) for an object that has faults."""
    if faults:
        raise unprocessable(kind, name_of(obj), faults)


def _content(obj: Object) -> dict[str, Any]:
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")}


def _suffix(uid: str) -> str:
    number, text = int(uid.replace("-", ""), 16), ""
    for _ in range(_GENERATED):
        number, digit = divmod(number, len(_ALPHABET))
        text += _ALPHABET[digit]
    return text


# --- what a Service was given stays its own, or goes with its reason (pkg/registry/core/service/strategy.go) ---

_ADDRESSED = ("ClusterIP", "NodePort", "LoadBalancer")
_EXPOSED = ("NodePort", "LoadBalancer")


def keep_allocated(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Puts what ``old`` was given and ``new`` does not mention into ``new``, and takes out what its type cannot have.

    So a manifest without ``clusterIP`` may replace a Service, and a change of ``type`` needs no other.
    """
    before, after = old.get("type", "ClusterIP"), new.get("type", "ClusterIP")
    if new.get("clusterIP") != old.get("clusterIP") and new.get("clusterIPs") == old.get("clusterIPs"):
        new.pop("clusterIPs", None)  # who changes the one means the other too
    if before in _ADDRESSED and after in _ADDRESSED:
        if not new.get("clusterIP") and not new.get("clusterIPs"):
            _take(old, new, "clusterIP", "clusterIPs")
        if not new.get("ipFamilies"):
            _take(old, new, "ipFamilies")
    elif before in _ADDRESSED:
        _drop_if_kept(old, new, "clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy")
    if before in _EXPOSED and after in _EXPOSED:
        _keep_node_ports(old.get("ports") or [], new.get("ports") or [])
    elif before in _EXPOSED:
        former = {port.get("nodePort") for port in old.get("ports") or ()}
        for port in new.get("ports") or ():
            if port.get("nodePort") in former:
                port.pop("nodePort", None)
        if not new.get("externalIPs"):
            _drop_if_kept(old, new, "externalTrafficPolicy")
    if after != "LoadBalancer":
        _drop_if_kept(
            old, new, "allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort",
        )  # fmt: skip


def _keep_node_ports(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    """A port keeps its node port where its name is the same, as in Kubernetes, and where the rest of it is."""
    for identity in (_by_name, _by_number):
        known = {identity(port): port.get("nodePort") for port in old}
        used = {port.get("nodePort") for port in new}
        for port in new:
            number = known.get(identity(port))
            if number and not port.get("nodePort") and number not in used:
                port["nodePort"] = number


def _by_name(port: dict[str, Any]) -> Any:
    return port.get("name", "")


def _by_number(port: dict[str, Any]) -> Any:
    return port.get("protocol") or "TCP", port.get("port")


def _take(old: dict[str, Any], new: dict[str, Any], *fields: str) -> None:
    for field in fields:
        if old.get(field):
            new[field] = old[field]


def _drop_if_kept(old: dict[str, Any], new: dict[str, Any], *fields: str) -> None:
    """A field that somebody sets to something else stays, and is refused with a sentence."""
    for field in fields:
        if field in new and new[field] == old.get(field):
            del new[field]
