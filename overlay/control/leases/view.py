"""The subnets range of the store, mirrored: which leases there are, whose, and which addresses they take.

Keeper, allocator and membership decide from it and never keep copies of their own, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from overlay.control.leases.index import Index, Subnet, SubnetIndex
from overlay.control.schema.keys import occupied_by
from overlay.control.schema.lease import LeaseRecord, parse_lease
from overlay.errors import LeaseFormatError
from overlay.store.contract import KeyValue
from overlay.store.mirror import Mirror


class LeaseView(Mirror):
    """All leases as of ``revision``.

    Attributes:
        directory: what every key begins with (``<prefix>/subnets/``).
        malformed: what is wrong with each key that is not a lease. Its subnet, if it names one, is still taken.
    """

    def __init__(self, directory: str, parse: Callable[[KeyValue], LeaseRecord] = parse_lease) -> None:
        super().__init__()
        self.directory = directory
        self.malformed: dict[str, LeaseFormatError] = {}
        self._parse = parse
        self._records: dict[str, LeaseRecord] = {}
        self._named: dict[str, tuple[IPv4Network, IPv6Network | None]] = {}  # by malformed leases
        self._by_node: Index[str] = Index()
        self._by_ip: Index[IPv4Address] = Index()
        self._v4 = SubnetIndex(32)
        self._v6 = SubnetIndex(128)

    def _entered(self, kv: KeyValue) -> None:
        try:
            record = self._parse(kv)
        except LeaseFormatError as error:
            self.malformed[kv.key] = error
            if (named := occupied_by(kv.key)) is not None:
                self._named[kv.key] = named
                self._occupy(kv.key, *named)
            return
        self._records[kv.key] = record
        self._occupy(kv.key, record.lease.subnet, record.lease.ipv6_subnet)
        self._by_ip.add(record.lease.public_ip, kv.key)
        if record.lease.node_id is not None:
            self._by_node.add(record.lease.node_id, kv.key)

    def _occupy(self, key: str, subnet: IPv4Network, ipv6_subnet: IPv6Network | None) -> None:
        self._v4.add(subnet, key)
        if ipv6_subnet is not None:
            self._v6.add(ipv6_subnet, key)

    def _left(self, kv: KeyValue) -> None:
        key = kv.key
        self.malformed.pop(key, None)
        if (named := self._named.pop(key, None)) is not None:
            self._vacate(key, *named)
        if (record := self._records.pop(key, None)) is not None:
            self._vacate(key, record.lease.subnet, record.lease.ipv6_subnet)
            self._by_ip.discard(record.lease.public_ip, key)
            if record.lease.node_id is not None:
                self._by_node.discard(record.lease.node_id, key)

    def _vacate(self, key: str, subnet: IPv4Network, ipv6_subnet: IPv6Network | None) -> None:
        self._v4.discard(subnet, key)
        if ipv6_subnet is not None:
            self._v6.discard(ipv6_subnet, key)

    # --- what it tells ---

    @property
    def records(self) -> dict[str, LeaseRecord]:
        """Every well-formed lease by its key; not to be changed."""
        return self._records

    def record(self, key: str) -> LeaseRecord | None:
        """The lease at ``key``; None where there is none, or a malformed one."""
        return self._records.get(key)

    def of_node(self, node_id: str) -> list[LeaseRecord]:
        """The leases that carry ``node_id``, in key order."""
        return [self._records[key] for key in sorted(self._by_node.get(node_id))]

    def of_public_ip(self, public_ip: IPv4Address) -> list[LeaseRecord]:
        """The leases that advertise ``public_ip``, in key order."""
        return [self._records[key] for key in sorted(self._by_ip.get(public_ip))]

    def overlapping(self, subnet: Subnet) -> set[str]:
        """The keys, malformed leases' too, whose subnet shares an address with ``subnet``."""
        index = self._v4 if subnet.version == 4 else self._v6
        return set(index.overlapping(int(subnet.network_address), subnet.prefixlen))

    def is_free(self, base: int, length: int, version: int) -> bool:
        """Whether no lease takes any address of the subnet at ``base`` of prefix length ``length``."""
        return not (self._v4 if version == 4 else self._v6).overlaps(base, length)
