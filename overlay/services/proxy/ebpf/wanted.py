"""Which virtual address leads to which backends, as sockets of this node see it. Pure.

Whoever connects on this node, and is asked about here, is a process of the node or of one of its pods, so it is inside
the cluster: at an external address it meets all endpoints, also under ``externalTrafficPolicy: Local`` (kubernetes
``pkg/proxy/nftables/proxier.go``, the short cut of the external chain). Sockets of others, as of containers on a
network of their own (``docker network create``), are left to the rules (``inside``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address

from overlay.services.proxy.ebpf.book import Pool
from overlay.services.proxy.ebpf.layout import Address, Virtual
from overlay.services.table import Backend, Entry, Kind, Place, Table


def wanted_by(entry: Entry, place: Place) -> dict[Virtual, Pool]:
    """What one port of a Service is at the socket; nothing where the rules beneath know better.

    Those are asked for SCTP, which has no hook, and for a load balancer's address that only some clients may use: which
    address a client will have is not known before it connects.
    """
    if not Virtual.has_hook(entry.protocol):
        return {}
    made: dict[Virtual, Pool] = {}
    pools: dict[bool, Pool] = {}
    limited = {(address, port) for kind, address, port in entry.frontends
               if kind is Kind.LOAD_BALANCER and entry.source_ranges}  # fmt: skip
    for kind, address, port in entry.frontends:
        local = kind is Kind.CLUSTER_IP and entry.internal_local
        if local not in pools:
            pools[local] = _pool(entry, local=local)
        for each in place.addresses if kind is Kind.NODE_PORT else (address,):
            if (each, port) not in limited:
                made[Virtual(Address(IPv4Address(each), port), entry.protocol)] = pools[local]
    return made


def wanted_in(table: Table) -> dict[Virtual, Pool]:
    """All of it. An address of its own goes before a node port, also where the rules beneath have it."""
    made: dict[Virtual, Pool] = {}
    named = {
        (entry.protocol, each.address, each.port): entry.name
        for entry in table.entries.values()
        for each in entry.frontends
        if each.address
    }
    for name, entry in table.entries.items():
        for virtual, pool in wanted_by(entry, table.place).items():
            owner = named.get((virtual.protocol, str(virtual.at.ip), virtual.at.port), name)
            if owner == name:
                made[virtual] = pool
    return made


def changes_in(table: Table, before: Table) -> Mapping[Virtual, Pool | None]:
    """What leads elsewhere than in the table before, or nowhere (None), and perhaps some that does not."""
    if table.place.addresses != before.place.addresses or _contested(table) or _contested(before):
        made = wanted_in(table)
        return {**dict.fromkeys(wanted_in(before).keys() - made.keys()), **made}
    changes: dict[Virtual, Pool | None] = {}
    for _, was, now in table.changed(before):
        if was is not None:
            for virtual in wanted_by(was, before.place):
                changes.setdefault(virtual, None)  # unless another Service, or port, has it now
        if now is not None:
            changes.update(wanted_by(now, table.place))
    return changes


def _contested(table: Table) -> bool:
    """Whether an external address is one of the node's own, so that a node port may be met there, too."""
    return any(
        each.address in table.place.addresses
        for entry in table.entries.values()
        for each in entry.frontends
        if each.kind is not Kind.CLUSTER_IP and each.address
    )


def _pool(entry: Entry, *, local: bool) -> Pool:
    ready = entry.local if local else entry.cluster
    serving = {*entry.all_backends, *entry.draining}.difference(ready)
    return Pool((entry.name, local), _addresses(ready), entry.affinity_seconds or 0, _addresses(sorted(serving)))


def _addresses(backends: Iterable[Backend]) -> tuple[Address, ...]:
    return tuple(Address(IPv4Address(each.address), each.port) for each in backends)
