"""``overlay reserve`` and ``overlay release``: leases made and ended by hand."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import click

from overlay.cli.leases import Self, read_records
from overlay.cli.options import Etcd, etcd_flags, node_address
from overlay.control.schema.config import parse_config
from overlay.control.schema.keys import config_key, format_lease_key, subnets_prefix
from overlay.control.schema.lease import LeaseRecord, format_lease_value
from overlay.errors import ConfigMissingError, OverlayError, StoreError, UsageError
from overlay.model import Lease
from overlay.store.contract import ABSENT, Compare, Delete, KeyRange, Put, Store


class _Parsed(click.ParamType[Any]):
    """A value that ``parse`` reads and complains about."""

    def __init__(self, name: str, parse: type[Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@etcd_flags
@click.argument("subnet", type=_Parsed("SUBNET", IPv4Network))
@click.option("--public-ip", required=True, metavar="IP", help="Address of the node that gets it.")
def reserve(etcd: Etcd, subnet: IPv4Network, public_ip: str) -> None:
    """Lease SUBNET to the node with a public IP for ever.

    The node takes it when its agent starts. A lease that the node has on SUBNET already becomes permanent.
    """
    address = node_address("--public-ip", public_ip, IPv4Address)
    print(etcd.run(lambda store: _reserve(store, etcd.prefix, subnet, address)))


async def _reserve(store: Store, prefix: str, subnet: IPv4Network, public_ip: IPv4Address) -> str:
    await _check_subnet(store, prefix, subnet)
    key = subnets_prefix(prefix) + format_lease_key(subnet)
    records = read_records(await store.read(KeyRange(subnets_prefix(prefix))))
    held = next((record for record in records if record.lease.subnet.overlaps(subnet)), None)
    if held is not None and (held.lease.subnet != subnet or held.lease.public_ip != public_ip):
        overlap = "" if held.lease.subnet == subnet else f" in part: {held.lease.subnet}"
        raise OverlayError(
            f"is leased to {held.lease.public_ip}{overlap}", about=str(subnet), remedy="choose another subnet"
        )
    if held is not None and held.reserved:
        return f"{subnet}: is reserved for {public_ip} already"
    lease = held.lease if held is not None else Lease(subnet, public_ip)
    expected = held.mod_revision if held is not None else ABSENT
    await _commit(store, Compare(key, expected), Put(key, format_lease_value(lease)))
    return f"{subnet}: reserved for {public_ip}"


async def _check_subnet(store: Store, prefix: str, subnet: IPv4Network) -> None:
    stored = (await store.read(KeyRange(config_key(prefix), prefix=False))).items
    if not stored:
        raise ConfigMissingError("there is no config yet", about=config_key(prefix), remedy="overlay config set")
    pool = parse_config(stored[0].value).ipv4
    if pool is None or not pool.contains(subnet):
        wanted = f"a /{pool.subnet_len} from {pool.subnet_min} to {pool.subnet_max}" if pool else "no IPv4 subnet"
        raise UsageError("does not fit the network's config", about=str(subnet), remedy=f"it allows {wanted}")


@click.command()
@etcd_flags
@click.argument("subnet", required=False, type=_Parsed("SUBNET", IPv4Network))
@click.option("--node-id", metavar="ID", envvar="FLANNELD_NODE_ID", help="Whose lease; default: this node's.")
def release(etcd: Etcd, subnet: IPv4Network | None, node_id: str | None) -> None:
    """Give SUBNET back; without SUBNET, the one that this node holds.

    An agent that runs and holds the subnet takes it again (no longer reserved): stop it first.
    """
    me = Self.here(node_id)
    print(etcd.run(lambda store: _release(store, etcd.prefix, subnet, me)))


async def _release(store: Store, prefix: str, subnet: IPv4Network | None, me: Self) -> str:
    records = read_records(await store.read(KeyRange(subnets_prefix(prefix))))
    if subnet is not None:
        chosen = [record for record in records if record.lease.subnet == subnet]
    else:
        chosen = [record for record in records if me.owns(record)]
    if not chosen:
        raise OverlayError(
            "is not leased" if subnet else "this node holds no lease",
            about=str(subnet) if subnet else "",
            remedy="overlay leases lists what is",
        )
    if len(chosen) > 1:
        several = ", ".join(str(record.lease.subnet) for record in chosen)
        raise UsageError(f"this node holds several: {several}", remedy="name one")
    record: LeaseRecord = chosen[0]
    await _commit(store, Compare(record.key, record.mod_revision), Delete(record.key))
    return f"{record.lease.subnet}: released (was {record.lease.public_ip}'s)"


async def _commit(store: Store, compare: Compare, operation: Put | Delete) -> None:
    if not (await store.commit([compare], [operation])).succeeded:
        raise StoreError("it was changed meanwhile", about=compare.key, remedy="look at overlay leases, and try again")
