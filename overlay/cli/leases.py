"""``overlay leases``: prints the subnet leases in etcd; ``--watch`` goes on and prints what changes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

import click

from overlay.cli.options import Etcd, etcd_flags
from overlay.cli.options import node_id as checked_node_id
from overlay.cli.tables import show, table
from overlay.control.schema.keys import subnets_prefix
from overlay.control.schema.lease import LeaseRecord, parse_lease
from overlay.errors import CompactedError, LeaseFormatError, StoreUnavailableError
from overlay.linux.netlink import Netlink
from overlay.store.contract import KeyRange, Snapshot, Store
from overlay.text import excerpt, printable

_TTL_QUERIES_AT_ONCE = 16
_RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Self:
    """What makes a lease this node's own: its node id or, where it has none, our address as its public IP."""

    node_id: str
    addresses: frozenset[IPv4Address]

    @classmethod
    def here(cls, node_id: str | None) -> Self:
        with Netlink() as netlink:
            addresses = frozenset(address.address for address in netlink.addresses())
        return cls(checked_node_id(node_id), addresses)

    def owns(self, record: LeaseRecord) -> bool:
        lease = record.lease
        return lease.node_id == self.node_id if lease.node_id else lease.public_ip in self.addresses


@click.command()
@etcd_flags
@click.option("--json", "as_json", is_flag=True, help="A list of objects; with --watch one object a line and change.")
@click.option("--watch", is_flag=True, help="Go on, and print every change as it happens.")
@click.option(
    "--node-id", metavar="ID", envvar="FLANNELD_NODE_ID", help="Whose leases are 'own'; default: this node's."
)
def leases(etcd: Etcd, as_json: bool, watch: bool, node_id: str | None) -> None:
    """Print the subnet leases in etcd.

    Columns: the subnet, the public IP of its node, the backend, the time until it expires unless its node renews it
    ("reserved" never does), and the node's id. A star marks this node's own.
    """
    me = Self.here(node_id)
    if watch:
        etcd.run(lambda store: _watch(store, etcd.prefix, me, as_json))
        return
    records, expiry = etcd.run(lambda store: _listed(store, etcd.prefix))
    if as_json:
        print(json.dumps([as_object(record, expiry, me) for record in records], indent=2))
    else:
        _print_table(records, expiry, me)


def read_records(snapshot: Snapshot) -> list[LeaseRecord]:
    """The leases of a snapshot by address; a malformed one is named on standard error and left out."""
    records = []
    for item in snapshot.items:
        try:
            records.append(parse_lease(item))
        except LeaseFormatError as error:
            print(f"overlay leases: skipped {error}", file=sys.stderr)
    return sorted(records, key=lambda record: record.lease.subnet)


def as_object(record: LeaseRecord, expiry: Mapping[int, int], me: Self) -> dict[str, object]:
    """One lease as ``--json`` shows it."""
    lease = record.lease
    return {
        "subnet": str(lease.subnet),
        "ipv6_subnet": str(lease.ipv6_subnet) if lease.ipv6_subnet else None,
        "public_ip": str(lease.public_ip),
        "backend_type": lease.backend_type,
        "expires_in_seconds": None if record.reserved else expiry.get(record.lease_id, 0),
        "reserved": record.reserved,
        "node_id": lease.node_id,
        "own": me.owns(record),
    }


async def _listed(store: Store, prefix: str) -> tuple[list[LeaseRecord], dict[int, int]]:
    records = read_records(await store.read(KeyRange(subnets_prefix(prefix))))
    return records, await _expiry(store, records)


async def _expiry(store: Store, records: Iterable[LeaseRecord]) -> dict[int, int]:
    """Seconds left by etcd lease id."""
    gate = asyncio.Semaphore(_TTL_QUERIES_AT_ONCE)

    async def query(lease_id: int) -> tuple[int, int]:
        async with gate:
            return lease_id, await store.time_to_live(lease_id)

    ids = {record.lease_id for record in records if not record.reserved}
    return dict(await asyncio.gather(*map(query, ids)))


async def _watch(store: Store, prefix: str, me: Self, as_json: bool) -> None:
    """Prints the leases there are as added, then every difference; outlives etcd's absence."""
    span = KeyRange(subnets_prefix(prefix))
    known: dict[str, LeaseRecord] = {}
    away = False
    while True:
        try:
            snapshot = await store.read(span)
            await _report(store, known, {record.key: record for record in read_records(snapshot)}, me, as_json)
            if away:
                print("overlay leases: etcd is back", file=sys.stderr)
                away = False
            async for batch in store.watch(span, snapshot.revision):
                after = dict(known)
                for event in batch.events:
                    after.pop(event.kv.key, None)
                    if not event.deleted:
                        after |= {r.key: r for r in read_records(Snapshot(batch.revision, (event.kv,)))}
                await _report(store, known, after, me, as_json)
        except CompactedError:
            continue
        except StoreUnavailableError as error:
            if not away:
                print(f"overlay leases: {error}; waiting for it", file=sys.stderr)
                away = True
            await asyncio.sleep(_RETRY_SECONDS)


async def _report(
    store: Store, known: dict[str, LeaseRecord], after: dict[str, LeaseRecord], me: Self, as_json: bool
) -> None:
    """Prints the way from ``known`` to ``after`` and makes the one equal to the other."""
    changes = [("removed", known[key]) for key in known.keys() - after.keys()]
    for key, record in after.items():
        if (old := known.get(key)) is None:
            changes.append(("added", record))
        elif (old.lease, old.reserved) != (record.lease, record.reserved):
            changes.append(("changed", record))
    known.clear()
    known.update(after)
    expiry = await _expiry(store, [record for change, record in changes if change != "removed"])
    for change, record in changes:
        shown = as_object(record, expiry, me)
        if as_json:
            print(json.dumps({"event": change, **shown}), flush=True)
        else:
            sign = {"added": "+", "changed": "~", "removed": "-"}[change]
            print(sign, " ".join(_cells(record, expiry, me)), flush=True)


def _cells(record: LeaseRecord, expiry: Mapping[int, int], me: Self) -> list[str]:
    lease = record.lease
    subnet = f"{lease.subnet}" + (f" {lease.ipv6_subnet}" if lease.ipv6_subnet else "")
    return [
        f"{subnet}{' *' if me.owns(record) else ''}",
        str(lease.public_ip),
        excerpt(lease.backend_type, 16),
        "reserved" if record.reserved else duration(expiry[record.lease_id]) if record.lease_id in expiry else "-",
        printable(lease.node_id or "-"),
    ]


def _print_table(records: list[LeaseRecord], expiry: Mapping[int, int], me: Self) -> None:
    listed = table("SUBNET", "PUBLIC IP", "BACKEND", "EXPIRES IN", "NODE")
    for record in records:
        listed.add_row(*_cells(record, expiry, me))
    show(listed)


def duration(seconds: int) -> str:
    """``23h 59m``, ``4m 10s`` or ``12s``: two units at most."""
    minutes, rest = divmod(max(seconds, 0), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {rest:02}s" if minutes else f"{rest}s"
