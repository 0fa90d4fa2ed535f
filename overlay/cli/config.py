"""``overlay config``: the network's config in etcd, checked before it is written."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from overlay import backends
from overlay.cli.options import Etcd, etcd_flags
from overlay.control.schema import config_key, parse_config, render_config
from overlay.control.store import Compare, KeyRange, KeyValue, Put, Store
from overlay.errors import ConfigError, ConfigMissingError, StoreError, UsageError
from overlay.model import NetworkConfig


@click.group()
def config() -> None:
    """Show, set or check the network's config in etcd."""


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
    print(stored.value.decode(errors="replace") if raw else render_config(parse_config(stored.value)))


@config.command(name="set")
@etcd_flags
@click.argument("text", metavar="JSON|@FILE|-")
def set_(etcd: Etcd, text: str) -> None:
    """Check a config and write it, as it is, into etcd."""
    raw = _argument(text)
    _warn(parse_config(raw))
    key = config_key(etcd.prefix)

    async def write(store: Store) -> KeyValue | None:
        old = await _stored(store, etcd.prefix)
        done = await store.commit([Compare(key, old.mod_revision if old else 0)], [Put(key, raw)])
        if not done.succeeded:
            raise StoreError("somebody else changed it meanwhile", about=key, remedy="look at it, and try again")
        return old

    old = etcd.run(write)
    print(f"{key}: {'replaced' if old else 'written'}")


@config.command()
@click.argument("text", metavar="JSON|@FILE|-")
def check(text: str) -> None:
    """Check a config without touching etcd; print what it would mean."""
    checked = parse_config(_argument(text))
    _warn(checked)
    print(render_config(checked))


async def _stored(store: Store, prefix: str) -> KeyValue | None:
    snapshot = await store.read(KeyRange(config_key(prefix), prefix=False))
    return snapshot.items[0] if snapshot.items else None


def _warn(config: NetworkConfig) -> None:
    """Says on standard error where a config is right for flanneld and no agent of ours could run it."""
    try:
        backends.check(config)
    except ConfigError as error:
        print(f"overlay config: warning: no agent here takes it: {error}", file=sys.stderr)


def _argument(text: str) -> bytes:
    """The config itself, or where to read it: ``@FILE``, ``-`` for standard input. Raises UsageError."""
    if text == "-":
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        if text and "{" not in text:
            raise UsageError("is no JSON object", about=text, remedy=f"to read a file: @{text}")
        return text.encode()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise UsageError(error.strerror or str(error), about=f"cannot read {text[1:]}") from error
