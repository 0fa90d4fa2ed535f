"""The maps as a predecessor left them, and writes carried out."""

from __future__ import annotations

from collections.abc import Mapping, Set
from ipaddress import IPv4Address

from overlay.linux.libbpf import Map, possible_cpus
from overlay.services.proxy.ebpf import layout
from overlay.services.proxy.ebpf.book import Found, Writes
from overlay.services.proxy.ebpf.layout import Address, Entry, Virtual

_YES = (1).to_bytes(4, "little")


def read(maps: Mapping[str, Map]) -> Found:
    """What the programs work from now."""
    services = maps["services"]
    entries = ((key, services.get(key)) for key in list(services.scan()))
    members = ((key, maps["members"].get(key)) for key in list(maps["members"].scan()))
    return Found(
        {Virtual.unpack(key): Entry.unpack(value) for key, value in entries if value is not None},
        {layout.unpack_backend(key): value for key, value in members if value is not None},
    )


def carry_out(maps: Mapping[str, Map], writes: Writes) -> None:
    """Makes the changes, in their order.

    Raises:
        DatapathError: a map is full, or there is no memory; some changes are made then, and what is there is right
            or a Service's former state. A new book (:func:`read`) is needed.
    """
    for name, entries, removed in writes.in_order():
        maps[name].put_many(entries)
        maps[name].remove_many(removed)


def admit(maps: Mapping[str, Map], namespaces: Set[int]) -> int:
    """Makes sockets of just these network namespaces pass; returns how many came or went. Raises DatapathError."""
    inside = maps["inside"]
    there = {layout.unpack_namespace(key) for key in inside.scan()}
    inside.put_many((layout.pack_namespace(each), _YES) for each in namespaces - there)
    inside.remove_many(map(layout.pack_namespace, there - namespaces))
    return len(namespaces ^ there)


def meant_by(maps: Mapping[str, Map], cookie: int, peer: IPv4Address, port: int) -> Address | None:
    """Which virtual address a socket means by a backend's; None where it is not by us that it has it."""
    value = maps["reverse"].get(layout.pack_socket_peer(cookie, Address(peer, port)))
    return None if value is None else layout.unpack_address(value)


def counters(maps: Mapping[str, Map]) -> dict[str, int]:
    """Sums over all processors, by name."""
    cpus = possible_cpus()
    sums = {}
    for index, name in enumerate(layout.COUNTERS):
        raw = maps["counters"].get(layout.pack_place(index), copies=cpus) or bytes(8 * cpus)
        sums[name] = sum(int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8))
    return sums
