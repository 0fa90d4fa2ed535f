"""What goes wrong on purpose, between the machines of a lab: as data, put in force and taken back as a whole.

All of it happens in the switch, at the port of a machine, so the nodes' own rules and queues are not in the way, and
a node cannot tell it from a bad network. That kernel modules such as netem are missing is no obstacle: nftables drops
and duplicates packets as they leave a machine; reordering sends some of them round by a slow queue (htb) in the port
that they leave the switch by; a rate is the same queue for all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from overlay.errors import UsageError
from overlay.lab.cluster import Lab
from overlay.lab.plan import switch_ports
from overlay.lab.shell import require_programs, run, run_batch

TABLE = "faults"
"""The nftables table (family netdev) in the switch that holds all of them."""

_SCALE = 10_000
"""Probabilities are in hundredths of a percent."""

_LATE_CLASS = "1:2"
"""skb priority of a packet that takes the slow way; htb takes a priority that names one of its classes as such."""

_FULL_RATE = "100gbit"

_LATE_QUEUE = 32
"""Packets on the way round: 13 ms at 30 Mbit/s, so that late does not become lost."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to packets from one machine, or to one of them alone.

    Attributes:
        source: the machine that sends them: a node's name, or ``etcd``.
        destination: underlay address that they go to; None for all.
        drop, duplicate, reorder: percent of the packets; 100 drops all.
    """

    source: str
    destination: IPv4Address | None = None
    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0

    def __post_init__(self) -> None:
        for percent in (self.drop, self.duplicate, self.reorder):
            if not 0 <= percent <= 100:
                raise UsageError("is no percentage", about=f"{percent:g}")


@dataclass(frozen=True, slots=True)
class Slow:
    """A rate for packets *to* one machine.

    Attributes:
        machine: its name.
        mbit: the rate in Mbit/s; None for none.
        late_mbit: the rate of the way round that reordered packets take. The first one after a pause is not late at
            all; one that comes within its predecessor's time (0.4 ms for 1500 bytes at 30 Mbit/s) waits that long.
    """

    machine: str
    mbit: float | None = None
    late_mbit: float = 30.0


def partition(lab: Lab, left: str, right: str) -> tuple[Fault, Fault]:
    """Nothing passes between two machines; both still reach all others."""
    addresses = addresses_of(lab)
    return Fault(left, addresses[right], drop=100), Fault(right, addresses[left], drop=100)


def addresses_of(lab: Lab) -> dict[str, IPv4Address]:
    """Underlay address by machine."""
    return {node.name: node.spec.address.ip for node in lab.nodes} | {"etcd": lab.spec.etcd_address.ip}


@contextlib.contextmanager
def injected(lab: Lab, faults: Sequence[Fault], slow: Sequence[Slow] = ()) -> Iterator[None]:
    """These faults for the length of a ``with`` statement.

    Raises:
        LabError: nft or tc is missing or refuses. UsageError: there is no such machine.
    """
    require_programs("nft", "tc")
    ports = switch_ports(lab.spec)
    for name in [fault.source for fault in faults] + [queue.machine for queue in slow]:
        if name not in ports:
            raise UsageError("is not on the underlay", about=name, remedy=f"one of {', '.join(ports)} is")
    queues = {queue.machine: queue for queue in slow}
    if any(fault.reorder for fault in faults):
        queues = {port: Slow(port) for port in ports} | queues
    try:
        ports_by_address = {address: name for name, address in addresses_of(lab).items()}
        run(["nft", "-f", "-"], namespace=lab.spec.switch, text=nft_script(faults, ports_by_address))
        for queue in queues.values():
            for argv in queue_commands(queue):
                run(argv, namespace=lab.spec.switch)
        yield
    finally:
        run(["nft", "delete", "table", "netdev", TABLE], namespace=lab.spec.switch, check=False)
        for port in queues:
            run(["tc", "qdisc", "del", "dev", port, "root"], namespace=lab.spec.switch, check=False)


def nft_script(faults: Sequence[Fault], ports: Mapping[IPv4Address, str]) -> str:
    """One chain a port, at its ingress: what the machine behind it sends. Replaces what was in force.

    Args:
        faults: what is to happen.
        ports: the switch's port by the address of the machine behind it; a duplicate is sent there directly.
    """
    chains: dict[str, list[str]] = {}
    for fault in faults:
        chains.setdefault(fault.source, []).extend(_rules(fault, ports))
    body = "\n".join(
        f"  chain {port} {{ type filter hook ingress device {port} priority 0; {' ; '.join(rules)} ; }}"
        for port, rules in chains.items()
    )
    return f"table netdev {TABLE} {{}}\ndelete table netdev {TABLE}\ntable netdev {TABLE} {{\n{body}\n}}\n"


def queue_commands(queue: Slow) -> Iterator[list[str]]:
    """tc: class 1:1 for packets in order, class 1:2 for those that are to come late."""
    dev = ["dev", queue.machine]
    rate = f"{queue.mbit:g}mbit" if queue.mbit is not None else _FULL_RATE
    yield ["tc", "qdisc", "replace", *dev, "root", "handle", "1:", "htb", "default", "1"]
    yield ["tc", "class", "replace", *dev, "parent", "1:", "classid", "1:1", "htb", "rate", rate, "quantum", "60000"]
    late = ["htb", "rate", f"{queue.late_mbit:g}mbit", "burst", "1600", "cburst", "1600", "quantum", "1600"]
    yield ["tc", "class", "replace", *dev, "parent", "1:", "classid", "1:2", *late]
    yield ["tc", "qdisc", "replace", *dev, "parent", "1:2", "pfifo", "limit", str(_LATE_QUEUE)]


@contextlib.contextmanager
def unplugged(lab: Lab, machine: str) -> Iterator[None]:
    """The switch's end of a machine's cable is down: it loses its carrier."""
    run_batch([f"link set {machine} down"], namespace=lab.spec.switch)
    try:
        yield
    finally:
        run_batch([f"link set {machine} up"], namespace=lab.spec.switch)


def _rules(fault: Fault, ports: Mapping[IPv4Address, str]) -> Iterator[str]:
    match = f"ip daddr {fault.destination} " if fault.destination is not None else ""
    if fault.drop:
        # Without a destination ARP as well.
        yield f"{match}{_some(fault.drop)}drop"
    if fault.duplicate:
        for address, port in ports.items():
            if port != fault.source and fault.destination in (None, address):
                yield f"ip daddr {address} {_some(fault.duplicate)}dup to {port}"
    if fault.reorder:
        yield f"{match}{_some(fault.reorder)}meta priority set {_LATE_CLASS}"


def _some(percent: float) -> str:
    """Matches this share of the packets, by chance."""
    # nft refuses a comparison that always holds.
    return f"numgen random mod {_SCALE} < {round(percent * _SCALE / 100)} " if percent < 100 else ""
