"""Where a firewall of others refuses all of what the overlay lives on, before or behind our own accepts.

Of the packets that there are, each is looked for at every hook that it passes::

    what                                     PREROUTING  INPUT  FORWARD  OUTPUT  POSTROUTING
    other nodes' datagrams to this node      x           x
    this node's datagrams to others                                      x       x
    out of the tunnel to our containers      x                  x                x
    from our containers into the tunnel      x                  x                x

filter's FORWARD is not among them: ours come first there (``iptables``), or it is judged by ``others``. The datagrams
are only looked for where the host's firewall is asked about them (docs/decisions/host-firewall.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from overlay.linux.netfilter import Iptables, Tools
from overlay.node.firewall import native
from overlay.node.firewall.fate import Packet, is_refused
from overlay.node.firewall.others import foreign_chains
from overlay.node.firewall.saved import Saved
from overlay.problem import Problem
from overlay.text import printable

_TABLES = ("raw", "mangle", "filter", "security")
"""iptables' that may refuse; in nat nothing can."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Where this node's datagrams pass the host's firewall."""

    port: int
    underlay: str


@dataclass(frozen=True, slots=True)
class Kind:
    """Packets that must pass, where, and how a firewall is told of them."""

    what: str
    hooks: frozenset[str]
    packet: Packet
    remedy: str


def kinds(network: IPv4Network, subnet: IPv4Network, interface: str, tunnel: Tunnel | None) -> tuple[Kind, ...]:
    """
    Args:
        network: the whole overlay.
        subnet: this node's.
        interface: by which peers' inner packets come in.
        tunnel: None where its datagrams pass no firewall.
    """
    inner = frozenset({"PREROUTING", "FORWARD", "POSTROUTING"})
    accept = f"let it accept what is forwarded from and to {interface}"
    found = [
        Kind(
            f"what comes in by {interface} for this node's containers",
            inner,
            Packet(comes_by=interface, source=network, destination=subnet),
            accept,
        ),
        Kind(
            f"what this node's containers send to others by {interface}",
            inner,
            Packet(leaves_by=interface, source=subnet, destination=network),
            accept,
        ),
    ]
    if tunnel is not None:
        port = tunnel.port
        datagram = f"UDP port {port} by {tunnel.underlay}"
        found += [
            Kind(
                f"what other nodes send to {datagram}",
                frozenset({"PREROUTING", "INPUT"}),
                Packet("udp", port, comes_by=tunnel.underlay),
                f"let it accept UDP port {port} (ufw: ufw allow {port}/udp; firewalld: firewall-cmd --permanent "
                f"--add-port={port}/udp, and --reload)",
            ),
            Kind(
                f"what this node sends to other nodes' {datagram}",
                frozenset({"OUTPUT", "POSTROUTING"}),
                Packet("udp", port, leaves_by=tunnel.underlay),
                f"let it accept UDP to port {port}",
            ),
        ]
    return tuple(found)


def look(tools: Tools, wanted: tuple[Kind, ...]) -> Iterator[Problem]:
    """Each kind that is refused for certain, at the first place. Raises NodeError, PrivilegeError."""
    places = list(_places(tools))
    for kind in wanted:
        for name, hook, saved, chain in places:
            if hook in kind.hooks and is_refused(kind.packet, saved, chain):
                yield Problem("firewall-refuses", f"{name} refuses {kind.what}", kind.remedy)
                break


def _places(tools: Tools) -> Iterator[tuple[str, str, Saved, str]]:
    """What a base chain is called, its hook in iptables' word, its table, and its name there."""
    for variant in tools.variants:
        for table, saved in _tables(tools, variant).items():
            for chain in ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"):
                if (table, chain) != ("filter", "FORWARD"):
                    yield f"the firewall (iptables' {table} {chain})", chain, saved, chain
    if tools.has_nftables:
        chains = foreign_chains(tools.list_chains(), frozenset({"prerouting", "input", "output", "postrouting"}))
        for family, name in sorted({(chain.family, chain.table) for chain in chains}):
            if (text := tools.list_table(family, name)) is None:
                continue
            made = native.parse(text)
            for chain, hook in made.hooks.items():
                if hook != "FORWARD":
                    said = printable(f"{family} {name} {chain}")
                    yield f"the firewall (nftables' {said})", hook, made.saved, chain


def _tables(tools: Tools, variant: Iptables) -> Mapping[str, Saved]:
    tables = Saved.parse_all(variant.tables(), _TABLES)
    if not (variant.is_nft and tools.has_nftables):
        return tables
    # iptables may print a condition that it does not know as none at all.
    seen = {name: tools.list_table("ip", name) for name in tables}
    return {
        name: saved if (text := seen[name]) is None else saved.corrected(Saved.from_nft(text, {}))
        for name, saved in tables.items()
    }
