"""Which subnet a node should claim, by flannel's order (``pkg/subnet/etcd/local_manager.go``, ``allocateSubnet``).

1. the lease that is ours already, a reservation before any other;
2. a subnet that we remember having had, if it is free and fits the config;
3. a random one of the first hundred free subnets, counted from SubnetMin.

Pure: the leases come as a :class:`LeaseView`, randomness is passed in, and what comes out is a :class:`Claim`, which
the keeper turns into one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import islice
from random import Random
from typing import TypeVar

from overlay.control.leases.view import LeaseView
from overlay.control.schema.keys import format_lease_key
from overlay.control.schema.lease import LeaseRecord
from overlay.errors import OutOfSubnetsError
from overlay.model import Advertisement, Lease, NetworkConfig, Pool
from overlay.store.contract import NO_LEASE

RANDOM_WINDOW = 100
"""How many free subnets a random choice is made from (flannel: ``subnetPoolSize`` of its allocator)."""

MAX_REMEMBERED = 4
"""Subnets that a node remembers of its past, newest first."""

MAX_STALE = 16
"""Leases of our own that one claim removes; a transaction of etcd may have 128 operations. The rest are swept later."""

N = TypeVar("N", IPv4Network, IPv6Network)
A = TypeVar("A", IPv4Address, IPv6Address)


@dataclass(frozen=True, slots=True)
class Identity:
    """What this node says of itself in its lease.

    Attributes:
        node_id: tells this machine from every other, also one that shares its public address.
        public_ip: where peers send encapsulated packets.
    """

    node_id: str
    public_ip: IPv4Address
    public_ipv6: IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What a node remembers of its past; it outlives the agent, and the machine's reboot.

    Attributes:
        subnets: leased before, newest first.
        ipv6_subnets: the same of the other family.
        etcd_lease_id: the etcd lease that our key was attached to last; NO_LEASE if none.
    """

    subnets: tuple[IPv4Network, ...] = ()
    ipv6_subnets: tuple[IPv6Network, ...] = ()
    etcd_lease_id: int = NO_LEASE

    def with_lease(self, lease: Lease, etcd_lease_id: int) -> Memory:
        """This memory after ``lease`` was taken."""
        subnets = (lease.subnet, *(subnet for subnet in self.subnets if subnet != lease.subnet))
        ipv6 = self.ipv6_subnets
        if lease.ipv6_subnet is not None:
            ipv6 = (lease.ipv6_subnet, *(subnet for subnet in ipv6 if subnet != lease.ipv6_subnet))
        return Memory(subnets[:MAX_REMEMBERED], ipv6[:MAX_REMEMBERED], etcd_lease_id)

    def without(self, lease: Lease) -> Memory:
        """This memory after the subnets of ``lease`` went to another node: they are not asked for again."""
        return replace(
            self,
            subnets=tuple(subnet for subnet in self.subnets if subnet != lease.subnet),
            ipv6_subnets=tuple(subnet for subnet in self.ipv6_subnets if subnet != lease.ipv6_subnet),
        )


class Source(Enum):
    """Why this subnet and no other."""

    OWN = "our lease in etcd"
    REMEMBERED = "remembered from before"
    RANDOM = "free"


@dataclass(frozen=True, slots=True)
class Claim:
    """One transaction to be made: put ``lease`` at ``key``, and drop what is stale; each key is as the view shows it.

    Attributes:
        reserved: the key is put without an etcd lease and stays for ever.
        record: what is at the key now, where it is ours.
        stale: other leases of ours, each to be deleted if it is still at its ``mod_revision``.
    """

    key: str
    lease: Lease
    source: Source
    reserved: bool = False
    record: LeaseRecord | None = None
    stale: tuple[LeaseRecord, ...] = ()


class Claimant(Enum):
    """How surely a lease belongs to this node."""

    OURS = "ours"
    """It has our public address, and our node id or none."""
    REMEMBERED = "ours, with another public address than we have now"
    """It has our node id, and a subnet or an etcd lease that we remember. A clone of its machine remembers them too: it
    is never deleted, and taken over only if nobody answers for it (:mod:`overlay.control.leases.question`)."""
    OTHER = "another's"


def claimant(record: LeaseRecord, identity: Identity, memory: Memory) -> Claimant:
    """Whose a lease is. One with another node id is never ours, whatever address it has."""
    lease = record.lease
    if lease.node_id is None:
        return Claimant.OURS if lease.public_ip == identity.public_ip else Claimant.OTHER
    if lease.node_id != identity.node_id:
        return Claimant.OTHER
    if lease.public_ip == identity.public_ip:
        return Claimant.OURS
    remembered = lease.subnet in memory.subnets or record.lease_id == memory.etcd_lease_id != NO_LEASE
    return Claimant.REMEMBERED if remembered else Claimant.OTHER


def lease_of(
    identity: Identity, advertisement: Advertisement, subnet: IPv4Network, ipv6_subnet: IPv6Network | None
) -> Lease:
    """The lease that this node publishes for ``subnet``."""
    return Lease(
        subnet=subnet,
        public_ip=identity.public_ip,
        backend_type=advertisement.backend_type,
        node_id=identity.node_id,
        ipv6_subnet=ipv6_subnet,
        public_ipv6=identity.public_ipv6,
        backend_data=advertisement.data,
        backend_v6_data=advertisement.v6_data,
    )


def fits(lease: Lease, config: NetworkConfig) -> bool:
    """Whether the subnets of ``lease`` could have been leased under ``config``."""
    if config.ipv4 is None or not config.ipv4.contains(lease.subnet):
        return False
    if config.ipv6 is None:
        return lease.ipv6_subnet is None
    return lease.ipv6_subnet is not None and config.ipv6.contains(lease.ipv6_subnet)


def allocate(
    view: LeaseView,
    config: NetworkConfig,
    identity: Identity,
    memory: Memory,
    rng: Random,
    *,
    advertisement: Advertisement,
) -> Claim:
    """The subnet that this node should claim now.

    Raises:
        OutOfSubnetsError: none of ours, and none free.
    """
    own = own_leases(view, identity, memory)
    usable = [mine for mine in own if fits(mine.record.lease, config) and not is_contested(view, mine.record, own)]
    if usable:
        chosen = max(usable, key=lambda mine: _preference(mine, memory)).record
        return Claim(
            key=chosen.key,
            lease=lease_of(identity, advertisement, chosen.lease.subnet, chosen.lease.ipv6_subnet),
            source=Source.OWN,
            reserved=chosen.reserved,
            record=chosen,
            stale=_stale(own, config, chosen),
        )
    if config.ipv4 is None:
        raise OutOfSubnetsError("the network has no IPv4 range to lease from")
    subnet, remembered = _choose(view, config.ipv4, memory.subnets, rng)
    ipv6_subnet = None
    if config.ipv6 is not None:
        ipv6_subnet, _ = _choose(view, config.ipv6, memory.ipv6_subnets, rng)
    return Claim(
        key=view.directory + format_lease_key(subnet, ipv6_subnet),
        lease=lease_of(identity, advertisement, subnet, ipv6_subnet),
        source=Source.REMEMBERED if remembered else Source.RANDOM,
        stale=_stale(own, config, None),
    )


@dataclass(frozen=True, slots=True)
class Owned:
    """A lease of this node, and how surely it is."""

    record: LeaseRecord
    whose: Claimant


def own_leases(view: LeaseView, identity: Identity, memory: Memory) -> list[Owned]:
    """All leases of this node, in key order."""
    candidates = {record.key: record for record in view.of_node(identity.node_id)}
    candidates.update({record.key: record for record in view.of_public_ip(identity.public_ip)})
    judged = (Owned(candidates[key], claimant(candidates[key], identity, memory)) for key in sorted(candidates))
    return [mine for mine in judged if mine.whose is not Claimant.OTHER]


def is_contested(view: LeaseView, record: LeaseRecord, own: Iterable[Owned]) -> bool:
    """Whether somebody else's lease overlaps this one of ours (of another length, or of one family more)."""
    taken = view.overlapping(record.lease.subnet)
    if record.lease.ipv6_subnet is not None:
        taken |= view.overlapping(record.lease.ipv6_subnet)
    return not taken <= {mine.record.key for mine in own}


def _preference(mine: Owned, memory: Memory) -> tuple[bool, bool, int, bool, int]:
    """Orders leases of ours: a reservation, a sure one, the most recently had, one with our id, the newest."""
    record, subnets = mine.record, memory.subnets
    recent = -subnets.index(record.lease.subnet) if record.lease.subnet in subnets else -MAX_REMEMBERED
    sure = mine.whose is Claimant.OURS
    return record.reserved, sure, recent, record.lease.node_id is not None, record.mod_revision


def _stale(own: Iterable[Owned], config: NetworkConfig, chosen: LeaseRecord | None) -> tuple[LeaseRecord, ...]:
    """What a claim removes: leases surely ours that expire, and of those without an id only what does not fit.

    A fitting lease without an id that we do not choose may be a flanneld's behind the same address; it ends by itself.
    """
    return tuple(
        mine.record
        for mine in own
        if mine.record is not chosen
        and mine.whose is Claimant.OURS
        and not mine.record.reserved
        and (mine.record.lease.node_id is not None or not fits(mine.record.lease, config))
    )[:MAX_STALE]


def _choose(view: LeaseView, pool: Pool[N, A], remembered: Iterable[N], rng: Random) -> tuple[N, bool]:
    version = pool.network.version

    def free(base: int) -> bool:
        return view.is_free(base, pool.subnet_len, version)

    for subnet in remembered:
        if pool.contains(subnet) and free(int(subnet.network_address)):
            return subnet, True
    bases = range(int(pool.subnet_min), int(pool.subnet_max) + 1, pool.step)
    window = list(islice(filter(free, bases), RANDOM_WINDOW))
    if not window:
        raise OutOfSubnetsError(
            f"all {pool.size} subnets from {pool.subnet_min} to {pool.subnet_max} are leased",
            about=f"network {pool.network}",
            remedy="free one with `overlay release SUBNET`, or widen Network or SubnetMax",
        )
    return type(pool.network)((rng.choice(window), pool.subnet_len)), False
