"""flannel's etcd schema: keys and JSON values on one side, the facts of :mod:`overlay.model` on the other.

* ``<prefix>/config`` holds the network's config (flannel: ``pkg/subnet/config.go``).
* ``<prefix>/subnets/10.5.52.0-24`` holds one lease; ``10.5.52.0-24&fd00:5:52::-64`` is one of both families
  (flannel: ``pkg/subnet/subnet.go``; ``pkg/lease/lease.go`` for the value).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from posixpath import normpath
from types import MappingProxyType
from typing import Generic, Self, TypeVar

from overlay.errors import ConfigError, LeaseFormatError
from overlay.model import BackendConfig, Lease, NetworkConfig, Pool
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

_LEASE_KEY = re.compile(r"([0-9]+\.[0-9]+.[0-9]+.[0-9]+)-([0-9]+)(?:&([0-9a-fA-F:.]+)-([0-9]+))?\Z")
"""What flannel takes for a lease's key (``subnetRegex``): the end of it, whatever stands before."""

_KEY_TAIL = 160
"""Characters at a key's end that may name subnets: two addresses and lengths, and zeros before them."""

_MAX_LEN_V4 = 31
_MAX_LEN_V6 = 127

A = TypeVar("A", IPv4Address, IPv6Address)
N = TypeVar("N", IPv4Network, IPv6Network)


# --- keys -----------------------------------------------------------------------------------------------------------


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


# --- leases ---------------------------------------------------------------------------------------------------------


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


# --- the network's config -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Family:
    """How one address family spells its fields and which lengths flannel allows it."""

    label: str
    enable: str
    network: str
    subnet_len: str
    subnet_min: str
    subnet_max: str
    max_subnet_len: int
    usual_len: int
    usual_up_to: int

    @property
    def max_network_len(self) -> int:
        """The smallest useful network holds four of the smallest subnets."""
        return self.max_subnet_len - 2


_IPV4 = _Family("IPv4", "EnableIPv4", "Network", "SubnetLen", "SubnetMin", "SubnetMax", 30, 24, 22)
_IPV6 = _Family("IPv6", "EnableIPv6", "IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax", 126, 64, 62)


def parse_config(text: bytes | str) -> NetworkConfig:
    """The network's config, checked by flannel's rules and with its defaults filled in.

    One rule more than flannel's: SubnetMin must not be above SubnetMax. What ``Backend`` says besides its type is the
    backend's to judge (:mod:`overlay.backends`).

    Raises:
        ConfigError: names the field, its value, the rule it breaks and what to do.
    """
    members = Members.of(text, _bad_config)
    enable_ipv4, enable_ipv6 = members.get(_IPV4.enable, bool, True), members.get(_IPV6.enable, bool, False)
    # Also what is not enabled has to be of the right type, as Go decodes it all the same.
    range4, range6 = (
        _Range.of(members, _IPV4, IPv4Network, IPv4Address),
        _Range.of(members, _IPV6, IPv6Network, IPv6Address),
    )
    ipv4 = _pool(range4, _IPV4) if enable_ipv4 else None
    ipv6 = _pool(range6, _IPV6) if enable_ipv6 else None
    if ipv4 is None and ipv6 is None:
        raise _bad_config("EnableIPv4", "false", "must be true unless EnableIPv6 is")
    backend = _backend(members.nested("Backend"))
    return NetworkConfig(ipv4, ipv6, backend, members.get("EnableNFTables", bool, False))


@dataclass(frozen=True, slots=True)
class _Range(Generic[N, A]):
    """What a config says of one address family, decoded and not yet judged; None and 0 where it says nothing."""

    make: type[N]
    address: type[A]
    network: N | None
    subnet_len: int
    subnet_min: A | None
    subnet_max: A | None

    @classmethod
    def of(cls, members: Members, family: _Family, make: type[N], address: type[A]) -> Self:
        def network(text: str) -> N:
            base, slash, length = text.partition("/")
            if not slash or not length.isdecimal() or "%" in base:
                raise ValueError(text)
            return make(text, strict=False)

        optional = make is IPv6Network  # those are pointers in Go
        return cls(
            make,
            address,
            members.parsed(family.network, f"an {family.label} network, as {_EXAMPLE[make]}", network),
            members.count(family.subnet_len),
            members.address(family.subnet_min, address, optional=optional),
            members.address(family.subnet_max, address, optional=optional),
        )


def _pool(given: _Range[N, A], family: _Family) -> Pool[N, A]:
    network = given.network
    if network is None or int(network.network_address) == network.prefixlen == 0:  # the latter is Go's "not given"
        shown = network or "absent"
        raise _bad_config(
            family.network, shown, f'must be there, for example "{family.network}": {_EXAMPLE[given.make]}'
        )
    if network.prefixlen > family.max_network_len:
        raise _bad_config(family.network, network, f"must be a /{family.max_network_len} or larger")
    length = _subnet_len(given.subnet_len, family, network.prefixlen)
    step = 1 << (network.max_prefixlen - length)
    address = given.address
    low = int(given.subnet_min or 0) or int(network.network_address) + step  # 0.0.0.0 is Go's "not given"
    high = int(given.subnet_max or 0) or int(network.broadcast_address) + 1 - step
    for name, base in ((family.subnet_min, low), (family.subnet_max, high)):
        if address(base) not in network:
            raise _bad_config(name, address(base), f"must be inside {family.network} {network}")
        if base % step:
            raise _bad_config(name, address(base), f"must be on a /{length} boundary, as {address(base - base % step)}")
    if low > high:
        raise _bad_config(family.subnet_min, address(low), f"must not be above {family.subnet_max} {address(high)}")
    return Pool(network, length, address(low), address(high))


_EXAMPLE: dict[type, str] = {IPv4Network: '"10.5.0.0/16"', IPv6Network: '"fd00:10:5::/56"'}


def _subnet_len(length: int, family: _Family, network_len: int) -> int:
    if length == 0:
        return family.usual_len if network_len <= family.usual_up_to else network_len + 2
    if length > family.max_subnet_len:
        raise _bad_config(family.subnet_len, length, f"must be at most {family.max_subnet_len}")
    if length < network_len + 2:
        rule = f"must be at least {network_len + 2}, so that the /{network_len} network holds four subnets"
        raise _bad_config(family.subnet_len, length, rule)
    return length


def _backend(members: Members | None) -> BackendConfig:
    """The Backend member; without one it is udp, while one without Type is an error, as in flannel."""
    if members is None:
        return BackendConfig(DEFAULT_BACKEND, MappingProxyType({}))
    kind = members.get("Type", str, "")
    if not kind:
        raise _bad_config("Backend.Type", "absent", 'must be a backend\'s name, as "udp"')
    options = {name: value for name, value in members.items() if name != "type"}
    return BackendConfig(kind.lower(), MappingProxyType(options))


def _bad_config(name: str, value: object, rule: str) -> ConfigError:
    return ConfigError(
        f"{name} = {excerpt(value)}: {rule}" if name else f"{rule}, not {excerpt(value)}",
        about="network config",
        remedy="correct it with `overlay config set`",
    )


def render_config(config: NetworkConfig, options: Mapping[str, object]) -> str:
    """The config with every default filled in, as indented JSON that :func:`parse_config` reads back to the same.

    Args:
        options: of its backend, likewise.
    """
    fields: dict[str, object] = {"EnableIPv4": config.ipv4 is not None, "EnableIPv6": config.ipv6 is not None}
    fields["EnableNFTables"] = config.enable_nftables
    for family, pool in ((_IPV4, config.ipv4), (_IPV6, config.ipv6)):
        if pool is not None:
            fields[family.network] = str(pool.network)
            fields[family.subnet_len] = pool.subnet_len
            fields[family.subnet_min] = str(pool.subnet_min)
            fields[family.subnet_max] = str(pool.subnet_max)
    fields["Backend"] = {"Type": config.backend.type, **options}
    return json.dumps(fields, indent=2)
