"""``overlay config``: the network's config in etcd, checked before it is written."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import BinaryIO

import click

from overlay import backends
from overlay.cli.goflags import flag
from overlay.cli.options import Etcd, etcd_flags
from overlay.cli.services_config import services
from overlay.control.schema.config import parse_config, render_config
from overlay.control.schema.keys import config_key, subnets_prefix
from overlay.control.schema.lease import parse_lease
from overlay.errors import ConfigError, ConfigMissingError, LeaseFormatError, NodeError, StoreError, UsageError
from overlay.linux.netlink import Netlink
from overlay.model import NetworkConfig
from overlay.node.collision import collision, survey
from overlay.node.interfaces import Ours
from overlay.store.contract import Compare, KeyRange, KeyValue, Put, Store
from overlay.store.etcd.settings import Endpoint


@click.group()
def config() -> None:
    """Show, set or check the network's config in etcd."""


config.add_command(services)


@config.command()
@etcd_flags
@click.option("--raw", is_flag=True, help="Print the stored bytes instead of the effective values.")
def show(etcd: Etcd, raw: bool) -> None:
    """Print the config with all defaults filled in."""
    stored = etcd.run(lambda store: _stored(store, etcd.prefix))
    if stored is None:
        raise ConfigMissingError(
            "there is none",
            about=config_key(etcd.prefix),
            remedy="write one with overlay config set '{\"Network\": …}'",
        )
    print(stored.value.decode(errors="replace") if raw else _rendered(parse_config(stored.value)))


_device_flag = flag("device", default="flannel0", hidden=True)
"""Whose routes are the overlay's own."""


@config.command(name="set")
@etcd_flags
@_device_flag
@click.argument("text", metavar="JSON|@FILE|-")
def set_(etcd: Etcd, device: str, text: str) -> None:
    """Check a config and write it, as it is, into etcd.

    Warns of a Network that takes what this machine, etcd, or a node with a lease has already.
    """
    raw = _argument(text)
    checked = _checked(raw)
    _warn(checked, device, etcd.settings.members())
    key = config_key(etcd.prefix)

    async def write(store: Store) -> KeyValue | None:
        await _warn_of_nodes(checked, store, etcd.prefix)
        old = await _stored(store, etcd.prefix)
        done = await store.commit([Compare(key, old.mod_revision if old else 0)], [Put(key, raw)])
        if not done.succeeded:
            raise StoreError("somebody else changed it meanwhile", about=key, remedy="look at it, and try again")
        return old

    old = etcd.run(write)
    print(f"{key}: {'replaced' if old else 'written'}")


@config.command()
@_device_flag
@click.argument("text", metavar="JSON|@FILE|-")
def check(device: str, text: str) -> None:
    """Check a config without touching etcd; print what it would mean.

    Warns of a Network that takes what this machine has already.
    """
    checked = _checked(_argument(text))
    _warn(checked, device)
    print(_rendered(checked))


def _checked(text: bytes) -> NetworkConfig:
    """A config that some node can run. Raises ConfigError."""
    config = parse_config(text)
    backends.options(config.backend)
    return config


def _rendered(config: NetworkConfig) -> str:
    return render_config(config, backends.options(config.backend))


async def _stored(store: Store, prefix: str) -> KeyValue | None:
    snapshot = await store.read(KeyRange(config_key(prefix), prefix=False))
    return snapshot.items[0] if snapshot.items else None


def _warn(config: NetworkConfig, device: str, members: Iterable[Endpoint] = ()) -> None:
    """Says on standard error where a config is right for flanneld and an agent of ours would not run it.

    The machine that this runs on need not be a node, so what it has is no reason to refuse.
    """
    try:
        backends.check(config)
    except ConfigError as error:
        _say(f"no agent here takes it: {error}")
    if config.ipv4 is None:
        return
    etcd = [IPv4Address(member.host) for member in members if _is_ipv4(member.host)]
    with suppress(NodeError), Netlink() as netlink:
        around = survey(netlink, Ours(frozenset({device})), etcd=etcd)
        if (refusal := collision(config.ipv4.network, around)) is not None:
            _say(f"an agent on this machine would refuse it: {refusal}")


async def _warn_of_nodes(config: NetworkConfig, store: Store, prefix: str) -> None:
    """Says the same of nodes that have leases, whose packets would go round in the tunnel."""
    if config.ipv4 is None:
        return
    for item in (await store.read(KeyRange(subnets_prefix(prefix)))).items:
        with suppress(LeaseFormatError):
            lease = parse_lease(item).lease
            if lease.public_ip in config.ipv4.network:
                _say(f"the node at {lease.public_ip} is inside Network {config.ipv4.network}: choose another")
                return


def _say(warning: str) -> None:
    print(f"overlay config: warning: {warning}", file=sys.stderr)


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


def _argument(text: str) -> bytes:
    """The config itself, or where to read it: ``@FILE``, ``-`` for standard input. Raises UsageError."""
    if text == "-":
        return _limited(sys.stdin.buffer, "standard input")
    if not text.startswith("@"):
        if text and "{" not in text:
            raise UsageError("is no JSON object", about=text, remedy=f"to read a file: @{text}")
        return text.encode(errors="surrogateescape")
    try:
        with Path(text[1:]).open("rb") as file:
            return _limited(file, text[1:])
    except OSError as error:
        raise UsageError(error.strerror or str(error), about=f"cannot read {text[1:]}") from error


_MAX_BYTES = 1 << 20
"""etcd takes no longer request than 1.5 MiB (its --max-request-bytes); a config has some hundred bytes."""


def _limited(source: BinaryIO, name: str) -> bytes:
    text = source.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise UsageError(f"has more than {_MAX_BYTES} bytes", about=f"cannot read {name}")
    return text
