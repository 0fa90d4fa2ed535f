"""Machines of one network namespace, written down as lines of ``ip -batch``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.namespaces import Namespace, namespace


@contextmanager
def machine(commands: str) -> Iterator[str]:
    """The name of a namespace with lo, and what ``commands`` make in it; it is gone afterwards."""
    with namespace("m") as made:
        made.batch(commands)
        yield made.name


def batch(name: str, commands: str) -> None:
    """Carries out lines of ``ip -batch`` in a namespace."""
    Namespace(name).batch(commands)


def link(name: str, *addresses: str, mtu: int = 1500, extra: str = "") -> str:
    """An Ethernet that is up, with its far end in the same namespace."""
    lines = [f"link add {name} mtu {mtu} type veth peer name {name}p mtu {mtu}"]
    lines += [f"addr add {address} dev {name}" for address in addresses]
    return "\n".join([*lines, f"link set {name}p up", f"link set {name} up", extra]) + "\n"


def bridge(name: str, *addresses: str, ports: tuple[str, ...] = ()) -> str:
    lines = [f"link add {name} type bridge", *(f"addr add {address} dev {name}" for address in addresses)]
    return "\n".join([*lines, *(f"link set {port} master {name}" for port in ports), f"link set {name} up"]) + "\n"


def tun(name: str, *addresses: str) -> str:
    lines = [f"tuntap add name {name} mode tun multi_queue", f"link set {name} mtu 1472 up"]
    return "\n".join([*lines, *(f"addr add {address} dev {name}" for address in addresses)]) + "\n"
