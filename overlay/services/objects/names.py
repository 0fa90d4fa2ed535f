"""Rules that names, labels and addresses obey (apimachinery: pkg/util/validation/validation.go, with its sentences).

Each function returns what is wrong with a text, nothing if it is right.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, NetmaskValueError

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"


def _format(text: str, pattern: str, limit: int, told: str) -> list[str]:
    wrong = [] if re.fullmatch(pattern, text) else [told]
    return wrong + ([] if len(text) <= limit else [f"must be no more than {limit} characters"])


def dns_label(text: str) -> list[str]:
    """RFC 1123: a namespace, a port's name."""
    return _format(text, _LABEL, 63,
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
        "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
        f"'{_LABEL}')")  # fmt: skip


def dns_1035_label(text: str) -> list[str]:
    """RFC 1035: a Service's name."""
    return _format(text, _LABEL_1035, 63,
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
        "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation "
        f"is '{_LABEL_1035}')")  # fmt: skip


def dns_subdomain(text: str) -> list[str]:
    """RFC 1123: the name of most objects."""
    return _format(text, _SUBDOMAIN, 253,
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
        "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
        f"'{_LABEL}(\\.{_LABEL})*')")  # fmt: skip


def wildcard_subdomain(text: str) -> list[str]:
    """``*.example.com``."""
    return _format(text, rf"\*\.{_SUBDOMAIN}", 253,
        "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of "
        "lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', "
        f"regex used for validation is '\\*\\.{_LABEL}(\\.{_LABEL})*')")  # fmt: skip


def qualified_name(text: str) -> list[str]:
    """The key of a label or an annotation: ``name`` or ``prefix/name``."""
    prefix, slash, name = text.rpartition("/")
    wrong = []
    if slash:
        wrong = [f"prefix part {each}" for each in (dns_subdomain(prefix) if prefix else ["must be non-empty"])]
    if not name:
        return [*wrong, "name part must be non-empty"]
    return wrong + _format(name, _QUALIFIED, 63,
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
        "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
        f"'{_QUALIFIED}')")  # fmt: skip


def label_value(text: str) -> list[str]:
    """The value of a label."""
    return _format(text, _VALUE, 63,
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
        "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
        f"validation is '{_VALUE}')")  # fmt: skip


def port_number(number: int) -> list[str]:
    """TCP's and UDP's."""
    return [] if 1 <= number <= 65535 else ["must be between 1 and 65535, inclusive"]


def port_name(text: str) -> list[str]:
    """An IANA service name: how a targetPort names a container's port."""
    wrong = []
    if not re.fullmatch(r"[-a-z0-9]+", text):
        wrong.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search(r"[a-z]", text):
        wrong.append("must contain at least one letter (a-z)")
    if "--" in text:
        wrong.append("must not contain consecutive hyphens")
    if text.startswith("-") or text.endswith("-"):
        wrong.append("must not begin or end with a hyphen")
    return wrong + ([] if len(text) <= 15 else ["must be no more than 15 characters"])


def address(text: str) -> list[str]:
    """An IPv4 or IPv6 address."""
    for kind in (IPv4Address, IPv6Address):
        try:
            kind(text)
        except AddressValueError:
            continue
        return []
    return ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]


def usable_address(text: str) -> list[str]:
    """An address that an endpoint can have: not one that means something else (core: ValidateNonSpecialIP)."""
    if wrong := address(text):
        return wrong
    parsed = IPv6Address(text) if ":" in text else IPv4Address(text)
    for is_so, told in (
        (parsed.is_unspecified, f"may not be unspecified ({text})"),
        (parsed.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (parsed.is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (parsed.is_multicast and parsed in IPv4Network("224.0.0.0/24") if isinstance(parsed, IPv4Address) else False,
         "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ):  # fmt: skip
        if is_so:
            return [told]
    return []


def cidr(text: str) -> list[str]:
    """An IPv4 network in CIDR notation; bits of the host may be set, as people write them."""
    try:
        IPv4Network(text, strict=False)
    except (AddressValueError, NetmaskValueError):
        return ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]
    return [] if "/" in text else ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]
