"""The rules of Ingress, IngressClass and NetworkPolicy (pkg/apis/networking/validation/validation.go)."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

from overlay.services.objects import names
from overlay.services.objects.document import Object, annotations_of, spec_of
from overlay.services.objects.status import Fault, forbidden, invalid, not_supported, required
from overlay.services.objects.validation.common import PROTOCOLS, by, label_selector, one_of, port_number_or_name

_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_OLD_CLASS = "kubernetes.io/ingress.class"


def faults_of_ingress(obj: Object) -> Iterator[Fault]:
    """What is wrong with an Ingress."""
    spec = spec_of(obj)
    rules = spec.get("rules") or []
    if not rules and not spec.get("defaultBackend"):
        yield invalid("spec", rules, "either `defaultBackend` or `rules` must be specified")
    if "ingressClassName" in spec:
        if _OLD_CLASS in annotations_of(obj):
            yield invalid(f"annotations.{_OLD_CLASS}", annotations_of(obj)[_OLD_CLASS],
                          "can not be set when the class field is also set")  # fmt: skip
        yield from by(names.dns_subdomain, "spec.ingressClassName", spec["ingressClassName"])
    if backend := spec.get("defaultBackend"):
        yield from _backend("spec.defaultBackend", backend)
    for index, tls in enumerate(spec.get("tls") or ()):
        for i, host in enumerate(tls.get("hosts") or ()):
            yield from _host(f"spec.tls[{index}].hosts[{i}]", host)
    for index, rule in enumerate(rules):
        yield from _rule(f"spec.rules[{index}]", rule)


def _host(path: str, host: str) -> Iterator[Fault]:
    if not names.address(host):
        yield invalid(path, host, "must be a DNS name, not an IP address")
    yield from by(names.wildcard_subdomain if "*" in host else names.dns_subdomain, path, host)


def _rule(path: str, rule: dict[str, Any]) -> Iterator[Fault]:
    if rule.get("host"):
        yield from _host(f"{path}.host", rule["host"])
    if "http" not in rule:
        return
    paths = rule["http"].get("paths") or []
    if not paths:
        yield required(f"{path}.http.paths")
    for index, each in enumerate(paths):
        below = f"{path}.http.paths[{index}]"
        kind, text = each.get("pathType", ""), each.get("path", "")
        if not kind:
            yield required(f"{below}.pathType", "pathType must be specified")
        elif kind not in _PATH_TYPES:
            yield not_supported(f"{below}.pathType", kind, _PATH_TYPES)
        elif kind != "ImplementationSpecific" or text:
            yield from _path(f"{below}.path", text, kind)
        yield from _backend(f"{below}.backend", each["backend"])


def _path(path: str, text: str, kind: str) -> Iterator[Fault]:
    if not text.startswith("/"):
        yield invalid(path, text, "must be an absolute path")
    if kind != "ImplementationSpecific":
        for part in ("//", "/./", "/../", "%2f", "%2F"):
            if part in text:
                yield invalid(path, text, f"must not contain '{part}'")
        for part in ("/..", "/."):
            if text.endswith(part):
                yield invalid(path, text, f"cannot end with '{part}'")


def _backend(path: str, backend: dict[str, Any]) -> Iterator[Fault]:
    service, resource = backend.get("service"), backend.get("resource")
    if service and resource:
        yield invalid(path, "", "cannot set both resource and service backends")
    elif service:
        yield from by(names.dns_1035_label, f"{path}.service.name", service["name"])
        port = service.get("port") or {}
        if port.get("name") and port.get("number"):
            yield invalid(path, "", "cannot set both port name & port number")
        elif port.get("name"):
            yield from by(names.port_name, f"{path}.service.port.name", port["name"])
        elif "number" in port:
            yield from by(names.port_number, f"{path}.service.port.number", port["number"])
        else:
            yield required(path, "port name or number is required")
    elif not resource:
        yield invalid(path, "", "resource or service backend is required")


def faults_of_class(obj: Object) -> Iterator[Fault]:
    """What is wrong with an IngressClass."""
    controller = spec_of(obj).get("controller", "")
    if not controller:
        yield required("spec.controller")
    elif "/" not in controller:
        yield invalid("spec.controller", controller, 'must be a domain-prefixed path (such as "acme.io/foo")')
    else:
        yield from by(names.dns_subdomain, "spec.controller", controller.partition("/")[0])


def faults_of_change(old: Object, new: Object) -> Iterator[Fault]:
    """What may not change of an IngressClass."""
    if spec_of(old).get("controller") != (after := spec_of(new).get("controller")):
        yield invalid("spec.controller", after, "field is immutable")


def faults_of_policy(obj: Object) -> Iterator[Fault]:
    """What is wrong with a NetworkPolicy."""
    spec = spec_of(obj)
    yield from label_selector("spec.podSelector", spec.get("podSelector") or {})
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            path = f"spec.{direction}[{index}]"
            for i, port in enumerate(rule.get("ports") or ()):
                yield from _policy_port(f"{path}.ports[{i}]", port)
            for i, peer in enumerate(rule.get(peers) or ()):
                yield from _peer(f"{path}.{peers}[{i}]", peer)
    types = spec.get("policyTypes") or []
    if len(types) > 2:
        yield invalid("spec.policyTypes", types, "may not specify more than two policyTypes")
    for index, each in enumerate(types):
        yield from one_of(f"spec.policyTypes[{index}]", each, ("Egress", "Ingress"))


def _policy_port(path: str, port: dict[str, Any]) -> Iterator[Fault]:
    yield from one_of(f"{path}.protocol", port.get("protocol", ""), PROTOCOLS)
    if "port" in port:
        yield from port_number_or_name(f"{path}.port", port["port"])
    if "endPort" in port:
        first = port.get("port")
        if first is None:
            yield required(f"{path}.endPort", "must be specified with `port`")
        elif isinstance(first, str):
            yield invalid(f"{path}.endPort", first, "may not be specified when `port` is non-numeric")
        elif port["endPort"] < first:
            yield invalid(f"{path}.endPort", port["endPort"], "must be greater than or equal to `port`")
        else:
            yield from by(names.port_number, f"{path}.endPort", port["endPort"])


def _peer(path: str, peer: dict[str, Any]) -> Iterator[Fault]:
    selectors = [field for field in ("podSelector", "namespaceSelector") if field in peer]
    for field in selectors:
        yield from label_selector(f"{path}.{field}", peer[field])
    if "ipBlock" in peer:
        if selectors:
            yield forbidden(path, "may not specify both ipBlock and another peer")
        yield from _block(f"{path}.ipBlock", peer["ipBlock"])
    elif not selectors:
        yield required(path, "must specify a peer")


def _block(path: str, block: dict[str, Any]) -> Iterator[Fault]:
    wrong = list(by(_network, f"{path}.cidr", block.get("cidr", "")))
    yield from wrong
    for index, text in enumerate(block.get("except") or ()):
        below = f"{path}.except[{index}]"
        mistakes = list(by(_network, below, text))
        yield from mistakes
        if not wrong and not mistakes:
            outer, inner = ip_network(block["cidr"], strict=False), ip_network(text, strict=False)
            if outer.version != inner.version or not inner.subnet_of(outer) or inner == outer:  # type: ignore[arg-type]
                yield invalid(below, text, f"must be a strict subset of `cidr` - {block['cidr']}")


def _network(text: str) -> list[str]:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]
    return [] if "/" in text else ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]
