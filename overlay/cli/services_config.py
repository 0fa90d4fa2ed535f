"""``overlay config services``: which addresses, ports and names Services get, in etcd."""

from __future__ import annotations

import sys
from ipaddress import AddressValueError, IPv4Address

import click

from overlay.cli.options import Etcd, etcd_flags, services_prefix_flag
from overlay.errors import StoreError
from overlay.services import configuration
from overlay.services.configuration import Configuration
from overlay.services.keys import Keys
from overlay.store.contract import ABSENT, Compare, KeyRange, KeyValue, Put, Store


@click.group()
def services() -> None:
    """Show or set what Services get: service CIDR, node ports, domain."""


@services.command()
@etcd_flags
@services_prefix_flag
def show(etcd: Etcd, services_prefix: str) -> None:
    """Print the configuration with all defaults filled in."""
    stored = etcd.run(lambda store: _stored(store, services_prefix))
    found = Configuration() if stored is None else configuration.parse(stored.value, about=stored.key)
    print(configuration.render(found).decode())


@services.command(name="set")
@etcd_flags
@services_prefix_flag
@click.argument("text", metavar="JSON|-")
def set_(etcd: Etcd, services_prefix: str, text: str) -> None:
    """Check a configuration and write it into etcd; Services keep the addresses and ports that they have.

    For example: overlay config services set '{"serviceCIDR": "10.96.0.0/16", "domain": "cluster.local"}'
    """
    raw = sys.stdin.buffer.read() if text == "-" else text.encode(errors="surrogateescape")
    new = configuration.parse(raw)
    keys = Keys(services_prefix)

    async def write(store: Store) -> list[str]:
        old = await _stored(store, services_prefix)
        taken = await store.read(KeyRange(keys.address()))
        compare = Compare(keys.config, old.mod_revision if old else ABSENT)
        done = await store.commit([compare], [Put(keys.config, configuration.render(new))])
        if not done.succeeded:
            raise StoreError(
                "somebody else changed it meanwhile", about=keys.config, remedy="look at it, and try again"
            )
        return [item.key.removeprefix(keys.address()) for item in taken.items]

    outside = [address for address in etcd.run(write) if not _within(address, new)]
    if outside:
        told = f"{len(outside)} Services keep an address outside {new.service_cidr}, such as {outside[0]}"
        print(f"overlay config: warning: {told}; make them anew to move them", file=sys.stderr)
    print(f"{keys.config}: written")


async def _stored(store: Store, prefix: str) -> KeyValue | None:
    snapshot = await store.read(KeyRange(Keys(prefix).config, prefix=False))
    return snapshot.items[0] if snapshot.items else None


def _within(address: str, config: Configuration) -> bool:
    try:
        return IPv4Address(address) in config.service_cidr
    except AddressValueError:
        return False
