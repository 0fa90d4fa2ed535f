"""Where things are in etcd, as flannel has them: ``<prefix>/config``, and a key a lease under ``<prefix>/subnets/``.

``10.5.52.0-24`` is the last part of a lease's key, ``10.5.52.0-24&fd00:5:52::-64`` that of one of both families
(flannel: ``pkg/subnet/subnet.go``).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from posixpath import normpath

from overlay.errors import LeaseFormatError
from overlay.text import excerpt

_LEASE_KEY = re.compile(r"([0-9]+\.[0-9]+.[0-9]+.[0-9]+)-([0-9]+)(?:&([0-9a-fA-F:.]+)-([0-9]+))?\Z")
"""What flannel takes for a lease's key (``subnetRegex``): the end of it, whatever stands before."""

_KEY_TAIL = 160
"""Characters at a key's end that may name subnets: two addresses and lengths, and zeros before them."""

_MAX_LEN_V4 = 31
_MAX_LEN_V6 = 127


def config_key(prefix: str) -> str:
    """Where the network's config is: ``/coreos.com/network`` gives ``/coreos.com/network/config``."""
    return _joined(prefix, "config")


def subnets_prefix(prefix: str) -> str:
    """What every lease's key begins with: ``/coreos.com/network`` gives ``/coreos.com/network/subnets/``."""
    return f"{_joined(prefix, 'subnets')}/"


def _joined(prefix: str, name: str) -> str:
    """As flanneld joins them, by Go's ``path.Join``: no slash is put before, none stays double, dots are resolved."""
    joined = normpath(f"{prefix}/{name}" if prefix else name)
    # POSIX lets two leading slashes mean something; Go's path does not.
    return joined[1:] if joined.startswith("//") else joined


def format_lease_key(subnet: IPv4Network, ipv6_subnet: IPv6Network | None = None) -> str:
    """The last part of a lease's key: ``10.5.52.0-24``, or ``10.5.52.0-24&fd00:5:52::-64`` for both families."""
    name = f"{subnet.network_address}-{subnet.prefixlen}"
    return name if ipv6_subnet is None else f"{name}&{ipv6_subnet.network_address}-{ipv6_subnet.prefixlen}"


def parse_lease_key(key: str) -> tuple[IPv4Network, IPv6Network | None]:
    """The subnets that a lease's key names; ``key`` may be the whole key or its last part alone.

    Raises:
        LeaseFormatError: not a lease's key, an impossible address or length, or host bits set.
    """
    (address, length), ipv6 = _named(key)
    try:
        return IPv4Network((address, length)), None if ipv6 is None else IPv6Network(ipv6)
    except ValueError as error:
        raise _bad_key(key, str(error)) from None


def occupied_by(key: str) -> tuple[IPv4Network, IPv6Network | None] | None:
    """The subnets that nobody else may lease while there is ``key``, be it malformed; None where it names none.

    One with host bits set is no lease that anybody could be reached by, but flanneld counts its subnet as taken
    (``Overlaps`` in ``pkg/ip/ipnet.go``).
    """
    try:
        ipv4, ipv6 = _named(key)
    except LeaseFormatError:
        return None
    return IPv4Network(ipv4, strict=False), None if ipv6 is None else IPv6Network(ipv6, strict=False)


def _named(key: str) -> tuple[tuple[IPv4Address, int], tuple[IPv6Address, int] | None]:
    match = _LEASE_KEY.search(key[-_KEY_TAIL:])
    if match is None:
        raise _bad_key(key, "a lease's key looks like 10.5.52.0-24")
    base, length, base6, length6 = match.groups()
    if int(length) > _MAX_LEN_V4:
        raise _bad_key(key, f"prefix length {length} is more than {_MAX_LEN_V4}")
    if length6 is not None and int(length6) > _MAX_LEN_V6:
        raise _bad_key(key, f"IPv6 prefix length {length6} is more than {_MAX_LEN_V6}")
    try:
        ipv4 = IPv4Address(base), int(length)
        return ipv4, None if base6 is None else (IPv6Address(base6), int(length6))
    except ValueError as error:
        raise _bad_key(key, str(error)) from None


def _bad_key(key: str, cause: str) -> LeaseFormatError:
    return LeaseFormatError(
        f"malformed key: {cause}", about=f"lease {excerpt(key, 120)}", remedy="delete or correct the key in etcd"
    )
