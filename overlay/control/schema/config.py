"""The network's config, one JSON object for all nodes (flannel: ``pkg/subnet/config.go``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType
from typing import Generic, Self, TypeVar

from overlay.control.schema.lease import DEFAULT_BACKEND
from overlay.errors import ConfigError
from overlay.model import BackendConfig, NetworkConfig, Pool
from overlay.store.gojson import Members
from overlay.text import excerpt

A = TypeVar("A", IPv4Address, IPv6Address)
N = TypeVar("N", IPv4Network, IPv6Network)


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
