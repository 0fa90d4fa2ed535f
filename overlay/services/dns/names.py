"""What a name below the cluster's domain asks for. Pure.

Kubernetes' DNS specification 1.1.0; where it is silent, as CoreDNS reads names (``plugin/kubernetes/parse.go``)::

    <domain>                                        APEX
    dns-version.<domain>                            VERSION
    ns.dns.<domain>                                 SERVER
    dns. svc. pod. <domain>                         MIDDLE: they exist, and have no records
    <namespace>.svc.<domain>                        NAMESPACE
    <service>.<namespace>.svc.<domain>              SERVICE
    <endpoint>.<service>.<namespace>.svc.<domain>   ENDPOINT
    _<port>._<protocol>.<service>.<namespace>.svc…  SERVICE, of one port
    <namespace>.pod.<domain>                        NAMESPACE
    a-b-c-d.<namespace>.pod.<domain>                POD
    anything else                                   NOTHING

Everything compares without regard to case. An asterisk is a label like any other, which nothing has.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address, ip_address

from overlay.services.dns.records import Labels, lowered

Address = IPv4Address | IPv6Address

_REVERSE: dict[Labels, int] = {("in-addr", "arpa"): 4, ("ip6", "arpa"): 32}
"""Labels below each (RFC 1035 section 3.5, RFC 3596 section 2.5)."""


_DASHED = frozenset("0123456789abcdef-")
"""What a dashed address is made of: in a question a label may have any byte, also a dot."""


class Asks(Enum):
    """What a name is the name of."""

    APEX = auto()
    VERSION = auto()
    SERVER = auto()
    MIDDLE = auto()
    NAMESPACE = auto()
    SERVICE = auto()
    ENDPOINT = auto()
    POD = auto()
    NOTHING = auto()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A name taken apart, in lower case; what it does not tell is empty.

    Attributes:
        branch: ``svc`` or ``pod``.
        name: of the Service, or of the pod by its address (``10-0-5-7``).
        endpoint: by its host name or address.
        port, protocol: without their underscores; empty for all.
    """

    asks: Asks
    branch: str = ""
    namespace: str = ""
    name: str = ""
    endpoint: str = ""
    port: str = ""
    protocol: str = ""


_PLAIN = {
    (): Asks.APEX,
    ("dns-version",): Asks.VERSION,
    ("ns", "dns"): Asks.SERVER,
    ("dns",): Asks.MIDDLE,
    ("svc",): Asks.MIDDLE,
    ("pod",): Asks.MIDDLE,
}


def below(labels: Labels, domain: Labels) -> Labels | None:
    """The labels in front of ``domain``; None where the name is not below it. Both in lower case."""
    if not domain:
        return labels
    return labels[: -len(domain)] if labels[-len(domain) :] == domain else None


def wanted(labels: Labels) -> Wanted:
    """What the labels in front of the domain ask for."""
    rest = lowered(labels)
    if (plain := _PLAIN.get(rest)) is not None:
        return Wanted(plain)
    *before, branch = rest
    if branch not in ("svc", "pod") or len(before) > (4 if branch == "svc" else 2) or "" in rest:
        return Wanted(Asks.NOTHING)
    namespace = before.pop()
    if not before:
        return Wanted(Asks.NAMESPACE, branch, namespace)
    name = before.pop()
    if branch == "pod":
        return Wanted(Asks.POD, branch, namespace, name)
    if not before:
        return Wanted(Asks.SERVICE, branch, namespace, name)
    if len(before) == 1:
        return Wanted(Asks.ENDPOINT, branch, namespace, name, endpoint=before[0])
    port, protocol = (label.removeprefix("_") for label in before)
    return Wanted(Asks.SERVICE, branch, namespace, name, port=port, protocol=protocol)


def dashed(address: str) -> str:
    """An address as a label: what endpoints without host name are called.

    Of IPv6 without the dots that Python writes from 3.13 on where IPv4 is mapped: the label would be another address's.
    """
    head, colon, last = address.rpartition(":")
    if colon and "." in last:
        high, low = divmod(int(IPv4Address(last)), 1 << 16)
        address = f"{head}:{high:x}:{low:x}"
    return address.replace(".", "-").replace(":", "-")


def undashed(label: str) -> Address | None:
    """Undoes :func:`dashed`; None for a label that is no address, or is one without being dashed."""
    if not set(label.lower()) <= _DASHED:
        return None
    is_v4 = label.count("-") == 3 and "--" not in label
    try:
        return ip_address(label.replace("-", "." if is_v4 else ":"))
    except ValueError:
        return None


def reversed_address(labels: Labels) -> Address | None:
    """The address that a name below ``in-addr.arpa`` or ``ip6.arpa`` is of; None for any other name."""
    rest = lowered(labels)
    count = _REVERSE.get(rest[-2:])
    digits = rest[:-2]
    if count is None or len(digits) != count:
        return None
    try:
        if count == 4:
            return IPv4Address(".".join(reversed(digits)))
        if any(len(digit) != 1 for digit in digits):
            return None
        return IPv6Address(int("".join(reversed(digits)), 16))
    except ValueError:
        return None


def reverse_name(address: Address) -> str:
    """Undoes :func:`reversed_address`."""
    return address.reverse_pointer + "."
