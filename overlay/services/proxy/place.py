"""Where this node is, as far as what addresses mean depends on it: looked up on the machine. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from overlay.linux.netlink import Netlink
from overlay.linux.routes import RouteType
from overlay.problem import Problem
from overlay.services.table import Answer, Entry, Kind, Place

BRIDGE_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
"""1: what passes a bridge passes netfilter too (``br_netfilter``); not there: the module is not loaded."""

_LISTENING = "0A"
"""TCP_LISTEN, in /proc/net/tcp."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found.

    Attributes:
        addresses: the node's own, IPv4.
        routes: what its routing table leads to without the default route, by where it leads.
        bridged: whether packets that pass a bridge alone are not seen by netfilter.
        bridges: addresses of bridges, each with its bridge's index.
    """

    addresses: frozenset[IPv4Address]
    routes: tuple[tuple[IPv4Network, str], ...]
    bridged: bool
    bridges: tuple[tuple[IPv4Address, int], ...] = ()

    def bridges_of(self, subnets: Iterable[IPv4Network]) -> set[int]:
        """Indexes of the bridges that have an address in one of these."""
        return {index for subnet in subnets for address, index in self.bridges if address in subnet}


def look() -> Machine:
    """Looks, by netlink and in /proc. Raises NodeError."""
    with Netlink() as netlink:
        links, addresses = netlink.links(), netlink.addresses()
        names = {link.index: link.name for link in links}
        routes = tuple(
            (each.destination, names.get(each.index or 0, "several ways"))
            for each in netlink.routes()
            if each.destination.prefixlen and each.type is RouteType.UNICAST
        )
    every_bridge = {link.index for link in links if link.kind == "bridge"}
    bridges = tuple((each.address, each.index) for each in addresses if each.index in every_bridge)
    return Machine(frozenset(each.address for each in addresses), routes, not _bridges_are_seen(), bridges)


def _bridges_are_seen() -> bool:
    try:
        return BRIDGE_NETFILTER.read_text().strip() == "1"
    except OSError:
        return False


def place_of(
    machine: Machine,
    node: str,
    networks: tuple[IPv4Network, ...],
    subnets: tuple[IPv4Network, ...],
    service_cidr: IPv4Network,
) -> tuple[Place, tuple[Problem, ...]]:
    """What a table is made for, and what is wrong with it. Pure.

    Args:
        networks, subnets: the overlay's, and this node's in it.
        service_cidr: as the cluster's configuration says.
    """
    problems = []
    reached = [*((each, "the overlay's network") for each in networks), *machine.routes]
    taken = next(((route, how) for route, how in reached if route.overlaps(service_cidr)), None)
    if taken is not None:
        route, how = taken
        sentence = f"the service CIDR {service_cidr} overlaps {route} ({how}): a ClusterIP may be another's address"
        remedy = "give Services another one: overlay config services set '{\"serviceCIDR\": …}'"
        problems.append(Problem("service-cidr", sentence, remedy, about="service CIDR"))
    own = frozenset(str(each) for each in machine.addresses if not each.is_loopback)
    place = Place(
        node, networks, own, None if taken else service_cidr, subnets if machine.bridged else (),
    )  # fmt: skip
    return place, tuple(problems)


def taken_node_ports(entries: Iterable[Entry], listening: frozenset[tuple[str, int]]) -> tuple[Problem, ...]:
    """Node ports that a process of this node listens at: it hears nothing from outside any more. Pure."""
    problems = []
    for entry in entries:
        for frontend in entry.frontends:
            if frontend.kind is Kind.NODE_PORT and (entry.protocol, frontend.port) in listening:
                heard = "is not reached there" if entry.answer(frontend.kind) is Answer.BALANCE else "is refused to all"
                where = f"node port {frontend.port}/{entry.protocol}"
                sentence = f"{where} of Service {entry.name}: a process of this node listens there too, and {heard}"
                problems.append(Problem("node-port", sentence, "stop one of them, or change its port", about=where))
    return tuple(sorted(problems, key=lambda problem: problem.about))


def listening_ports(root: Path = Path("/proc/net")) -> frozenset[tuple[str, int]]:
    """Protocols and ports at which processes wait for strangers, in this network namespace."""
    found = set()
    for protocol in ("TCP", "UDP"):
        for file in (protocol.lower(), f"{protocol.lower()}6"):
            try:
                lines = (root / file).read_text().splitlines()[1:]
            except OSError:
                continue
            for line in lines:
                _, local, remote, state, *_ = line.split()
                waits = state == _LISTENING if protocol == "TCP" else remote.endswith(":0000")
                address, _, port = local.rpartition(":")
                if waits and not _is_loopback(address):
                    found.add((protocol, int(port, 16)))
    return frozenset(found)


def _is_loopback(address: str) -> bool:
    """Of an address as /proc has it: words of the machine's byte order, in hexadecimal."""
    if len(address) == 8:
        return address.endswith("7F")
    return address == "00000000000000000000000001000000" or (
        address.startswith("0000000000000000FFFF0000") and (address.endswith("7F"))
    )
