"""One lease: what its key and value say (flannel: ``pkg/lease/lease.go``), and what may be written."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from overlay.control.schema.keys import format_lease_key, parse_lease_key
from overlay.errors import LeaseFormatError
from overlay.model import Lease
from overlay.store.contract import NO_LEASE, KeyValue
from overlay.store.gojson import Members
from overlay.text import excerpt

MAX_NODE_ID_CHARS = 128
"""Longest owner id. A machine-id has 32 characters, a host name at most 64."""

DEFAULT_BACKEND = "udp"
"""A config without Backend, and a lease without BackendType, are udp ones."""

UNTYPED_BACKENDS = frozenset({"udp", "alloc"})
"""Backends whose leases carry no BackendType (flannel: ``pkg/backend/udp``, ``pkg/backend/alloc``)."""

_NODE_ID_LENGTH = f"must have at most {MAX_NODE_ID_CHARS} characters"
_THIS_NETWORK = IPv4Network("0.0.0.0/8")
_BROADCAST = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A lease as it is in the store.

    Attributes:
        lease: what its key and value say.
        key: the whole key.
        mod_revision: the revision that a guarded write compares.
        lease_id: the etcd lease that the key is attached to; NO_LEASE makes it a reservation.
    """

    lease: Lease
    key: str
    mod_revision: int
    lease_id: int

    @property
    def reserved(self) -> bool:
        """Whether it never expires."""
        return self.lease_id == NO_LEASE


def parse_lease(kv: KeyValue) -> LeaseRecord:
    """A key and its value as a lease. Raises LeaseFormatError, which names the key and what is wrong."""
    subnet, ipv6_subnet = parse_lease_key(kv.key)
    return LeaseRecord(parse_lease_value(kv.value, subnet, ipv6_subnet), kv.key, kv.mod_revision, kv.lease_id)


def parse_lease_value(value: bytes, subnet: IPv4Network, ipv6_subnet: IPv6Network | None = None) -> Lease:
    """The lease that ``value`` publishes for the subnets that its key names.

    Raises:
        LeaseFormatError: not a JSON object, too long or too deep, no PublicIP, or a member of the wrong type.
    """

    def bad(name: str, value: object, rule: str) -> LeaseFormatError:
        return LeaseFormatError(
            f"malformed value: {f'{name} ' if name else ''}{rule}, not {excerpt(value)}",
            about=f"lease {format_lease_key(subnet, ipv6_subnet)}",
            remedy="delete or correct the key in etcd",
        )

    members = Members.of(value, bad)
    public_ip = members.address("PublicIP", IPv4Address)
    if public_ip is None or public_ip.is_unspecified or public_ip.is_multicast:
        raise bad("PublicIP", public_ip or "absent", "must be a node's address")
    node_id = members.get("NodeID", str, "")
    if len(node_id) > MAX_NODE_ID_CHARS:
        raise bad("NodeID", node_id, _NODE_ID_LENGTH)
    return Lease(
        subnet=subnet,
        public_ip=public_ip,
        backend_type=members.get("BackendType", str, "") or DEFAULT_BACKEND,
        node_id=node_id or None,
        ipv6_subnet=ipv6_subnet,
        public_ipv6=members.address("PublicIPv6", IPv6Address, optional=True),
        backend_data=members.any("BackendData"),
        backend_v6_data=members.any("BackendV6Data"),
        asked_by=_asker(members.any("AskedBy")),
    )


def _asker(value: object) -> IPv4Address | None:
    """Whoever asks; what is no address asks nothing, and makes no lease malformed."""
    try:
        return IPv4Address(value) if isinstance(value, str) else None
    except ValueError:
        return None


def format_lease_value(lease: Lease) -> bytes:
    """The JSON that flanneld writes for ``lease``, byte for byte, with our NodeID as one more member at its end.

    What comes out has been read back: a lease that readers take for garbage still takes its subnet from everybody.

    Raises:
        LeaseFormatError: :func:`parse_lease_value` would refuse it, or understand something else.
    """
    fields: dict[str, object] = {
        "PublicIP": str(lease.public_ip),
        "PublicIPv6": None if lease.public_ipv6 is None else str(lease.public_ipv6),
    }
    if lease.backend_type not in UNTYPED_BACKENDS:
        fields["BackendType"] = lease.backend_type
    if lease.backend_data is not None:
        fields["BackendData"] = lease.backend_data
    if lease.backend_v6_data is not None:
        fields["BackendV6Data"] = lease.backend_v6_data
    if lease.node_id is not None:
        fields["NodeID"] = lease.node_id
    if lease.asked_by is not None:
        fields["AskedBy"] = str(lease.asked_by)
    value = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogatepass")
    understood = parse_lease_value(value, lease.subnet, lease.ipv6_subnet)
    if replace(understood, backend_type=lease.backend_type) != lease:
        raise LeaseFormatError(
            f"would be read as another: {excerpt(value, 200)}",
            about=f"lease {format_lease_key(lease.subnet, lease.ipv6_subnet)}",
            remedy="check --node-id, --public-ip and --public-ipv6",
        )
    return value


def unfit_address(address: IPv4Address | IPv6Address) -> str:
    """Why no node can be reached at ``address``, whatever the network; empty where one may be.

    Stricter than the reader, which must live with what others wrote: what we publish no reader, and no node, refuses.
    """
    if address.is_unspecified or (address.version == 4 and address in _THIS_NETWORK):
        return "means no address"
    if address.is_multicast or address == _BROADCAST:
        return "is many nodes' address, not one's"
    if address.is_loopback:
        return "is a loopback address, which other nodes take for themselves"
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "has a zone, which means nothing on other nodes"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return "is an IPv4 address written as IPv6"
    return ""


def unfit_node_id(node_id: str) -> str:
    """Why ``node_id`` cannot tell a node from others in etcd; empty where it can."""
    if len(node_id) > MAX_NODE_ID_CHARS:
        return _NODE_ID_LENGTH
    if any("\ud800" <= character <= "\udfff" for character in node_id):
        return "is not UTF-8"
    if not node_id.isprintable() or node_id != node_id.strip():
        return "must be printable, without spaces around it"
    return ""
