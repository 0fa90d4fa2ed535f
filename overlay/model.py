"""The facts that the rest of the package passes around: frozen, comparable, without I/O.

Terms, as flannel and this project use them:

network
    The address range of the whole overlay (``10.0.0.0/16``); one route to it points at the TUN device.
subnet
    The part of the network that one node leases (``10.0.39.0/24``); its containers' addresses come from it.
lease
    The key in etcd that gives one node one subnet. It lives as long as its etcd lease, or for ever (reserved).
underlay
    The network that carries encapsulated packets between nodes; ``public_ip`` is a node's address in it.
peer
    Another node's lease as the datapath sees it: which subnet is behind which underlay address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType
from typing import Generic, TypeVar

A = TypeVar("A", IPv4Address, IPv6Address)
N = TypeVar("N", IPv4Network, IPv6Network)

FLANNELS_DEVICE = "flannel0"
"""flannel's TUN device. A second agent on a machine has another, and with it names of its own for all that it makes."""

MASQUERADED_MARK = 0x4000
"""The bit in the mark of packets that kube-proxy, and Services here, masquerade themselves; flannel's masquerading
leaves those alone (pkg/trafficmngr/trafficmngr.go, ``KubeProxyMark``)."""

TRANSLATED_MARK = 0x200000
"""The bit in the mark of connections to which Services here have given a backend, in both directions and for as long as
they last. One that neither kube-proxy, Cilium, Calico, Tailscale nor Docker use."""

UDP_PORT = 8285
"""flannel's default port of the udp backend (pkg/backend/udp/udp_amd64.go, ``defaultPort``)."""


@dataclass(frozen=True, slots=True)
class Pool(Generic[N, A]):
    """The subnets that may be leased in one address family.

    Attributes:
        network: the overlay's range, host bits zero.
        subnet_len: prefix length of every leased subnet.
        subnet_min: base address of the first subnet that may be leased.
        subnet_max: base address of the last one; ``subnet_min <= subnet_max``, both on a ``subnet_len`` boundary.
    """

    network: N
    subnet_len: int
    subnet_min: A
    subnet_max: A

    @property
    def step(self) -> int:
        """Addresses in one subnet, which is the distance from one to the next."""
        return 1 << (self.network.max_prefixlen - self.subnet_len)

    @property
    def size(self) -> int:
        """How many subnets there are to lease."""
        return (int(self.subnet_max) - int(self.subnet_min)) // self.step + 1

    def contains(self, subnet: N) -> bool:
        """Whether ``subnet`` could have been leased from this pool (right length, inside min and max)."""
        return subnet.prefixlen == self.subnet_len and int(self.subnet_min) <= int(subnet.network_address) <= int(
            self.subnet_max
        )

    def subnets(self) -> Iterator[N]:
        """All subnets from ``subnet_min`` upwards, made one at a time."""
        make = type(self.network)
        for base in range(int(self.subnet_min), int(self.subnet_max) + 1, self.step):
            yield make((base, self.subnet_len))


@dataclass(frozen=True, slots=True)
class BackendConfig:
    """The ``Backend`` member of the network's config: its lower-cased type and its own options, keys lower-cased."""

    type: str = "udp"
    options: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The cluster's config, ``<prefix>/config`` in etcd, checked and with defaults filled in.

    At least one of ``ipv4`` and ``ipv6`` is there. Parsed by :func:`overlay.control.schema.config.parse_config`.
    """

    ipv4: Pool[IPv4Network, IPv4Address] | None
    ipv6: Pool[IPv6Network, IPv6Address] | None
    backend: BackendConfig
    enable_nftables: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """What one node published about its subnet: a key and a value under ``<prefix>/subnets``.

    ``node_id`` is ours alone: flanneld neither writes it nor minds it. ``backend_type`` is "udp" where the value has
    none, as flanneld's udp backend writes it. ``backend_data`` is any JSON value, its backend's own affair.
    ``asked_by`` is who asks whether the lease's node lives: see :mod:`overlay.control.leases.question`.
    """

    subnet: IPv4Network
    public_ip: IPv4Address
    backend_type: str = "udp"
    node_id: str | None = None
    ipv6_subnet: IPv6Network | None = None
    public_ipv6: IPv6Address | None = None
    backend_data: object = None
    backend_v6_data: object = None
    asked_by: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class Advertisement:
    """What a node's backend has its lease say, so that peers can reach the node.

    Attributes:
        backend_type: as in the config, lower case.
        data, v6_data: JSON values for the two families, as flannel's backend of that type writes them; None for none.
    """

    backend_type: str
    data: object = None
    v6_data: object = None


@dataclass(frozen=True, slots=True)
class Peer:
    """Where the packets for one subnet go, and whose packets may come from it.

    Attributes:
        ipv6_subnet, public_ipv6: the same of the other family, where the peer has both.
        backend_data, backend_v6_data: what its backend advertises, JSON values from etcd that nobody has checked.
    """

    subnet: IPv4Network
    public_ip: IPv4Address
    node_id: str | None = None
    ipv6_subnet: IPv6Network | None = None
    public_ipv6: IPv6Address | None = None
    backend_data: object = field(default=None, hash=False)
    backend_v6_data: object = field(default=None, hash=False)


@dataclass(frozen=True)
class PeerTable:
    """All peers, with longest-prefix lookup whose cost depends on the number of distinct lengths, not of peers.

    Attributes:
        own: this node's subnet; no peer's subnet lies inside it, and it is nobody else's source.
        peers: by subnet.
    """

    own: IPv4Network | None
    peers: Mapping[IPv4Network, Peer]

    @classmethod
    def of(cls, own: IPv4Network | None, peers: Iterable[Peer]) -> PeerTable:
        """Builds a table from any iterable of peers; a later peer of the same subnet replaces an earlier one."""
        return cls(own, MappingProxyType({peer.subnet: peer for peer in peers}))

    @cached_property
    def _by_length(self) -> tuple[tuple[int, dict[int, Peer]], ...]:
        lengths: dict[int, dict[int, Peer]] = {}
        for subnet, peer in self.peers.items():
            lengths.setdefault(subnet.prefixlen, {})[int(subnet.network_address)] = peer
        return tuple((-1 << (32 - length), lengths[length]) for length in sorted(lengths, reverse=True))

    def lookup(self, address: IPv4Address | int) -> Peer | None:
        """The peer with the longest prefix that holds ``address``; None where none does."""
        number = int(address)
        for mask, bases in self._by_length:
            if (peer := bases.get(number & mask)) is not None:
                return peer
        return None

    def __len__(self) -> int:
        return len(self.peers)


EMPTY_PEERS = PeerTable.of(None, ())
