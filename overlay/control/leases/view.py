"""The subnets range of the store, mirrored: which leases there are, whose, and which addresses they take.

Keeper, allocator and membership decide from it and never keep copies of their own, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from overlay.control.schema.keys import occupied_by
from overlay.control.schema.lease import LeaseRecord, parse_lease
from overlay.errors import LeaseFormatError
from overlay.store.contract import KeyValue
from overlay.store.mirror import Mirror

Subnet = IPv4Network | IPv6Network


class SubnetIndex:
    """Networks of one family with the keys that name them; answers whether a range overlaps any.

    The cost of a question depends on the number of distinct prefix lengths, as a rule one, not of networks.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._by_length: dict[int, dict[int, set[str]]] = {}

    def add(self, subnet: Subnet, key: str) -> None:
        """Notes that ``key`` names ``subnet``."""
        bases = self._by_length.setdefault(subnet.prefixlen, {})
        bases.setdefault(int(subnet.network_address), set()).add(key)

    def discard(self, subnet: Subnet, key: str) -> None:
        """Forgets what :meth:`add` noted."""
        bases = self._by_length[subnet.prefixlen]
        base = int(subnet.network_address)
        bases[base].discard(key)
        if not bases[base]:
            del bases[base]
            if not bases:
                del self._by_length[subnet.prefixlen]

    def overlaps(self, base: int, length: int) -> bool:
        """Whether any network shares an address with the one at ``base`` of prefix length ``length``."""
        return next(self.overlapping(base, length), None) is not None

    def overlapping(self, base: int, length: int) -> Iterator[str]:
        """The keys of all networks that share an address with the one at ``base``."""
        end = base + (1 << (self._bits - length))
        for other, bases in self._by_length.items():
            step = 1 << (self._bits - other)
            if other <= length:
                yield from bases.get(base - base % step, ())
            elif (end - base) // step <= len(bases):
                for inner in range(base, end, step):
                    yield from bases.get(inner, ())
            else:
                for inner, keys in bases.items():
                    if base <= inner < end:
                        yield from keys


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
        self._named: dict[str, tuple[IPv4Network, IPv6Network | None]] = {}
        self._by_node: dict[str, set[str]] = {}
        self._by_ip: dict[IPv4Address, set[str]] = {}
        self._v4 = SubnetIndex(32)
        self._v6 = SubnetIndex(128)

    def _entered(self, kv: KeyValue) -> None:
        try:
            record = self._parse(kv)
        except LeaseFormatError as error:
            self.malformed[kv.key] = error
            self._occupy_if_named(kv.key)
            return
        self._records[kv.key] = record
        self._occupy(kv.key, record.lease.subnet, record.lease.ipv6_subnet)
        self._by_ip.setdefault(record.lease.public_ip, set()).add(kv.key)
        if record.lease.node_id is not None:
            self._by_node.setdefault(record.lease.node_id, set()).add(kv.key)

    def _occupy_if_named(self, key: str) -> None:
        if (named := occupied_by(key)) is not None:
            self._occupy(key, *named)

    def _occupy(self, key: str, subnet: IPv4Network, ipv6_subnet: IPv6Network | None) -> None:
        self._named[key] = (subnet, ipv6_subnet)
        self._v4.add(subnet, key)
        if ipv6_subnet is not None:
            self._v6.add(ipv6_subnet, key)

    def _left(self, kv: KeyValue) -> None:
        key = kv.key
        self.malformed.pop(key, None)
        if (named := self._named.pop(key, None)) is not None:
            self._v4.discard(named[0], key)
            if named[1] is not None:
                self._v6.discard(named[1], key)
        if (record := self._records.pop(key, None)) is not None:
            _discard(self._by_ip, record.lease.public_ip, key)
            if record.lease.node_id is not None:
                _discard(self._by_node, record.lease.node_id, key)

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
        return [self._records[key] for key in sorted(self._by_node.get(node_id, ()))]

    def of_public_ip(self, public_ip: IPv4Address) -> list[LeaseRecord]:
        """The leases that advertise ``public_ip``, in key order."""
        return [self._records[key] for key in sorted(self._by_ip.get(public_ip, ()))]

    def overlapping(self, subnet: Subnet) -> set[str]:
        """The keys, malformed leases' too, whose subnet shares an address with ``subnet``."""
        index = self._v4 if subnet.version == 4 else self._v6
        return set(index.overlapping(int(subnet.network_address), subnet.prefixlen))

    def is_free(self, base: int, length: int, version: int) -> bool:
        """Whether no lease takes any address of the subnet at ``base`` of prefix length ``length``."""
        return not (self._v4 if version == 4 else self._v6).overlaps(base, length)


def _discard(index: dict, name: object, key: str) -> None:  # type: ignore[type-arg]
    index[name].discard(key)
    if not index[name]:
        del index[name]
