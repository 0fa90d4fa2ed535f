"""Names, labels and ports as Kubernetes takes them, and what becomes of those that it does not. Pure.

Rules: k8s.io/apimachinery ``pkg/util/validation/validation.go``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"(?=.{{1,253}}$){_LABEL.pattern}(\.{_LABEL.pattern})*")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]{1,5}")
_NOT_IN_LABEL = re.compile(r"[^a-z0-9]+")

LONGEST = 63
"""Characters of a DNS label (RFC 1035, 2.3.4)."""

PROTOCOLS = ("TCP", "UDP", "SCTP")


def is_dns_label(text: str) -> bool:
    """Whether it may be a namespace, a host name or a container's name."""
    return _LABEL.fullmatch(text) is not None


def is_dns_subdomain(text: str) -> bool:
    """Whether it may be a node's name, or an object's."""
    return _SUBDOMAIN.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Whether it may be a label's or an annotation's key: a name, perhaps with a domain and a slash before it."""
    prefix, slash, name = text.rpartition("/")
    return _NAME.fullmatch(name) is not None and (not slash or is_dns_subdomain(prefix))


def is_label_value(text: str) -> bool:
    """Whether it may be a label's value."""
    return not text or _NAME.fullmatch(text) is not None


def is_port_name(text: str) -> bool:
    """Whether a container's port may be called so (RFC 6335, 5.1)."""
    return _PORT_NAME.fullmatch(text) is not None


def dns_label(text: str, longest: int = LONGEST) -> str:
    """The nearest DNS label: lower case, hyphens for all else, cut to ``longest``; empty where nothing is left."""
    return _NOT_IN_LABEL.sub("-", text.lower()).strip("-")[:longest].rstrip("-")


@dataclass(frozen=True, slots=True)
class Port:
    """A container's port; the name may be empty."""

    number: int
    protocol: str = "TCP"
    name: str = ""


def parse_ports(text: str) -> tuple[list[Port], list[str]]:
    """``http=80,dns=53/UDP,9090`` as ports, and a sentence for each part that is none.

    Of two ports with one name, or with one number and protocol, the first counts.
    """
    ports: list[Port] = []
    faults: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, rest = part.rpartition("=")
        number, _, protocol = rest.strip().partition("/")
        port = Port(int(number) if _NUMBER.fullmatch(number) else 0, (protocol or "TCP").upper(), name.strip())
        if equals and not is_port_name(port.name):
            faults.append(
                f"{part!r}: {port.name!r} is no port's name (up to 15 of a-z, 0-9 and -, one letter at least)"
            )
        elif not 0 < port.number < 65536:
            faults.append(f"{part!r}: {number!r} is no port")
        elif port.protocol not in PROTOCOLS:
            faults.append(f"{part!r}: {protocol!r} is none of {', '.join(PROTOCOLS)}")
        elif any(_collide(port, other) for other in ports):
            faults.append(f"{part!r}: named before")
        else:
            ports.append(port)
    return ports, faults


def _collide(one: Port, other: Port) -> bool:
    return bool(one.name and one.name == other.name) or (one.number, one.protocol) == (other.number, other.protocol)


def sort_out(labels: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Docker's labels as Kubernetes' labels, as annotations where only the value is no label's, and the rest."""
    fit: dict[str, str] = {}
    unfit_value: dict[str, str] = {}
    unfit_key: dict[str, str] = {}
    for key, value in sorted(labels.items()):
        target = unfit_key if not is_label_key(key) else fit if is_label_value(value) else unfit_value
        target[key] = value
    return fit, unfit_value, unfit_key
